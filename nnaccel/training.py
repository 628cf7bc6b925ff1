"""The training loop: a step built once, minibatches, and epochs as a generator.

    for epoch in train(network, X, Y, loss="softmax_cross_entropy", epochs=20, device="cuda"):
        print(epoch.number, epoch.loss)          # stop, log, save: ordinary code around a loop

Between two epochs nothing waits for the device: losses stay there and are read once an epoch.
The same seed gives the same initial weights, minibatches and dropout masks on every device.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import array_api_compat as compat
import numpy as np

from nnaccel import losses, optimizers
from nnaccel.batches import bounds, is_sparse, minibatch
from nnaccel.compile import (
    compile_epoch,
    compile_step,
    compiled_once,
    cut,
    for_each_seed,
    joined,
)
from nnaccel.data import Data, HostData, at_least, floating_dtype, put, rows_of
from nnaccel.devices import Device, device_of, dtype_name, select, to_host
from nnaccel.failures import in_words
from nnaccel.kernels import arithmetic, bind, limit_threads, whole_epoch
from nnaccel.losses import Loss
from nnaccel.metrics import Metric
from nnaccel.names import find
from nnaccel.network import Network, forward, initial_params, layout, leaves, value_and_grad
from nnaccel.optimizers import Optimizer, State
from nnaccel.precision import check_precision
from nnaccel.random import Key
from nnaccel.streaming import (
    Chunks,
    bytes_on_device,
    evaluation_rows,
    in_order,
    stream,
    training_rows,
)
from nnaccel.typing import Array, Namespace, Ops

SCORES = ("loss", "metric", "validation_loss", "validation_metric")


@dataclass(frozen=True, eq=False)
class Epoch:
    """One pass over the training data.

    `params` and `state` are alive: the next epoch may overwrite them, so keep a `copy` of what is
    to stay (`EarlyStopping` does). Losses and metrics are means over examples, arrays (K,) when K
    networks are trained at once; those of the training data are means over the epoch, in which
    the network has been changing. None where there is no metric or no validation data.
    """

    number: int  # the first one is 1
    _params: Any = field(repr=False)  # as of `nnaccel.compile.cut`
    _state: Any = field(repr=False)
    loss: Any = None
    metric: Any = None
    validation_loss: Any = None
    validation_metric: Any = None
    seconds: float = 0.0  # without validation
    samples_per_second: float = 0.0

    @cached_property
    def params(self) -> Array:
        """The parameters, a flat vector (P,), or (K, P) for K networks."""
        return self._whole(self._params)

    @cached_property
    def state(self) -> State:
        """The memory of the optimizer."""
        return self._whole(self._state)

    def _whole(self, kept: Any) -> Any:
        # JAX takes the memory away, and others write into it.
        if any(x.is_deleted() for x in leaves(kept) if hasattr(x, "is_deleted")):
            raise RuntimeError(
                f"the vectors of epoch {self.number} are gone: the next epoch has taken their "
                "memory; keep epoch.copy() before it begins"
            )
        return joined(kept)

    def copy(self) -> "Epoch":
        """The same epoch with vectors of its own, which no other epoch overwrites."""
        return replace(self, _params=self.params + 0.0, _state=_copy(self.state))

    def scores(self) -> dict[str, Any]:
        """The losses and metrics that there are, by name: a row of the training history."""
        return {name: value for name in SCORES if (value := getattr(self, name)) is not None}


def train(
    network: Network,
    X: Any,
    Y: Any,
    *,
    loss: str | Loss,
    optimizer: str | Optimizer = "adam",
    epochs: int = 20,
    batch_size: int = 128,
    l2: float = 0.0,
    weights: Any = None,
    validation: tuple[Any, ...] | None = None,
    metric: Metric | None = None,
    shuffle: bool = True,
    seed: int = 0,
    device: str | Device | None = None,
    dtype: str | None = None,
    precision: str = "float32",
    params: Array | None = None,
    after: Epoch | None = None,
    fast: bool = True,
) -> Iterator[Epoch]:
    """Train a network on (X, Y), yielding after every epoch.

    Parameters
    ----------
    network : Network
        Plain data, such as ``mlp(784, [512, 512], 10)``.
    X : array (N, n_inputs)
        Of any library; integers stay integers in memory and are cast a batch at a time. What is
        too large for a GPU's memory stays on the host, and so does a CSR matrix of SciPy or CuPy;
        their rows reach the device a chunk at a time, in the same minibatches.
    Y : array (N,) or (N, n_outputs)
        Integer classes or probabilities for "softmax_cross_entropy", else numbers.
    loss, optimizer : str or Loss, Optimizer
        A name, or one with its parameters: ``losses.get("huber", delta=2.0)``, ``adam(3e-4)``.
    epochs, batch_size : int
        The last batch of an epoch may be shorter; no example is left out.
    l2 : float
        Adds l2/2 |W|^2 to the objective; for decoupled decay see the optimizers.
    weights : array (N,), optional
        How much each example counts; brought to mean 1.
    validation : tuple (X, Y) or (X, Y, weights), optional
        Evaluated after every epoch.
    metric : Metric, optional
        Computed along with the loss; see `nnaccel.metrics`.
    shuffle : bool
        Whether examples are visited in a new order, drawn from (seed, epoch), in every epoch.
    seed : int
        Of initial weights, order and dropout; at least 0.
    device : str, optional
        Where to train; None is where the arrays are. See `nnaccel.devices.select`.
    dtype : "float32" or "float64", optional
        None is that of X if it is floating, else float32.
    precision : "float32", "tf32" or "bf16"
        Of the matrix products in dense layers, for dtype float32: their operands are rounded to it,
        all else is float32. A GPU has faster products for the lower ones; NumPy imitates them, and
        so do the others on a CPU. See `nnaccel.precision`.
    params : array (P,) or (K, P), optional
        Where to start, instead of a draw by `initialize`; (K, P) trains K networks at once.
    after : Epoch, optional
        Continue the run that yielded this epoch, bit for bit, up to epoch number `epochs`.
    fast : bool
        Use Numba's kernels on NumPy arrays where Numba is installed, and CUDA graphs on CuPy's. The
        first run in a process loads Numba in about 0.3 s; `nnaccel.kernels.worth_loading` says when
        one run repays that.

    Raises
    ------
    ValueError, TypeError
        At once, for arrays that do not fit together or values out of range.
    FloatingPointError
        In the epoch where the loss or a parameter stops being finite.
    MemoryError
        Where the device, or the host, has no memory left; it names a batch that would fit.
    """
    loss = losses.get(loss)
    optimizer = optimizers.get(optimizer, 1e-3)
    at_least(0, seed=seed, epochs=epochs)
    at_least(1, batch_size=batch_size)
    where = select(device, X, Y)
    dtype = dtype or floating_dtype(X)
    find("dtype", dtype, FLOATING)
    check_precision(precision, dtype)
    _check_options(l2, validation, metric, after, shuffle=shuffle, fast=fast)

    def begin() -> Iterator[Epoch]:
        data = put(network, loss, where, dtype, X, Y, weights)
        held_out = None if validation is None else put(network, loss, where, dtype, *validation)
        N = data.X.shape[0]
        with where.context():
            start = initialize(network, seed) if params is None else params
            start = where.asarray(start if after is None else after.params, dtype, copy=True)
            _check_params(network, start)
            state = optimizer.init(start, xp=where.xp) if after is None else _copy(after.state)
            epoch_of, evaluation, pieces = programs(
                *(where.xp, network, loss, optimizer, batch_size, start.dtype),
                *(float(l2), metric, fast, precision),
            )
            epoch = _epoch_on(data, epoch_of(seed), batch_size, where)
            held_out = None if held_out is None else in_order(held_out, where)
        run = _run(
            epoch,
            evaluation,
            pieces(start),
            pieces(state),
            N,
            held_out,
            where=where,
            limit=limit_threads(network, batch_size, where.xp),
            multiplying=arithmetic(where.xp, precision),
            metric=metric,
            batch_size=batch_size,
            numbers=range(1 if after is None else after.number + 1, epochs + 1),
            orders=lambda number: order_of(N, seed, number, shuffle),
        )
        return _in_words(
            run,
            in_words(
                where,
                network,
                dtype,
                batch_size=min(batch_size, N),
                data=bytes_on_device(data, batch_size, dtype),
                members=start.shape[0] if start.ndim == 2 else 1,
            ),
        )

    # In a function of its own, so that an error does not keep alive what it has put on a device.
    with in_words(where, network, dtype):
        return begin()


FLOATING: dict[str, None] = {"float32": None, "float64": None}


def _check_options(l2: Any, validation: Any, metric: Any, after: Any, **flags: Any) -> None:
    """ValueError or TypeError for what would fail later in other words, or not at all."""
    if not 0 <= l2 < math.inf:
        raise ValueError(f"l2 must be a finite number of at least 0, got {l2}")
    listed = isinstance(validation, tuple | list)
    if validation is not None and not (listed and len(validation) in (2, 3)):
        found = f"{len(validation)} of these" if listed else type(validation).__name__
        raise TypeError(f"validation must be (X, Y) or (X, Y, weights), got {found}")
    if not isinstance(metric, Metric | None):
        raise TypeError(
            f"metric must be a Metric, such as nnaccel.metrics.for_loss(loss), got {metric!r}"
        )
    if not isinstance(after, Epoch | None):
        raise TypeError(f"after must be an Epoch that `train` has yielded, got {after!r}")
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {flag!r}")


def _in_words(epochs: Iterator[Epoch], context: AbstractContextManager[None]) -> Iterator[Epoch]:
    with context:
        yield from epochs


def _run(
    epoch: Callable[..., Any],
    evaluation: Callable[..., Array],
    params: Any,
    state: Any,
    N: int,
    held_out: Chunks | None,
    *,
    where: Device,
    limit: Callable[[], AbstractContextManager[Any]],
    multiplying: Callable[[], AbstractContextManager[Any]],
    metric: Metric | None,
    batch_size: int,
    numbers: range,
    orders: Callable[[int], np.ndarray],
) -> Iterator[Epoch]:
    """The epochs of `train`, once all is checked and built; params and state: as of `cut`."""
    sizes = [stop - start for start, stop in bounds(N, batch_size)]
    for number in numbers:
        started = time.perf_counter()
        # Overflow is looked for where it shows, in the losses of the whole epoch.
        with where.context(), limit(), multiplying(), np.errstate(all="ignore"):
            params, state, records = epoch(params, state, orders(number))
            values = to_host(records)
            seconds = time.perf_counter() - started
            check_finite(values, params, number, xp=where.xp)
            trained = summarise(values, sizes, metric)
            held = (None, None)
            if held_out is not None:
                held = evaluate(evaluation, params, held_out, metric)
                _check_validation(held[0], number)
        yield Epoch(number, params, state, *trained, *held, seconds, N / max(seconds, 1e-9))


@compiled_once
def programs(
    xp: Namespace,
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    batch_size: int,
    dtype: Any,
    l2: float = 0.0,
    metric: Metric | None = None,
    fast: bool = True,
    precision: str = "float32",
) -> tuple[Callable[[int], Callable[..., Any]], Callable[..., Array], Callable[[Any], Any]]:
    """Of a run: what gives for a seed the epoch, as of `compile_epoch`; the evaluation, as of
    `make_evaluation`; and what cuts the vectors for both, as of `cut`."""
    how: dict[str, Any] = {"fast": fast, "precision": precision}
    ops, places = bind(xp, **how), layout(network)

    def epoch_of(seed: int) -> Callable[..., Any]:
        options = {"l2": l2, "metric": metric, "seed": seed}
        step = make_step(network, loss, optimizer, ops, dtype=dtype, **options)
        whole = whole_epoch(network, loss, optimizer, ops, batch_size, **how, **options)
        return compile_epoch(step, xp, places, batch_size, whole)

    evaluation = make_evaluation(network, loss, bind(xp, **how), dtype=dtype, metric=metric)
    pieces = cut(xp, places)
    return for_each_seed(epoch_of, xp), compile_step(evaluation, xp), compile_step(pieces, xp)


def _epoch_on(
    data: Data | HostData, epoch: Callable[..., Any], batch_size: int, where: Device
) -> Callable[..., tuple[Any, Any, Array]]:
    """The epoch (params, state, order) -> (params, state, records), order (N,) on the host.

    epoch: as of `compile_epoch`. Data on the host are many small data sets that it goes through
    one after the other, each of them one or more whole batches.
    """
    if isinstance(data, Data):
        return lambda params, state, order: epoch(params, state, data, where.asarray(order))
    rows = training_rows(data, batch_size)
    chunks = stream(data, where, rows)
    everything = where.asarray(np.arange(min(rows, data.X.shape[0])))

    def streamed(params: Any, state: Any, order: np.ndarray) -> tuple[Any, Any, Array]:
        records = []
        for chunk in chunks(order):
            index = everything[: chunk.Y.shape[0]]
            params, state, record = epoch(params, state, chunk, index)
            records.append(record)
        return params, state, where.xp.concat(records)

    return streamed


def make_step(
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    ops: Ops,
    *,
    dtype: Any,
    l2: float = 0.0,
    metric: Metric | None = None,
    seed: int = 0,
) -> Callable[..., tuple[Array, State, Array]]:
    """The training step (params, state, data, index) -> (params, state, record).

    index: (B,), the examples of the minibatch.   record: the loss (...), or with a metric the two
    stacked, (2, ...). Everything that can be decided is decided here: the step has no dispatch,
    no validation and no synchronisation with the host.
    """
    xp, n_weights = ops.xp, layout(network).n_weights

    def step(params: Array, state: State, data: Data, index: Array) -> tuple[Array, State, Array]:
        X, Y, weights = ops[minibatch](*data, index, dtype)
        value, grads, Z = value_and_grad(
            network, loss, params, X, Y, weights, ops=ops, l2=l2, key=Key(seed, state.step)
        )
        record = value if metric is None else _record(value, metric, Z, Y, weights, xp=xp)
        params, state = optimizer.update(grads, state, params, ops=ops, n_weights=n_weights)
        return params, state, record

    return step


def make_evaluation(
    network: Network, loss: Loss, ops: Ops, *, dtype: Any, metric: Metric | None = None
) -> Callable[..., Array]:
    """The evaluation (params, X, Y, weights) -> record, on a network that does not learn.

    params: as of `nnaccel.compile.cut`."""

    def evaluate(params: Any, X: Array, Y: Array, weights: Array | None) -> Array:
        Z = forward(network, joined(params), ops.xp.astype(X, dtype), ops=ops)
        value = ops[loss.function](Z, Y, weights, **dict(loss.options))[0]
        return value if metric is None else _record(value, metric, Z, Y, weights, xp=ops.xp)

    return evaluate


def _record(
    value: Array, metric: Metric, Z: Array, Y: Array, weights: Array | None, *, xp: Any
) -> Array:
    """A loss and a metric in one array (2, ...), so that they reach the host together."""
    return xp.stack([value, metric.function(Z, Y, weights, xp=xp)])


def evaluate(
    evaluation: Callable[..., Array], params: Any, parts: Chunks, metric: Metric | None
) -> tuple[Any, Any]:
    """(loss, metric) over all of the data, in parts that bound the memory."""
    records, sizes = [], []
    for part in parts():
        records.append(evaluation(params, *part))
        sizes.append(part.Y.shape[0])
    return summarise(np.stack([to_host(record) for record in records]), sizes, metric)


def summarise(records: np.ndarray, sizes: list[int], metric: Metric | None) -> tuple[Any, Any]:
    """(loss, metric) of all examples from the records of their batches, weighted by their sizes."""
    means = np.average(records.astype(np.float64), axis=0, weights=sizes)
    if metric is None:
        return _plain(means), None
    return _plain(means[0]), _plain(np.vectorize(metric.finish)(means[1]))


def _plain(value: np.ndarray) -> Any:
    """A float, or an array (K,) for K networks."""
    return value if value.ndim else float(value)


def generator(seed: int, stream: int) -> np.random.Generator:
    """Host random numbers for (seed, stream): stream 0 draws weights, stream n orders epoch n."""
    return np.random.Generator(np.random.Philox(key=[seed, stream]))


def initialize(network: Network, seed: int = 0, *, members: int | None = None) -> np.ndarray:
    """Initial parameters (P,), or (members, P) for independent networks, float64 on the host."""
    at_least(0, seed=seed)
    if members is not None:
        at_least(1, members=members)
    rng = generator(seed, 0)
    starts = [initial_params(network, rng, xp=np) for _ in range(members or 1)]
    return np.stack(starts) if members else starts[0]


def order_of(N: int, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """The order (N,) in which an epoch visits the examples, the same on every device."""
    return generator(seed, epoch).permutation(N) if shuffle else np.arange(N)


def check_finite(records: np.ndarray, params: Any, epoch: int, *, xp: Any) -> None:
    """FloatingPointError that names the epoch and step where training diverged, if it did.

    params: as of `nnaccel.compile.cut`."""
    bad = ~np.isfinite(records.reshape(len(records), -1)).all(axis=1)
    if bad.any():
        found = f"the loss is not finite in epoch {epoch}, step {int(bad.argmax()) + 1}"
    elif not all(bool(xp.all(xp.isfinite(x))) for x in leaves(params)):
        found = f"a parameter is not finite at the end of epoch {epoch}"
    else:
        return
    raise FloatingPointError(_diverged(found))


def _check_validation(loss: Any, epoch: int) -> None:
    if not np.isfinite(loss).all():
        raise FloatingPointError(_diverged(f"the validation loss is not finite in epoch {epoch}"))


def _diverged(found: str) -> str:
    return (
        f"{found}: training has diverged; lower the learning rate, clip the gradient, look for "
        "extreme values in the data and standardise it, or train in float64"
    )


def predict(network: Network, params: Array, X: Any, *, loss: str | Loss | None = None) -> Array:
    """Predictions (..., N, n_outputs) on the device of params; the logits when no loss is named.

    With a loss, its link makes them probabilities, means or values. X (N, n_inputs) may be an
    array of any library. The products are float32, or float64 with such params, in whatever
    precision the network was trained. ValueError when its width, or the number of params, is
    not that of the network, MemoryError where the device has no memory left.
    """
    where = device_of(params)
    multiplying = arithmetic(where.xp)
    link = losses.get(loss).link if loss is not None else None
    _check_params(network, params)
    X = X if is_sparse(X) or compat.is_array_api_obj(X) else to_host(X)
    if X.ndim != 2 or X.shape[1] != network.n_inputs:
        raise ValueError(
            f"X must be (n_samples, {network.n_inputs}) for this network, got shape "
            f"{tuple(X.shape)}"
        )
    guard = in_words(where, network, dtype_name(params))
    with guard, where.context(), multiplying(), np.errstate(all="ignore"):
        ops, parts = Ops(where.xp), []
        for start, stop in bounds(X.shape[0], evaluation_rows(X)):
            rows = rows_of(X, slice(start, stop), where, params.dtype)
            Z = forward(network, params, rows, ops=ops)
            parts.append(Z if link is None else link(Z, xp=where.xp))
        if not parts:
            shape = (*params.shape[:-1], 0, network.n_outputs)
            return where.xp.zeros(shape, dtype=params.dtype, device=where.handle)
        return where.xp.concat(parts, axis=-2)


def _copy(state: State) -> State:
    """The optimizer's memory in memory of its own."""
    return State(state.step + 0, tuple(slot + 0.0 for slot in state.slots))


