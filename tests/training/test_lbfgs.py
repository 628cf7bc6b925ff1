"""L-BFGS against SciPy's L-BFGS-B, on every array library."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize

from nnaccel.maths import losses
from nnaccel.maths.network import layout, mlp, value_and_grad
from nnaccel.ops import Ops
from nnaccel.training.lbfgs import ABNORMAL, CONVERGED, LIMIT, Pair, minimize, two_loop
from nnaccel.training.step import initialize


def rosenbrock(xp):
    """Rosenbrock's valley in any even dimension, its minimum 0 at (1, ..., 1)."""

    def objective(x):
        a, b = x[::2], x[1::2]
        r = b - a * a
        grads = xp.stack([-400.0 * a * r - 2.0 * (1.0 - a), 200.0 * r], axis=1)
        return xp.sum(100.0 * r * r + (1.0 - a) * (1.0 - a)), xp.reshape(grads, (-1,))

    return objective


def last(iterates):
    *_, end = iterates
    return end


def test_rosenbrock_on_every_library(xp_device):
    x = xp_device.asarray(np.tile([-1.2, 1.0], 5))
    end = last(minimize(rosenbrock(xp_device.xp), x, xp=xp_device.xp, tol=1e-6, value_tol=0.0))
    assert end.status == CONVERGED
    np.testing.assert_allclose(xp_device.to_numpy(end.params), 1.0, atol=1e-5)
    assert end.number < 60
    assert xp_device.to_numpy(x)[0] == -1.2


def network_objective(l2=0.01, dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 6)).astype(dtype)
    Y = rng.integers(0, 3, 120)
    network, loss = mlp(6, [8], 3, activation="tanh"), losses.get("softmax_cross_entropy")
    ops = Ops(np)

    def objective(params):
        return value_and_grad(network, loss, params, X, Y, ops=ops, l2=l2)[:2]

    return objective, initialize(network, 1).astype(dtype), layout(network).size


def test_reaches_the_loss_that_scipy_reaches():
    objective, params, _ = network_objective()
    ours = last(minimize(objective, params, xp=np, max_iter=2000, tol=1e-7, value_tol=0.0))
    theirs = scipy.optimize.minimize(
        objective,
        params,
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-7, "ftol": 0.0, "maxiter": 2000, "maxfun": 10**6},
    )
    # A network has several minima: those that the two find must be equally good.
    assert ours.value <= theirs.fun + 0.02 * abs(theirs.fun)
    assert ours.n_evaluations <= 2 * theirs.nfev
    assert ours.status == CONVERGED


def test_finds_the_minimum_of_a_convex_objective_that_scipy_finds():
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((200, 12)), rng.standard_normal(200) > 0

    def logistic(w):
        z = A @ w
        value = np.mean(np.logaddexp(0.0, z) - b * z) + 0.005 * w @ w
        return value, A.T @ (1.0 / (1.0 + np.exp(-z)) - b) / 200 + 0.01 * w

    ours = last(minimize(logistic, np.zeros(12), xp=np, tol=1e-8))
    theirs = scipy.optimize.minimize(
        logistic, np.zeros(12), jac=True, method="L-BFGS-B", options={"gtol": 1e-8}
    )
    np.testing.assert_allclose(ours.value, theirs.fun, rtol=1e-9)
    np.testing.assert_allclose(ours.params, theirs.x, atol=1e-4)
    assert ours.n_evaluations <= theirs.nfev + 5


def test_values_never_rise_and_float32_ends_too():
    objective, params, _ = network_objective(dtype=np.float32)
    iterates = list(minimize(objective, params, xp=np, max_iter=500, tol=0.0))
    values = [i.value for i in iterates]
    assert all(b <= a + 1e-6 for a, b in pairwise(values))
    assert iterates[-1].status is not None
    assert iterates[-1].params.dtype == np.float32
    assert [i.status for i in iterates[:-1]] == [None] * (len(iterates) - 1)


def test_two_loop_inverts_a_quadratic_once_it_has_seen_every_direction():
    rng = np.random.default_rng(0)
    Q = rng.standard_normal((4, 4))
    Q = Q @ Q.T + np.eye(4)
    _, V = np.linalg.eigh(Q)
    pairs = [Pair(s, Q @ s, s @ Q @ s, (Q @ s) @ (Q @ s)) for s in V.T]
    grads = rng.standard_normal(4)
    np.testing.assert_allclose(two_loop(grads, pairs), -np.linalg.solve(Q, grads), rtol=1e-10)


@pytest.mark.parametrize(
    ("limits", "status", "message"),
    [
        ({"max_iter": 3}, LIMIT, "ITERATIONS"),
        ({"max_fun": 3}, LIMIT, "EVALUATIONS"),
        ({"tol": 1e9}, CONVERGED, "GRADIENT"),
        ({"value_tol": 1.0}, CONVERGED, "REDUCTION"),
    ],
)
def test_says_why_it_ends(limits, status, message):
    end = last(minimize(rosenbrock(np), np.array([-1.2, 1.0]), xp=np, **limits))
    assert end.status == status
    assert message in end.message
    if "max_iter" in limits:
        assert end.number == 3


def test_a_region_without_values_is_left_and_a_bad_start_is_named():
    def objective(x):  # no value beyond 2: the first step would go there
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.sum(x - np.log(2.0 - x)), 1.0 + 1.0 / (2.0 - x) - 1e3 * (x < -5.0)

    end = last(minimize(objective, np.array([1.5]), xp=np, max_iter=5))
    assert np.isfinite(end.value)
    bad = last(minimize(lambda x: (np.float64("nan"), x), np.ones(2), xp=np))
    assert bad.status == ABNORMAL
    assert "not finite" in bad.message


def test_an_objective_may_overwrite_the_gradient_it_returned():
    buffer = np.empty(2)

    def objective(x):
        value, buffer[:] = rosenbrock(np)(x)
        return value, buffer

    end = last(minimize(objective, np.array([-1.2, 1.0]), xp=np, tol=1e-6, value_tol=0.0))
    np.testing.assert_allclose(end.params, 1.0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_first_steps_are_those_of_scipy(scale):
    """The first trial point of all is at distance 1, whether the gradient is longer or shorter."""
    b = np.linspace(1.0, 3.0, 5)

    def objective(x):
        return scale * ((x - b) ** 4).sum(), scale * 4.0 * (x - b) ** 3

    ours, theirs = [], []

    def seen(x, points):
        points.append(x.copy())
        return objective(x)

    end = last(minimize(lambda x: seen(x, ours), np.zeros(5), xp=np, tol=1e-9))
    scipy.optimize.minimize(
        lambda x: seen(x, theirs), np.zeros(5), jac=True, method="L-BFGS-B", options={"gtol": 1e-9}
    )
    np.testing.assert_allclose(np.linalg.norm(ours[1]), 1.0)
    np.testing.assert_allclose(ours[:2], theirs[:2])
    assert end.status == CONVERGED


def test_limits_end_a_run_that_would_also_have_converged():
    """As in SciPy: who has set a limit is told that it was reached."""

    def objective(x):
        return (x * x).sum(), 2.0 * x

    limits = [{"max_iter": 1}, {"max_fun": 1}, {"max_fun": 2}]
    ends = [last(minimize(objective, np.ones(1), xp=np, **limit)) for limit in limits]
    assert [end.number for end in ends] == [1, 1, 1]
    assert [end.n_evaluations for end in ends] == [2, 2, 2]
    assert [end.status for end in ends] == [LIMIT, LIMIT, CONVERGED]
