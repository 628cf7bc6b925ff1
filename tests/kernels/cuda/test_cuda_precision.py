"""CuPy's kernels with products in TF32 and bfloat16, on the host: passes and whole epochs.

The definition is that of float32 but for the products of dense layers, whose factors are rounded
here by arithmetic, without the kernels' tricks with bits.
"""

import sys
from dataclasses import dataclass
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from array_api_compat import numpy as compat

from nnaccel.devices.device import to_host
from nnaccel.kernels import epoch
from nnaccel.kernels.definition import Run
from nnaccel.kernels.epoch import on_epoch_start
from nnaccel.maths import layers, losses, optimizers
from nnaccel.maths.activations import ACTIVATIONS, Activation, get
from nnaccel.maths.layers.dense import Dense, dense, dense_vjp
from nnaccel.maths.network import Network, forward, layout, mlp, value_and_grad, views
from nnaccel.ops import Ops
from nnaccel.training import benchmark
from nnaccel.training.data import Data
from nnaccel.training.step import initialize
from tests.conftest import named
from tests.kernels.cuda import cuda_on_host
from tests.kernels.cuda.test_cublaslt import BITS, rounded, stored
from tests.kernels.test_epoch import NETWORKS, OPTIMIZERS, OTHER_OPTIMIZERS, simple, trained

PRECISION = pytest.mark.parametrize("precision", ["tf32", "bf16"])
LOSS = losses.get("softmax_cross_entropy")


@pytest.fixture(autouse=True)
def compiler(request):
    """What runs on the host needs one."""
    if not cuda_on_host.COMPILER and "gpu" not in request.keywords:
        pytest.skip(cuda_on_host.NO_COMPILER)


def shortened(x, bits):
    return rounded(x.astype(np.float64), bits).astype(x.dtype)


def definitions(precision):
    """The operations of the mathematics, with the products of dense layers rounded."""
    short = partial(shortened, bits=BITS[precision])

    def dense_rounded(X, W, b, activation):
        Z = short(X) @ short(W) + b
        return Z, activation.forward(Z, xp=np)

    def dense_vjp_rounded(dA, X, W, Z, A, activation, need_dX=True):
        dZ = activation.vjp(dA, Z, A, xp=np)
        dW = np.matrix_transpose(short(X)) @ short(dZ)
        dX = short(dZ) @ np.matrix_transpose(short(W)) if need_dX else None
        return dX, dW, np.sum(dZ, axis=-2, keepdims=True)

    return Ops(np, {dense: dense_rounded, dense_vjp: dense_vjp_rounded})


def space(precision):
    return cuda_on_host.on_host().Workspace(np, precision)


def kernels(precision):
    return Ops(np, space(precision).kernels())


def examples(N=70, D=12, K=3):
    rng = np.random.default_rng(0)
    return Data(rng.standard_normal((N, D)).astype(np.float32), rng.integers(0, K, N), None)


def epoch_of(network, optimizer, precision, batch, *, ops=None, l2=0.0):
    """The epoch of kernels launched one after the other."""
    ops = kernels(precision) if ops is None else ops
    run = Run(network, LOSS, optimizer, batch, np.dtype("float32"), l2, precision=precision)
    return epoch.traced_epoch(run, ops, np.stack).run


