"""The epoch in one launch: `small_epoch` of `small_network.cuh` on the host, against its steps."""

import math
import re
from itertools import product

import numpy as np
import pytest
from array_api_compat import numpy as compat

from nnaccel.kernels.cuda.source import kernel_source
from nnaccel.kernels.definition import NotSupported
from nnaccel.maths import losses, metrics, optimizers, schedules
from nnaccel.maths.activations import get
from nnaccel.maths.network import mlp
from nnaccel.maths.optimizers import State
from tests.kernels.cuda import cuda_on_host
from tests.kernels.test_epoch import (
    LOSSES,
    NETWORKS,
    OPTIMIZERS,
    OTHER_OPTIMIZERS,
    UNKNOWN_OPTIMIZERS,
    Problem,
    assert_refuses,
    assert_same_run,
    diverging,
    examples,
    members,
    or_none,
    simple,
    trained,
)

pytestmark = pytest.mark.skipif(not cuda_on_host.COMPILER, reason=cuda_on_host.NO_COMPILER)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
ACCURACY = metrics.for_loss("softmax_cross_entropy")


@pytest.fixture
def module():
    return cuda_on_host.small_on_host()


def small(problem):
    """The epoch in one launch, or None."""
    try:
        return or_none(
            cuda_on_host.small_on_host().one_launch_epoch(problem.run_on(compat), compat).run
        )
    except NotSupported:
        return None


def assert_is_its_steps(problem, label="", **options):
    found = trained(small(problem), problem, **options)
    assert_same_run(found, trained(problem.steps(), problem, **options), problem.dtype, label)


def assert_same_bits(found, expected):
    for x, y in zip(
        (found[0], *found[1].slots, found[2]),
        (expected[0], *expected[1].slots, expected[2]),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


# Batch size, weighted, L2 penalty
VARIANTS = [(16, False, 0.0), (25, True, 0.0), (64, False, 0.1), (17, True, 0.1)]


@DTYPES
@pytest.mark.parametrize(("loss", "K"), LOSSES)
@pytest.mark.parametrize("activation", cuda_on_host.small_on_host().ACTIVATIONS)
def test_an_epoch_is_its_steps_by_the_definitions(activation, loss, K, dtype):
    """In one batch, in equal ones and with a shorter last one; with every option."""
    network = mlp(3, [5, 4], K, activation=activation)
    for (name, optimizer), (batch, weighted, l2) in product(OPTIMIZERS.items(), VARIANTS):
        data = examples(loss, K, dtype=dtype, weighted=weighted)
        metric = metrics.for_loss(losses.get(loss)) if weighted else None
        problem = Problem(network, losses.get(loss), optimizer, data, batch, dtype, l2, metric)
        label = f"{name}, weighted {weighted}, l2 {l2}, batches of {batch}"
        assert_is_its_steps(problem, label, epochs=2)


@DTYPES
@pytest.mark.parametrize("sizes", [(1, 1), (33, 31), (5, 1, 3), (31, 33, 1), (2, 7, 32, 6, 4)])
def test_networks_of_any_depth_and_width(sizes, dtype):
    activation = ["sigmoid", "relu", "tanh"][: len(sizes) - 2]
    network = mlp(sizes[0], sizes[1:-1], sizes[-1], activation=activation)
    data = examples("binary_cross_entropy", sizes[-1], N=70, D=sizes[0], dtype=dtype)
    for batch in (1, 31, 33, 64):
        few = data._replace(X=data.X[:5], Y=data.Y[:5]) if batch == 1 else data
        problem = Problem(
            network, losses.get("binary_cross_entropy"), OPTIMIZERS["adamw"], few, batch, dtype
        )
        assert_is_its_steps(problem, f"batches of {batch}", epochs=1)


# Layer sizes, batch size, type, and examples that a thread does at once
SHAPES = [
    ((2, 4, 2), 400, "float32", 1),
    ((2, 2), 1100, "float64", 1),  # more examples than threads
    ((3, 40, 3), 128, "float32", 4),
    ((2, 9, 2), 600, "float64", 2),
    ((1, 2, 2), 2100, "float32", 4),  # more examples than threads do at once
]


@pytest.mark.parametrize(("sizes", "batch", "dtype", "V"), SHAPES)
def test_every_geometry(sizes, batch, dtype, V, module):
    """With a last batch that leaves most threads without an example."""
    assert module.geometry(list(sizes), batch, np.dtype(dtype).itemsize).V == V
    network = mlp(sizes[0], sizes[1:-1], sizes[-1], activation="tanh")
    data = examples(K=sizes[-1], N=batch + 45, D=sizes[0], dtype=dtype, weighted=True)
    problem = simple(network, data=data, batch_size=batch, dtype=dtype, l2=0.01, metric=ACCURACY)
    assert_is_its_steps(problem, epochs=2)


def test_a_geometry_covers_the_batch_and_avoids_conflicts(module):
    networks = [2, 2], [2, 4, 2], [64, 100, 10], [31, 33, 65, 1]
    batches = 1, 2, 31, 32, 33, 128, 400, 1023, 4000
    for sizes, batch, itemsize in product(networks, batches, [4, 8]):
        shape = module.geometry(sizes, batch, itemsize)
        assert shape.threads % 32 == 0
        assert 0 < shape.threads <= {(1, 4): 768, (1, 8): 640}.get((shape.V, itemsize), 512)
        taken = shape.width * shape.V
        assert shape.columns >= -(-batch // taken) * taken
        assert shape.columns % shape.V == 0
        assert shape.sharing >= shape.V or shape.V == 1
        assert shape.sharing == 32 or shape.columns % 32 == shape.sharing


def test_each_layer_has_its_own_slope():
    activation = [get("leaky_relu"), get("leaky_relu", slope=0.3), get("elu", alpha=0.5)]
    assert_is_its_steps(simple(mlp(3, [6, 5, 4], 3, activation=activation)))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "int64"])
