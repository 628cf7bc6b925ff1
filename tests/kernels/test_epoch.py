"""Whole epochs on NumPy: each is its steps by the definitions, with less Python between them."""

import itertools
import math
import re
import sys
import tracemalloc
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pytest

from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.definition import (
    FusedEpoch,
    NotSupported,
    Refused,
    Run,
    first_supported,
    step_by_step,
)
from nnaccel.kernels.numpy.backend import NumPyBackend
from nnaccel.kernels.numpy.call_list import call_list_epoch
from nnaccel.kernels.params import join_params
from nnaccel.maths import layers, losses, metrics, optimizers, schedules
from nnaccel.maths.activations import ACTIVATIONS, get
from nnaccel.maths.network import Network, layout, mlp
from nnaccel.ops import Ops
from nnaccel.training.data import Data
from nnaccel.training.loop import train
from nnaccel.training.step import initialize, make_step

HAS_NUMBA = bool(find_spec("numba"))
NUMBA = pytest.mark.skipif(not HAS_NUMBA, reason="needs Numba")
FAST = pytest.mark.parametrize(
    "numba", [pytest.param(False, id="numpy"), pytest.param(True, id="numba", marks=NUMBA)]
)
TOLERANCE = {"float32": 2e-5, "float64": 1e-10}


class Problem(NamedTuple):
    """A training problem; `whole` and `steps` train it for some epochs."""

    network: Network
    loss: losses.Loss
    optimizer: optimizers.Optimizer
    data: Data
    batch_size: int
    dtype: str = "float32"
    l2: float = 0.0
    metric: metrics.Metric | None = None
    seed: int = 0
    short_batch: str = "weighted"

    @property
    def start(self):
        params = initialize(self.network).astype(self.dtype)
        return params, self.optimizer.init(params, xp=np)

    @property
    def order(self):
        return np.random.default_rng(1).permutation(self.data.X.shape[0])

    def run_on(self, xp):
        return Run(
            self.network, self.loss, self.optimizer, self.batch_size, getattr(xp, self.dtype),
            self.l2, self.metric, self.seed, short_batch=self.short_batch,
        )  # fmt: skip

    def step(self, ops):
        return make_step(self.run_on(ops.xp), ops)

    def whole(self, ops=None, *, numba):
        """The epoch by the fused ones; it gives None where they refuse."""
        backend = NumPyBackend(np, numba=numba)
        ops = backend.operations() if ops is None else ops
        return or_none(first_supported(backend.fused_epochs(self.run_on(np), ops)))

    def fused_on(self, backend):
        """The epoch by the fused ones of that backend."""
        run = self.run_on(backend.xp)
        return first_supported(backend.fused_epochs(run, backend.operations()))

    def small(self, *, numba):
        """The epoch without steps alone, that of compiled code or the list of calls; None where
        there is none."""
        try:
            return or_none((compiled_epoch if numba else call_list_epoch)(self.run_on(np)).run)
        except NotSupported:
            return None

    def steps(self, ops=None):
        """The epoch as its steps, by the definitions unless there are kernels for them."""
        ops = Ops(np) if ops is None else ops
        return step_by_step(self.step(ops), self.batch_size, ops).run


def compiled_epoch(run):
    from nnaccel.kernels.numba.epoch import compiled_epoch

    return compiled_epoch(run)


def or_none(epoch):
    """The epoch, which gives None where it refuses."""

    def or_none(*args):
        try:
            return epoch(*args)
        except NotSupported:
            return None

    return or_none


def trained(epoch, problem, epochs=3, state_step=0, start=None):
    """Parameters, the optimizer's state and the records after some epochs."""
    params, state = problem.start if start is None else start
    state = state._replace(step=state.step + np.int32(state_step))
    records = []
    for _ in range(epochs):
        params, state, record = epoch(params, state, problem.data, problem.order)
        records.append(record)
    return params, state, np.stack(records)


def assert_same_run(found, expected, dtype="float32", label=""):
    tolerance = TOLERANCE[dtype]
    params, state, records = found
    assert params.dtype == dtype, label
    assert records.dtype == dtype, label
    assert records.shape == expected[2].shape, label
    assert state.step == expected[1].step, label
    assert state.step.dtype == np.int32, label
    # Adam divides by the root of the second moment: rounding near zero gradients grows.
    close = {"rtol": 50 * tolerance, "atol": tolerance, "err_msg": label}
    np.testing.assert_allclose(params, expected[0], **close)
    np.testing.assert_allclose(records, expected[2], **close)
    for slot, reference in zip(state.slots, expected[1].slots, strict=True):
        np.testing.assert_allclose(slot, reference, **close)


