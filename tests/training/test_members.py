"""A sweep: K networks at once, each with hyper-parameters of its own, are K runs."""

import numpy as np
import pytest

import nnaccel as nn
from nnaccel.devices.device import to_host
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.definition import Run
from nnaccel.maths import losses, optimizers, schedules
from nnaccel.maths.network import mlp
from nnaccel.maths.optimizers import OPTIMIZERS, clipped, get
from nnaccel.ops import Ops
from nnaccel.training.loop import train
from nnaccel.training.members import l2_of
from nnaccel.training.step import initialize

from ..conftest import named

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((30, 3)), rng.integers(0, 2, 30)
NETWORK = mlp(3, [6], 2, activation="tanh")
K = 3
STARTS = initialize(NETWORK, members=K)
RATES, L2, DECAYS, NORMS = (
    np.asarray(x) for x in ([0.1, 0.01, 0.03], [0.0, 0.1, 1.0], [0.0, 0.1, 0.3], [0.1, 1.0, 9.0])
)
SETS = [
    *(("cpu", True), ("cpu", "numpy"), ("cpu", False)),
    *(("torch", True), ("torch", False), ("jax", True), ("jax", False)),
]


def run(params, network=NETWORK, **options):
    options = {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": 8, **options}
    return [epoch.copy() for epoch in train(network, X, Y, params=params, **options)]


def assert_runs(together, alone, rtol=1e-9):
    """together: the epochs of K networks.   alone: k -> those of one of them."""
    for k in range(K):
        for both, one in zip(together, alone(k), strict=True):
            np.testing.assert_allclose(both.loss[k], one.loss, rtol=rtol)
            np.testing.assert_allclose(
                to_host(both.params)[k], to_host(one.params), rtol=rtol, atol=1e-10
            )


@pytest.mark.parametrize("form", [np.asarray, lambda x: x[:, None], tuple, list])
@pytest.mark.parametrize(("device", "kernels"), SETS)
def test_a_sweep_over_l2_is_a_run_for_each(device, kernels, form):
    named(device)
    found = run(STARTS, l2=form(L2), device=device, kernels=kernels)
    assert_runs(found, lambda k: run(STARTS[k], l2=L2[k], kernels=False))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("device", "kernels"), SETS)
def test_a_sweep_over_the_numbers_of_an_optimizer_is_a_run_for_each(device, kernels, name):
    named(device)

    def optimizer(rates, decays, norms):
        return clipped(get(name, rates, weight_decay=decays), norms)

    together = optimizer(RATES, DECAYS, NORMS)
    found = run(STARTS, optimizer=together, l2=L2, device=device, kernels=kernels)

    def alone(k):
        one = optimizer(RATES[k], DECAYS[k], NORMS[k])
        return run(STARTS[k], optimizer=one, l2=L2[k], kernels=False)

    # The sign of Lion's step may round to the other side.
    assert_runs(found, alone, 1e-6 if name == "lion" else 1e-9)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("kernels", [True, "numpy", False])
def test_a_sweep_over_the_rate_of_a_schedule_is_a_run_for_each(kernels, name):
    def optimizer(rate):
        return optimizers.adam(schedules.get(name, rate, 8))

    found = run(STARTS, optimizer=optimizer(RATES), kernels=kernels)
    assert_runs(found, lambda k: run(STARTS[k], optimizer=optimizer(RATES[k]), kernels=False))


def test_a_sweep_keeps_float32(xp_device):
    starts = xp_device.asarray(STARTS.astype("float32"))
    inputs, labels = xp_device.asarray(X.astype("float32")), xp_device.asarray(Y)
    value, grads, _ = nn.value_and_grad(
        NETWORK, "softmax_cross_entropy", starts, inputs, labels, l2=L2
    )
    assert value.dtype == grads.dtype == starts.dtype
    for optimizer in (
        clipped(optimizers.rmsprop(RATES, beta=NORMS / 10, weight_decay=DECAYS), NORMS),
        optimizers.lion(schedules.one_cycle(RATES, 9), beta_1=DECAYS, beta_2=DECAYS),
        optimizers.nesterov(RATES, beta=NORMS / 10),
        optimizers.adam(RATES, weight_decay=DECAYS),
    ):
        state = optimizer.init(starts, xp=xp_device.xp)
        ops = Ops(xp_device.xp)
        after, state = optimizer.update(grads, state, starts, ops=ops, n_weights=30)
        assert after.dtype == state.slots[0].dtype == starts.dtype
        assert after.shape == state.slots[0].shape == starts.shape


