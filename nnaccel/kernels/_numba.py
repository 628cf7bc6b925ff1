"""Kernels for NumPy arrays that Numba compiles: a chain of elementwise operations in one pass.

They are serial: threads of Numba's own beside those of the BLAS, which spin for a while after each
product, made a step ten times slower. What they cost beside the products of all processors is
why there are whole epochs in `_compiled.py`, on threads that do everything; here are the kernels
for all that such an epoch does not know. Matrix products stay with NumPy. The compiled code is kept
on disk by Numba.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from nnaccel import activations
from nnaccel.activations import Activation
from nnaccel.kernels._numpy import Workspace, faintest_of, l2_penalty_in_place
from nnaccel.network import l2_penalty
from nnaccel.typing import Array

# Sums in any order and fused multiply-add, but NaN and infinity keep their meaning: training
# that diverges must show.
RELAXED = {"contract", "reassoc", "nsz", "arcp"}
IN_ORDER = RELAXED - {"reassoc"}  # of a sum in which digits cancel on purpose


def kernels(precision: str = "float32") -> dict[Callable, Callable]:
    """A new set of kernels with a workspace of its own, as the entries of an `Ops`."""
    return FastWorkspace(precision).kernels()


def compiled(function: Callable, **options: Any) -> Any:
    """The function compiled when first called; without a disk cache where none can be written."""
    options = {"fastmath": RELAXED, "error_model": "numpy", "nogil": True} | options
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


class FastWorkspace(Workspace):
    """The workspace of the NumPy kernels, with Numba for what is elementwise."""

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
        """Twin of `losses.softmax_cross_entropy` for class numbers and float32."""
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
        """Twin of `optimizers.adam_update`, in one pass."""
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
    """The bits y of x without its last n digits, rounded; infinities and NaN stay."""
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


# The C library's functions cannot be vectorised. In compiled code these are ours: x = n log 2 + r
# and a polynomial for exp(r), or two, whose quotient it is; x = 2^n m and the same for log(m).
# Source: Moshier, Cephes library, expf, logf, exp and log.


def exp(x: Any) -> Any:
    """exp(x) for x <= 0, to 1e-7 in float32 and 4e-16 in float64; 0 where it would be denormal."""
    return np.exp(x)


def log(x: Any) -> Any:
    """log(x) for finite x >= 1, as precise for the larger of it and 1."""
    return np.log(x)


@overload(exp, jit_options={"fastmath": IN_ORDER, "error_model": "numpy"})
def _exp_of(x: Any) -> Any:
    return exp_float64 if x == types.float64 else exp_float32


@overload(log, jit_options={"fastmath": IN_ORDER, "error_model": "numpy"})
def _log_of(x: Any) -> Any:
    return log_float64 if x == types.float64 else log_float32


def exp_float32(x: Any) -> Any:
    f = np.float32
    n = np.floor(max(x, f(-87)) * f(1.44269504) + f(0.5))
    r = max(x, f(-87)) - n * f(0.693359375) + n * f(2.12194440e-4)
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    p = p * r * r + r + f(1)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return f(0) if x < f(-87) else p * power


def exp_float64(x: Any) -> Any:
    least = -708.0
    n = np.floor(max(x, least) * 1.4426950408889634 + 0.5)
    r = max(x, least) - n * 6.93145751953125e-1 - n * 1.42860682030941723212e-6
    square = r * r
    p = 1.26177193074810590878e-4
    p = p * square + 3.02994407707441961300e-2
    p = (p * square + 1.0) * r
    q = 3.00198505138664455042e-6
    q = q * square + 2.52448340349684104192e-3
    q = q * square + 2.27265548208155028766e-1
    q = q * square + 2.0
    power = np.int64((np.int64(np.int32(n)) + 1023) << 52).view(np.float64)
    return 0.0 if x < least else (1.0 + 2.0 * (p / (q - p))) * power


def log_float32(x: Any) -> Any:
    f = np.float32
    bits = np.float32(x).view(np.int32)
    n = np.int32((bits >> np.int32(23)) - np.int32(126))
    m = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F000000)).view(np.float32)
    low = m < f(0.70710678)
    r = (m + m if low else m) - f(1)
    k = f(n - np.int32(low))
    p = f(7.0376836292e-2)
    p = p * r - f(1.1514610310e-1)
    p = p * r + f(1.1676998740e-1)
    p = p * r - f(1.2420140846e-1)
    p = p * r + f(1.4249322787e-1)
    p = p * r - f(1.6668057665e-1)
    p = p * r + f(2.0000714765e-1)
    p = p * r - f(2.4999993993e-1)
    p = p * r + f(3.3333331174e-1)
    square = r * r
    p = p * r * square - k * f(2.12194440e-4) - f(0.5) * square
    return r + p + k * f(0.693359375) + (x - x)  # the last term keeps NaN


def log_float64(x: Any) -> Any:
    bits = np.float64(x).view(np.int64)
    n = (bits >> 52) - 1022
    m = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FE0000000000000).view(np.float64)
    low = m < 0.70710678118654752
    r = (m + m if low else m) - 1.0
    k = np.float64(n - np.int64(low))
    p = 1.01875663804580931796e-4
    p = p * r + 4.97494994976747001425e-1
    p = p * r + 4.70579119878881725854
    p = p * r + 1.44989225341610930846e1
    p = p * r + 1.79368678507819816313e1
    p = p * r + 7.70838733755885391666
    q = r + 1.12873587189167450590e1
    q = q * r + 4.52279145837532221105e1
    q = q * r + 8.29875266912776603211e1
    q = q * r + 7.11544750618563894466e1
    q = q * r + 2.31251620126765340583e1
    square = r * r
    p = r * square * (p / q) - k * 2.121944400546905827679e-4 - 0.5 * square
    return r + p + k * 0.693359375 + (x - x)


FAINTEST = faintest_of(np.float32)[1]


@compiled
def cross_entropy(Z: Array, Y: Array, weights: Array | None, P: Array) -> Any:
    """The loss; P becomes dZ."""
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
    value: Array, grads: Array, params: Array, l2: float, n_weights: int
) -> tuple[Array, Array]:
    """Twin of `network.l2_penalty`, in one pass."""
    if params.ndim > 1:
        return l2_penalty_in_place(value, grads, params, l2, n_weights)
    number = params.dtype.type
    square = add_penalty(grads[:n_weights], params[:n_weights], number(l2))
    return value + number(0.5 * l2) * number(square), grads


@compiled
def add_penalty(dW: Array, W: Array, l2: Any) -> Any:
    """Adds l2 W to dW; returns |W|^2."""
    square = l2 - l2
    for i in range(W.shape[0]):
        square += W[i] * W[i]
        dW[i] += l2 * W[i]
    return square


@compiled
def adam(
    params: Array,
    grads: Array,
    mu: Array,
    nu: Array,
    step: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
    tiny: Any,
) -> None:
    """Moments below the smallest normal number become 0: see `kernels._numpy`."""
    number = params.dtype.type
    one, zero = number(1), number(0)
    for i in range(params.shape[0]):
        g = grads[i]
        m = beta_1 * mu[i] + (one - beta_1) * g
        v = beta_2 * nu[i] + (one - beta_2) * (g * g)
        m = zero if abs(m) < tiny else m
        v = zero if v < tiny else v
        mu[i] = m
        nu[i] = v
        params[i] -= step * m / (np.sqrt(v) + epsilon)
