"""The dense layer on a device: its matrix products, and the kernels of `dense.cuh`."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nnaccel.kernels.cuda import fusions
from nnaccel.kernels.cuda.ahead import Ahead
from nnaccel.kernels.cuda.bfloat16 import BF16, Bfloat16Copies
from nnaccel.kernels.cuda.cublaslt import address
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.early_update import EarlyUpdate
from nnaccel.kernels.cuda.launch import (
    BLOCKS,
    are_contiguous,
    are_matrices,
    gap,
    kernel,
    pointer,
    row_grid,
)
from nnaccel.kernels.cuda.loss import LossKernels
from nnaccel.kernels.cuda.product_plan import MASK_COLUMNS
from nnaccel.kernels.cuda.products import Products, product_shape
from nnaccel.kernels.cuda.signatures import BFLOAT16, LANES, READS_SIGN, THREADS, TYPES, functor
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.typing import Array, Namespace

# Largest N D, examples times inputs, for which a layer of at most LANES units is one kernel. Launch
# time dominates a small product; cuBLAS is faster for a large one.
SMALL = 2**20

MANY_BLOCKS = 256  # about two blocks per multiprocessor of a large device


class Outputs(NamedTuple):
    """The output arrays of a layer; None for an output that nothing reads.

    Z: (..., N, H) pre-activations.   A: (..., N, H) activations.   copy: A in bfloat16.
    mask: (..., N, H / 32) words with the bits of ReLU's derivative.
    """

    Z: Array
    A: Array | None
    copy: Array | None
    mask: Array | None


class DenseKernels:
    """`dense` and its derivative, for one network or for K networks along a leading axis.

    For activations without a functor and for arrays that are not contiguous, only the products run
    here and the definition computes the rest.
    """

    def __init__(
        self,
        xp: Namespace,
        precision: str,
        buffers: DeviceBuffers,
        products: Products,
        copies: Bfloat16Copies,
        ahead: Ahead,
        losses: LossKernels,
        early: EarlyUpdate,
    ) -> None:
        self._xp, self._tf32 = xp, precision == "tf32"
        self._buffers, self._products, self._copies = buffers, products, copies
        self._ahead, self._losses, self._early = ahead, losses, early
        self._dense: Any = partial(dense, xp=xp, precision=precision)
        self._dense_vjp: Any = partial(dense_vjp, xp=xp, precision=precision)

    def kernels(self) -> dict[Callable, Callable]:
        return {dense: self.dense, dense_vjp: self.dense_vjp}

    def dense(self, X: Array, W: Array, b: Array, activation: Activation) -> tuple[Any, Array]:
        """Twin of `layers.dense.dense`: returns Z and A = g(X W + b), (..., N, H).

        X: (..., N, D).   W: (..., D, H).   b: (..., 1, H).
        Z is None if the derivative of the activation does not read it. Where the second output is
        A in bfloat16, the first is the float32 array that the derivative reads: Z, A or None.
        """
        shape = product_shape(X, W)
        if shape is None or not self._copies.are_factors(X, W) or b.dtype != W.dtype:
            return self._dense(X, W, b, activation)
        Z = self._buffers.empty(shape, W.dtype)
        x, w = self._copies.factor(X), self._copies.factor(W)
        g = functor(activation)
        fits = W.ndim == b.ndim == len(shape) and are_matrices(W, b) and x.flags.c_contiguous
        if g is None or not fits:
            Z = self._products.matmul(x, w, Z) + b
            return Z, activation.forward(Z, xp=self._xp)
        narrow = shape[-1] <= LANES and shape[-2] * x.shape[-1] <= SMALL
        if narrow and g[0] == "Identity" and self._losses.with_output_layer(x, w, b, Z, W):
            return None, Z
        A = self._buffers.empty(shape, W.dtype) if activation.reads_Z else Z
        copy = self._copies.alone(A) if self._ahead.feeds_dense(W) else None
        # With a copy, which the next layer reads, only the derivative may read A in float32.
        wanted = copy is None or not (activation.reads_Z or g[0] in READS_SIGN)
        mask = self._mask_for(A, W, g[0]) if fusions.RELU_IN_PRODUCT else None
        outputs = Outputs(Z, A if wanted else None, copy, mask)
        self._forward(x, w, b, outputs, g, narrow)
        if copy is not None:
            return (Z if activation.reads_Z else outputs.A), copy
        if g[0] == "Identity":
            self._ahead.announce_logits(A, self._buffers.gradients_of(W)[1])
        return (Z if activation.reads_Z else None), A

    def _mask_for(self, A: Array, W: Array, G: str) -> Array | None:
        """A new mask for the bits of ReLU's derivative, which the product of the layer above reads;
        None where that product cannot apply them.

        A: (..., N, H).   G: the functor of the activation.   Returns (..., N, H / 32) words.
        """
        db = self._buffers.gradients_of(W)[1]
        if (
            G != "Relu"
            or db is None
            or A.dtype != np.float32
            or A.shape[-1] % MASK_COLUMNS
            or self._copies.rounds(A)  # the library would round db too
            or not self._ahead.feeds_dense(W)
        ):
            return None
        mask = self._buffers.empty((*A.shape[:-1], A.shape[-1] // 32), np.uint32)
        self._ahead.announce_mask(A, mask, db)
        return mask

    def _forward(
        self, x: Array, w: Array, b: Array, to: Outputs, g: tuple[str, float], narrow: bool
    ) -> None:
        """Z = x w + b and A = g(Z): one kernel for a narrow layer, else a product and a kernel.

        x: (..., N, D).   w: (..., D, H).   b: (..., 1, H).   g: the functor and its parameter.
        """
        (N, D), H, T, (G, parameter) = x.shape[-2:], w.shape[-1], TYPES[b.dtype.name], g
        A, copy, networks = pointer(to.A), pointer(to.copy), prod(to.Z.shape[:-2])
        if narrow:
            rows = THREADS // LANES // 2
            launch = kernel("narrow_dense", T, BFLOAT16 if x.dtype == BF16 else T, G)
            factors = (x, gap(x), w, gap(w), b, gap(b))
            args = (*factors, to.Z, A, copy, N, D, H, parameter, int(self._tf32))
            launch((-(-N // rows), 1, networks), (LANES, rows), args)
        else:
            self._products.matmul(x, w, to.Z)
            launch = kernel("bias_activation", T, G)
            grid, block = row_grid(N, H, b.itemsize)
            args = (to.Z, b, gap(b), A, copy, pointer(to.mask), N, H, parameter)
            launch((*grid, networks), block, args)

    def dense_vjp(
        self,
        dA: Array,
        X: Array,
        W: Array,
        Z: Array | None,
        A: Array,
        activation: Activation,
        need_dX: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        """Twin of `layers.dense.dense_vjp`: returns dX, dW and db.

        dA, Z, A: (..., N, H).   X, dX: (..., N, D).   W, dW: (..., D, H).   db: (..., 1, H).
        dZ may overwrite dA. For parameters of the current pass, dW and db are views of the
        gradient vector.
        """
        shape, factor = product_shape(X, W), self._copies.factor
        are_factors = self._copies.are_factors
        known = are_factors(X, W) and are_factors(A, W) and are_factors(dA, W)
        if shape is None or shape != A.shape or not known:
            return self._dense_vjp(dA, X, W, Z, A, activation, need_dX=need_dX)
        home, db = self._buffers.gradients_of(W)
        dZ, db = self._backward(dA, W, Z, A, activation, db)
        dW = self._buffers.empty((*shape[:-2], *W.shape[-2:]), W.dtype) if home is None else home
        dZ = factor(dZ)
        self._products.matmul(factor(X).swapaxes(-1, -2), dZ, dW)
        if not need_dX:
            return None, dW, db
        dX = self._buffers.empty((*shape[:-1], W.shape[-2]), W.dtype)
        self._multiply_back(dZ, factor(W).swapaxes(-1, -2), dX, X)
        early = self._early.expected is not None and home is not None
        if early and self._ahead.is_dense(W):
            self._early.weights_done(W)
        return dX, dW, db

    def _multiply_back(self, dZ: Array, WT: Array, dX: Array, X: Array) -> None:
        """dX = dZ W^T. If the layer with output X has announced a mask, dX is multiplied by ReLU's
        derivative, which gives that layer's dZ, and its sum over examples is written into db.

        dZ: (..., N, H).   WT: (..., H, D).   X, dX: (..., N, D).
        """
        relu = self._ahead.mask_for(X)
        if relu is not None and self._products.relu_matmul(dZ, WT, dX, *relu):
            self._ahead.found(dX, relu[1])
        else:
            self._products.matmul(dZ, WT, dX)

    def _backward(
        self,
        dA: Array,
        W: Array,
        Z: Array | None,
        A: Array,
        activation: Activation,
        db: Array | None,
    ) -> tuple[Array, Array]:
        """dZ = dA g'(Z), (..., N, H), and db (..., 1, H), the sum of dZ over examples.

        dZ may overwrite dA, or be in bfloat16.   db: the array for the sum, or None for a new one.
        """
        if db is not None and self._ahead.is_sum(db, dA):
            return dA, db
        g = functor(activation)
        read: Any = Z if activation.reads_Z or (A.dtype == BF16 and Z is not None) else A
        fits = W.ndim == A.ndim and are_matrices(W) and are_contiguous(dA)
        if g is None or not (fits and read.flags.c_contiguous) or dA.dtype != W.dtype:
            dZ = activation.vjp(dA, Z, A, xp=self._xp)
            return dZ, self._xp.sum(dZ, axis=-2, keepdims=True)
        if db is None:
            db = self._buffers.empty((*W.shape[:-2], 1, W.shape[-1]), W.dtype)
        return self._activation_vjp(dA, read, g, db), db

    def _activation_vjp(self, dA: Array, read: Array, g: tuple[str, float], db: Array) -> Array:
        """Returns dZ = dA g'(Z), which overwrites dA or is a new bfloat16 array; writes its sum
        over examples into db.

        dA: (..., N, H).   read: Z where the derivative reads it, else A.   g: the functor and its
        parameter.   db: (..., 1, H).
        """
        (N, H), T, (G, parameter) = dA.shape[-2:], TYPES[dA.dtype.name], g
        copy, networks = self._copies.alone(dA), prod(dA.shape[:-2])
        each = 16 // dA.itemsize  # columns per thread
        wide = H % each == 0 and all(address(x) % 16 == 0 for x in (dA, read))
        columns = -(-H // (LANES * each if wide else LANES))
        # At least 32 rows per block, unless that would leave multiprocessors without a block.
        enough = networks * columns * N >= LANES * MANY_BLOCKS
        rows = LANES if enough else THREADS // LANES
        strips = max(1, min(BLOCKS // columns, -(-N // rows)))
        n_sums, n_counters = networks * strips * H, networks * columns
        partials, counters = self._buffers.partial_sums(n_sums, dA.dtype, n_counters)
        launch = kernel("activation_vjp", T, BFLOAT16 if read.dtype == BF16 else T, G)
        args = (
            dA, read, pointer(copy), db, gap(db), N, H, parameter, int(wide), partials, counters,
        )  # fmt: skip
        launch((columns, strips, networks), (LANES, THREADS // LANES), args)
        return dA if copy is None else copy
