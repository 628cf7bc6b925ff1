"""Losses: values, gradients, weights and large logits, for every row of the name table."""

import math

import numpy as np
import pytest

from nnaccel.maths import losses
from nnaccel.maths.losses import LOSSES, get

QUANTILES = get("pinball", quantile=(0.1, 0.4, 0.9))
ROWS = {**LOSSES, "quantiles": QUANTILES}
EVERY = pytest.mark.parametrize("loss", ROWS.values(), ids=ROWS)

LOG3 = math.log(3)


def examples(N=5, K=3, lead=(), seed=0, loss=LOSSES["squared_error"]):
    """Logits, targets and weights that are in the domain of every loss: rows of probabilities."""
    rng = np.random.default_rng(seed)
    Y = losses.softmax(rng.standard_normal((*lead, N, K)), xp=np)
    Z = 1.5 * rng.standard_normal((*lead, N, K * loss.n_outputs))
    return Z, Y, rng.uniform(0.2, 2.0, (*lead, N))


def evaluate(loss, Z, Y, weights=None, *, xp=np, **options):
    loss = get(loss, **options)
    return loss.function(Z, Y, weights, xp=xp, **dict(loss.options))


def classes(*numbers):
    return np.array(numbers, dtype=np.int64)


# Values worked by hand


@pytest.mark.parametrize(
    ("name", "options", "z", "y", "expected"),
    [
        ("binary_cross_entropy", {}, [0.0], [1.0], math.log(2)),
        ("binary_cross_entropy", {}, [LOG3], [1.0], math.log(4 / 3)),
        ("binary_cross_entropy", {}, [LOG3], [0.0], math.log(4)),
        ("binary_cross_entropy", {}, [LOG3, 0.0], [0.0, 1.0], math.log(8)),
        ("softmax_cross_entropy", {}, [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], math.log(4)),
        ("softmax_cross_entropy", {}, [LOG3, 0.0], [1.0, 0.0], math.log(4 / 3)),
        ("softmax_cross_entropy", {}, [LOG3, 0.0], [0.5, 0.5], math.log(4) - LOG3 / 2),
        ("squared_error", {}, [3.0, 5.0], [0.0, 1.0], 12.5),
        ("absolute_error", {}, [3.0, -3.0], [0.0, 1.0], 7.0),
        ("huber", {}, [0.5, 3.0], [0.0, 0.0], 0.125 + 2.5),
        ("huber", {"delta": 2.0}, [-3.0, 2.0], [0.0, 0.0], 4.0 + 2.0),
        ("poisson", {}, [math.log(2)], [1.0], 1 - math.log(2)),
        ("poisson", {}, [math.log(2)], [0.0], 2.0),
        ("pinball", {"quantile": 0.9}, [1.0], [3.0], 1.8),
        ("pinball", {"quantile": 0.9}, [3.0], [1.0], 0.2),
        ("pinball", {}, [3.0], [1.0], 1.0),
    ],
)
def test_values_worked_by_hand(name, options, z, y, expected):
    value, _ = evaluate(name, np.array([z]), np.array([y]), **options)
    assert float(value) == pytest.approx(expected, rel=1e-14)
    # The mean over examples: the same example three times has the same loss.
    value, _ = evaluate(name, np.array([z] * 3), np.array([y] * 3), **options)
    assert float(value) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "options", "z", "y", "expected"),
    [
        ("binary_cross_entropy", {}, [LOG3], [1.0], [-0.25]),
        ("softmax_cross_entropy", {}, [LOG3, 0.0], [0.0, 1.0], [0.75, -0.75]),
        ("squared_error", {}, [3.0, 5.0], [0.0, 1.0], [3.0, 4.0]),
        ("absolute_error", {}, [3.0, -3.0, 1.0], [0.0, 1.0, 1.0], [1.0, -1.0, 0.0]),
        ("huber", {"delta": 2.0}, [-3.0, 1.5], [0.0, 0.0], [-2.0, 1.5]),
        ("poisson", {}, [math.log(2)], [3.0], [-1.0]),
        ("pinball", {"quantile": 0.9}, [1.0, 3.0, 2.0], [2.0, 2.0, 2.0], [-0.9, 0.1, 0.0]),
    ],
)
def test_gradients_worked_by_hand_hold_the_one_over_N(name, options, z, y, expected):
    _, dZ = evaluate(name, np.array([z] * 4), np.array([y] * 4), **options)
    np.testing.assert_allclose(dZ, np.array([expected] * 4) / 4, rtol=1e-14, atol=1e-15)