LOSSES = [
    ("softmax_cross_entropy", 2),
    ("softmax_cross_entropy", 3),
    ("binary_cross_entropy", 1),
    ("binary_cross_entropy", 3),
    ("squared_error", 2),
]
OPTIMIZERS = {
    "adam": optimizers.adam(0.01),
    "adamw": optimizers.adamw(0.01, weight_decay=0.1),
    "scheduled": optimizers.adam(schedules.cosine(0.01, 10)),
    "scheduled adamw": optimizers.adamw(
        schedules.warm_up(schedules.exponential(0.02, 5), 3), beta_1=0.8, epsilon=1e-6
    ),
    "no momentum": optimizers.adam(0.01, beta_1=0.0, beta_2=0.99),
}


def examples(loss="softmax_cross_entropy", K=3, N=50, D=3, dtype="float32", weighted=False):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D)).astype(dtype)
    if loss == "softmax_cross_entropy":
        Y = rng.integers(0, K, N)
    elif loss == "squared_error":
        Y = rng.standard_normal((N, K)).astype(dtype)
    else:
        Y = rng.integers(0, 2, (N, K)).astype(dtype)
    return Data(X, Y, rng.random(N).astype(dtype) if weighted else None)


def simple(network=None, optimizer=None, data=None, loss="softmax_cross_entropy", **more):
    if network is None:
        n_outputs = 3 * losses.get(loss).n_outputs
        network = mlp(3, [5, 4], n_outputs, activation=["tanh", "relu"])
    optimizer = optimizers.adam(0.01) if optimizer is None else optimizer
    data = examples() if data is None else data
    more = {"batch_size": 16} | more
    return Problem(network, losses.get(loss), optimizer, data, **more)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "K"), LOSSES)
@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "tanh", "sigmoid"])
@FAST
def test_an_epoch_is_its_steps_by_the_definitions(activation, loss, K, dtype, numba):
    """In one batch, in equal ones and with a shorter last one, with every pair of options."""
    network = mlp(3, [5, 4], K, activation=activation)
    for (i, name), (j, batch) in itertools.product(enumerate(OPTIMIZERS), enumerate([16, 25, 64])):
        weighted, l2 = bool((i + j) % 2), 0.1 * ((i // 2 + j) % 2)
        data = examples(loss, K, dtype=dtype, weighted=weighted)
        metric = metrics.for_loss(losses.get(loss)) if weighted else None
        problem = Problem(
            network, losses.get(loss), OPTIMIZERS[name], data, batch, dtype, l2, metric
        )
        found = trained(problem.whole(numba=numba), problem)
        label = f"{name}, weighted {weighted}, l2 {l2}, batches of {batch}"
        assert_same_run(found, trained(problem.steps(), problem), dtype, label)


@pytest.mark.parametrize("loss", [*dict(LOSSES)])
@pytest.mark.parametrize("hidden", [[], [7], [4, 6, 5]])
@FAST
def test_small_networks_of_any_depth_have_an_epoch_of_their_own(hidden, loss, numba):
    activation = ["sigmoid", "relu", "tanh"][: len(hidden)]
    problem = simple(
        mlp(3, hidden, 2, activation=activation), data=examples(loss, 2), loss=loss, l2=0.01
    )
    assert_same_run(trained(problem.small(numba=numba), problem), trained(problem.steps(), problem))


@FAST
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "K"), LOSSES)
def test_what_a_short_batch_counts_for(loss, K, weighted, numba):
    """50 examples in batches of 16 leave 2. Of gradient descent with momentum too, whose steps are
    traced and not fused."""
    data = examples(loss, K, weighted=weighted, dtype="float64")
    params = {}
    for how in ("weighted", "full"):
        problem = simple(
            mlp(3, [5], K), data=data, loss=loss, l2=0.1, dtype="float64", short_batch=how
        )
        expected = trained(problem.steps(), problem)
        assert_same_run(trained(problem.small(numba=numba), problem), expected, "float64")
        slower = problem._replace(optimizer=optimizers.momentum(0.1))
        found = trained(slower.whole(numba=numba), slower)
        assert_same_run(found, trained(slower.steps(), slower), "float64")
        params[how] = expected[0]
    assert np.abs(params["weighted"] - params["full"]).max() > 1e-3
    even = examples(loss, K, N=48, weighted=weighted)
    runs = [simple(mlp(3, [5], K), data=even, loss=loss, short_batch=how) for how in params]
    one, other = (trained(problem.small(numba=numba), problem) for problem in runs)
    np.testing.assert_array_equal(one[0], other[0])


@FAST
def test_each_layer_of_a_small_network_has_its_own_slope(numba):
    activation = [get("leaky_relu"), get("leaky_relu", slope=0.3), get("relu")]
    problem = simple(mlp(3, [6, 5, 4], 3, activation=activation))
    assert_same_run(trained(problem.small(numba=numba), problem), trained(problem.steps(), problem))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid"])
