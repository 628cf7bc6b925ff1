"""Epochs as replays of captured steps: the same bits as without graphs, and fewer launches.

Without a GPU: `cuda_on_host.py` plays CuPy, and captures what is launched.
"""

import gc
import logging
import pickle
import sys
import weakref
from contextlib import nullcontext
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from array_api_compat import numpy as compat

from nnaccel import MLPClassifier
from nnaccel.devices.device import Device
from nnaccel.kernels import epoch, optimizer_trace
from nnaccel.kernels.cuda.backend import CuPyBackend
from nnaccel.maths import layers, losses, metrics, optimizers, schedules
from nnaccel.maths.activations import get
from nnaccel.maths.network import Network, mlp
from nnaccel.maths.optimizers import State
from nnaccel.ops import Ops
from nnaccel.training import loop
from nnaccel.training.data import Data
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.loop import train
from nnaccel.training.step import initialize
from tests.kernels.cuda import cuda_on_host
from tests.kernels.cuda.cuda_on_host import OnDevice
from tests.kernels.test_epoch import (
    NETWORKS,
    OPTIMIZERS,
    OTHER_OPTIMIZERS,
    UNKNOWN_OPTIMIZERS,
    Foreign,
    assert_refuses,
    assert_same_run,
    diverging,
    examples,
    members,
    or_none,
    simple,
)

pytestmark = pytest.mark.skipif(not cuda_on_host.COMPILER, reason=cuda_on_host.NO_COMPILER)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
ACCURACY = metrics.for_loss("softmax_cross_entropy")
MANY = OPTIMIZERS | {f"other {name}": x for name, x in OTHER_OPTIMIZERS.items()}


@pytest.fixture
def module():
    return cuda_on_host.graphs_on_host()


@pytest.fixture
def cupy(monkeypatch):
    """The stand-in for CuPy, with arrays that the host cannot look into, and memory of its own."""
    cupy = cuda_on_host.cupy_on_host()
    monkeypatch.setattr(cupy, "kind", OnDevice)
    monkeypatch.setattr(cupy, "malloc", cuda_on_host.MemoryPool().malloc)
    return cupy


@pytest.fixture
def xp(cupy, module, monkeypatch):
    """NumPy under the name of CuPy's namespace; no network is small, and a step is captured as
    soon as one of its kind has been taken."""
    small = cuda_on_host.small_on_host()
    monkeypatch.setattr(small, "MOST", 0)
    monkeypatch.setattr(module, "FIRST", 1)
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.workspace", cuda_on_host.on_host())
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.small_network", small)
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.graphs", module)
    capture = cuda_on_host.modules_on_host().capture
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.capture", capture)
    namespace = ModuleType("array_api_compat.cupy")
    namespace.__dict__.update({k: v for k, v in vars(compat).items() if k[:2] != "__"})
    return namespace


@pytest.fixture
def captured(monkeypatch):
    """The graphs that are captured, one after the other."""
    graphs, end = [], cuda_on_host.Stream.end_capture
    monkeypatch.setattr(
        cuda_on_host.Stream, "end_capture", lambda self: graphs.append(end(self)) or graphs[-1]
    )
    return graphs


def there(x):
    """An array on the device."""
    return None if x is None else np.array(x).view(OnDevice)


def epoch_of(problem, xp, *, graphs=True, seed=0):
    """The epoch on the stand-in, by graphs or by its steps; it gives None where both refuse."""
    return or_none(problem._replace(seed=seed).fused_on(CuPyBackend(xp, graphs=graphs)))


def epoch_in(precision, problem, xp, *, graphs):
    """The same in a precision of its products."""
    run, count = problem.run_on(xp)._replace(precision=precision), optimizer_trace.Count()
    if graphs:
        return or_none(cuda_on_host.graphs_on_host().graph_epoch(run, xp, count).run)
    ops = Ops(xp, cuda_on_host.on_host().Workspace(xp, precision).kernels())
    return or_none(epoch.traced_epoch(run, ops, xp.stack, count).run)


def run(epoch, problem, epochs=3, start=None, first=0, after=lambda number: None):
    """Parameters, the optimizer's state and the records after some epochs, on the host."""
    params, state = problem.start if start is None else start
    params, state = there(params), State(state.step, tuple(map(there, state.slots)))
    data, records = Data(*map(there, problem.data)), []
    for number in range(first, first + epochs):
        order = there(np.random.default_rng(number).permutation(problem.data.X.shape[0]))
        params, state, record = epoch(params, state, data, order)
        after(number)
        records.append(record.get())
    return params.get(), State(state.step, tuple(x.get() for x in state.slots)), records


def assert_same_bits(found, expected):
    for x, y in zip(
        (found[0], *found[1].slots, *found[2]),
        (expected[0], *expected[1].slots, *expected[2]),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y, strict=True)
    assert found[1].step == expected[1].step
    assert found[1].step.dtype == np.int32


def assert_replays(problem, xp, **options):
    """With graphs and without: the same bits."""
    cupy = cuda_on_host.cupy_on_host()
    before = cupy.graphs
    found = run(epoch_of(problem, xp), problem, **options)
    assert cupy.graphs > before, "no graph was launched"
    before = cupy.graphs
    assert_same_bits(found, run(epoch_of(problem, xp, graphs=False), problem, **options))
    assert cupy.graphs == before


# Batch size, weighted, L2 penalty, metric: with a shorter last batch, without one, in one batch
VARIANTS = [
    (16, False, 0.0, None),
    (25, True, 0.0, ACCURACY),
    (64, False, 0.1, None),
    (8, True, 0.1, ACCURACY),
]


@DTYPES
@pytest.mark.parametrize(("batch", "weighted", "l2", "metric"), VARIANTS)
@pytest.mark.parametrize("optimizer", MANY.values(), ids=MANY)
def test_an_epoch_of_graphs_has_the_bits_of_one_without(
    xp, optimizer, batch, weighted, l2, metric, dtype
):
    data = examples(dtype=dtype, weighted=weighted)
    assert_replays(
        simple(None, optimizer, data, batch_size=batch, dtype=dtype, l2=l2, metric=metric), xp
    )


OTHER_NETWORKS = NETWORKS | {
    "another's activation": mlp(3, [5], 3, activation=get("tanh")._replace(name="mine"))
}