def _check_params(network: Network, params: Array) -> None:
    size = layout(network).size
    if params.ndim not in (1, 2) or params.shape[-1] != size:
        raise ValueError(
            f"params must be ({size},) for this network, or (K, {size}) for K of them, got shape "
            f"{tuple(params.shape)}"
        )


class EarlyStopping:
    """Stops a run that gets no better, and keeps the best epoch.

        stopping = EarlyStopping(patience=10)
        for epoch in stopping(train(...)):
            ...
        stopping.best.params      # of the best epoch, a copy that nothing overwrites

    Parameters
    ----------
    patience : int or None
        How many epochs in a row may fail to improve before it stops; None: never stop.
    monitor : str
        The loss or metric of `Epoch` to watch; one that gets better as it gets lower.
    tol : float
        By how much a value must be lower to count as better.
    """

    def __init__(
        self, patience: int | None = 10, *, monitor: str = "validation_loss", tol: float = 0.0
    ) -> None:
        if patience is not None:
            at_least(1, patience=patience)
        find("monitor", monitor, dict.fromkeys(SCORES))
        self.patience = patience
        self.monitor = monitor
        self.tol = tol
        self.best: Epoch | None = None

    def __call__(self, epochs: Iterable[Epoch]) -> Iterator[Epoch]:
        """The epochs, until there has been no better one for `patience` of them."""
        for epoch in epochs:
            value = getattr(epoch, self.monitor)
            if value is None:
                raise ValueError(
                    f"early stopping watches {self.monitor!r}, which this run does not compute; "
                    "give it validation data, or monitor='loss'"
                )
            if np.ndim(value):
                raise ValueError(
                    f"early stopping follows one network, and this run trains {len(value)}; "
                    "train them one by one, or keep the best of each in a loop of your own"
                )
            best = math.nan if self.best is None else getattr(self.best, self.monitor)
            # Anything is better than not a number, and that is better than nothing.
            if self.best is None or value < best - self.tol or math.isnan(best) > math.isnan(value):
                self.best = epoch.copy()
            yield epoch
            if self.patience is not None and epoch.number - self.best.number >= self.patience:
                return
