"""Dropout in the compiled epoch: the masks, and the training, of the steps by the definitions."""

import numpy as np
import pytest

from nnaccel.kernels import dense_plan
from nnaccel.kernels.definition import NotSupported, Run
from nnaccel.maths import losses, metrics, optimizers
from nnaccel.maths.activations import get
from nnaccel.maths.layers import Dense, Dropout, LayerNorm
from nnaccel.maths.network import Network, mlp
from nnaccel.maths.random import Key, bernoulli
from nnaccel.training.loop import train
from tests.kernels.test_epoch import LOSSES, assert_same_run, examples, simple, trained

pytest.importorskip("numba")
pytest.importorskip("scipy")

from nnaccel.kernels.numba import dropout as dropout_draws
from nnaccel.kernels.numba import epoch as compiled_epoch
from nnaccel.kernels.numba.activations import ACTIVATIONS


def network_of(activation="relu", K=3, *, D=3, on_inputs=None, hidden=None, units=(20, 7)):
    """Dense layers with dropout at these rates; None is no layer at all."""
    layers = [] if on_inputs is None else [Dropout(on_inputs)]
    for H in units:
        layers += [Dense(H, get(activation)), *([] if hidden is None else [Dropout(hidden)])]
    return Network(D, (*layers, Dense(K)))


# The bits


@pytest.mark.parametrize("seed", [0, 1, 7, 2**40 + 5])
@pytest.mark.parametrize("place", [0, 1, 6, 100])
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9, 1.0 - 2**-26])
def test_the_bits_are_those_of_bernoulli(seed, place, rate):
    """Also of steps whose counter wraps."""
    plan = dense_plan.Plan([4, 3], ["relu"], [0.0], 0, [rate], [place], 0.0)
    threshold = np.uint32(round((1.0 - rate) * dropout_draws.ALL))
    for step in (0, 1000, 2**31 - 2):
        counter = np.array(step, np.int32)
        keys = dropout_draws.keys_of(plan, seed, counter, 4)
        for i, key in enumerate(keys[:, 0]):
            now = (counter[None] + np.int32(i))[0]
            expected = bernoulli(Key(seed, now).child(place), 1.0 - rate, (100,), xp=np)
            found = [dropout_draws.kept(element, key, threshold) for element in range(100)]
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [7, 64, 150])
@pytest.mark.parametrize("rate", [0.1, 0.75])
@pytest.mark.parametrize("hidden", [False, True])
def test_the_masks_of_an_epoch_are_those_of_the_definition(hidden, rate, batch_size, size, team):
    """Of a network that gives what it is given, X = 1: its logits are M."""
    team(size)
    D, N = 70, 150
    before = [Dense(D, get("identity"))] * hidden
    network, seen = Network(D, (*before, Dropout(rate), Dense(D))), []

    def seeing(Z, Y, weights, *, xp):
        seen.append(Z.reshape(-1, D).copy())
        return xp.zeros(Z.shape[:-2], dtype=xp.float32)

    problem = simple(
        network,
        optimizers.adam(0.0),
        examples(N=N, D=D, K=D)._replace(X=np.ones((N, D), np.float32)),
        metric=metrics.Metric("masks", seeing, float),
        batch_size=batch_size,
        seed=5,
    )
    _, state = problem.start
    layers = [*[np.eye(D).reshape(-1)] * (1 + hidden), np.zeros(D * (1 + hidden))]
    params = np.concatenate(layers).astype(np.float32)
    trained(problem.small(numba=True), problem, 2, state_step=3, start=(params, state))
    expected = []
    for step in range(2 * -(-N // batch_size)):
        start = step * batch_size % (-(-N // batch_size) * batch_size)
        key = Key(5, np.array(3 + step, np.int32)).child(int(hidden))
        shape = (min(batch_size, N - start), D)
        expected.append(bernoulli(key, 1.0 - rate, shape, xp=np) / np.float32(1.0 - rate))
    np.testing.assert_allclose(np.concatenate(seen), np.concatenate(expected), rtol=1e-6)


# The training

WHERE = {
    "inputs": {"on_inputs": 0.2},
    "hidden": {"hidden": 0.3},
    "both": {"on_inputs": 0.1, "hidden": 0.6},
}


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
@pytest.mark.parametrize("activation", [*ACTIVATIONS])
@pytest.mark.parametrize(("loss", "K"), LOSSES)
def test_an_epoch_with_dropout_is_its_steps(loss, K, activation, where):
    """With a last batch that is short, with weights and without."""
    for weighted in (False, True):
        data = examples(loss, K, N=70, weighted=weighted)
        metric = metrics.for_loss(loss) if weighted else None
        problem = simple(
            network_of(activation, K, **where), data=data, loss=loss, l2=0.01 * weighted,
            metric=metric, batch_size=32, seed=11,
        )  # fmt: skip
        found = trained(problem.small(numba=True), problem, state_step=9)
        assert_same_run(found, trained(problem.steps(), problem, state_step=9))
        with pytest.raises(AssertionError):  # other masks would show
            assert_same_run(found, trained(problem._replace(seed=12).steps(), problem))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid"])
def test_a_team_drops_what_one_would(activation, where, size, team, sizes):
    """In float64: with fewer digits an example may come to lie on the other side of a kink."""
    team(size)
    network = network_of(activation, D=20, units=(70, 40), **where)
    problem = simple(
        network, data=examples(N=150, D=20, dtype="float64"), batch_size=64, dtype="float64"
    )
    assert_same_run(
        trained(problem.small(numba=True), problem), trained(problem.steps(), problem), "float64"
    )
    assert set(sizes) == {size}


def test_each_layer_has_its_own_rate_and_may_have_none():
    layers = Dense(9, get("tanh")), Dropout(0.5), Dense(8, get("relu")), Dense(7, get("sigmoid"))
    network = Network(3, (Dropout(0.1), *layers, Dropout(0.25), Dense(3)))
    problem = simple(network)
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


def test_the_activation_of_the_last_layer_knows_nothing_of_dropout():
    network = Network(3, (Dense(20, get("tanh")), Dropout(0.4), Dense(2, get("sigmoid"))))
    problem = simple(network, data=examples("squared_error", 2), loss="squared_error")
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


@pytest.mark.parametrize("D", [3, 128])
def test_bytes_are_numbers_before_they_are_dropped(D):
    """Of 128 pixels each row is padded, which takes no draws."""
    X = np.random.default_rng(0).integers(0, 4, (50, D), np.uint8)
    network = network_of("tanh", D=D, on_inputs=0.3, hidden=0.2)
    problem = simple(network, data=examples()._replace(X=X))
    found = trained(problem.small(numba=True), problem)
    assert_same_run(found, trained(problem.steps(), problem))
    assert X.any(axis=0).all()


def test_an_epoch_in_several_calls_draws_the_same(monkeypatch, sizes):
    problem = simple(network_of(hidden=0.3))
    expected = trained(problem.small(numba=True), problem)
    n_calls = len(sizes)
    monkeypatch.setattr(compiled_epoch, "WORK", 1)
    found = trained(problem.small(numba=True), problem)
    assert len(sizes) > 2 * n_calls
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2], expected[2])


@pytest.mark.parametrize("activation", [*ACTIVATIONS])
def test_a_rate_of_zero_changes_no_bit(activation):
    problem = simple(network_of(activation, on_inputs=0.0, hidden=0.0))
    plain = simple(network_of(activation))
    found, expected = (trained(p.small(numba=True), p) for p in (problem, plain))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2], expected[2])


