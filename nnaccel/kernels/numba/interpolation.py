"""The first dense layer after a piecewise linear encoding, computed without the encoded examples.

The encoding of a number in bin t is 1 for the bins below t, the share f for bin t, and 0 for the
bins above. Its product with the T rows of W is C_t + f W_t, where C_t is the sum of the rows below
bin t. The product is linear between the edges of the bins, and at the edges it is C_0 = 0, C_1,
..., C_T. So it is interpolated, (1 - f) C_t + f C_(t+1), with sums C that are computed once a step.
In the backward pass each example adds (1 - f) dZ to dC_t and f dZ to dC_(t+1), and dW_t is the sum
of all dC above edge t.

These are the same sums in another order, not an approximation. In float32 the sums over the bins of
one number, 64 in the table learner, round no more than the product over the bins of all numbers. An
example takes two multiplications per number and unit instead of T; the cost of C does not depend on
the examples.

Each member of a team computes some units for all examples, with their columns of W. Examples are
rows here, to which members add rows of C.
"""

from typing import Any, NamedTuple

import numpy as np

from nnaccel.kernels.numba.activations import Range
from nnaccel.kernels.numba.gather import Encoding
from nnaccel.kernels.numba.jit import compiled
from nnaccel.kernels.numba.updates import Adam, Numbers, update_weights
from nnaccel.maths.layers.piecewise_linear import Bins
from nnaccel.typing import Array

# The costs per unit of a bin, of an example, and of each of its inputs with bins, in
# multiplications of a matrix product. They are twice the costs on an AMD EPYC (Zen 4), since
# products may be that much faster on another processor.
BIN, EXAMPLE, INPUT = 16, 140, 24
TILE = 16  # rows and columns that are transposed together


class Located(NamedTuple):
    """Where the examples of a minibatch are among the edges of the F inputs that have bins."""

    bins: Array  # (F, B), the bin t of each number
    shares: Array  # (F, B), the share f of that bin, from 0 to 1


class Scratch(NamedTuple):
    """Scratch memory of a member, for its n units."""

    C: Array  # ((T + 1) n,), T of the input with most bins
    rows: Array  # (B, n)


def repays(bins: Bins | None, batch_size: int) -> bool:
    """Whether interpolation costs less than products, in the forward pass and for dW."""
    if bins is None:
        return False
    n_bins, F = len(bins.of), len(set(bins.of))
    return 2 * batch_size * n_bins > BIN * n_bins + batch_size * (EXAMPLE + INPUT * F)


def located_for(encoding: Encoding, batch_size: int) -> Located:
    """Memory for the bins and shares, which all members of a team use."""
    shape = (len(encoding.inputs), batch_size) if encoding.interpolated else (0, 0)
    return Located(np.empty(shape, np.int32), np.empty(shape, encoding.low.dtype))


@compiled
def scratch_for(encoding: Encoding, dtype: Any, batch_size: int, n: int) -> Scratch:
    """Allocates the scratch memory of a member with n units, for minibatches of batch_size
    examples."""
    if not encoding.interpolated:
        return Scratch(np.empty(0, dtype), np.empty((0, 0), dtype))
    most = 0
    for f in range(encoding.inputs.shape[0]):
        most = max(most, encoding.begins[f + 1] - encoding.begins[f])
    return Scratch(np.empty((most + 1) * n, dtype), np.empty((batch_size, n), dtype))


@compiled
def locate(encoding: Encoding, x: Array, first: int, last: int, located: Located) -> None:
    """Finds the bins and shares of the examples from first to before last of x (D, B), one per
    column.

    NaN has a share of NaN, since every comparison with it is false.
    """
    number = x.dtype.type
    one, zero = number(1), number(0)
    for f in range(encoding.inputs.shape[0]):
        begin, feature = encoding.begins[f], x[encoding.inputs[f]]
        low = encoding.low[begin : encoding.begins[f + 1]]
        for i in range(first, last):
            n_below = 0
            for t in range(low.shape[0]):
                n_below += feature[i] > low[t]
            t = max(n_below - 1, 0)
            share = (feature[i] - low[t]) * encoding.slope[begin + t]
            share = zero if share < zero else share
            located.bins[f, i] = t
            located.shares[f, i] = one if share > one else share