def distance(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def assert_rounds(network, precision, data=None):
    """A pass through the network is that of rounded factors, and of nothing else.

    A sum in another order may round to the other neighbour once in a while: so distances are those
    of whole gradients, and far below that to the gradient of float32.
    """
    data = examples() if data is None else data
    params = initialize(network).astype(np.float32)
    run = partial(value_and_grad, network, LOSS, params, data.X, data.Y)
    found = [x.copy() for x in run(ops=kernels(precision))]
    expected, exact = run(ops=definitions(precision)), run(ops=Ops(np))
    for mine, theirs, plain in zip(found, expected, exact, strict=True):
        assert mine.dtype == np.float32
        gap = distance(theirs, plain)
        if np.ndim(theirs):
            assert gap > 2.0 ** -(BITS[precision] + 4)
        assert distance(mine, theirs) < max(gap / 8, 1e-6)


@dataclass(frozen=True)
class Doubled(Dense):
    """A layer of another kind with the parameters of a dense one, which reads X itself."""

    def forward(self, params, X, *, ops, key, training=False):
        A, saved = Dense.forward(self, params, X + X, ops=ops, key=key)
        return A, (saved, X)

    def backward(self, params, saved, dA, *, ops, need_dX):
        dX, grads = Dense.backward(self, params, saved[0], dA, ops=ops, need_dX=need_dX)
        return (None if dX is None else dX + dX), grads


def cube(Z, *, xp):
    return Z * Z * Z


def cube_vjp(dA, Z, A, *, xp):
    return dA * (3.0 * Z * Z)


CUBE = Activation("cube", cube, cube_vjp)
TANH, RELU = get("tanh"), get("relu")
PASSES = {
    "wide": mlp(12, [40, 48], 3),
    "odd": mlp(12, [37, 41, 35], 5, activation=["tanh", "relu", "gelu"]),
    "narrow": mlp(12, [20, 8], 3),
    "one layer": mlp(12, [], 3),
    "many classes": mlp(12, [40], 50),
    "dropout": mlp(12, [40, 40], 3, dropout=0.2),
    "layer norm": Network(12, (Dense(40, RELU), layers.LayerNorm(), Dense(40, RELU), Dense(3))),
    "residual": Network(
        12, (layers.Residual((Dense(40, TANH), Dense(12))), Dense(33, RELU), Dense(3))
    ),
    "chain": Network(12, (layers.Chain((Dense(40, TANH), Dense(36, RELU))), Dense(3))),
    "no activation": Network(12, (Dense(40), Dense(36), Dense(3))),
    "another activation": mlp(12, [40, 36], 3, activation=[CUBE, "relu"]),
    "another layer": Network(12, (Dense(40, RELU), Doubled(36, RELU), Dense(3))),
}


@PRECISION
@pytest.mark.parametrize("network", PASSES.values(), ids=PASSES)
def test_a_pass_is_that_of_rounded_factors(network, precision):
    assert_rounds(network, precision)


@PRECISION
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("small", [0, 2**20])
def test_every_activation_between_dense_layers(name, precision, small, monkeypatch):
    """Small layers in one kernel, and as a product and a kernel."""
    monkeypatch.setattr(cuda_on_host.modules_on_host().dense, "SMALL", small)
    assert_rounds(mlp(12, [24, 40, 30], 3, activation=name), precision)


@PRECISION
def test_other_losses(precision):
    network, rng = mlp(12, [40], 4), np.random.default_rng(0)
    params, X = initialize(network).astype(np.float32), examples().X
    Y = rng.standard_normal((70, 4)).astype(np.float32)
    run = partial(value_and_grad, network, losses.get("squared_error"), params, X, Y)
    _, found, _ = run(ops=kernels(precision))
    expected, exact = run(ops=definitions(precision))[1], run(ops=Ops(np))[1]
    assert distance(found, expected) < distance(exact, expected) / 8


@PRECISION
def test_several_networks_are_rounded_too(precision):
    network, data = mlp(12, [40, 36], 3), examples()
    params = initialize(network, members=3).astype(np.float32)
    run = partial(value_and_grad, network, LOSS, params, data.X, data.Y)
    _, found, _ = run(ops=kernels(precision))
    expected, exact = run(ops=definitions(precision))[1], run(ops=Ops(np))[1]
    assert found.shape == params.shape
    assert distance(found, expected) < distance(exact, expected) / 8


@PRECISION
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_float64_is_never_rounded(network, precision):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((50, 3)), rng.integers(0, 3, 50)
    params = initialize(network)
    run = partial(value_and_grad, network, LOSS, params, X, Y)
    expected = run(ops=Ops(np))
    for mine, theirs in zip(run(ops=kernels(precision)), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_integers_of_sixteen_bits_are_what_they_are():
    """Though bfloat16 is kept in such arrays."""
    rng, ops = np.random.default_rng(0), kernels("float32")
    X, W, b = rng.integers(0, 9, (5, 6)), rng.standard_normal((6, 40)), np.zeros((1, 40), "f4")
    W = W.astype(np.float32)
    found = ops[dense](X.astype(np.uint16), W, b, RELU)[1]
    np.testing.assert_allclose(found, dense(X.astype(np.float32), W, b, RELU, xp=np)[1], rtol=1e-5)
    copies = space("bf16").copies
    assert not copies.are_factors(X.astype(np.uint16), W)
    assert copies.are_factors(X.astype(np.float32), W)


def test_parameters_need_not_be_contiguous():
    network, data = mlp(12, [40], 3), examples()
    params = initialize(network, members=2).astype(np.float32)
    strided = np.concatenate([params, params], axis=1)[:, : params.shape[1]]
    runs = [forward(network, p, data.X, ops=kernels("bf16")).copy() for p in (params, strided)]
    np.testing.assert_array_equal(*runs)


def test_bfloat16_has_the_bits_of_rounding_by_arithmetic():
    """Ties, carries into the exponent, overflow, what is below the normal range, and no numbers."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 10_000, dtype=np.uint64).astype(np.uint32)
    bits[:2000] = (bits[:2000] & 0xFFFF0000) | 0x8000
    bits[2000:3000] |= 0x7FFF
    bits[3000:3100] = 0x7F800001  # not a number, of which the upper half would be infinite
    x = bits.view(np.float32)
    x = np.concatenate([x, np.array([0.0, -0.0, 1.0, 2.0**-133, 3.4e38, -3.4e38], np.float32)])
    found = np.empty(x.shape, np.uint16)
    space("bf16").copies.round(x, found)
    finite = np.isfinite(x) & (np.abs(x) >= 2.0**-126)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(found[finite], stored(x[finite], "bf16"))
    back = cuda_on_host.modules_on_host().bfloat16.widened(found)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(x))
    tiny = np.isfinite(x) & (np.abs(x) < 2.0**-126)
    assert (np.abs(back[tiny].astype(float) - x[tiny]) <= 2.0**-134).all()
    infinite = np.isinf(x)
    np.testing.assert_array_equal(back[infinite], x[infinite])
    odd = np.empty(101, np.float32)[1:]
    odd[:] = x[:100]
    again = np.empty(100, np.uint16)
    space("bf16").copies.round(odd, again)
    np.testing.assert_array_equal(again, found[:100])


@PRECISION
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_what_is_not_a_number_shows_in_the_loss(precision, place):
    network, data = mlp(12, [40, 36], 3), examples()
    params = initialize(network).astype(np.float32)
    ops = kernels(precision)
    W = ops[views](params, layout(network))[("first", "middle", "last").index(place)][0]
    W[0, 0] = np.nan
    value, grads, _ = value_and_grad(network, LOSS, params, data.X, data.Y, ops=ops)
    assert np.isnan(value)
    assert np.isnan(grads).any()


@pytest.mark.parametrize("H", [5, 40])
def test_in_bfloat16_nothing_is_written_over_dA(H):
    """Which saves as much as a pass through memory."""
    rng = np.random.default_rng(0)
    X, W, b, dA = (rng.standard_normal(s).astype("f4") for s in ((9, 6), (6, H), (1, H), (9, H)))
    before, ops = dA.copy(), kernels("bf16")
    Z, A = ops[dense](X, W, b, RELU)
    ops[dense_vjp](dA, X, W, Z, A, RELU)
    np.testing.assert_array_equal(dA, before)


# The copy of the parameters


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), *OTHER_OPTIMIZERS.values()])
def test_the_update_writes_the_copy_too(optimizer, monkeypatch):
    """Rounded once at the start and never again in an epoch; nor is anything else by itself."""
    network, data = mlp(12, [40, 7], 3, dropout=0.2), examples()
    work = space("bf16")
    ops, made = Ops(np, work.kernels()), []
    rounded = work.copies.round
    monkeypatch.setattr(work.copies, "round", lambda X, to: made.append(X.shape) or rounded(X, to))
    params = initialize(network).astype(np.float32)
    state = optimizer.init(params, xp=np)
    epoch = epoch_of(network, optimizer, "bf16", 32, ops=ops)
    for n in (1, 2):
        params, state, _ = epoch(params, state, data, np.arange(70))
        np.testing.assert_array_equal(work.copies._params, stored(params, "bf16"))
        assert made == n * [params.shape]


def test_changes_between_epochs_count():
    """What happens between two epochs is the caller's, also in place."""
    problem = simple(mlp(3, [40, 36], 3))
    runs = []
    for fresh in (False, True):
        epoch = epoch_of(problem.network, problem.optimizer, "bf16", 16)
        params, state = problem.start
        params, state, _ = epoch(params, state, problem.data, problem.order)
        if fresh:
            params = params / 2
        else:
            params /= 2
        runs.append(epoch(params, state, problem.data, problem.order))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][2], runs[1][2])


