"""The first dense layer after a piecewise linear encoding, without the encoded examples.

Of a number in bin t the encoding is 1 for the bins below, the share f of bin t, and 0 for those
above. Its product with the rows of W of its T bins is C_t + f W_t, where C_t is the sum of the rows
below bin t: it is linear between the edges of the bins, where it is C_0 = 0, C_1, ..., C_T. So it
is interpolated, (1 - f) C_t + f C_(t+1), with sums that are made once a step. Backwards each
example adds (1 - f) dZ to dC_t and f dZ to dC_(t+1), and dW_t is the sum of all dC above edge t.

These are the same sums in another order, no approximation. In float32 those over the bins of one
number, 64 in the table learner, round no more than the product does over the bins of all numbers.
An example takes two multiplications for each number and unit instead of T; what W takes does not
depend on the examples.

Each member of a team has units of its own, of all examples, and their columns of W. Examples are
rows here, and members add rows of C to them.
"""

from typing import Any, NamedTuple

import numpy as np

from nnaccel.kernels.numba.activations import Range
from nnaccel.kernels.numba.gather import Encoding
from nnaccel.kernels.numba.jit import compiled
from nnaccel.kernels.numba.updates import Adam, Numbers, update_weights
from nnaccel.maths.layers.piecewise_linear import Bins
from nnaccel.typing import Array

# What a bin, an example, and each of its inputs with bins cost for a unit, in multiplications
# of a product: twice what they were on an AMD EPYC (Zen 4), since products may be that much faster
# on another processor.
BIN, EXAMPLE, INPUT = 16, 140, 24
TILE = 16  # rows and columns that are transposed together


class Located(NamedTuple):
    """Where the examples of a minibatch are among the edges of the F inputs that have bins."""

    bins: Array  # (F, B), the bin t that each is in
    shares: Array  # (F, B), and how far it has come there


class Scratch(NamedTuple):
    """Memory of a member, for its n units."""

    C: Array  # ((T + 1) n,), T of the input with most bins
    rows: Array  # (B, n)


def repays(bins: Bins | None, batch_size: int) -> bool:
    """Whether a step by interpolation costs less than one by products, forwards and of dW."""
    if bins is None:
        return False
    n_bins, F = len(bins.of), len(set(bins.of))
    return 2 * batch_size * n_bins > BIN * n_bins + batch_size * (EXAMPLE + INPUT * F)


def located_for(encoding: Encoding, batch_size: int) -> Located:
    """Memory for what all members of a team share."""
    shape = (len(encoding.inputs), batch_size) if encoding.interpolated else (0, 0)
    return Located(np.empty(shape, np.int32), np.empty(shape, encoding.low.dtype))


@compiled
def scratch_for(encoding: Encoding, dtype: Any, batch_size: int, n: int) -> Scratch:
    """Allocates what a member needs for n units and minibatches of that size."""
    if not encoding.interpolated:
        return Scratch(np.empty(0, dtype), np.empty((0, 0), dtype))
    most = 0
    for f in range(encoding.inputs.shape[0]):
        most = max(most, encoding.begins[f + 1] - encoding.begins[f])
    return Scratch(np.empty((most + 1) * n, dtype), np.empty((batch_size, n), dtype))


@compiled
def locate(encoding: Encoding, x: Array, first: int, last: int, located: Located) -> None:
    """Finds the bins and shares of the examples first, ..., last of x (D, B), one a column.

    NaN has a share of NaN, as no comparison with it holds.
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
    """Z += the product of the encoding with W, for a range of units and of examples.

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
    """Updates the rows of W of the bins, for a range of units; returns their part of the penalty.

    dZ: (H, B or more).   at_W: where these rows begin in the parameters.
    """
    (h, end), H = units, dZ.shape[0]
    n, penalty = end - h, dZ.dtype.type(0)
    transpose(dZ, scratch.rows, units, B)
    for f in range(encoding.inputs.shape[0]):
        begin, stop = encoding.begins[f], encoding.begins[f + 1]
        dC = scratch.C[: (stop - begin + 1) * n].reshape(stop - begin + 1, n)
        sum_above(located.bins[f], located.shares[f], scratch.rows, B, dC)
        n_rows = stop - begin if n == H else 1  # all rows, where there is no gap between them
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
    """dC (T + 1, n) = the sums of what examples add to each edge and to those above it.

    bins, shares: (B,) of one input.   rows: dZ^T (B, n).   What is above edge 0 is not summed.
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