@DTYPES
@pytest.mark.parametrize("network", OTHER_NETWORKS.values(), ids=OTHER_NETWORKS)
@pytest.mark.parametrize("metric", [None, ACCURACY])
def test_other_layers(xp, network, metric, dtype):
    data = examples(dtype=dtype, weighted=True)
    assert_replays(simple(network, data=data, dtype=dtype, l2=0.01, metric=metric), xp)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_other_losses(xp, name):
    loss = losses.get(name)
    metric = metrics.for_loss(loss)
    assert_replays(simple(loss=name, data=examples(name, 3, weighted=True), metric=metric), xp)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("network", OTHER_NETWORKS.values(), ids=OTHER_NETWORKS)
@pytest.mark.parametrize("name", ["adam", "adamw", "other clipped", "other momentum"])
def test_other_precisions(xp, cupy, precision, network, name):
    problem = simple(network, MANY[name], examples(weighted=True), l2=0.01)
    before = cupy.graphs
    found = run(epoch_in(precision, problem, xp, graphs=True), problem)
    assert cupy.graphs > before
    assert_same_bits(found, run(epoch_in(precision, problem, xp, graphs=False), problem))


@pytest.mark.parametrize("network", [mlp(3, [40], 3), NETWORKS["dropout"], NETWORKS["layer norm"]])
def test_before_a_dense_layer_a_minibatch_is_in_bfloat16_alone(xp, network, monkeypatch):
    """Two thirds of what is written of it; another layer finds float32."""
    problem, modules = simple(network), cuda_on_host.modules_on_host()
    dense = type(network.layers[0]) is layers.Dense
    # Where a step takes its minibatch, and where the end of the last one does.
    for on, part, name, first in (
        (False, modules.elementwise, "minibatch", 3),
        (True, modules.step_slots, "begin", 14 + 4),
    ):
        rows, kernel = [], part.kernel

        def watched(name, *types, kernel=kernel, wanted=name, first=first, rows=rows):
            launch = kernel(name, *types)
            if name != wanted:
                return launch
            return lambda grid, block, args: (
                rows.append(args[first : first + 2]) or launch(grid, block, args)
            )

        monkeypatch.setattr(modules.fusions, "NEXT_ROWS", on)
        monkeypatch.setattr(part, "kernel", watched)
        run(epoch_in("bf16", problem, xp, graphs=True), problem)
        assert rows
        assert all((type(X) is int) is dense and half.dtype == np.uint16 for X, half in rows)


