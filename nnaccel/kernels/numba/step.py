"""One training step in compiled code, as member `rank` of a team of threads.

Gather, forward, loss, backward and update. Each member computes some units of every layer and some
rows of every dW with their update. A barrier follows wherever a member reads what another has
written, 2 L + 1 times a step.

Arrays are in the layout of the notes, one column an example, so that the units of a member are
contiguous. Only examples of many inputs stay rows, as in the data set.

Examples of weight 0 add nothing to a gradient: where steps leave them out, a minibatch is the
others, which still are so many shares of all and keep their places in the draws of dropout.

Zeros are `np.int64(0)`: to Numba a literal 0 is a type of its own, for which it would compile a
function again. Operands of products are sliced in both axes for the same reason: their type then
says nothing of their strides.
"""

from typing import Any, NamedTuple

import numpy as np

from nnaccel.kernels.dense_plan import BINARY_CROSS_ENTROPY, CROSS_ENTROPY
from nnaccel.kernels.numba.activations import activate, derive
from nnaccel.kernels.numba.blas import product
from nnaccel.kernels.numba.dropout import ALL, drop, drop_unit
from nnaccel.kernels.numba.gather import NARROW, Encoding, columns, encode, rows
from nnaccel.kernels.numba.interpolation import (
    Located,
    Scratch,
    interpolate,
    scratch_for,
    update_bins,
)
from nnaccel.kernels.numba.jit import compiled, inlined
from nnaccel.kernels.numba.losses import binary_cross_entropy, cross_entropy, squared_error
from nnaccel.kernels.numba.thread_team import barrier_wait
from nnaccel.kernels.numba.updates import Adam, Numbers, adam, update_weights
from nnaccel.typing import Array

VECTOR = 16  # float32 numbers in the widest vector registers


def layer_type(dtype: Any) -> np.dtype:
    """The type of the table of layers: a record for the input and each layer, l = 0, ..., L."""
    fields = {
        "width": np.int64,  # of A^[l]; for the input without what is interpolated
        "at_A": np.int64,  # where A^[l] begins in the workspace, per example
        "at_dA": np.int64,
        "at_W": np.int64,  # where W of the layer that reads A^[l] begins in the parameters
        "at_b": np.int64,
        "code": np.int64,  # of that layer's activation
        "slope": dtype,
        "threshold": np.uint32,  # of the dropout of A^[l]
        "scale": dtype,  # 1 / (1 - rate)
    }
    return np.dtype([*fields.items()], align=True)


class Examples(NamedTuple):
    """The data set. What a run does not have is an empty array."""

    X: Array  # (N, D)
    labels: Array  # (N,) class numbers, or
    targets: Array  # (N, K)
    weights: Array  # (N,)


class Steps(NamedTuple):
    """The steps of one call: their examples and their numbers."""

    order: Array  # (N,)
    batch_size: int
    scalars: Array  # (n_steps, 3), Adam's rate and epsilon, and the factor of weight decay
    keys: Array  # (n_steps, L + 1), of dropout
    leave_out: bool  # whether examples of weight 0 take no part
    weighs_short: bool  # whether a short minibatch counts for its share of a full one


class Objective(NamedTuple):
    """The loss, by its code, and the L2 penalty."""

    loss: int
    l2: Any


class Buffers(NamedTuple):
    """Memory that all members share."""

    space: Array  # X, A and dA of all layers
    values: Array  # (size, n_steps), the members' parts of each loss
    logits: Array  # (N, K), or (0, K) where no metric reads them
    located: Located  # of no examples where the first layer does not interpolate


class Own(NamedTuple):
    """Memory of one member."""

    index: Array  # (B,) the numbers of all examples that take part
    places: Array  # (B,) and which of the minibatch they are
    Y: Array  # (K, n) targets of the member's examples
    share: Array  # (n,), the weight of each over the size of the minibatch
    scratch: Array  # (n,)
    grads: Array  # its part of one dW
    of_bins: Scratch  # for the first layer where it interpolates


class Batch(NamedTuple):
    """A minibatch of `size` examples of the order from `start` on, B of which take part.

    Of those the member's are first, ..., last.
    """

    step: int
    start: int
    size: int
    B: int
    row: int  # the distance of two rows in the workspace
    first: int
    last: int


class Member(NamedTuple):
    rank: int
    size: int
    barrier: Array


