"""What a person reads while a network trains: means over examples, computed from the logits.

A metric maps (Z, Y, weights) to a mean (...) on the device, so that it can be added up over
minibatches without leaving it; `finish` turns the mean over all of them into the number shown.
Final scores come from a metrics library instead, where there is one.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from nnaccel.arguments import find
from nnaccel.maths import losses
from nnaccel.maths.activations import identity
from nnaccel.maths.losses import Loss
from nnaccel.typing import Array, Namespace


class Metric(NamedTuple):
    """A metric: `function(Z, Y, weights, *, xp) -> mean (...)`, and how to read it.

    `finish` turns the mean over all examples into the number shown. `greater_is_better` is what
    early stopping goes by; None: not said, and then it cannot follow this metric. Where
    `reads_predictions`, the function is of the predictions in the place of Z, one for each target
    (`Loss.points`); `get` binds it to a loss.
    """

    name: str
    function: Callable[..., Array]
    finish: Callable[[float], float] = float
    greater_is_better: bool | None = None
    reads_predictions: bool = False


def accuracy(Z: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """The share of examples whose largest logit is that of the integer class Y (..., N), or of the
    most probable one, for probabilities Y (..., N, K)."""
    if not xp.isdtype(Y.dtype, "integral"):
        Y = xp.argmax(Y, axis=-1)
    return _mean(xp.argmax(Z, axis=-1) == Y, Z, weights, xp=xp)


def label_accuracy(Z: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """The share of examples whose K labels Y (..., N, K) all have the sign of their logit."""
    return _mean(xp.all((Z > 0) == (Y > 0.5), axis=-1), Z, weights, xp=xp)


def squared_residual(A: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """The mean over examples and outputs of (A - Y)^2."""
    R = A - Y
    return _mean(xp.mean(R * R, axis=-1), A, weights, xp=xp)


def absolute_residual(A: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """The mean over examples and outputs of `|A - Y|`."""
    return _mean(xp.mean(xp.abs(A - Y), axis=-1), A, weights, xp=xp)


def _mean(values: Array, like: Array, weights: Array | None, *, xp: Namespace) -> Array:
    values = xp.astype(values, like.dtype)
    return xp.mean(values if weights is None else values * weights, axis=-1)


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", accuracy, greater_is_better=True),
    "label_accuracy": Metric("accuracy", label_accuracy, greater_is_better=True),
    "RMSE": Metric("RMSE", squared_residual, math.sqrt, False, reads_predictions=True),
    "MAE": Metric("MAE", absolute_residual, float, False, reads_predictions=True),
}


def for_loss(loss: str | Loss) -> Metric:
    """The customary metric beside a loss, which its row names; the loss itself where none is named.

    ValueError for an unknown name.
    """
    loss = losses.get(loss)
    if loss.metric is None:
        return _value_of(loss)
    metric = loss.metric
    return _on_logits(metric if isinstance(metric, Metric) else METRICS[metric], loss)


def get(metric: str | Metric, loss: str | Loss) -> Metric:
    """The metric of that name, or the one given, as a function of the logits that the loss takes.

    The name of the loss's own metric is that metric: "accuracy" beside "binary_cross_entropy" is
    the accuracy of labels. ValueError for an unknown name, with the closest known one.
    """
    loss = losses.get(loss)
    if not isinstance(metric, Metric):
        own = for_loss(loss)
        metric = own if metric == own.name else find("metric", metric, METRICS)
    return _on_logits(metric, loss)


def is_own(metric: Metric, loss: Loss) -> bool:
    """Whether a function of the logits is one of this module: what it gives does not depend on
    examples of weight 0."""
    own = _value_of(loss), *(_on_logits(each, loss) for each in METRICS.values())
    return metric.function in [each.function for each in own]


# Cached, so that JAX finds what it has compiled for one run again for the next.


@lru_cache(maxsize=64)
def _value_of(loss: Loss) -> Metric:
    def value(Z: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
        return loss.function(Z, Y, weights, xp=xp, **dict(loss.options))[0]

    return Metric(loss.name, value, greater_is_better=False)


@lru_cache(maxsize=64)
def _on_logits(metric: Metric, loss: Loss) -> Metric:
    if not metric.reads_predictions:
        return metric
    if loss.link is identity and loss.n_outputs == 1:
        return metric._replace(reads_predictions=False)

    def function(Z: Array, Y: Array, weights: Array | None, *, xp: Namespace) -> Array:
        return metric.function(loss.points(loss.predict(Z, xp=xp)), Y, weights, xp=xp)

    return metric._replace(function=function, reads_predictions=False)