def test_classes_of_any_integer_type(dtype):
    data = examples()
    assert_is_its_steps(simple(data=data._replace(Y=data.Y.astype(dtype))))


def test_inputs_with_gaps_between_rows():
    data = examples(D=5)
    for X in (data.X[:, 1:4], data.X[::-1, 2:]):
        assert_is_its_steps(simple(data=data._replace(X=X)))


@pytest.mark.parametrize("metric", [None, ACCURACY])
@DTYPES
def test_several_networks_are_each_alone(metric, dtype):
    data = examples(weighted=True, dtype=dtype)
    problem = simple(data=data, optimizer=optimizers.adamw(0.01), metric=metric, dtype=dtype)
    params, state = members(problem)
    start = params.copy(), State(state.step, tuple(x.copy() for x in state.slots))
    found = trained(small(problem), problem, start=members(problem))
    assert_same_run(found, trained(problem.steps(), problem, start=start), dtype)
    for k in range(3):
        alone = params[k].copy(), State(state.step, tuple(x[k].copy() for x in state.slots))
        one = trained(small(problem), problem, start=alone)
        np.testing.assert_array_equal(one[0], found[0][k])
        np.testing.assert_array_equal(one[2], found[2][..., k])


@pytest.mark.parametrize("how", ["weighted", "full"])
@pytest.mark.parametrize(("loss", "K"), LOSSES)
def test_what_a_short_batch_counts_for(loss, K, how):
    data = examples(loss, K, weighted=True)
    assert_is_its_steps(
        simple(mlp(3, [5], K), data=data, loss=loss, l2=0.1, short_batch=how), epochs=2
    )


@pytest.mark.parametrize("schedule", [schedules.cosine(0.05, 20), schedules.step(0.05, 3)])
def test_schedules_and_corrections_go_on_from_the_step_of_the_state(schedule):
    problem = simple(optimizer=optimizers.adamw(schedule))
    assert_is_its_steps(problem, epochs=2, state_step=7)


@pytest.mark.parametrize("members_of", [None, members])
def test_launches_moments_elsewhere_and_orders_of_threads_do_not_change_a_bit(
    module, members_of, monkeypatch
):
    """An epoch in one launch and in several, with the moments in global memory, and with one place
    for minibatches; the host turns the order of threads round with each launch."""
    problem = simple(data=examples(N=100), l2=0.01)

    def run(turn=False):
        before = module.cupy.launches
        start = None if members_of is None else members_of(problem)
        found = trained(small(problem), problem, epochs=1 + turn, start=start)
        return found, module.cupy.launches - before

    expected, launches = run()
    assert launches == 1
    assert_same_bits(run()[0], expected)
    monkeypatch.setattr(module, "STEPS", 3)
    several, launches = run()
    assert launches == 3
    assert_same_bits(several, expected)
    sizes, codes = [3, 5, 4, 3], [2, 3, 0]
    shape = module.geometry(sizes, 16, 4)
    two, one = (module.shared_memory_of(sizes, codes, 1, shape, 4, n) for n in (2, 1))
    for room in (two.nbytes + two.moments - 1, two.nbytes - 1, one.nbytes):
        monkeypatch.setattr(module, "max_shared_memory", lambda room=room: room)
        assert_same_bits(run()[0], expected)
        assert_same_bits(run()[0], expected)
    monkeypatch.setattr(module, "max_shared_memory", lambda: one.nbytes - 1)
    assert_refuses(small(problem), problem, members_of and members_of(problem))


