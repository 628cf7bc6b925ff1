"""Whole epochs in compiled code, on as many threads as the BLAS would take.

Gather, forward, loss, backward and update are one loop over the minibatches. There are no calls of
Python and NumPy in between, which take as long as the products of a small network. Through a large
one a team of threads goes together: each computes some units of every layer and some rows of every
dW with their update, and they meet where one reads what another has written, 2 L + 1 times a step.
So nothing is left to one thread alone, as elementwise work is beside a BLAS with threads of its
own.

Arrays are in the layout of the notes, one column an example. The units of a member are then in one
piece, and every other inner loop runs over the examples of a batch without a gap; a network may
have fewer units than a processor's vector has numbers. Only examples of many inputs stay rows, as
they are in the data set.

Of dropout nothing is stored. What a layer reads is A with zeros where it has been dropped, and the
scale 1 / (1 - rate) is a factor of the products with it: so A is a value of g, from which g' is
computed. Backpropagation draws the same numbers once more.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.definition import FusedEpoch, NotSupported, Run
from nnaccel.kernels.dense_plan import (
    BINARY_CROSS_ENTROPY,
    CROSS_ENTROPY,
    Plan,
    by_batch,
    compact,
    plan_of,
    scalars_of,
)
from nnaccel.kernels.numba.blas import product
from nnaccel.kernels.numba.elementwise import adam, add_penalty
from nnaccel.kernels.numba.exp_log import exp, log
from nnaccel.kernels.numba.gather import NARROW, columns, rows
from nnaccel.kernels.numba.jit import compiled
from nnaccel.kernels.numba.thread_team import barrier_wait, run_parallel
from nnaccel.kernels.numpy.blas_threads import blas_name, blas_threads, one_thread, threads_for
from nnaccel.kernels.optimizer_trace import check_adam, rules_of
from nnaccel.maths import minibatch
from nnaccel.maths.network import layout
from nnaccel.maths.optimizers import State
from nnaccel.maths.random import BITS, FACTORS, GOLDEN, Key, mixed
from nnaccel.typing import Array

VECTOR = 16  # numbers of float32, in the widest processors
ALL = 2**BITS  # the threshold below which every draw is

# Of one call: multiplications, a tenth of a second of them, since Ctrl-C waits for its end; and
# logits that are kept for a metric.
WORK = 20_000_000_000
LOGITS = 2**22

IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)
ACTIVATIONS = {
    "identity": IDENTITY,
    "relu": RELU,
    "leaky_relu": LEAKY_RELU,
    "tanh": TANH,
    "sigmoid": SIGMOID,
}


def compiled_epoch(run: Run) -> FusedEpoch:
    """The epoch of a run in compiled code; NotSupported for other layers, activations and losses.

    The epoch itself refuses other types, and large networks where the BLAS cannot be limited to
    one thread.
    """
    network, batch_size = run.network, run.batch_size
    known = plan_of(run, ACTIVATIONS, dropout=True)
    check_adam(run)
    codes = [ACTIVATIONS[name] for name in known.activations]
    n_weights = layout(network).n_weights
    sizes = np.array(known.sizes)
    before = np.cumsum([0, padded(sizes[0]), *sizes[1:]])
    # The last is of what comes after X, which has no dA.
    at_A, at_dA, at_b = before[:-1], before[:-1] + sum(sizes[1:]), before[1:] - before[1]
    at = np.array([at_A, at_dA, np.cumsum([0, *(sizes[:-1] * sizes[1:])]), n_weights + at_b])
    keep = 1.0 - np.array([*known.rates, 0.0])  # the last is of the logits, which stay
    thresholds = np.round(keep * ALL).astype(np.uint32)
    members = threads_for(network, batch_size)

    @lru_cache(maxsize=1)
    def made_for(dtype: Any) -> tuple[tuple[Any, ...], Array, Any]:
        """The plan in such numbers, memory for what is between layers, and the least normal
        number."""
        slopes, scales = np.array(known.parameters, dtype), (1.0 / keep).astype(dtype)
        space = np.empty((batch_size + VECTOR) * (before[1] + 2 * sum(sizes[1:])), dtype)
        plan = sizes, at, np.array(codes), slopes, thresholds, scales
        return plan, space, np.finfo(dtype).tiny

    def epoch_by_numba(params: Array, state: State, data: Any, order: Array) -> Any:
        X, Y, weights = data
        dtype = params.dtype
        if dtype.char not in "fd" or X.dtype not in (dtype, np.uint8):  # float32 and float64
            raise NotSupported(f"it has no code for {X.dtype} inputs and {dtype} parameters")
        N = order.shape[0]
        n_steps = minibatch.n_steps(N, batch_size, epochs=1)
        rules = rules_of(run.optimizer, params, state, n_steps, n_weights, xp=host)
        plan, space, tiny = made_for(dtype)
        scalars = scalars_of(rules, n_steps, dtype)
        betas = np.array([rules.beta_1, rules.beta_2], dtype)
        keys = keys_of(known, run.seed, state.step, n_steps)
        # Compiling takes seconds for each combination of types, so a dtype has two, the second for
        # images of bytes: what is not there is an empty array.
        labels, targets = (Y, ()) if Y.ndim == 1 else (np.empty(0), Y)
        labels = compact(labels, sizes[-1])
        inputs = (
            fixed(X, X.dtype, 2),
            fixed(labels, labels.dtype, 1),
            fixed(targets, dtype, 2),
            fixed(() if weights is None else weights, dtype, 1),
        )
        records = []
        with one_thread() if members > 1 else nullcontext(1) as threads:
            if not threads:
                # Each member would have as many threads of the BLAS again.
                raise NotSupported("threadpoolctl, which limits the threads of the BLAS, is absent")
            size = min(threads, members)
            for steps in calls(known, batch_size, n_steps, run.metric is not None):
                index = fixed(
                    order[steps.start * batch_size : steps.stop * batch_size], np.int64, 1
                )
                values = np.zeros((size, len(steps)), dtype)
                Z = np.empty((0 if run.metric is None else len(index), known.sizes[-1]), dtype)
                run_parallel(
                    train, size, params, *state.slots, *inputs, index, batch_size, *plan,
                    known.loss, scalars[steps.start : steps.stop], keys[steps.start : steps.stop],
                    betas, dtype.type(run.l2), tiny, space, values, Z,
                )  # fmt: skip
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


def keys_of(plan: Plan, seed: int, step: Array, n_steps: int) -> Array:
    """The keys of the next steps, `random.mixed`: uint32 (n_steps, L + 1), of the dropout before
    each layer. Where there is none, as after the last layer, they are 0."""
    keys = np.zeros((n_steps, len(plan.sizes)), np.uint32)
    for layer, (rate, place) in enumerate(zip(plan.rates, plan.places, strict=True)):
        if rate:
            key = Key(seed, step + np.arange(n_steps, dtype=np.int32)).child(place)
            keys[:, layer] = mixed(key).view(np.uint32)
    return keys


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
    params: Array,
    mu: Array,
    nu: Array,
    X: Array,
    labels: Array,
    targets: Array,
    weights: Array,
    order: Array,
    batch_size: int,
    sizes: Array,
    at: Array,
    codes: Array,
    slopes: Array,
    thresholds: Array,
    scales: Array,
    loss: int,
    scalars: Array,
    keys: Array,
    betas: Array,
    l2: Any,
    tiny: Any,
    space: Array,
    record: Array,
    logits: Array,
) -> None:
    """Trains in place, as member `rank` of a team of that size, which has all arrays in common.

    at: (4, L + 1), of each layer where its A, dA, W and b are, the first two for one example.
    thresholds, scales: (L + 1,), and keys: (n_steps, L + 1), of the dropout before each layer and
    of the logits, which have none.
    space: X, A^T and dA^T.   record: (size, n_steps), the member's part of each loss.
    """
    N, L, K = order.shape[0], codes.shape[0], sizes[-1]
    at_A, at_dA, at_W, at_b = at[0], at[1], at[2], at[3]
    number = params.dtype.type
    one, zero = number(1), number(0)
    most = share_of(batch_size, 0, size)[1]
    share, scratch = np.empty(most, params.dtype), np.empty(most, params.dtype)
    Y = np.empty((K, most), params.dtype)
    largest = 0
    for layer in range(L):
        n_rows = max(1, share_of(sizes[layer], 0, size)[1])
        largest = max(largest, n_rows * sizes[layer + 1])
    grads = np.empty(largest, params.dtype)
    for step in range(record.shape[1]):
        start = step * batch_size
        B = min(batch_size, N - start)
        first, last = share_of(B, rank, size)  # the examples of this member
        index = order[start + first : start + last]
        n = index.shape[0]
        row = padded(B)
        x = inputs(X, index, space, B, first, keys[step, 0], thresholds[0])
        share[:n] = one / number(B)
        if weights.shape[0]:
            for i in range(n):
                share[i] *= weights[index[i]]
        if not barrier_wait(barrier, size):
            return

        # Forward: A = g(W^T A + b), for some units of each layer and some examples of the last one
        A = x
        for layer in range(L - 1):
            D, H = sizes[layer], sizes[layer + 1]
            W, b = matrix(params, at_W[layer], D, H), params[at_b[layer] : at_b[layer] + H]
            Z = matrix(space, row * at_A[layer + 1], H, row)
            h, end = share_of(H, rank, size)
            product(W[:, h:end].T, A, scales[layer], Z[h:end, :B])
            mask = keys[step, layer + 1], thresholds[layer + 1], h, H
            activate(Z[h:end], b[h:end], codes[layer], slopes[layer], mask, 0, B)
            A = Z[:, :B]
            if not barrier_wait(barrier, size):
                return
        D = sizes[L - 1]
        W, b = matrix(params, at_W[L - 1], D, K), params[at_b[L - 1] : at_b[L - 1] + K]
        Z = matrix(space, row * at_A[L], K, row)
        product(W.T, A[:, first:last], scales[L - 1], Z[:, first:last])
        mask = keys[step, L], thresholds[L], 0, K
        activate(Z, b, codes[L - 1], slopes[L - 1], mask, first, last)
        for i in range(first, min(last, logits.shape[0] - start)):
            for k in range(K):
                logits[start + i, k] = Z[k, i]

        # The loss of these examples, and dZ
        dZ = matrix(space, row * at_dA[L], K, row)
        if labels.shape[0]:
            for i in range(n):
                scratch[i] = number(labels[index[i]])
            for k in range(K):
                y, label = Y[k], number(k)
                for i in range(n):
                    y[i] = one if scratch[i] == label else zero
        else:
            for i in range(n):
                for k in range(K):
                    Y[k, i] = targets[index[i], k]
        if loss == CROSS_ENTROPY:
            value = cross_entropy(Z, Y, share, dZ, scratch, first, last)
        elif loss == BINARY_CROSS_ENTROPY:
            value = binary_cross_entropy(Z, Y, share, dZ, scratch, first, last)
        else:
            value = squared_error(Z, Y, share, dZ, first, last)
        derive(dZ, Z, codes[L - 1], slopes[L - 1], mask, first, last)
        if not barrier_wait(barrier, size):
            return

        # Backward: dA = W dZ, dZ = dA g'(Z), for some units of each layer
        for layer in range(L - 1, 0, -1):
            D, H = sizes[layer], sizes[layer + 1]
            W, A = matrix(params, at_W[layer], D, H), matrix(space, row * at_A[layer], D, row)
            dA = matrix(space, row * at_dA[layer], D, row)
            d, end = share_of(D, rank, size)
            product(W[d:end], dZ[:, :B], scales[layer], dA[d:end, :B])
            mask = keys[step, layer], thresholds[layer], d, D
            derive(dA[d:end], A[d:end], codes[layer - 1], slopes[layer - 1], mask, 0, B)
            dZ = dA
            if not barrier_wait(barrier, size):
                return

        # Gradients and update: dW = A dZ^T, some rows of each, and db, for some units. Nobody reads
        # W until the next step, and what this member has computed is still in its cache.
        rate, epsilon, keep = scalars[step, 0], scalars[step, 1], scalars[step, 2]
        A = x
        for layer in range(L):
            D, H = sizes[layer], sizes[layer + 1]
            dZ = matrix(space, row * at_dA[layer + 1], H, row)
            d, end = share_of(D, rank, size)
            rows_of_dW = matrix(grads, 0, end - d, H)
            product(A[d:end], dZ[:, :B].T, scales[layer], rows_of_dW)
            part = slice(at_W[layer] + d * H, at_W[layer] + end * H)
            W, m, v = params[part], mu[part], nu[part]
            dW = grads[: W.shape[0]]
            if l2 != zero:
                value += number(0.5) * l2 * add_penalty(dW, W, l2)
            if keep != one:
                for i in range(W.shape[0]):
                    W[i] *= keep
            adam(W, dW, m, v, rate, betas[0], betas[1], epsilon, tiny)
            h, end = share_of(H, rank, size)
            for i in range(h, end):
                grads[i - h] = total(dZ[i][:B])
            part = slice(at_b[layer] + h, at_b[layer] + end)
            b, m, v = params[part], mu[part], nu[part]
            adam(b, grads[: end - h], m, v, rate, betas[0], betas[1], epsilon, tiny)
            A = matrix(space, row * at_A[layer + 1], H, row)[:, :B]
        record[rank, step] = value
        if not barrier_wait(barrier, size):
            return


@compiled
def share_of(n: int, rank: int, size: int) -> tuple[int, int]:
    """Where the part of a member begins and ends, in whole vectors of the processor."""
    piece = -(-n // (VECTOR * size)) * VECTOR
    return min(n, piece * rank), min(n, piece * (rank + 1))


@compiled
def padded(n: int) -> int:
    """The length of rows of n numbers, which do not lie a power of two apart: else a column of them
    has room in few lines of the cache."""
    return n + VECTOR if n >= 128 and n % 64 == 0 else n


@compiled
def matrix(values: Array, start: int, rows: int, columns: int) -> Array:
    return values[start : start + rows * columns].reshape(rows, columns)


@compiled
def inputs(
    X: Array, index: Array, space: Array, B: int, first: int, key: Any, threshold: Any
) -> Array:
    """X^T (D, B) at the beginning of the space, with the examples of the index from `first` on,
    without what is dropped."""
    n, D = index.shape[0], X.shape[1]
    if D <= NARROW:
        x = matrix(space, 0, D, padded(B))
        columns(X, index, x[:, first : first + n])
        if threshold != ALL:
            for d in range(D):
                drop(x[d][first : first + n], key, threshold, first * D + d, D)
        return x[:, :B]
    x = matrix(space, 0, B, padded(D))
    rows(X, index, x[first : first + n])
    if threshold != ALL:
        for i in range(first, first + n):
            drop(x[i][:D], key, threshold, i * D, 1)
    return x[:, :D].T


@compiled
def total(values: Array) -> Any:
    result = values.dtype.type(0)
    for i in range(values.shape[0]):
        result += values[i]
    return result


@compiled
def copy(values: Array, to: Array) -> None:
    """As a function of two arrays without gaps: an assignment of slices is for any strides."""
    for i in range(values.shape[0]):
        to[i] = values[i]


@compiled
def kept(element: int, key: Any, threshold: Any) -> Any:
    """1 for an element of a draw that dropout keeps, else 0: twin of `random.bernoulli`.

    A number and not an array, so that no row has to be counted as in use. All is of 32 bits, which
    Numba would widen: a vector holds twice as many.
    """
    number = np.uint32
    x = number((number(element) ^ key) * number(GOLDEN % 2**32))
    x = number((x ^ (x >> number(16))) * number(FACTORS[0]))
    x = number((x ^ (x >> number(15))) * number(FACTORS[1] % 2**32))
    x = number(x ^ (x >> number(16))) & number(ALL - 1)
    return np.float32(x < threshold)


@compiled
def drop(values: Array, key: Any, threshold: Any, first: int, step: int) -> None:
    """Dropout of values (n,), whose elements of the draw are first, first + step, ..."""
    for i in range(values.shape[0]):
        values[i] *= kept(first + i * step, key, threshold)


@compiled
def activate(
    Z: Array, b: Array, code: int, slope: Any, mask: tuple[Any, ...], first: int, last: int
) -> None:
    """Z := g(Z + b), Z (H, B), without what is dropped, for some of the examples.

    mask: the key and the threshold of dropout, the number of the first of these units, and of how
    many.
    """
    number = Z.dtype.type
    one, zero = number(1), number(0)
    key, threshold, unit, n_units = mask
    for h in range(Z.shape[0]):
        z, bias = Z[h][first:last], b[h]
        if code == RELU:
            for i in range(z.shape[0]):
                a = z[i] + bias
                z[i] = zero if a < zero else a
        elif code == LEAKY_RELU:
            for i in range(z.shape[0]):
                a = z[i] + bias
                z[i] = slope * a if a < zero else a
        elif code == TANH:
            for i in range(z.shape[0]):
                a = z[i] + bias
                e = exp(number(-2) * abs(a))
                t = (one - e) / (one + e)
                z[i] = -t if a < zero else t
        elif code == SIGMOID:
            for i in range(z.shape[0]):
                a = z[i] + bias
                e = exp(-abs(a))
                z[i] = (e if a < zero else one) / (one + e)
        else:
            for i in range(z.shape[0]):
                z[i] += bias
        if threshold != ALL:
            for i in range(z.shape[0]):
                z[i] *= kept((first + i) * n_units + unit + h, key, threshold)


@compiled
def derive(
    dA: Array, A: Array, code: int, slope: Any, mask: tuple[Any, ...], first: int, last: int
) -> None:
    """dA := dA g'(Z), dA (H, B), without what was dropped, for some of the examples."""
    number = dA.dtype.type
    one, zero = number(1), number(0)
    key, threshold, unit, n_units = mask
    for h in range(dA.shape[0]):
        d, a = dA[h][first:last], A[h][first:last]
        if threshold != ALL:
            for i in range(d.shape[0]):
                d[i] *= kept((first + i) * n_units + unit + h, key, threshold)
        if code == RELU:
            for i in range(d.shape[0]):
                d[i] *= number(a[i] > zero)  # a branch costs four times the step
        elif code == LEAKY_RELU:
            for i in range(d.shape[0]):
                d[i] *= slope + (one - slope) * number(a[i] > zero)
        elif code == TANH:
            for i in range(d.shape[0]):
                d[i] *= one - a[i] * a[i]
        elif code == SIGMOID:
            for i in range(d.shape[0]):
                d[i] *= a[i] * (one - a[i])


