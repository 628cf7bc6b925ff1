"""Training: minibatches, epochs, resuming and stopping, and the cost of a step."""

import inspect
import math
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from nnaccel.devices.device import select, to_host
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.definition import Definition, Run
from nnaccel.kernels.numpy.backend import NumPyBackend
from nnaccel.kernels.params import SplitParams
from nnaccel.maths import losses, metrics, schedules
from nnaccel.maths.activations import get as activation
from nnaccel.maths.layers import Dense, Dropout, LayerNorm, Residual
from nnaccel.maths.minibatch import bounds, n_steps
from nnaccel.maths.network import Network, forward, layout, mlp, value_and_grad
from nnaccel.maths.optimizers import OPTIMIZERS, adam, clipped, gradient_descent, momentum
from nnaccel.maths.optimizers import get as optimizer_of
from nnaccel.ops import Ops
from nnaccel.training import loop, step, streaming
from nnaccel.training.data import Data, class_weights, put
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize, make_step, order_of

N, D, K = 50, 4, 3
NETWORK = mlp(D, [8, 6], K, activation=["tanh", "relu"])
SOFTMAX = losses.get("softmax_cross_entropy")


def blobs(N=N, dtype="float64", seed=0):
    """Three classes around three points, and which is which."""
    rng = np.random.default_rng(seed)
    Y = rng.integers(0, K, N)
    X = rng.standard_normal((N, D)) + 1.5 * np.eye(K, D)[Y]
    return X.astype(dtype), Y


def run(network=NETWORK, X=None, Y=None, *, epochs=3, **options):
    """The epochs of a run, with copies of what the next epoch would overwrite."""
    X, Y = blobs() if X is None else (X, Y)
    options = {"loss": SOFTMAX, "batch_size": 16, **options}
    return [epoch.copy() for epoch in train(network, X, Y, epochs=epochs, **options)]


def curve(epochs, name="loss"):
    return np.array([getattr(epoch, name) for epoch in epochs])


@pytest.fixture(params=["numpy", True], ids=["numpy", "numba"])
def compiled(request, monkeypatch):
    """Training without and with the kernels that take a while to load."""
    if request.param is True:
        pytest.importorskip("numba", reason="compiled kernels need Numba")
    monkeypatch.setattr(loop, "backend_of", lambda xp, _: backend_of(xp, request.param))


# Epochs


def test_epochs_are_numbered_from_one_and_tell_what_happened():
    epochs = run(validation_data=blobs(20, seed=1), metric=metrics.for_loss(SOFTMAX))
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    for epoch in epochs:
        assert set(epoch.scores()) == {"loss", "metric", "validation_loss", "validation_metric"}
        assert all(type(value) is float for value in epoch.scores().values())
        assert 0 <= epoch.metric <= 1
        assert epoch.seconds > 0
        assert epoch.samples_per_second == pytest.approx(N / epoch.seconds)


def test_without_metric_and_validation_there_is_the_loss_alone():
    (epoch,) = run(epochs=1)
    assert set(epoch.scores()) == {"loss"}


def test_no_epochs_are_no_epochs():
    assert run(epochs=0) == []


def test_it_learns():
    X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    Y = np.array([0, 1, 1, 0])
    network = mlp(2, [16], 1, activation="tanh")
    (*_, last) = run(network, X, Y, loss="binary_cross_entropy", optimizer=adam(0.05), epochs=200)
    found = predict(network, last.params, X, loss="binary_cross_entropy")
    assert (found[:, 0] > 0.5).tolist() == [False, True, True, False]
    assert last.loss < 0.05


def test_nothing_runs_before_the_first_epoch_is_asked_for():
    calls = []

    def counted(Z, Y, weights=None, *, xp):
        calls.append(Z.shape)
        return losses.squared_error(Z, Y, weights, xp=xp)

    loss = losses.Loss("counted", counted, losses.identity)
    epochs = train(mlp(D, [3], 1), blobs()[0], np.zeros(N), loss=loss, batch_size=16)
    assert inspect.isgenerator(epochs)
    assert calls == []
    next(epochs)
    assert [shape[0] for shape in calls] == [16, 16, 16, 2]
    next(epochs)
    assert len(calls) == 8


def test_what_was_given_is_not_changed(compiled):
    X, Y = blobs(dtype="float32")
    weights, params = np.linspace(0.5, 1.5, N), initialize(NETWORK, 3)
    given = X, Y, weights, params
    before = [array.copy() for array in given]
    for array in given[:3]:
        array.flags.writeable = False
    run(X=X, Y=Y, sample_weight=weights, params=params)
    for array, kept in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_two_runs_side_by_side_do_not_disturb_each_other(compiled):
    X, Y = blobs(dtype="float32")
    options = {"loss": SOFTMAX, "batch_size": 16, "epochs": 3}
    pair = zip(
        train(NETWORK, X, Y, **options),
        train(NETWORK, X, Y, **options, seed=1),
        strict=True,
    )
    side_by_side = [(a.loss, b.loss) for a, b in pair]
    alone = zip(curve(run(X=X, Y=Y)), curve(run(X=X, Y=Y, seed=1)), strict=True)
    assert side_by_side == list(alone)


# Minibatches


