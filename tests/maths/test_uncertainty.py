"""Losses of quantiles, and of a mean with its variance, beside those of other libraries.

That they keep to the rules of all losses, their rows in `test_losses.py` say.
"""

import math
import re

import numpy as np
import pytest

from nnaccel.maths import losses, metrics, schedules
from nnaccel.maths.losses import get
from nnaccel.maths.network import mlp
from nnaccel.maths.optimizers import adam
from nnaccel.maths.uncertainty import LEAST_VARIANCE
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict

LEVELS = (0.1, 0.4, 0.8, 0.95)  # the second one is next to the median
QUANTILES = get("pinball", quantile=LEVELS)
GAUSSIAN = get("gaussian")
BOTH = pytest.mark.parametrize("loss", [QUANTILES, GAUSSIAN], ids=["quantiles", "gaussian"])


def examples(loss, N=7, T=3, seed=0):
    rng = np.random.default_rng(seed)
    Z = 1.5 * rng.standard_normal((N, T * loss.n_outputs))
    return Z, rng.standard_normal((N, T)), rng.uniform(0.2, 2.0, N)


def evaluate(loss, *arrays, xp=np):
    return loss.function(*arrays, xp=xp, **dict(loss.options))


# Worked by hand


def test_quantiles_go_up_and_down_from_the_one_next_to_the_median():
    log = math.log
    Z = np.array([[log(2.0), 5.0, log(3.0), 0.0]])  # softplus(log a) = log(1 + a)
    expected = [[5.0 - log(3.0), 5.0, 5.0 + log(4.0), 5.0 + log(4.0) + log(2.0)]]
    np.testing.assert_allclose(QUANTILES.predict(Z, xp=np), expected, rtol=1e-15)


def test_the_loss_of_quantiles_worked_by_hand():
    loss, Z = get("pinball", quantile=(0.25, 0.5, 0.75)), np.array([[0.0, 3.0, math.log(3.0)]])
    # A = 3 - log 2, 3, 3 + log 4; the target 3.5 is above the first two.
    log2 = math.log(2.0)
    value = 0.25 * (0.5 + log2) + 0.5 * 0.5 + 0.25 * (2 * log2 - 0.5)
    found, dZ = evaluate(loss, Z, np.array([[3.5]]))
    assert float(found) == pytest.approx(value, rel=1e-14)
    # dA = -0.25, -0.5, 0.25; sigmoid(0) = 1/2 and sigmoid(log 3) = 3/4.
    np.testing.assert_allclose(dZ, [[0.25 * 0.5, -0.5, 0.25 * 0.75]], rtol=1e-14)


def test_the_gaussian_loss_worked_by_hand():
    v = math.log(3.0) + 1e-6
    found, dZ = evaluate(GAUSSIAN, np.array([[1.0, math.log(2.0)]]), np.array([[3.0]]))
    assert float(found) == pytest.approx(0.5 * (math.log(2 * math.pi * v) + 4 / v), rel=1e-14)
    expected = [[-2 / v, 0.5 * (1 / v - 4 / v**2) * 2 / 3]]
    np.testing.assert_allclose(dZ, expected, rtol=1e-14)


# Other libraries


def test_scikit_learn_gives_the_same_loss_of_quantiles():
    metrics = pytest.importorskip("sklearn.metrics", reason="an oracle where it is installed")
    Z, Y, w = examples(QUANTILES)
    w = w / w.mean()
    A = np.split(QUANTILES.predict(Z, xp=np), len(LEVELS), axis=1)
    expected = sum(
        3 * metrics.mean_pinball_loss(Y, a, alpha=q, sample_weight=w)
        for a, q in zip(A, LEVELS, strict=True)
    )
    assert evaluate(QUANTILES, Z, Y, w)[0] == pytest.approx(expected, rel=1e-12)


