"""Losses in compiled code, in the layout of the notes: the value and dZ of n examples.

Z, dZ: (K, B), of which the n columns from `first` to before `last` are read and written. Y: (K, n)
or wider.   share: (n,) or longer, the weights of the examples divided by the size of the minibatch.
scratch: (n,) or longer.
Each function returns the sum of the weighted losses, in the units of the loss.
"""

from typing import Any

from nnaccel.kernels.numba.exp_log import exp, log
from nnaccel.kernels.numba.jit import compiled
from nnaccel.typing import Array


@compiled
def cross_entropy(
    Z: Array, Y: Array, share: Array, dZ: Array, scratch: Array, first: int, last: int
) -> Any:
    """sum of share Y (log S - Z), S = sum exp(Z), and dZ = share (exp(Z) / S - Y)."""
    K, n = Z.shape[0], last - first
    number = Z.dtype.type
    value, one = number(0), number(1)
    logits = Z[0][first:last]
    for i in range(n):
        scratch[i] = logits[i]
    for k in range(1, K):
        z = Z[k][first:last]
        for i in range(n):
            scratch[i] = z[i] if z[i] > scratch[i] else scratch[i]
    for k in range(K):
        z, y, dz = Z[k][first:last], Y[k], dZ[k][first:last]
        for i in range(n):
            dz[i] = z[i] - scratch[i]
        for i in range(n):
            value -= share[i] * y[i] * dz[i]
        for i in range(n):
            dz[i] = exp(dz[i])
    E = dZ[0][first:last]
    for i in range(n):
        scratch[i] = E[i]
    for k in range(1, K):
        dz = dZ[k][first:last]
        for i in range(n):
            scratch[i] += dz[i]
    for i in range(n):
        value += share[i] * log(scratch[i])
    for i in range(n):
        scratch[i] = one / scratch[i]
    for k in range(K):
        y, dz = Y[k], dZ[k][first:last]
        for i in range(n):
            dz[i] = share[i] * (dz[i] * scratch[i] - y[i])
    return value


@compiled
def binary_cross_entropy(
    Z: Array, Y: Array, share: Array, dZ: Array, scratch: Array, first: int, last: int
) -> Any:
    """sum of share (log(1 + exp(-|Z|)) + max(Z, 0) - Y Z), and dZ = share (sigmoid(Z) - Y)."""
    K, n = Z.shape[0], last - first
    number = Z.dtype.type
    value, one, zero = number(0), number(1), number(0)
    for k in range(K):
        z, y, dz = Z[k][first:last], Y[k], dZ[k][first:last]
        for i in range(n):
            e = exp(-abs(z[i]))
            dz[i] = share[i] * ((e if z[i] < zero else one) / (one + e) - y[i])
            value += share[i] * ((zero if z[i] < zero else z[i]) - z[i] * y[i])
            scratch[i] = one + e
        for i in range(n):
            value += share[i] * log(scratch[i])
    return value


@compiled
def squared_error(Z: Array, Y: Array, share: Array, dZ: Array, first: int, last: int) -> Any:
    """sum of share (Z - Y)^2 / 2, and dZ = share (Z - Y)."""
    K, n = Z.shape[0], last - first
    number = Z.dtype.type
    value, half = number(0), number(0.5)
    for k in range(K):
        z, y, dz = Z[k][first:last], Y[k], dZ[k][first:last]
        for i in range(n):
            R = z[i] - y[i]
            value += half * share[i] * R * R
            dz[i] = share[i] * R
    return value


@compiled
def copy(values: Array, to: Array) -> None:
    """to = values (n,), where `to` may be longer. LLVM vectorises this loop only in a separate
    function."""
    for i in range(values.shape[0]):
        to[i] = values[i]
