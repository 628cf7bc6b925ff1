"""Kernels for NumPy: results in buffers and gradient views, elementwise operations in blocks.

Apart from matrix products, NumPy's steps spend their time on memory: each elementwise operation
makes a temporary array that passes through main memory. Here every buffer is allocated once and
used again in each step, gradients are written into views of one flat vector, and chains of
elementwise operations run on blocks that stay in the cache.
Shapes are those of the definitions: X (B, D), W (D, H), b (1, H), Z and A (B, H). Kernels call the
definition for other shapes, such as those of several networks.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from nnaccel.kernels.dense_plan import activation_of
from nnaccel.kernels.numpy.in_place import (
    ACTIVATIONS,
    constant,
    cross_entropies,
    one_hot,
    run,
)
from nnaccel.kernels.numpy.in_place import (
    softmax_cross_entropy as columns_cross_entropy,
)
from nnaccel.kernels.numpy.updates import (
    Updates,
    blocks,
    clip_in_place,
    l2_penalty_in_place,
    shrink_weights_in_place,
)
from nnaccel.maths import optimizers
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.layers.dropout import dropout, dropout_vjp
from nnaccel.maths.losses import softmax, softmax_cross_entropy
from nnaccel.maths.minibatch import minibatch, of_networks
from nnaccel.maths.network import flatten, l2_penalty, views
from nnaccel.maths.precision import PRECISIONS, rounded
from nnaccel.maths.random import Key, bernoulli
from nnaccel.typing import Array


def kernels(precision: str = "float32") -> dict[Callable, Callable]:
    """A new set of kernels with their own workspace, as the entries of an `Ops`."""
    return Workspace(precision).kernels()


class Workspace(Updates):
    """The buffers of one training run, and the kernels that write into them.

    A precision below float32 rounds the operands of products. It takes longer, and shows what a GPU
    would compute.
    """

    def __init__(self, precision: str = "float32") -> None:
        super().__init__()
        self._precision = precision
        self._product = np.ndarray.dot if precision == "float32" else self.product

    def kernels(self) -> dict[Callable, Callable]:
        return {
            views: self.views,
            flatten: self.flatten,
            minibatch: self.minibatch,
            dense: self.dense,
            dense_vjp: self.dense_vjp,
            dropout: self.dropout,
            dropout_vjp: dropout_vjp_in_place,
            softmax: self.softmax,
            softmax_cross_entropy: self.softmax_cross_entropy,
            l2_penalty: l2_penalty_in_place,
            optimizers.gradient_descent_update: self.gradient_descent,
            optimizers.momentum_update: self.momentum,
            optimizers.nesterov_update: self.nesterov,
            optimizers.rmsprop_update: self.rmsprop,
            optimizers.adam_update: self.adam,
            optimizers.shrink_weights: shrink_weights_in_place,
            optimizers.clip_by_global_norm: clip_in_place,
        }

    def minibatch(
        self, X: Array, Y: Array, weights: Array | None, index: Array, dtype: Any
    ) -> tuple[Array, Array, Array | None]:
        """Twin of `minibatch.minibatch`."""
        rows = self._rows("X", X, index)
        if X.dtype != dtype:
            cast = self._buffer("X cast", rows.shape, dtype)
            cast[...] = rows
            rows = cast
        return (
            rows,
            self._rows("Y", Y, index),
            None if weights is None else of_networks(self._rows("weights", weights, index)),
        )

    def _rows(self, name: str, array: Array, index: Array) -> Array:
        rows = self._buffer(name, (index.shape[0], *array.shape[1:]), array.dtype)
        # With mode="clip", `take` writes into the buffer without a copy; index is in range.
        array.take(index, 0, rows, "clip")
        return rows

    def dense(self, X: Array, W: Array, b: Array, activation: Activation) -> tuple[Any, Array]:
        """Twin of `layers.dense.dense`; Z is None where the activation does not read it."""
        if X.ndim != 2 or W.ndim != 2:
            return dense(X, W, b, activation, xp=np, precision=self._precision)
        Z = self._product(X, W, self.empty((X.shape[0], W.shape[1]), W.dtype))
        A = self.empty(Z.shape, Z.dtype) if activation.reads_Z else Z
        self.activate(Z, b, A, activation)
        return (Z if activation.reads_Z else None), A

    def activate(self, Z: Array, b: Array, A: Array, activation: Activation) -> None:
        """Z += b and A = g(Z), (B, H). A may be Z."""
        known = in_place(activation)
        for rows in blocks(*Z.shape):
            Zb = Z[rows]
            Zb += b
            if known is None:
                A[rows] = activation.forward(Zb, xp=np)
            else:
                forward, _, slope = known
                run(forward(Zb, slope, self._buffer("room", Zb.shape, Zb.dtype)))

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
        """Twin of `layers.dense.dense_vjp`. dZ overwrites dA; dW and db are views of the gradient
        vector."""
        if X.ndim != 2 or W.ndim != 2:
            return dense_vjp(
                dA, X, W, Z, A, activation, xp=np, need_dX=need_dX, precision=self._precision
            )
        dW, db = self._homes.get(id(W), (None, None))
        if db is None:
            db = np.empty((1, W.shape[1]), W.dtype)
        dZ = self.derive(dA, Z, A, activation, db)
        dW = self._product(X.T, dZ, dW)
        dX = self._product(dZ, W.T, self.empty(X.shape, dZ.dtype)) if need_dX else None
        return dX, dW, db

    def product(self, X: Array, Y: Array, out: Array | None) -> Array:
        """X Y with operands rounded to the precision of the workspace, which is below float32."""
        return self.rounded(X, "left").dot(self.rounded(Y, "right"), out)

    def rounded(self, x: Array, place: str) -> Array:
        """Twin of `precision.rounded`, in the buffer of a place, with the memory order of x."""
        if x.dtype != np.float32:
            return rounded(x, self._precision, xp=np)
        if x.flags.f_contiguous and not x.flags.c_contiguous:
            return self.rounded(x.T, place).T
        y = self._buffer(place, x.shape, np.float32)
        self.shorten(x, y, PRECISIONS["float32"] - PRECISIONS[self._precision])
        return y

    def shorten(self, x: Array, y: Array, n: int) -> None:
        """y = x rounded to n binary digits fewer, by arithmetic on the bits of x (N, D).

        A carry into the exponent is correct: the number rounds up to a power of 2.
        """
        for rows in blocks(*x.shape):
            bits, result = x[rows].view(np.uint32), y[rows].view(np.uint32)
            np.right_shift(bits, n, out=result)
            result &= 1  # a tie rounds up where the last digit that is kept is odd
            result += 2 ** (n - 1) - 1
            result += bits
            result &= 2**32 - 2**n
            np.copyto(y[rows], x[rows], where=np.isnan(x[rows]))

    def derive(
        self, dA: Array, Z: Array | None, A: Array, activation: Activation, db: Array
    ) -> Array:
        """dZ = dA g'(Z) (B, H), written over dA, and db (1, H), its sum over examples."""
        known = in_place(activation)
        for rows in blocks(*A.shape):
            d, a = dA[rows], A[rows]
            if known is None:
                dA[rows] = activation.vjp(d, Z if Z is None else Z[rows], a, xp=np)
            else:
                _, vjp, slope = known
                run(vjp(d, a, slope, self._buffer("room", a.shape, a.dtype)))
        # A product with ones adds up the rows several times faster than a sum over them.
        constant(1.0, (1, dA.shape[0]), dA.dtype).dot(dA, db)
        return dA

    def dropout(self, X: Array, key: Key, rate: float) -> tuple[Array, Array]:
        """Twin of `layers.dropout.dropout`."""
        M = self.empty(X.shape[-2:], X.dtype)
        np.multiply(bernoulli(key, 1.0 - rate, M.shape, xp=np), 1.0 / (1.0 - rate), out=M)
        return np.multiply(X, M, out=self.empty(X.shape, X.dtype)), M

    def softmax(self, Z: Array) -> Array:
        """Twin of `losses.softmax`, with one example per column: NumPy is slow along short rows."""
        if Z.ndim != 2 or not Z.size:
            return softmax(Z, xp=np)
        P = self.empty(Z.shape[::-1], Z.dtype)
        P[...] = Z.T
        P -= np.maximum.reduce(P, 0)
        np.exp(P, P)
        P /= constant(1.0, (1, P.shape[0]), P.dtype).dot(P)  # several times faster than a sum
        return P.T

    def softmax_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None = None, label_smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """Twin of `losses.softmax_cross_entropy`, for class numbers Y (B,)."""
        if label_smoothing or Y.dtype.kind not in "iu" or Z.ndim != 2 or not Z.size:
            return softmax_cross_entropy(Z, Y, weights, xp=np, label_smoothing=label_smoothing)
        (N, K), dtype = Z.shape, Z.dtype
        columns, dZ = self._buffer("logits", (K, N), dtype), self.empty((K, N), dtype)
        shifted, S = self._buffer("shifted", (K, N), dtype), self._buffer("sums", (1, N), dtype)
        targets = self._buffer("targets", (K, N), dtype)
        columns[...] = Z.T
        one_hot(Y, class_numbers(K), targets)
        run(columns_cross_entropy(columns, targets, shifted, S, dZ))
        losses = cross_entropies(shifted, S, targets)
        if weights is not None:
            losses *= weights
        dZ *= dtype.type(1.0 / N) if weights is None else weights / N
        return np.add.reduce(losses.reshape(-1)) / dtype.type(N), dZ.T


@lru_cache(maxsize=64)
def in_place(activation: Activation) -> tuple[Callable, Callable, float] | None:
    """The sequences of calls for g and g', and their parameter; None for an activation without
    them."""
    match activation_of(activation):
        case (name, slope) if name in ACTIVATIONS:
            return *ACTIVATIONS[name], slope
    return None


@lru_cache(maxsize=8)
def class_numbers(K: int) -> Array:
    """0, ..., K - 1 as a column (K, 1)."""
    return np.arange(K)[:, None]


def dropout_vjp_in_place(dA: Array, M: Array) -> Array:
    """Twin of `layers.dropout.dropout_vjp`. The result overwrites dA (..., B, H)."""
    dA *= M
    return dA
