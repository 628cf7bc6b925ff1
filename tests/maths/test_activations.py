"""Activations: values, derivatives and large logits, for every row of the name table."""

import math

import numpy as np
import pytest

from nnaccel.maths.activations import ACTIVATIONS, SELU_ALPHA, SELU_SCALE, get

EVERY = pytest.mark.parametrize("g", ACTIVATIONS.values(), ids=ACTIVATIONS)

# On both sides of 0, where some have no derivative, and not at it.
LOGITS = np.asarray([[-30.0, -4.0, -1.5, -0.3, -1e-3], [1e-3, 0.3, 1.5, 4.0, 30.0]])
DA = np.asarray([[0.3, -1.2, 2.0, -0.7, 1.1], [-0.4, 0.9, 1.7, -2.2, 0.6]])


def value(name, z, **options):
    return float(get(name, **options).forward(np.asarray([z]), xp=np)[0])


def slope(name, z, **options):
    g = get(name, **options)
    Z = np.asarray([z])
    return float(g.vjp(np.ones(1), Z, g.forward(Z, xp=np), xp=np)[0])


@pytest.mark.parametrize(
    ("name", "z", "expected"),
    [
        ("identity", -7.0, -7.0),
        ("sigmoid", 0.0, 0.5),
        ("sigmoid", math.log(3), 0.75),
        ("tanh", math.log(2), 0.6),
        ("relu", -2.0, 0.0),
        ("relu", 3.0, 3.0),
        ("leaky_relu", -2.0, -0.02),
        ("leaky_relu", 3.0, 3.0),
        ("softplus", 0.0, math.log(2)),
        ("softplus", math.log(math.e - 1), 1.0),
        ("elu", -math.log(2), -0.5),
        ("elu", 3.0, 3.0),
        ("selu", -math.log(2), -0.5 * SELU_SCALE * SELU_ALPHA),
        ("selu", 3.0, 3.0 * SELU_SCALE),
        ("gelu", 0.0, 0.0),
        ("gelu", 1.0, 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))),
        ("gelu_exact", 0.0, 0.0),
        ("gelu_exact", 1.0, 0.841344746068542949),
        ("gelu_exact", -2.0, -2.0 * 0.022750131948179207),
        ("silu", math.log(3), 0.75 * math.log(3)),
        ("mish", math.log(math.e - 1), math.log(math.e - 1) * math.tanh(1.0)),
    ],
)
def test_values_worked_by_hand(name, z, expected):
    assert value(name, z) == pytest.approx(expected, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "z", "expected"),
    [
        ("identity", -7.0, 1.0),
        ("sigmoid", math.log(3), 0.75 * 0.25),
        ("tanh", math.log(2), 1 - 0.36),
        ("relu", -2.0, 0.0),
        ("relu", 0.0, 0.0),
        ("relu", 2.0, 1.0),
        ("leaky_relu", -2.0, 0.01),
        ("leaky_relu", 2.0, 1.0),
        ("softplus", math.log(3), 0.75),
        ("elu", -math.log(2), 0.5),
        ("elu", 2.0, 1.0),
        ("selu", -math.log(2), 0.5 * SELU_SCALE * SELU_ALPHA),
        ("selu", 2.0, SELU_SCALE),
        ("gelu", 0.0, 0.5),
        ("gelu_exact", 0.0, 0.5),
        ("gelu_exact", 1.0, 0.841344746068542949 + math.exp(-0.5) / math.sqrt(2 * math.pi)),
        ("silu", 0.0, 0.5),
        ("mish", 0.0, 0.6),
    ],
)
def test_slopes_worked_by_hand(name, z, expected):
    assert slope(name, z) == pytest.approx(expected, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("name", ["relu", "softplus", "silu", "gelu", "gelu_exact"])
def test_gates_of_a_number_and_of_its_opposite_differ_by_the_number(name):
    g = get(name).forward
    np.testing.assert_allclose(g(LOGITS, xp=np) - g(-LOGITS, xp=np), LOGITS, rtol=1e-13)


def test_sigmoid_is_symmetric_and_tanh_is_the_sigmoid_stretched():
    sigmoid, tanh = get("sigmoid").forward, get("tanh").forward
    np.testing.assert_allclose(sigmoid(-LOGITS, xp=np), 1 - sigmoid(LOGITS, xp=np), atol=1e-15)
    np.testing.assert_allclose(tanh(LOGITS, xp=np), 2 * sigmoid(2 * LOGITS, xp=np) - 1, atol=1e-15)


def test_the_tanh_form_of_gelu_is_near_the_form_with_the_error_function():
    Z = np.linspace(-6, 6, 1001)
    exact = [0.5 * z * (1 + math.erf(z / math.sqrt(2))) for z in Z.tolist()]
    assert np.max(np.abs(get("gelu").forward(Z, xp=np) - np.asarray(exact))) < 5e-4


def test_the_exact_gelu_is_exact_to_rounding():
    """Its small tail too, where 1 + erf would have lost all digits."""
    Z = np.linspace(-37, 10, 4001)
    exact = np.asarray([0.5 * z * math.erfc(-z / math.sqrt(2)) for z in Z.tolist()])
    found = get("gelu_exact").forward(Z, xp=np)
    np.testing.assert_allclose(found, exact, rtol=1e-15, atol=5e-16)
    np.testing.assert_allclose(found, exact, rtol=3e-13, atol=0)
    with_erf = [0.5 * z * (1.0 + math.erf(z / math.sqrt(2))) for z in Z.tolist()]
    np.testing.assert_allclose(found, with_erf, rtol=1e-15, atol=3e-15)


@EVERY
def test_derivative_is_the_central_difference(g, xp_device):
    xp, h = xp_device.xp, 1e-5
    Z, dA = xp_device.asarray(LOGITS), xp_device.asarray(DA)
    dZ = g.vjp(dA, Z, g.forward(Z, xp=xp), xp=xp)
    difference = g.forward(Z + h, xp=xp) - g.forward(Z - h, xp=xp)
    expected = xp_device.to_numpy(dA * difference / (2 * h))
    np.testing.assert_allclose(xp_device.to_numpy(dZ), expected, rtol=1e-6, atol=1e-9)


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_library_keeps_dtype_and_shape_and_gives_the_same_numbers(g, dtype, xp_device):
    Z, dA = LOGITS.astype(dtype), DA.astype(dtype)
    A = g.forward(Z, xp=np)
    dZ = g.vjp(dA, Z, A, xp=np)
    xp, there, dA_there = xp_device.xp, xp_device.asarray(Z), xp_device.asarray(dA)
    A_there = g.forward(there, xp=xp)
    dZ_there = g.vjp(dA_there, there, A_there, xp=xp)
    tolerance = {"float32": 2e-6, "float64": 1e-13}[dtype]
    for array, expected in ((A_there, A), (dZ_there, dZ)):
        assert array.dtype == getattr(xp, dtype)
        found = xp_device.to_numpy(array)
        assert found.shape == Z.shape
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    # What was handed over is as it was.
    np.testing.assert_array_equal(xp_device.to_numpy(there), Z)
    np.testing.assert_array_equal(xp_device.to_numpy(dA_there), dA)


@EVERY
def test_an_activation_that_does_not_read_Z_can_do_without_it(g):
    A = g.forward(LOGITS, xp=np)
    if g.reads_Z:
        with pytest.raises(TypeError):
            g.vjp(DA, None, A, xp=np)
    else:
        np.testing.assert_array_equal(g.vjp(DA, None, A, xp=np), g.vjp(DA, LOGITS, A, xp=np))


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_logits_overflow_nowhere(g, dtype):
    Z = np.asarray([-1e6, -1e4, -300.0, -100.0, 100.0, 300.0, 1e4, 1e6], dtype=dtype)
    A = g.forward(Z, xp=np)  # a warning of NumPy would fail the test
    dZ = g.vjp(np.ones_like(Z), Z, A, xp=np)
    assert np.all(np.isfinite(A))
    assert np.all(np.abs(dZ) < 1.1)


@EVERY
def test_torch_gives_the_same_values_and_derivatives(g):
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    F = torch.nn.functional
    twins = {
        "identity": lambda Z: 1.0 * Z,
        "gelu": lambda Z: F.gelu(Z, approximate="tanh"),
        "gelu_exact": F.gelu,
    }
    twin = twins.get(g.name) or getattr(F, g.name)
    Z = torch.tensor(LOGITS, requires_grad=True)
    expected = twin(Z)
    expected.backward(torch.tensor(DA))
    A = g.forward(LOGITS, xp=np)
    np.testing.assert_allclose(A, expected.detach().numpy(), rtol=1e-8, atol=1e-14)
    dZ = g.vjp(DA, LOGITS, A, xp=np)
    np.testing.assert_allclose(dZ, Z.grad.numpy(), rtol=1e-8, atol=1e-14)


@EVERY
def test_jax_finds_the_same_derivative(g):
    jax = pytest.importorskip("jax", reason="JAX is an oracle where it is installed")
    forward = jax.jit(lambda Z: g.forward(Z, xp=jax.numpy))
    A, pull_back = jax.vjp(forward, jax.numpy.asarray(LOGITS))
    dZ = g.vjp(DA, LOGITS, np.asarray(A), xp=np)
    np.testing.assert_allclose(dZ, pull_back(jax.numpy.asarray(DA))[0], rtol=1e-10, atol=1e-13)


# Parameters and names


def test_parameters_reach_the_value_and_the_derivative():
    assert value("leaky_relu", -2.0, slope=0.2) == pytest.approx(-0.4)
    assert slope("leaky_relu", -2.0, slope=0.2) == pytest.approx(0.2)
    assert value("elu", -math.log(2), alpha=3.0) == pytest.approx(-1.5)
    assert slope("elu", -math.log(2), alpha=3.0) == pytest.approx(1.5)


def test_the_last_value_of_a_parameter_counts_and_is_plain_data():
    g = get("elu", alpha=3.0).with_options(alpha=2.0)
    assert g.options == (("alpha", 2.0),)
    assert float(g.forward(np.asarray([-math.log(2)]), xp=np)[0]) == pytest.approx(-1.0)
    assert ACTIVATIONS["elu"].options == ()


def test_an_unknown_parameter_is_refused_with_the_known_ones():
    with pytest.raises(TypeError, match="'elu' has no parameter 'slope'; it has alpha"):
        get("elu", slope=1.0)
    with pytest.raises(TypeError, match="'relu' has no parameter 'slope'; it has none"):
        get("relu", slope=1.0)


def test_a_name_is_looked_up_and_an_activation_is_taken_as_it_is():
    assert get("tanh") is ACTIVATIONS["tanh"]
    assert get(ACTIVATIONS["tanh"]) is ACTIVATIONS["tanh"]
    with pytest.raises(ValueError, match="activation must be one of .*did you mean 'sigmoid'"):
        get("sigmod")


def test_the_table_is_keyed_by_the_names():
    assert all(name == g.name for name, g in ACTIVATIONS.items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("leaky_relu", {"slope": -0.1}, "slope must be from 0 to 1, got -0.1"),
        ("leaky_relu", {"slope": 1.5}, "slope must be from 0 to 1, got 1.5"),
        ("elu", {"alpha": -1.0}, "alpha must be at least 0 and finite, got -1.0"),
        ("elu", {"alpha": math.nan}, "alpha must be at least 0 and finite, got nan"),
    ],
)
def test_parameters_whose_derivative_would_be_wrong_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        get(name, **options)