def test_bounds_cover_all_examples_and_the_last_batch_may_be_shorter():
    assert bounds(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert bounds(8, 4) == [(0, 4), (4, 8)]
    assert bounds(3, 4) == [(0, 3)]
    assert bounds(0, 4) == []
    assert n_steps(10, 4, epochs=5) == 15
    assert n_steps(8, 4, epochs=5) == 10


def test_the_last_shorter_batch_is_used():
    """Two steps over 16 and one over 2, which counts for an eighth: the epoch is this loop."""
    X, Y = blobs(34)
    params, ops = initialize(NETWORK, 0), Ops(np)
    total = 0.0
    for start, stop in ((0, 16), (16, 32), (32, 34)):
        part = X[start:stop], Y[start:stop]
        value, grads, _ = value_and_grad(NETWORK, SOFTMAX, params, *part, ops=ops)
        params = params - 0.1 * grads * ((stop - start) / 16)
        total += value * (stop - start) / 34
    (epoch,) = run(X=X, Y=Y, epochs=1, optimizer=gradient_descent(0.1), shuffle=False)
    assert int(epoch.state.step) == 3
    np.testing.assert_allclose(epoch.params, params, rtol=1e-12)
    assert epoch.loss == pytest.approx(total, rel=1e-13)


@pytest.mark.parametrize("kernels", [True, "numpy", False])
@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_each_example_counts_the_same_in_a_short_batch(device, kernels):
    """One step of gradient descent by 16 and one by 2 examples at a rate so small that both see the
    same parameters: together they are a step by the sum over all examples."""
    if device != "cpu":
        pytest.importorskip(device)
    X, Y = blobs(18)
    options = {"optimizer": gradient_descent(1e-6), "epochs": 1, "device": device}
    options |= {"X": X, "Y": Y, "kernels": kernels, "dtype": "float64"}
    start = initialize(NETWORK, 0)
    dW = value_and_grad(NETWORK, SOFTMAX, start, X, Y, ops=Ops(np))[1]
    (epoch,) = run(**options)
    np.testing.assert_allclose((start - to_host(epoch.params)) * 1e6 * 16 / 18, dW, atol=1e-5)
    (epoch,) = run(**options, short_batch="full")
    first, rest = (
        value_and_grad(NETWORK, SOFTMAX, start, X[part], Y[part], ops=Ops(np))[1]
        for part in (order_of(18, 0, 1)[:16], order_of(18, 0, 1)[16:])
    )
    np.testing.assert_allclose((start - to_host(epoch.params)) * 1e6, first + rest, atol=1e-5)


def test_what_a_short_batch_counts_for_is_one_of_two():
    with pytest.raises(ValueError, match="short_batch must be one of weighted, full, got 'half'"):
        run(short_batch="half")


def test_losses_and_metrics_of_an_epoch_are_means_over_examples():
    """With a rate of zero nothing changes, so they are those of all the data at once."""
    X, Y = blobs(34)
    weights = np.random.default_rng(0).uniform(0.2, 2.0, 34)
    metric = metrics.for_loss(SOFTMAX)
    (epoch,) = run(
        X=X, Y=Y, sample_weight=weights, epochs=1, optimizer=gradient_descent(0.0), metric=metric,
        validation_data=(X, Y, weights),
    )  # fmt: skip
    Z = forward(NETWORK, initialize(NETWORK), X, ops=Ops(np))
    expected = SOFTMAX.function(Z, Y, weights / weights.mean(), xp=np)[0]
    assert epoch.loss == pytest.approx(expected, rel=1e-13)
    assert epoch.validation_loss == pytest.approx(expected, rel=1e-13)
    right = np.average(Z.argmax(axis=1) == Y, weights=weights)
    assert epoch.metric == pytest.approx(right, rel=1e-13)
    assert epoch.validation_metric == pytest.approx(right, rel=1e-13)


def test_metrics_are_finished_after_they_are_averaged():
    """The root of the mean square over all examples, not the mean of the roots of batches."""
    X, _ = blobs()
    Y = X @ np.array([[1.0], [2.0], [0.0], [-1.0]])
    loss = losses.get("squared_error")
    network = mlp(D, [], 1, initializer="zeros")
    (epoch,) = run(
        network, X, Y, loss=loss, epochs=1, optimizer=gradient_descent(0.0),
        metric=metrics.for_loss(loss), validation_data=(X, Y),
    )  # fmt: skip
    assert epoch.metric == pytest.approx(np.sqrt(np.mean(Y**2)), rel=1e-13)
    assert epoch.validation_metric == pytest.approx(np.sqrt(np.mean(Y**2)), rel=1e-13)


def test_evaluation_goes_in_batches_that_bound_the_memory(monkeypatch):
    X, _ = blobs()
    whole = run(validation_data=blobs(23, seed=1), epochs=1)[0].validation_loss
    logits = predict(NETWORK, initialize(NETWORK), X)
    monkeypatch.setattr(streaming, "EVALUATION_ROWS", 4)
    parts = run(validation_data=blobs(23, seed=1), epochs=1)[0].validation_loss
    assert parts == pytest.approx(whole, rel=1e-13)
    np.testing.assert_allclose(predict(NETWORK, initialize(NETWORK), X), logits, rtol=1e-13)


def test_the_order_is_a_permutation_drawn_from_seed_and_epoch():
    orders = [order_of(100, seed, epoch) for seed, epoch in ((0, 1), (0, 2), (1, 1), (1, 2))]
    for i, order in enumerate(orders):
        assert sorted(order) == list(range(100))
        assert all((order != other).any() for other in orders[:i])
    np.testing.assert_array_equal(order_of(100, 1, 2), orders[3])
    np.testing.assert_array_equal(order_of(100, 1, 2, shuffle=False), np.arange(100))


def test_the_order_is_that_of_numpys_philox_for_ever():
    """A resumed run, on another machine or version, must visit the examples in the same order."""
    assert order_of(8, 0, 1).tolist() == [2, 0, 4, 1, 7, 5, 3, 6]


# Optimizers and ends of networks by name, to compare what is compiled with what is written.
RULES = {
    **{name: optimizer_of(name, 0.01, weight_decay=0.1) for name in OPTIMIZERS},
    "plain adam": adam(0.01, beta_1=0.8, beta_2=0.99, epsilon=1e-5),
    "clipped adam": clipped(adam(0.01), 0.5),
    "adam on a schedule": adam(schedules.get("one_cycle", 0.02, 12), weight_decay=0.2),
}


def follow_by_definitions(found, network, X, Y, *, loss, optimizer, sample_weight, seed, **options):
    """Check epochs of a run, step by step, against the functions of the mathematics floor."""
    dtype = X.dtype.name
    metric, tolerance = options["metric"], {"float32": 2e-5, "float64": 1e-11}[dtype]
    step = make_step(Run(network, loss, optimizer, 16, X.dtype, seed=seed, **options), Ops(np))
    params = initialize(network, seed).astype(dtype)
    state = optimizer.init(params, xp=np)
    data = Data(
        X,
        Y,
        None if sample_weight is None else (sample_weight / sample_weight.mean()).astype(dtype),
    )
    for epoch in found:
        order, sizes, records = order_of(N, seed, epoch.number), [], []
        for start, stop in bounds(N, 16):
            params, state, record = step(params, state, data, order[start:stop])
            sizes.append(stop - start)
            records.append(record)
        expected = np.average(records, axis=0, weights=sizes)
        assert epoch.loss == pytest.approx(expected[0], rel=tolerance)
        assert epoch.metric == pytest.approx(metric.finish(expected[1]), rel=tolerance)
        np.testing.assert_allclose(
            epoch.params, params.astype(dtype, copy=False), rtol=50 * tolerance, atol=tolerance
        )
        assert epoch.params.dtype == dtype
        assert int(epoch.state.step) == int(state.step)
        for mine, theirs in zip(epoch.state.slots, state.slots, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=50 * tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", RULES)
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy", "huber"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_is_its_steps_by_the_definitions(optimizer, loss, dtype, compiled):
    """However an epoch is made fast: every step, in order, of the mathematics floor."""
    X, Y = blobs(N, dtype)
    Y = Y if loss == "softmax_cross_entropy" else np.eye(K, dtype=dtype)[Y]
    network = mlp(D, [8, 7, 6, 5], K, activation=["relu", "tanh", "sigmoid", "identity"])
    loss = losses.get(loss)
    options = {
        "loss": loss,
        "optimizer": RULES[optimizer],
        "metric": metrics.for_loss(loss),
        "sample_weight": np.random.default_rng(0).uniform(0.5, 1.5, N),
        "l2": 0.01,
        "seed": 3,
    }
    follow_by_definitions(run(network, X, Y, **options), network, X, Y, **options)


NETWORKS = {
    "linear": mlp(D, [], K),
    "one hidden layer": mlp(D, [5], K, activation="tanh"),
    "dropout": mlp(D, [8], K, dropout=0.3),
    "a layer that has no kernel": Network(D, (Dense(5, activation("gelu")), LayerNorm(), Dense(K))),
    "an end that is not linear": Network(D, (Dense(5), Dense(K, activation("tanh")))),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("form", ["plain", "strided", "by columns", "integers", "read-only"])
def test_any_network_and_layout_is_its_steps_by_the_definitions(network, form, compiled):
    X, Y = blobs(N, "float32")
    given = {
        "strided": np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
        "by columns": np.asfortranarray(X),
        "integers": np.round(X).astype(np.int16),
    }.get(form, X.copy())
    given.flags.writeable = form != "read-only"
    options = {
        "loss": SOFTMAX,
        "optimizer": RULES["plain adam"],
        "metric": metrics.for_loss(SOFTMAX),
        "sample_weight": None,
        "seed": 3,
    }
    found = run(network, given, Y.astype(np.int32), **options)
    follow_by_definitions(found, network, given.astype("float32"), Y, **options)


@pytest.mark.parametrize("where", ["cpu", "torch"])
def test_rows_are_brought_together_once_and_not_at_every_step(where, monkeypatch):
    if where == "torch":
        pytest.importorskip("torch")
    seen = []

    def looking(*args):
        epoch = compile_epoch(*args)(0)

        def looks(params, state, data, order):
            seen.append(data)
            return epoch(params, state, data, order)

        return lambda seed: looks

    compile_epoch = Definition.compile_epoch
    monkeypatch.setattr(Definition, "compile_epoch", looking)
    X, Y = blobs()
    for given in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        run(X=given, Y=np.repeat(Y, 2)[::2], epochs=2, device=where)
    assert len(seen) == 4
    for array in (array for X, Y, _ in seen for array in (X, Y)):
        assert array.flags.c_contiguous if where == "cpu" else array.is_contiguous()


def test_an_epoch_visits_the_examples_in_its_order():
    X, Y = blobs()
    epochs = run(X=X, Y=Y, epochs=2, optimizer=momentum(0.1))
    first, second = order_of(N, 0, 1), order_of(N, 0, 2)
    one = run(X=X[first], Y=Y[first], epochs=1, optimizer=momentum(0.1), shuffle=False)
    two = run(
        X=X[second], Y=Y[second], optimizer=momentum(0.1), shuffle=False, after=one[0], epochs=2
    )
    assert [*curve(one), *curve(two)] == pytest.approx(curve(epochs), rel=1e-14)


# Data


def test_weights_count_relative_to_each_other():
    weights = np.random.default_rng(0).uniform(0.2, 2.0, N)
    once, tenfold = run(sample_weight=weights), run(sample_weight=10 * weights)
    np.testing.assert_allclose(curve(tenfold), curve(once), rtol=1e-12)
    np.testing.assert_allclose(curve(run(sample_weight=np.full(N, 7.0))), curve(run()), rtol=1e-12)


def test_weight_two_is_an_example_that_comes_twice():
    """In one batch of all examples exactly, for the weights are brought to mean one."""
    X, Y = blobs(20)
    weights, rows = np.ones(20), [*range(20), 3, 7]
    weights[[3, 7]] = 2.0
    options = {"batch_size": 100, "optimizer": gradient_descent(0.3), "epochs": 5}
    weighted = run(X=X, Y=Y, sample_weight=weights, **options)
    repeated = run(X=X[rows], Y=Y[rows], **options)
    np.testing.assert_allclose(curve(weighted), curve(repeated), rtol=1e-12)
    np.testing.assert_allclose(weighted[-1].params, repeated[-1].params, rtol=1e-10)


def test_integer_inputs_stay_integers_and_train_like_floating_ones():
    X = np.random.default_rng(0).integers(0, 255, (N, D)).astype(np.uint8)
    _, Y = blobs()
    data = put(NETWORK, SOFTMAX, select("cpu"), "float32", X, Y)
    assert data.X.dtype == np.uint8
    assert data.Y.dtype == np.int64
    small = mlp(D, [8], K, initializer="small_normal")
    as_integers = run(small, X, Y, epochs=2)
    as_numbers = run(small, X.astype("float32"), Y, epochs=2)
    # Equal to rounding: a compiled epoch, where there is one, takes floating rows alone.
    np.testing.assert_allclose(curve(as_integers), curve(as_numbers), rtol=1e-6)


def test_targets_become_columns_of_the_working_dtype():
    device = select("cpu")
    data = put(mlp(D, [], 1), losses.get("squared_error"), device, "float32", *blobs())
    assert data.Y.dtype == np.float32
    assert data.Y.shape == (N, 1)
    one_hot = np.eye(K, dtype=int)[blobs()[1]]
    assert put(NETWORK, SOFTMAX, device, "float32", blobs()[0], one_hot).Y.dtype == np.float32


def test_classes_and_their_probabilities_train_alike():
    X, Y = blobs()
    by_number, by_row = run(X=X, Y=Y), run(X=X, Y=np.eye(K)[Y])
    np.testing.assert_allclose(curve(by_number), curve(by_row), rtol=1e-12)


@pytest.mark.parametrize(
    ("X", "dtype", "expected"),
    [
        ("float32", None, "float32"),
        ("float64", None, "float64"),
        ("int64", None, "float32"),
        ("float64", "float32", "float32"),
        ("float32", "float64", "float64"),
    ],
)
def test_the_working_dtype_is_that_of_X_unless_it_is_named(X, dtype, expected, xp_device):
    there, Y = xp_device.asarray(blobs()[0].astype(X)), xp_device.asarray(blobs()[1])
    (epoch,) = train(NETWORK, there, Y, loss=SOFTMAX, dtype=dtype, epochs=1, batch_size=50)
    assert epoch.params.dtype == getattr(xp_device.xp, expected)


def test_lists_will_do():
    X, Y = blobs(10, dtype="float32")
    lists = run(X=X.tolist(), Y=Y.tolist(), epochs=1)
    np.testing.assert_array_equal(curve(lists), curve(run(X=X, Y=Y, epochs=1)))


def test_a_sparse_matrix_trains_and_predicts_like_the_dense_one(xp_device):
    sparse = pytest.importorskip("scipy.sparse", reason="sparse matrices are SciPy's")
    X, Y = blobs(34, "float32")
    X[X < 0.5] = 0.0
    there = xp_device.asarray(Y)
    options = {"validation_data": (X, Y), "device": xp_device.device, "epochs": 1}
    (dense,) = run(X=X, Y=there, **options)
    (found,) = run(X=sparse.csr_array(X), Y=there, **options)
    assert found.scores() == pytest.approx(dense.scores(), rel=1e-6)  # kernels differ in rounding
    for matrix in (sparse.csr_array(X), sparse.csr_array(X[:0])):
        np.testing.assert_array_equal(
            xp_device.to_numpy(predict(NETWORK, found.params, matrix)),
            xp_device.to_numpy(predict(NETWORK, found.params, matrix.toarray())),
        )


# Metrics


@pytest.mark.parametrize(
    ("loss", "Z", "Y", "expected"),
    [
        ("softmax_cross_entropy", [[2, 1], [0, 1], [3, 0]], [0, 0, 0], 2 / 3),
        ("softmax_cross_entropy", [[2, 1], [0, 1]], [[0.9, 0.1], [0.2, 0.8]], 1.0),
        ("binary_cross_entropy", [[-1, 1], [1, 1], [-1, -1]], [[0, 1], [0, 1], [0, 0]], 2 / 3),
        ("squared_error", [[1, 2], [3, 4]], [[1, 0], [3, 0]], math.sqrt((4 + 16) / 4)),
        ("huber", [[5], [0]], [[1], [0]], math.sqrt(8)),
        ("absolute_error", [[1, 2], [3, 4]], [[1, 0], [3, 0]], (2 + 4) / 4),
        ("pinball", [[5], [0]], [[1], [0]], 2.0),
        ("gaussian", [[5, 9], [0, 9]], [[1], [0]], math.sqrt(8)),
        ("poisson", [[0], [math.log(2)]], [[1], [5]], math.sqrt(9 / 2)),
    ],
)
def test_metrics_worked_by_hand(loss, Z, Y, expected, xp_device):
    metric = metrics.for_loss(losses.get(loss))
    Y = np.array(Y) if loss.startswith("softmax") else np.array(Y, dtype=float)
    Z, Y = xp_device.asarray(np.array(Z, dtype=float)), xp_device.asarray(Y)
    value = metric.function(Z, Y, None, xp=xp_device.xp)
    assert metric.finish(float(value)) == pytest.approx(expected, rel=1e-14)


def test_every_loss_has_a_metric():
    assert all(metrics.for_loss(name).name for name in losses.LOSSES)


# The same run everywhere


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-10)])
def test_the_same_run_on_every_device(dtype, tolerance, xp_device):
    """Initial weights, order and dropout are the same, so the loss curves agree to rounding."""
    network = mlp(D, [16, 8], K, activation=["relu", "gelu"], dropout=0.2)
    X, Y = blobs(200, dtype)
    validation = blobs(50, dtype, seed=1)
    weights = np.random.default_rng(0).uniform(0.5, 1.5, 200)
    options = {
        "optimizer": clipped(adam(0.01, weight_decay=0.1), 5.0),
        "metric": metrics.for_loss(SOFTMAX),
        "l2": 1e-3,
        "epochs": 1,
        "seed": 7,
    }
    (expected,) = run(network, X, Y, validation_data=validation, sample_weight=weights, **options)
    (found,) = run(
        network,
        xp_device.asarray(X),
        xp_device.asarray(Y),
        validation_data=tuple(xp_device.asarray(a) for a in validation),
        sample_weight=xp_device.asarray(weights),
        **options,
    )
    for name in ("loss", "validation_loss"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=tolerance)
    assert found.metric == pytest.approx(expected.metric, abs=0.011)
    np.testing.assert_allclose(
        xp_device.to_numpy(found.params), expected.params, rtol=tolerance, atol=10 * tolerance
    )


