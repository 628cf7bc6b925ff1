"""Data on the host: the same minibatches in chunks, and buffers that nobody overwrites too soon."""

import random
import threading
from collections import deque
from functools import partial

import numpy as np
import pytest

from nnaccel.devices.device import Device, select
from nnaccel.maths import losses, metrics
from nnaccel.maths.layers import Dropout
from nnaccel.maths.network import mlp
from nnaccel.maths.optimizers import adam, clipped
from nnaccel.training import data as data_module
from nnaccel.training import loop, streaming
from nnaccel.training.data import RESIDENT, Data, HostData, put
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize
from nnaccel.training.streaming import (
    Pipeline,
    ahead,
    evaluation_rows,
    in_order,
    stream,
    training_rows,
)

N, D, K = 53, 5, 3
SOFTMAX = losses.get("softmax_cross_entropy")
NETWORK = mlp(D, [8, 6], K, activation=["tanh", "relu"])


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of two batches of eight, so that an epoch has four, the last one shorter."""
    monkeypatch.setattr(streaming, "ELEMENTS", 20 * D)


@pytest.fixture
def no_room(monkeypatch):
    """Devices on which nothing may live."""
    monkeypatch.setattr(data_module, "is_resident", lambda *_: False)


def inputs(kind="float32", N=N):
    rng = np.random.default_rng(0)
    if kind in ("uint8", "int64", ">i4"):
        return rng.integers(0, 9, (N, D)).astype(kind)
    return rng.standard_normal((N, D)).astype(kind)


def targets(kind, N=N):
    rng = np.random.default_rng(1)
    if kind == "classes":
        return rng.integers(0, K, N)
    P = rng.random((N, K))
    return P / P.sum(axis=1, keepdims=True)


def run(X, Y, network=NETWORK, **options):
    """Everything that two epochs of a run say."""
    options = {
        "loss": SOFTMAX,
        "metric": metrics.for_loss(SOFTMAX),
        "batch_size": 8,
        "epochs": 2,
        "optimizer": clipped(adam(0.02, weight_decay=0.1), 1.0),
        "l2": 1e-3,
        **options,
    }
    return [
        (epoch.scores(), [x + 0.0 for x in (epoch.params, *epoch.state.slots)])
        for epoch in train(network, X, Y, **options)
    ]


def assert_same(found, expected, name="cpu"):
    """Bit for bit; on JAX to rounding, since XLA compiles an epoch for its number of steps."""

    def same(x, other):
        x, other = np.asarray(x), np.asarray(other)
        if name != "jax":
            np.testing.assert_array_equal(x, other)
        elif x.size:
            np.testing.assert_allclose(x, other, rtol=2e-5, atol=2e-5 * np.abs(other).max())

    for (scores, arrays), (expected_scores, expected_arrays) in zip(found, expected, strict=True):
        assert scores.keys() == expected_scores.keys()
        for key, score in scores.items():
            same(score, expected_scores[key])
        for x, other in zip(arrays, expected_arrays, strict=True):
            same(x, other)


# The same minibatches


@pytest.mark.parametrize("options", [{}, {"optimizer": "adam", "l2": 0.0}], ids=["steps", "whole"])
@pytest.mark.parametrize("y", ["classes", "probabilities"])
@pytest.mark.parametrize(
    ("name", "x"),
    [
        *((name, x) for name in ("cpu", "torch") for x in ("float32", "float64", "uint8", ">i4")),
        *(("jax", x) for x in ("float32", "uint8")),
    ],
)
def test_streamed_training_is_resident_training_bit_for_bit(
    name, x, y, options, small_chunks, monkeypatch
):
    pytest.importorskip({"cpu": "numpy"}.get(name, name))
    X, Y = inputs(x), targets(y)
    weights = np.random.default_rng(2).uniform(0.2, 2.0, N)
    options = {
        "sample_weight": weights,
        "validation_data": (inputs(x, 20), targets(y, 20), weights[:20]),
        "device": name,
        "dtype": "float64" if x == "float64" else "float32",
        **options,
    }
    resident = run(X, Y, **options)
    monkeypatch.setattr(data_module, "is_resident", lambda *_: False)
    assert_same(run(X, Y, **options), resident, name)


@pytest.mark.parametrize("name", ["cpu", "torch", "jax"])
@pytest.mark.parametrize("batch_size", [1, 8, 53, 100])
def test_every_batch_size_and_no_shuffling(name, batch_size, small_chunks, monkeypatch):
    pytest.importorskip({"cpu": "numpy"}.get(name, name))
    options = {"batch_size": batch_size, "shuffle": batch_size != 8, "device": name, "epochs": 1}
    resident = run(inputs(), targets("classes"), **options)
    monkeypatch.setattr(data_module, "is_resident", lambda *_: False)
    assert_same(run(inputs(), targets("classes"), **options), resident, name)


@pytest.mark.parametrize("name", ["cpu", "torch", "jax"])
def test_K_networks_with_dropout(name, small_chunks, monkeypatch):
    pytest.importorskip({"cpu": "numpy"}.get(name, name))
    network = mlp(D, [8], K, dropout=0.3)
    assert any(isinstance(layer, Dropout) for layer in network.layers)
    options = {"network": network, "params": initialize(network, members=3), "device": name}
    resident = run(inputs(), targets("classes"), **options)
    monkeypatch.setattr(data_module, "is_resident", lambda *_: False)
    assert_same(run(inputs(), targets("classes"), **options), resident, name)


@pytest.mark.parametrize("name", ["cpu", "torch", "jax"])
@pytest.mark.parametrize("kind", ["float32", "float64", "int64"])
def test_sparse_rows_are_the_same_stream(name, kind, small_chunks):
    sparse = pytest.importorskip("scipy.sparse", reason="sparse matrices are SciPy's")
    pytest.importorskip({"cpu": "numpy"}.get(name, name))
    X, Y = inputs(kind), targets("classes")
    X[X < 1] = 0
    options = {"device": name, "dtype": "float32"}
    validation = X[:4], Y[:4]  # as many rows as are made dense at a time
    dense = run(X, Y, validation_data=validation, **options)
    validation = sparse.csr_array(X[:4]), Y[:4]
    assert_same(run(sparse.csr_array(X), Y, validation_data=validation, **options), dense, name)


def test_a_streamed_run_can_be_resumed(small_chunks, no_room):
    options = {"loss": SOFTMAX, "batch_size": 8, "epochs": 3}
    X, Y = inputs(), targets("classes")
    epochs = [e.copy() for e in train(NETWORK, X, Y, **options)]
    first = next(train(NETWORK, X, Y, **options))
    (*_, last) = train(NETWORK, X, Y, after=first, **options)
    np.testing.assert_array_equal(last.params, epochs[-1].params)


def test_training_on_every_library(xp_device, small_chunks, no_room):
    X, Y = inputs(), targets("classes")
    streamed = run(X, Y, device=xp_device.device, validation_data=(X, Y))
    for (scores, (params, *_)), (expected, (other, *_)) in zip(streamed, run(X, Y), strict=True):
        assert scores["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        np.testing.assert_allclose(xp_device.to_numpy(params), other, rtol=1e-4, atol=1e-5)


def test_prediction_brings_rows_to_the_device_in_parts(xp_device, monkeypatch):
    X, params = inputs(), initialize(NETWORK)
    there = xp_device.asarray(params)
    expected = xp_device.to_numpy(predict(NETWORK, there, X, loss=SOFTMAX))
    brought = []

    def asarray(self, x, *args, **kwargs):
        brought.append(x.shape[0])
        return original(self, x, *args, **kwargs)

    original = Device.asarray
    monkeypatch.setattr(streaming, "EVALUATION_ROWS", 10)
    monkeypatch.setattr(Device, "asarray", asarray)
    found = xp_device.to_numpy(predict(NETWORK, there, X, loss=SOFTMAX))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert brought == [10, 10, 10, 10, 10, 3]


def test_estimators_on_data_that_stay_on_the_host(small_chunks, monkeypatch):
    pytest.importorskip("sklearn")
    from nnaccel import MLPClassifier

    X, Y = inputs("float64"), targets("classes")
    options = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0, "batch_size": 8}
    for more in ({}, {"solver": "lbfgs"}, {"early_stopping": True, "validation_fraction": 0.3}):
        fits = []
        for fits_there in (True, False):
            monkeypatch.setattr(data_module, "is_resident", lambda *_, there=fits_there: there)
            with pytest.warns(Warning, match="(?i)converge|limit"):
                fits.append(MLPClassifier(**options, **more).fit(X, Y))
        for W, other in zip(fits[0].coefs_, fits[1].coefs_, strict=True):
            np.testing.assert_array_equal(W, other)


# Where data live


@pytest.mark.parametrize(("kind", "size"), [("float64", 4), ("uint8", 1)])
def test_what_takes_less_than_a_share_of_the_free_memory_lives_there(monkeypatch, kind, size):
    X, Y = inputs(kind), targets("probabilities")
    need = size * X.size + 4 * Y.size
    for free, expected in ((need / RESIDENT + 2, Data), (need / RESIDENT - 2, HostData)):
        monkeypatch.setattr(Device, "memory_free", lambda self, free=free: free)
        monkeypatch.setattr(Device, "holds", lambda self, x: False)
        assert type(put(NETWORK, SOFTMAX, select("cpu"), "float32", X, Y)) is expected


def test_what_is_on_the_device_already_stays_there(monkeypatch):
    monkeypatch.setattr(Device, "memory_free", lambda self: 1)
    X, Y = inputs(), targets("classes")
    assert type(put(NETWORK, SOFTMAX, select("cpu"), "float32", X, Y)) is Data
    torch = pytest.importorskip("torch")
    there = put(NETWORK, SOFTMAX, select("torch"), "float32", torch.asarray(X), Y)
    assert type(there) is Data
    assert type(put(NETWORK, SOFTMAX, select("torch"), "float32", X, Y)) is HostData


def test_memory_on_the_host_is_not_asked_for(xp_device):
    if xp_device.name != "cupy":
        assert xp_device.device.memory_free() is None


def test_a_file_that_is_mapped_into_memory_is_not_read_at_once(tmp_path, no_room):
    np.save(tmp_path / "X.npy", inputs())
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    data = put(NETWORK, SOFTMAX, select("cpu"), "float32", X, targets("classes"))
    assert np.shares_memory(data.X, X)
    assert_same(run(X, targets("classes")), run(inputs(), targets("classes")))


# Chunks


def host_data(N=N, weights=True):
    rng = np.random.default_rng(0)
    w = rng.random(N) if weights else None
    return HostData(rng.standard_normal((N, D)).astype("float32"), rng.integers(0, K, N), w)


def rows_of(data, order):
    return [None if x is None else x[order] for x in data]


def check_chunks(chunks, data, rows, order):
    """Whether the chunks are these rows, as the data set holds them by the time."""
    order = np.arange(len(data.Y)) if order is None else order
    parts = [order[i : i + rows] for i in range(0, len(order), rows)]
    assert len(chunks) == len(parts)
    for chunk, part in zip(chunks, parts, strict=True):
        for x, expected in zip(chunk, rows_of(data, part), strict=True):
            np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("order", [None, np.random.default_rng(0).permutation(N)])
@pytest.mark.parametrize("rows", [1, 10, 53, 60])
def test_chunks_are_the_rows_in_their_order(xp_device, rows, order):
    data, where = host_data(), xp_device.device
    chunks = list(map(partial(map, xp_device.to_numpy), stream(data, where, rows)(order)))
    check_chunks([Data(*chunk) for chunk in chunks], data, rows, order)


def test_chunks_to_train_on_are_whole_batches(monkeypatch):
    monkeypatch.setattr(streaming, "ELEMENTS", 1000)
    assert training_rows(host_data(), 8) == 200
    assert training_rows(host_data(), 48) == 192
    assert training_rows(host_data(), 4096) == 4096


def test_few_rows_of_a_wide_sparse_matrix_are_evaluated_at_a_time():
    sparse = pytest.importorskip("scipy.sparse", reason="sparse matrices are SciPy's")
    assert evaluation_rows(np.empty((1, 2**20))) == streaming.EVALUATION_ROWS
    assert evaluation_rows(sparse.csr_array((3, 2**20))) == 4
    assert evaluation_rows(sparse.csr_array((3, 2**23))) == 1


def test_data_on_the_device_are_evaluated_in_slices(monkeypatch):
    monkeypatch.setattr(streaming, "EVALUATION_ROWS", 20)
    data = Data(*host_data(weights=False))
    parts = list(in_order(data, select("cpu"))())
    assert [len(part.Y) for part in parts] == [20, 20, 13]
    assert all(np.shares_memory(part.X, data.X) for part in parts)


def test_ahead_makes_each_item_while_the_one_before_it_is_used():
    made = []
    for item in ahead(made.append(i) or i for i in range(4)):
        assert made == list(range(min(item + 2, 4)))
    assert list(ahead([])) == []


# Buffers: the pipeline on a machine that runs copies and steps as late, or as early, as it may


class Machine:
    """Two streams, in one of several orders that their events allow."""

    def __init__(self, policy, seed=0):
        self.policy, self.random = policy, random.Random(seed)
        self.lock = threading.RLock()
        self.copies, self.steps = FakeStream(self), FakeStream(self)

    def advance(self):
        """What runs by itself whenever there is something new."""
        if self.policy == "random":
            for _ in range(self.random.randrange(4)):
                self.random.choice((self.copies, self.steps)).run_one()
        at_once = {"eager copies": self.copies, "eager steps": self.steps}.get(self.policy)
        while at_once and at_once.run_one():
            pass


class Token:
    """One recording of an event."""

    def __init__(self, stream):
        self.stream, self.done = stream, False


class FakeEvent:
    def __init__(self):
        self.token = None

    def record(self, stream):
        with stream.machine.lock:
            self.token = token = Token(stream)
            stream.enqueue(lambda: setattr(token, "done", True))

    def synchronize(self):
        if self.token is not None:
            machine = self.token.stream.machine
            assert self.token.stream is machine.copies, "the host waits for steps"
            with machine.lock:
                self.token.stream.force(self.token)


class FakeStream:
    def __init__(self, machine):
        self.machine, self.ops = machine, deque()

    def enqueue(self, op):
        with self.machine.lock:
            self.ops.append(op)
            self.machine.advance()

    def wait_event(self, event):
        if event.token is not None:
            self.enqueue(event.token)

    def synchronize(self):
        with self.machine.lock:
            self.force(None)

    def run_one(self):
        if not self.ops or (isinstance(self.ops[0], Token) and not self.ops[0].done):
            return False
        op = self.ops.popleft()
        if not isinstance(op, Token):
            op()
        return True

    def force(self, token):
        """Run until that is done, or nothing is left."""
        while self.ops and not (token and token.done):
            if not self.run_one():
                self.ops[0].stream.force(self.ops[0])


class FakeCopies:
    event = FakeEvent

    def __init__(self, machine):
        self.machine, self.stream, self.buffers = machine, machine.copies, []

    def current(self):
        return self.machine.steps

    def pinned(self, shape, dtype):
        assert dtype.isnative
        self.buffers.append(shape)
        return np.full(shape, 99, dtype)

    empty = pinned

    def copy(self, host, device):
        assert host.shape == device.shape
        assert host.dtype == device.dtype
        self.stream.enqueue(lambda: np.copyto(device, host))


POLICIES = ["lazy", "eager copies", "eager steps", *(f"random {i}" for i in range(8))]


def machine_of(policy):
    name, _, seed = policy.partition(" ")
    return Machine("random", int(seed)) if name == "random" else Machine(policy)


def steps_on(pipeline, machine, order):
    """What steps read that are launched on each chunk, and run when the machine likes."""
    read = []
    for chunk in pipeline(order):
        machine.steps.enqueue(
            lambda chunk=chunk: read.append([None if x is None else x.copy() for x in chunk])
        )
    return read


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("weights", [False, True])
def test_no_buffer_is_overwritten_before_its_step_has_run(policy, weights):
    data, machine = host_data(100, weights), machine_of(policy)
    pipeline = Pipeline(data, 8, FakeCopies(machine))
    reads, orders = [], [np.random.default_rng(i).permutation(100) for i in range(3)]
    for order in (*orders, None):  # one epoch after the other, without a pause between them
        reads.append((steps_on(pipeline, machine, order), order))
    machine.steps.force(None)
    for read, order in reads:
        check_chunks(read, data, 8, order)


@pytest.mark.parametrize(
    "fault", ["copies do not wait for steps", "steps do not wait", "the reader does not wait"]
)
def test_a_pipeline_that_does_not_wait_is_found(fault, monkeypatch):
    def wait_event(self, event):
        if self is not (self.machine.copies if "copies" in fault else self.machine.steps):
            right(self, event)

    right = FakeStream.wait_event
    if "reader" in fault:
        monkeypatch.setattr(FakeEvent, "synchronize", lambda self: None)
    else:
        monkeypatch.setattr(FakeStream, "wait_event", wait_event)
    found = []
    for policy in POLICIES[:3]:
        data, machine = host_data(100), machine_of(policy)
        read = steps_on(Pipeline(data, 8, FakeCopies(machine)), machine, None)
        machine.steps.force(None)
        try:
            check_chunks(read, data, 8, None)
        except AssertionError:
            found.append(policy)
    assert found


def test_a_run_that_is_left_in_the_middle_can_be_followed_by_another():
    data, machine = host_data(100), Machine("lazy")
    pipeline = Pipeline(data, 8, FakeCopies(machine))
    read = []
    for chunk in pipeline(np.arange(100)[::-1]):
        machine.steps.enqueue(lambda chunk=chunk: read.append([x.copy() for x in chunk]))
        if len(machine.steps.ops) > 4:
            break
    del chunk
    assert not machine.copies.ops
    following = steps_on(pipeline, machine, None)
    machine.steps.force(None)
    check_chunks(following, data, 8, None)
    np.testing.assert_array_equal(read[0][0], data.X[::-1][:8])


def test_a_buffer_that_was_another_array_before_is_read_to_its_end():
    """A library's pool hands memory out again as soon as nothing but launched work needs it."""
    machine, old = Machine("eager copies"), np.full((100, D), 7, "float32")

    class Recycled(FakeCopies):
        def empty(self, shape, dtype):
            return old[: shape[0]] if shape == (8, D) else np.empty(shape, dtype)

    read = []
    machine.steps.enqueue(lambda: read.append(old.copy()))
    next(Pipeline(host_data(8), 8, Recycled(machine))())
    machine.steps.force(None)
    assert (read[0] == 7).all()


