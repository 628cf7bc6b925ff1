"""What an epoch does with its vectors, it does on their device."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from nnaccel.devices.device import to_host
from nnaccel.kernels.params import SplitParams
from nnaccel.maths.network import mlp
from nnaccel.maths.optimizers import State, adam, gradient_descent
from nnaccel.training import epoch as module
from nnaccel.training.early_stopping import best_of_each
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train
from nnaccel.training.step import Diverged, initialize

from ..conftest import named


class Elsewhere(np.ndarray):
    """An array of a second GPU, on which CuPy computes only where that is the current one."""

    current = False

    def __array_ufunc__(self, ufunc, method, *args):
        assert Elsewhere.current, "computed on the wrong device"
        return getattr(ufunc, method)(*map(np.asarray, args)).view(Elsewhere)

    def __array_function__(self, function, types, args, options):
        assert Elsewhere.current, "joined on the wrong device"
        return super().__array_function__(function, types, args, options).view(Elsewhere)

    def __setitem__(self, *args):
        assert Elsewhere.current, "written on the wrong device"
        super().__setitem__(*args)


@pytest.fixture
def elsewhere(monkeypatch):
    """Puts an array on the second device, whose context makes it the current one."""

    @contextmanager
    def current():
        before = Elsewhere.current
        monkeypatch.setattr(Elsewhere, "current", True)
        yield
        monkeypatch.setattr(Elsewhere, "current", before)

    def device_of(x):
        assert isinstance(x, Elsewhere)
        return SimpleNamespace(context=current)

    monkeypatch.setattr(module, "device_of", device_of, raising=False)
    return lambda *x: np.array(x, np.float64).view(Elsewhere)


def numbers(x):
    return x.view(np.ndarray).tolist()


def test_a_copy_is_made_on_the_device_of_the_vectors(elsewhere):
    params, slot = elsewhere(1, 2), elsewhere(3, 4)
    copy = Epoch(1, params, State(elsewhere(7), (slot,))).copy()
    assert numbers(copy.params) == [1, 2]
    assert numbers(copy.state.step) == [7]
    assert numbers(copy.state.slots[0]) == [3, 4]
    assert not np.may_share_memory(*(x.view(np.ndarray) for x in (copy.params, params)))


def test_split_vectors_are_joined_on_their_device(elsewhere):
    split = SplitParams((elsewhere(1), elsewhere(2, 3)))
    epoch = Epoch(1, split, State(elsewhere(7), (split,)))
    assert numbers(epoch.params) == [1, 2, 3]
    assert numbers(epoch.state.slots[0]) == [1, 2, 3]


def test_the_best_of_each_network_is_put_together_there(elsewhere):
    best, other = (
        Epoch(number, elsewhere([number, 0], [number, 1]), None, loss=np.array([1.0, 1.0]))
        for number in (1, 2)
    )
    found = best_of_each(best, other, np.array([False, True]))
    assert numbers(found.params) == [[1, 0], [2, 1]]


# Some of several networks


@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_a_run_of_some_networks_continues_where_all_of_them_were(device):
    """In the bits that they have beside the others, their rates included."""
    named(device)
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((20, 3)), rng.integers(0, 2, 20)
    network, rates = mlp(3, [4], 2), np.array([0.1, 0.01, 0.03])
    options = {"loss": "softmax_cross_entropy", "batch_size": 8, "device": device}
    all_of_them = [
        epoch.copy()
        for epoch in train(
            network, X, Y, params=initialize(network, members=3), epochs=4,
            optimizer=adam(rates), **options,
        )
    ]  # fmt: skip
    taken = all_of_them[1].take([2, 0])
    np.testing.assert_array_equal(taken.loss, all_of_them[1].loss[[2, 0]])
    *_, last = train(
        network, X, Y, after=taken, epochs=4, optimizer=adam(rates[[2, 0]]), **options
    )  # fmt: skip
    expected = to_host(all_of_them[-1].params)[[2, 0]]
    np.testing.assert_allclose(to_host(last.params), expected, rtol=1e-6, atol=1e-9)
    assert last.number == 4


def test_one_network_is_taken_whole():
    rng = np.random.default_rng(0)
    network = mlp(2, [3], 2)
    [epoch] = train(
        network, rng.random((8, 2)), np.arange(8) % 2, loss="softmax_cross_entropy", epochs=1
    )
    np.testing.assert_array_equal(epoch.take([0]).params, epoch.params)


def test_of_several_networks_those_that_diverge_are_named():
    rng = np.random.default_rng(0)
    network = mlp(2, [3], 1)
    rates = np.array([0.01, 1e30, 0.02])
    with pytest.raises(Diverged, match="training has diverged; lower the learning rate") as caught:
        for _ in train(
            network, rng.random((40, 2)), rng.random((40, 1)), loss="squared_error", epochs=20,
            batch_size=4, optimizer=gradient_descent(rates),
            params=initialize(network, members=3),
        ):  # fmt: skip
            pass
    assert caught.value.networks.tolist() == [1]