@pytest.mark.parametrize("device", ["torch", "jax"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-10)])
def test_arrays_of_numpy_train_on_the_device_that_is_named(device, dtype, tolerance):
    pytest.importorskip(device)
    expected, found = (run(dtype=dtype, device=where) for where in ("cpu", device))
    np.testing.assert_allclose(curve(found), curve(expected), rtol=tolerance)


def test_initial_weights_come_from_the_seed_on_the_host():
    params = initialize(NETWORK, 5)
    assert type(params) is np.ndarray
    assert params.dtype == np.float64
    np.testing.assert_array_equal(params, initialize(NETWORK, 5))
    assert (params != initialize(NETWORK, 6)).mean() > 0.8


@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_dropout_differs_by_step_and_seed_and_prediction_has_none(device):
    """One example, a rate of zero: only the mask changes the loss."""
    if device != "cpu":
        pytest.importorskip(device)
    network = mlp(D, [64], K, dropout=0.5)
    X, Y = blobs(1)
    options = {"optimizer": gradient_descent(0.0), "validation_data": (X, Y), "epochs": 6}
    options |= {"device": device}
    params = initialize(network, 0)
    epochs = run(network, X, Y, params=params, **options)
    assert len(set(curve(epochs))) == 6
    assert len(set(curve(epochs, "validation_loss"))) == 1
    np.testing.assert_array_equal(
        curve(run(network, X, Y, params=params, **options)), curve(epochs)
    )
    assert not set(curve(epochs)) & set(curve(run(network, X, Y, params=params, seed=1, **options)))