def test_the_buffers_are_three_chunks_whatever_the_data():
    copies = FakeCopies(Machine("eager copies"))
    pipeline = Pipeline(host_data(1000), 8, copies)
    assert sorted(copies.buffers) == sorted(6 * [(8, D), (8,), (8,)])
    steps_on(pipeline, copies.machine, None)
    assert len(copies.buffers) == 18


def test_an_error_of_the_reader_arrives():
    data = host_data(100)
    pipeline = Pipeline(data, 8, FakeCopies(Machine("lazy")))
    chunks = pipeline(np.arange(100))
    next(chunks)
    pipeline._data = data._replace(X="no array")
    with pytest.raises((ValueError, TypeError, AttributeError, IndexError)):
        list(chunks)


@pytest.mark.parametrize("x", ["float32", "uint8", ">i4", "sparse"])
@pytest.mark.parametrize("policy", ["eager copies", "eager steps"])
def test_training_through_the_pipeline_is_resident_training(policy, x, small_chunks, monkeypatch):
    """NumPy computes when it is told to, so here its steps wait for their chunk."""
    X, Y = inputs("float32" if x == "sparse" else x), targets("classes")
    weights = np.linspace(0.5, 1.5, N)
    resident = run(X, Y, sample_weight=weights, validation_data=(X, Y))
    if x == "sparse":
        X = pytest.importorskip("scipy.sparse").csr_matrix(X)

    def piped(data, where, rows):
        machine = Machine(policy)
        pipeline = Pipeline(data, min(rows, data.X.shape[0]), FakeCopies(machine))

        def chunks(order=None):
            for chunk in pipeline(order):
                machine.steps.force(None)
                yield chunk

        return chunks

    monkeypatch.setattr(loop, "stream", piped)
    monkeypatch.setattr(streaming, "stream", piped)
    monkeypatch.setattr(streaming, "evaluation_rows", lambda X: 8192)
    monkeypatch.setattr(data_module, "is_resident", lambda *_: False)
    assert_same(run(X, Y, sample_weight=weights, validation_data=(X, Y)), resident)