def test_what_is_not_a_number_shows_where_it_is_dropped():
    problem = simple(network_of(on_inputs=0.5, hidden=0.5), data=examples(N=16))
    mask = bernoulli(Key(0, np.array(0, np.int32)).child(0), 0.5, (16, 3), xp=np)
    row, column = np.argwhere(~mask)[0]
    problem.data.X[problem.order[row], column] = np.nan
    with np.errstate(all="ignore"):
        for epoch in (problem.small(numba=True), problem.steps()):
            assert np.isnan(trained(epoch, problem, epochs=1)[2]).all()


@pytest.mark.parametrize("dropout", [0.2, 0.7])
def test_a_run_is_that_of_the_eager_steps_also_when_it_goes_on(dropout):
    X, Y, weights = examples(N=70, weighted=True)
    network = mlp(3, [16, 9], 3, activation=["relu", "tanh"], dropout=dropout)

    def run(epochs, kernels, after=None):
        options = {
            "batch_size": 32,
            "sample_weight": weights,
            "seed": 3,
            "kernels": kernels,
            "after": after,
        }
        return list(train(network, X, Y, loss="softmax_cross_entropy", epochs=epochs, **options))

    expected, first = run(5, "numpy"), run(2, True)
    found = first + run(5, True, after=first[-1])
    for epoch, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(epoch.loss, reference.loss, rtol=1e-4)
    np.testing.assert_allclose(found[-1].params, expected[-1].params, rtol=1e-3, atol=2e-5)


# What has no plan

UNKNOWN = {
    "two in a row": (Dropout(0.2), Dropout(0.3), Dense(3)),
    "after the last layer": (Dense(8, get("tanh")), Dense(3), Dropout(0.2)),
    "beside another layer": (Dense(8), LayerNorm(), Dropout(0.2), Dense(3)),
}


@pytest.mark.parametrize("layers", UNKNOWN.values(), ids=UNKNOWN)
def test_other_arrangements_are_left_to_the_steps(layers):
    problem = simple(Network(3, layers))
    assert problem.small(numba=True) is None
    assert_same_run(trained(problem.whole(numba=True), problem), trained(problem.steps(), problem))


def test_a_plan_has_dropout_for_those_who_ask_for_it():
    rate = 0.2
    network, loss = network_of(on_inputs=rate, hidden=rate), losses.get("squared_error")
    run = Run(network, loss, optimizers.adam(0.01), 16, np.dtype("float32"))
    with pytest.raises(NotSupported, match="it has no layer Dropout"):
        dense_plan.plan_of(run, ACTIVATIONS)
    plan = dense_plan.plan_of(run, ACTIVATIONS, dropout=True)
    assert plan.sizes == [3, 20, 7, 3]
    assert plan.rates == [rate] * 3
    assert plan.places == [0, 2, 4]
    none = Run(network_of(on_inputs=0.0, hidden=0.0), loss, optimizers.adam(0.01), 16, np.float32)
    assert dense_plan.plan_of(none, ACTIVATIONS).rates == [0.0] * 3