# Independent implementations


def test_torch_trains_to_the_same_weights():
    """A module, its own loss and optimizer, and the same minibatches."""
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    X, Y = blobs()
    (*_, last) = run(optimizer=adam(0.02), epochs=5, seed=2, short_batch="full")
    start = initialize(NETWORK, 2)
    module = torch.nn.Sequential(
        torch.nn.Linear(D, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6), torch.nn.ReLU(),
        torch.nn.Linear(6, K),
    ).double()  # fmt: skip
    linear = [module[0], module[2], module[4]]
    position = 0
    with torch.no_grad():
        for part, columns in [(m.weight, True) for m in linear] + [(m.bias, False) for m in linear]:
            values = torch.tensor(start[position : position + part.numel()])
            part.copy_(values.reshape(part.shape[::-1]).T if columns else values)
            position += part.numel()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for epoch in range(1, 6):
        order, total = order_of(N, 2, epoch), 0.0
        for begin in range(0, N, 16):
            rows = order[begin : begin + 16]
            value = torch.nn.functional.cross_entropy(
                module(torch.tensor(X[rows])), torch.tensor(Y[rows])
            )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.item() * len(rows) / N
    assert last.loss == pytest.approx(total, rel=1e-10)
    expected = [m.weight.detach().numpy().T for m in linear] + [
        m.bias.detach().numpy() for m in linear
    ]
    np.testing.assert_allclose(
        last.params, np.concatenate([a.ravel() for a in expected]), rtol=1e-7, atol=1e-10
    )


