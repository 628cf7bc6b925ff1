"""Fused epochs in compiled code, on as many threads as the BLAS would take.

The steps of `numba/step.py` follow each other without calls of Python and NumPy, which take as long
as the products of a small network. A large network is trained by a team of threads, each with a
BLAS of one thread. So elementwise work is parallel too, which beside a BLAS with threads of its own
it could not be.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.definition import FusedEpoch, NotSupported, Run
from nnaccel.kernels.dense_plan import Plan, by_batch, compact, plan_of, scalars_of
from nnaccel.kernels.numba.activations import ACTIVATIONS
from nnaccel.kernels.numba.dropout import ALL, keys_of
from nnaccel.kernels.numba.gather import Encoding, encoding_of
from nnaccel.kernels.numba.jit import compiled
from nnaccel.kernels.numba.step import (
    VECTOR,
    Adam,
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
    update,
)
from nnaccel.kernels.numba.thread_team import barrier_wait, run_parallel
from nnaccel.kernels.numpy.blas_threads import blas_name, blas_threads, one_thread, threads_for
from nnaccel.kernels.optimizer_trace import check_adam, rules_of
from nnaccel.maths import minibatch
from nnaccel.maths.network import layout
from nnaccel.maths.optimizers import State
from nnaccel.typing import Array

# Limits of one call of compiled code: multiplications, about 0.1 s of them, since Ctrl-C waits for
# its end, and logits, which are kept for a metric.
WORK = 20_000_000_000
LOGITS = 2**22


def compiled_epoch(run: Run) -> FusedEpoch:
    """The epoch of a run in compiled code; NotSupported for other layers, activations and losses.

    The epoch itself refuses other types, and large networks where the BLAS cannot be limited to
    one thread.
    """
    network, batch_size = run.network, run.batch_size
    known = plan_of(run, ACTIVATIONS, dropout=True, encoding=True)
    check_adam(run)
    n_weights = layout(network).n_weights
    members = threads_for(network, batch_size)

    @lru_cache(maxsize=1)
    def memory_of(dtype: Any) -> tuple[Array, Encoding, Array, Any]:
        layers = layers_of(known, n_weights, dtype)
        per_example = layers[-1]["at_dA"] + known.sizes[-1]
        space = np.empty((batch_size + VECTOR) * per_example, dtype)
        encoding = encoding_of(known.bins, network.n_inputs, dtype)
        return layers, encoding, space, np.finfo(dtype).tiny

    def epoch_by_numba(params: Array, state: State, data: Any, order: Array) -> Any:
        X, Y, weights = data
        dtype = params.dtype
        if dtype.char not in "fd" or X.dtype not in (dtype, np.uint8):  # float32 and float64
            raise NotSupported(f"it has no code for {X.dtype} inputs and {dtype} parameters")
        n_steps = minibatch.n_steps(order.shape[0], batch_size, epochs=1)
        rules = rules_of(run.optimizer, params, state, n_steps, n_weights, xp=host)
        layers, encoding, space, tiny = memory_of(dtype)
        number = dtype.type
        mu, nu = state.slots
        adam = Adam(params, mu, nu, number(rules.beta_1), number(rules.beta_2), tiny)
        objective = Objective(known.loss, number(known.l2))
        examples = examples_of(data, known, dtype)
        scalars = scalars_of(rules, n_steps, dtype)
        keys = keys_of(known, run.seed, state.step, n_steps)
        records = []
        with one_thread() if members > 1 else nullcontext(1) as threads:
            if not threads:
                # Each member would have as many threads of the BLAS again.
                raise NotSupported("threadpoolctl, which limits the threads of the BLAS, is absent")
            size = min(threads, members)
            for part in calls(known, batch_size, n_steps, run.metric is not None):
                index = fixed(order[part.start * batch_size : part.stop * batch_size], np.int64, 1)
                now = slice(part.start, part.stop)
                steps = Steps(index, batch_size, scalars[now], keys[now])
                values = np.zeros((size, len(part)), dtype)
                Z = np.empty((0 if run.metric is None else len(index), known.sizes[-1]), dtype)
                buffers = Buffers(space, values, Z)
                data_of_call = examples, encoding, steps
                run_parallel(train, size, layers, *data_of_call, objective, adam, buffers)
                values = values.sum(0)
                if run.metric is not None:
                    shares = None if weights is None else weights[index]
                    means = by_batch(run.metric, Z, Y[index], shares, batch_size, xp=host)
                    values = np.stack([values, means], axis=1)
                records.append(values)
        return params, State(state.step + n_steps, state.slots), np.concatenate(records)

    threads = min(members, blas_threads())
    threads = "1 thread" if threads == 1 else f"{threads} threads"
    return FusedEpoch(f"Numba, {threads}, products by {blas_name()}", epoch_by_numba)


def layers_of(plan: Plan, n_weights: int, dtype: Any) -> Array:
    """The plan as a table (L + 1,) of `layer_type`."""
    sizes = np.array(plan.sizes)
    before = np.cumsum([0, padded(sizes[0]), *sizes[1:]])
    keep = 1.0 - np.array([*plan.rates, 0.0])
    layers = np.zeros(len(sizes), layer_type(dtype))
    layers["width"] = sizes
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
    """The data set in arrays of few types, since compiling takes seconds for each combination: a
    dtype has two, the second for images of bytes."""
    X, Y, weights = data
    labels, targets = (Y, ()) if Y.ndim == 1 else (np.empty(0), Y)
    labels = compact(labels, plan.sizes[-1])
    return Examples(
        fixed(X, X.dtype, 2),
        fixed(labels, labels.dtype, 1),
        fixed(targets, dtype, 2),
        fixed(() if weights is None else weights, dtype, 1),
    )


def calls(plan: Plan, batch_size: int, n_steps: int, logits: bool) -> Iterator[range]:
    """The steps of an epoch, those of one call after the other; logits: whether they are kept."""
    weights = sum(D * H for D, H in pairwise(plan.sizes))
    most = WORK // (3 * batch_size * weights)
    if logits:
        most = min(most, LOGITS // (batch_size * plan.sizes[-1]))
    most = max(1, most)
    for start in range(0, n_steps, most):
        yield range(start, min(n_steps, start + most))


def fixed(values: Any, dtype: Any, ndim: int) -> Array:
    """An array of that type without gaps and read-only, which an array of any user can be."""
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
    """Trains in place, as member `rank` of a team of that size that shares all arrays."""
    team, N = Member(rank, size, barrier), steps.order.shape[0]
    own = own_memory(layers, state.params.dtype, steps.batch_size, size)
    for step in range(steps.scalars.shape[0]):
        start = step * steps.batch_size
        B = min(steps.batch_size, N - start)
        first, last = share_of(B, rank, size)
        batch = Batch(step, start, B, padded(B), first, last)
        threshold, space = layers[0].threshold, buffers.space
        x = gather(batch, examples, encoding, steps, threshold, space, own)
        if not barrier_wait(barrier, size):
            return
        if not forward(batch, x, layers, steps.keys, state.params, buffers, team):
            return
        value = loss_and_dZ(batch, layers, steps, objective, buffers.space, own)
        if not barrier_wait(barrier, size):
            return
        if not backward(batch, layers, steps.keys, state.params, buffers.space, team):
            return
        value += update(
            batch, x, layers, steps.scalars, objective.l2, state, buffers.space, own.grads, team
        )
        buffers.values[rank, step] = value
        if not barrier_wait(barrier, size):
            return