# The losses of n examples, `first` to `last` of Z and dZ (K, B).   Y: (K, n).   share: (n,), the
# weight of each over B.


@compiled
def cross_entropy(
    Z: Array, Y: Array, share: Array, dZ: Array, scratch: Array, first: int, last: int
) -> Any:
    K, B = Z.shape[0], last - first
    number = Z.dtype.type
    value, one = number(0), number(1)
    copy(Z[0][first:last], scratch[:B])
    for k in range(1, K):
        z = Z[k][first:last]
        for i in range(B):
            scratch[i] = z[i] if z[i] > scratch[i] else scratch[i]
    for k in range(K):
        z, y, dz = Z[k][first:last], Y[k], dZ[k][first:last]
        for i in range(B):
            dz[i] = z[i] - scratch[i]
        for i in range(B):
            value -= share[i] * y[i] * dz[i]
        for i in range(B):
            dz[i] = exp(dz[i])
    copy(dZ[0][first:last], scratch[:B])
    for k in range(1, K):
        dz = dZ[k][first:last]
        for i in range(B):
            scratch[i] += dz[i]
    for i in range(B):
        value += share[i] * log(scratch[i])
    for i in range(B):
        scratch[i] = one / scratch[i]
    for k in range(K):
        y, dz = Y[k], dZ[k][first:last]
        for i in range(B):
            dz[i] = share[i] * (dz[i] * scratch[i] - y[i])
    return value


