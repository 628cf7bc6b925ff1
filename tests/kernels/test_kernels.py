"""Kernels: each one is its function of the mathematics floor, only faster."""

import functools
import inspect
import math
import tracemalloc
import warnings
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest

from nnaccel.devices.device import to_host
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.definition import Run
from nnaccel.kernels.epoch import on_epoch_start
from nnaccel.kernels.numpy.backend import NumPyBackend
from nnaccel.maths import losses, optimizers
from nnaccel.maths.activations import ACTIVATIONS, get
from nnaccel.maths.layers import PiecewiseLinear
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.layers.dropout import dropout, dropout_vjp
from nnaccel.maths.layers.piecewise_linear import Bins, piecewise_linear
from nnaccel.maths.minibatch import minibatch
from nnaccel.maths.network import (
    Network,
    flatten,
    forward,
    l2_penalty,
    layout,
    mlp,
    value_and_grad,
    views,
)
from nnaccel.maths.optimizers import clipped
from nnaccel.maths.random import Key, bernoulli
from nnaccel.ops import Ops
from nnaccel.training.data import Data
from nnaccel.training.step import make_step
from tests.conftest import named
from tests.kernels.cuda import cuda_on_host

# Every set of kernels for NumPy's arrays; `bind` takes the fastest that is installed.
SETS = {
    "numpy": lambda: NumPyBackend(np, numba=False).operations(),
    "numba": lambda: NumPyBackend(np, numba=True).operations(),
    "cuda on the host": lambda: Ops(np, cuda_on_host.on_host().kernels(np)),
}
MARKS = {
    "numba": pytest.mark.skipif(not find_spec("numba"), reason="needs Numba"),
    "cuda on the host": pytest.mark.skipif(
        not cuda_on_host.COMPILER, reason=cuda_on_host.NO_COMPILER
    ),
    "cuda": pytest.mark.gpu,
}
SET = pytest.mark.parametrize(
    "make_ops",
    [pytest.param(make, id=name, marks=MARKS.get(name, ())) for name, make in SETS.items()],
)


class Moved(dict):
    """Operations of CuPy for NumPy's arrays, which travel to the device and back."""

    def __missing__(self, function):
        device = named("cuda")
        ops = self.setdefault("ops", backend_of(device.xp).operations())

        def move(x, of, to):
            if isinstance(x, tuple | list) and type(x) in (tuple, list):
                return tuple(move(part, of, to) for part in x)
            if isinstance(x, Key):
                return x._replace(step=to(x.step))
            return to(x) if isinstance(x, of) else x

        def moved(*args, **options):
            args = move(args, np.ndarray | np.generic, device.asarray)
            return move(ops[function](*args, **options), type(device.asarray(np.ones(1))), to_host)

        return functools.wraps(ops[function])(moved)


EVERY = pytest.mark.parametrize(
    ("make_ops", "function"),
    [
        pytest.param(make, function, id=f"{name}-{function.__name__}", marks=MARKS.get(name, ()))
        for name, make in SETS.items()
        for function in make()
    ]
    + [
        pytest.param(Moved, function, id=f"cuda-{function.__name__}", marks=MARKS["cuda"])
        for function in SETS["cuda on the host"]()
    ],
)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

# More elements than a block of any kernel, in rows and in vectors.
LONG, WIDE = 40_000, 300


class Draw:
    """Random arrays of one dtype, for the arguments of a case."""

    def __init__(self, dtype):
        self.rng, self.dtype = np.random.default_rng(0), dtype

    def __call__(self, *shape, low=None):
        x = self.rng.standard_normal(shape)
        return (x if low is None else low + np.abs(x)).astype(self.dtype)

    def rows(self, *shape):
        return losses.softmax(self.rng.standard_normal(shape), xp=np).astype(self.dtype)


# Cases: for each function, yields names and arguments.  X is (N, D), W (D, H).

SHAPES = {
    "plain": (7, 5, 3),
    "one row": (1, 5, 3),
    "no row": (0, 5, 3),
    "one column": (70, 1, 1),
    "a warp wide": (9, 40, 32),
    "wider than a warp": (65, 33, 33),
    "long": (200, 4, WIDE),
}


