"""Initial weights: their scale, from the numbers of inputs and outputs of a layer."""

import numpy as np
import pytest

from nnaccel.maths import activations
from nnaccel.maths.initializers import INITIALIZERS, get
from nnaccel.maths.network import forward, initial_params, mlp
from nnaccel.ops import Ops

EVERY = pytest.mark.parametrize("name", INITIALIZERS)

FAN_IN, FAN_OUT = 300, 200

VARIANCE = {
    "zeros": 0.0,
    "ones": 0.0,
    "small_normal": 0.01**2,
    "glorot_normal": 2 / (FAN_IN + FAN_OUT),
    "glorot_uniform": 2 / (FAN_IN + FAN_OUT),
    "he_normal": 2 / FAN_IN,
    "he_uniform": 2 / FAN_IN,
    "lecun_normal": 1 / FAN_IN,
    "lecun_uniform": 1 / FAN_IN,
}


def draw(name, shape=(FAN_IN, FAN_OUT), seed=0):
    return get(name)(shape, np.random.default_rng(seed))


@EVERY
def test_draws_are_float64_and_come_from_the_generator_alone(name):
    W = draw(name)
    assert W.dtype == np.float64
    assert W.shape == (FAN_IN, FAN_OUT)
    np.testing.assert_array_equal(W, draw(name))


@EVERY
def test_mean_and_variance(name):
    W, n = draw(name), FAN_IN * FAN_OUT
    assert W.mean() == pytest.approx(float(name == "ones"), abs=4 * (VARIANCE[name] / n) ** 0.5)
    assert W.var() == pytest.approx(VARIANCE[name], rel=4 * (2 / n) ** 0.5)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("glorot_uniform", (6 / (FAN_IN + FAN_OUT)) ** 0.5),
        ("he_uniform", (6 / FAN_IN) ** 0.5),
        ("lecun_uniform", (3 / FAN_IN) ** 0.5),
    ],
)
def test_uniform_draws_fill_their_interval(name, bound):
    W = draw(name)
    assert -bound <= W.min() < -0.999 * bound
    assert bound >= W.max() > 0.999 * bound


@pytest.mark.parametrize("name", [n for n in INITIALIZERS if n.endswith("normal")])
def test_normal_draws_are_within_one_and_two_deviations_as_often_as_they_should(name):
    size = np.abs(draw(name)) / VARIANCE[name] ** 0.5
    assert np.mean(size < 1) == pytest.approx(0.6827, abs=0.01)
    assert np.mean(size < 2) == pytest.approx(0.9545, abs=0.005)


CUSTOMARY = {
    **dict.fromkeys(
        ("relu", "leaky_relu", "elu", "gelu", "gelu_exact", "silu", "mish"), "he_uniform"
    ),
    "selu": "lecun_normal",
}


@pytest.mark.parametrize("activation", activations.ACTIVATIONS)
def test_auto_is_the_customary_one_for_the_activation(activation):
    expected = INITIALIZERS[CUSTOMARY.get(activation, "glorot_uniform")]
    assert get("auto", activation) is expected
    assert get("auto", activations.get(activation)) is expected


def test_a_named_one_is_taken_for_every_activation():
    assert get("zeros", "relu") is INITIALIZERS["zeros"]


def test_an_activation_with_parameters_keeps_its_initializer():
    steep = activations.get("leaky_relu", slope=0.3)
    assert get("auto", steep) is get("auto", steep.plain()) is INITIALIZERS["he_uniform"]


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(ValueError, match="initializer must be one of .*did you mean 'he_normal'"):
        get("henormal")


@pytest.mark.parametrize("activation", ["relu", "selu"])
def test_the_signal_keeps_its_size_through_ten_layers(activation):
    """What the scales are for: He with ReLU keeps the second moment, LeCun with SELU too."""
    rng = np.random.default_rng(1)
    network = mlp(256, [256] * 10, 256, activation=activation)
    params = initial_params(network, rng, xp=np)
    Z = forward(network, params, rng.standard_normal((64, 256)), ops=Ops(np))
    assert 0.3 < np.mean(Z * Z) < 3.0


def test_biases_start_at_zero():
    network = mlp(4, [3], 2)
    params = initial_params(network, np.random.default_rng(0), xp=np)
    np.testing.assert_array_equal(params[-5:], 0.0)
    assert np.all(params[:-5] != 0.0)
