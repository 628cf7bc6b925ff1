"""Gathers the examples of a minibatch in compiled code, with prefetch.

An epoch visits examples in random order. Where the data set is larger than a cache, a small network
waits longer for them than it computes. The piecewise linear encoding of a minibatch is computed
here too, so the encoding of the whole data set is never in memory.
"""

from typing import Any, NamedTuple

import numpy as np

from nnaccel.kernels.numba.intrinsics import LINE, prefetch
from nnaccel.kernels.numba.jit import compiled
from nnaccel.maths.layers.piecewise_linear import Bins
from nnaccel.typing import Array

LINES = 4  # cache lines of an example to prefetch; the processor prefetches the rest
AHEAD = 8  # examples between prefetch and use

# Inputs up to which an example becomes a column: 2-4-2 then takes 0.8 of the time of rows.
NARROW = 15


class Encoding(NamedTuple):
    """The bins of the piecewise linear encoding, with those of one input next to each other.

    F inputs have bins; F = 0: there is no encoding.
    """

    inputs: Array  # (F,), the numbers of these inputs
    begins: Array  # (F + 1,), the first bin of each, and n_bins
    low: Array  # (n_bins,), the lower edges, in units of X
    slope: Array  # (n_bins,), 1 / width of each bin
    interpolated: bool  # whether the first layer interpolates, see `interpolation.py`


def encoding_of(bins: Bins | None, dtype: Any, *, interpolated: bool = False) -> Encoding:
    """The encoding with these bins; None: without any."""
    of, low, slope = ((), (), ()) if bins is None else bins
    inputs = np.unique(np.array(of, np.int64))
    begins = np.append(np.searchsorted(of, inputs), len(of)).astype(np.int64)
    return Encoding(inputs, begins, np.array(low, dtype), np.array(slope, dtype), interpolated)


@compiled
def rows(X: Array, index: Array, to: Array) -> None:
    """to = X[index], (n, D)."""
    n, D = index.shape[0], X.shape[1]
    step = LINE // X.itemsize
    lines = min(LINES, -(-D // step))
    for i in range(n):
        later = index[min(i + AHEAD, n - 1)]
        for line in range(lines):
            prefetch(X, later, line * step)
        example = index[i]
        for d in range(D):
            to[i, d] = X[example, d]


@compiled
def columns(X: Array, index: Array, to: Array) -> None:
    """to = X[index]^T, (D, n)."""
    for i in range(index.shape[0]):
        prefetch(X, index[i], 0)
    for d in range(X.shape[1]):
        feature = to[d]
        for i in range(index.shape[0]):
            feature[i] = X[index[i], d]


@compiled
def encode(encoding: Encoding, to: Array) -> None:
    """Writes the encoding of each example into the last n_bins columns of `to` (n, D + n_bins).

    The first D columns hold X. NaN stays NaN, since every comparison with it is false.
    """
    inputs, begins, low, slope, _ = encoding
    number = to.dtype.type
    D, one, zero = to.shape[1] - low.shape[0], number(1), number(0)
    for i in range(to.shape[0]):
        example = to[i]
        bins = example[D:]
        for f in range(inputs.shape[0]):
            x = example[inputs[f]]
            for t in range(begins[f], begins[f + 1]):
                share = (x - low[t]) * slope[t]
                share = zero if share < zero else share
                bins[t] = one if share > one else share