def activation_cases():
    yield from ((name, g) for name, g in ACTIVATIONS.items())
    yield "leaky_relu with a slope", get("leaky_relu", slope=0.3)
    yield "elu with an alpha", get("elu", alpha=0.5)


def dense_cases(draw):
    for label, g in activation_cases():
        for shape, (N, D, H) in SHAPES.items():
            yield f"{label}, {shape}", (draw(N, D), draw(D, H), draw(1, H), g), {}
    tanh = get("tanh")
    yield "stacked weights", (draw(7, 5), draw(2, 5, 3), draw(2, 1, 3), tanh), {}
    yield "stacked all", (draw(2, 7, 5), draw(2, 5, 3), draw(2, 1, 3), get("gelu")), {}
    yield "strided", (draw(5, 7).T, draw(10, 6)[::2, ::2], draw(1, 6)[:, ::2], tanh), {}


def dense_vjp_cases(draw):
    for label, X, W, b, g in ((label, *args) for label, args, _ in dense_cases(draw)):
        Z, A = dense(X, W, b, g, xp=np)
        for need_dX in (True, False):
            yield f"{label}, dX {need_dX}", (draw(*A.shape), X, W, Z, A, g), {"need_dX": need_dX}
        if not g.reads_Z:
            yield f"{label}, without Z", (draw(*A.shape), X, W, None, A, g), {}


