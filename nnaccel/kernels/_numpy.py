"""Kernels for NumPy: results written where they belong, elementwise work in cache-sized blocks.

NumPy's cost beside the matrix products is memory: each elementwise operation makes a temporary
that travels through main memory. Here every buffer is made once and used again in each step,
gradients are written straight into one flat vector, and chains of elementwise operations run on
blocks that stay in the cache, there by the definitions of floor 1 themselves.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnaccel import activations, optimizers
from nnaccel.activations import Activation
from nnaccel.batches import gather
from nnaccel.layers.dense import dense, dense_vjp
from nnaccel.layers.dropout import dropout, dropout_vjp
from nnaccel.losses import softmax_cross_entropy
from nnaccel.network import Layout, Slot, flatten, l2_penalty, leaves, transform, views
from nnaccel.random import Key, bernoulli
from nnaccel.typing import Array

BLOCK = 16_384  # elements: three blocks of float32 fit in a second-level cache


def kernels() -> dict[Callable, Callable]:
    """A new set of kernels with a workspace of its own, as the entries of an `Ops`."""
    space = Workspace()
    return {
        views: space.views,
        flatten: space.flatten,
        gather: space.gather,
        dense: space.dense,
        dense_vjp: space.dense_vjp,
        dropout: space.dropout,
        dropout_vjp: dropout_vjp_in_place,
        softmax_cross_entropy: space.softmax_cross_entropy,
        l2_penalty: l2_penalty_in_place,
        optimizers.gradient_descent_update: gradient_descent_in_place,
        optimizers.momentum_update: momentum_in_place,
        optimizers.nesterov_update: nesterov_in_place,
        optimizers.adam_update: adam_in_place,
        optimizers.shrink_weights: shrink_weights_in_place,
        optimizers.clip_by_global_norm: clip_in_place,
    }


class Workspace:
    """The buffers of one training run, and the kernels that write into them.

    A step asks for its buffers in the same order each time, so the n-th request gets the n-th
    buffer; `views` is the first operation of every step and starts the count again.
    """

    def __init__(self) -> None:
        self._buffers: list[Array] = []
        self._next = 0
        self._params: Array | None = None
        self._tree: Any = ()
        self._grads = np.empty(0)
        self._homes: dict[int, Array] = {}

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array, valid until this step's successor asks for it."""
        size = 1
        for length in shape:
            size *= length
        if self._next == len(self._buffers):
            self._buffers.append(np.empty(size, dtype))
        buffer = self._buffers[self._next]
        if buffer.size < size or buffer.dtype != dtype:
            buffer = self._buffers[self._next] = np.empty(size, dtype)
        self._next += 1
        return buffer[:size].reshape(shape)

    def views(self, params: Array, places: Layout) -> Any:
        """Twin of `network.views`; also makes the gradient vector, and knows each dW by its W."""
        self._next = 0
        if params is not self._params:
            self._params, self._tree = params, views(params, places, xp=np)
            if self._grads.shape != params.shape or self._grads.dtype != params.dtype:
                self._grads = np.empty_like(params)
            self._homes = {
                id(W): dW
                for W, dW in zip(
                    leaves(self._tree), leaves(views(self._grads, places, xp=np)), strict=True
                )
            }
        return self._tree

    def flatten(self, arrays: Any, places: Layout) -> Array:
        """Twin of `network.flatten`, for gradients: copies only what is not yet in its place."""
        for home, array in zip(self._homes.values(), leaves(arrays), strict=True):
            if array is not home:
                home[...] = array
        return self._grads

    def gather(self, X: Array, index: Array, dtype: Any) -> Array:
        """Twin of `batches.gather`."""
        shape = (len(index), *X.shape[1:])
        # mode="clip" lets take write into `out` without a buffer of its own; index is in range.
        rows = np.take(X, index, axis=0, out=self.empty(shape, X.dtype), mode="clip")
        if X.dtype == dtype:
            return rows
        cast = self.empty(shape, dtype)
        cast[...] = rows
        return cast

    def dense(self, X: Array, W: Array, b: Array, activation: Activation) -> tuple[Any, Array]:
        """Twin of `layers.dense.dense`; Z is None where the activation does not read it."""
        if X.ndim != 2 or W.ndim != 2:
            return dense(X, W, b, activation, xp=np)
        Z = np.matmul(X, W, out=self.empty((X.shape[0], W.shape[1]), W.dtype))
        A = self.empty(Z.shape, Z.dtype) if activation.reads_Z else Z
        forward = IN_PLACE.get(activation)
        for rows in row_blocks(Z):
            Zb = Z[rows]
            Zb += b
            if forward is not None:
                forward(Zb)
            elif activation.forward is not activations.identity:
                A[rows] = activation.forward(Zb, xp=np)
        return (Z if activation.reads_Z else None), A

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
        """Twin of `layers.dense.dense_vjp`: dZ overwrites dA, dW goes into the flat gradient."""
        if X.ndim != 2 or W.ndim != 2:
            return dense_vjp(dA, X, W, Z, A, activation, xp=np, need_dX=need_dX)
        if activation.vjp is not activations.identity_vjp:
            for rows in row_blocks(A):
                dA[rows] = activation.vjp(
                    dA[rows], Z[rows] if Z is not None else None, A[rows], xp=np
                )
        dZ = dA
        dW = np.matmul(X.T, dZ, out=self._homes.get(id(W)))
        # A product with ones adds up the rows several times faster than a sum over them.
        db = np.ones((1, dZ.shape[0]), dZ.dtype) @ dZ
        dX = np.matmul(dZ, W.T, out=self.empty(X.shape, dZ.dtype)) if need_dX else None
        return dX, dW, db

    def dropout(self, X: Array, key: Key, rate: float) -> tuple[Array, Array]:
        """Twin of `layers.dropout.dropout`."""
        M = self.empty(X.shape, X.dtype)
        np.multiply(bernoulli(key, 1.0 - rate, X.shape, xp=np), 1.0 / (1.0 - rate), out=M)
        return np.multiply(X, M, out=self.empty(X.shape, X.dtype)), M

    def softmax_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None = None, label_smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """Twin of `losses.softmax_cross_entropy`; class numbers are looked up, not spread out."""
        if label_smoothing or Y.dtype.kind not in "iu" or Z.ndim != 2:
            return softmax_cross_entropy(
                Z, Y, weights, xp=np, label_smoothing=label_smoothing
            )
        rows = np.arange(Z.shape[0])
        P = np.subtract(Z, Z.max(axis=1, keepdims=True), out=self.empty(Z.shape, Z.dtype))
        at_Y = P[rows, Y]
        np.exp(P, out=P)
        S = P.sum(axis=1, keepdims=True)
        losses = np.log(S[:, 0]) - at_Y
        P /= S
        P[rows, Y] -= 1.0
        if weights is None:
            P *= 1.0 / Z.shape[0]
        else:
            losses *= weights
            P *= weights[:, None] / Z.shape[0]
        return losses.mean(), P


