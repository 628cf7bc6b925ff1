"""One training step in compiled code, as one member of a team of threads runs it.

A step is gather, forward, loss, backward and update. Each member computes some units of every layer
and some rows of every dW with their update. A barrier precedes every read of values that another
member has written, 2 L + 1 times a step for L layers.

Arrays have the layout of the notes, A (H, B) with one example per column, so that the units of a
member are contiguous. Only examples with many inputs stay rows, as in the data set.

Examples of weight 0 add nothing to a gradient, and steps may leave them out. The minibatch then
consists of the B other examples. The mean is still over all examples, and each keeps its place in
the draws of dropout.

Zeros are `np.int64(0)`, since a literal 0 has a separate type in Numba, for which it would compile
a function again. For the same reason operands of products are sliced in both axes: their type then
does not depend on their strides.
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
    """The dtype of the table of layers, a record for the input and each layer, l = 0, ..., L."""
    fields = {
        "width": np.int64,  # of A^[l]; of the input, without bins that are interpolated
        "at_A": np.int64,  # start of A^[l] in the workspace, in numbers per example
        "at_dA": np.int64,
        "at_W": np.int64,  # start in the parameters of W of the layer that reads A^[l]
        "at_b": np.int64,
        "code": np.int64,  # the activation of that layer
        "slope": dtype,
        "threshold": np.uint32,  # of the dropout of A^[l]
        "scale": dtype,  # 1 / (1 - rate)
    }
    return np.dtype([*fields.items()], align=True)


class Examples(NamedTuple):
    """The data set. An empty array stands for what a run does not have."""

    X: Array  # (N, D)
    labels: Array  # (N,) class numbers; else targets
    targets: Array  # (N, K)
    weights: Array  # (N,)


class Steps(NamedTuple):
    """The steps of one call: their examples and their scalars."""

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
    located: Located  # empty where the first layer does not interpolate


class Own(NamedTuple):
    """Memory of one member."""

    index: Array  # (B,) the row numbers of the examples that take part
    places: Array  # (B,) their positions in the minibatch
    Y: Array  # (K, n) targets of the member's examples
    share: Array  # (n,), the weight of each over the size of the minibatch
    scratch: Array  # (n,)
    grads: Array  # the member's part of one dW
    of_bins: Scratch  # for the first layer where it interpolates


class Batch(NamedTuple):
    """A minibatch: `size` examples of the order from `start` on, of which B take part.

    The member's share of these runs from first to before last.
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
    """Start and stop of the member's share of n, a multiple of the processor's vectors."""
    piece = -(-n // (VECTOR * size)) * VECTOR
    return min(n, piece * rank), min(n, piece * (rank + 1))


@compiled
def padded(n: int) -> int:
    """A row length of at least n that is not a multiple of 64, since a column of such rows would
    map to few lines of the cache."""
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
    """Allocates the memory of a member, for minibatches of batch_size examples."""
    zero = np.int64(0)
    n, largest = share_of(batch_size, zero, size)[1], 0
    for layer in range(layers.shape[0] - 1):
        n_rows = max(VECTOR, share_of(layers[layer].width, zero, size)[1])
        largest = max(largest, n_rows * layers[layer + 1].width)
    places = np.arange(batch_size).astype(np.uint32)
    Y = np.empty((layers[-1].width, n), dtype)
    index, grads = np.empty(batch_size, np.int64), np.empty(largest, dtype)
    H = layers[1].width  # the member has all of them if there is no other layer
    n_units = H if layers.shape[0] == 2 else share_of(H, zero, size)[1]
    of_bins = scratch_for(encoding, dtype, batch_size, n_units)
    return Own(index, places, Y, np.empty(n, dtype), np.empty(n, dtype), grads, of_bins)


@compiled
def take_part(index: Array, weights: Array, own: Own) -> int:
    """Finds the examples whose weight is not 0 among those in index (B,).   weights: (N,).

    Writes their numbers and positions into `own`, and returns how many there are.
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
    """Gathers the member's examples in index (n,): Y and shares into `own`, X into the workspace
    for all.

    Returns X^T (D, B) in the workspace, encoded and with dropout, as `layer` says.
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
    """A = g(W^T A + b) for some units of each layer, and for some examples in the last layer.

    x: (D, B).   params: (P,).   Returns False if the team was aborted.
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
    """Computes dZ (K, n) of the last layer for the member's examples; returns their part of the
    loss."""
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
    """dA = W dZ, dZ = dA g'(Z) for some units of each layer. Returns False if the team was
    aborted."""
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
    """dW = A dZ^T and Adam for some rows of each W; db = sum of dZ and Adam for some units.

    No other member reads these parameters before the next step, and the gradient is still in this
    processor's cache. Returns the member's part of the L2 penalty.
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
