"""Which way a monitored value gets better: told by the run, never by the user."""

import math

import numpy as np
import pytest

from nnaccel.maths import losses, metrics
from nnaccel.maths.metrics import Metric
from nnaccel.maths.network import mlp
from nnaccel.maths.optimizers import State
from nnaccel.training.checkpoint import Progress
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train

NETWORK = mlp(4, [8], 3)


def epochs_with(values, greater_is_better):
    for number, value in enumerate(values, start=1):
        state = State(np.zeros(()), ())
        scores = {"validation_metric": value, "greater_is_better": greater_is_better}
        yield Epoch(number, np.zeros(1), state, **scores)


def stopped(values, greater_is_better, **options):
    """How many epochs were seen, and the number of the best."""
    stopping = EarlyStopping(monitor="validation_metric", **options)
    seen = list(stopping(epochs_with(values, greater_is_better)))
    return len(seen), stopping.best.number


def test_of_a_metric_that_rises_the_largest_value_is_the_best():
    assert stopped([0.5, 0.9, 0.7, 0.8, 0.95], True, patience=2) == (4, 2)
    assert stopped([0.5, 0.9, 0.7, 0.8, 0.95], True, patience=3) == (5, 5)
    assert stopped([0.5, 0.55, 0.58, 0.61], True, patience=3, tol=0.1) == (4, 4)
    assert stopped([math.nan, 0.1, math.nan, 0.3], True) == (4, 4)


def test_of_a_metric_that_falls_the_smallest_value_is_the_best():
    assert stopped([0.5, 0.3, 0.7, 0.8, 0.1], False, patience=2) == (4, 2)
    assert stopped([0.5, 0.45, 0.42, 0.39], False, patience=3, tol=0.1) == (4, 4)
    assert stopped([-math.inf, -math.inf], False) == (2, 1)


def test_a_function_of_the_epoch_gets_better_as_it_gets_greater():
    values = [0.5, 0.9, 0.7, 0.8, 0.95]

    def stopped_by(function, **options):
        stopping = EarlyStopping(monitor=function, **options)
        seen = list(stopping(epochs_with(values, None)))
        return len(seen), stopping.best.number, stopping.value

    assert stopped_by(lambda epoch: epoch.validation_metric, patience=2) == (4, 2, 0.8)
    assert stopped_by(lambda epoch: -epoch.number, patience=3) == (4, 1, -4)


def test_of_several_networks_a_function_gives_as_many_numbers():
    """The first network is the best in epoch 1, the second in the last one."""
    params = (np.array([[10.0 * n], [20.0 * n]]) for n in range(1, 5))
    epochs = (Epoch(n, p, State(np.zeros(()), ())) for n, p in enumerate(params, start=1))
    stopping = EarlyStopping(monitor=lambda epoch: np.array([-epoch.number, epoch.number]))
    assert len(list(stopping(epochs))) == 4
    assert stopping.numbers.tolist() == [1, 4]
    np.testing.assert_array_equal(stopping.best.params, [[10.0], [80.0]])


def test_a_run_that_goes_on_is_judged_by_the_same_function():
    calls = []

    def judge(epoch):
        calls.append(epoch.number)
        return [0.5, 0.9, 0.7][epoch.number - 1]

    first = EarlyStopping(monitor=judge)
    epochs = list(first(epochs_with([0.0] * 2, None)))
    after = Progress(epochs[-1], first.kept, [])
    stopping = EarlyStopping(monitor=judge, after=after)
    state = State(np.zeros(()), ())
    list(stopping([Epoch(3, np.zeros(1), state)]))
    assert stopping.best.number == 2
    assert calls == [1, 2, 3, 2]  # the best one again, once


def blobs(seed):
    rng = np.random.default_rng(seed)
    Y = rng.integers(0, 3, 60)
    return rng.standard_normal((60, 4)) + np.eye(3, 4)[Y], Y


@pytest.mark.parametrize("monitor", ["metric", "validation_metric"])
def test_a_real_run_keeps_the_epoch_of_the_best_accuracy(monitor):
    options = {"loss": "softmax_cross_entropy", "metric": "accuracy", "epochs": 12}
    options |= {"validation_data": blobs(1), "optimizer": "sgd", "batch_size": 8}
    values = [getattr(e, monitor) for e in train(NETWORK, *blobs(0), **options)]
    stopping = EarlyStopping(None, monitor=monitor)
    assert len(list(stopping(train(NETWORK, *blobs(0), **options)))) == 12
    assert stopping.best.number == 1 + int(np.argmax(values)) > 1
    assert getattr(stopping.best, monitor) == max(values) > min(values)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_every_run_says_which_way_its_own_metric_gets_better(loss):
    X, Y = blobs(0)
    Y = Y if loss == "softmax_cross_entropy" else np.eye(3)[Y]
    metric = metrics.for_loss(loss)
    network = mlp(NETWORK.n_inputs, [4], 3 * losses.get(loss).n_outputs)
    epoch = next(train(network, X, Y, loss=loss, metric=metric))
    assert epoch.greater_is_better == (metric.name == "accuracy")
    assert next(train(network, X, Y, loss=loss)).greater_is_better is None


def test_the_loss_as_a_metric_gets_better_as_it_gets_lower():
    loss = losses.get("huber")._replace(name="mine", metric=None)
    assert next(train(NETWORK, blobs(0)[0], np.zeros((60, 3)), loss=loss, metric="mine")).metric
    assert metrics.for_loss(loss).greater_is_better is False


def test_a_metric_that_does_not_say_cannot_be_followed():
    X, Y = blobs(0)
    mine = Metric("mine", metrics.accuracy)
    options = {"loss": "softmax_cross_entropy", "epochs": 3, "validation_data": blobs(1)}
    message = (
        r"early stopping watches 'validation_metric', and the metric does not say which way is "
        r"better; say it in Metric\(\.\.\., greater_is_better=True\) or False, or use "
        r"monitor='validation_loss'"
    )
    with pytest.raises(ValueError, match=message):
        next(
            EarlyStopping(monitor="validation_metric")(train(NETWORK, X, Y, metric=mine, **options))
        )
    assert next(EarlyStopping()(train(NETWORK, X, Y, metric=mine, **options))).number == 1
    said = mine._replace(greater_is_better=True)
    stopping = EarlyStopping(monitor="validation_metric")
    assert next(stopping(train(NETWORK, X, Y, metric=said, **options))).number == 1


@pytest.mark.parametrize(
    ("monitor", "needed"),
    [
        ("metric", "a metric"),
        ("validation_metric", "validation data and a metric"),
        ("validation_loss", "validation data"),
    ],
)
def test_what_a_run_does_not_compute_is_named(monitor, needed):
    epochs = train(NETWORK, *blobs(0), loss="softmax_cross_entropy")
    message = f"{monitor!r}, which this run does not compute; give it {needed}, or monitor='loss'"
    with pytest.raises(ValueError, match=message):
        next(EarlyStopping(monitor=monitor)(epochs))


@pytest.mark.parametrize("tol", [-0.1, math.nan, math.inf])
def test_a_tolerance_is_finite_and_not_negative(tol):
    with pytest.raises(ValueError, match=f"tol must be a finite number of at least 0, got {tol}"):
        EarlyStopping(tol=tol)