def test_a_step_is_thirteen_nodes_and_an_epoch_a_few_launches(xp, cupy, captured):
    """For the network of the benchmarks: a step's thirteen launches, the last of which, the update,
    ends it and takes the next minibatch. The rest of an epoch is an upload of its numbers, and a
    launch to begin with."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 255, (131, 784)).astype(np.uint8)
    data = Data(X, rng.integers(0, 10, len(X)), None)
    problem = simple(mlp(784, [512, 512], 10), data=data, batch_size=4)
    counts = []

    def count(_):
        counts.append((cupy.graphs, cupy.launches, cupy.uploads, OnDevice.operations))
        cupy.graphs = cupy.launches = cupy.uploads = OnDevice.operations = 0

    count(0)
    run(epoch_of(problem, xp), problem, after=count)
    # 32 full batches and a shorter one, which weighs its gradient by an operation of CuPy; the
    # first of each is taken alone.
    assert [len(graph.recorded) for graph in captured] == [16 * 13, 13, 14]
    assert counts[1] == (1 + 15, 2 * 13 + 1, 1, 1)
    assert counts[2] == counts[3] == (2 + 1, 1, 1, 0)


@pytest.mark.parametrize(
    ("optimizer", "copied", "ends"),
    [
        ("adam", 2**14, "adam"),
        ("other momentum", 2**14, "momentum"),
        ("adam", 40, "tick"),  # 16 examples of 3 logits are more than that
        ("lion", 2**14, "tick"),
    ],
)
def test_the_update_ends_a_step_where_it_can(xp, module, optimizer, copied, ends, monkeypatch):
    """Not where one block of it would copy much, nor where the definition updates."""
    monkeypatch.setattr(module, "COPIED", copied)
    known = MANY | {"lion": optimizers.get("lion", 0.01)}
    problem, asked = simple(None, known[optimizer], metric=ACCURACY), []
    for part in ("optimizers", "step_slots"):
        part = getattr(cuda_on_host.modules_on_host(), part)
        kernel = part.kernel
        monkeypatch.setattr(
            part, "kernel", lambda *name, kernel=kernel: asked.append(name[0]) or kernel(*name)
        )
    run(epoch_of(problem, xp), problem)
    assert asked[0] == "begin"
    assert ends in asked
    assert ("tick" in asked) == (ends == "tick")


def test_steps_go_together_where_they_are_small(module):
    small, middle, large = mlp(2, [4], 2), mlp(784, [512, 512], 10), mlp(4096, [4096] * 3, 10)
    assert [module.steps_per_graph(small, 400, n) for n in (1, 2, 10, 1000)] == [1, 1, 4, 32]
    assert module.steps_per_graph(middle, 256, 1000) == 16
    assert module.steps_per_graph(large, 8192, 1000) == 1


@pytest.mark.parametrize("batch", [5, 50])
def test_steps_together_and_alone_have_the_same_bits(xp, batch, module, monkeypatch):
    problem = simple(NETWORKS["dropout"], batch_size=batch, l2=0.1)
    expected = run(epoch_of(problem, xp, graphs=False), problem, 4)
    for some in (1, 2, 3, 8):
        monkeypatch.setattr(module, "steps_per_graph", lambda *_, some=some: some)
        assert_same_bits(run(epoch_of(problem, xp), problem, 4), expected)


@pytest.mark.parametrize("numbers", [1, 100, 150])
def test_the_metric_of_a_few_steps_at_a_time(xp, numbers, module, monkeypatch):
    """Logits of 3 numbers, in batches of 16: of one step, of two and of three."""
    monkeypatch.setattr(module, "LOGITS", numbers)
    assert_replays(simple(data=examples(weighted=True), metric=ACCURACY), xp)


@pytest.mark.parametrize("network", [None, NETWORKS["dropout"]])
def test_a_resumed_run_continues_bit_for_bit(xp, network):
    problem = simple(network, MANY["scheduled adamw"])
    straight = run(epoch_of(problem, xp, seed=5), problem, 4)
    first = run(epoch_of(problem, xp, seed=5), problem, 2)
    rest = run(epoch_of(problem, xp, seed=5), problem, 2, start=first[:2], first=2)
    assert_same_bits((*rest[:2], first[2] + rest[2]), straight)


def test_a_foreign_layer_draws_anew_in_each_step(xp):
    problem = simple(Network(3, (layers.Dense(8), Foreign(), layers.Dense(3))), batch_size=5)
    assert_replays(problem, xp)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_what_is_not_finite_shows_from_its_step_on(xp, activation, value):
    problem = diverging(activation, "softmax_cross_entropy", value)
    with np.errstate(all="ignore"):
        assert_replays(problem, xp)
        records = run(epoch_of(problem, xp), problem)[2]
    assert not np.isfinite(records[-1]).any()


def test_inputs_of_any_kind(xp):
    data = examples(D=5)
    for X in (data.X[:, 1:4], (10 * data.X).astype(np.uint8)[:, :3], np.asfortranarray(data.X)):
        problem = simple(mlp(X.shape[1], [5], 3), data=data._replace(X=X))
        assert_replays(problem, xp)


def streamed(problem, xp, graphs, buffers=3, epochs=3, rows=32):
    """A run on chunks that take turns in some places on the device."""
    epoch, (params, state) = epoch_of(problem, xp, graphs=graphs), problem.start
    params, state = there(params), State(state.step, tuple(map(there, state.slots)))
    places = [Data(*(there(x[:rows]) for x in problem.data[:2]), None) for _ in range(buffers)]
    index, records, turn = there(np.arange(rows)), [], 0
    for number in range(epochs):
        order = np.random.default_rng(number).permutation(problem.data.X.shape[0])
        for start in range(0, len(order), rows):
            part, place = order[start : start + rows], places[turn % buffers]
            chunk = Data(place.X[: len(part)], place.Y[: len(part)], None)
            for x, source in zip(chunk[:2], problem.data[:2], strict=True):
                x.view(np.ndarray)[...] = source[part]
            params, state, record = epoch(params, state, chunk, index[: len(part)])
            records.append(record.get())
            turn += 1
    return params.get(), State(state.step, tuple(x.get() for x in state.slots)), records


@pytest.mark.parametrize("kinds", [16, 2])
def test_streamed_data_have_graphs_for_each_place(xp, kinds, module, captured, monkeypatch):
    """Of three places a graph of two steps and a graph of one; also if they are forgotten."""
    monkeypatch.setattr(module, "KINDS", kinds)
    monkeypatch.setattr(module, "steps_per_graph", lambda *_: 2)
    problem = simple(data=examples(N=120), batch_size=8)
    expected = streamed(problem, xp, graphs=False, epochs=6)
    assert not captured
    assert_same_bits(streamed(problem, xp, graphs=True, epochs=6), expected)
    # Chunks of 4, 4, 4 and 3 steps: in 3 epochs each place has had each size, and is known.
    if kinds == 16:
        assert len(captured) == 2 * 3 * 2
        streamed(problem, xp, graphs=True, epochs=12)
        assert len(captured) == 2 * 2 * 3 * 2
    else:
        assert len(captured) > 2 * 3 * 2


def runs(epoch, problems, turns, between=lambda params: None):
    """Runs that take turns in the same epoch function: parameters of each, and all losses."""
    states, records = [], []
    for problem in problems:
        params, state = problem.start
        state = State(state.step, tuple(map(there, state.slots)))
        states.append((there(params), state, Data(*map(there, problem.data))))
    for number, i in enumerate(turns):
        params, state, data = states[i]
        order = there(np.random.default_rng(number).permutation(data.X.shape[0]))
        params, state, record = epoch(params, state, data, order)
        between(params.view(np.ndarray))
        states[i] = params, state, data
        records.append(record.get())
    return [params.get() for params, *_ in states], records


def assert_same_runs(epochs, *problems, **options):
    some, others = (runs(epoch, problems, **options) for epoch in epochs)
    for x, y in zip(some, others, strict=True):
        for found, expected in zip(x, y, strict=True):
            np.testing.assert_array_equal(found, expected)


IN_BOTH = pytest.mark.parametrize("precision", ["float32", "bf16"])


@IN_BOTH
def test_arrays_at_other_addresses_have_graphs_of_their_own(xp, captured, precision):
    """Two runs on other data in turns: each has its own parameters, and what is made of them."""
    some = simple(mlp(3, [40, 3], 3), data=examples(N=48))
    other = some._replace(data=Data(-some.data.X, some.data.Y, None))
    epochs = (epoch_in(precision, some, xp, graphs=graphs) for graphs in (True, False))
    assert_same_runs(epochs, some, other, turns=[0, 1] * 4)
    assert len(captured) == 2


@IN_BOTH
def test_parameters_may_be_changed_between_epochs(xp, precision):
    def shrink(params):
        params *= 0.5

    problem = simple(mlp(3, [40, 3], 3))
    epochs = (epoch_in(precision, problem, xp, graphs=graphs) for graphs in (True, False))
    assert_same_runs(epochs, problem, turns=[0] * 4, between=shrink)


@IN_BOTH
def test_larger_batches_may_follow_smaller_ones(xp, cupy, precision, captured):
    """Their buffers are new, and nobody gets the old ones, which graphs still write to."""
    small = simple(NETWORKS["layer norm"], data=examples(N=10), l2=0.1, batch_size=100)
    large = small._replace(data=examples(N=50))
    others = []

    def watch(_):
        assert all((array == 7).all() for array in others)
        others.extend(cupy.empty((128,), np.float32).view(np.ndarray) for _ in range(20))
        for array in others:
            array.fill(7)

    epochs = (epoch_in(precision, small, xp, graphs=graphs) for graphs in (True, False))
    assert_same_runs(epochs, small, large, turns=[0, 0, 1, 1, 0, 0], between=watch)
    assert len(captured) == 3  # the small one once more, for its minibatch is elsewhere by then


def test_numbers_that_are_constant_in_an_epoch_are_not_so_for_ever(xp, captured):
    """Of a schedule that somebody else turns: the rate is a number of Python's."""
    rates = [0.1]
    problem = simple(optimizer=optimizers.momentum(lambda step, *, xp: rates[0]))

    def lower(params):
        rates[0] *= 0.5

    def with_rates(epoch):
        rates[0] = 0.1
        return runs(epoch, [problem], [0] * 4, between=lower)

    found, expected = (with_rates(epoch_of(problem, xp, graphs=graphs)) for graphs in (True, False))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)
    assert captured