@BOTH
def test_torch_gives_the_same_loss_and_gradient(loss):
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    Z, Y, weights = examples(loss)
    logits, target = torch.tensor(Z, requires_grad=True), torch.tensor(Y)
    blocks = logits.split(3, dim=1)
    if loss is GAUSSIAN:
        variance = torch.nn.functional.softplus(blocks[1]) + 1e-6
        nll = torch.nn.GaussianNLLLoss(full=True, reduction="none")
        each = nll(blocks[0], target, variance).sum(1)
    else:
        steps = [torch.nn.functional.softplus(block) for block in blocks]
        A = [blocks[1] - steps[0], blocks[1], blocks[1] + steps[2]]
        A.append(A[2] + steps[3])
        R = [target - a for a in A]
        each = sum(torch.maximum(q * r, (q - 1) * r) for q, r in zip(LEVELS, R, strict=True)).sum(1)
    expected = (each * torch.tensor(weights)).mean()
    expected.backward()
    value, dZ = evaluate(loss, Z, Y, weights)
    assert float(value) == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(dZ, logits.grad.numpy(), rtol=1e-10, atol=1e-14)


# Extreme logits: a warning of NumPy would fail these tests


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e8])
@BOTH
def test_extreme_logits_have_finite_losses_and_gradients(loss, dtype, size):
    signs = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (200, loss.n_outputs))
    Z, Y = (size * signs).astype(dtype), np.zeros((200, 1), dtype)
    value, dZ = evaluate(loss, Z, Y)
    assert value.dtype == dZ.dtype == dtype
    assert np.isfinite(value)
    assert np.isfinite(dZ).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quantiles_never_cross(dtype):
    rng = np.random.default_rng(0)
    Z = (rng.standard_normal((1000, 4)) * 10.0 ** rng.integers(-3, 6, (1000, 1))).astype(dtype)
    A = QUANTILES.predict(Z, xp=np)
    assert (np.diff(A, axis=1) >= 0).all()
    assert (np.diff(A[:, :2], axis=1) > 0).any()


def test_no_variance_is_below_the_least():
    A = GAUSSIAN.predict(np.array([[0.0, -1e4], [0.0, 3.0]]), xp=np)
    np.testing.assert_allclose(A[:, 1], [1e-6, math.log1p(math.exp(3.0)) + 1e-6], rtol=1e-14)
    assert LEAST_VARIANCE == 1e-6


@BOTH
def test_what_is_not_a_number_shows_in_the_loss(loss):
    Z, Y, _ = examples(loss, T=1)
    for k in range(loss.n_outputs):
        spoiled = Z.copy()
        spoiled[2, k] = np.nan
        with np.errstate(invalid="ignore"):  # as in training
            assert np.isnan(evaluate(loss, spoiled, Y)[0])


# Several networks


def test_the_quantiles_of_several_networks_are_averaged():
    A = np.array([[[1.0, 2.0, 3.0, 4.0]], [[3.0, 3.0, 3.0, 8.0]]])
    np.testing.assert_array_equal(QUANTILES.pool(A, xp=np), [[2.0, 2.5, 3.0, 6.0]])


def test_the_moments_of_a_mixture_are_those_of_a_sample_of_it(xp_device):
    means, variances = np.array([0.0, 1.0, 5.0]), np.array([1.0, 4.0, 0.25])
    rng = np.random.default_rng(0)
    sample = rng.normal(means, np.sqrt(variances), (100_000, 3))
    A = np.stack([means, variances], axis=1)[:, None, :]
    found = xp_device.to_numpy(GAUSSIAN.pool(xp_device.asarray(A), xp=xp_device.xp))
    np.testing.assert_allclose(found, [[2.0, np.mean(variances) + np.var(means)]], rtol=1e-14)
    np.testing.assert_allclose(found, [[sample.mean(), sample.var()]], rtol=0.02)


# The single number