def test_arrays_of_other_shapes_are_named():
    with pytest.raises(ValueError, match=r"learning_rate must be a number, or \(K,\).* \(3, 2\)"):
        optimizers.adam(np.ones((3, 2)))


def test_adams_averages_are_those_of_all_networks():
    for name in ("beta_1", "beta_2", "epsilon"):
        with pytest.raises(ValueError, match=f"{name} of adam must be one number for all networks"):
            optimizers.adam(0.1, **{name: np.asarray([0.9, 0.99])})


def test_the_gradient_of_a_sweep_is_that_of_each(xp_device):
    starts, inputs, labels = map(xp_device.asarray, (STARTS, X, Y))
    value, grads, _ = nn.value_and_grad(
        NETWORK, "softmax_cross_entropy", starts, inputs, labels, l2=xp_device.asarray(L2)
    )
    for k in range(K):
        one = nn.value_and_grad(NETWORK, "softmax_cross_entropy", STARTS[k], X, Y, l2=L2[k])
        np.testing.assert_allclose(xp_device.to_numpy(value)[k], one[0], rtol=1e-12)
        np.testing.assert_allclose(xp_device.to_numpy(grads)[k], one[1], rtol=1e-10, atol=1e-14)


def test_kernels_that_train_one_by_one_say_why_they_step_aside():
    made = Run(NETWORK, losses.get("huber"), optimizers.adam(0.1), 8, "float64", l2=(0.1, 0.2, 0.3))
    assert backend_of(np, "numpy").explain(made) == (
        "step by step, kernels of NumPy; not Numba: left out, since a short run does not repay "
        "loading it; not a list of calls: its l2 differs from network to network; not steps: its "
        "l2 differs from network to network"
    )


# What does not fit is named


@pytest.mark.parametrize(
    ("options", "name", "n"),
    [
        ({"l2": L2[:2]}, "l2", 2),
        ({"l2": (0.1,) * 4}, "l2", 4),
        ({"optimizer": optimizers.adam(RATES[:2])}, "optimizer", 2),
        ({"optimizer": optimizers.adam(schedules.cosine(RATES[:2], 5))}, "optimizer", 2),
        ({"optimizer": clipped(optimizers.adam(0.1), NORMS[:2])}, "optimizer", 2),
    ],
)
@pytest.mark.parametrize("params", [STARTS, STARTS[0], None], ids=["three", "one", "drawn"])
def test_another_number_of_networks_is_named(options, name, n, params):
    shape = r"\(38,\)" if params is not STARTS else r"\(3, 38\)"
    with pytest.raises(
        ValueError,
        match=rf"params must be \({n}, 38\), since {name} has values for {n} networks, got shape "
        rf"{shape}; nnaccel.initialize\(network, members={n}\)",
    ):
        run(params, **options)


def test_another_number_of_networks_is_named_by_gradients():
    for use in (
        lambda: nn.value_and_grad(NETWORK, "softmax_cross_entropy", STARTS, X, Y, l2=L2[:2]),
        lambda: nn.check_gradients(NETWORK, X, Y, loss="softmax_cross_entropy", l2=L2[:2]),
    ):
        with pytest.raises(ValueError, match=r"params must be \(2, 38\), since l2 has values for"):
            use()


@pytest.mark.parametrize(
    ("l2", "error", "message"),
    [
        (-1, ValueError, "l2 must be at least 0 and finite, got -1"),
        (np.asarray([0.1, np.nan]), ValueError, "l2 must be at least 0 and finite, got"),
        ([0.1, -0.1], ValueError, "l2 must be at least 0 and finite, got -0.1"),
        (np.ones((2, 2)), ValueError, r"l2 must be a number, or \(K,\) .*, got shape \(2, 2\)"),
        ("0.1", TypeError, "l2 must be a number at least 0 and finite, got '0.1'"),
        (None, TypeError, "l2 must be a number at least 0 and finite, got None"),
    ],
)
def test_penalties_out_of_range_are_refused(l2, error, message):
    with pytest.raises(error, match=message):
        run(STARTS, l2=l2)


def test_one_value_is_for_any_number_of_networks():
    assert l2_of(np.asarray([[0.1]])) == l2_of([0.1]) == l2_of(np.float64(0.1)) == 0.1
    assert type(l2_of(np.float64(0.1))) is float
    assert run(STARTS, l2=[0.1])[-1].loss.tolist() == run(STARTS, l2=0.1)[-1].loss.tolist()