@compiled
def interpolate(
    encoding: Encoding, located: Located, scratch: Scratch, W: Array, Z: Array,
    units: Range, examples: Range,
) -> None:  # fmt: skip
    """Z += the product of the encoding with W, for a range of units and a range of examples.

    W: (n_bins, H), the rows of the bins.   Z: (H, B or more).
    """
    (h, end), (first, last) = units, examples
    number, n, rows = Z.dtype.type, end - h, scratch.rows
    for i in range(first, last):
        rows[i][:n] = number(0)
    for f in range(encoding.inputs.shape[0]):
        begin, stop = encoding.begins[f], encoding.begins[f + 1]
        C = scratch.C[: (stop - begin + 1) * n].reshape(stop - begin + 1, n)
        C[0][:] = number(0)
        for t in range(stop - begin):
            below, w, above = C[t], W[begin + t][h:end], C[t + 1]
            for u in range(n):
                above[u] = below[u] + w[u]
        for i in range(first, last):
            t, share = located.bins[f, i], located.shares[f, i]
            rest, below, above, row = number(1) - share, C[t], C[t + 1], rows[i][:n]
            for u in range(n):
                row[u] += rest * below[u] + share * above[u]
    for u0 in range(0, n, TILE):
        for i0 in range(first, last, TILE):
            for u in range(u0, min(u0 + TILE, n)):
                for i in range(i0, min(i0 + TILE, last)):
                    Z[h + u, i] += rows[i, u]


@compiled
def update_bins(
    encoding: Encoding, located: Located, scratch: Scratch, dZ: Array, B: int,
    state: Adam, at_W: int, numbers: Numbers, units: Range,
) -> Any:  # fmt: skip
    """Updates the rows of W that belong to bins, for a range of units. Returns their part of the L2
    penalty.

    dZ: (H, B or more).   at_W: where these rows begin in the parameters.
    """
    (h, end), H = units, dZ.shape[0]
    n, penalty = end - h, dZ.dtype.type(0)
    transpose(dZ, scratch.rows, units, B)
    for f in range(encoding.inputs.shape[0]):
        begin, stop = encoding.begins[f], encoding.begins[f + 1]
        dC = scratch.C[: (stop - begin + 1) * n].reshape(stop - begin + 1, n)
        sum_above(located.bins[f], located.shares[f], scratch.rows, B, dC)
        n_rows = stop - begin if n == H else 1  # all rows at once, if they are contiguous
        for t in range(begin, stop, n_rows):
            first = (t - begin + 1) * n
            dW = scratch.C[first : first + n_rows * n]
            penalty += update_weights(state, at_W + t * H + h, dW, numbers)
    return penalty


@compiled
def transpose(dZ: Array, rows: Array, units: Range, B: int) -> None:
    """rows = dZ^T of a range of units, (B, n)."""
    h, end = units
    for u0 in range(h, end, TILE):
        for i0 in range(0, B, TILE):
            for i in range(i0, min(i0 + TILE, B)):
                for u in range(u0, min(u0 + TILE, end)):
                    rows[i, u - h] = dZ[u, i]


@compiled
def sum_above(bins: Array, shares: Array, rows: Array, B: int, dC: Array) -> None:
    """dC (T + 1, n) = for each edge, the sum of what examples add to it and to the edges above it.

    bins, shares: (B,) of one input.   rows: dZ^T (B, n).   The sum for edge 0 is left out.
    """
    number, (n_edges, n) = dC.dtype.type, dC.shape
    dC[:] = number(0)
    for i in range(B):
        t, share = bins[i], shares[i]
        rest, below, above, row = number(1) - share, dC[t], dC[t + 1], rows[i][:n]
        for u in range(n):
            below[u] += rest * row[u]
            above[u] += share * row[u]
    for t in range(n_edges - 2, 0, -1):
        below, above = dC[t], dC[t + 1]
        for u in range(n):
            below[u] += above[u]
