"""What `nnaccel gradcheck` checks: it passes what is right and finds whatever is wrong.

Mistakes are made of the source of each derivative: a sign, a factor, a forgotten term, a missing
transpose, ... Each must fail the check of its row, unless its results are those of the original.
"""

import ast
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from nnaccel.devices.device import select
from nnaccel.maths import gradient_check, losses
from nnaccel.maths.activations import ACTIVATIONS
from nnaccel.maths.layers import LAYERS, BatchNorm, Dense, LayerNorm, Residual
from nnaccel.maths.layers.batch_norm import batch_norm_vjp
from nnaccel.maths.layers.dense import dense_vjp
from nnaccel.maths.layers.dropout import dropout_vjp
from nnaccel.maths.layers.layer_norm import layer_norm_vjp
from nnaccel.maths.losses import LOSSES
from nnaccel.maths.network import Network, l2_penalty, layout, mlp
from nnaccel.ops import Ops
from nnaccel.training import gradcheck
from nnaccel.training.gradcheck import catalogue, check_gradients, random_point
from nnaccel.training.step import initialize

from .mutants import Mutant, mutants, same

CPU = select("cpu")


def check_of(name, seed=0):
    """One line of the catalogue, and no other is computed."""
    every = gradcheck.cases_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            gradcheck, "cases_of", lambda rng: [case for case in every(rng) if case[0] == name]
        )
        ((_, check),) = catalogue(CPU, seed)
    return check


# What is right passes


@pytest.mark.parametrize("seed", [*range(20), 2**63, 2**64 - 1])
def test_everything_passes(seed):
    assert [name for name, check in catalogue(CPU, seed) if not check.passed] == []


def test_a_kink_between_two_points_is_no_false_alarm(monkeypatch):
    """With points a hundred times further apart, so that a kink lies between many of them."""
    kinks = [
        *("activation relu", "activation leaky_relu"),
        *("loss huber", "loss pinball", "loss absolute_error"),
    ]
    check = partial(gradient_check.check_gradients, spacing=1e-3)
    monkeypatch.setattr(gradcheck, "gradient_check", SimpleNamespace(check_gradients=check))

    def alarms():
        return sum(not check_of(row, seed).passed for seed in range(15) for row in kinks)

    assert alarms() == 0
    monkeypatch.setattr(gradient_check, "TRIES", 1)
    assert alarms() > 10


# What is wrong is found


def fails(mutant, row):
    """Whether the check of a row finds a mutant, by an error too, as of shapes that do not fit."""
    try:
        return not check_of(row).passed
    except Exception:
        return True


def assert_all_found(mutants, install, row):
    """Every mutant that computes something else fails the row."""
    missed, n_wrong = [], 0
    for mutant in mutants:
        with pytest.MonkeyPatch.context() as patch:
            install(patch, mutant)
            found = fails(mutant, row)
        n_wrong += mutant.n_wrong > 0
        if mutant.n_wrong and not found:
            missed.append(mutant.text)
    assert missed == []
    assert n_wrong > 0


def as_operation(patch, mutant):
    """The mutant in the place of the function that it is made of."""
    ops = Ops(np, {mutant.original: partial(mutant, xp=np)})
    patch.setattr(gradcheck, "backend_of", lambda xp: SimpleNamespace(operations=lambda: ops))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_mutant_of_an_activation_is_found(name):
    row = ACTIVATIONS[name]

    def install(patch, mutant):
        patch.setitem(ACTIVATIONS, name, row._replace(vjp=mutant))

    wrong = mutants(row.vjp) or [
        Mutant(row.vjp, lambda dA, Z, A, *, xp: 1.001 * dA, "a factor"),
        Mutant(row.vjp, lambda dA, Z, A, *, xp: -dA, "a sign"),
    ]
    assert_all_found(wrong, install, f"activation {name}")


@pytest.mark.parametrize(
    ("function", "row"),
    [
        (dense_vjp, "layer dense"),
        (layer_norm_vjp, "layer layer_norm"),
        (batch_norm_vjp, "layer batch_norm"),
        (dropout_vjp, "layer dropout"),
        (l2_penalty, "loss squared_error"),
    ],
)
def test_every_mutant_of_a_layer_and_of_the_penalty_is_found(function, row):
    assert_all_found(mutants(function), as_operation, row)