def test_a_resumed_run_continues_bit_for_bit():
    problem = simple(data=examples(weighted=True), optimizer=OPTIMIZERS["scheduled adamw"])
    straight = trained(small(problem), problem, 4)
    first = trained(small(problem), problem, 2)
    rest = trained(small(problem), problem, 2, start=first[:2])
    np.testing.assert_array_equal(rest[0], straight[0])
    np.testing.assert_array_equal(np.concatenate([first[2], rest[2]]), straight[2])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "sigmoid"])
def test_what_is_not_finite_shows_from_its_step_on(activation, loss, value):
    problem = diverging(activation, loss, value)
    with np.errstate(all="ignore"):
        records, expected = (
            trained(epoch, problem, epochs=1)[2] for epoch in (small(problem), problem.steps())
        )
    np.testing.assert_array_equal(np.isfinite(records), np.isfinite(expected))
    assert np.isfinite(records[0, 0])
    assert not np.isfinite(records[0, 2:]).any()


def test_arguments_have_the_names_and_the_order_of_the_kernel(module):
    text = kernel_source()
    start = text.index("small_epoch(") + len("small_epoch(")
    names = re.findall(r"(\w+)[,)]", text[start : text.index("{", start)])
    assert list(module.SmallEpochArguments._fields) == names


# What it does not know, and what does not fit, is left to others.


@pytest.mark.parametrize(
    "problem",
    [
        *(simple(network) for network in NETWORKS.values()),
        simple(mlp(3, [4], 3, activation="gelu")),
        simple(loss="huber"),
        simple()._replace(loss=losses.get("softmax_cross_entropy", label_smoothing=0.1)),
        simple(mlp(3, [2000, 2000], 3)),
    ],
    ids=[*NETWORKS, "gelu", "huber", "label smoothing", "too much work"],
)
def test_it_is_for_what_it_knows(problem):
    assert small(problem) is None


@pytest.mark.parametrize(
    "problem",
    [
        simple(optimizer=optimizers.adam(0.01, epsilon=0.0)),
        simple(data=examples()._replace(Y=np.eye(3, dtype=np.float32)[examples().Y])),
        simple(data=examples(dtype="float64")),
        simple(data=examples()._replace(X=np.asfortranarray(examples().X))),
        simple(mlp(3, [300, 100], 3)),  # its parameters alone are too many
    ],
)
def test_other_types_and_sizes_are_refused(problem):
    assert_refuses(small(problem), problem)


@pytest.mark.parametrize(
    "optimizer",
    [
        *UNKNOWN_OPTIMIZERS.values(),
        *OTHER_OPTIMIZERS.values(),
        optimizers.adam(np.full((3, 1), 0.01, np.float32)),  # a number for each network
    ],
)
def test_other_optimizers_are_refused_before_there_are_arrays(optimizer):
    assert small(simple(optimizer=optimizer)) is None


def test_more_work_is_for_several_networks_alone(module):
    """Which would otherwise take a launch for each operation."""
    network, batch = mlp(100, [100], 10), 92
    assert module.MOST < module.work([100, 100, 10], batch) < 2 * module.MOST
    problem = simple(network, data=examples(K=10, N=batch, D=100), batch_size=batch)
    epoch = small(problem)
    params, state = problem.start
    one = module.one_launch_epoch(problem.run_on(compat), compat)
    with pytest.raises(NotSupported, match="too much work for one multiprocessor"):
        one.run(params, state, problem.data, problem.order)
    assert epoch(*members(problem, 2), problem.data, problem.order)[2].shape == (1, 2)


def test_weights_of_each_network_are_left_to_others(module):
    """As those of members, each of which leaves out a fold: the kernel reads one of an example."""
    weights = np.stack([examples(weighted=True).weights] * 2, axis=1)
    problem = simple(data=examples()._replace(weights=weights))
    assert small(problem)(*members(problem, 2), problem.data, problem.order) is None