def row_blocks(A: Array) -> Iterator[slice]:
    """Slices of whole rows that hold about BLOCK elements of A (N, H)."""
    rows = max(1, BLOCK // max(A.shape[1], 1))
    for start in range(0, A.shape[0], rows):
        yield slice(start, start + rows)


def blocks(vector: Array) -> Iterator[slice]:
    """Slices of BLOCK elements of a flat vector."""
    for start in range(0, vector.shape[0], BLOCK):
        yield slice(start, start + BLOCK)


def relu_in_place(Z: Array) -> None:
    np.maximum(Z, 0.0, out=Z)


def tanh_in_place(Z: Array) -> None:
    np.tanh(Z, out=Z)


def sigmoid_in_place(Z: Array) -> None:
    Z *= 0.5
    np.tanh(Z, out=Z)
    Z *= 0.5
    Z += 0.5


IN_PLACE: dict[Activation, Callable[[Array], None]] = {
    activations.ACTIVATIONS["relu"]: relu_in_place,
    activations.ACTIVATIONS["tanh"]: tanh_in_place,
    activations.ACTIVATIONS["sigmoid"]: sigmoid_in_place,
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
    for part in blocks(W):
        dW[part] += l2 * W[part]
    return value + (0.5 * l2) * (W @ W), grads


def gradient_descent_in_place(params: Array, grads: Array, rate: Array) -> Array:
    """Twin of `optimizers.gradient_descent_update`."""
    grads *= rate
    params -= grads
    return params


def momentum_in_place(
    params: Array, grads: Array, velocity: Array, rate: Array, beta: Any
) -> tuple[Array, Array]:
    """Twin of `optimizers.momentum_update`."""
    grads *= rate
    velocity *= beta
    velocity -= grads
    params += velocity
    return params, velocity


def nesterov_in_place(
    params: Array, grads: Array, velocity: Array, rate: Array, beta: Any
) -> tuple[Array, Array]:
    """Twin of `optimizers.nesterov_update`."""
    grads *= rate
    velocity *= beta
    velocity -= grads
    params -= grads
    params += beta * velocity
    return params, velocity


def adam_in_place(
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
    """Twin of `optimizers.adam_update`, block by block; destroys grads."""
    if params.ndim > 1:
        return optimizers.adam_update(
            params, grads, mu, nu, rate, beta_1, beta_2, correction_1, correction_2, epsilon, xp=np
        )
    scratch = np.empty(min(BLOCK, params.shape[0]), params.dtype)
    step, spread = rate / correction_1, 1.0 / correction_2
    for part in blocks(params):
        g, m, v = grads[part], mu[part], nu[part]
        s = scratch[: g.shape[0]]
        m *= beta_1
        m += np.multiply(g, 1.0 - beta_1, out=s)
        v *= beta_2
        g *= g
        g *= 1.0 - beta_2
        v += g
        np.multiply(v, spread, out=s)
        np.sqrt(s, out=s)
        s += epsilon
        np.divide(m, s, out=s)
        s *= step
        params[part] -= s
    return params, mu, nu


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