# Identities


def test_softmax_and_its_loss_do_not_change_when_a_row_is_shifted():
    Z, Y, _ = examples()
    shift = np.array([[-100.0], [1.0], [0.0], [7.0], [500.0]])
    np.testing.assert_allclose(losses.softmax(Z + shift, xp=np), losses.softmax(Z, xp=np))
    for mine, expected in zip(
        evaluate("softmax_cross_entropy", Z + shift, Y),
        evaluate("softmax_cross_entropy", Z, Y),
        strict=True,
    ):
        np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-13)


def test_rows_of_the_softmax_gradient_sum_to_zero():
    Z, Y, _ = examples()
    _, dZ = evaluate("softmax_cross_entropy", Z, Y)
    np.testing.assert_allclose(dZ.sum(axis=-1), 0.0, atol=1e-16)


@pytest.mark.parametrize(
    "name", ["softmax_cross_entropy", "binary_cross_entropy", "squared_error", "poisson"]
)
def test_with_the_canonical_link_the_gradient_is_the_prediction_less_the_target(name):
    Z, Y, _ = examples()
    _, dZ = evaluate(name, Z, Y)
    np.testing.assert_allclose(dZ, (get(name).link(Z, xp=np) - Y) / 5, atol=1e-15)


@pytest.mark.parametrize("loss", [row for row in LOSSES.values() if row.n_outputs == 1])
def test_no_logits_are_better_than_those_whose_prediction_is_the_target(loss):
    Z, Y, _ = examples()
    inverse = {"softmax": np.log, "sigmoid": lambda Y: np.log(Y / (1 - Y)), "exponential": np.log}
    best = inverse.get(loss.link.__name__, lambda Y: Y)(Y)
    at_best, dZ = evaluate(loss, best, Y)
    np.testing.assert_allclose(dZ, 0.0, atol=1e-15)
    assert at_best < evaluate(loss, best + 0.1 * Z, Y)[0]


def test_softmax_of_two_classes_is_the_sigmoid_of_the_difference():
    Z, _, weights = examples(K=2)
    Y = classes(0, 1, 1, 0, 1)
    both, dZ = evaluate("softmax_cross_entropy", Z, Y, weights)
    single, dz = evaluate("binary_cross_entropy", Z[:, 1:] - Z[:, :1], Y[:, None], weights)
    assert both == pytest.approx(single, rel=1e-14)
    np.testing.assert_allclose(dZ[:, 1:], dz, rtol=1e-12)


def test_huber_is_squared_error_near_and_absolute_error_far():
    Z, Y, _ = examples()
    near, squared = evaluate("huber", Z, Y, delta=1e6), evaluate("squared_error", Z, Y)
    far, absolute = evaluate("huber", Z, Y, delta=1e-9), evaluate("absolute_error", Z, Y)
    for mine, expected in zip(near, squared, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-12)
    for mine, expected in zip(far, absolute, strict=True):
        np.testing.assert_allclose(mine / 1e-9, expected, rtol=1e-6)


def test_pinball_is_balanced_where_the_quantile_lies():
    """Of 10 targets, 3 are below the 0.3-quantile: pulled up and down alike, the constant stays."""
    Y = np.arange(10.0)[:, None]
    _, dZ = evaluate("pinball", np.full((10, 1), 2.5), Y, quantile=0.3)
    assert float(dZ.sum()) == pytest.approx(0.0, abs=1e-15)


# Targets in other forms


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_integer_classes_and_their_probabilities_are_the_same_target(label_smoothing, xp_device):
    xp, (Z, _, weights) = xp_device.xp, examples()
    Z, weights = xp_device.asarray(Z), xp_device.asarray(weights)
    by_number = xp_device.asarray(classes(0, 2, 1, 1, 2))
    by_row = xp_device.asarray(np.eye(3)[[0, 2, 1, 1, 2]])
    expected = evaluate(
        "softmax_cross_entropy", Z, by_row, weights, xp=xp, label_smoothing=label_smoothing
    )
    found = evaluate(
        "softmax_cross_entropy", Z, by_number, weights, xp=xp, label_smoothing=label_smoothing
    )
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(xp_device.to_numpy(mine), xp_device.to_numpy(theirs))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_classes_may_be_of_a_type_that_does_not_count_to_K(dtype, xp_device):
    Z = np.random.default_rng(0).standard_normal((5, 300))
    Y = classes(0, 44, 99, 100, 7)
    expected, dZ_expected = evaluate("softmax_cross_entropy", Z, np.eye(300)[Y])
    value, dZ = evaluate(
        "softmax_cross_entropy",
        xp_device.asarray(Z),
        xp_device.asarray(Y.astype(dtype)),
        xp=xp_device.xp,
    )
    assert float(value) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(xp_device.to_numpy(dZ), dZ_expected, atol=1e-15)


