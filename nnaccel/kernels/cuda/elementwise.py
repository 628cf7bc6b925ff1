"""The minibatch, dropout and the piecewise linear encoding on a device, each in one launch."""

from collections.abc import Callable
from math import prod
from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda import fusions
from nnaccel.kernels.cuda.ahead import Ahead
from nnaccel.kernels.cuda.bfloat16 import Bfloat16Copies
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.launch import are_contiguous, kernel, pointer, row_grid, vector_grid
from nnaccel.kernels.cuda.signatures import CASTS, TYPES
from nnaccel.maths.layers.dropout import dropout, dropout_vjp
from nnaccel.maths.layers.piecewise_linear import Bins, piecewise_linear
from nnaccel.maths.minibatch import minibatch, of_networks
from nnaccel.maths.random import BITS, Key, words
from nnaccel.typing import Array, Namespace


class ElementwiseKernels:
    """The minibatch, dropout and piecewise linear encoding. The definition computes them for arrays
    that a kernel does not support."""

    def __init__(
        self,
        xp: Namespace,
        buffers: DeviceBuffers,
        copies: Bfloat16Copies,
        ahead: Ahead,
    ) -> None:
        self._xp, self._buffers, self._copies = xp, buffers, copies
        self._ahead = ahead
        self._is_there = False  # whether the rows of the next minibatch are on the device already
        self._bins: dict[Any, Any] = {}  # (id(bins), dtype) -> (bins, their arrays)

    def kernels(self) -> dict[Callable, Callable]:
        return {
            minibatch: self.minibatch,
            dropout: self.dropout,
            dropout_vjp: self.dropout_vjp,
            piecewise_linear: self.piecewise_linear,
        }

    def minibatch(
        self, X: Array, Y: Array, weights: Array | None, index: Array, dtype: Any
    ) -> tuple[Array, Array, Array | None]:
        """Twin of `minibatch.minibatch`: the rows `index` (B,) of X (N, D), Y and weights.

        The rows of X are in bfloat16 where only a product reads them, else in dtype.
        """
        is_there, self._is_there = self._is_there, False
        rows = self._minibatch(X, Y, weights, index, np.dtype(dtype), is_there)
        self._ahead.announce_targets(*rows[1:])
        return rows

    def rows_of(self, data: Any, batch: int, dtype: Any) -> tuple[Any, ...] | None:
        """The members of `Rows` in `minibatch.cuh` for the data set (X, Y, weights): with them the
        last kernel of a step gathers the next minibatch of `batch` examples. None if this is
        switched off or not supported; each step then gathers its own minibatch."""
        (X, Y, weights), dtype = data, np.dtype(dtype)
        if (
            not fusions.NEXT_ROWS
            or not takes_rows(X, Y, weights, dtype)
            or (weights is not None and weights.ndim > 1)
            or X.dtype not in (dtype, np.uint8)
            or batch * X.shape[1] >= 2**31
        ):
            return None
        X_rows, copy, Y_rows, w_rows = self._places(X, Y, weights, batch, dtype)
        return (
            X, int(X.dtype != dtype), X.strides[0] // X.itemsize, X.shape[1],
            pointer(X_rows), pointer(copy), Y, Y_rows, Y.itemsize, prod(Y.shape[1:]),
            pointer(weights), pointer(w_rows),
        )  # fmt: skip

    def rows_are_there(self) -> None:
        """Announces that the previous step has gathered the rows of the next minibatch already."""
        self._is_there = True

    def _minibatch(
        self,
        X: Array,
        Y: Array,
        weights: Array | None,
        index: Array,
        dtype: Any,
        is_there: bool = False,
    ) -> tuple[Array, Array, Array | None]:
        B, D = index.shape[0], X.shape[1]
        known = takes_rows(X, Y, weights, dtype) and B > 0 and index.flags.c_contiguous
        if not known or index.dtype != np.int64:
            return minibatch(X, Y, weights, index, dtype, xp=self._xp)
        if weights is not None and weights.ndim > 1:  # one column per network
            X, Y, _ = self._minibatch(X, Y, None, index, dtype)
            return X, Y, of_networks(self._xp.take(weights, index, axis=0))
        X_rows, copy, Y_rows, w_rows = self._places(X, Y, weights, B, dtype)
        if not is_there:
            args = (
                X, X.strides[0] // X.itemsize, index, pointer(X_rows), pointer(copy), B, D,
                Y, Y_rows, Y.itemsize, prod(Y.shape[1:]), pointer(weights), pointer(w_rows),
            )  # fmt: skip
            launch = kernel("minibatch", TYPES[dtype.name], CASTS[X.dtype.name])
            launch(*row_grid(B, D, dtype.itemsize), args)
        return copy if X_rows is None else X_rows, Y_rows, w_rows

    def _places(
        self, X: Array, Y: Array, weights: Array | None, B: int, dtype: Any
    ) -> tuple[Array | None, Array | None, Array, Array | None]:
        """The arrays for the B rows of a minibatch: X, X in bfloat16, Y and weights. A shorter
        minibatch uses the same memory."""
        X_rows, copy = self._copies.minibatch((B, X.shape[1]), dtype)
        Y_rows = self._buffers.named("Y", (B, *Y.shape[1:]), Y.dtype)
        w_rows = None if weights is None else self._buffers.named("weights", (B,), dtype)
        return X_rows, copy, Y_rows, w_rows

    def dropout(self, X: Array, key: Key, rate: float) -> tuple[Array, Array]:
        """Twin of `layers.dropout.dropout`: returns A = X M and the mask M.

        X, A: (N, D), or (K, N, D) for K networks, which share the mask.   M: (N, D).
        key: its step may also be a number of the host.   rate: the probability of dropping.
        """
        if X.ndim not in (2, 3) or not X.size or not are_contiguous(X):
            key = key._replace(step=cupy.asarray(key.step, dtype=np.int32))
            return dropout(X, key, rate, xp=self._xp)
        keep, on_device = 1.0 - rate, isinstance(key.step, cupy.ndarray)
        step_at, step = (key.step, 0) if on_device else (0, int(key.step))
        A, M = (self._buffers.empty(s, X.dtype) for s in (X.shape, X.shape[-2:]))
        (spread, salt), threshold = words(key.seed), round(keep * 2**BITS)
        args = (
            X, A, M, pointer(self._copies.beside(A)), M.size,
            spread, step_at, step, key.path + salt, threshold, keep,
        )  # fmt: skip
        grid, block = vector_grid(M.size, X.itemsize)
        launch = kernel("dropout", TYPES[X.dtype.name])
        launch((*grid, 1, X.size // M.size), block, args)
        return A, M

    def dropout_vjp(self, dA: Array, M: Array) -> Array:
        """Twin of `layers.dropout.dropout_vjp`: dX = dA M, which overwrites dA."""
        dA *= M
        return dA

    def piecewise_linear(self, X: Array, bins: Bins) -> Array:
        """Twin of `layers.piecewise_linear.piecewise_linear`: X (N, D) -> (N, D + n_bins)."""
        if X.ndim != 2 or not X.size or not bins.of or not are_contiguous(X):
            return piecewise_linear(X, bins, xp=self._xp)
        (N, D), n_bins = X.shape, len(bins.of)
        A = self._buffers.empty((N, D + n_bins), X.dtype)
        args = (X, A, pointer(self._copies.beside(A)), *self._bins_of(bins, X.dtype), N, D, n_bins)
        kernel("encode", TYPES[X.dtype.name])(*row_grid(N, D + n_bins, X.itemsize), args)
        return A

    def _bins_of(self, bins: Bins, dtype: Any) -> tuple[Array, Array, Array]:
        """The inputs, lower edges and slopes of bins on the device, (n_bins,) each."""
        known = self._bins.get((id(bins), dtype))
        if known is None:  # keeps `bins` alive, so that no other object gets its id
            numbers = (cupy.asarray(np.array(x, dtype)) for x in (bins.low, bins.slope))
            known = bins, (cupy.asarray(np.array(bins.of, np.int64)), *numbers)
            self._bins[id(bins), dtype] = known
        return known[1]


def takes_rows(X: Array, Y: Array, weights: Array | None, dtype: Any) -> bool:
    """Whether the kernels can gather rows of this data set, with X cast to dtype."""
    return (
        X.size > 0
        and Y.size > 0
        and X.strides[1] == X.itemsize
        and X.dtype.name in CASTS
        and Y.itemsize <= 8
        and Y.flags.c_contiguous
        and dtype.name in TYPES
        and (weights is None or (are_contiguous(weights) and weights.dtype == dtype))
    )
