"""What a person reads while a network trains: means over examples, computed from the logits.

A metric maps (Z, Y, weights) to a mean (...) on the device, so that it can be added up over
minibatches without leaving it; `finish` turns the mean over all of them into the number shown.
Final scores come from a metrics library instead, where there is one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from nnaccel.maths.losses import Loss
from nnaccel.typing import Array, Namespace


class Metric(NamedTuple):
    """A metric: `function(Z, Y, weights, *, xp) -> mean (...)`, and how to read it."""

    name: str
    function: Callable[..., Array]
    finish: Callable[[float], float]


def accuracy(Z: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """The share of examples whose largest logit is that of the integer class Y (..., N), or of the
    most probable one, for probabilities Y (..., N, K)."""
    if not xp.isdtype(Y.dtype, "integral"):
        Y = xp.argmax(Y, axis=-1)
    return _mean(xp.argmax(Z, axis=-1) == Y, Z, weights, xp=xp)


def label_accuracy(Z: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """The share of examples whose K labels Y (..., N, K) all have the sign of their logit."""
    return _mean(xp.all((Z > 0) == (Y > 0.5), axis=-1), Z, weights, xp=xp)


def squared_residual(Z: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """The mean over examples and outputs of (Z - Y)^2."""
    R = Z - Y
    return _mean(xp.mean(R * R, axis=-1), Z, weights, xp=xp)


def absolute_residual(Z: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """The mean over examples and outputs of |Z - Y|."""
    return _mean(xp.mean(xp.abs(Z - Y), axis=-1), Z, weights, xp=xp)


def poisson_residual(Z: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """The mean over examples and outputs of (exp(Z) - Y)^2."""
    return squared_residual(xp.exp(Z), Y, weights, xp=xp)


def _mean(values: Array, like: Array, weights: Array | None, *, xp: Namespace) -> Array:
    values = xp.astype(values, like.dtype)
    return xp.mean(values if weights is None else values * weights, axis=-1)


FOR_LOSS: dict[str, Metric] = {
    "softmax_cross_entropy": Metric("accuracy", accuracy, float),
    "binary_cross_entropy": Metric("accuracy", label_accuracy, float),
    "squared_error": Metric("RMSE", squared_residual, math.sqrt),
    "huber": Metric("RMSE", squared_residual, math.sqrt),
    "absolute_error": Metric("MAE", absolute_residual, float),
    "pinball": Metric("MAE", absolute_residual, float),
    "poisson": Metric("RMSE", poisson_residual, math.sqrt),
}


def for_loss(loss: Loss) -> Metric:
    """The customary metric beside a loss: accuracy, RMSE or mean absolute error."""
    return FOR_LOSS[loss.name]