@compiled
def binary_cross_entropy(
    Z: Array, Y: Array, share: Array, dZ: Array, scratch: Array, first: int, last: int
) -> Any:
    """log(1 + exp(-|Z|)) + max(Z, 0) - Y Z."""
    number = Z.dtype.type
    value, one, zero = number(0), number(1), number(0)
    for k in range(Z.shape[0]):
        z, y, dz = Z[k][first:last], Y[k], dZ[k][first:last]
        for i in range(z.shape[0]):
            e = exp(-abs(z[i]))
            dz[i] = share[i] * ((e if z[i] < zero else one) / (one + e) - y[i])
            value += share[i] * ((zero if z[i] < zero else z[i]) - z[i] * y[i])
            scratch[i] = one + e
        for i in range(z.shape[0]):
            value += share[i] * log(scratch[i])
    return value


@compiled
def squared_error(Z: Array, Y: Array, share: Array, dZ: Array, first: int, last: int) -> Any:
    number = Z.dtype.type
    value, half = number(0), number(0.5)
    for k in range(Z.shape[0]):
        z, y, dz = Z[k][first:last], Y[k], dZ[k][first:last]
        for i in range(z.shape[0]):
            R = z[i] - y[i]
            value += half * share[i] * R * R
            dz[i] = share[i] * R
    return value