def test_another_workspace_sees_what_an_update_has_changed_in_place():
    network, data = mlp(12, [40], 3), examples()
    params, other, ops = (initialize(network).astype(np.float32), *map(kernels, ["bf16"] * 2))
    for _ in range(2):
        Z = forward(network, params, data.X, ops=other).copy()
        np.testing.assert_array_equal(Z, forward(network, params, data.X, ops=kernels("bf16")))
        ops[views](params, layout(network))
        ops[optimizers.gradient_descent_update](params, np.ones_like(params), 0.1)


def test_a_change_after_the_update_counts_too():
    network, data, ops = mlp(12, [40], 3), examples(), kernels("bf16")
    params = initialize(network).astype(np.float32)
    forward(network, params, data.X, ops=ops)
    ops[optimizers.gradient_descent_update](params, np.ones_like(params), 0.1)
    ops[optimizers.shrink_weights](params, 0.5, layout(network).n_weights)
    Z = forward(network, params, data.X, ops=ops).copy()
    np.testing.assert_array_equal(Z, forward(network, params, data.X, ops=kernels("bf16")))
    params += (
        1  # within an epoch nobody says so but the pass that has not been followed by an update
    )
    Z = forward(network, params, data.X, ops=ops).copy()
    np.testing.assert_array_equal(Z, forward(network, params, data.X, ops=kernels("bf16")))
    assert ops[on_epoch_start](params) is None