def test_label_smoothing_mixes_the_target_with_the_uniform_distribution():
    Z, Y, weights = examples()
    found = evaluate("softmax_cross_entropy", Z, Y, weights, label_smoothing=0.3)
    expected = evaluate("softmax_cross_entropy", Z, 0.7 * Y + 0.3 / 3, weights)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["bool", "int64", "float64"])
def test_labels_may_be_booleans_or_integers(dtype):
    Z, Y, _ = examples()
    Y = Y > 0.3
    value, dZ = evaluate("binary_cross_entropy", Z, Y.astype(dtype))
    expected, dZ_expected = evaluate("binary_cross_entropy", Z, Y.astype("float64"))
    assert value == expected
    np.testing.assert_array_equal(dZ, dZ_expected)


# Sample weights


@EVERY
def test_weights_of_one_change_nothing(loss):
    Z, Y, _ = examples(loss=loss)
    for mine, expected in zip(evaluate(loss, Z, Y, np.ones(5)), evaluate(loss, Z, Y), strict=True):
        np.testing.assert_array_equal(mine, expected)


@EVERY
def test_weight_two_is_a_row_that_comes_twice_but_for_the_divisor(loss):
    """The divisor is the number of rows: 5 with a weight, 6 with a repeated row."""
    Z, Y, _ = examples(loss=loss)
    weighted, dZ = evaluate(loss, Z, Y, np.array([1.0, 1.0, 2.0, 1.0, 1.0]))
    rows = [0, 1, 2, 2, 3, 4]
    repeated, dZ_repeated = evaluate(loss, Z[rows], Y[rows])
    assert 5 * weighted == pytest.approx(6 * repeated, rel=1e-14)
    np.testing.assert_allclose(5 * dZ[2], 6 * (dZ_repeated[2] + dZ_repeated[3]), rtol=1e-13)
    np.testing.assert_allclose(5 * dZ[[0, 1, 3, 4]], 6 * dZ_repeated[[0, 1, 4, 5]], rtol=1e-13)


@EVERY
def test_weight_zero_leaves_a_row_out(loss):
    Z, Y, _ = examples(loss=loss)
    value, dZ = evaluate(loss, Z, Y, np.array([1.0, 1.0, 0.0, 1.0, 1.0]))
    rows = [0, 1, 3, 4]
    without, _ = evaluate(loss, Z[rows], Y[rows])
    assert 5 * value == pytest.approx(4 * without, rel=1e-14)
    np.testing.assert_array_equal(dZ[2], 0.0)


# Derivatives, libraries, leading axes


@EVERY
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_gradient_is_the_central_difference(loss, weighted, xp_device):
    """One inner product a direction; the leading axis gives four directions at once."""
    xp, h = xp_device.xp, 1e-5
    Z, Y, weights = (xp_device.asarray(array) for array in examples(lead=(4,), loss=loss))
    direction = xp_device.asarray(np.random.default_rng(1).standard_normal(tuple(Z.shape)))
    weights = weights if weighted else None
    _, dZ = evaluate(loss, Z, Y, weights, xp=xp)
    above, _ = evaluate(loss, Z + h * direction, Y, weights, xp=xp)
    below, _ = evaluate(loss, Z - h * direction, Y, weights, xp=xp)
    predicted = xp_device.to_numpy(xp.sum(dZ * direction, axis=(-2, -1)))
    measured = xp_device.to_numpy((above - below) / (2 * h))
    np.testing.assert_allclose(predicted, measured, rtol=1e-6, atol=1e-9)


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_library_keeps_dtype_and_shape_and_gives_the_same_numbers(loss, dtype, xp_device):
    arrays = [array.astype(dtype) for array in examples(loss=loss)]
    expected, dZ_expected = evaluate(loss, *arrays)
    there = [xp_device.asarray(array) for array in arrays]
    value, dZ = evaluate(loss, *there, xp=xp_device.xp)
    assert value.dtype == dZ.dtype == getattr(xp_device.xp, dtype)
    assert tuple(value.shape) == ()
    assert tuple(dZ.shape) == (5, 3 * loss.n_outputs)
    tolerance = {"float32": 2e-6, "float64": 1e-13}[dtype]
    for mine, theirs in ((value, expected), (dZ, dZ_expected)):
        np.testing.assert_allclose(xp_device.to_numpy(mine), theirs, rtol=tolerance, atol=tolerance)
    for before, after in zip(arrays, there, strict=True):
        np.testing.assert_array_equal(xp_device.to_numpy(after), before)


