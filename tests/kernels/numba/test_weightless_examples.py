"""Examples of weight 0 in the compiled epoch: they take no part, and nothing else changes."""

import numpy as np
import pytest

from nnaccel.maths import metrics, optimizers
from nnaccel.maths.activations import get
from nnaccel.maths.layers import Dense, Dropout, PiecewiseLinear
from nnaccel.maths.network import Network
from tests.kernels.test_epoch import LOSSES, assert_same_run, examples, simple, trained

pytest.importorskip("numba")
pytest.importorskip("scipy")

from nnaccel.kernels.numba import epoch as compiled_epoch

rng = np.random.default_rng(0)
WEIGHTS = {
    "some": lambda N: (rng.random(N) < 0.7) * rng.random(N),
    "one": lambda N: np.arange(N) == 3,
    "few": lambda N: np.arange(N) < 5,  # so that minibatches are without any
    "none": np.zeros,
}


def network_of(activation="relu", K=3, *, D=3, rate=0.3, before=()):
    layers = Dropout(rate), Dense(40, get(activation)), Dropout(rate), Dense(20, get(activation))
    return Network(D, (*before, *layers, Dense(K)))


def data_of(how, *args, dtype="float32", **options):
    data = examples(*args, dtype=dtype, **options)
    return data._replace(weights=WEIGHTS[how](len(data.X)).astype(dtype))


@pytest.fixture
def left_out(monkeypatch):
    """Whether each call leaves examples out."""
    seen, of = [], compiled_epoch.Steps

    def steps(*args):
        made = of(*args)
        seen.append(made.leave_out)
        return made

    monkeypatch.setattr(compiled_epoch, "Steps", steps)
    return seen


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("how", WEIGHTS)
@pytest.mark.parametrize(("loss", "K"), LOSSES)
def test_they_take_no_part(loss, K, how, size, team, left_out):
    """With dropout, the metric of the loss, and a last batch that is short."""
    team(size)
    data = data_of(how, loss, K, N=70)
    problem = simple(
        network_of(K=K), data=data, loss=loss, metric=metrics.for_loss(loss), batch_size=32, l2=0.01
    )
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))
    assert all(left_out)


@pytest.mark.parametrize("how", WEIGHTS)
@pytest.mark.parametrize("D", [3, 20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_they_take_no_part_among_rows_and_columns(dtype, D, how, interpolating):
    """Of minibatches whose rows are padded too, and with an encoding, interpolated or not."""
    encoding = PiecewiseLinear(((-1.0, 0.0, 0.5, 2.0),))
    for before, interpolated in (((), False), ((encoding,), False), ((encoding,), True)):
        interpolating(interpolated)
        network = network_of("tanh", D=D, rate=0.0 if interpolated else 0.3, before=before)
        data = data_of(how, N=320, D=D, dtype=dtype)
        problem = simple(network, data=data, dtype=dtype, batch_size=192)
        found = trained(problem.small(numba=True), problem)
        assert_same_run(found, trained(problem.steps(), problem), dtype)


@pytest.mark.parametrize("size", [1, 2])
def test_a_minibatch_without_any_is_an_update_without_a_gradient(size, team):
    """The moments fade and the weights go on."""
    team(size)
    data = data_of("few", N=64)
    problem = simple(network_of(), optimizers.adamw(0.01), data, batch_size=4, l2=0.01)
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


def test_what_is_not_a_number_does_not_matter_in_them():
    data = data_of("some")
    problem = simple(network_of(), data=data)
    expected = trained(problem.small(numba=True), problem)
    data.X[data.weights == 0] = np.nan
    found = trained(problem.small(numba=True), problem)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2], expected[2])


def test_the_metric_of_a_user_sees_all_of_them(left_out):
    def mean(Z, Y, weights, *, xp):
        return xp.mean(Z, axis=(-2, -1))

    metric = metrics.Metric("mean logit", mean)
    problem = simple(network_of(), data=data_of("some"), metric=metric)
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))
    assert not any(left_out)


def test_where_all_weigh_something_all_take_part(left_out):
    problem = simple(network_of(), data=examples(weighted=True))
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))
    assert not any(left_out)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy", "huber"])
def test_metrics_of_the_library_are_known(loss):
    from nnaccel.maths import losses

    loss = losses.get(loss)
    assert metrics.is_own(metrics.for_loss(loss), loss)
    for name in metrics.METRICS:
        assert metrics.is_own(metrics.get(name, loss), loss)
    assert not metrics.is_own(metrics.Metric("mine", lambda Z, Y, weights, *, xp: xp.mean(Z)), loss)
