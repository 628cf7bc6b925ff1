"""Seeds from 0 to 2^64 - 1: equal ones give equal runs everywhere, no two the same run."""

import numpy as np
import pytest

from nnaccel.maths.network import mlp
from nnaccel.training.gradcheck import check_gradients
from nnaccel.training.loop import train
from nnaccel.training.step import initialize, order_of

from ..conftest import named

SEEDS = [0, 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1]
NETWORK = mlp(3, [16], 2, activation="tanh", dropout=0.5)


def losses_of(seed, **options):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((24, 3)), rng.standard_normal((24, 2))
    options = {"loss": "squared_error", "epochs": 2, "batch_size": 8, **options}
    return [epoch.loss for epoch in train(NETWORK, X, Y, seed=seed, **options)]


def test_initial_weights_and_orders_of_different_seeds_differ():
    starts = {initialize(NETWORK, seed).tobytes() for seed in SEEDS}
    orders = {tuple(order_of(20, seed, 1)) for seed in SEEDS}
    assert len(starts) == len(orders) == len(SEEDS)


def test_a_seed_of_numpy_is_that_number():
    for seed in (np.int32(7), np.uint64(2**63 + 1)):
        np.testing.assert_array_equal(initialize(NETWORK, seed), initialize(NETWORK, int(seed)))
        assert losses_of(seed, kernels=False) == losses_of(int(seed), kernels=False)


def test_the_masks_alone_tell_seeds_apart():
    """Where they begin, and the order of the examples, are the same."""
    options = {"params": initialize(NETWORK), "shuffle": False, "kernels": False}
    assert len({tuple(losses_of(seed, **options)) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("kernels", [True, "numpy"], ids=["all kernels", "numpy"])
@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_every_set_of_kernels_runs_every_seed_as_the_definition_does(device, kernels):
    named(device)
    for seed in SEEDS:
        expected = losses_of(seed, device="cpu", kernels=False)
        np.testing.assert_allclose(losses_of(seed, device=device, kernels=kernels), expected, 1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_are_checked_with_every_seed(seed):
    X, Y = np.ones((4, 3)), np.ones((4, 2))
    assert check_gradients(NETWORK, X, Y, loss="squared_error", seed=seed).passed


@pytest.mark.parametrize("use", [initialize, lambda network, seed: losses_of(seed)])
def test_a_seed_out_of_range_is_refused(use):
    with pytest.raises(
        ValueError, match=r"seed must be from 0 to 2\^64 - 1, got 18446744073709551616"
    ):
        use(NETWORK, 2**64)


def test_estimators_tell_all_states_of_scikit_learn_apart():
    pytest.importorskip("sklearn")
    from nnaccel.estimators.stochastic_fit import seed_of

    assert [seed_of(state, None) for state in (7, 2**31, 2**32 - 1)] == [7, 2**31, 2**32 - 1]