def test_scikit_learn_trains_with_the_same_loss_curve():
    """Its penalty is alpha/2 |W|^2 over the size of the batch, so batches are of one size here."""
    neural = pytest.importorskip("sklearn.neural_network", reason="an oracle where installed")
    X, Y = blobs(48)
    network = mlp(D, [8, 6], K, activation="tanh")
    start, places = initialize(network, 4), layout(network)

    class SameStart(neural.MLPClassifier):
        def _init_coef(self, fan_in, fan_out, dtype):
            W, b = next(layers)
            return (start[s.start : s.stop].reshape(s.param.shape).astype(dtype) for s in (W, b))

    class Flat(SameStart):
        def _init_coef(self, fan_in, fan_out, dtype):
            W, b = super()._init_coef(fan_in, fan_out, dtype)
            return W.copy(), b[0].copy()

    layers = iter(places.slots)
    theirs = Flat(
        activation="tanh", hidden_layer_sizes=(8, 6), alpha=0.02, batch_size=16, shuffle=False,
        learning_rate_init=0.01, max_iter=10, epsilon=1e-14, tol=0.0, n_iter_no_change=100,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs.fit(X, Y)
    ours = run(
        network, X, Y, params=start, l2=0.02 / 16, optimizer=adam(0.01, epsilon=1e-14),
        shuffle=False, epochs=10,
    )  # fmt: skip
    np.testing.assert_allclose(curve(ours), theirs.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(
        predict(network, ours[-1].params, X, loss=SOFTMAX), theirs.predict_proba(X), rtol=1e-6
    )


# Resuming


def test_a_resumed_run_continues_bit_for_bit(xp_device):
    network = mlp(D, [8], K, activation="tanh", dropout=0.3)
    X, Y = (xp_device.asarray(a) for a in blobs(dtype="float32"))
    options = {"optimizer": clipped(adam(0.02), 1.0), "seed": 3, "validation_data": (X, Y)}
    whole = run(network, X, Y, epochs=4, **options)
    first = run(network, X, Y, epochs=2, **options)
    rest = run(network, X, Y, epochs=4, after=first[-1], **options)
    assert [epoch.number for epoch in rest] == [3, 4]
    assert [e.scores() for e in (*first, *rest)] == [e.scores() for e in whole]
    np.testing.assert_array_equal(
        xp_device.to_numpy(rest[-1].params), xp_device.to_numpy(whole[-1].params)
    )


def test_a_run_can_be_left_and_resumed_from_the_living_epoch(compiled):
    X, Y = blobs(dtype="float32")
    whole = run(X=X, Y=Y, epochs=4)
    for epoch in train(NETWORK, X, Y, loss=SOFTMAX, batch_size=16, epochs=10):
        if epoch.number == 2:
            break
    (*_, last) = run(X=X, Y=Y, epochs=4, after=epoch)
    np.testing.assert_array_equal(last.params, whole[-1].params)


def test_resuming_changes_nothing_of_the_epoch_that_it_starts_from(compiled):
    X, Y = blobs(dtype="float32")
    (first,) = run(X=X, Y=Y, epochs=1)
    params, slots = first.params.copy(), [slot.copy() for slot in first.state.slots]
    run(X=X, Y=Y, epochs=3, after=first)
    np.testing.assert_array_equal(first.params, params)
    for slot, kept in zip(first.state.slots, slots, strict=True):
        np.testing.assert_array_equal(slot, kept)
    assert int(first.state.step) == 4


@pytest.mark.parametrize("lead", [None, 2], ids=["one", "members"])
def test_vectors_that_are_kept_in_pieces_look_as_if_they_were_whole(lead, monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setattr("nnaccel.kernels.jax.SMALL", 0)
    network = mlp(D, [9, 7], K)  # of which nothing is compiled yet
    X, Y = blobs(dtype="float32")
    options = {
        "validation_data": blobs(seed=1),
        "params": None if lead is None else initialize(network, members=lead),
    }
    expected = run(network, X, Y, **options)
    kept = []
    for epoch in train(
        network, X, Y, loss=SOFTMAX, batch_size=16, epochs=3, device="jax", **options
    ):
        assert isinstance(epoch._params, SplitParams)
        assert isinstance(epoch._state.slots[0], SplitParams)
        kept.append(epoch.copy())
    resumed = run(network, X, Y, after=kept[0], device="jax", **options)
    for found, reference in zip([*kept, *resumed], expected + expected[1:], strict=True):
        assert int(found.state.step) == int(reference.state.step)
        np.testing.assert_allclose(found.loss, reference.loss, rtol=1e-4)
        np.testing.assert_allclose(found.validation_loss, reference.validation_loss, rtol=1e-4)
        np.testing.assert_allclose(found.params, reference.params, rtol=1e-3, atol=1e-5)
        for slot, other in zip(found.state.slots, reference.state.slots, strict=True):
            np.testing.assert_allclose(slot, other, rtol=1e-3, atol=1e-5)
    with pytest.raises(FloatingPointError, match="a parameter is not finite at the end of epoch 1"):
        step.check_finite(np.zeros(2), SplitParams((kept[0].params, kept[0].params / 0)), 1, xp=np)


@pytest.mark.parametrize("small", [0, 2**16], ids=["in pieces", "in one"])
def test_an_epoch_says_when_the_next_one_has_taken_its_memory(small, monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setattr("nnaccel.kernels.jax.SMALL", small)
    network = mlp(D, [6 if small else 5, 7], K)  # of which nothing is compiled yet
    X, Y = blobs(dtype="float32")
    first, last = train(network, X, Y, loss=SOFTMAX, epochs=2, device="jax")
    for vectors in ("params", "state"):
        with pytest.raises(
            RuntimeError, match=r"of epoch 1 are gone.* keep epoch\.copy\(\) before"
        ):
            getattr(first, vectors)
    assert last.params.shape == (layout(network).size,)


def test_a_finished_run_has_nothing_to_resume():
    first = run(epochs=2)
    assert run(epochs=2, after=first[-1]) == []


# Early stopping


def epochs_with(values, name="validation_loss"):
    """Epochs whose parameters live in one array, which each of them overwrites."""
    params, state = np.zeros(1), optimizer_of("momentum", 0.1).init(np.zeros(1), xp=np)
    for number, value in enumerate(values, start=1):
        params[...] = number
        state.slots[0][...] = -number
        yield Epoch(number, params, state, **{"loss": 1.0, name: value})


def test_early_stopping_ends_after_so_many_epochs_without_a_better_one():
    stopping = EarlyStopping(patience=2)
    seen = [e.number for e in stopping(epochs_with([3.0, 2.0, 2.5, 1.0, 1.0, 1.5, 0.1]))]
    assert seen == [1, 2, 3, 4, 5, 6]
    assert stopping.best.number == 4
    assert stopping.best.params.tolist() == [4.0]
    assert stopping.best.state.slots[0].tolist() == [-4.0]


def test_early_stopping_wants_to_see_it_get_better_by_more_than_tol():
    stopping = EarlyStopping(patience=2, tol=0.5)
    assert len(list(stopping(epochs_with([3.0, 2.6, 2.4, 2.3, 2.2])))) == 5
    assert stopping.best.number == 3
    assert len(list(EarlyStopping(patience=2, tol=0.7)(epochs_with([3.0, 2.6, 2.4, 0.0])))) == 3


def test_without_patience_it_only_keeps_the_best():
    stopping = EarlyStopping(None, monitor="loss")
    assert len(list(stopping(epochs_with([2.0, 1.0, 5.0, 5.0, 5.0], "loss")))) == 5
    assert stopping.best.number == 2


def test_an_epoch_whose_validation_loss_is_not_a_number_is_never_the_best():
    stopping = EarlyStopping(patience=3)
    list(stopping(epochs_with([math.nan, 2.0, math.nan, 1.0, math.nan])))
    assert stopping.best.number == 4


def test_early_stopping_restores_the_best_of_a_real_run():
    """Few examples, many weights, labels at random: the validation loss soon rises."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((30, D)), rng.integers(0, K, 30)
    options = {
        "validation_data": (rng.standard_normal((30, D)), rng.integers(0, K, 30)),
        "optimizer": adam(0.02),
        "epochs": 100,
    }
    everything = run(X=X, Y=Y, **options)
    stopping = EarlyStopping(patience=5)
    seen = list(stopping(train(NETWORK, X, Y, loss=SOFTMAX, batch_size=16, **options)))
    best = min(everything[: len(seen)], key=lambda epoch: epoch.validation_loss)
    assert 5 < len(seen) == best.number + 5 < 100
    assert stopping.best.number == best.number
    np.testing.assert_array_equal(stopping.best.params, best.params)
    assert int(stopping.best.state.step) == int(best.state.step)


def test_a_resumed_run_may_start_from_the_best_epoch():
    stopping = EarlyStopping(patience=None)
    list(stopping(train(NETWORK, *blobs(), loss=SOFTMAX, epochs=3, validation_data=blobs(seed=1))))
    again = next(
        train(NETWORK, *blobs(), loss=SOFTMAX, epochs=stopping.best.number + 1, after=stopping.best)
    )
    assert again.number == stopping.best.number + 1


@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_each_of_several_networks_keeps_its_own_best_epoch(device):
    if device != "cpu":
        pytest.importorskip(device)
    X, Y = blobs()
    params = initialize(NETWORK, members=3)
    options = {"loss": SOFTMAX, "params": params, "epochs": 12, "device": device}
    rates = np.asarray([0.01, 3.0, 30.0])  # the last one cannot settle
    options["optimizer"] = gradient_descent(rates)
    validation = np.stack([X[:20]] * 3), np.stack([Y[:20]] * 3)
    kept = [e.copy() for e in train(NETWORK, X, Y, validation_data=validation, **options)]
    losses = np.stack([epoch.validation_loss for epoch in kept])
    stopping = EarlyStopping(None)
    list(stopping(train(NETWORK, X, Y, validation_data=validation, **options)))
    best = losses.argmin(axis=0)
    np.testing.assert_array_equal(stopping.numbers, best + 1)
    assert len({*best}) > 1
    np.testing.assert_array_equal(stopping.best.validation_loss, losses.min(axis=0))
    for k in range(3):
        expected = to_host(kept[best[k]].params)[k]
        np.testing.assert_array_equal(to_host(stopping.best.params)[k], expected)
    with pytest.raises(RuntimeError, match="networks of different epochs, the best of each"):
        train(NETWORK, X, Y, after=stopping.best, **options)


def test_several_networks_stop_when_none_gets_better():
    X, Y = blobs()
    params = initialize(NETWORK, members=2)
    held = np.stack([X] * 2), np.stack([Y] * 2)
    epochs = train(
        NETWORK, X, Y, loss=SOFTMAX, params=params, validation_data=held, epochs=50,
        optimizer=gradient_descent(np.asarray([0.0, 0.0])),
    )  # fmt: skip
    assert len(list(EarlyStopping(3)(epochs))) == 4


def test_a_validation_loss_that_is_not_finite_stops_the_run():
    X, Y = blobs()
    held_out = np.full((2, D), 1e300), np.array([0, 1])
    linear = mlp(D, [], K)
    epochs = train(
        linear, X, Y, loss=SOFTMAX, validation_data=held_out, params=initialize(linear) * 1e10
    )
    with pytest.raises(FloatingPointError, match="the validation loss is not finite in epoch 1"):
        list(epochs)


def test_early_stopping_without_validation_data_is_refused():
    with pytest.raises(ValueError, match="watches 'validation_loss', which this run does not"):
        list(EarlyStopping()(train(NETWORK, *blobs(), loss=SOFTMAX)))
    with pytest.raises(ValueError, match="monitor must be one of .*; did you mean 'validation_l"):
        EarlyStopping(monitor="validation_los")
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        EarlyStopping(0)


# Class weights


def test_balanced_weights_make_all_classes_count_alike():
    Y = np.array([0, 0, 0, 1, 2, 2])
    weights = class_weights(Y, "balanced")
    assert weights == pytest.approx([6 / 9, 6 / 9, 6 / 9, 2.0, 1.0, 1.0])
    assert np.bincount(Y, weights) == pytest.approx([2.0, 2.0, 2.0])


def test_scikit_learn_balances_alike():
    theirs = pytest.importorskip("sklearn.utils.class_weight", reason="an oracle where installed")
    Y = np.array([0, 0, 0, 3, 1, 1])  # class 2 is not there
    expected = theirs.compute_sample_weight("balanced", Y)
    np.testing.assert_allclose(class_weights(Y, "balanced"), expected)
    expected = theirs.compute_sample_weight({0: 1.0, 1: 5.0, 3: 0.5}, Y)
    np.testing.assert_allclose(class_weights(Y, {1: 5.0, 3: 0.5}), expected)


def test_class_weights_on_every_device(xp_device):
    Y = np.array([0, 0, 1])
    np.testing.assert_array_equal(
        class_weights(xp_device.asarray(Y), "balanced"), class_weights(Y, "balanced")
    )


def test_class_weights_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="classes that are not in Y: \\[2, 7\\]"):
        class_weights(np.array([0, 1, 3]), {1: 2.0, 2: 1.0, 7: 1.0})
    with pytest.raises(ValueError, match="must be 'balanced' or a mapping, got 'even'"):
        class_weights(np.array([0, 1]), "even")


# Divergence


def test_a_loss_that_is_not_finite_names_epoch_and_step(xp_device):
    X, Y = blobs()[0], np.zeros(N)
    Y[order_of(N, 0, 1)[35]] = 1e200  # in the third batch of 16, and its square is infinite
    X, Y = xp_device.asarray(X), xp_device.asarray(Y)
    epochs = train(mlp(D, [8], 1), X, Y, loss="squared_error", batch_size=16)
    with pytest.raises(FloatingPointError, match="loss is not finite in epoch 1, step 3") as raised:
        next(epochs)
    for remedy in ("learning rate", "clip the gradient", "standardise", "float64"):
        assert remedy in str(raised.value)


@pytest.mark.parametrize("position", [0, 16, 49])
def test_the_step_is_that_of_the_first_batch_that_shows_it(position, compiled):
    X, Y = blobs(dtype="float32")[0], np.zeros(N)
    Y[order_of(N, 0, 1)[position]] = 1e30
    epochs = train(mlp(D, [8], 1), X, Y, loss="squared_error", batch_size=16)
    with pytest.raises(FloatingPointError, match=f"in epoch 1, step {position // 16 + 1}:"):
        next(epochs)


def test_a_run_that_diverges_later_names_the_later_epoch():
    X = blobs()[0]
    Y = X @ np.ones((D, 1))
    epochs = train(
        mlp(D, [], 1), X, Y, loss="squared_error", optimizer=gradient_descent(1e20), epochs=50,
        batch_size=25, dtype="float64",
    )  # fmt: skip
    seen = []
    with pytest.raises(FloatingPointError, match="epoch ([2-9]|1[0-9]), step [12]"):
        seen.extend(epoch.number for epoch in epochs)
    assert seen[-1] >= 1


def test_parameters_that_overflow_in_the_last_step_are_found():
    """No loss has seen them yet."""
    X = 100 * blobs(dtype="float32")[0]
    epochs = train(
        mlp(D, [], 1), X, X[:, 0], loss="squared_error", optimizer=gradient_descent(3e38),
        batch_size=N,
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match="parameter is not finite at the end of epoch 1"):
        next(epochs)


# Networks by the stack


def stacked_run(params, asarray=np.asarray):
    """Of one length of batches, with everything that an epoch computes."""
    return run(
        NETWORK,
        *(asarray(a) for a in blobs(48)),
        params=params,
        optimizer=clipped(adam(0.02, weight_decay=0.1), 1.0),
        l2=1e-3,
        validation_data=tuple(asarray(a) for a in blobs(20, seed=1)),
        metric=metrics.for_loss(SOFTMAX),
    )


CURVES = ("loss", "metric", "validation_loss", "validation_metric")


def test_K_networks_train_at_once_like_each_alone():
    stack = initialize(NETWORK, 3, members=3)
    together = stacked_run(stack)
    for k in range(3):
        alone = stacked_run(stack[k])
        for name in CURVES:
            np.testing.assert_allclose(
                curve(together, name)[:, k], curve(alone, name), rtol=1e-10, err_msg=name
            )
        np.testing.assert_allclose(together[-1].params[k], alone[-1].params, rtol=1e-8, atol=1e-12)


def test_K_networks_train_on_every_device(xp_device):
    stack = initialize(NETWORK, 3, members=3)
    expected, found = stacked_run(stack), stacked_run(stack, xp_device.asarray)
    for name in CURVES:
        assert curve(found, name).shape == (3, 3)
        np.testing.assert_allclose(
            curve(found, name), curve(expected, name), rtol=1e-9, err_msg=name
        )


def test_K_networks_train_on_probabilities_with_a_metric():
    X, Y = blobs()
    stack, metric = initialize(NETWORK, 3, members=2), metrics.for_loss(SOFTMAX)
    by_number = run(X=X, Y=Y, params=stack, metric=metric)
    by_row = run(X=X, Y=np.eye(K)[Y], params=stack, metric=metric)
    np.testing.assert_allclose(curve(by_row, "metric"), curve(by_number, "metric"))


def test_each_of_K_networks_may_have_a_learning_rate_of_its_own():
    rates = [0.3, 0.03, 0.0]
    params = np.stack([initialize(NETWORK, 0)] * 3)
    together = run(params=params, optimizer=momentum(np.array(rates)[:, None]))
    for k, rate in enumerate(rates):
        np.testing.assert_allclose(
            curve(together)[:, k], curve(run(optimizer=momentum(rate))), rtol=1e-10
        )


def test_members_start_apart_and_the_first_is_the_single_one():
    stack = initialize(NETWORK, 5, members=3)
    np.testing.assert_array_equal(stack[0], initialize(NETWORK, 5))
    assert stack.shape == (3, layout(NETWORK).size)
    assert (stack[1] != stack[2]).mean() > 0.8
    assert initialize(NETWORK, 5, members=1).shape == (1, layout(NETWORK).size)


@pytest.mark.parametrize("kernels", [True, "numpy", False])
@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_networks_that_train_together_train_as_each_alone_with_its_weights(device, kernels):
    if device != "cpu":
        pytest.importorskip(device)
    network = mlp(D, [16], K, dropout=0.5)
    X, Y = blobs()
    params, fold = initialize(network, members=3), np.arange(len(X)) % 3
    weights = (fold != np.arange(3)[:, None]).astype(float)
    held = [np.flatnonzero(fold == k)[: len(X) // 3] for k in range(3)]
    options = {"epochs": 4, "dropout_until": 2, "device": device, "kernels": kernels}
    together = run(
        network, X, Y, params=params, sample_weight=weights,
        validation_data=(X[np.stack(held)], Y[np.stack(held)]), **options,
    )  # fmt: skip
    for k in range(3):
        alone = run(
            network, X, Y, params=params[k], sample_weight=weights[k],
            validation_data=(X[held[k]], Y[held[k]]), **options,
        )  # fmt: skip
        for both, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(both.loss[k], one.loss, rtol=1e-9)
            np.testing.assert_allclose(both.validation_loss[k], one.validation_loss, rtol=1e-9)


@pytest.mark.parametrize("kernels", [True, "numpy", False])
@pytest.mark.parametrize("until", [0, 2, 9])
def test_the_last_epochs_have_no_dropout(until, kernels):
    network, plain = mlp(D, [16], K, dropout=0.5), mlp(D, [16], K)
    X, Y = blobs()
    found = run(network, X, Y, epochs=4, dropout_until=until, kernels=kernels)
    for epoch in found:
        if epoch.number <= until:
            same = run(network, X, Y, epochs=epoch.number, kernels=kernels)[-1]
        else:
            before = None
            if epoch.number > 1:
                before = replace(found[epoch.number - 2], _origin=None)
            same = run(plain, X, Y, epochs=epoch.number, after=before, kernels=kernels)[-1]
        np.testing.assert_allclose(to_host(epoch.params), to_host(same.params), rtol=1e-12)


def test_weights_and_validation_examples_of_networks_must_be_of_as_many():
    X, Y = blobs()
    params = initialize(NETWORK, members=3)
    for options, message in (
        ({"sample_weight": np.ones((2, len(X)))}, r"params must be \(2, .* sample_weight is for 2"),
        (
            {"validation_data": (X[None], Y[None])},
            r"params must be \(1, .* validation_data is for 1 networks",
        ),
        (
            {"validation_data": (np.stack([X] * 3), Y)},
            r"validation_data: Y must begin with the axes \(3, 50\) of networks and examples",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train(NETWORK, X, Y, loss=SOFTMAX, params=params, **options)


# Prediction


def test_predictions_are_the_link_of_the_logits(xp_device):
    X, params = xp_device.asarray(blobs()[0]), xp_device.asarray(initialize(NETWORK))
    logits = xp_device.to_numpy(predict(NETWORK, params, X))
    np.testing.assert_allclose(
        logits, forward(NETWORK, initialize(NETWORK), blobs()[0], ops=Ops(np)), rtol=1e-12
    )
    found = xp_device.to_numpy(predict(NETWORK, params, X, loss="softmax_cross_entropy"))
    np.testing.assert_allclose(found, losses.softmax(logits, xp=np), rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_predictions_are_made_where_the_parameters_are(xp_device):
    params = xp_device.asarray(initialize(NETWORK).astype("float32"))
    for X in (blobs()[0], blobs()[0].tolist(), np.zeros((0, D))):
        found = predict(NETWORK, params, X, loss=SOFTMAX)
        assert found.dtype == params.dtype
        assert xp_device.to_numpy(found).shape == (len(X), K)


def test_members_predict_together():
    stack = initialize(NETWORK, 3, members=2)
    X, _ = blobs()
    found = predict(NETWORK, stack, X)
    assert found.shape == (2, N, K)
    np.testing.assert_allclose(found[1], predict(NETWORK, stack[1], X), rtol=1e-12)
    assert predict(NETWORK, stack, X[:0]).shape == (2, 0, K)


# What is refused, at once and with words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.ones(D)}, r"X must be \(n_samples, 4\) .* got shape \(4,\); .*X\[None, :\]"),
        ({"X": np.ones((N, 5))}, r"X must be \(n_samples, 4\) .*, got shape \(50, 5\)$"),
        ({"X": np.ones((2, N, D))}, r"X must be \(n_samples, 4\) .*, got shape \(2, 50, 4\)$"),
        ({"X": np.ones((0, D)), "Y": np.ones(0, int)}, "X has no rows; at least one"),
        ({"Y": np.zeros(49, int)}, "Y must have as many rows as X, got 49 for 50"),
        ({"Y": np.zeros(N)}, r"Y must hold integer classes or be .*\(50,\) of float64"),
        ({"Y": np.full(N, 3)}, "Y must hold classes from 0 to 2, .*, got 3 to 3"),
        ({"Y": np.full(N, -1)}, "Y must hold classes from 0 to 2, .*, got -1 to -1"),
        ({"Y": np.zeros((N, 2))}, r"Y must be \(n_samples, 3\), one column .* \(50, 2\)"),
        ({"Y": np.zeros((N, K, 1))}, r"Y must be \(n_samples, 3\), .* \(50, 3, 1\)"),
        ({"Y": np.zeros((49, K))}, "Y must have as many rows as X, got 49 for 50"),
        ({"loss": "squared_error"}, r"Y must be \(n_samples, 3\), .* shape \(50, 1\)"),
        (
            {"sample_weight": np.ones((N, 1))},
            r"sample_weight must be \(n_samples,\), or \(K, n_samples\) .* got shape \(50, 1\)",
        ),
        (
            {"sample_weight": np.ones(49)},
            "sample_weight must have as many rows as X, got 49 for 50",
        ),
        (
            {"sample_weight": -np.ones(N)},
            "sample_weight must be finite, not negative, and not all zero",
        ),
        ({"sample_weight": np.full(N, math.nan)}, "sample_weight must be finite"),
        ({"sample_weight": np.zeros(N)}, "sample_weight must be finite"),
        ({"params": np.zeros(7)}, r"params must be \(115,\) .* \(K, 115\) .* shape \(7,\)"),
        ({"params": np.zeros((1, 1, 115))}, r"params must be .* got shape \(1, 1, 115\)"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (
            {"loss": "softmax_crossentropy"},
            "loss must be one of .*did you mean 'softmax_cross_entropy'",
        ),
        ({"optimizer": "adm"}, "optimizer must be one of .*did you mean 'adam'"),
        ({"device": "cdua"}, "device must be one of .*did you mean 'cuda'"),
        ({"dtype": "float23"}, "dtype must be one of .*, got 'float23'"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
        ({"dtype": "int32"}, "dtype must be one of float32, float64, got 'int32'"),
        ({"l2": -1.0}, "l2 must be at least 0 and finite, got -1.0"),
        ({"l2": math.nan}, "l2 must be at least 0 and finite, got nan"),
        ({"validation_data": (np.ones((5, 2)), np.zeros(5, int))}, r"X must be .* shape \(5, 2\)"),
        ({"validation_data": (np.ones((5, D)), np.zeros(4, int))}, "Y must have as many rows"),
        ({"validation_data": (np.ones((5, D)), np.full(5, 9))}, "Y must hold classes from 0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(change, message):
    X, Y = blobs()
    options = {"X": X, "Y": Y, "loss": SOFTMAX, **change}
    with pytest.raises(ValueError, match=message):
        train(NETWORK, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 1.5}, "epochs must be a whole number of at least 0, got 1.5"),
        ({"epochs": "3"}, "epochs must be a whole number of at least 0, got '3'"),
        ({"batch_size": 32.0}, "batch_size must be a whole number of at least 1, got 32.0"),
        ({"seed": None}, "seed must be a whole number of at least 0, got None"),
        (
            {"validation_data": (np.ones((5, D)),)},
            r"validation_data must be \(X, Y\) or .*, got 1 of these",
        ),
        (
            {"validation_data": np.ones((5, D))},
            r"validation_data must be \(X, Y\) or .*, got ndarray",
        ),
        ({"validation_data": 0.1}, r"validation_data must be \(X, Y\) or .*, got float"),
        ({"metric": 3}, "metric must be a name or a Metric, such as .*, got 3"),
        ({"after": 3}, "after must be an Epoch that `train` has yielded, got 3"),
        ({"shuffle": "no"}, "shuffle must be True or False, got 'no'"),
        ({"shuffle": None}, "shuffle must be True or False, got None"),
    ],
)
def test_what_is_of_another_kind_is_refused_before_anything_runs(change, message):
    X, Y = blobs()
    with pytest.raises(TypeError, match=message):
        train(NETWORK, X, Y, loss=SOFTMAX, **change)


def test_two_devices_are_refused():
    strict = pytest.importorskip("array_api_strict")
    X = strict.ones((N, D), device=strict.Device("device1"))
    Y = strict.zeros(N, dtype=strict.int64)
    with pytest.raises(ValueError, match="the arrays are on .* and .*, expected one device"):
        train(NETWORK, X, Y, loss=SOFTMAX)


@pytest.mark.parametrize("X", [np.ones(D), np.ones((2, 5)), np.ones((1, 2, D))])
def test_prediction_from_another_number_of_columns_is_refused(X):
    with pytest.raises(ValueError, match=r"X must be \(n_samples, 4\) for this network, got shape"):
        predict(NETWORK, initialize(NETWORK), X)


@pytest.mark.parametrize("size", [7, 116])
def test_prediction_by_parameters_of_another_network_is_refused(size):
    with pytest.raises(ValueError, match=r"params must be \(115,\) for this network, .* got shape"):
        predict(NETWORK, np.zeros(size), np.ones((2, D)))


def test_initial_parameters_are_of_a_seed_and_of_one_network_or_more():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        initialize(NETWORK, -1)
    with pytest.raises(ValueError, match="members must be at least 1, got 0"):
        initialize(NETWORK, members=0)


def test_one_target_column_will_do_for_several_quantiles():
    X, _ = blobs()
    loss = losses.get("pinball", quantile=(0.1, 0.5, 0.9))
    epochs = run(mlp(D, [8], 3), X, X[:, 0], loss=loss, metric=metrics.for_loss(loss))
    assert epochs[-1].loss < epochs[0].loss


# The hot path: nothing waits for the device

EVERYTHING = Network(
    D,
    (
        Dense(6, activation("gelu")),
        LayerNorm(),
        Residual((Dense(5, activation("elu", alpha=0.5)), Dropout(0.2), Dense(6))),
        Dense(K),
    ),
)


@pytest.fixture
def synchronisations(monkeypatch):
    """A list that grows with every value that leaves an array of array-api-strict."""
    strict = pytest.importorskip("array_api_strict")
    seen = []

    def spy(name, original):
        def method(*args, **options):
            seen.append(name)
            return original(*args, **options)

        return method

    array = type(strict.empty(0))
    ways_out = ("float", "int", "bool", "complex", "index", "array", "dlpack", "buffer", "iter")
    for name in (f"__{way}__" for way in ways_out):
        if hasattr(array, name):
            monkeypatch.setattr(array, name, spy(name, getattr(array, name)))
    return seen


def test_the_spy_sees_synchronisations(synchronisations):
    strict = pytest.importorskip("array_api_strict")
    float(strict.ones(()))
    bool(strict.ones(()))
    np.from_dlpack(strict.ones(2))
    assert set(synchronisations) >= {"__float__", "__bool__", "__dlpack__"}


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_steps_of_an_epoch_never_wait_for_the_device(loss, optimizer, synchronisations):
    xp = pytest.importorskip("array_api_strict")
    X, Y = blobs()
    data = Data(xp.asarray(X), xp.asarray(np.eye(K)[Y]), xp.asarray(np.ones(N)))
    rule = clipped(optimizer_of(optimizer, 0.01, weight_decay=0.1), 1.0)
    loss = losses.get(loss)
    network = EVERYTHING._replace(layers=(*EVERYTHING.layers[:-1], Dense(K * loss.n_outputs)))
    params, order = xp.asarray(initialize(network)), xp.asarray(order_of(N, 0, 1))
    state = rule.init(params, xp=xp)
    run = Run(network, loss, rule, 8, params.dtype, l2=0.1, metric=metrics.for_loss(loss))
    step = make_step(run, backend_of(xp).operations())
    synchronisations.clear()
    for start, stop in bounds(N, 8):
        params, state, record = step(params, state, data, order[start:stop])
    assert synchronisations == []
    assert record.shape == (2,)


def test_an_epoch_waits_as_often_for_many_steps_as_for_one(synchronisations):
    xp = pytest.importorskip("array_api_strict")
    X, Y = (xp.asarray(a) for a in blobs())
    counts = []
    for batch_size in (N, 1):
        epochs = train(EVERYTHING, X, Y, loss=SOFTMAX, batch_size=batch_size, epochs=2)
        next(epochs)
        synchronisations.clear()
        next(epochs)
        counts.append(len(synchronisations))
    assert counts[0] == counts[1] <= 4


# The hot path: Python calls, which are the same every time, unlike seconds


def calls_of_a_step(network, optimizer, ops):
    """The number of functions, of Python and of C, that one step on NumPy calls once warm."""
    X, Y = blobs(dtype="float32")
    params = initialize(network).astype("float32")
    step = make_step(Run(network, SOFTMAX, optimizer, 16, params.dtype), ops)
    state, data, index = optimizer.init(params, xp=np), Data(X, Y), np.arange(16)
    for _ in range(2):
        params, state, _ = step(params, state, data, index)
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        step(params, state, data, index)
    finally:
        sys.setprofile(before)
    return count


# The set of kernels, and its calls without a hidden layer and for each of them.
BUDGETS = {"numpy": (116, 45)} | ({"numba": (85, 32)} if find_spec("numba") else {})


@pytest.mark.parametrize("kernels", BUDGETS)
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "adamw"])
def test_calls_of_a_step_are_within_budget(kernels, optimizer):
    base, per_layer = BUDGETS[kernels]
    for depth in range(5):
        ops = NumPyBackend(np, numba=kernels == "numba").operations()
        count = calls_of_a_step(mlp(D, [8] * depth, K), optimizer_of(optimizer, 0.01), ops)
        assert count <= base + per_layer * depth