@FAST
def test_the_last_layer_of_a_small_network_may_have_an_activation(activation, numba):
    last = layers.Dense(3, get(activation))
    problem = simple(Network(3, (layers.Dense(5, get("tanh")), last)))
    assert_same_run(trained(problem.small(numba=numba), problem), trained(problem.steps(), problem))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "uint64"])
@FAST
def test_classes_of_any_integer_type(dtype, numba):
    data = examples()
    problem = simple(data=data._replace(Y=data.Y.astype(dtype)))
    assert_same_run(trained(problem.small(numba=numba), problem), trained(problem.steps(), problem))


@pytest.mark.parametrize("D", [3, 40])
@FAST
def test_inputs_that_are_strided_or_read_only(D, numba):
    data, network = examples(weighted=True, D=D), mlp(D, [5, 4], 3)
    strided = Data(
        np.asfortranarray(data.X), np.repeat(data.Y, 2)[::2], np.repeat(data.weights, 2)[::2]
    )
    for array in (*data, *strided):
        array.flags.writeable = False
    expected = trained(simple(network, data=data).steps(), simple(network, data=data))
    for inputs in (data, strided):
        problem = simple(network, data=inputs)
        assert_same_run(trained(problem.small(numba=numba), problem), expected)


@pytest.mark.parametrize("K", [1, 12, 13, 40])
@FAST
def test_few_and_many_classes(K, numba):
    problem = simple(mlp(3, [6], K), data=examples(K=K, N=90))
    assert_same_run(trained(problem.small(numba=numba), problem), trained(problem.steps(), problem))