def test_the_point_is_the_mean_or_the_quantile_next_to_the_median():
    A = np.arange(12.0).reshape(1, 12)
    np.testing.assert_array_equal(QUANTILES.points(A), [[3.0, 4.0, 5.0]])
    np.testing.assert_array_equal(GAUSSIAN.points(A), [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
    assert get("pinball", quantile=0.9).points(A) is not None
    upper = get("pinball", quantile=(0.9, 0.99))
    np.testing.assert_array_equal(upper.points(A), [np.arange(6.0)])


def test_metrics_are_those_of_the_point():
    Z, Y, _ = examples(GAUSSIAN)
    mean = GAUSSIAN.predict(Z, xp=np)[:, :3]
    metric = metrics.for_loss(GAUSSIAN)
    found = metric.finish(float(metric.function(Z, Y, None, xp=np)))
    assert metric.name == "RMSE"
    assert found == pytest.approx(np.sqrt(np.mean((mean - Y) ** 2)), rel=1e-14)


# Training


def noisy(N=1000):
    """y = x + noise that grows with x, from 0.05 to 0.45."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (N, 1))
    return X, X + (0.25 + 0.2 * X) * rng.standard_normal((N, 1))


@BOTH
def test_training_finds_the_noise(loss):
    X, Y = noisy()
    network = mlp(1, [16], loss.n_outputs, activation="tanh")
    rate = schedules.one_cycle(0.03, 20 * 30)
    how = {"optimizer": adam(rate), "epochs": 30, "batch_size": 50, "kernels": "numpy"}
    *_, last = train(network, X, Y, loss=loss, dtype="float64", **how)
    at = np.array([-0.6, 0.0, 0.6])
    A, true = predict(network, last.params, at[:, None], loss=loss), 0.25 + 0.2 * at
    np.testing.assert_allclose(loss.points(A)[:, 0], at, atol=0.1)
    if loss is GAUSSIAN:
        np.testing.assert_allclose(np.sqrt(A[:, 1]), true, rtol=0.2)
    else:  # 2.927 lies between the 0.1 and the 0.95 quantile of a normal distribution
        np.testing.assert_allclose(A[:, 3] - A[:, 0], 2.927 * true, rtol=0.2)


@pytest.mark.parametrize(
    ("n_outputs", "Y", "message"),
    [
        (3, (10, 1), "the loss 'gaussian' takes 2 outputs of the network for each column of Y, and "
         "the network has 3; give its last layer 2 times as many units as Y has columns"),
        (4, (10, 1), r"Y must be \(n_samples, 2\), one column for every 2 outputs of the network, "
         r"got shape \(10, 1\)"),
    ],
)  # fmt: skip
def test_outputs_that_do_not_fit_the_targets_are_refused(n_outputs, Y, message):
    network = mlp(2, [3], n_outputs)
    with pytest.raises(ValueError, match=f"^{message}$"):
        next(train(network, np.zeros((10, 2)), np.zeros(Y), loss="gaussian", epochs=1))


# Levels


@pytest.mark.parametrize(
    ("quantile", "message"),
    [
        ((0.9, 0.1), "quantile must ascend, each level once, got 0.9, 0.1; in order: 0.1, 0.9"),
        ((0.5, 0.5), "quantile must ascend, each level once, got 0.5, 0.5; in order: 0.5"),
        ((), "quantile must be one level or more, got none"),
        ((0.1, 1.0), "quantile must be between 0 and 1, got 1.0"),
        ((0.0, 0.5), "quantile must be between 0 and 1, got 0.0"),
    ],
)
def test_levels_that_are_none_are_refused(quantile, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        get("pinball", quantile=quantile)


def test_a_list_of_one_level_is_one_output():
    one, alone = get("pinball", quantile=[0.3]), get("pinball", quantile=0.3)
    assert (one.n_outputs, alone.n_outputs, QUANTILES.n_outputs) == (1, 1, 4)
    Z, Y, w = examples(alone)
    for mine, expected in zip(evaluate(one, Z, Y, w), evaluate(alone, Z, Y, w), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_equal_losses_predict_by_the_same_function():
    """So that a program compiled for one serves the other."""
    assert QUANTILES.predict is get("pinball", quantile=list(LEVELS)).predict
    assert losses.get("huber", delta=2.0).predict is losses.identity