# Epochs


@PRECISION
def test_a_training_step_is_fourteen_launches(precision):
    """As many as in float32: what is stored in bfloat16 is written by the kernels that make it. The
    copy of the parameters is made anew once an epoch."""
    network, rng = mlp(784, [512, 512], 10), np.random.default_rng(0)
    X = rng.integers(0, 255, (250, 784)).astype(np.uint8)
    data, cupy = Data(X, rng.integers(0, 10, 250), None), cuda_on_host.cupy_on_host()
    params, optimizer = initialize(network).astype(np.float32), optimizers.adam(0.001)
    state, epoch = optimizer.init(params, xp=np), epoch_of(network, optimizer, precision, 125)
    order = rng.permutation(250)
    params, state, _ = epoch(params, state, data, order)
    before = cupy.launches
    params, state, records = epoch(params, state, data, order)
    assert cupy.launches - before == 2 * 14 + (precision == "bf16")
    assert np.isfinite(records).all()


@PRECISION
@pytest.mark.parametrize("name", ["wide", "dropout", "residual", "layer norm"])
def test_an_epoch_is_its_steps_by_the_definitions(name, precision):
    """To what rounding makes of a few steps: runs in float32 go another way by far."""
    problem = simple(PASSES[name], optimizers.momentum(0.05), examples())._replace(l2=0.01)
    epoch = epoch_of(problem.network, problem.optimizer, precision, 16, l2=0.01)
    found = trained(epoch, problem, epochs=1)
    expected, exact = (
        trained(problem.steps(o), problem, epochs=1) for o in (definitions(precision), Ops(np))
    )
    assert found[1].step == expected[1].step
    start = problem.start[0]
    moved = [run[0] - start for run in (found, expected, exact)]
    gap = distance(moved[2], moved[1])
    assert gap > 2.0 ** -(BITS[precision] + 3)
    assert distance(moved[0], moved[1]) < gap / 4
    np.testing.assert_allclose(found[2], expected[2], rtol=gap)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_the_floor_under_steps_is_of_the_same_products(precision, monkeypatch):
    modules = cuda_on_host.modules_on_host()
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.workspace", modules.workspace)
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.capture", modules.capture)
    done, plan = [], modules.products.product_plan
    monkeypatch.setattr(
        modules.products,
        "product_plan",
        lambda X, *a, **o: done.append(X.dtype.name) or plan(X, *a, **o),
    )
    there = SimpleNamespace(
        xp=ModuleType("cupy"), asarray=np.asarray, synchronize=lambda result: None
    )
    there.xp.matrix_transpose = compat.matrix_transpose
    shape = benchmark.Shape((12, 40, 3), 16)
    bare, before = benchmark.products(shape, there, precision), modules.cupy.launches
    for _ in range(2):
        bare(2)
    assert modules.cupy.launches - before == 4 * len(shape.products)
    assert done == ["uint16" if precision == "bf16" else "float32"] * len(shape.products)


@PRECISION
def test_without_cublaslt_a_pass_is_the_same(precision, monkeypatch):
    """Products of bfloat16 are CuPy's then, of float32; those of TF32 are as exact as float32."""
    network, data = mlp(12, [40, 36], 3), examples()
    params = initialize(network).astype(np.float32)
    run = partial(value_and_grad, network, LOSS, params, data.X, data.Y)
    expected = run(ops=definitions(precision if precision == "bf16" else "float32"))[1]
    products = cuda_on_host.modules_on_host().products
    monkeypatch.setattr(products, "product_plan", lambda *_, **__: None)
    assert distance(run(ops=kernels(precision))[1], expected) < 3e-4


@pytest.mark.gpu
@PRECISION
@pytest.mark.parametrize("network", PASSES.values(), ids=PASSES)
def test_a_pass_on_a_gpu_is_that_of_rounded_factors(network, precision):
    """A GPU may cut factors off for TF32 instead of rounding them, with twice the error; and one
    that is older than TF32, or is told so, computes in float32, with none."""
    there, data = named("cuda"), examples()
    from nnaccel.kernels.cuda import workspace

    params = initialize(network).astype(np.float32)
    run = partial(value_and_grad, network, LOSS)
    with there.context():
        ops = Ops(there.xp, workspace.kernels(there.xp, precision))
        arrays = (there.asarray(x) for x in (params, data.X, data.Y))
        found = to_host(run(*arrays, ops=ops)[1])
    expected, exact = (
        run(params, data.X, data.Y, ops=o)[1] for o in (definitions(precision), Ops(np))
    )
    gap = distance(expected, exact)
    assert distance(found, exact) < 4 * gap
    if precision == "bf16":
        assert distance(found, expected) < gap / 8
