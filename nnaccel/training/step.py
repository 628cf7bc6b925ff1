"""The compiled functions of a run: the training step, the epoch and the evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nnaccel.arguments import at_least
from nnaccel.devices.device import to_host
from nnaccel.kernels.backend import Backend
from nnaccel.kernels.definition import Epoch, Run
from nnaccel.kernels.params import join_params
from nnaccel.maths.metrics import Metric
from nnaccel.maths.minibatch import minibatch
from nnaccel.maths.network import (
    Network,
    forward,
    initial_params,
    layout,
    leaves,
    set_state,
    take_state,
    value_and_grad,
    weigh,
)
from nnaccel.maths.optimizers import State
from nnaccel.maths.random import Key, check_seed
from nnaccel.ops import Ops
from nnaccel.training.data import Data
from nnaccel.training.streaming import Chunks
from nnaccel.typing import Array


class CompiledRun(NamedTuple):
    """The functions of a run, compiled if the library has a compiler."""

    epoch_of: Callable[[int], Epoch]  # the epoch for a seed
    evaluate: Callable[..., Array]  # (params, X, Y, weights) -> record
    split_params: Callable[[Any], Any]  # prepares params and state for both


def compile_run(backend: Backend, run: Run) -> CompiledRun:
    """Compiles a run, or returns an equal run that is compiled already. Its seed does not
    matter."""
    return backend.once(_compile_run, backend, run._replace(seed=0))


def _compile_run(backend: Backend, run: Run) -> CompiledRun:
    ops = backend.operations(run.precision)
    epoch_of = backend.compile_epoch(partial(make_step, ops=ops), run, ops)
    evaluation = make_evaluation(run, backend.operations(run.precision))
    return CompiledRun(
        epoch_of, backend.compile(evaluation), backend.split_params(layout(run.network))
    )


def make_step(run: Run, ops: Ops) -> Callable[..., tuple[Array, State, Array]]:
    """The training step (params, state, data, index) -> (params, state, record).

    index: (B,), the examples of the minibatch.   record: the loss (...), or with a metric the two
    stacked, (2, ...). All decisions are made here: the step has no dispatch, no validation and no
    synchronisation with the host.
    """
    network, loss, metric, l2 = run.network, run.loss, run.metric, run.l2
    update, places = run.optimizer.update, layout(run.network)
    n_weights, n_trained = places.n_weights, places.n_trained
    has_state = n_trained < places.size

    def step(params: Array, state: State, data: Data, index: Array) -> tuple[Array, State, Array]:
        X, Y, weights = ops[minibatch](*data, index, run.dtype)
        value, grads, Z = value_and_grad(
            network, loss, params, X, Y, weights, ops=ops, l2=l2, key=Key(run.seed, state.step)
        )
        record = value if metric is None else _record(value, metric, Z, Y, weights, xp=ops.xp)
        following = None
        if has_state:
            grads, following = ops[take_state](grads, n_trained)
        if (share := run.share(index.shape[0])) != 1.0:
            grads = ops[weigh](grads, share)
        params, state = update(grads, state, params, ops=ops, n_weights=n_weights)
        if has_state:
            params = ops[set_state](params, following, n_trained)
        return params, state, record

    return step


def make_evaluation(run: Run, ops: Ops) -> Callable[..., Array]:
    """The evaluation (params, X, Y, weights) -> record, with the network in prediction mode.

    params: the vector (P,) or (K, P), or the same vector split."""

    def evaluate(params: Any, X: Array, Y: Array, weights: Array | None) -> Array:
        Z = forward(run.network, join_params(params), ops.xp.astype(X, run.dtype), ops=ops)
        value = ops[run.loss.function](Z, Y, weights, **dict(run.loss.options))[0]
        if run.metric is None:
            return value
        return _record(value, run.metric, Z, Y, weights, xp=ops.xp)

    return evaluate


def _record(
    value: Array, metric: Metric, Z: Array, Y: Array, weights: Array | None, *, xp: Any
) -> Array:
    """A loss and a metric in one array (2, ...), so that one transfer brings both to the host."""
    return xp.stack([value, metric.function(Z, Y, weights, xp=xp)])


def evaluate(
    evaluation: Callable[..., Array], params: Any, parts: Chunks, metric: Metric | None
) -> tuple[Any, Any]:
    """(loss, metric) over all data, in parts that bound the memory."""
    records, sizes = [], []
    for part in parts():
        records.append(evaluation(params, *part))
        sizes.append(part.X.shape[-2])
    return summarise(np.stack([to_host(record) for record in records]), sizes, metric)


def summarise(records: np.ndarray, sizes: list[int], metric: Metric | None) -> tuple[Any, Any]:
    """(loss, metric) of all examples, from the records of their minibatches weighted by their
    sizes."""
    means = np.average(records.astype(np.float64), axis=0, weights=sizes)
    if metric is None:
        return _plain(means), None
    return _plain(means[0]), _plain(np.vectorize(metric.finish)(means[1]))


def _plain(value: np.ndarray) -> Any:
    """A float, or an array (K,) for K networks."""
    return value if value.ndim else float(value)


def generator(seed: int, stream: int) -> np.random.Generator:
    """Host random numbers for (seed, stream): stream 0 draws weights, stream n orders epoch n."""
    # NumPy would turn a list into floats from 2^63 on.
    key = np.asarray([seed, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def initialize(network: Network, seed: int = 0, *, members: int | None = None) -> np.ndarray:
    """Initial parameters (P,), or (members, P) for independent networks, float64 on the host."""
    seed = check_seed(seed)
    if members is not None:
        [members] = at_least(1, members=members)
    rng = generator(seed, 0)
    starts = [initial_params(network, rng, xp=np) for _ in range(members or 1)]
    return np.stack(starts) if members else starts[0]


def order_of(N: int, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """The order (N,) in which an epoch visits the examples, the same on every device."""
    return generator(seed, epoch).permutation(N) if shuffle else np.arange(N)


class Diverged(FloatingPointError):
    """A run whose numbers have stopped being finite.

    networks: the numbers of those networks, from 0, of several that train together; all of them
    where it is not known.
    """

    def __init__(self, found: str, finite: np.ndarray) -> None:
        """finite: whether each number is, its last axis, if any, that of the networks."""
        super().__init__(
            f"{found}: training has diverged; lower the learning rate, clip the gradient, look for "
            "extreme values in the data and standardise it, or train in float64"
        )
        self.networks = np.flatnonzero(~finite.reshape(-1, *finite.shape[-1:]).all(axis=0))


def check_finite(records: np.ndarray, params: Any, epoch: int, *, xp: Any) -> None:
    """Diverged, which names the epoch and step where training did, if it did.

    params: the vector (P,) or (K, P), or the same vector split."""
    finite = np.isfinite(records)
    bad = ~finite.reshape(len(records), -1).all(axis=1)
    if bad.any():
        step = int(bad.argmax()) + 1
        raise Diverged(f"the loss is not finite in epoch {epoch}, step {step}", finite)
    if not all(bool(xp.all(xp.isfinite(x))) for x in leaves(params)):
        finite = [to_host(xp.all(xp.isfinite(x), axis=-1)) for x in leaves(params)]
        raise Diverged(f"a parameter is not finite at the end of epoch {epoch}", np.stack(finite))


def check_validation(loss: Any, epoch: int) -> None:
    if not (finite := np.isfinite(loss)).all():
        raise Diverged(f"the validation loss is not finite in epoch {epoch}", np.asarray(finite))
