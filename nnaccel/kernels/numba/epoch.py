"""Fused epochs in compiled code, on as many threads as the BLAS would use.

The steps of `numba/step.py` run without calls of Python and NumPy, which take as long as the
products of a small network. A team of threads trains a large network, each thread with a BLAS of
one thread. So elementwise operations are parallel too, which would slow down a BLAS with its own
threads. Several networks are trained side by side, each by one thread.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.definition import FusedEpoch, NotSupported, Run
from nnaccel.kernels.dense_plan import Plan, by_batch, compact, plan_of, scalars_of
from nnaccel.kernels.epoch import data_of
from nnaccel.kernels.numba.activations import ACTIVATIONS
from nnaccel.kernels.numba.dropout import ALL, keys_of
from nnaccel.kernels.numba.gather import Encoding, encoding_of
from nnaccel.kernels.numba.interpolation import locate, located_for, repays
from nnaccel.kernels.numba.jit import compiled
from nnaccel.kernels.numba.several_networks import Progress, train_share
from nnaccel.kernels.numba.step import (
    VECTOR,
    Batch,
    Buffers,
    Examples,
    Member,
    Objective,
    Steps,
    backward,
    forward,
    gather,
    layer_type,
    loss_and_dZ,
    own_memory,
    padded,
    share_of,
    take_part,
    update,
)
from nnaccel.kernels.numba.thread_team import barrier_wait, run_parallel
from nnaccel.kernels.numba.updates import Adam, Numbers
from nnaccel.kernels.numpy.blas_threads import blas_name, blas_threads, one_thread, threads_for
from nnaccel.kernels.optimizer_trace import Rules, check_adam, rules_of
from nnaccel.maths import metrics, minibatch
from nnaccel.maths.network import layout
from nnaccel.maths.optimizers import State
from nnaccel.typing import Array

# Limits of one call of compiled code: multiplications, about 0.1 s, since Ctrl-C waits for the end
# of a call, and logits, which are kept for a metric.
WORK = 20_000_000_000
LOGITS = 2**22

# Multiplications of an epoch that repay one more thread: half a millisecond or more. Starting a
# thread takes a tenth of that.
WORTH = 20_000_000

Call = Callable[..., None]  # (function, size, *args): calls function(rank, size, barrier, *args)


def compiled_epoch(run: Run) -> FusedEpoch:
    """The epoch of a run in compiled code. Raises NotSupported for other layers, activations and
    losses.

    The epoch itself raises it for other types, and for large networks where the BLAS cannot be
    limited to one thread.
    """
    network, batch_size = run.network, run.batch_size
    known = plan_of(run, ACTIVATIONS, dropout=True, encoding=True)
    check_adam(run, several=True)
    n_weights = layout(network).n_weights
    interpolated = not known.rates[0] and repays(known.bins, batch_size)
    members = threads_for(network, batch_size)
    # A user's own metric may read the logits of all examples, those of weight 0 too.
    weighs_short = run.short_batch == "weighted"
    weighs = run.metric is None or metrics.is_own(run.metric, run.loss)

    @lru_cache(maxsize=1)
    def memory_of(dtype: Any, size: int) -> tuple[Array, Encoding, Array]:
        width = network.n_inputs if interpolated else known.sizes[0]
        layers = layers_of(known, width, n_weights, dtype)
        per_example = layers[-1]["at_dA"] + known.sizes[-1]
        spaces = np.empty((size, (batch_size + VECTOR) * per_example), dtype)
        return layers, encoding_of(known.bins, dtype, interpolated=interpolated), spaces

    def epoch_by_numba(params: Array, state: State, data: Any, order: Array) -> Any:
        X, Y, _ = data
        dtype = params.dtype
        if dtype.char not in "fd" or X.dtype not in (dtype, np.uint8):  # float32 and float64
            raise NotSupported(f"it has no code for {X.dtype} inputs and {dtype} parameters")
        if params.ndim > 2 or not params.shape[0]:
            raise NotSupported("it has no networks along several axes")
        n_steps = minibatch.n_steps(order.shape[0], batch_size, epochs=1)
        rules = rules_of(run.optimizer, params, state, n_steps, n_weights, xp=host, several=True)
        scalars = scalars_of(rules, n_steps, dtype)
        keys = keys_of(known, run.seed, state.step, n_steps)
        objective = Objective(known.loss, dtype.type(known.l2))
        networks = networks_of(params, state, data, known, rules)
        each = [*scalars] if scalars.ndim == 3 else [scalars] * len(networks)
        records: list[dict[int, Array]] = [{} for _ in networks]

        def train_steps(
            space: Array, k: int, span: range, call: Call, size: int = 1
        ) -> Iterator[None]:
            """Trains network k for the steps of `span`, some of them per iteration, in `space`
            (floats)."""
            layers, encoding, _ = memory
            adam, examples, weights = networks[k]
            leave_out = weighs and bool((examples.weights == 0).any())
            for part in calls(known, batch_size, span, run.metric is not None):
                # A copy: its type is that of its slices in a step, so Numba compiles one version.
                index = np.array(order[part.start * batch_size : part.stop * batch_size], np.int64)
                now = slice(part.start, part.stop)
                steps = Steps(index, batch_size, each[k][now], keys[now], leave_out, weighs_short)
                values = np.zeros((size, len(part)), dtype)
                Z = np.zeros((0 if run.metric is None else len(index), known.sizes[-1]), dtype)
                located = located_for(encoding, batch_size)
                buffers = Buffers(space, values, Z, located)
                call(train, size, layers, examples, encoding, steps, objective, adam, buffers)
                values = values.sum(0)
                if run.metric is not None:
                    shares = None if weights is None else weights[index]
                    means = by_batch(run.metric, Z, Y[index], shares, batch_size, xp=host)
                    values = np.stack([values, means], axis=1)
                records[k][part.start] = values
                yield

        K = len(networks)
        with one_thread() if members > 1 or K > 1 else nullcontext(1) as threads:
            if not threads and members > 1:
                # Otherwise each thread of the team would start the threads of the BLAS again.
                raise NotSupported("threadpoolctl, which limits the threads of the BLAS, is absent")
            team = max(1, min(threads, members))
            n_threads = threads_side_by_side(known, order.shape[0], K, threads)
            memory = memory_of(dtype, n_threads)
            spaces = memory[-1]
            if K == 1 or n_threads == 1 or team > 2 * K:  # a team uses threads that would stay idle
                for k in range(K):
                    for _ in train_steps(spaces[0], k, range(n_steps), run_parallel, team):
                        pass
            else:

                def on_thread(rank: int, k: int, span: range) -> Iterator[None]:
                    return train_steps(spaces[rank], k, span, in_this_thread)

                run_parallel(train_share, n_threads, n_steps, Progress(K, n_threads), on_thread)
        done = [np.concatenate([record[at] for at in sorted(record)]) for record in records]
        after = State(state.step + n_steps, state.slots)
        return params, after, done[0] if params.ndim == 1 else np.stack(done, axis=-1)

    threads = min(members, blas_threads())
    threads = "1 thread" if threads == 1 else f"{threads} threads"
    return FusedEpoch(f"Numba, {threads}, products by {blas_name()}", epoch_by_numba)


class Trained(NamedTuple):
    """One of the networks that are trained at the same time."""

    adam: Adam
    examples: Examples
    weights: Array | None  # (N,), of its examples, or None


def networks_of(params: Array, state: State, data: Any, plan: Plan, rules: Rules) -> list[Trained]:
    """The network of params (P,), or the K networks of params (K, P), as views of the same
    memory."""
    number = params.dtype.type
    numbers = number(rules.beta_1), number(rules.beta_2), np.finfo(params.dtype).tiny
    examples, (mu, nu) = examples_of(data, plan, params.dtype), state.slots
    if params.ndim == 1:
        return [Trained(Adam(params, mu, nu, *numbers), examples, data[2])]
    found = []
    for k in range(params.shape[0]):
        weights = data_of(data, k)[2]
        own = examples._replace(weights=weights_of(weights, params.dtype))
        found.append(Trained(Adam(params[k], mu[k], nu[k], *numbers), own, weights))
    return found


def threads_side_by_side(plan: Plan, N: int, n_networks: int, threads: int) -> int:
    """How many of `threads` have work if each trains its own networks on N examples."""
    work = 3 * N * n_networks * sum(D * H for D, H in pairwise(plan.sizes))
    return max(1, min(threads, n_networks, work // WORTH))


def in_this_thread(function: Callable[..., None], size: int, *args: Any) -> None:
    """Calls function(rank, size, barrier, *args) as a team of one."""
    function(0, 1, np.zeros(2, np.int64), *args)


def layers_of(plan: Plan, width: int, n_weights: int, dtype: Any) -> Array:
    """The plan as a table (L + 1,) of `layer_type`.   width: of the gathered input."""
    sizes = np.array(plan.sizes)
    before = np.cumsum([0, padded(width), *sizes[1:]])
    keep = 1.0 - np.array([*plan.rates, 0.0])
    layers = np.zeros(len(sizes), layer_type(dtype))
    layers["width"] = [width, *sizes[1:]]
    layers["at_A"] = before[:-1]
    layers["at_dA"] = before[:-1] + sum(sizes[1:])  # there is none for X
    layers["at_W"] = np.cumsum([0, *(sizes[:-1] * sizes[1:])])
    layers["at_b"] = n_weights + before[1:] - before[1]
    layers["code"][:-1] = [ACTIVATIONS[name] for name in plan.activations]
    layers["slope"][:-1] = plan.parameters
    layers["threshold"] = np.round(keep * ALL)
    layers["scale"] = 1.0 / keep
    return layers


def examples_of(data: Any, plan: Plan, dtype: Any) -> Examples:
    """The data set in arrays of few types, since compiling takes seconds for each combination. Each
    dtype has two, the second for images of bytes."""
    X, Y, weights = data
    weights = None if weights is None or weights.ndim > 1 else weights  # each network has its own
    labels, targets = (Y, ()) if Y.ndim == 1 else (np.empty(0), Y)
    labels = compact(labels, plan.sizes[-1])
    return Examples(
        fixed(X, X.dtype, 2),
        fixed(labels, labels.dtype, 1),
        fixed(targets, dtype, 2),
        weights_of(weights, dtype),
    )


def weights_of(weights: Array | None, dtype: Any) -> Array:
    """The weights (N,), or an empty array for none."""
    return fixed(() if weights is None else weights, dtype, 1)


def calls(plan: Plan, batch_size: int, span: range, logits: bool) -> Iterator[range]:
    """Splits the steps of `span` into ranges, one per call.   logits: whether they are kept."""
    weights = sum(D * H for D, H in pairwise(plan.sizes))
    most = WORK // (3 * batch_size * weights)
    if logits:
        most = min(most, LOGITS // (batch_size * plan.sizes[-1]))
    most = max(1, most)
    for start in range(span.start, span.stop, most):
        yield range(start, min(span.stop, start + most))


def fixed(values: Any, dtype: Any, ndim: int) -> Array:
    """A contiguous, read-only array of that dtype and number of axes. Any user's array can become
    one."""
    array = np.ascontiguousarray(values, dtype)
    array = array.view() if array.ndim == ndim else array.reshape((0,) * ndim)
    array.flags.writeable = False
    return array


@compiled
def train(
    rank: int,
    size: int,
    barrier: Array,
    layers: Array,
    examples: Examples,
    encoding: Encoding,
    steps: Steps,
    objective: Objective,
    state: Adam,
    buffers: Buffers,
) -> None:
    """Trains in place, as member `rank` of a team of `size` threads that share all arrays."""
    team, N = Member(rank, size, barrier), steps.order.shape[0]
    number = state.params.dtype.type
    own = own_memory(layers, encoding, state.params.dtype, steps.batch_size, size)
    for step in range(steps.scalars.shape[0]):
        start = step * steps.batch_size
        n = B = min(steps.batch_size, N - start)
        share = number(n) / number(steps.batch_size) if steps.weighs_short else number(1)
        index = steps.order[start : start + n]
        if steps.leave_out:
            B = take_part(index, examples.weights, own)
            index = own.index[:B]
        first, last = share_of(B, rank, size)
        batch = Batch(step, start, n, B, padded(n), first, last)
        space = buffers.space
        x = gather(batch, index[first:last], examples, encoding, steps, layers[0], space, own)
        if encoding.interpolated:
            locate(encoding, x, first, last, buffers.located)
        if not barrier_wait(barrier, size):
            return
        if not forward(batch, x, layers, steps.keys, state.params, encoding, buffers, own, team):
            return
        value = loss_and_dZ(batch, layers, steps, objective, space, own)
        if not barrier_wait(barrier, size):
            return
        if not backward(batch, layers, steps.keys, state.params, space, own.places, team):
            return
        scalars = steps.scalars[step]
        numbers = Numbers(scalars[0], scalars[1], scalars[2], share * objective.l2)
        value += update(batch, x, layers, encoding, numbers, state, buffers, own, team)
        buffers.values[rank, step] = value / share
        if not barrier_wait(barrier, size):
            return