def softmax_cases(draw):
    for label, (N, _, K) in SHAPES.items():
        Z, weights = draw(N, K), draw(N, low=0.1)
        classes = draw.rng.integers(0, K, N)
        for kind, Y in (("classes", classes), ("rows", draw.rows(N, K))):
            yield f"{kind}, {label}", (Z, Y), {}
            yield f"{kind}, {label}, weighted", (Z, Y, weights), {}
            yield f"{kind}, {label}, smoothed", (Z, Y, weights), {"label_smoothing": 0.2}
        yield f"int32, {label}", (Z, classes.astype(np.int32)), {}
        yield f"uint8, {label}", (Z, (classes % 200).astype(np.uint8)), {}
    Y = np.array([0, 2, 1, 1, 0, 2, 2])
    yield "stacked", (draw(2, 7, 3), Y), {}
    yield "stacked targets", (draw(2, 7, 3), np.stack([Y, Y[::-1]]), draw(2, 7, low=0.1)), {}
    # More than one block a multiprocessor, on a GPU.
    yield "many", (draw(2200, 40), draw.rng.integers(0, 40, 2200), draw(2200, low=0.1)), {}
    yield "large logits", (np.array([[1e4, 0.0], [-1e4, 0.0]], draw.dtype), Y[:2] // 2), {}
    yield "strided", (draw(3, 7).T, np.repeat(Y, 2)[::2], draw(14, low=0.1)[::2]), {}


def other_loss_cases(n_outputs):
    """Of a loss with so many outputs for each target."""

    def cases(draw):
        for label, (N, _, K) in SHAPES.items():
            Z, Y, weights = draw(N, K * n_outputs), draw.rows(N, K), draw(N, low=0.1)
            yield label, (Z, Y), {}
            yield f"{label}, weighted", (Z, Y, weights), {}
        yield "stacked", (draw(2, 7, 3 * n_outputs), draw.rows(7, 3), draw(7, low=0.1)), {}
        yield "strided", (draw(3 * n_outputs, 7).T, draw.rows(14, 3)[::2]), {}

    return cases


def minibatch_cases(draw):
    index, dtype = np.array([4, 0, 4, 2]), np.dtype(draw.dtype)
    for label, X in {
        "floating": draw(6, 3),
        "pixels": draw.rng.integers(0, 255, (6, 3)).astype(np.uint8),
        "booleans": draw(6, 3) > 0,
        "other floating": draw(6, 3).astype("float64"),
        "strided": draw(12, 6)[::2, ::2],
        "by columns": np.asfortranarray(draw(6, 3)),
    }.items():
        classes, targets, weights = np.arange(6), draw(6, 2), draw(6, low=0.1)
        yield f"{label}, classes", (X, classes, None, index, dtype), {}
        yield f"{label}, targets", (X, targets, None, index, dtype), {}
        yield f"{label}, weighted", (X, classes, weights, index, dtype), {}
        yield f"{label}, no row", (X, classes, weights, index[:0], dtype), {}
        yield f"{label}, one row", (X, targets, weights, index[:1], dtype), {}
    wide = draw.rng.integers(0, 255, (6, 1100)).astype(np.uint8)
    yield "wide", (wide, classes, weights, index, dtype), {}
    yield "small classes", (X, np.arange(6, dtype=np.int8), None, index, dtype), {}
    yield "strided targets", (X, draw(12, 2)[::2], draw(12, low=0.1)[::2], index, dtype), {}


def vector_cases(n_vectors, *rest, stacked=None):
    """Cases of an optimizer rule: so many vectors and then its numbers."""

    def cases(draw):
        column = np.array([[0.1], [0.2], [0.3]], draw.dtype)
        zero_d = tuple(
            np.asarray(r, draw.dtype) if i in (0, 3, 4) else r for i, r in enumerate(rest)
        )
        for label, shape in {"plain": (7,), "one": (1,), "none": (0,), "long": (LONG,)}.items():
            vectors = [draw(*shape) for _ in range(2)] + [
                draw(*shape, low=0.01) for _ in range(n_vectors - 2)
            ]
            yield label, (*vectors, *zero_d), {}
        vectors = [draw(3, 7) for _ in range(2)] + [
            draw(3, 7, low=0.01) for _ in range(n_vectors - 2)
        ]
        yield "stacked", (*vectors, *zero_d), {}
        yield "stacked with rates of their own", (*vectors, column, *zero_d[1:]), {}

    return cases


def shrink_cases(draw):
    amount = np.asarray(0.1, draw.dtype)
    for n in (0, 5, 7):
        yield f"{n} weights", (draw(7), amount, n), {}
        yield f"{n} weights, stacked", (draw(3, 7), amount, n), {}
    yield "amounts of their own", (draw(3, 7), np.array([[0.1], [0.2], [0.3]], draw.dtype), 5), {}
    yield "long", (draw(LONG), amount, LONG - 10), {}


def clip_cases(draw):
    for max_norm in (0.5, 1e6):
        for label, shape in {"plain": (7,), "stacked": (3, 7), "long": (LONG,)}.items():
            yield f"{label}, {max_norm}", (draw(*shape), max_norm), {}
    yield "zero", (np.zeros(7, draw.dtype), 1.0), {}
    yield "norms of their own", (draw(3, 7), np.array([[0.1], [10.0], [2.0]], draw.dtype)), {}


def l2_cases(draw):
    for label, shape in {"plain": (7,), "stacked": (3, 7), "long": (LONG,)}.items():
        for n in (0, 5, shape[-1]):
            value = draw(*shape[:-1])
            yield f"{label}, {n}", (value, draw(*shape), draw(*shape), 0.3, n), {}


def probability_cases(draw):
    shapes = {"plain": (7, 5), "one": (7, 1), "many": (30, 200), "none": (0, 5), "row": (1, 3)}
    for label, shape in (shapes | {"stacked": (2, 7, 5), "long": (LONG // 5, 5)}).items():
        yield label, (draw(*shape),), {}
    yield "certain", (1e3 * draw(7, 5),), {}
    yield "strided", (draw(5, 7).T,), {}


NETWORK = mlp(5, [4, 3], 2)


def views_cases(draw):
    yield "plain", (draw(layout(NETWORK).size), layout(NETWORK)), {}
    yield "stacked", (draw(3, layout(NETWORK).size), layout(NETWORK)), {}


def flatten_cases(draw):
    for label, args, _ in views_cases(draw):
        yield label, (views(*args, xp=np), layout(NETWORK)), {}


def key(step=3):
    return Key(5, np.asarray(step, dtype=np.int32), 2)


def dropout_cases(draw):
    for rate in (0.1, 0.5):
        for label, shape in {"plain": (7, 5), "none": (0, 5), "long": (200, WIDE)}.items():
            yield f"{label}, {rate}", (draw(*shape), key(), rate), {}
        yield f"stacked, {rate}", (draw(2, 7, 5), key(), rate), {}
    yield "strided", (draw(5, 7).T, key(), 0.3), {}


def dropout_vjp_cases(draw):
    for label, (X, k, rate), _ in dropout_cases(draw):
        yield label, (draw(*X.shape), dropout(X, k, rate, xp=np)[1]), {}


EDGES = ((-1.0, -0.25, 0.5, 1.5), (), tuple(np.linspace(-2.0, 2.0, 30)))


def encoding_cases(draw):
    for name, edges in {"bins": EDGES, "packs": ((0.0, 1.0, 2.0, 3.0),), "none": ((), ())}.items():
        bins = Bins.between(edges)
        for label, X in {
            "plain": draw(7, 5),
            "long": draw(200, 3),
            "no rows": draw(0, 5),
            "strided": draw(5, 7).T,
            "stacked": draw(2, 7, 5),
        }.items():
            yield f"{name}, {label}", (X, bins), {}
    X = draw(9, 4)
    X[:4, 0] = np.nan, np.inf, -np.inf, -1.0
    yield "what is not a number, and an edge", (X, Bins.between(EDGES)), {}


def bernoulli_cases(draw):
    for p in (0.0, 0.3, 1.0):
        for shape in ((7, 5), (0, 5), (200, WIDE), (2, 7, 5)):
            yield f"{shape}, {p}", (key(), p, shape), {}


def renew_cases(draw):
    yield "a vector", (draw(WIDE),), {}


CASES = {
    on_epoch_start: renew_cases,
    views: views_cases,
    flatten: flatten_cases,
    minibatch: minibatch_cases,
    dense: dense_cases,
    dense_vjp: dense_vjp_cases,
    dropout: dropout_cases,
    dropout_vjp: dropout_vjp_cases,
    piecewise_linear: encoding_cases,
    bernoulli: bernoulli_cases,
    losses.softmax: probability_cases,
    losses.softmax_cross_entropy: softmax_cases,
    **{
        loss.function: other_loss_cases(loss.n_outputs)
        for name, loss in losses.LOSSES.items()
        if name != "softmax_cross_entropy"
    },
    l2_penalty: l2_cases,
    optimizers.gradient_descent_update: vector_cases(2, 0.1),
    optimizers.momentum_update: vector_cases(3, 0.1, 0.9),
    optimizers.nesterov_update: vector_cases(3, 0.1, 0.9),
    optimizers.rmsprop_update: vector_cases(3, 0.1, 0.9, 1e-8),
    optimizers.adam_update: vector_cases(4, 0.1, 0.9, 0.999, 0.5, 0.01, 1e-8),
    optimizers.shrink_weights: shrink_cases,
    optimizers.clip_by_global_norm: clip_cases,
}


def copied(x):
    """Arguments in memory of their own, contiguous or not as they were."""
    if isinstance(x, np.ndarray):
        if x.flags.forc:
            return x.copy(order="K")
        roomy = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        roomy[..., ::2] = x
        return roomy[..., ::2]
    if type(x) is tuple:
        return tuple(copied(part) for part in x)
    return x


# Each kernel against its definition


@EVERY
def test_every_kernel_has_cases(make_ops, function):
    assert function in CASES, f"give {function.__name__} cases, so that its kernel is tested"
    assert any(True for _ in CASES[function](Draw("float32")))


@EVERY
def test_parameters_are_those_of_the_definition(make_ops, function):
    """Names in order, apart from what `bind` decides, and what may be left out."""

    def parameters(f):
        return [
            (p.name, p.default)
            for p in inspect.signature(f).parameters.values()
            if p.name not in ("xp", "precision")
        ]

    assert parameters(make_ops()[function]) == parameters(function)


@EVERY
@DTYPES
def test_kernel_is_its_definition(make_ops, function, dtype):
    for label, args, options in CASES[function](Draw(dtype)):
        ops = make_ops()
        with quiet():
            expected = function(*copied(args), **options, xp=np)
            if function is flatten:  # a step begins with the views that it fills again
                ops[views](flatten(*args, xp=np), args[1])
            found = ops[function](*copied(args), **options)
        if function is dense and not args[3].reads_Z:
            expected, found = expected[1:], found[1:]  # nothing reads Z, so it need not be kept
        expected, found = list(flat(expected)), list(flat(found))
        assert len(found) == len(expected), label
        for mine, theirs in zip(found, expected, strict=True):
            assert (mine is None) == (theirs is None), label
            if theirs is not None:
                assert_same(mine, theirs, label)


def assert_same(mine, theirs, label):
    """Equal to rounding, since sums may be taken in another order."""
    assert mine.dtype == theirs.dtype, label
    assert mine.shape == theirs.shape, label
    tolerance = {"float32": 2e-5, "float64": 1e-12}.get(mine.dtype.name, 0)
    size = np.abs(theirs[np.isfinite(theirs)]).max(initial=0) if tolerance else 0
    np.testing.assert_allclose(
        mine, theirs, rtol=tolerance, atol=tolerance * size, err_msg=label, strict=True
    )


@contextmanager
def quiet():
    """The mean of no example is not a number, and NumPy says so."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        yield


def flat(x):
    """The arrays in what an operation returns."""
    if isinstance(x, tuple | list):
        for part in x:
            yield from flat(part)
    else:
        yield x


@EVERY
def test_what_a_step_uses_again_is_left_alone(make_ops, function):
    """Data, weights and what the forward pass has kept; gradients and state may be destroyed."""
    kept = {
        *("X", "Y", "W", "b", "index", "weights", "gain"),
        *({"Z", "A"} if function is dense_vjp else ()),
        *({"M"} if function is dropout_vjp else ()),
    }
    names = list(inspect.signature(function).parameters)
    for label, args, options in CASES[function](Draw("float32")):
        before, ops = copied(args), make_ops()
        with quiet():
            if function is flatten:
                ops[views](flatten(*args, xp=np), args[1])
            ops[function](*args, **options)
        for name, mine, theirs in zip(names, args, before, strict=False):
            if name in kept and isinstance(theirs, np.ndarray):
                np.testing.assert_array_equal(mine, theirs, err_msg=f"{label}: {name}")


# Many of them in a step


def problem(dtype, *, N=40, D=6, K=3):
    rng = np.random.default_rng(0)
    return Data(
        rng.standard_normal((N, D)).astype(dtype),
        rng.integers(0, K, N),
        rng.uniform(0.5, 1.5, N).astype(dtype),
    )


def train(ops, network, optimizer, params, data, *, steps=25, batch=16, poison=False, **options):
    """The losses and the parameters of so many steps on batches of changing size."""
    loss = losses.get("softmax_cross_entropy")
    step = make_step(Run(network, loss, optimizer, batch, params.dtype, **options), ops)
    params, values = params.copy(), []
    state = optimizer.init(params, xp=np)
    for i in range(steps):
        index = np.arange(i, i + (batch if i % 4 else batch // 3)) % len(data.X)
        passed = params, *state.slots
        params, state, value = step(params, state, data, index)
        values.append(float(value))
        if poison:
            for array in passed:
                if not any(np.shares_memory(array, kept) for kept in (params, *state.slots)):
                    array[...] = math.nan
    return np.array(values), params


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
@pytest.mark.parametrize("lead", [(), (3,)], ids=["one", "stacked"])
@DTYPES
@SET
def test_a_run_with_kernels_is_the_run_without(make_ops, name, lead, dtype):
    network = mlp(6, [8, 7], 3, activation=["tanh", "gelu"], dropout=0.2)
    params = np.random.default_rng(1).normal(0, 0.5, (*lead, layout(network).size)).astype(dtype)
    optimizer = clipped(optimizers.get(name, 0.01, weight_decay=0.1), 1.0)
    data = problem(dtype)
    results = []
    for ops in (Ops(np), make_ops()):
        values = []
        loss = losses.get("softmax_cross_entropy")
        step = make_step(Run(network, loss, optimizer, 16, dtype, l2=0.01, seed=2), ops)
        own, state = params.copy(), optimizer.init(params, xp=np)
        for i in range(25):
            index = np.arange(i, i + (16 if i % 4 else 5)) % 40
            own, state, value = step(own, state, data, index)
            values.append(np.copy(value))
        assert own.dtype == values[0].dtype == dtype
        results.append((np.array(values), own.copy()))
    tolerance = {"float32": 2e-4, "float64": 1e-10}[dtype]
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
@SET
def test_a_run_does_not_look_at_what_it_has_given_away(make_ops, name):
    network = mlp(6, [8], 3, activation="tanh", dropout=0.2)
    params = np.random.default_rng(1).normal(0, 0.5, layout(network).size)
    optimizer = clipped(optimizers.get(name, 0.01, weight_decay=0.1), 1.0)
    runs = [
        train(make_ops(), network, optimizer, params, problem("float64"), poison=poison)
        for poison in (False, True)
    ]
    for mine, theirs in zip(*runs, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@SET
def test_two_runs_do_not_share_a_workspace(make_ops):
    network = mlp(6, [8], 3, activation="tanh")
    params = np.random.default_rng(1).normal(0, 0.5, layout(network).size)
    loss, data = losses.get("softmax_cross_entropy"), problem("float64")
    first, second = make_ops(), make_ops()
    _, grads, _ = value_and_grad(network, loss, params, data.X, data.Y, ops=first)
    kept = grads.copy()
    value_and_grad(network, loss, params + 1.0, data.X, data.Y, ops=second)
    np.testing.assert_array_equal(grads, kept)


@SET
def test_the_data_set_is_only_read(make_ops):
    network = mlp(6, [8], 3)
    data = problem("float32")
    for array in data:
        array.flags.writeable = False
    params = np.random.default_rng(1).normal(0, 0.5, layout(network).size).astype("float32")
    values, _ = train(make_ops(), network, optimizers.adam(0.01), params, data)
    assert np.isfinite(values).all()


@SET
def test_prediction_with_kernels_follows_new_parameters_in_the_same_memory(make_ops):
    """Donation: parameters change in place, and the next forward pass must see it."""
    network, ops = mlp(6, [8], 3, activation="tanh"), make_ops()
    params = np.random.default_rng(1).normal(0, 0.5, layout(network).size)
    X = problem("float64").X
    forward(network, params, X, ops=ops)
    params *= 0.5
    np.testing.assert_allclose(
        forward(network, params, X, ops=ops), forward(network, params, X, ops=Ops(np)), rtol=1e-12
    )


def test_libraries_without_kernels_run_the_definitions(xp_device):
    ops = backend_of(xp_device.xp).operations()
    if not ops:
        assert ops[dense].func is dense
        assert ops[dense].keywords == {"xp": xp_device.xp}
    assert (
        ops[losses.huber](xp_device.asarray(np.ones((2, 1))), xp_device.asarray(np.zeros((2, 1))))[
            0
        ].shape
        == ()
    )


@pytest.mark.parametrize(
    ("dropout", "loss", "n_steps", "worth"),
    [
        (0.0, "softmax_cross_entropy", 40_000, False),
        (0.0, "softmax_cross_entropy", 100_000, True),
        (0.0, "huber", 8000, False),
        (0.0, "huber", 40_000, True),
        (0.1, "softmax_cross_entropy", 40_000, True),
    ],
)
def test_numba_is_for_runs_that_save_more_than_it_takes_to_load(dropout, loss, n_steps, worth):
    network = mlp(2, [4], 2, dropout=dropout)
    run = Run(network, losses.get(loss), optimizers.adam(0.01), 400, np.dtype("float32"))
    assert backend_of(np).repays_loading(run, n_steps) == worth


@pytest.mark.parametrize(("n_steps", "worth"), [(300, False), (1200, True)])
def test_numba_repays_loading_earlier_where_it_spares_the_products_with_bins(n_steps, worth):
    edges = tuple(tuple(np.linspace(0, 1, 65).tolist()) for _ in range(5))
    dense_layers = mlp(5 * 65, [256, 128, 64], 1, activation="tanh").layers
    loss, rule = losses.get("binary_cross_entropy"), optimizers.adam(0.01)
    run = Run(Network(5, (PiecewiseLinear(edges), *dense_layers)), loss, rule, 128, np.float32)
    assert backend_of(np).repays_loading(run, n_steps) == worth
    alone = run._replace(network=Network(5 * 65, dense_layers))
    assert not backend_of(np).repays_loading(alone, n_steps)


# The hot path: allocations


@SET
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "nesterov", "rmsprop", "adam", "adamw"])
def test_a_step_allocates_nothing_large_once_it_is_warm(make_ops, optimizer):
    # Kernels of the processor have blocks of their own; those of CUDA take seconds on it.
    size = 128 if make_ops is SETS["cuda on the host"] else 512
    assert_allocates_nothing_large(make_ops(), optimizers.get(optimizer, 0.001), size)


def assert_allocates_nothing_large(ops, rule, size=512):
    """The peak of new memory in 5 steps is a few blocks: half of what one activation takes, which
    has so many rows and columns."""
    network = mlp(64, [size, size], 10)
    data = problem("float32", N=1024, D=64, K=10)
    params = np.random.default_rng(1).normal(0, 0.1, layout(network).size).astype("float32")
    step = make_step(Run(network, losses.get("softmax_cross_entropy"), rule, 16, params.dtype), ops)
    state, index = rule.init(params, xp=np), np.arange(size)
    for _ in range(2):
        params, state, _ = step(params, state, data, index)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            params, state, _ = step(params, state, data, index)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < size * size * 4 / 2


# Denormal numbers, over which many processors take a hundred times longer


def assert_dies_out(ops, asarray, dtype):
    """The moment of a gradient that has become zero reaches zero, or the smallest normal ones."""
    params, grads, nu = (asarray(np.full(50, x, dtype)) for x in (1.0, 0.0, 1.0))
    mu, after = asarray(np.linspace(-1, 1, 50, dtype=dtype)), []
    for _ in range(8000 if dtype == "float64" else 1200):
        grads[...] = 0.0
        params, mu, nu = ops[optimizers.adam_update](
            params, grads, mu, nu, asarray(np.asarray(1e-3, dtype)), 0.9, 0.999,
            *(asarray(np.asarray(1.0, dtype)) for _ in range(2)), 1e-8,
        )  # fmt: skip
        after.append(np.abs(np.asarray(mu)))
    after, tiny = np.array(after), np.finfo(dtype).tiny
    for values in (after, 0.9 * after[-1]):  # what is left, and what the next step makes of it
        assert not ((values > 0) & (values < tiny)).any()
    assert after[-1].max() < 1000 * tiny


@MARKS["numba"]
@DTYPES
def test_compiled_exp_and_log_are_those_of_the_c_library(dtype):

    from nnaccel.kernels.numba import exp_log, jit

    @jit.compiled
    def both(x, e, y):
        for i in range(x.shape[0]):
            e[i], y[i] = exp_log.exp(-x[i]), exp_log.log(x[i] + x.dtype.type(1))

    number, rounding = np.dtype(dtype).type, np.finfo(dtype).eps
    least = 708 if dtype == "float64" else 87  # where exp(-x) is still normal
    x = np.concatenate([np.geomspace(1e-9, 1.2 * least, 100_001), np.linspace(0, 20, 100_001)])
    x = np.append(x, [0, np.inf, np.nan]).astype(dtype)
    e, y = np.full_like(x, 7), np.full_like(x, 7)
    both(x, e, y)
    normal = x < least
    exact = x[normal].astype("longdouble")
    np.testing.assert_allclose(e[normal], np.exp(-exact), rtol=2 * rounding)
    assert not e[x > least].any()
    larger = np.maximum(1, np.log(number(1) + x[normal]))
    exact = np.log((number(1) + x[normal]).astype("longdouble"))
    np.testing.assert_allclose(y[normal] / larger, exact / larger, atol=2 * rounding, rtol=0)
    assert np.isnan([e[-1], y[-1]]).all()


@DTYPES
@pytest.mark.parametrize("name", ["numpy", pytest.param("numba", marks=MARKS["numba"])])
def test_moments_are_never_denormal(name, dtype):
    """On processors; a GPU takes no longer over them."""
    assert_dies_out(SETS[name](), np.copy, dtype)


@DTYPES
@pytest.mark.parametrize("name", ["numpy", pytest.param("numba", marks=MARKS["numba"])])
@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "rmsprop", "adam"])
def test_no_moment_of_any_update_stays_denormal(optimizer, name, dtype):
    """All of them, in several blocks, from just above the smallest normal number."""
    rule, tiny = optimizers.get(optimizer, 1e-3), np.finfo(dtype).tiny
    params = np.ones(100_000, dtype)
    state = rule.init(params, xp=np)
    for slot in state.slots:
        slot[...] = np.linspace(tiny, 100 * tiny, slot.size)
    ops = SETS[name]()
    for _ in range(5000 if optimizer == "adam" and name == "numba" else 200):
        params, state = rule.update(np.zeros_like(params), state, params, ops=ops, n_weights=0)
    assert (params == 1).all()
    for slot in state.slots:
        assert not slot.any()


@pytest.mark.parametrize("large", [False, True], ids=["by operations", "fused"])
@DTYPES
def test_moments_on_torch_are_never_denormal(monkeypatch, dtype, large):
    torch = pytest.importorskip("torch")
    from array_api_compat import torch as xp

    from nnaccel.kernels import torch as kernels_of_torch

    monkeypatch.setattr(kernels_of_torch, "LARGE", 0 if large else math.inf)
    assert_dies_out(backend_of(xp).operations(), torch.asarray, dtype)


def assert_nothing_faint(values):
    values = np.abs(np.asarray(values))
    least = np.sqrt(np.finfo(values.dtype).tiny) * np.finfo(values.dtype).eps / 1e4
    assert not ((values > 0) & (values < least)).any()


def softmax_of_small_networks(Z, Y):
    """The loss and dZ as `call_list` computes them."""
    from nnaccel.kernels.numpy.losses import CrossEntropy

    N, K = Z.shape
    loss = CrossEntropy((1, K, N), Z.dtype)
    loss.read(Y[None])
    dZ = np.empty((K, N), Z.dtype)
    for function, args in loss.calls(0, Z.T.copy(), dZ):
        function(*args)
    return loss.values(1).sum() / N, dZ.T / N


def softmax_of(name):
    if name == "small":
        return softmax_of_small_networks
    return SETS[name]()[losses.softmax_cross_entropy]


OF_SOFTMAX = pytest.mark.parametrize(
    "name", ["numpy", "small", pytest.param("numba", marks=MARKS["numba"])]
)


@DTYPES
@pytest.mark.parametrize("K", [2, 30], ids=["few classes", "many"])
@OF_SOFTMAX
def test_gradients_of_examples_that_are_certain_are_never_denormal(name, K, dtype):
    """Nor are their products with weights and inputs; the loss and the rest stay what they are."""
    kernel = softmax_of(name)
    Z = np.zeros((4000, K), dtype)
    Z[:, 0] = np.linspace(0, -1.2 * np.log(np.finfo(dtype).tiny), len(Z))
    for y in (0, 1):  # right and wrong
        Y = np.full(len(Z), y)
        expected, exact = losses.softmax_cross_entropy(Z, Y, xp=np)
        denormal = (exact != 0) & (np.abs(exact) < np.finfo(dtype).tiny)
        assert denormal.any() == (y == 0 or K > 2)
        loss, dZ = kernel(Z.copy(), Y)
        assert_nothing_faint(dZ)
        np.testing.assert_allclose(dZ, exact, rtol=1e-5, atol=np.finfo(dtype).eps)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


@OF_SOFTMAX
def test_a_softmax_does_not_hide_nan(name):
    kernel = softmax_of(name)
    for K in (2, 30):
        Z = np.zeros((5, K), np.float32)
        Z[1] = np.nan
        loss, dZ = kernel(Z, np.zeros(5, np.int64))
        assert np.isnan(loss)
        assert np.isnan(dZ[1]).all()
        assert np.isfinite(dZ[[0, 2, 3, 4]]).all()