def gradient_of(tree):
    """The gradient among the arguments of `average`."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return next(c for c in calls if getattr(c.func, "id", "") == "average").args[1]


def spoiled(loss):
    """What may be wrong with the gradient of any loss, and what each does with its parameters."""

    def gradient(spoil):
        def wrong(Z, Y, weights=None, *, xp, **options):
            value, dZ = loss.function(Z, Y, weights, xp=xp, **options)
            return value, spoil(dZ, Z, Y, weights, xp, options)

        return wrong

    def again(dZ, Z, Y, weights, xp, options):
        return loss.function(Z, Y, weights, xp=xp, **options)[1]

    def shared(Z, Y):
        return np.broadcast_to(Y if Y.ndim > 1 else Y[:, None] == np.arange(Z.shape[1]), Z.shape)

    yield "a factor", gradient(lambda dZ, *_: 1.001 * dZ)
    yield "a sign", gradient(lambda dZ, *_: -dZ)
    yield "a sum for a mean", gradient(lambda dZ, *_: dZ * len(dZ))
    yield "weights forgotten", gradient(lambda dZ, Z, Y, w, xp, o: again(dZ, Z, Y, None, xp, o))
    yield "options forgotten", gradient(lambda dZ, Z, Y, w, xp, o: again(dZ, Z, Y, w, xp, {}))
    yield (
        "another target",
        gradient(lambda dZ, Z, Y, w, xp, o: again(dZ, Z, shared(Z, Y)[:, ::-1] * 1.0, w, xp, o)),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_every_mutant_of_a_loss_is_found(name):
    row = LOSSES[name]

    def install(patch, mutant):
        patch.setitem(LOSSES, name, row._replace(function=mutant))

    wrong = [Mutant(row.function, function, text) for text, function in spoiled(row)]
    assert_all_found([*wrong, *mutants(row.function, gradient_of)], install, f"loss {name}")


def test_every_mutant_of_the_weighted_mean_is_found():
    def install(patch, mutant):
        patch.setattr(losses, "average", mutant)

    assert_all_found(mutants(losses.average), install, "loss squared_error")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("spoil", ["no dX", "dX is dA", "a factor", "a sign", "a sum over all"])
def test_a_layer_with_another_gradient_of_its_input_is_found(name, spoil):
    kind = LAYERS[name]
    right, n_wrong = kind.backward, 0

    def wrong(self, params, saved, dA, *, ops, need_dX):
        nonlocal n_wrong
        dX, grads = right(self, params, saved, dA + 0.0, ops=ops, need_dX=need_dX)
        if dX is None or (spoil == "dX is dA" and dA.shape != dX.shape):
            return dX, grads
        spoils = {
            "no dX": lambda: 0.0 * dX,
            "dX is dA": lambda: dA,
            "a factor": lambda: 1.001 * dX,
            "a sign": lambda: -dX,
            "a sum over all": lambda: dX + dX.sum(0),
        }
        spoiled = spoils[spoil]()
        n_wrong += not same(spoiled, dX)  # over all examples that of batch normalisation is 0
        return spoiled, grads

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "backward", wrong)
        assert check_of(f"layer {name}").passed == (n_wrong == 0)


@pytest.mark.parametrize("forgotten", ["the input", "the layers"])
def test_a_residual_block_that_forgets_a_path_is_found(forgotten, monkeypatch):
    right = Residual.backward

    def wrong(self, params, saved, dA, *, ops, need_dX):
        dX, grads = right(self, params, saved, dA + 0.0, ops=ops, need_dX=need_dX)
        if dX is None:
            return None, grads
        return dX - dA if forgotten == "the input" else dA, grads

    monkeypatch.setattr(Residual, "backward", wrong)
    assert not check_of("layer residual").passed


def test_a_gain_that_is_forgotten_shows_at_a_random_point_alone():
    """Where training begins it is 1."""
    X, Y = np.random.default_rng(0).standard_normal((2, 20, 3))
    network = Network(3, (Dense(4), LayerNorm(), Dense(3)))
    (mutant,) = (m for m in mutants(layer_norm_vjp) if m.text.endswith("dA * gain -> dA"))
    options = {"loss": "squared_error"}
    with pytest.MonkeyPatch.context() as patch:
        as_operation(patch, mutant)
        assert check_gradients(network, X, Y, params=initialize(network), **options).passed
        assert not any(check_gradients(network, X, Y, seed=s, **options).passed for s in range(5))


# The point


def test_no_array_of_a_random_point_is_where_training_begins():
    network = Network(3, (Dense(4), BatchNorm(), Residual((LayerNorm(), Dense(4))), Dense(2)))
    start, point = initialize(network), random_point(network, np.random.default_rng(0))
    n_trained = layout(network).n_trained
    assert not (point == start)[:n_trained].any()
    np.testing.assert_array_equal(point[n_trained:], start[n_trained:])
    assert np.abs(point[:n_trained]).max() < 4


def test_parameters_that_are_given_are_where_it_checks():
    """At a kink, where there is no derivative; beside it there is."""
    network, X, Y = mlp(1, [1], 1), np.ones((1, 1)), np.ones((1, 1))
    at_kink, beside = np.asarray([0.0, 1.0, 0.0, 0.0]), np.asarray([0.1, 1.0, 0.0, 0.0])
    options = {"loss": "absolute_error"}
    assert not check_gradients(network, X, Y, params=at_kink, **options).passed
    assert check_gradients(network, X, Y, params=beside, **options).passed
    assert check_gradients(network, X, Y, **options).passed
    with pytest.raises(ValueError, match="params must be"):
        check_gradients(network, X, Y, params=np.zeros(3), **options)


def test_a_seed_out_of_range_is_refused():
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="seed must be"):
            next(catalogue(CPU, seed))


def test_losses_are_checked_with_other_options_than_the_defaults():
    cases = dict(gradcheck.cases_of(np.random.default_rng(0)))
    assert {case.loss.options for case in cases["loss huber"]} == {(), (("delta", 1.3),)}
    several = (("quantile", (0.2, 0.7, 0.9)),)
    options = {case.loss.options for case in cases["loss pinball"]}
    assert options == {(), (("quantile", 0.8),), several}
    forms = {case.Y.shape for case in cases["loss softmax_cross_entropy"]}
    assert forms == {(20,), (20, 3)}