@compiled
def share_of(n: int, rank: int, size: int) -> tuple[int, int]:
    """Start and stop of the member's part of n, in whole vectors of the processor."""
    piece = -(-n // (VECTOR * size)) * VECTOR
    return min(n, piece * rank), min(n, piece * (rank + 1))


@compiled
def padded(n: int) -> int:
    """A row length for n numbers that is no multiple of 64: a column of such rows would map to few
    lines of the cache."""
    return n + VECTOR if n >= 128 and n % 64 == 0 else n


@compiled
def matrix(values: Array, start: int, rows: int, columns: int) -> Array:
    return values[start : start + rows * columns].reshape(rows, columns)


@compiled
def total(values: Array) -> Any:
    """The sum of values (n,)."""
    result = values.dtype.type(0)
    for i in range(values.shape[0]):
        result += values[i]
    return result


@inlined
def own_memory(layers: Array, encoding: Encoding, dtype: Any, batch_size: int, size: int) -> Own:
    """Allocates what a member needs for minibatches of that size."""
    zero = np.int64(0)
    n, largest = share_of(batch_size, zero, size)[1], 0
    for layer in range(layers.shape[0] - 1):
        n_rows = max(VECTOR, share_of(layers[layer].width, zero, size)[1])
        largest = max(largest, n_rows * layers[layer + 1].width)
    places = np.arange(batch_size).astype(np.uint32)
    Y = np.empty((layers[-1].width, n), dtype)
    index, grads = np.empty(batch_size, np.int64), np.empty(largest, dtype)
    H = layers[1].width  # of which the member has all where there is no other layer
    n_units = H if layers.shape[0] == 2 else share_of(H, zero, size)[1]
    of_bins = scratch_for(encoding, dtype, batch_size, n_units)
    return Own(index, places, Y, np.empty(n, dtype), np.empty(n, dtype), grads, of_bins)


@compiled
def take_part(index: Array, weights: Array, own: Own) -> int:
    """Finds the examples of a minibatch, with the numbers in index (B,), whose weight is not 0.

    Returns how many there are.
    """
    n = 0
    for i in range(index.shape[0]):
        own.index[n] = index[i]
        own.places[n] = i
        n += weights[index[i]] != 0
    return n


@inlined
def gather(
    batch: Batch,
    index: Array,
    examples: Examples,
    encoding: Encoding,
    steps: Steps,
    layer: Any,
    space: Array,
    own: Own,
) -> Array:
    """Gathers the member's examples, with the numbers in index (n,): Y and their shares for itself,
    X for all.

    Returns X^T (D, B), encoded and with dropout as `layer` says, in the workspace.
    """
    X, number = examples.X, space.dtype.type
    n, places, key = index.shape[0], own.places, steps.keys[batch.step, 0]
    n_inputs, D, threshold = X.shape[1], layer.width, layer.threshold
    own.share[:n] = number(1) / number(steps.batch_size if steps.weighs_short else batch.size)
    if examples.weights.shape[0]:
        for i in range(n):
            own.share[i] *= examples.weights[index[i]]
    if examples.labels.shape[0]:
        labels = own.scratch
        for i in range(n):
            labels[i] = number(examples.labels[index[i]])
        for k in range(own.Y.shape[0]):
            y = own.Y[k]
            for i in range(n):
                y[i] = number(labels[i] == number(k))
    else:
        for i in range(n):
            for k in range(own.Y.shape[0]):
                own.Y[k, i] = examples.targets[index[i], k]
    encoded = n_inputs < D
    if D <= NARROW and not encoded:
        x = matrix(space, np.int64(0), D, batch.row)
        columns(X, index, x[:, batch.first : batch.last])
        for d in range(D if threshold != ALL else 0):
            part = places[batch.first : batch.last]
            drop_unit(x[d][batch.first : batch.last], key, threshold, part, D, d)
        return x[:, : batch.B]
    x = matrix(space, np.int64(0), batch.B, padded(D))
    rows(X, index, x[batch.first : batch.last, :n_inputs])
    if encoded:
        encode(encoding, x[batch.first : batch.last, :D])
    for i in range(batch.first, batch.last if threshold != ALL else 0):
        drop(x[i][:D], key, threshold, np.int64(places[i]) * D)
    return x[:, :D].T


@inlined
def forward(
    batch: Batch,
    x: Array,
    layers: Array,
    keys: Array,
    params: Array,
    encoding: Encoding,
    buffers: Buffers,
    own: Own,
    team: Member,
) -> bool:
    """A = g(W^T A + b): some units of each layer, some examples of the last one.

    False where the team was aborted.
    """
    L, B, A, places = layers.shape[0] - 1, batch.B, x, own.places
    for layer in range(L):
        D, H = layers[layer].width, layers[layer + 1].width
        W = matrix(params, layers[layer].at_W, D, H)
        b = params[layers[layer].at_b : layers[layer].at_b + H]
        Z = matrix(buffers.space, batch.row * layers[layer + 1].at_A, H, batch.row)
        if layer < L - 1:
            units, examples = share_of(H, team.rank, team.size), (np.int64(0), B)
        else:
            units, examples = (np.int64(0), H), (batch.first, batch.last)
        (h, end), (first, last) = units, examples
        product(W[:, h:end].T, A[:, first:last], layers[layer].scale, Z[h:end, first:last])
        if layer == 0 and encoding.interpolated:
            W = matrix(params, layers[0].at_W + D * H, encoding.low.shape[0], H)
            interpolate(encoding, buffers.located, own.of_bins, W, Z, units, examples)
        mask = keys[batch.step, layer + 1], layers[layer + 1].threshold, places
        activate(Z, b, layers[layer].code, layers[layer].slope, mask, units, examples)
        A = Z[:, :B]
        if layer < L - 1 and not barrier_wait(team.barrier, team.size):
            return False
    for i in range(batch.first, batch.last if buffers.logits.shape[0] else 0):
        for k in range(A.shape[0]):
            buffers.logits[batch.start + places[i], k] = A[k, i]
    return True


@inlined
def loss_and_dZ(
    batch: Batch, layers: Array, steps: Steps, objective: Objective, space: Array, own: Own
) -> Any:
    """The member's part of the loss, and dZ of the last layer for its examples."""
    L = layers.shape[0] - 1
    K = layers[L].width
    Z = matrix(space, batch.row * layers[L].at_A, K, batch.row)
    dZ = matrix(space, batch.row * layers[L].at_dA, K, batch.row)
    Y, share, scratch, first, last = own.Y, own.share, own.scratch, batch.first, batch.last
    if objective.loss == CROSS_ENTROPY:
        value = cross_entropy(Z, Y, share, dZ, scratch, first, last)
    elif objective.loss == BINARY_CROSS_ENTROPY:
        value = binary_cross_entropy(Z, Y, share, dZ, scratch, first, last)
    else:
        value = squared_error(Z, Y, share, dZ, first, last)
    mask = steps.keys[batch.step, L], layers[L].threshold, own.places
    units, examples = (np.int64(0), K), (batch.first, batch.last)
    derive(dZ, Z, layers[L - 1].code, layers[L - 1].slope, mask, units, examples)
    return value


@inlined
def backward(
    batch: Batch, layers: Array, keys: Array, params: Array, space: Array, places: Array,
    team: Member,
) -> bool:  # fmt: skip
    """dA = W dZ, dZ = dA g'(Z): some units of each layer.  False where the team was aborted."""
    L, B, row = layers.shape[0] - 1, batch.B, batch.row
    for layer in range(L - 1, 0, -1):
        D, H = layers[layer].width, layers[layer + 1].width
        W = matrix(params, layers[layer].at_W, D, H)
        A = matrix(space, row * layers[layer].at_A, D, row)
        dA = matrix(space, row * layers[layer].at_dA, D, row)
        dZ = matrix(space, row * layers[layer + 1].at_dA, H, row)
        units = d, end = share_of(D, team.rank, team.size)
        product(W[d:end, :], dZ[:, :B], layers[layer].scale, dA[d:end, :B])
        mask = keys[batch.step, layer], layers[layer].threshold, places
        code, slope = layers[layer - 1].code, layers[layer - 1].slope
        derive(dA, A, code, slope, mask, units, (np.int64(0), B))
        if not barrier_wait(team.barrier, team.size):
            return False
    return True


@inlined
def update(
    batch: Batch, x: Array, layers: Array, encoding: Encoding, numbers: Numbers, state: Adam,
    buffers: Buffers, own: Own, team: Member,
) -> Any:  # fmt: skip
    """dW = A dZ^T and Adam, some rows of each W; db = sum of dZ and Adam, some units.

    No other member reads these parameters before the next step, and the gradient is still in this
    processor's cache.   Returns the member's part of the penalty.
    """
    params, mu, nu, beta_1, beta_2, tiny = state
    B, row, A, grads, penalty = batch.B, batch.row, x, own.grads, params.dtype.type(0)
    for layer in range(layers.shape[0] - 1):
        D, H, at_W = layers[layer].width, layers[layer + 1].width, layers[layer].at_W
        dZ = matrix(buffers.space, row * layers[layer + 1].at_dA, H, row)
        d, end = share_of(D, team.rank, team.size)
        dW = matrix(grads, np.int64(0), end - d, H)
        product(A[d:end, :], dZ[:, :B].T, layers[layer].scale, dW[:, :H])
        penalty += update_weights(state, at_W + d * H, grads[: (end - d) * H], numbers)

        units = h, end = share_of(H, team.rank, team.size)
        if layer == 0 and encoding.interpolated:
            penalty += update_bins(
                encoding, buffers.located, own.of_bins, dZ, B, state, at_W + D * H, numbers, units
            )
        for i in range(h, end):
            grads[i - h] = total(dZ[i][:B])
        part = slice(layers[layer].at_b + h, layers[layer].at_b + end)
        rate, epsilon = numbers.rate, numbers.epsilon
        adam(
            params[part], grads[: end - h], mu[part], nu[part], rate, beta_1, beta_2, epsilon, tiny
        )
        A = matrix(buffers.space, row * layers[layer + 1].at_A, H, row)[:, :B]
    return penalty