def test_memory_that_a_graph_knows_is_nobody_elses(xp, cupy, monkeypatch):
    """The test of the tests: a graph still writes to its temporary arrays, which have been given
    back. In the common pool others get that memory, and lose what they have written there."""
    problem = simple(NETWORKS["layer norm"])
    expected = run(epoch_of(problem, xp, graphs=False), problem)
    assert_same_bits(run(epoch_of(problem, xp), problem), expected)
    monkeypatch.setattr(cupy.cuda, "using_allocator", lambda _: nullcontext())
    with pytest.raises(AssertionError, match="not equal"):
        assert_same_bits(run(epoch_of(problem, xp), problem), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_memory_of_graphs_goes_back_with_them(xp, cupy, monkeypatch, fails):
    """The pool does not do it by itself."""
    pools, make = [], cuda_on_host.MemoryPool
    monkeypatch.setattr(cupy.cuda, "MemoryPool", lambda a: pools.append(make(a)) or pools[0])
    if fails:
        monkeypatch.setattr(cuda_on_host.Stream, "end_capture", never_ended)
    problem = simple(NETWORKS["layer norm"])
    epoch = epoch_of(problem, xp)
    run(epoch, problem)
    (pool,) = pools
    assert bool(pool.free) is not fails
    del epoch
    gc.collect()
    assert not pool.free


def test_a_device_without_memory_takes_none_from_earlier_graphs(xp, cupy, monkeypatch, caplog):
    """A pool of CuPy's gives back what is free in it where the device has no memory left. The
    second graph here finds none, while the first one still writes to what is free."""
    small = simple(NETWORKS["layer norm"], data=examples(N=10), batch_size=100)
    large = small._replace(data=examples(N=50))
    graphs, alive = [], []
    end, free = cuda_on_host.Stream.end_capture, cuda_on_host.MemoryPool.free_all_blocks

    def end_capture(stream):
        """After the first graph there is no memory for another."""
        nothing_left = fail(cuda_on_host.CUDARuntimeError("none left"))
        monkeypatch.setattr(cupy, "device_memory", nothing_left)
        graph = end(stream)
        graphs.append(weakref.ref(graph))
        return graph

    def free_all_blocks(pool):
        alive.append([graph() is not None for graph in graphs])
        free(pool)

    epochs = epoch_of(small, xp), epoch_of(small, xp, graphs=False)
    monkeypatch.setattr(cuda_on_host.Stream, "end_capture", end_capture)
    monkeypatch.setattr(cuda_on_host.MemoryPool, "free_all_blocks", free_all_blocks)
    with caplog.at_level(logging.DEBUG):
        assert_same_runs(epochs, small, large, turns=[0, 0, 1, 1, 0, 0])
    assert alive == [[False, False]]  # the second one has not come to its end
    assert "without CUDA graphs: MemoryError: no room for 1536 bytes of a CUDA graph" in caplog.text


def never_ended(stream, end=cuda_on_host.Stream.end_capture):
    end(stream)
    raise RuntimeError("the graph cannot be made")


def test_nothing_is_collected_during_a_capture(xp, monkeypatch):
    """And the collector is as before afterwards."""
    states, begin = [], cuda_on_host.Stream.begin_capture
    monkeypatch.setattr(
        cuda_on_host.Stream, "begin_capture", lambda s: states.append(gc.isenabled()) or begin(s)
    )
    run(epoch_of(simple(), xp), simple())
    assert states
    assert not any(states)
    assert gc.isenabled()
    gc.disable()
    try:
        run(epoch_of(simple(), xp), simple())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_bare_products_are_replayed_too(xp, cupy, captured, monkeypatch):
    """So that those of a small network are not the time of their launches."""
    multiply, factor, loop = CuPyBackend(xp).bare_product()
    rng = np.random.default_rng(0)
    X, Y = (there(rng.standard_normal(shape).astype(np.float32)) for shape in ((5, 7), (7, 3)))
    out = cupy.empty((5, 3), np.float32)
    run = loop(lambda: multiply(factor(X), factor(Y), out))
    run(2)
    assert not captured
    before = cupy.launches, cupy.graphs
    out.view(np.ndarray)[...] = 0
    assert run(2 * 16 + 3) is out
    assert (cupy.launches - before[0], cupy.graphs - before[1]) == (3, 2)
    assert [len(graph.recorded) for graph in captured] == [16]
    np.testing.assert_allclose(out.get(), np.matmul(X.get(), Y.get()), rtol=1e-4)
    run(16)
    assert len(captured) == 1


def test_bare_products_that_cannot_be_captured_are_taken_as_they_are(xp, cupy, caplog):
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG):
        failing("Stream.begin_capture", NO)(cupy, patch)
        taken = []
        run = CuPyBackend(xp).bare_product().loop(lambda: taken.append(1) or taken)
        for _ in range(3):
            assert run(20) is taken
    assert len(taken) == 60
    assert caplog.text.count("go on without a CUDA graph: NotImplementedError: no graphs") == 1


# What cannot be captured is trained without graphs, and a debug line says why.


def fail(error):
    def function(*_, **__):
        raise error

    return function


def failing(name, error):
    """Breaks what is named in the stand-in: a function of two parts of it."""
    part, _, name = name.rpartition(".")
    return lambda cupy, patch: patch.setattr(getattr(cuda_on_host, part), name, fail(error))


def no_room(cupy, patch):
    pool = SimpleNamespace(malloc=fail(MemoryError("no room")), free_all_blocks=lambda: None)
    patch.setattr(cupy.cuda, "MemoryPool", lambda _: pool)


