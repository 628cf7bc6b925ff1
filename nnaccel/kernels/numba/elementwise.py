"""Kernels for NumPy arrays that Numba compiles: a chain of elementwise operations in one pass.

They are serial: the threads of the BLAS spin for a while after each product, and Numba's threads at
the same time made a step ten times slower. Since serial passes cost time when products use all
processors, `numba/epoch.py` has whole epochs whose threads compute everything. The kernels here
serve all runs that such an epoch does not support. Matrix products stay with NumPy.
Shapes: Z, A, dA (B, H), b and db (1, H), params (P,). `add_bias` and `add_bias_relu` compute A =
g(Z + b) in Z; `sum_rows` and `derive_relu` compute dZ = dA g'(Z) in dA, and db.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from nnaccel.kernels.numba.exp_log import exp, log
from nnaccel.kernels.numba.jit import compiled
from nnaccel.kernels.numba.updates import adam, add_penalty
from nnaccel.kernels.numpy.in_place import softmax_floor
from nnaccel.kernels.numpy.updates import l2_penalty_in_place
from nnaccel.kernels.numpy.workspace import Workspace
from nnaccel.maths import activations
from nnaccel.maths.activations import Activation
from nnaccel.maths.network import l2_penalty
from nnaccel.typing import Array


def kernels(precision: str = "float32") -> dict[Callable, Callable]:
    """A new set of kernels with their own workspace, as the entries of an `Ops`."""
    return FastWorkspace(precision).kernels()


class FastWorkspace(Workspace):
    """The workspace of the NumPy kernels, with elementwise operations compiled by Numba."""

    def kernels(self) -> dict[Callable, Callable]:
        return super().kernels() | {l2_penalty: l2_penalty_fast}

    def activate(self, Z: Array, b: Array, A: Array, activation: Activation) -> None:
        kernel = ACTIVATE.get(activation.forward)
        if kernel is None:
            super().activate(Z, b, A, activation)
        else:
            kernel(Z, b)

    def derive(
        self, dA: Array, Z: Array | None, A: Array, activation: Activation, db: Array
    ) -> Array:
        kernel = DERIVE.get(activation.vjp)
        if kernel is None:
            return super().derive(dA, Z, A, activation, db)
        kernel(dA, A, db)
        return dA

    def shorten(self, x: Array, y: Array, n: int) -> None:
        shorten(x.view(np.uint32), y.view(np.uint32), n)

    def softmax_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None = None, label_smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """Twin of `losses.softmax_cross_entropy` for class numbers Y (B,) and float32."""
        if label_smoothing or Y.dtype.kind not in "iu" or Z.ndim != 2 or Z.dtype != np.float32:
            return super().softmax_cross_entropy(Z, Y, weights, label_smoothing)
        if not Z.size:
            return super().softmax_cross_entropy(Z, Y, weights)
        dZ = self.empty(Z.shape, Z.dtype)
        return np.float32(cross_entropy(Z, Y, weights, dZ)), dZ

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
        """Twin of `optimizers.adam_update`, in one pass over vectors (P,), in place."""
        if params.ndim > 1:
            corrections = correction_1, correction_2
            return super().adam(params, grads, mu, nu, rate, beta_1, beta_2, *corrections, epsilon)
        number = params.dtype.type
        root = correction_2**0.5
        step = number(rate * root / correction_1)
        adam(
            params,
            grads,
            mu,
            nu,
            step,
            number(beta_1),
            number(beta_2),
            number(root * epsilon),
            np.finfo(params.dtype).tiny,
        )
        return params, mu, nu


# Examples are rows here, the layout of NumPy's products, and columns in `activations.py` and
# `losses.py`. The inner loop runs over units here and over examples there.


@compiled
def add_bias(Z: Array, b: Array) -> None:
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            Z[i, j] += b[0, j]


@compiled
def add_bias_relu(Z: Array, b: Array) -> None:
    zero = Z.dtype.type(0)
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            z = Z[i, j] + b[0, j]
            Z[i, j] = zero if z < zero else z


@compiled
def sum_rows(dA: Array, A: Array, db: Array) -> None:
    db[:] = 0
    for i in range(dA.shape[0]):
        for j in range(dA.shape[1]):
            db[0, j] += dA[i, j]


@compiled
def derive_relu(dA: Array, A: Array, db: Array) -> None:
    number = dA.dtype.type
    zero = number(0)
    db[:] = 0
    for i in range(dA.shape[0]):
        for j in range(dA.shape[1]):
            d = dA[i, j] * number(A[i, j] > zero)
            dA[i, j] = d
            db[0, j] += d


@compiled
def shorten(x: Array, y: Array, n: int) -> None:
    """y = the bits x (N, D) of float32 numbers rounded to n binary digits fewer, uint32. Infinity
    and NaN stay."""
    one, last, exponent = np.uint32(1), np.uint32(n), np.uint32(0x7F800000)
    half, kept = np.uint32((one << (last - one)) - one), np.uint32(~((one << last) - one))
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            bits = x[i, j]
            r = np.uint32(bits + half + ((bits >> last) & one)) & kept
            y[i, j] = bits if bits & exponent == exponent else r


ACTIVATE: dict[Callable, Any] = {
    activations.identity: add_bias,
    activations.relu: add_bias_relu,
}


DERIVE: dict[Callable, Any] = {
    activations.identity_vjp: sum_rows,
    activations.relu_vjp: derive_relu,
}


FAINTEST = softmax_floor(np.float32)[1]


@compiled
def cross_entropy(Z: Array, Y: Array, weights: Array | None, P: Array) -> Any:
    """The loss in nats; P becomes dZ.   Z, P: (B, K).   Y: class numbers (B,).   weights: (B,)."""
    N, K = Z.shape
    zero, total = np.float32(0), np.float32(0)
    for i in range(N):
        top = Z[i, 0]
        for k in range(1, K):
            top = max(top, Z[i, k])
        for k in range(K):
            P[i, k] = Z[i, k] - top
        total -= P[i, Y[i]] * (np.float32(1) if weights is None else weights[i])
    flat = P.reshape(N * K)
    for i in range(N * K):
        flat[i] = zero if flat[i] < FAINTEST else exp(flat[i])
    share = np.float32(1) / np.float32(N)
    for i in range(N):
        S = zero
        for k in range(K):
            S += P[i, k]
        weight = np.float32(1) if weights is None else weights[i]
        total += weight * log(S)
        weight *= share
        scale = weight / S
        for k in range(K):
            P[i, k] *= scale
        P[i, Y[i]] -= weight
    return total * share


def l2_penalty_fast(
    value: Array, grads: Array, params: Array, l2: Any, n_weights: int
) -> tuple[Array, Array]:
    """Twin of `network.l2_penalty`, in one pass over vectors (P,). It adds the gradient to
    grads."""
    if params.ndim > 1:
        return l2_penalty_in_place(value, grads, params, l2, n_weights)
    number = params.dtype.type
    square = add_penalty(grads[:n_weights], params[:n_weights], number(l2))
    return value + number(0.5 * l2) * number(square), grads
