"""What an epoch does with its vectors, it does on their device."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from nnaccel.kernels.params import SplitParams
from nnaccel.maths.optimizers import State
from nnaccel.training import epoch as module
from nnaccel.training.early_stopping import best_of_each
from nnaccel.training.epoch import Epoch


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