NETWORKS = {
    "every activation": mlp(3, [4] * len(ACTIVATIONS), 3, activation=list(ACTIVATIONS)),
    "dropout": mlp(3, [8, 8], 3, dropout=0.3),
    "two dropouts": Network(3, (layers.Dropout(0.2), layers.Dropout(0.1), layers.Dense(3))),
    "layer norm": Network(3, (layers.Dense(6), layers.LayerNorm(), layers.Dense(3))),
    "encoding": Network(
        3,
        (
            layers.PiecewiseLinear(((-1.0, -0.5, 0.5, 1.0), (), (-0.5, 1.5))),
            layers.Dense(6, get("silu")),
            layers.Dropout(0.1),
            layers.Dense(3),
        ),
    ),
    "residual": Network(
        3, (layers.Residual((layers.Dense(3, get("tanh")), layers.Dense(3))), layers.Dense(3))
    ),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@FAST
def test_an_epoch_of_other_layers_is_its_steps(network, numba):
    problem = simple(network, dtype="float64", data=examples(dtype="float64"), l2=0.01)
    found = trained(problem.whole(numba=numba), problem)
    assert_same_run(found, trained(problem.steps(), problem), "float64")


@pytest.mark.parametrize("loss", [name for name in losses.LOSSES if "entropy" not in name])
@FAST
def test_an_epoch_of_other_losses_is_its_steps(loss, numba):
    data = examples(loss, 3, dtype="float64", weighted=True)
    metric = metrics.for_loss(losses.get(loss))
    problem = simple(loss=loss, data=data, dtype="float64", metric=metric)
    found = trained(problem.whole(numba=numba), problem)
    assert_same_run(found, trained(problem.steps(), problem), "float64")


@FAST
def test_integer_inputs_become_floating_a_batch_at_a_time(numba):
    data = examples()
    pixels = data._replace(X=(10 * data.X).astype(np.int64))
    problem = simple(data=pixels)
    assert_same_run(trained(problem.whole(numba=numba), problem), trained(problem.steps(), problem))
    floating = simple(data=data._replace(X=pixels.X.astype(np.float32)))
    assert_same_run(
        trained(problem.whole(numba=numba), problem), trained(floating.whole(numba=numba), floating)
    )


@pytest.mark.parametrize("schedule", [schedules.cosine(0.05, 20), schedules.step(0.05, 3)])
@FAST
def test_schedules_and_corrections_go_on_from_the_step_of_the_state(schedule, numba):
    problem = simple(optimizer=optimizers.adamw(schedule))
    found = trained(problem.whole(numba=numba), problem, 2, state_step=7)
    assert_same_run(found, trained(problem.steps(), problem, 2, state_step=7))
    with pytest.raises(AssertionError):
        assert_same_run(found, trained(problem.steps(), problem, 2, state_step=6))


OTHER_OPTIMIZERS = {
    **{name: optimizers.get(name, 0.01) for name in ("gd", "momentum", "nesterov", "rmsprop")},
    "gd with decay": optimizers.gradient_descent(0.01, weight_decay=0.1),
    "scheduled": optimizers.nesterov(schedules.cosine(0.01, 10), weight_decay=0.1),
    "clipped": optimizers.clipped(optimizers.adam(0.01), 0.1),
}


@pytest.mark.parametrize("optimizer", OTHER_OPTIMIZERS.values(), ids=OTHER_OPTIMIZERS)
@FAST
def test_an_epoch_with_another_optimizer_is_its_steps(optimizer, numba):
    problem = simple(optimizer=optimizer)
    for start in (lambda problem: problem.start, members):
        found, expected = (
            trained(epoch, problem, start=start(problem))
            for epoch in (problem.whole(numba=numba), problem.steps())
        )
        assert_same_run(found, expected)


@FAST
def test_an_epoch_with_lion_is_its_steps(numba):
    """In float64, since rounding may turn the sign of a number near 0."""
    data = examples(dtype="float64")
    problem = simple(optimizer=optimizers.get("lion", 0.01), data=data, dtype="float64")
    found = trained(problem.whole(numba=numba), problem)
    assert_same_run(found, trained(problem.steps(), problem), "float64")


# What an epoch does not do is left to the steps.


def only_one_step_at_a_time(step, *, xp):
    return 0.01 if step < 3 else 0.001


def changed(before=lambda grads: grads, after=lambda params: params):
    """An optimizer that does something of its own to the gradient or to the parameters."""
    adam = optimizers.adam(0.01)

    def update(grads, state, params, **options):
        params, state = adam.update(before(grads), state, params, **options)
        return after(params), state

    return adam._replace(update=update)


UNKNOWN_OPTIMIZERS = {
    "a schedule with a branch": optimizers.adam(only_one_step_at_a_time),
    "a gradient of its own": changed(before=lambda grads: 0.5 * grads),
    "a constant gradient": changed(before=lambda grads: np.ones(59, np.float32)),
    "parameters of its own": changed(after=lambda params: 0.5 * params),
}


@pytest.mark.parametrize("optimizer", UNKNOWN_OPTIMIZERS.values(), ids=UNKNOWN_OPTIMIZERS)
@FAST
def test_unknown_optimizers_are_left_to_the_steps(optimizer, numba):
    problem, ops = simple(optimizer=optimizer), NumPyBackend(np, numba=numba).operations()
    whole = problem.whole(ops, numba=numba)
    assert_refuses(whole, problem)
    backend, run = NumPyBackend(np, numba=numba), problem.run_on(np)
    epoch = backend.compile_epoch(partial(make_step, ops=ops), run, ops)(run.seed)
    assert_same_run(trained(epoch, problem), trained(problem.steps(), problem))


def members(problem, K=3):
    """Parameters and state of K networks."""
    params = initialize(problem.network, members=K).astype(problem.dtype)
    return params, problem.optimizer.init(params, xp=np)


@pytest.mark.parametrize("metric", [None, metrics.for_loss("softmax_cross_entropy")])
@FAST
def test_several_networks_go_one_by_one(metric, numba):
    problem = simple(data=examples(weighted=True), optimizer=optimizers.adamw(0.01), metric=metric)
    found, expected = (
        trained(epoch, problem, start=members(problem))
        for epoch in (problem.whole(numba=numba), problem.steps())
    )
    assert_same_run(found, expected)


@pytest.mark.parametrize(
    "problem",
    [
        simple(optimizer=optimizers.adam(np.array([[0.01], [0.02], [0.005]], np.float32))),
        simple(optimizer=optimizers.adamw(0.01, weight_decay=np.array([[0.1], [0.0], [0.5]]))),
    ],
    ids=["rates", "decays"],
)
@FAST
def test_several_networks_with_numbers_of_their_own(problem, numba):
    """Numba trains them as the steps do, and the list of calls leaves them to the steps."""
    whole = problem.whole(numba=numba)
    if not numba:
        assert_refuses(whole, problem, members(problem))
        return
    found, expected = (
        trained(epoch, problem, start=members(problem)) for epoch in (whole, problem.steps())
    )
    assert_same_run(found, expected)


@pytest.mark.parametrize(
    "network",
    [
        NETWORKS["dropout"],
        Network(3, (layers.Residual((layers.Dropout(0.2), layers.Dense(3))), layers.Dense(3))),
    ],
    ids=["dropout", "dropout inside"],
)
@FAST
def test_several_networks_with_dropout_are_each_alone(network, numba):
    problem = simple(network)
    found, expected = (
        trained(epoch, problem, start=members(problem))
        for epoch in (problem.whole(numba=numba), problem.steps())
    )
    assert_same_run(found, expected)


def assert_refuses(whole, problem, start=None):
    """It gives None, and has changed nothing."""
    params, state = problem.start if start is None else start
    before = params.copy(), [slot.copy() for slot in state.slots]
    assert whole(params, state, problem.data, problem.order) is None
    np.testing.assert_array_equal(params, before[0])
    for slot, copy in zip(state.slots, before[1], strict=True):
        np.testing.assert_array_equal(slot, copy)
    assert state.step == 0


@pytest.mark.parametrize(
    "problem",
    [
        simple(NETWORKS["two dropouts"]),
        simple(NETWORKS["layer norm"]),
        simple(mlp(3, [4], 3, activation="gelu")),
        simple(loss="huber"),
        simple()._replace(loss=losses.get("softmax_cross_entropy", label_smoothing=0.1)),
    ],
    ids=["two dropouts", "layer norm", "gelu", "huber", "label smoothing"],
)
@FAST
def test_the_epochs_of_small_networks_are_for_what_they_know(problem, numba):
    assert problem.small(numba=numba) is None
    assert problem.whole(numba=numba) is not None


@FAST
def test_the_compiled_epoch_is_for_all_sizes_and_that_of_few_calls_for_small_ones(numba):
    small, large = simple(mlp(3, [100], 3)), simple(mlp(3, [2000, 2000], 3))
    assert small.small(numba=numba) is not None
    assert (large.small(numba=numba) is not None) == numba
    assert large.whole(numba=numba) is not None


def test_without_numba_small_networks_have_the_epoch_of_few_calls(monkeypatch):
    """But not in another precision, which its products do not have."""
    monkeypatch.setattr("nnaccel.kernels.numpy.backend.has_numba", lambda: False)
    backend = backend_of(np)
    for precision in ("float32", "bf16", "tf32"):
        run = simple().run_on(np)._replace(precision=precision)
        offers = backend.fused_epochs(run, backend.operations(precision))
        names = [offer.name for offer in offers if isinstance(offer, FusedEpoch)]
        assert names == ["NumPy, a list of calls"] * (precision == "float32") + [
            "steps, kernels of NumPy"
        ]
        assert offers[0] == Refused("Numba", "it is not installed")


@pytest.mark.parametrize(
    ("network", "batch_size", "small"),
    [
        (mlp(64, [100], 10), 200, True),
        (mlp(784, [30], 10), 64, True),
        (mlp(784, [100], 10), 64, False),
        (mlp(784, [30], 10), 256, False),
        (mlp(2, [4], 2), 40_000, True),
    ],
)
def test_few_calls_are_for_few_parameters_and_inputs(network, batch_size, small):
    problem = simple(network, batch_size=batch_size)
    assert (problem.small(numba=False) is not None) == small


OTHER_TYPES = {
    "float64 inputs": (lambda data: data._replace(X=data.X.astype(np.float64)), "float32"),
    "integer inputs": (lambda data: data._replace(X=data.X.astype(np.int32)), "float32"),
    "float64 parameters": (lambda data: data, "float64"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@FAST
def test_an_epoch_takes_probabilities_in_the_place_of_classes(dtype, numba):
    data = examples(dtype=dtype, weighted=True)
    rows = np.random.default_rng(0).dirichlet(np.ones(3), data.Y.shape[0])
    problem = simple(data=data._replace(Y=rows.astype(dtype)), dtype=dtype)
    found = trained(problem.small(numba=numba), problem)
    assert_same_run(found, trained(problem.steps(), problem), dtype)


@pytest.mark.parametrize(("change", "dtype"), OTHER_TYPES.values(), ids=OTHER_TYPES)
def test_the_epoch_of_few_calls_takes_other_types(change, dtype):
    problem = simple(data=change(examples()), dtype=dtype)
    found = trained(problem.small(numba=False), problem)
    assert_same_run(found, trained(problem.steps(), problem), dtype)


@NUMBA
@pytest.mark.parametrize(("change", "dtype"), OTHER_TYPES.values(), ids=OTHER_TYPES)
def test_the_compiled_epoch_leaves_other_types_to_the_other(change, dtype):
    problem = simple(data=change(examples()), dtype=dtype)
    assert_refuses(problem.small(numba=True), problem)
    found = trained(problem.whole(numba=True), problem)
    assert_same_run(found, trained(problem.steps(), problem), dtype)


@NUMBA
def test_the_compiled_epoch_takes_bytes():
    rng = np.random.default_rng(0)
    problem = simple(data=examples()._replace(X=rng.integers(0, 4, (50, 3), np.uint8)))
    found = trained(problem.small(numba=True), problem)
    assert_same_run(found, trained(problem.steps(), problem))


def test_the_epoch_of_few_calls_leaves_half_precision_to_the_other():
    problem = simple(data=examples(dtype="float16"), dtype="float16")
    assert_refuses(problem.small(numba=False), problem)


# The epoch of few calls, in which minibatches come in chunks.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_length_of_chunks_changes_no_bit(dtype, monkeypatch):
    from nnaccel.kernels.numpy import call_list

    data = examples(N=50, dtype=dtype, weighted=True)
    metric = metrics.for_loss("softmax_cross_entropy")
    options = {"dtype": dtype, "metric": metric, "batch_size": 3, "l2": 0.01}
    problem = simple(data=data, optimizer=OPTIMIZERS["scheduled adamw"], **options)
    expected = trained(problem.small(numba=False), problem)
    assert_same_run(expected, trained(problem.steps(), problem), dtype)
    for steps, size in [(1, 2**20), (2, 2**20), (5, 2**20), (32, 1), (32, 1000)]:
        monkeypatch.setattr(call_list, "STEPS", steps)
        monkeypatch.setattr(call_list, "CHUNK", size)
        params, state, records = trained(problem.small(numba=False), problem)
        for found, reference in zip(
            (params, *state.slots, records), (expected[0], *expected[1].slots, expected[2]),
            strict=True,
        ):  # fmt: skip
            np.testing.assert_array_equal(found, reference)


def test_an_epoch_of_few_calls_takes_no_more_memory_for_more_examples(monkeypatch):
    from nnaccel.kernels.numpy import call_list

    monkeypatch.setattr(call_list, "CHUNK", 2**16)
    problem = simple(mlp(8, [4], 3), data=examples(N=2**16, D=8), batch_size=64)
    epoch, (params, state), order = problem.small(numba=False), problem.start, problem.order
    epoch(params, state, problem.data, order)
    tracemalloc.start()
    try:
        epoch(params, state, problem.data, order)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < problem.data.X.nbytes / 8


def test_an_interrupted_epoch_of_few_calls_has_changed_nothing(monkeypatch):
    from nnaccel.kernels.numpy import call_list

    monkeypatch.setattr(call_list, "STEPS", 1)
    interrupts, calls = [True], itertools.count()

    def interrupting(Z, Y, weights, *, xp):
        if interrupts[0] and next(calls):
            raise KeyboardInterrupt
        return metrics.accuracy(Z, Y, weights, xp=xp)

    problem = simple(metric=metrics.Metric("accuracy", interrupting, float))
    epoch, (params, state) = problem.small(numba=False), problem.start
    before = params.copy()
    with pytest.raises(KeyboardInterrupt):
        epoch(params, state, problem.data, problem.order)
    np.testing.assert_array_equal(params, before)
    for slot in state.slots:
        np.testing.assert_array_equal(slot, 0.0)

    interrupts[0] = False
    found = trained(epoch, problem, start=(params, state))
    assert_same_run(found, trained(problem.steps(), problem))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments_in_an_epoch_of_few_calls_do_not_stay_denormal(dtype):
    """Those of a unit that has died: with no more gradient they shrink in every step."""
    data = examples(dtype=dtype, N=64)
    problem = simple(mlp(3, [5], 3), data=data, dtype=dtype, batch_size=1)
    (params, state), epoch = problem.start, problem.small(numba=False)
    data.X[...] = np.abs(data.X)
    params[:15] = -1.0  # all of W: no hidden unit is ever above 0
    mu, nu = state.slots
    mu[:15] = np.linspace(-1, 1, 15)
    nu[:15] = 0.1
    for _ in range(125 if dtype == "float64" else 20):
        params[:15] = -1.0
        params, state, _ = epoch(params, state, data, problem.order)
    tiny = np.finfo(dtype).tiny
    mu, nu = (np.abs(slot[:15]) for slot in state.slots)
    assert mu.max() < 1000 * tiny
    assert mu.min() >= tiny
    assert nu.min() >= tiny


# What is true of runs is true of runs of whole epochs.


class Foreign:
    """A layer that draws, of somebody else's."""

    inner = layers.Dropout(0.3)
    width, params = inner.width, inner.params
    forward, backward = inner.forward, inner.backward


@FAST
def test_a_layer_that_nobody_knows_may_draw(numba):
    network = Network(3, (layers.Dense(8, get("tanh")), Foreign(), layers.Dense(3)))
    problem = simple(network)
    assert_same_run(trained(problem.whole(numba=numba), problem), trained(problem.steps(), problem))
    assert_refuses(problem.whole(numba=numba), problem, members(problem))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@FAST
def test_a_resumed_run_continues_bit_for_bit(dropout, numba):
    X, Y, weights = examples(weighted=True)
    network = mlp(3, [5, 4], 3, dropout=dropout)

    def run(epochs, after=None):
        options = {"batch_size": 16, "sample_weight": weights, "seed": 3, "after": after}
        options["kernels"] = numba or "numpy"
        optimizer = optimizers.adamw(schedules.cosine(0.01, 20))
        loss = "softmax_cross_entropy"
        return list(train(network, X, Y, loss=loss, optimizer=optimizer, epochs=epochs, **options))

    straight, first = run(5), run(2)
    resumed = first + run(5, after=first[-1])
    assert [epoch.loss for epoch in resumed] == [epoch.loss for epoch in straight]
    np.testing.assert_array_equal(resumed[-1].params, straight[-1].params)
    for slot, reference in zip(resumed[-1].state.slots, straight[-1].state.slots, strict=True):
        np.testing.assert_array_equal(slot, reference)


@FAST
def test_what_was_given_to_an_epoch_is_not_needed_after_it(numba):
    problem = simple(data=examples(weighted=True))
    expected, epoch = trained(problem.whole(numba=numba), problem), problem.whole(numba=numba)
    params, state = problem.start
    records = []
    for _ in range(3):
        given = (params, *state.slots)
        params, state, record = epoch(params, state, problem.data, problem.order)
        records.append(record)
        kept = [id(array) for array in (params, *state.slots)]
        for array in given:
            if id(array) not in kept:
                array[...] = math.nan
    np.testing.assert_array_equal(params, expected[0])
    np.testing.assert_array_equal(records, expected[2])


@FAST
def test_the_records_of_an_epoch_stay_when_the_next_one_runs(numba):
    problem = simple(metric=metrics.for_loss("softmax_cross_entropy"))
    epoch, (params, state) = problem.whole(numba=numba), problem.start
    params, state, first = epoch(params, state, problem.data, problem.order)
    copy = first.copy()
    epoch(params, state, problem.data, problem.order)
    np.testing.assert_array_equal(first, copy)


def diverging(activation, loss, value):
    """A problem in which `value` comes up in the second step: an input, or else the rate."""
    data = examples(loss)
    problem = simple(mlp(3, [5], 3, activation=activation), data=data, loss=loss)
    if math.isnan(value) or activation in ("identity", "relu"):
        data.X[problem.order[20]] = value
    else:
        problem = problem._replace(
            optimizer=optimizers.adam(lambda step, *, xp: value + 0.0 * step)
        )
    return problem


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "sigmoid"])
@FAST
def test_what_is_not_finite_shows_from_its_step_on(activation, loss, value, numba):
    problem = diverging(activation, loss, value)
    with np.errstate(all="ignore"):
        _, _, records = trained(problem.whole(numba=numba), problem, epochs=1)
        _, _, expected = trained(problem.steps(), problem, epochs=1)
    np.testing.assert_array_equal(np.isfinite(records), np.isfinite(expected))
    assert np.isfinite(records[0, 0])
    assert not np.isfinite(records[0, 2:]).any()


@FAST
def test_an_epoch_calls_less_python_than_its_steps(numba):
    """Calls are counted, not timed: the same on every machine. Those of ufuncs do not count."""
    problem, ops = simple(data=examples(N=800)), NumPyBackend(np, numba=numba).operations()
    n_steps, counts = 50, {}
    for name, epoch in {
        "whole": problem.whole(ops, numba=numba),
        "steps": problem.steps(ops),
    }.items():
        trained(epoch, problem, epochs=2)
        calls = [0]

        def count(frame, event, _, calls=calls):
            calls[0] += event in ("call", "c_call")

        params, state = problem.start
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            epoch(params, state, problem.data, problem.order)
        finally:
            sys.setprofile(before)
        counts[name] = calls[0] / n_steps
    assert counts["whole"] < (4 if numba else 16) < counts["steps"] / 5, counts


def test_a_step_of_few_calls_has_few():
    """Of NumPy, all of them: those of 2-4-2 with ReLU, cross-entropy and Adam."""
    from nnaccel.kernels.numpy.call_list import Steps, Vectors, plan_for

    run = simple(mlp(2, [4], 2), batch_size=400).run_on(np)
    vectors, plan = Vectors(run.network, np.dtype("float32")), plan_for(run)
    options = {"metric": None, "weighted": False, "decays": False, "beta_1": 0.9, "beta_2": 0.999}
    steps = Steps(plan, vectors, 400, 1.0, **options)
    steps.prepare(steps.most)
    assert [len(calls) for calls in steps.calls] == [23] * steps.most


# On JAX an epoch is one call, in which the flat vectors are cut into their parts.


def compiled_on(xp, problem):
    """The epoch of a problem on a library, and the function that splits its vectors."""
    backend, run = backend_of(xp), problem.run_on(xp)
    ops = backend.operations()
    epoch_of = backend.compile_epoch(partial(make_step, ops=ops), run, ops)
    return epoch_of(run.seed), backend.split_params(layout(run.network))


@pytest.mark.parametrize("lead", [None, 2], ids=["one", "members"])
@pytest.mark.parametrize("name", ["gd", "momentum", "adamw"])
@pytest.mark.parametrize("small", [0, 2**16], ids=["in parts", "in one"])
def test_an_epoch_on_jax_is_its_steps_by_the_definitions(name, lead, small, monkeypatch):
    pytest.importorskip("jax")
    from nnaccel.devices.device import select
    from nnaccel.kernels import jax

    monkeypatch.setattr(jax, "SMALL", small)
    optimizer = optimizers.get(name, 0.01, weight_decay=0.1)
    problem = simple(optimizer=optimizer, data=examples(dtype="float64"), dtype="float64", l2=0.1)
    start = problem.start if lead is None else members(problem, lead)
    expected = trained(problem.steps(), problem, start=(start[0].copy(), start[1]))

    device = select("jax:cpu")
    epoch, pieces = compiled_on(device.xp, problem)
    data = Data(*map(device.asarray, problem.data[:2]))
    params = device.asarray(start[0])
    state, records = pieces(optimizer.init(params, xp=device.xp)), []
    params = pieces(params)
    for _ in range(3):
        params, state, record = epoch(params, state, data, device.asarray(problem.order))
        records.append(record)
    np.testing.assert_allclose(join_params(params), expected[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(np.stack(records), expected[2], rtol=1e-8)


@pytest.mark.parametrize("lead", [None, 2], ids=["one", "members"])
@pytest.mark.parametrize("name", [*optimizers.OPTIMIZERS])
def test_epochs_on_jax_copy_no_weights(name, lead, monkeypatch):
    """The old ones are read for the last time before the new ones are written over them, and what
    an epoch leaves is what the next one takes."""
    pytest.importorskip("jax")
    from nnaccel.devices.device import select
    from nnaccel.kernels import jax

    monkeypatch.setattr(jax, "SMALL", 0)
    network = mlp(3, [40, 50, 60], 3)
    problem = simple(network, optimizers.get(name, 0.01))
    start = problem.start[0] if lead is None else members(problem, lead)[0]
    device = select("jax:cpu")
    epoch, pieces = compiled_on(device.xp, problem)
    params = device.asarray(start)
    data = Data(*map(device.asarray, problem.data[:2]))
    state = problem.optimizer.init(params, xp=device.xp)
    arguments = pieces(params), pieces(state), data, device.asarray(problem.order)
    program = epoch.func.lower(*arguments, **epoch.keywords).compile().as_text()
    copied = re.findall(r"= f32\[([\d,]*)\]\S* (?:copy|concatenate|slice)\(", program)
    sizes = [math.prod(map(int, shape.split(","))) for shape in copied if shape]
    assert "while(" in program
    assert max(sizes, default=0) < 40 * 50  # neither of the matrices between hidden layers


@pytest.mark.parametrize("large", [0, 2**15], ids=["fused", "not fused"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_epoch_on_torch_is_its_steps_by_the_definitions(optimizer, large, monkeypatch):
    pytest.importorskip("torch")
    from nnaccel.devices.device import select
    from nnaccel.kernels import torch

    monkeypatch.setattr(torch, "LARGE", large)
    problem = simple(optimizer=optimizer, data=examples(dtype="float64"), dtype="float64")
    expected = trained(problem.steps(), problem)
    device = select("torch:cpu")
    epoch, _ = compiled_on(device.xp, problem)
    data = Data(*map(device.asarray, problem.data[:2]))
    params, records = device.asarray(problem.start[0], copy=True), []
    state = optimizer.init(params, xp=device.xp)
    for _ in range(3):
        params, state, record = epoch(params, state, data, device.asarray(problem.order))
        records.append(record)
    np.testing.assert_allclose(params.numpy(), expected[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(np.stack([r.numpy() for r in records]), expected[2], rtol=1e-8)


# A fused epoch knows an activation by its functions and a layer by its class, never by a name.


class Doubled(layers.Dense):
    """A layer with the parameters of a dense one, which doubles its input."""

    def forward(self, params, X, *, ops, key, training=False):
        return super().forward(params, X + X, ops=ops, key=key, training=training)

    def backward(self, params, saved, dA, *, ops, need_dX):
        dX, grads = super().backward(params, saved, dA, ops=ops, need_dX=need_dX)
        return (None if dX is None else dX + dX), grads


@FAST
def test_a_function_under_a_known_name_is_not_taken_for_the_known_one(numba, monkeypatch):
    own = ACTIVATIONS["relu"]._replace(
        forward=lambda Z, *, xp: 3.0 * Z, vjp=lambda dA, Z, A, *, xp: 3.0 * dA
    )
    monkeypatch.setitem(ACTIVATIONS, "relu", own)
    problem = simple(mlp(3, [5], 3, activation="relu"))
    assert problem.small(numba=numba) is None
    assert_same_run(trained(problem.whole(numba=numba), problem), trained(problem.steps(), problem))


@FAST
def test_a_layer_that_is_made_from_a_dense_one_is_not_taken_for_one(numba):
    problem = simple(Network(3, (Doubled(5, ACTIVATIONS["tanh"]), layers.Dense(3))))
    assert problem.small(numba=numba) is None
    assert_same_run(trained(problem.whole(numba=numba), problem), trained(problem.steps(), problem))
