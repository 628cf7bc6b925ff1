"""Calibration: finds on held-out rows how certain a classifier should be of its predictions.

During training a network ranks the rows better and better, but becomes too certain: its log loss
rises while its ranking still improves. So an epoch is judged by its log loss after its logits have
been multiplied by the best factor of at most 1, and the logits of the final network are multiplied
by that factor. A factor above 1 is not allowed: a few rows that are all predicted right would make
it infinite.
Source: Guo et al. (2017), arXiv:1706.04599, section 4.2; as a criterion for the epoch: Berta,
Holzmüller, Jordan, Bach (2025), arXiv:2501.19195.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import to_host
from nnaccel.kernels.definition import Run
from nnaccel.maths import losses
from nnaccel.maths.activations import sigmoid
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, flatten, layout, views
from nnaccel.training.epoch import Epoch
from nnaccel.training.prediction import predict
from nnaccel.training.step import check_validation

LEAST = -4.0  # the smallest logarithm of the factor
HALVINGS = 12


class HeldOut(NamedTuple):
    """Rows that a network has not been trained on."""

    X: np.ndarray  # (n, D)
    Y: np.ndarray  # the targets of the loss
    weights: np.ndarray | None  # (n,) of mean 1


def can_calibrate(loss: Loss) -> bool:
    """Whether the link of a loss turns logits into probabilities."""
    return loss.link in (sigmoid, losses.softmax)


def calibrated(epochs: Iterable[Epoch], run: Run, held_out: list[HeldOut]) -> Iterator[Epoch]:
    """The epochs of a run with their scores on held-out rows: the loss after calibration, and the
    metric.

    held_out: the rows of each of K networks; for one network, params (P,), a list of one.   Raises
    FloatingPointError where the loss is not finite.
    """
    for epoch in epochs:
        params = epoch.params
        several = params.ndim == 2
        each = [params[k, :] for k in range(params.shape[0])] if several else [params]
        found = [_scores(run, own, rows) for own, rows in zip(each, held_out, strict=True)]
        names = ("validation_loss", "validation_metric")
        scores = dict(zip(names, np.array(found).T if several else found[0], strict=True))
        check_validation(scores["validation_loss"], epoch.number)
        yield replace(epoch, **scores)


def _scores(run: Run, params: Any, rows: HeldOut) -> tuple[float, float]:
    """The loss after calibration, and the metric."""
    Z, metric = logits_of(run.network, params, rows), run.metric
    assert metric is not None
    mean = metric.function(Z, rows.Y, rows.weights, xp=np)
    return scale_of(Z, rows, run.loss)[1], metric.finish(float(mean))


def logits_of(network: Network, params: Any, rows: HeldOut) -> np.ndarray:
    """The logits (n, n_outputs) of held-out rows, float64."""
    return to_host(predict(network, params, rows.X)).astype(np.float64)


def scale_of(Z: np.ndarray, rows: HeldOut, loss: Loss) -> tuple[float, float]:
    """The factor of at most 1 for the logits Z (n, n_outputs) with the lowest loss, and that loss.

    The loss is convex in it, so bisection on its derivative, sum dZ Z, finds it.
    """
    options = dict(loss.options)
    low, high, scale = LEAST, 0.0, 1.0
    value, dZ = loss.function(Z, rows.Y, rows.weights, xp=np, **options)
    if np.sum(dZ * Z) <= 0:
        return scale, float(value)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        scale = float(np.exp(middle))
        value, dZ = loss.function(scale * Z, rows.Y, rows.weights, xp=np, **options)
        low, high = (low, middle) if np.sum(dZ * Z) > 0 else (middle, high)
    return scale, float(value)


def calibrate(network: Network, params: np.ndarray, scale: float) -> np.ndarray:
    """The parameters (P,) of the same network with its logits multiplied by `scale`."""
    places = layout(network)
    *before, last = views(params, places, xp=np)
    scaled = tuple(array * params.dtype.type(scale) for array in last)
    return flatten((*before, scaled), places, xp=np)
