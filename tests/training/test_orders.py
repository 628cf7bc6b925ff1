"""Orders of epochs that are drawn while the epoch before is under way."""

import gc
import threading
from functools import partial

import numpy as np
import pytest

from nnaccel.devices.device import select
from nnaccel.maths.network import mlp
from nnaccel.training import loop, orders
from nnaccel.training.loop import train
from nnaccel.training.orders import Orders
from nnaccel.training.step import order_of

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 3)), RNG.integers(0, 2, 60)


@pytest.fixture
def few(monkeypatch):
    """Sixty examples are many, and a processor is free for them."""
    monkeypatch.setattr(orders, "MANY", 60)
    monkeypatch.setattr(orders, "SPARE", 1)


CPU = select("cpu")
GPU = CPU._replace(name="cuda:0")


def run(epochs=4, **options):
    options = {"loss": "softmax_cross_entropy", "batch_size": 16, "epochs": epochs} | options
    return train(mlp(3, [4], 2), X, Y, **options)


def threads():
    return [thread for thread in threading.enumerate() if "order" in thread.name]


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"device": "cpu", "kernels": False}])
def test_a_run_has_the_same_bits(few, monkeypatch, options):
    ahead = [epoch.loss for epoch in run(**options)]
    monkeypatch.setattr(orders, "MANY", 61)
    assert [epoch.loss for epoch in run(**options)] == ahead


def test_the_next_order_is_drawn_while_the_epoch_runs(few):
    """By a thread, once each, and none after the last."""
    begun, drawn = threading.Event(), []

    def draw(number):
        begun.set()
        drawn.append((number, threading.current_thread() is threading.main_thread()))
        return order_of(60, 0, number)

    some = Orders(draw, range(1, 4), 60, CPU)
    for number in range(1, 4):
        np.testing.assert_array_equal(some.of(number), order_of(60, 0, number))
        begun.clear()
        with some.next_drawn(number):
            assert begun.wait(60) if number < 3 else not begun.is_set()
        assert not threads()
    assert drawn == [(1, True), (2, False), (3, False)]


def test_few_examples_have_no_thread(monkeypatch):
    monkeypatch.setattr(orders, "Thread", None)
    assert len(list(run())) == 4


@pytest.mark.parametrize(
    ("where", "processors", "expected"), [(CPU, 3, False), (CPU, 4, True), (GPU, 1, True)]
)
def test_an_epoch_on_the_processor_leaves_one_to_the_thread(
    monkeypatch, where, processors, expected
):
    monkeypatch.setattr(orders.os, "sched_getaffinity", lambda _: range(processors), raising=False)
    drawn = []
    draw = lambda _: drawn.append(threading.current_thread().name) or np.arange(3)  # noqa: E731
    some = Orders(draw, range(1, 4), orders.MANY, where)
    with some.next_drawn(1):
        pass
    some.of(2)
    assert (drawn != ["MainThread"]) == expected


def test_a_run_that_is_left_leaves_no_thread(few):
    epochs = run()
    next(epochs)
    assert not threads()
    del epochs
    gc.collect()
    assert not threads()


def test_an_epoch_that_fails_leaves_no_thread(few):
    with pytest.raises(FloatingPointError, match="epoch 1"):
        list(run(optimizer="gd", dtype="float32", params=np.full(26, np.inf)))
    assert not threads()


def test_what_fails_in_the_thread_is_raised_in_the_next_epoch(few, monkeypatch):
    def draw(N, seed, number, shuffle=True):
        if number == 2:
            raise MemoryError("no room for an order")
        return order_of(N, seed, number, shuffle)

    monkeypatch.setattr(loop, "order_of", draw)
    epochs = run()
    assert next(epochs).number == 1
    with pytest.raises(MemoryError, match="no room for an order"):
        next(epochs)
    assert not threads()


def test_a_run_goes_on_where_it_was(few):
    """A run that continues another one begins with the order of its first epoch."""
    whole = [epoch.loss for epoch in run(4)]
    two = [epoch.copy() for epoch in run(2)]
    rest = [epoch.loss for epoch in run(4, after=two[-1])]
    assert [epoch.loss for epoch in two] + rest == whole


def test_an_order_may_be_asked_for_alone(few):
    draw = partial(order_of, 60, 0)
    np.testing.assert_array_equal(Orders(draw, range(1, 4), 60, CPU).of(2), draw(2))