def in_a_step(cupy, patch, error=ValueError):
    """The tenth launch of a capture fails."""
    launch = cupy.launch

    def launch_or_fail(run):
        if cupy.recorded is not None and len(cupy.recorded) >= 9:
            raise error("not in a capture")
        launch(run)

    patch.setattr(cupy, "launch", launch_or_fail)


def as_it_is(cupy, patch):
    pass


class Product:
    """A dense layer of somebody else's, who does not ask for `ops[dense]`."""

    inner = layers.Dense(4)
    width, params = inner.width, inner.params

    def forward(self, params, X, *, ops, key, training=False):
        return X @ params[0] + params[1], X

    def backward(self, params, X, dA, *, ops, need_dX):
        xp, W = ops.xp, params[0]
        dX = dA @ xp.matrix_transpose(W) if need_dX else None
        return dX, (xp.matrix_transpose(X) @ dA, xp.sum(dA, axis=-2, keepdims=True))


NO = NotImplementedError("no graphs")
FOREIGN = simple(Network(3, (layers.Dense(5), Product(), layers.Dense(3))), metric=ACCURACY)
NOT_IN_PLACE = simple(optimizer=optimizers.momentum(0.01, beta=np.float32(0.9)))
RUNNING = simple(Network(3, (layers.Dense(6, get("tanh")), layers.BatchNorm(), layers.Dense(3))))
OBSTACLES = {
    "what no optimizer trains": (RUNNING, as_it_is, "a step gives other arrays"),
    "another's product": (FOREIGN, as_it_is, "NotImplementedError: calling cuBLAS"),
    "not in place": (NOT_IN_PLACE, as_it_is, "gives other arrays"),
    "no streams": (simple(), failing("Stream.__init__", NO), "NotImplementedError: no graphs"),
    "no capture": (simple(), failing("Stream.begin_capture", NO), "no graphs"),
    "no graphs": (simple(), failing("Graph.__init__", NO), "no graphs"),
    "no launch": (simple(), failing("Graph.launch", NO), "no graphs"),
    "no memory": (simple(), no_room, "MemoryError: no room"),
    "in a step": (simple(NETWORKS["dropout"]), in_a_step, "ValueError: not in a capture"),
}


