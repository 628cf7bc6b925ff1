"""Losses that estimate the uncertainty of a number: its quantiles, or its mean and variance.

For T targets Y (..., N, T) a network has P outputs for each, in P blocks of T columns, Z (..., N,
P T): the first output of every target, then the second of every target, and so on. The links return
predictions in the same layout. See `losses.py` for the other shapes.
"""

import math

from nnaccel.maths.activations import sigmoid, softplus
from nnaccel.maths.average import average
from nnaccel.typing import Array, Namespace, handle_of

LEAST_VARIANCE = 1e-6  # of standardised targets: a standard deviation of 0.001

# ---------------------------------------------------------------------------- quantiles


def pinball(
    Z: Array,
    Y: Array,
    weights: Array | None = None,
    *,
    xp: Namespace,
    quantile: float | tuple[float, ...] = 0.5,
) -> tuple[Array, Array]:
    """Mean of sum max(q (Y - A), (q - 1) (Y - A)), minimised by the q-quantile of Y given X.

    Y: (..., N, T). `quantile` q in (0, 1): one level, with Z (..., N, T) and A = Z; or P ascending
    levels, with Z (..., N, P T) and A = `ascending`(Z). The sum is over targets and levels.
    Source: Koenker, Bassett (1978), Econometrica 46, p. 38.
    """
    levels = quantile if isinstance(quantile, tuple) else (quantile,)
    T = Z.shape[-1] // len(levels)
    q = xp.asarray([q for q in levels for _ in range(T)], dtype=Z.dtype, device=handle_of(Z))
    A = ascending(Z, xp=xp, quantile=quantile)
    R = A - (xp.concat([Y] * len(levels), axis=-1) if len(levels) > 1 else Y)
    slope = xp.astype(R > 0, Z.dtype) - q * xp.astype(R != 0, Z.dtype)
    dZ = ascending_vjp(slope, Z, A, xp=xp, quantile=quantile)
    return average(xp.sum(slope * R, axis=-1), dZ, weights, xp=xp)


def ascending(Z: Array, *, xp: Namespace, quantile: float | tuple[float, ...] = 0.5) -> Array:
    """The quantiles of each target, which never cross: A_c = Z_c for the level c next to the
    median, A_p = A_(p-1) + softplus(Z_p) above it, A_p = A_(p+1) - softplus(Z_p) below it.

    Z: (..., N, P T), a block of T columns for each of P levels; for one level A = Z.
    """
    if not isinstance(quantile, tuple):
        return Z
    blocks, c = blocks_of(Z, len(quantile)), middle(quantile)
    for p in range(c + 1, len(blocks)):
        blocks[p] = blocks[p - 1] + softplus(blocks[p], xp=xp)
    for p in range(c - 1, -1, -1):
        blocks[p] = blocks[p + 1] - softplus(blocks[p], xp=xp)
    return xp.concat(blocks, axis=-1)


def ascending_vjp(
    dA: Array, Z: Array, A: Array, *, xp: Namespace, quantile: float | tuple[float, ...] = 0.5
) -> Array:
    """dZ_c = sum of all dA. Above c, dZ_p = sigmoid(Z_p) times the sum of dA_r over r >= p; below
    c, dZ_p = -sigmoid(Z_p) times the sum over r <= p: each step moves all quantiles beyond it."""
    if not isinstance(quantile, tuple):
        return dA
    sums, c = blocks_of(dA, len(quantile)), middle(quantile)
    steps = blocks_of(Z, len(quantile))
    for p in range(len(sums) - 2, c - 1, -1):
        sums[p] = sums[p] + sums[p + 1]
    for p in range(1, c + 1):
        sums[p] = sums[p] + sums[p - 1]
    dZ = [sums[p] * sigmoid(steps[p], xp=xp) for p in range(len(sums))]
    dZ[c] = sums[c]
    return xp.concat([*(-dZ[p] for p in range(c)), *dZ[c:]], axis=-1)


def middle(levels: tuple[float, ...]) -> int:
    """The index of the level nearest to 0.5."""
    return min(range(len(levels)), key=lambda p: abs(levels[p] - 0.5))


def blocks_of(Z: Array, P: int) -> list[Array]:
    """The P blocks (..., T) of the last axis of Z (..., P T)."""
    T = Z.shape[-1] // P
    return [Z[..., p * T : (p + 1) * T] for p in range(P)]


# ---------------------------------------------------------------------------- mean and variance


def gaussian(
    Z: Array, Y: Array, weights: Array | None = None, *, xp: Namespace
) -> tuple[Array, Array]:
    """Mean of sum (log(2 pi v) + (Y - m)^2 / v) / 2, -log of the normal density, in nats.

    Y: (..., N, T); Z: (..., N, 2 T), from which `mean_and_variance` computes m and v. With
    s = (m - Y) / v: dm = s and dv = (1 / v - s^2) / 2, each divided by N.
    Source: Nix, Weigend (1994), Proc. ICNN 1, p. 55-60.
    """
    A = mean_and_variance(Z, xp=xp)
    mean, variance = blocks_of(A, 2)
    R = mean - Y
    S = R / variance
    losses = 0.5 * xp.sum(xp.log(variance) + R * S + math.log(2.0 * math.pi), axis=-1)
    dA = xp.concat([S, 0.5 * (1.0 / variance - S * S)], axis=-1)
    return average(losses, mean_and_variance_vjp(dA, Z, A, xp=xp), weights, xp=xp)


def mean_and_variance(Z: Array, *, xp: Namespace) -> Array:
    """The mean m = Z_1 and the variance v = softplus(Z_2) + 1e-6 of each target, (..., N, 2 T).

    Z: (..., N, 2 T): T columns Z_1, then T columns Z_2.
    Source: Lakshminarayanan, Pritzel, Blundell (2017), arXiv:1612.01474, section 2.2.1.
    """
    mean, raw = blocks_of(Z, 2)
    return xp.concat([mean, softplus(raw, xp=xp) + LEAST_VARIANCE], axis=-1)


def mean_and_variance_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ_1 = dm and dZ_2 = dv sigmoid(Z_2)."""
    (dm, dv), (_, raw) = blocks_of(dA, 2), blocks_of(Z, 2)
    return xp.concat([dm, dv * sigmoid(raw, xp=xp)], axis=-1)


# ---------------------------------------------------------------------------- several networks


def mean_of_networks(A: Array, *, xp: Namespace) -> Array:
    """The mean (...) of the predictions A (M, ...) of M networks."""
    return xp.mean(A, axis=0)


def mixture(A: Array, *, xp: Namespace) -> Array:
    """The mean and variance (..., 2 T) of an equally weighted mixture of M normal distributions.

    A: (M, ..., 2 T). By the law of total variance, the variance is the mean of the variances plus
    the variance of the means. Source: Lakshminarayanan, Pritzel, Blundell (2017),
    arXiv:1612.01474, section 2.4.
    """
    means, variances = blocks_of(A, 2)
    mean = xp.mean(means, axis=0)
    apart = means - mean
    return xp.concat([mean, xp.mean(variances + apart * apart, axis=0)], axis=-1)
