"""The examples of a minibatch, brought together from anywhere in the data set, in compiled code.

An epoch visits them in random order. Where the data set is larger than a cache, a small network
takes longer to wait for them than to learn from them, so they are asked for before they are needed,
as many at a time as a processor waits for at once.
"""

from nnaccel.kernels.numba.intrinsics import LINE, prefetch
from nnaccel.kernels.numba.jit import compiled
from nnaccel.typing import Array

LINES = 4  # of each example: where a longer row goes on, the processor sees by itself
AHEAD = 8  # examples, so many of which are on their way

# Inputs, up to which an example becomes a column: so few would not fill a vector.
NARROW = 15


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
