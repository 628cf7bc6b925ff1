"""The minibatch, dropout, the loss and the L2 penalty on a device, each in one launch."""

from collections.abc import Callable
from math import prod
from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda.ahead import Ahead
from nnaccel.kernels.cuda.bfloat16 import Bfloat16Copies
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.launch import (
    BLOCKS,
    are_contiguous,
    gap,
    kernel,
    pointer,
    row_grid,
    vector_grid,
)
from nnaccel.kernels.cuda.signatures import CASTS, HELD, INTEGERS, LANES, THREADS, TYPES
from nnaccel.maths.layers.dropout import dropout, dropout_vjp
from nnaccel.maths.layers.piecewise_linear import Bins, piecewise_linear
from nnaccel.maths.losses import softmax_cross_entropy
from nnaccel.maths.minibatch import minibatch, of_networks
from nnaccel.maths.network import l2_penalty
from nnaccel.maths.random import BITS, Key, words
from nnaccel.typing import Array, Namespace

FEW_BLOCKS = 128  # of a launch whose results one block adds up one by one


class ElementwiseKernels:
    """The operations of a step that multiply no matrices. Arrays that a kernel does not take are
    left to the definition."""

    def __init__(
        self,
        xp: Namespace,
        buffers: DeviceBuffers,
        copies: Bfloat16Copies,
        ahead: Ahead,
    ) -> None:
        self._xp, self._buffers, self._copies = xp, buffers, copies
        self._ahead = ahead
        self._bins: dict[Any, Any] = {}  # (id(bins), dtype) -> bins, and their arrays

    def kernels(self) -> dict[Callable, Callable]:
        return {
            minibatch: self.minibatch,
            dropout: self.dropout,
            dropout_vjp: self.dropout_vjp,
            piecewise_linear: self.piecewise_linear,
            softmax_cross_entropy: self.softmax_cross_entropy,
            l2_penalty: self.l2_penalty,
        }

    def minibatch(
        self, X: Array, Y: Array, weights: Array | None, index: Array, dtype: Any
    ) -> tuple[Array, Array, Array | None]:
        """Twin of `minibatch.minibatch`. X may be in bfloat16, where only a product reads it."""
        dtype, B = np.dtype(dtype), index.shape[0]
        if (
            not (B and X.size and Y.size)
            or X.strides[1] != X.itemsize
            or X.dtype.name not in CASTS
            or Y.itemsize > 8
            or not (Y.flags.c_contiguous and index.flags.c_contiguous)
            or index.dtype != np.int64
            or dtype.name not in TYPES
            or (weights is not None and not (are_contiguous(weights) and weights.dtype == dtype))
        ):
            return minibatch(X, Y, weights, index, dtype, xp=self._xp)
        if weights is not None and weights.ndim > 1:  # of each network
            X, Y, _ = self.minibatch(X, Y, None, index, dtype)
            return X, Y, of_networks(self._xp.take(weights, index, axis=0))
        D, row = X.shape[1], Y.shape[1:]
        X_rows, copy = self._copies.minibatch((B, D), dtype)
        Y_rows = self._buffers.named("Y", (B, *row), Y.dtype)
        w_rows = None if weights is None else self._buffers.named("weights", (B,), dtype)
        args = (
            X, X.strides[0] // X.itemsize, index, pointer(X_rows), pointer(copy), B, D,
            Y, Y_rows, Y.itemsize, prod(row), pointer(weights), pointer(w_rows),
        )  # fmt: skip
        launch = kernel("minibatch", TYPES[dtype.name], CASTS[X.dtype.name])
        launch(*row_grid(B, D, dtype.itemsize), args)
        return copy if X_rows is None else X_rows, Y_rows, w_rows

    def dropout(self, X: Array, key: Key, rate: float) -> tuple[Array, Array]:
        """Twin of `layers.dropout.dropout`; the step of the key may also be a number."""
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
        """Twin of `layers.dropout.dropout_vjp`: the result overwrites dA."""
        dA *= M
        return dA

    def piecewise_linear(self, X: Array, bins: Bins) -> Array:
        """Twin of `layers.piecewise_linear.piecewise_linear`."""
        if X.ndim != 2 or not X.size or not bins.of or not are_contiguous(X):
            return piecewise_linear(X, bins, xp=self._xp)
        (N, D), n_bins = X.shape, len(bins.of)
        A = self._buffers.empty((N, D + n_bins), X.dtype)
        args = (X, A, pointer(self._copies.beside(A)), *self._bins_of(bins, X.dtype), N, D, n_bins)
        kernel("encode", TYPES[X.dtype.name])(*row_grid(N, D + n_bins, X.itemsize), args)
        return A

    def _bins_of(self, bins: Bins, dtype: Any) -> tuple[Array, Array, Array]:
        """The inputs, lower edges and slopes of bins on the device, where they are brought once."""
        known = self._bins.get((id(bins), dtype))
        if known is None:  # with `bins`, lest others get its id
            numbers = (cupy.asarray(np.array(x, dtype)) for x in (bins.low, bins.slope))
            known = bins, (cupy.asarray(np.array(bins.of, np.int64)), *numbers)
            self._bins[id(bins), dtype] = known
        return known[1]

    def softmax_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None = None, label_smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """Twin of `losses.softmax_cross_entropy`, for class numbers that all networks share.

        With few classes it also writes db of the layer with the logits Z; see `Ahead`.
        """
        if (
            label_smoothing
            or Z.ndim not in (2, 3)
            or not Z.size
            or Y.ndim != 1
            or Y.dtype.name not in INTEGERS
            or not Y.flags.c_contiguous
            or not are_contiguous(Z)
            or (weights is not None and (weights.ndim >= Z.ndim or weights.dtype != Z.dtype))
        ):
            return softmax_cross_entropy(
                Z, Y, weights, xp=self._xp, label_smoothing=label_smoothing
            )
        (*lead, N, K), dtype = Z.shape, Z.dtype
        value, dZ, copy = cupy.empty(tuple(lead), dtype), self._buffers.empty(Z.shape, dtype), None
        networks = prod(lead)
        if LANES < K <= THREADS * HELD // dtype.itemsize:
            self._wide_cross_entropy(Z, Y, weights, value, dZ)
            return value, dZ
        db = self._ahead.db_for(Z) if K <= LANES else None
        if db is not None:
            self._ahead.found(dZ, db)
            copy = self._copies.beside(dZ)
        lanes = min(LANES, 1 << (K - 1).bit_length())
        blocks = min(FEW_BLOCKS if K <= LANES else BLOCKS, -(-N * lanes // THREADS))
        n_sums = networks * blocks * (LANES + 1)
        partials, counter = self._buffers.partial_sums(n_sums, dtype, networks)
        args = (
            Z, Y, INTEGERS[Y.dtype.name], *weights_of(weights), value, dZ, pointer(copy),
            pointer(db), gap(db), N, K, lanes, partials, counter,
        )  # fmt: skip
        launch = kernel("softmax_cross_entropy", TYPES[dtype.name])
        launch((blocks, 1, networks), (THREADS,), args)
        return value, dZ

    def _wide_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None, value: Array, dZ: Array
    ) -> None:
        """The same for so many classes that some warps share a row."""
        *lead, N, K = Z.shape
        networks = prod(lead)
        width = max(LANES, 1 << (-(-K * Z.itemsize // HELD) - 1).bit_length())
        blocks = min(BLOCKS, -(-N * width // THREADS))
        partials, counter = self._buffers.partial_sums(networks * blocks, Z.dtype, networks)
        args = (
            Z, Y, INTEGERS[Y.dtype.name], *weights_of(weights), value, dZ, N, K, width,
            partials, counter,
        )  # fmt: skip
        launch = kernel("wide_cross_entropy", TYPES[Z.dtype.name])
        launch((blocks, 1, networks), (THREADS,), args)

    def l2_penalty(
        self, value: Array, grads: Array, params: Array, l2: Any, n_weights: int
    ) -> tuple[Array, Array]:
        """Twin of `network.l2_penalty`: added to the arrays that are given."""
        value = cupy.asarray(value)
        fits = params.ndim in (1, 2) and params.size and are_contiguous(params, grads, value)
        if isinstance(l2, tuple) or not fits:
            return l2_penalty(value, grads, params, l2, n_weights, xp=self._xp)
        (*lead, P), (grid, block) = params.shape, vector_grid(n_weights, params.itemsize)
        networks = prod(lead)
        partials, counter = self._buffers.partial_sums(networks * grid[0], params.dtype, networks)
        args = (value, grads, params, n_weights, P, float(l2), partials, counter)
        kernel("l2_penalty", TYPES[params.dtype.name])((*grid, 1, networks), block, args)
        return value, grads


def weights_of(weights: Array | None) -> tuple[Any, int, int]:
    """The weights (N,), or (networks, N), of examples as arguments: with the elements from one to
    the next, and from network to network."""
    if weights is None:
        return 0, 0, 0
    *network, example = (step // weights.itemsize for step in weights.strides)
    return weights, example, network[0] if network else 0