@pytest.mark.parametrize(("problem", "obstruct", "reason"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_cannot_be_captured_goes_on_without_graphs(
    xp, cupy, problem, obstruct, reason, caplog, monkeypatch
):
    """Every step is taken once, and no graph is tried again."""
    expected = run(epoch_of(problem, xp, graphs=False), problem)
    before, epoch = cupy.graphs, epoch_of(problem, xp)
    obstruct(cupy, monkeypatch)
    with caplog.at_level(logging.DEBUG):
        assert_same_bits(run(epoch, problem), expected)
        assert_same_bits(run(epoch, problem), expected)
    said = [x for x in caplog.records if "goes on without" in x.message]
    assert [record.levelname for record in said] == ["DEBUG"]
    assert reason in said[0].message
    assert cupy.graphs == before
    assert cupy.recorded is cupy.stream is None


def test_an_interrupted_capture_is_ended(xp, cupy):
    problem, epoch = simple(), epoch_of(simple(), xp)
    with pytest.MonkeyPatch.context() as patch:
        in_a_step(cupy, patch, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            run(epoch, problem)
    assert cupy.recorded is cupy.stream is None
    assert gc.isenabled()
    assert_same_bits(run(epoch, problem), run(epoch_of(problem, xp, graphs=False), problem))


class Again(layers.Dense):
    """A layer that reads its weights once more when its gradient is done."""

    def backward(self, params, saved, dA, *, ops, need_dX):
        dX, grads = super().backward(params, saved, dA, ops=ops, need_dX=need_dX)
        W = ops.xp.matrix_transpose(params[0])
        return (None if dX is None else dX + 0.0 * W[:1, :1]), grads


SEVERAL = {
    "weights": (25, True, 0.0, None),
    "L2": (16, False, 0.1, None),
    "metric": (16, False, 0.0, ACCURACY),
    "weights and metric": (8, True, 0.1, ACCURACY),
}


@DTYPES
@pytest.mark.parametrize(("batch", "weighted", "l2", "metric"), SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("name", ["adam", "adamw", "scheduled adamw", "other momentum"])
def test_several_networks_are_replayed_too(xp, cupy, name, batch, weighted, l2, metric, dtype):
    """With weights of an example, or of each network and example; beside their definitions."""
    for own in (False, True) if weighted else (False,):
        data = examples(dtype=dtype, weighted=weighted)
        problem = simple(
            None, MANY[name], data, batch_size=batch, dtype=dtype, l2=l2, metric=metric
        )
        start = members(problem, 3)
        if own:
            data = data._replace(weights=np.random.default_rng(0).random((len(data.X), 3)))
            data = data._replace(weights=data.weights.astype(dtype))
            problem = problem._replace(data=data)
        before = cupy.graphs
        found = run(epoch_of(problem, xp), problem, start=start)
        assert cupy.graphs > before, "no graph was launched"
        expected = by_definition(problem, members(problem, 3))
        assert_same_run((*found[:2], np.stack(found[2])), expected, dtype)


def test_a_step_of_members_has_a_launch_more_than_that_of_one(xp, captured):
    """As a table is trained: numbers encoded, SiLU, dropout, and weights of each network, which are
    gathered by themselves."""
    hidden = layers.Dense(40, get("silu")), layers.Dropout(0.1)
    encoding = layers.PiecewiseLinear(((-1.0, 0.0, 1.0),) * 3)
    network = Network(3, (encoding, *hidden, layers.Dense(36, get("silu")), layers.Dense(3)))
    nodes = []
    for K in (1, 5):
        data = examples(N=64, weighted=True)
        if K > 1:
            weights = np.random.default_rng(0).random((64, K)).astype(np.float32)
            data = data._replace(weights=weights)
        problem = simple(network, MANY["adamw"], data, batch_size=16)
        start = members(problem, K) if K > 1 else None
        run(epoch_of(problem, xp), problem, start=start)
        nodes.append(min(len(graph.recorded) for graph in captured))
        captured.clear()
    assert nodes == [17, 19]


@pytest.mark.parametrize("network", ["encoding", "dropout", "layer norm", "residual"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_other_layers_of_several_networks(xp, cupy, network, precision):
    problem = simple(NETWORKS[network], MANY["adamw"], examples(N=60))
    before = cupy.graphs
    found = run(epoch_in(precision, problem, xp, graphs=True), problem, start=members(problem, 2))
    assert cupy.graphs > before
    if precision == "float32":
        expected = by_definition(problem, members(problem, 2))
        assert_same_run((*found[:2], np.stack(found[2])), expected)


def by_definition(problem, start, epochs=3):
    """What `run` gives, by the definitions."""
    (params, state), epoch, records = start, problem.steps(), []
    for number in range(epochs):
        order = np.random.default_rng(number).permutation(problem.data.X.shape[0])
        params, state, record = epoch(params, state, problem.data, order)
        records.append(record)
    return params, state, np.stack(records)


@pytest.mark.parametrize(
    ("problem", "start"),
    [(simple(optimizer=UNKNOWN_OPTIMIZERS["parameters of its own"]), None)],
    ids=["an optimizer that nobody knows"],
)
def test_what_is_no_epoch_of_steps_is_left_to_the_steps(xp, problem, start):
    epoch = epoch_of(problem, xp)

    def on_device(params, state, data, order):
        state = State(state.step, tuple(map(there, state.slots)))
        return epoch(there(params), state, Data(*map(there, data)), there(order))

    assert_refuses(on_device, problem, start)


# The rows of the next minibatch at the end of a step


@pytest.fixture
def taken(monkeypatch):
    """How many minibatches steps have taken themselves."""
    modules, launches = cuda_on_host.modules_on_host(), []
    kernel = modules.elementwise.kernel

    def watched(*name):
        if name[0] == "minibatch":
            launches.append(name)
        return kernel(*name)

    monkeypatch.setattr(modules.elementwise, "kernel", watched)
    return launches


def assert_same_rows(xp, taken, problem, *, ahead, **options):
    """With the rows taken ahead and without: the same bits.   ahead: whether they are."""
    found = run(epoch_of(problem, xp), problem, **options)
    assert (not taken) is ahead
    switches = cuda_on_host.modules_on_host().fusions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(switches, "NEXT_ROWS", False)
        taken.clear()
        assert_same_bits(found, run(epoch_of(problem, xp), problem, **options))
        assert taken


def wide(X):
    return np.concatenate([X, X, X[:, :2]], axis=1)


DATA = {
    "as they are": lambda X: X,
    "whole packs": wide,
    "part of wider rows": lambda X: wide(X)[:, 2:7],
    "bytes": lambda X: (20 * wide(X)).astype(np.uint8),
    "bytes at an odd place": lambda X: (20 * wide(X)).astype(np.uint8)[:, 1:6],
}


@DTYPES
@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_the_end_of_a_step_takes_the_next_minibatch(xp, taken, make, dtype):
    """Of 50 examples in batches of 16, the last of which has 2; with weights."""
    data = examples(N=50, dtype=dtype, weighted=True)
    data = data._replace(X=make(data.X))
    problem = simple(mlp(data.X.shape[1], [5], 3), None, data, dtype=dtype, metric=ACCURACY)
    assert_same_rows(xp, taken, problem, ahead=True)


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "uint64"])
def test_class_numbers_of_any_size_are_taken_ahead(xp, taken, kind):
    data = examples(N=50)
    problem = simple(data=data._replace(Y=data.Y.astype(kind)))
    assert_same_rows(xp, taken, problem, ahead=True)


def test_rows_of_targets_are_taken_ahead(xp, taken):
    problem = simple(loss="squared_error", data=examples("squared_error", 3, N=50))
    assert_same_rows(xp, taken, problem, ahead=True)


@pytest.mark.parametrize("kind", ["int32", "float64", "bool"])
def test_data_of_other_types_are_taken_by_each_step(xp, taken, kind):
    data = examples(N=50)
    problem = simple(data=data._replace(X=(3 * data.X).astype(kind)))
    assert_same_rows(xp, taken, problem, ahead=False)


def test_weights_of_each_network_are_taken_by_each_step(xp, taken):
    data = examples(N=50)
    weights = np.random.default_rng(0).random((50, 2)).astype(np.float32)
    problem = simple(data=data._replace(weights=weights))
    assert_same_rows(xp, taken, problem, ahead=False, start=members(problem, 2))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("network", [mlp(3, [40], 3), NETWORKS["layer norm"]])
def test_rows_are_taken_ahead_in_other_precisions(xp, taken, precision, network):
    problem = simple(network, data=examples(N=50))
    found = run(epoch_in(precision, problem, xp, graphs=True), problem)
    assert not taken
    assert_same_bits(found, run(epoch_in(precision, problem, xp, graphs=False), problem))
    assert taken


@pytest.mark.parametrize("copied", [0, 2**14])
def test_rows_are_taken_ahead_by_a_tick_too(xp, taken, module, copied, monkeypatch):
    monkeypatch.setattr(module, "COPIED", copied)
    assert_same_rows(xp, taken, simple(data=examples(N=50)), ahead=True)


def test_places_that_move_are_known_to_the_graphs(xp):
    """A larger minibatch needs more memory; graphs of a smaller one that were captured before know
    the old place, and are captured anew."""
    problem, ends = simple(mlp(3, [5], 3), batch_size=64), []
    data = [Data(*map(there, examples(N=N))) for N in (6, 64)]
    for graphs in (True, False):
        train_epoch = epoch_of(problem, xp, graphs=graphs)
        params, state = problem.start
        params, state = there(params), State(state.step, tuple(map(there, state.slots)))
        records = []
        for turn, number in enumerate((0, 0, 0, 1, 1, 1, 0, 0, 0)):
            rng = np.random.default_rng(turn)
            order = there(rng.permutation(data[number].X.shape[0]))
            params, state, record = train_epoch(params, state, data[number], order)
            records.append(record.get())
        ends.append((params.get(), state._replace(slots=[x.get() for x in state.slots]), records))
    assert_same_bits(*ends)


# The update of a layer's weights on a branch of its own


@pytest.fixture
def beside(monkeypatch):
    """The switch is on, and a layer of a few weights is worth a part of the update."""
    modules = cuda_on_host.modules_on_host()
    monkeypatch.setattr(modules.fusions, "UPDATE_BESIDE", True)
    monkeypatch.setattr(modules.early_update, "LEAST", 100)
    return partial(monkeypatch.setattr, modules.fusions, "UPDATE_BESIDE")


FOUR = mlp(3, [40, 32, 24], 8, activation=["relu", "tanh", "gelu"])  # 120, 1280, 768, 192 weights
ALONE = {
    "descent": optimizers.get("gd", 0.05),
    "momentum": optimizers.momentum(0.05),
    "nesterov": optimizers.get("nesterov", 0.05),
    "rmsprop": optimizers.get("rmsprop", 0.01),
    "adam": optimizers.adam(0.01),
    "scheduled": optimizers.adam(schedules.cosine(0.01, 100)),
}


def branches(graph):
    """Whether there is more than one order in which it may run."""
    return list(graph.order(True)) != list(graph.order(False))


@DTYPES
@pytest.mark.parametrize("optimizer", ALONE.values(), ids=ALONE)
def test_an_update_beside_products_has_the_same_bits(xp, beside, captured, optimizer, dtype):
    """In whichever order branches run; and a shorter last batch, whose gradient is weighed when
    all of it is there, has none."""
    problem = simple(FOUR, optimizer, examples(N=50, dtype=dtype), dtype=dtype, metric=ACCURACY)
    found = run(epoch_of(problem, xp), problem, epochs=4)
    assert [branches(graph) for graph in captured] == [True, False]  # of 16 examples, and of 2
    beside(False)
    assert_same_bits(found, run(epoch_of(problem, xp, graphs=False), problem, epochs=4))


def test_the_update_of_four_layers_is_three_parts(xp, beside, captured, monkeypatch):
    """The output layer's with that of the layer below, for it is small; that of the first layer,
    which has no products below, with all biases at the end."""
    kernel, parts = cuda_on_host.modules_on_host().optimizers.kernel, []

    def watched(name, *types):
        launch = kernel(name, *types)
        return lambda grid, block, args: (
            parts.append((args[0].size, *args[5:8])) or launch(grid, block, args)
        )

    monkeypatch.setattr(cuda_on_host.modules_on_host().optimizers, "kernel", watched)
    monkeypatch.setattr(cuda_on_host.modules_on_host().early_update, "LEAST", 200)
    problem = simple(FOUR, optimizers.adam(0.01), examples(N=64))
    run(epoch_of(problem, xp), problem)
    whole = 2360 + 40 + 32 + 24 + 8
    step = [(960, 960, 0, 0), (1280, 1280, 0, 0), (whole, whole, 120, 2240)]
    assert parts[:3] == step
    assert parts == step * (len(parts) // 3)
    assert all(map(branches, captured))


NOT_ALONE = {
    "weight decay": simple(FOUR, MANY["adamw"]),
    "clipped": simple(FOUR, MANY["other clipped"]),
    "L2": simple(FOUR, l2=0.1),
    "an odd place": simple(mlp(3, [5, 40], 3)),
    "layers that read W later": simple(Network(3, (layers.Dense(40), Again(40), Again(8)))),
}


@pytest.mark.parametrize("problem", NOT_ALONE.values(), ids=NOT_ALONE)
def test_an_update_that_is_not_alone_comes_at_the_end(xp, beside, captured, problem):
    assert_replays(problem, xp)
    assert captured
    assert not any(map(branches, captured))


def test_a_rule_without_a_kernel_is_left_to_the_definition(xp, beside):
    problem = simple(FOUR, optimizers.get("lion", 0.01))
    found = run(epoch_of(problem, xp), problem)
    assert_same_bits(found, run(epoch_of(problem, xp, graphs=False), problem))


def test_several_networks_are_updated_at_the_end(xp, beside, captured):
    problem = simple(FOUR, optimizers.adam(0.01))
    found = run(epoch_of(problem, xp), problem, start=members(problem, 2))
    assert not any(map(branches, captured))
    expected = by_definition(problem, members(problem, 2))
    assert_same_run((*found[:2], np.stack(found[2])), expected)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_an_update_beside_products_of_other_precisions(xp, beside, captured, precision):
    """In bfloat16 it also writes its part of the copy, for which products below do not wait."""
    problem = simple(FOUR, optimizers.adam(0.01), examples(N=64))
    found = run(epoch_in(precision, problem, xp, graphs=True), problem)
    assert all(map(branches, captured))
    beside(False)
    assert_same_bits(found, run(epoch_in(precision, problem, xp, graphs=False), problem))


def test_a_branch_that_is_not_waited_for_is_found(xp, beside, caplog, monkeypatch):
    """The test of the test: CUDA refuses such a capture, and the stand-in too."""
    branch = cuda_on_host.modules_on_host().capture.Branch
    monkeypatch.setattr(branch, "join", branch.forget)
    problem = simple(FOUR, optimizers.adam(0.01), examples(N=64))
    with caplog.at_level(logging.DEBUG):
        run(epoch_of(problem, xp), problem)
    assert "without CUDA graphs: RuntimeError: cudaErrorStreamCaptureUnjoined" in caplog.text


def test_an_update_before_its_weights_are_read_is_found(xp, beside, captured, monkeypatch):
    """Likewise: if a layer said too early that nothing reads its weights any more."""
    dense = cuda_on_host.modules_on_host().dense.DenseKernels
    back = dense._multiply_back

    def too_early(self, dZ, WT, dX, X):
        params = self._buffers._params
        W = next(w[0] for w in self._buffers._tree if w[0].size == WT.size and w[0].shape[0] > 3)
        assert params is not None
        self._early.weights_done(W)
        back(self, dZ, WT, dX, X)

    problem = simple(FOUR, optimizers.adam(0.1), examples(N=64))
    beside(False)
    expected = run(epoch_of(problem, xp), problem)
    beside(True)
    monkeypatch.setattr(dense, "_multiply_back", too_early)
    found = run(epoch_of(problem, xp), problem)
    assert any(map(branches, captured))
    assert not np.array_equal(found[0], expected[0])


# Runs


class Handle:
    """CuPy's device."""

    mem_info = 2**30, 2**30

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def where(xp, cupy, monkeypatch):
    """A device of the stand-in for CuPy, whose arrays the host may read between epochs."""

    def asarray(x, *, dtype=None, device=None, copy=None):
        return x if isinstance(x, OnDevice) and not copy else there(np.asarray(x, dtype))

    pool = SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)
    monkeypatch.setattr(cupy, "patient", True)
    seen = SimpleNamespace(
        cuda=cupy.cuda, empty=cupy.empty, ndarray=Handle, get_default_memory_pool=lambda: pool
    )
    monkeypatch.setitem(sys.modules, "cupy", seen)
    monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace(empty_pinned=np.empty))
    xp.asarray, xp.ascontiguousarray = asarray, cupy.ascontiguousarray
    return Device("cuda:0", xp, Handle())


def epochs_of(where, graphs, monkeypatch):
    """The scores of all epochs, and the best of them as early stopping keeps it."""
    X, Y, weights = examples(N=120, weighted=True)
    stopping = EarlyStopping(patience=3)
    monkeypatch.setattr(loop, "backend_of", lambda xp, _: CuPyBackend(xp, graphs=graphs))
    run = train(
        mlp(3, [20, 8], 3, dropout=0.1), X, Y, loss="softmax_cross_entropy", epochs=40,
        optimizer=optimizers.adam(0.1), batch_size=16, sample_weight=weights, metric=ACCURACY,
        validation_data=(X[::3], Y[::3]), device=where,
    )  # fmt: skip
    return [epoch.scores() for epoch in stopping(run)], stopping.best


@pytest.mark.parametrize("resident", [0.6, 0.0], ids=["resident", "streamed"])
def test_a_run_stops_in_the_same_epoch_with_the_same_weights(where, cupy, resident, monkeypatch):
    monkeypatch.setattr("nnaccel.training.data.RESIDENT", resident)
    monkeypatch.setattr("nnaccel.training.streaming.ELEMENTS", 3 * 40)  # two batches a chunk
    before = cupy.graphs
    scores, best = epochs_of(where, True, monkeypatch)
    assert cupy.graphs > before
    expected, reference = epochs_of(where, False, monkeypatch)
    assert scores == expected
    assert best.number == reference.number < len(scores) < 40
    np.testing.assert_array_equal(best.params.get(), reference.params.get())


def test_members_of_a_table_are_trained_alike_with_graphs_and_without(where, cupy, monkeypatch):
    """An encoding, dropout that ends before the run, folds as weights, rows held out of each."""
    X, Y, _ = examples(N=120)
    folds = np.random.default_rng(0).integers(0, 2, (3, 120)) + 0.5
    held_out = np.stack([X[k::3] for k in range(3)]), np.stack([Y[k::3] for k in range(3)])
    encoding = layers.PiecewiseLinear(((-1.0, 0.0, 1.0),) * 3)
    hidden = layers.Dense(20, get("silu")), layers.Dropout(0.1)
    network = Network(3, (encoding, *hidden, layers.Dense(3)))
    runs, replayed = [], []
    for graphs in (True, False):
        monkeypatch.setattr(loop, "backend_of", lambda xp, _, g=graphs: CuPyBackend(xp, graphs=g))
        before = cupy.graphs
        epochs = train(
            network, X, Y, loss="softmax_cross_entropy", epochs=4, batch_size=16, metric=ACCURACY,
            sample_weight=folds, validation_data=held_out, dropout_until=3, device=where,
            params=initialize(network, members=3),
        )  # fmt: skip
        runs.append([epoch.scores() for epoch in epochs])
        replayed.append(cupy.graphs > before)
    assert replayed == [True, False]
    for found, expected in zip(*runs, strict=True):
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)


def test_the_first_runs_on_a_gpu_are_rehearsed(where, cupy):
    """Those of `bench/gpu/gpu.py --first`, beside the definitions on the CPU."""
    first = pytest.importorskip("bench.gpu.first_minutes", reason="the benchmarks are not here")
    for trial in first.trials():
        if trial.dtype == "float32" and trial.name in ("graphs", "no graphs", "five networks"):
            before = cupy.graphs
            found = first.compared(trial, where, epochs=1)
            assert "problem" not in found, trial
            assert (cupy.graphs > before) == trial.graphs


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_both_ways_of_each_switch_are_rehearsed(where, cupy, precision, captured, monkeypatch):
    """As `bench/gpu/gpu.py --first` compares them: off and on, beside the definitions; in a network
    in which each has something to do."""
    ways = pytest.importorskip("bench.gpu.both_ways", reason="the benchmarks are not here")
    switches = cuda_on_host.modules_on_host().fusions
    monkeypatch.setattr(ways, "switches", switches)
    before = {name: getattr(switches, name) for name in ways.NAMES}
    # Nodes of a step; a part of the update beside the products is one more.
    saved = {"RELU_IN_PRODUCT": 2, "NARROW_LOSS": 1, "UPDATE_BESIDE": -1, "NEXT_ROWS": 1}
    assert set(saved) == set(ways.NAMES)
    for name in ways.NAMES:
        graphs = cupy.graphs
        captured.clear()
        found = ways.losses_of(ways.Trial(name, ways.WIDE, 8, precision), where, epochs=1)
        assert "problem" not in found, found
        assert max(found.values()) < {"float32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}[precision]
        assert cupy.graphs > graphs
        half = len(captured) // 2
        off, on = (min(len(g.recorded) for g in gs) for gs in (captured[:half], captured[half:]))
        assert off - on == (0 if (name, precision) == ("RELU_IN_PRODUCT", "bf16") else saved[name])
        assert any(map(branches, captured)) == (name == "UPDATE_BESIDE")
    assert {name: getattr(switches, name) for name in ways.NAMES} == before


def test_an_estimator_that_was_trained_with_graphs_can_be_pickled(where, cupy, monkeypatch):
    monkeypatch.setattr("nnaccel.estimators.multilayer_perceptron.select", lambda *_: where)
    X, Y, _ = examples(N=120)
    before = cupy.graphs
    model = MLPClassifier((20, 8), device="cuda", max_iter=3, random_state=0, batch_size=16)
    model.partial_fit(X, Y, classes=[0, 1, 2]).partial_fit(X, Y)
    assert cupy.graphs > before
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