@EVERY
def test_predictions_keep_dtype_on_every_library(loss, xp_device):
    for dtype in ("float32", "float64"):
        Z = xp_device.asarray(examples(loss=loss)[0].astype(dtype))
        A = loss.predict(Z, xp=xp_device.xp)
        assert A.dtype == getattr(xp_device.xp, dtype)
        assert tuple(A.shape) == (5, 3 * loss.n_outputs)


@EVERY
def test_leading_axes_are_separate_problems(loss):
    Z, Y, weights = examples(lead=(2, 4), loss=loss)
    value, dZ = evaluate(loss, Z, Y, weights)
    assert value.shape == (2, 4)
    for k in np.ndindex(2, 4):
        expected, dZ_expected = evaluate(loss, Z[k], Y[k], weights[k])
        assert value[k] == pytest.approx(expected, rel=1e-14)
        np.testing.assert_allclose(dZ[k], dZ_expected, rtol=1e-13, atol=1e-16)


@EVERY
def test_networks_may_share_their_targets_and_weights(loss):
    Z, _, _ = examples(lead=(4,), loss=loss)
    _, Y, weights = examples(loss=loss)
    value, dZ = evaluate(loss, Z, Y, weights)
    for k in range(4):
        expected, dZ_expected = evaluate(loss, Z[k], Y, weights)
        assert value[k] == pytest.approx(expected, rel=1e-14)
        np.testing.assert_allclose(dZ[k], dZ_expected, rtol=1e-13, atol=1e-16)


def test_networks_may_share_integer_classes():
    Z, _, _ = examples(lead=(4,))
    Y = classes(0, 2, 1, 1, 2)
    value, dZ = evaluate("softmax_cross_entropy", Z, Y)
    for k in range(4):
        expected, dZ_expected = evaluate("softmax_cross_entropy", Z[k], Y)
        assert value[k] == pytest.approx(expected, rel=1e-14)
        np.testing.assert_allclose(dZ[k], dZ_expected, rtol=1e-13, atol=1e-16)


# Large logits: a warning of NumPy would fail these tests


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_cross_entropies_are_exact_for_large_logits(dtype, size):
    Z = np.array([[size, 0.0], [size, 0.0]], dtype=dtype)
    value, dZ = evaluate("softmax_cross_entropy", Z, classes(0, 1))
    assert float(value) == pytest.approx(size / 2, rel=1e-6)
    np.testing.assert_allclose(dZ, [[0.0, 0.0], [0.5, -0.5]], atol=1e-6)
    value, dZ = evaluate("binary_cross_entropy", Z[:, :1], np.array([[1], [0]]))
    assert float(value) == pytest.approx(size / 2, rel=1e-6)
    np.testing.assert_allclose(dZ, [[0.0], [0.5]], atol=1e-6)
    value, dZ = evaluate("binary_cross_entropy", -Z[:, :1], np.array([[1], [0]]))
    assert float(value) == pytest.approx(size / 2, rel=1e-6)
    np.testing.assert_allclose(dZ, [[-0.5], [0.0]], atol=1e-6)


def test_the_loss_of_a_confident_right_answer_keeps_its_digits():
    Z = np.array([[20.0]])
    value, _ = evaluate("binary_cross_entropy", -Z, np.array([[0.0]]))
    assert float(value) == pytest.approx(math.log1p(math.exp(-20.0)), rel=1e-12)


def test_poisson_takes_counts_of_zero():
    value, dZ = evaluate("poisson", np.array([[-800.0]]), np.array([[0]]))
    assert float(value) == 0.0
    assert float(dZ[0, 0]) == 0.0


