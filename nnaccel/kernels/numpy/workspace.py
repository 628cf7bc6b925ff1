"""Kernels for NumPy: results written where they belong, elementwise work in cache-sized blocks.

NumPy's cost beside the matrix products is memory: each elementwise operation makes a temporary
that travels through main memory. Here every buffer is made once and used again in each step,
gradients are written straight into one flat vector, and chains of elementwise operations run on
blocks that stay in the cache.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from nnaccel.kernels.gradient_buffers import Buffers
from nnaccel.maths import activations, optimizers
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.layers.dropout import dropout, dropout_vjp
from nnaccel.maths.losses import softmax_cross_entropy
from nnaccel.maths.minibatch import minibatch
from nnaccel.maths.network import flatten, l2_penalty, views
from nnaccel.maths.precision import PRECISIONS, rounded
from nnaccel.maths.random import Key, bernoulli
from nnaccel.typing import Array

BLOCK = 32_768  # elements: a few blocks of float32 fit in a second-level cache
FEW = 32  # classes, up to which the softmax works on columns: NumPy is slow along short rows
SELDOM = 64  # updates, in one of which a block's moments are looked through for numbers too small


def kernels(precision: str = "float32") -> dict[Callable, Callable]:
    """A new set of kernels with a workspace of its own, as the entries of an `Ops`."""
    return Workspace(precision).kernels()


class Workspace(Buffers):
    """The buffers of one training run, and the kernels that write into them.

    A precision below float32 is imitated: it takes longer, and shows what a GPU would compute.
    """

    def __init__(self, precision: str = "float32") -> None:
        super().__init__(np)
        self._precision = precision
        self._updates = 0
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
            None if weights is None else self._rows("weights", weights, index),
        )

    def _rows(self, name: str, array: Array, index: Array) -> Array:
        rows = self._buffer(name, (index.shape[0], *array.shape[1:]), array.dtype)
        # mode="clip" lets take write into `out` without a buffer of its own; index is in range.
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
        """Z += b and A = g(Z), where A may be Z."""
        forward = IN_PLACE.get(activation.forward)
        for rows in blocks(*Z.shape):
            Zb = Z[rows]
            Zb += b
            if forward is not None:
                forward(Zb)
            else:
                A[rows] = activation.forward(Zb, xp=np)

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
        """Twin of `layers.dense.dense_vjp`: dZ overwrites dA; dW and db are in the gradient."""
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
        """X Y in the precision of the workspace, where it is not float32."""
        return self.rounded(X, "left").dot(self.rounded(Y, "right"), out)

    def rounded(self, x: Array, place: str) -> Array:
        """Twin of `precision.rounded`, in the buffer of that place; as `x` lies in memory."""
        if x.dtype != np.float32:
            return rounded(x, self._precision, xp=np)
        if x.flags.f_contiguous and not x.flags.c_contiguous:
            return self.rounded(x.T, place).T
        y = self._buffer(place, x.shape, np.float32)
        self.shorten(x, y, PRECISIONS["float32"] - PRECISIONS[self._precision])
        return y

    def shorten(self, x: Array, y: Array, n: int) -> None:
        """y = x without its last n digits, rounded, by arithmetic on the bits of x (N, D).

        A carry goes on into the exponent, as it should.
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
        """dZ = dA g'(Z), written over dA, and db, its sum over examples."""
        vjp = VJP_IN_PLACE.get(activation.vjp)
        for rows in blocks(*A.shape):
            if vjp is not None:
                vjp(dA[rows], A[rows])
            else:
                dA[rows] = activation.vjp(dA[rows], Z if Z is None else Z[rows], A[rows], xp=np)
        # A product with ones adds up the rows several times faster than a sum over them.
        constant(1.0, (1, dA.shape[0]), dA.dtype).dot(dA, db)
        return dA

    def dropout(self, X: Array, key: Key, rate: float) -> tuple[Array, Array]:
        """Twin of `layers.dropout.dropout`."""
        M = self.empty(X.shape, X.dtype)
        np.multiply(bernoulli(key, 1.0 - rate, X.shape, xp=np), 1.0 / (1.0 - rate), out=M)
        return np.multiply(X, M, out=self.empty(X.shape, X.dtype)), M

    def softmax_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None = None, label_smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """Twin of `losses.softmax_cross_entropy`; class numbers are looked up, not spread out."""
        if label_smoothing or Y.dtype.kind not in "iu" or Z.ndim != 2 or not Z.size:
            return softmax_cross_entropy(Z, Y, weights, xp=np, label_smoothing=label_smoothing)
        Y = Y.astype(np.intp, copy=False)
        (N, K), dtype = Z.shape, Z.dtype
        # P is (K, N) if there are few classes: sums over K are then sums of whole rows.
        if K <= FEW:
            axis, P = 0, self.empty((K, N), dtype)
            P[...] = Z.T
            at_Y = Y * N
            at_Y += count(N, 1)
        else:
            axis, P = 1, self.empty((N, K), dtype)
            P[...] = Z
            at_Y = count(N, K) + Y
        P -= np.maximum.reduce(P, axis, keepdims=True)
        flat = P.reshape(-1)
        losses = flat.take(at_Y)
        faintest, its_log = faintest_of(dtype)
        np.maximum(P, its_log, out=P)
        np.exp(P, P)
        P -= faintest
        S = np.add.reduce(P, axis, keepdims=True)
        losses = np.log(S.reshape(-1)) - losses
        scale = 1.0 / N if weights is None else weights.reshape(S.shape) / N
        P *= scale / S
        flat[at_Y] -= scale if weights is None else scale.reshape(-1)
        if weights is not None:
            losses *= weights
        return np.add.reduce(losses) / dtype.type(N), P.T if axis == 0 else P

    # The updates. All destroy grads.

    def gradient_descent(self, params: Array, grads: Array, rate: Array) -> Array:
        """Twin of `optimizers.gradient_descent_update`."""
        for p, g in self._blocks(params, grads):
            g *= rate
            p -= g
        return params

    def momentum(
        self, params: Array, grads: Array, velocity: Array, rate: Array, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.momentum_update`."""
        for p, g, v in self._blocks(params, grads, velocity):
            g *= rate
            v *= beta
            v -= g
            p += v
        return params, velocity

    def nesterov(
        self, params: Array, grads: Array, velocity: Array, rate: Array, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.nesterov_update`."""
        for p, g, v in self._blocks(params, grads, velocity):
            g *= rate
            v *= beta
            v -= g
            p -= g
            p += np.multiply(v, beta, out=g)
        return params, velocity

    def rmsprop(
        self,
        params: Array,
        grads: Array,
        square: Array,
        rate: Array,
        beta: Any,
        epsilon: float,
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.rmsprop_update`."""
        for p, g, v in self._blocks(params, grads, square):
            s = np.multiply(g, g, out=self._buffer("update", g.shape, g.dtype))
            s *= 1.0 - beta
            v *= beta
            v += s
            np.sqrt(v, out=s)
            s += epsilon
            g *= rate
            g /= s
            p -= g
        return params, square

    def adam(
        self,
        params: Array,
        grads: Array,
        mu: Array,
        nu: Array,
        rate: Array,
        beta_1: Any,
        beta_2: Any,
        correction_1: Array,
        correction_2: Array,
        epsilon: float,
    ) -> tuple[Array, Array, Array]:
        """Twin of `optimizers.adam_update`."""
        # m / c1 / (sqrt(v / c2) + epsilon) = (root / c1) m / (sqrt(v) + root epsilon), root =
        # sqrt(c2): one pass less.
        root = correction_2**0.5
        step, epsilon = rate * root / correction_1, root * epsilon
        for p, g, m, v in self._blocks(params, grads, mu, nu):
            # g + beta_1 (m - g): as many passes as by the definition, and no room beside g.
            m -= g
            m *= beta_1
            m += g
            g *= g
            g *= 1.0 - beta_2
            v *= beta_2
            v += g
            np.sqrt(v, out=g)
            g += epsilon
            np.divide(m, g, out=g)
            g *= step
            p -= g
        return params, mu, nu

    def _blocks(self, params: Array, grads: Array, *moments: Array) -> Iterator[tuple[Array, ...]]:
        """The same block of each vector, one block after the other, for one update.

        Networks side by side (K, P) are one block, since their numbers may be arrays (K, 1).
        The moment of a unit that has died shrinks with every step until it is denormal, where it
        stays for ever, and many processors take a hundred times longer over such numbers. So now
        and then, once a block has been used, the least numbers in its moments become 0.
        """
        self._updates += 1
        least = least_of(params.dtype)
        parts = blocks(*params.shape) if params.ndim == 1 else (...,)
        for number, part in enumerate(parts, self._updates):
            g, of_block = grads[part], [moment[part] for moment in moments]
            yield params[part], g, *of_block
            if number % SELDOM == 0:
                for moment in of_block:
                    moment *= np.abs(moment, out=g) >= least


@lru_cache(maxsize=64)
def constant(value: float, shape: tuple[int, ...], dtype: Any) -> Array:
    """A read-only array of that value; () for a number, which NumPy takes sooner than Python's."""
    array = np.full(shape, value, dtype)
    array.flags.writeable = False
    return array


@lru_cache(maxsize=64)
def count(n: int, step: int) -> Array:
    """0, step, 2 step, ..., read-only."""
    array = np.arange(0, n * step, step)
    array.flags.writeable = False
    return array


@lru_cache(maxsize=64)
def blocks(length: int, width: int = 1) -> tuple[slice, ...]:
    """Slices of an array (length, width), or of a vector, of about BLOCK elements each."""
    rows = max(1, BLOCK // max(width, 1))
    return tuple(slice(start, start + rows) for start in range(0, length, rows))


def identity_in_place(Z: Array) -> None:
    pass


def relu_in_place(Z: Array) -> None:
    # NumPy's maximum of two arrays is five times faster than that of an array and a number.
    np.maximum(Z, constant(0.0, Z.shape, Z.dtype), out=Z)


def tanh_in_place(Z: Array) -> None:
    np.tanh(Z, out=Z)


def sigmoid_in_place(Z: Array) -> None:
    Z *= 0.5
    np.tanh(Z, out=Z)
    Z *= 0.5
    Z += 0.5


IN_PLACE: dict[Callable, Callable[[Array], None]] = {
    activations.identity: identity_in_place,
    activations.relu: relu_in_place,
    activations.tanh: tanh_in_place,
    activations.sigmoid: sigmoid_in_place,
}


def identity_vjp_in_place(dA: Array, A: Array) -> None:
    pass


def relu_vjp_in_place(dA: Array, A: Array) -> None:
    dA *= A > 0


def tanh_vjp_in_place(dA: Array, A: Array) -> None:
    slope = A * A
    np.subtract(1.0, slope, out=slope)
    dA *= slope


def sigmoid_vjp_in_place(dA: Array, A: Array) -> None:
    slope = 1.0 - A
    slope *= A
    dA *= slope


VJP_IN_PLACE: dict[Callable, Callable[[Array, Array], None]] = {
    activations.identity_vjp: identity_vjp_in_place,
    activations.relu_vjp: relu_vjp_in_place,
    activations.tanh_vjp: tanh_vjp_in_place,
    activations.sigmoid_vjp: sigmoid_vjp_in_place,
}


def dropout_vjp_in_place(dA: Array, M: Array) -> Array:
    """Twin of `layers.dropout.dropout_vjp`: the result overwrites dA."""
    dA *= M
    return dA


def l2_penalty_in_place(
    value: Array, grads: Array, params: Array, l2: float, n_weights: int
) -> tuple[Array, Array]:
    """Twin of `network.l2_penalty`: the penalty's gradient is added to grads."""
    if params.ndim > 1:
        return l2_penalty(value, grads, params, l2, n_weights, xp=np)
    W, dW = params[:n_weights], grads[:n_weights]
    for part in blocks(*W.shape):
        dW[part] += l2 * W[part]
    return value + (0.5 * l2) * (W @ W), grads


@lru_cache(maxsize=2)
def least_of(dtype: Any) -> float:
    """What counts as 0 in a moment: times 0.9 or more it is not denormal after SELDOM updates."""
    return 1024 * float(np.finfo(dtype).tiny)


@lru_cache(maxsize=2)
def faintest_of(dtype: Any) -> tuple[Array, Array]:
    """A term in the sum of a softmax, up to which it counts as 0, and its logarithm.

    It is the root of the smallest normal number. Where a network is certain, the gradient would be
    of denormal numbers otherwise, or its products with weights and inputs would. Nothing is lost:
    rounding has long since taken such a term from the sum.
    """
    log = np.full(1, 0.5 * np.log(np.finfo(dtype).tiny), dtype)
    return np.exp(log)[0], log[0]


def shrink_weights_in_place(params: Array, amount: Array, n_weights: int) -> Array:
    """Twin of `optimizers.shrink_weights`."""
    params[..., :n_weights] *= 1.0 - amount
    return params


def clip_in_place(grads: Array, max_norm: Any) -> Array:
    """Twin of `optimizers.clip_by_global_norm`."""
    if grads.ndim > 1:
        return optimizers.clip_by_global_norm(grads, max_norm, xp=np)
    norm = np.sqrt(grads @ grads)
    if not norm <= max_norm:
        grads *= max_norm / norm
    return grads
