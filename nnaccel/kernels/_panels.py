"""Matrix products in compiled code, of the sizes that a minibatch has.

A processor multiplies and adds as fast as it can where its registers hold the sums of a whole tile
of the result and both factors come to them from a near cache, without a gap. So they are packed
before: into panels, which have as many rows of X or columns of Y as a tile, and what belongs to one
term of all of them side by side. See Goto and van de Geijn, Anatomy of High-Performance Matrix
Multiplication, ACM Transactions on Mathematical Software 34 (2008), and Van Zee and van de Geijn,
BLIS, in the same journal, 41 (2015). A BLAS does so too, for all sizes. Here it keeps the small
products, and all of them on a processor that `_vectors.py` does not know.
"""

from typing import Any

import numpy as np

from nnaccel.kernels._blas import product as product_of_blas
from nnaccel.kernels._instructions import LINE
from nnaccel.kernels._numba import compiled, inlined
from nnaccel.kernels._vectors import (
    BYTES,
    ROWS,
    UNROLLED,
    move_rows,
    move_vectors,
    one_third,
    strided,
    turn_rows,
    turn_vectors,
    two_thirds,
    whole,
)
from nnaccel.typing import Array

# How much is packed at a time. Those of Y stay in the second cache, of a mebibyte, and come by a
# panel of X, which has room in the first, of 32 KiB. Those of X are packed a few at a time, right
# before they are needed, and kept where more of Y is to come.
DEPTH = 2048  # bytes of the terms of a row or a column
PANELS_OF_X, PANELS_OF_Y = 96, 12
AT_A_TIME = 8  # of X

# With less a BLAS is as fast.
LEAST = 32  # rows, columns and terms
WORK = 1_000_000  # multiplications


@inlined
def product(X: Array, Y: Array, scale: Any, out: Array, room: Array) -> None:
    """out = scale X Y, of each of which the rows or the columns are without a gap; of `out` the
    rows.   room: of `room_for`."""
    product_of(strided(X), strided(Y), scale, strided(out), room)


@compiled
def product_of(X: Array, Y: Array, scale: Any, out: Array, room: Array) -> None:
    if BYTES:
        M, N, K = out.shape[0], out.shape[1], X.shape[1]
        if min(M, N, K) >= LEAST and M * N * K >= WORK:
            by_panels(X, Y, scale, out, room)
            return
    product_of_blas(X, Y, scale, out)


@compiled
def room_for(values: Array) -> Array:
    """Memory for the panels of a product of such numbers."""
    size = values.itemsize
    wide = 2 * BYTES // size
    depth = DEPTH // size
    panels = PANELS_OF_X * length(ROWS * depth, size) + PANELS_OF_Y * length(wide * depth, size)
    return np.empty(panels + ROWS * wide + LINE // size, values.dtype)


@compiled
def length(n: int, size: int) -> int:
    """Of a panel of n numbers: lines, so many that a vector may begin with the last number, and an
    odd number of them, so that panels do not compete for places in a cache."""
    return (-(-n * size // LINE) + 1 | 1) * LINE // size


@compiled
def part(n: int, most: int) -> int:
    """Of n in parts of at most so many, which are as good as equal."""
    return -(-n // -(-n // most))


@compiled
def filled(K: int) -> int:
    """So many terms and the zeros that fill the last turn of the innermost loop."""
    return -(-K // UNROLLED) * UNROLLED


@compiled
def by_panels(X: Array, Y: Array, scale: Any, out: Array, room: Array) -> None:
    M, N, K, size = out.shape[0], out.shape[1], X.shape[1], out.itemsize
    wide = 2 * BYTES // size
    depth = filled(part(K, DEPTH // size))
    columns = part(-(-N // wide), PANELS_OF_Y) * wide
    of_X, of_Y = length(ROWS * depth, size), length(wide * depth, size)
    start = -(room.ctypes.data // size) % (LINE // size)
    end = start + PANELS_OF_Y * of_Y
    ys = room[start:end].reshape(PANELS_OF_Y, of_Y)
    start, end = end, end + PANELS_OF_X * of_X
    xs = room[start:end].reshape(PANELS_OF_X, of_X)
    spare = room[end : end + ROWS * wide].reshape(ROWS, wide)
    for m in range(0, M, PANELS_OF_X * ROWS):
        for k in range(0, K, depth):
            terms = filled(min(depth, K - k))
            for n in range(0, N, columns):
                pack(Y[k : k + depth, n : n + columns].T, ys, wide)
                for i in range(m, min(M, m + PANELS_OF_X * ROWS), AT_A_TIME * ROWS):
                    rows = slice(i, i + AT_A_TIME * ROWS)
                    first = (i - m) // ROWS if columns < N else 0
                    x = xs[first : first + AT_A_TIME]
                    if n == 0:
                        pack(X[rows, k : k + depth], x, ROWS)
                    tiles(x, ys, terms, scale, out[rows, n : n + columns], spare, k > 0)


@inlined
def tiles(xs: Array, ys: Array, K: int, scale: Any, out: Array, spare: Array, more: bool) -> None:
    """out = scale X Y from their panels, or what it is and that where there is more."""
    wide = spare.shape[1]
    for m in range(0, out.shape[0], ROWS):
        rows = min(ROWS, out.shape[0] - m)
        for n in range(0, out.shape[1], wide):
            columns = min(wide, out.shape[1] - n)
            x, y = xs[m // ROWS], ys[n // wide]
            if rows % (ROWS // 3) == 0 and columns == wide:
                tile(rows, x, y, K, scale, out[m:, n:], more)
                continue
            tile(rows, x, y, K, scale, spare, False)
            for i in range(rows):
                for j in range(columns):
                    value = spare[i, j]
                    out[m + i, n + j] = out[m + i, n + j] + value if more else value


@inlined
def tile(rows: int, x: Array, y: Array, K: int, scale: Any, out: Array, more: bool) -> None:
    """The smallest of three tiles that has so many rows."""
    if rows <= ROWS // 3:
        one_third(x, y, K, scale, out, more)
    elif rows <= 2 * (ROWS // 3):
        two_thirds(x, y, K, scale, out, more)
    else:
        whole(x, y, K, scale, out, more)


@compiled
def pack(X: Array, panels: Array, width: int) -> None:
    """panels[p, width k + i] = X[width p + i, k], with zeros where X has no such row or term.

    width: ROWS or two vectors."""
    n, K, size = X.shape[0], X.shape[1], X.itemsize
    lanes = BYTES // size
    end = n - n % width  # of whole panels
    if X.strides[0] == size:
        # The rows of a tile are no whole vectors: with the last numbers one would end outside of X.
        done = K if width == 2 * lanes else K - 1
        for k in range(done):
            for i in range(0, end, width):
                if width == ROWS:
                    move_rows(X, i, k, panels, i // width, width * k)
                else:
                    move_vectors(X, i, k, panels, i // width, width * k)
    else:
        done = K - K % lanes if X.strides[1] == size else 0
        for i in range(0, end, width):
            for k in range(0, done, lanes):
                if width == ROWS:
                    turn_rows(X, i, k, panels, i // width, width * k)
                else:
                    turn_vectors(X, i, k, panels, i // width, width * k)
    for i in range(0, n, width):
        panel = panels[i // width]
        for k in range(0 if i == end else done, K):
            for j in range(width):
                panel[width * k + j] = X[i + j, k] if i + j < n else 0
        panel[width * K : width * filled(K)] = 0