# Independent implementations


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax_cross_entropy", {}),
        ("softmax_cross_entropy", {"label_smoothing": 0.2}),
        ("binary_cross_entropy", {}),
        ("squared_error", {}),
        ("absolute_error", {}),
        ("huber", {"delta": 0.4}),
        ("poisson", {}),
    ],
)
def test_torch_gives_the_same_loss_and_gradient(name, options, weighted):
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    F = torch.nn.functional
    Z, Y, weights = examples()
    weights = weights if weighted else np.ones(5)
    logits, target = torch.tensor(Z, requires_grad=True), torch.tensor(Y)
    constant = 0.0
    match name:
        case "softmax_cross_entropy":
            each = F.cross_entropy(logits, target, reduction="none", **options)
        case "binary_cross_entropy":
            each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
        case "squared_error":
            each = F.mse_loss(logits, target, reduction="none").sum(1) / 2
        case "absolute_error":
            each = F.l1_loss(logits, target, reduction="none").sum(1)
        case "huber":
            each = F.huber_loss(logits, target, reduction="none", **options).sum(1)
        case "poisson":  # the likelihood, which leaves out what the deviance has for each target
            each = F.poisson_nll_loss(logits, target, reduction="none").sum(1)
            constant = np.mean(weights * np.sum(Y * np.log(Y) - Y, axis=1))
    expected = (each * torch.tensor(weights)).mean()
    expected.backward()
    value, dZ = evaluate(name, Z, Y, weights, **options)
    assert float(value) == pytest.approx(expected.item() + constant, rel=1e-12)
    np.testing.assert_allclose(dZ, logits.grad.numpy(), rtol=1e-10, atol=1e-14)


@EVERY
def test_jax_finds_the_same_gradient(loss):
    jax = pytest.importorskip("jax", reason="JAX is an oracle where it is installed")
    Z, Y, weights = (jax.numpy.asarray(array) for array in examples(loss=loss))
    expected = jax.jit(jax.grad(lambda Z: evaluate(loss, Z, Y, weights, xp=jax.numpy)[0]))(Z)
    _, dZ = evaluate(loss, *examples(loss=loss))
    np.testing.assert_allclose(dZ, expected, rtol=1e-10, atol=1e-14)


def test_scikit_learn_gives_the_same_values():
    metrics = pytest.importorskip("sklearn.metrics", reason="an oracle where it is installed")
    Z, Y, w = examples()
    w = w / w.mean()
    expected = 3 * metrics.mean_pinball_loss(Y, Z, alpha=0.2, sample_weight=w)
    assert evaluate("pinball", Z, Y, w, quantile=0.2)[0] == pytest.approx(expected, rel=1e-12)
    z, y = Z[:, :1], Y[:, :1]
    expected = metrics.mean_poisson_deviance(y[:, 0], np.exp(z[:, 0]), sample_weight=w) / 2
    assert evaluate("poisson", z, y, w)[0] == pytest.approx(expected, rel=1e-12)
    expected = metrics.log_loss([0, 2, 1, 1, 2], losses.softmax(Z, xp=np), sample_weight=w)
    value, _ = evaluate("softmax_cross_entropy", Z, classes(0, 2, 1, 1, 2), w)
    assert value == pytest.approx(expected, rel=1e-12)


# Parameters and names


def test_an_unknown_parameter_is_refused_with_the_known_ones():
    with pytest.raises(TypeError, match="'huber' has no parameter 'quantile'; it has delta"):
        get("huber", quantile=0.5)
    with pytest.raises(TypeError, match="'poisson' has no parameter 'delta'; it has none"):
        get("poisson", delta=0.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("huber", {"delta": 0}, "delta must be above 0, got 0"),
        ("huber", {"delta": math.nan}, "delta must be above 0, got nan"),
        ("pinball", {"quantile": 1.0}, "quantile must be between 0 and 1, got 1.0"),
        ("pinball", {"quantile": (0.1, 90)}, "quantile must be between 0 and 1, got 90"),
        ("softmax_cross_entropy", {"label_smoothing": 1}, "label_smoothing must be at least 0 and"),
    ],
)
def test_parameters_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        get(name, **options)


def test_parameters_are_plain_data():
    assert get("pinball", quantile=[0.1, 0.9]).options == (("quantile", (0.1, 0.9)),)
    assert get("huber", delta=2.0).with_options(delta=3.0).options == (("delta", 3.0),)


def test_a_name_is_looked_up_and_a_loss_is_taken_as_it_is():
    assert get("huber") is LOSSES["huber"]
    assert get(LOSSES["huber"]) is LOSSES["huber"]
    with pytest.raises(ValueError, match="loss must be one of .*did you mean 'poisson'"):
        get("poison")


def test_the_table_is_keyed_by_the_names():
    assert all(name == loss.name for name, loss in LOSSES.items())


def test_numpy_numbers_as_options_become_pythons_own():
    loss = losses.get("huber", delta=np.float64(0.5))
    assert type(dict(loss.options)["delta"]) is float
    assert loss == losses.get("huber", delta=0.5)
    assert losses.get("pinball", quantile=np.array([0.1, 0.9])).options == (
        ("quantile", (0.1, 0.9)),
    )
