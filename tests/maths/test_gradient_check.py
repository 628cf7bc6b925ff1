"""The gradient check: everything passes it, and it rejects what is wrong by 0.1 %."""

import math

import numpy as np
import pytest

from nnaccel.kernels.backend import backend_of
from nnaccel.maths import losses
from nnaccel.maths.activations import ACTIVATIONS, Activation, get
from nnaccel.maths.gradient_check import GradientCheck, check_gradients
from nnaccel.maths.layers import LAYERS, Dense, Dropout, LayerNorm, Residual, example
from nnaccel.maths.layers.dense import dense_vjp
from nnaccel.maths.losses import LOSSES
from nnaccel.maths.network import Network, layout, mlp
from nnaccel.maths.random import Key
from nnaccel.ops import Ops

D, K, N = 3, 2, 7
WRONG = 1.001


def same(array):
    return array


def check(network, loss="softmax_cross_entropy", *, asarray=same, ops=None, seed=0, **options):
    """Targets are rows of probabilities, which every loss accepts."""
    rng = np.random.default_rng(seed)
    params = 0.6 * rng.standard_normal(layout(network).size)
    X = rng.standard_normal((N, D))
    weights = rng.uniform(0.5, 1.5, N)
    loss = LOSSES[loss] if isinstance(loss, str) else loss
    Y = losses.softmax(rng.standard_normal((N, network.n_outputs // loss.n_outputs)), xp=np)
    key = Key(5, asarray(np.asarray(3, dtype=np.int32)))
    return check_gradients(
        network,
        loss,
        *(asarray(array) for array in (params, X, Y, weights)),
        ops=Ops(np) if ops is None else ops,
        rng=rng,
        key=key,
        **options,
    )


def on(xp_device):
    return {"asarray": xp_device.asarray, "ops": Ops(xp_device.xp)}


# Everything passes, on every array library


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_passes(name, xp_device):
    assert check(mlp(D, [4, 4], K, activation=name), **on(xp_device)).passed


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_passes(name, xp_device):
    assert check(mlp(D, [4], K, activation="tanh"), name, **on(xp_device)).passed


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_passes(name, xp_device):
    layers = (Dense(4, get("tanh")), example(name, 4), Dense(K))
    assert check(Network(D, layers), **on(xp_device)).passed


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_passes_as_the_first_one(name):
    assert check(Network(D, (example(name, D), Dense(K)))).passed


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax_cross_entropy", {"label_smoothing": 0.2}),
        ("huber", {"delta": 0.3}),
        ("pinball", {"quantile": (0.1, 0.8)}),
    ],
)
def test_losses_with_parameters_pass(name, options):
    assert check(mlp(D, [4], K, activation="tanh"), losses.get(name, **options)).passed


def test_a_linear_model_and_the_penalty_pass(xp_device):
    assert check(mlp(D, [], K), l2=0.3, **on(xp_device)).passed


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
def test_the_kernels_of_numpy_pass(name, loss):
    network = mlp(D, [4, 4], K, activation=name, dropout=0.2)
    assert check(network, loss, ops=backend_of(np).operations(), l2=0.1).passed


@pytest.mark.parametrize("last", [Dense(4, get("tanh")), Dropout(0.3)], ids=["dense", "dropout"])
def test_kernels_that_write_over_a_gradient_pass_in_a_residual_block(last):
    """The block needs the gradient of its output twice: for its layers, and for the sum."""
    block = Residual((Dense(4, get("relu")), last))
    layers = (
        Dense(4),
        block,
        LayerNorm(),
        Dense(4, get("sigmoid")),
        Residual((Dense(4, get("softplus")), LayerNorm(), Dropout(0.3), Dense(4))),
        Dense(K),
    )
    assert check(Network(D, layers), ops=backend_of(np).operations(), l2=0.1).passed


# It finds what is wrong


def spoiled(function, spoil):
    """An Ops in which the result of one function is changed."""
    ops = Ops(np)
    ops[function] = lambda *args, **options: spoil(function(*args, xp=np, **options))
    return ops


def test_an_activation_whose_derivative_is_wrong_by_a_thousandth_is_rejected():
    right = get("tanh")
    wrong = Activation("wrong", right.forward, lambda *a, xp: WRONG * right.vjp(*a, xp=xp), False)
    assert check(mlp(D, [4], K, activation=right)).passed
    outcome = check(mlp(D, [4], K, activation=wrong))
    assert not outcome.passed
    # What lies behind it is wrong, what lies before it right: W1, W2, b1, b2.
    assert [error > outcome.tolerance for error in outcome.errors] == [True, False, True, False]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_whose_gradient_is_wrong_by_a_thousandth_is_rejected(name):
    right = LOSSES[name]

    def wrong(*args, **options):
        value, dZ = right.function(*args, **options)
        return value, WRONG * dZ

    assert not check(mlp(D, [4], K, activation="tanh"), right._replace(function=wrong)).passed


@pytest.mark.parametrize("part", ["dX", "dW", "db"])
def test_a_layer_with_one_part_wrong_by_a_thousandth_is_rejected(part):
    def spoil(grads):
        return tuple(
            g if name != part or g is None else WRONG * g
            for name, g in zip(("dX", "dW", "db"), grads, strict=True)
        )

    network = mlp(D, [4], K, activation="tanh")
    assert check(network, ops=spoiled(dense_vjp, lambda grads: grads)).passed
    assert not check(network, ops=spoiled(dense_vjp, spoil)).passed


def test_one_entry_wrong_by_a_thousandth_is_rejected():
    def spoil(grads):
        dX, dW, db = grads
        dW[0, 0] *= WRONG
        return dX, dW, db

    network = mlp(D, [4], K, activation="tanh")
    assert not any(check(network, ops=spoiled(dense_vjp, spoil), seed=s).passed for s in range(5))


def test_a_gradient_that_is_not_a_number_is_rejected():
    def spoil(grads):
        return *grads[:2], grads[2] * math.nan

    assert not check(mlp(D, [4], K), ops=spoiled(dense_vjp, spoil)).passed


def test_a_gradient_of_zero_is_no_false_alarm():
    """A dead ReLU unit: its gradient is zero, and so is the difference."""
    network = mlp(D, [1], K)
    params = np.array([1.0, 1.0, 1.0, 0.5, -0.5, -100.0, 0.1, 0.2])
    X, Y = np.ones((N, D)), np.array([0, 1] * 3 + [0])
    outcome = check_gradients(
        network,
        LOSSES["softmax_cross_entropy"],
        params,
        X,
        Y,
        ops=Ops(np),
        rng=np.random.default_rng(0),
    )
    assert outcome.passed
    assert outcome.errors[0] == 0.0


# The outcome


def test_the_outcome_names_the_arrays_in_the_order_of_the_vector():
    outcome = check(mlp(D, [4], K))
    assert outcome.shapes == ((D, 4), (4, K), (1, 4), (1, K))
    assert len(outcome.errors) == 4
    assert outcome.tolerance == 1e-6


def test_passed_is_within_the_tolerance():
    assert GradientCheck((1e-7, 1e-6), ((1, 1), (1, 1)), 1e-6).passed
    assert not GradientCheck((1e-7, 2e-6), ((1, 1), (1, 1)), 1e-6).passed
    assert not GradientCheck((1e-7, math.nan), ((1, 1), (1, 1)), 1e-6).passed


@pytest.mark.parametrize("params", [np.zeros(14, dtype="float32"), np.zeros((2, 14))])
def test_what_is_not_one_float64_vector_is_refused(params):
    with pytest.raises(ValueError, match="params must be one float64 vector, got shape"):
        check_gradients(
            mlp(D, [2], K),
            LOSSES["squared_error"],
            params,
            np.zeros((N, D)),
            np.zeros((N, K)),
            ops=Ops(np),
            rng=np.random.default_rng(0),
        )
