"""exp and log for compiled code that LLVM can vectorise: polynomials without calls or branches."""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from nnaccel.kernels.numba.jit import IN_ORDER


def exp(x: Any) -> Any:
    """exp(x) for x <= 0, with a relative error of 1e-7 in float32 and 4e-16 in float64; 0 instead
    of denormal numbers."""
    return np.exp(x)


def log(x: Any) -> Any:
    """log(x) for finite x >= 1, with the same error relative to max(log(x), 1)."""
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
