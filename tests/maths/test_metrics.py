"""Metrics: found by name, beside a loss that has one and beside one that has none."""

import math

import numpy as np
import pytest

from nnaccel.maths import losses, metrics
from nnaccel.maths.losses import LOSSES, Loss, identity

Z = np.array([[0.5], [-1.0], [2.0]])
Y = np.array([[1.0], [0.0], [5.0]])
WEIGHTS = np.array([1.0, 2.0, 0.0])


def read(metric, Z=Z, Y=Y, weights=None):
    return metric.finish(float(metric.function(Z, Y, weights, xp=np)))


def test_a_loss_without_a_metric_is_its_own():
    cubic = Loss("cubic", lambda Z, Y, weights, *, xp: (xp.mean(abs(Z - Y) ** 3), None), identity)
    metric = metrics.for_loss(cubic)
    assert (metric.name, metric.greater_is_better) == ("cubic", False)
    # Of a metric that a user adds nobody knows, unless it is said.
    assert metrics.Metric("mine", metrics.accuracy).greater_is_better is None
    assert all(type(row.greater_is_better) is bool for row in metrics.METRICS.values())
    assert read(metric) == pytest.approx((0.5**3 + 1 + 27) / 3)
    assert metrics.for_loss(cubic) is metric  # so that a program compiled for it serves again


def test_the_options_of_such_a_loss_count():
    bare = LOSSES["huber"]._replace(metric=None)
    wide, narrow = (metrics.for_loss(bare.with_options(delta=delta)) for delta in (9.0, 0.1))
    assert read(wide) == pytest.approx((0.125 + 0.5 + 4.5) / 3)
    assert read(narrow) == pytest.approx((0.1 * 0.45 + 0.1 * 0.95 + 0.1 * 2.95) / 3)


def test_names_serve_in_the_place_of_records():
    loss = LOSSES["huber"]
    assert metrics.for_loss("huber") is metrics.for_loss(loss)
    assert metrics.get("RMSE", "huber") is metrics.for_loss("huber")
    assert read(metrics.get("MAE", loss)) == pytest.approx(4.5 / 3)
    given = metrics.Metric("mine", metrics.accuracy)
    assert metrics.get(given, loss) is given


def test_accuracy_is_that_of_labels_beside_a_loss_of_labels():
    assert metrics.get("accuracy", "binary_cross_entropy").function is metrics.label_accuracy
    assert metrics.get("accuracy", "softmax_cross_entropy").function is metrics.accuracy


@pytest.mark.parametrize("name", ["RMSE", "MAE"])
def test_residuals_are_those_of_predictions(name):
    """Beside "poisson" the logits are logarithms."""
    power = {"RMSE": 2, "MAE": 1}[name]
    expected = np.mean(np.abs(np.exp(Z) - Y) ** power * WEIGHTS[:, None]) ** (1 / power)
    assert read(metrics.get(name, "poisson"), weights=WEIGHTS) == pytest.approx(expected)


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(ValueError, match="metric must be one of accuracy.*did you mean 'RMSE'"):
        metrics.get("rmse", "squared_error")


@pytest.mark.parametrize("loss", LOSSES)
def test_greater_is_better_says_which_way_a_metric_improves(loss):
    """Of predictions that are right and those that are not."""
    targets = LOSSES[loss].targets
    Y = np.array([0, 1]) if targets.kind == "classes" else np.array([[0.0, 1.0], [1.0, 0.0]])
    right = np.array([[4.0, -4.0], [-4.0, 4.0]]) if targets.kind == "classes" else 8.0 * Y - 4.0
    right = Y if targets.kind == "numbers" else right
    worse = right + 9.0 if targets.kind == "numbers" else -right
    metric, n = metrics.for_loss(loss), LOSSES[loss].n_outputs
    right, worse = np.hstack([right] * n), np.hstack([worse] * n)
    assert (read(metric, right, Y) > read(metric, worse, Y)) == metric.greater_is_better


def test_the_targets_of_a_loss_are_where_it_has_a_value():
    for loss in LOSSES.values():
        low = max(loss.targets.low, -3.0)
        high = min(loss.targets.high, 3.0)
        if loss.targets.kind != "classes":
            logits = np.hstack([Z] * loss.n_outputs)
            for y in (low, high):
                assert math.isfinite(loss.function(logits, np.full_like(Z, y), xp=np)[0])
    assert losses.LOSSES["poisson"].targets.bounded
    assert not losses.LOSSES["squared_error"].targets.bounded
