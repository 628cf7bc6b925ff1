"""The CUDA kernels beyond what each of them computes, which `test_kernels.py` compares.

Without a GPU: nvcc compiles them, and `cuda_on_host.py` runs them.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from array_api_compat import numpy as compat

from nnaccel.devices.device import to_host
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.cuda.signatures import FUNCTORS, expressions, functor
from nnaccel.kernels.cuda.source import FOLDER, joined, kernel_source
from nnaccel.kernels.definition import Run
from nnaccel.maths import losses, metrics, optimizers
from nnaccel.maths.activations import ACTIVATIONS, get
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.layers.dropout import dropout
from nnaccel.maths.minibatch import minibatch
from nnaccel.maths.network import layout, mlp, value_and_grad
from nnaccel.maths.random import Key, bernoulli
from nnaccel.ops import Ops
from nnaccel.training.data import Data
from nnaccel.training.step import initialize, make_step
from tests.conftest import named
from tests.kernels.cuda import cuda_on_host
from tests.kernels.cuda.cuda_on_host import OnDevice
from tests.kernels.test_epoch import (
    NETWORKS,
    OPTIMIZERS,
    OTHER_OPTIMIZERS,
    assert_same_run,
    compiled_on,
    examples,
    members,
    or_none,
    simple,
    trained,
)

HOST = pytest.mark.skipif(not cuda_on_host.COMPILER, reason=cuda_on_host.NO_COMPILER)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def kernels():
    """A new set of kernels."""
    return Ops(np, cuda_on_host.on_host().kernels(np))


@pytest.fixture
def cupy():
    """The stand-in for CuPy."""
    return cuda_on_host.cupy_on_host()


@pytest.fixture
def xp(monkeypatch):
    """NumPy under the name of CuPy's namespace, so that `bind` takes it for CuPy's. Epochs are
    those of steps, not those in one launch nor those of graphs, which `test_small_network.py` and
    `test_graphs.py` are for."""
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.workspace", cuda_on_host.on_host())
    small, graphs = cuda_on_host.small_on_host(), cuda_on_host.graphs_on_host()
    monkeypatch.setattr(small, "MOST", 0)
    monkeypatch.setattr(graphs, "kernel_supports", lambda *_: False)
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.small_network", small)
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.graphs", graphs)
    namespace = ModuleType("array_api_compat.cupy")
    namespace.__dict__.update({k: v for k, v in vars(compat).items() if k[:2] != "__"})
    return namespace


@pytest.fixture
def device(cupy, monkeypatch):
    """What puts an array on the device; the stand-in makes all of its own there."""
    monkeypatch.setattr(cupy, "kind", OnDevice)
    return lambda x: x.view(OnDevice)


# The compiler


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc, to compile CUDA kernels")
def test_kernels_compile_without_warnings_and_spill_nothing(tmp_path):
    """For an H100; every one that can be asked for, none of which has a stack in memory."""
    names = list(expressions())
    text = tmp_path / "all.cu"
    entries = ", ".join(f"reinterpret_cast<void*>({name})" for name in names)
    text.write_text(f"{kernel_source()}\nvoid* kernels[] = {{{entries}}};\n")
    done = subprocess.run(
        [
            *("nvcc", "-std=c++17", "-cubin", "-arch=sm_90", "-ftz=true", "-Xptxas", "-v"),
            *("-Werror", "all-warnings", "-o", tmp_path / "all.cubin", text),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    stacks = re.findall(r"(\d+) bytes stack.* (\d+) bytes spill.* (\d+) bytes spill", done.stderr)
    assert len(stacks) == len(names)
    assert set(stacks) == {("0", "0", "0")}, done.stderr


def test_files_are_joined_with_what_they_include():
    """Each once, before what needs it; lines keep their files and numbers."""
    files = {
        "a.cuh": '#pragma once\n\n#include "b.cuh"\n\nint a = b;',
        "b.cuh": "#pragma once\nint b = 1;",
        "c.cuh": '#include "b.cuh"\nint c = b;',
    }
    assert joined(files).splitlines() == [
        *('#line 1 "a.cuh"', "", "", '#line 1 "b.cuh"', "", "int b = 1;"),
        *('#line 4 "a.cuh"', "", "int a = b;", '#line 1 "c.cuh"', '#line 2 "c.cuh"', "int c = b;"),
    ]


@HOST
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.cuh")), ids=lambda path: path.name)
def test_each_file_is_complete_with_what_it_includes(path):
    """And so can be read alone."""
    flags = ["-std=c++17", "-fsyntax-only", "-x", "c++", "-include", cuda_on_host.HEADER]
    done = subprocess.run(
        [cuda_on_host.COMPILER, *flags, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_error_of_the_compiler_names_the_file(tmp_path):
    compiler = shutil.which("nvcc")
    if not compiler:
        pytest.skip("needs nvcc, to compile CUDA kernels")
    path = tmp_path / "all.cu"
    path.write_text(joined({"a.cuh": '#include "b.cuh"\n', "b.cuh": "\n\nint x = ;\n"}))
    words = [compiler, "-cubin", "-o", tmp_path / "all.cubin", path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("b.cuh(3): error")


def test_a_kernel_that_does_not_compile_says_what_to_do(cupy, monkeypatch):
    def fail(**_):
        raise cupy.cuda.compiler.CompileException("kern.cu(1): error: no\n" + 50 * "more\n")

    kernel = cuda_on_host.modules_on_host().launch.kernel
    monkeypatch.setattr(cupy, "RawModule", fail)
    message = "kernel adam<half> .CUDA of CuPy 13.0, of the driver 12.8.:\nkern.cu.1.: error: no\n"
    with pytest.raises(RuntimeError, match=message) as caught:
        kernel("adam", "half")
    assert "device='cpu'" in str(caught.value)
    assert str(caught.value).count("more") < 10


def test_every_activation_has_a_functor():
    """But for the exact GELU, which runs by its definition."""
    for name, g in ACTIVATIONS.items():
        found = functor(g)
        assert (found is None) == (name not in FUNCTORS), name
        assert found is None or found[0].lower() == name.replace("_", "")
    assert functor(get("leaky_relu")) == ("LeakyRelu", 0.01)
    assert functor(get("leaky_relu", slope=0.2)) == ("LeakyRelu", 0.2)
    assert functor(get("elu")) == ("Elu", 1.0)
    assert functor(get("relu")._replace(forward=np.tanh)) is None


# Edges of the kernels: places in memory, sizes, and what is not finite


def odd(x):
    """The array at a place in memory that is not a multiple of 16 bytes."""
    roomy = np.empty(x.size + 1, x.dtype)
    roomy[1:] = x.reshape(-1)
    return roomy[1:].reshape(x.shape)


@HOST
@DTYPES
def test_arrays_may_begin_at_any_place(dtype):
    rng = np.random.default_rng(0)
    ops = kernels()
    p, g, m, v = (rng.random(37).astype(dtype) for _ in range(4))
    numbers = 0.1, 0.9, 0.999, 0.5, 0.01, 1e-8
    expected = optimizers.adam_update(p, g, m, v, *numbers, xp=np)
    for vectors in ((odd(p), g, m, v), (p, odd(g), m, v), (p, g, odd(m), odd(v))):
        found = ops[optimizers.adam_update](*map(np.copy, vectors), *numbers)
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-5)
    X, W, b = rng.random((6, 41)), rng.random((41, 36)), rng.random((1, 36))
    X, W, b = (x.astype(dtype) for x in (X, W, b))
    expected = dense(X, W, b, get("tanh"), xp=np)[1]
    for arrays in ((odd(X), W, b), (X, odd(W), b), (X, W, odd(b))):
        found = ops[dense](*arrays, get("tanh"))[1]
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    index = np.array([5, 0, 3])
    pixels = (100 * X).astype(np.uint8)
    for array in (X, odd(X), X[:, 4:], X[:, 1:37], X[:, :36], X[:, :39], pixels, odd(pixels)):
        rows = ops[minibatch](array, np.arange(6), None, index, np.dtype(dtype))[0]
        np.testing.assert_array_equal(rows, array[index])


@HOST
@pytest.mark.parametrize("H", [1, 4, 31, 32, 33, 64])
@DTYPES
def test_a_narrow_layer_is_the_product_and_the_activation(H, dtype, monkeypatch):
    """Both ways of a layer of few units, for shapes around a warp."""
    rng = np.random.default_rng(0)
    for N, D in ((1, 1), (5, 31), (4, 32), (9, 70)):
        X, W, b = (rng.random(s).astype(dtype) for s in ((N, D), (D, H), (1, H)))
        for g in (get("gelu"), get("relu")):
            expected = dense(X, W, b, g, xp=np)
            for small in (0, 2**20):
                monkeypatch.setattr(cuda_on_host.modules_on_host().dense, "SMALL", small)
                Z, A = kernels()[dense](X, W, b, g)
                np.testing.assert_allclose(A, expected[1], rtol=2e-5)
                if g.reads_Z:
                    np.testing.assert_allclose(Z, expected[0], rtol=2e-5)


@HOST
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("H", [3, 40])
def test_what_is_not_finite_shows(name, value, H):
    """An input that is not a number, or infinite, gives what the definition gives."""
    rng, g = np.random.default_rng(0), get(name)
    X, W, b = (rng.standard_normal(s) for s in ((4, 5), (5, H), (1, H)))
    X[2] = value
    with np.errstate(all="ignore"):
        expected = dense(X, W, b, g, xp=np)[1]
        found = kernels()[dense](X, W, b, g)[1]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


CLASSES = {
    "float32": (33, 64, 300, 512, 516, 1000, 2048, 4095, 4096, 4097),
    "float64": (33, 257, 512, 2048, 2049),
}


@HOST
@pytest.mark.parametrize(("dtype", "K"), [(dtype, K) for dtype in CLASSES for K in CLASSES[dtype]])
def test_a_loss_of_many_classes_is_its_definition(dtype, K):
    """Below, at and above the numbers of classes for which more warps share a row."""
    rng = np.random.default_rng(K)
    Z, weights = 5 * rng.standard_normal((9, K)), rng.random(9)
    Y = rng.integers(0, K, 9)
    Y[:2] = 0, K - 1
    Z, weights = Z.astype(dtype), weights.astype(dtype)
    rtol = {"float32": 3e-5, "float64": 1e-12}[dtype]
    for z in (Z, odd(Z)):
        for w in (None, weights):
            found = kernels()[losses.softmax_cross_entropy](z, Y, w)
            for x, y in zip(found, losses.softmax_cross_entropy(Z, Y, w, xp=compat), strict=True):
                np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * 1e-3)
    Z[3, K // 2], Z[5, 7] = np.nan, np.inf
    with np.errstate(all="ignore"):
        value, dZ = kernels()[losses.softmax_cross_entropy](Z, Y)
    assert np.isnan(value)
    assert np.isnan(dZ).any(axis=1).tolist() == [False] * 3 + [True, False, True] + [False] * 3


@HOST
@pytest.mark.parametrize("K", [33, 4096])
def test_a_row_of_many_classes_is_read_once(K):
    """So dZ may be written over the logits."""
    rng = np.random.default_rng(0)
    Z, Y = rng.standard_normal((20, K)).astype(np.float32), rng.integers(0, K, 20)
    expected = losses.softmax_cross_entropy(Z, Y, xp=compat)[1]
    space = cuda_on_host.on_host().Workspace(np)
    space.losses._wide_cross_entropy(Z, Y, None, np.empty((), np.float32), Z)
    np.testing.assert_allclose(Z, expected, rtol=3e-5, atol=1e-9)


@HOST
@DTYPES
@pytest.mark.parametrize("H", [33, 36, 132, 512])
def test_a_derivative_reads_sixteen_bytes_where_it_can(H, dtype, monkeypatch):
    """A thread has so many columns; elsewhere in memory, or of another width, it has one."""
    rng, ops, asked = np.random.default_rng(0), kernels(), []
    module = cuda_on_host.modules_on_host().dense
    kernel = module.kernel

    def watched(*name):
        launch = kernel(*name)
        return lambda grid, block, args: (
            asked.append((grid[0], args[8])) or launch(grid, block, args)
        )

    monkeypatch.setattr(module, "kernel", watched)
    X, W, dA = (rng.standard_normal(s).astype(dtype) for s in ((300, 7), (7, H), (300, H)))
    for g in (get("relu"), get("gelu")):
        for place in (np.copy, odd):
            Z, A = dense(X, W, np.zeros((1, H), dtype), g, xp=np)
            expected = dense_vjp(dA, X, W, Z, A, g, xp=compat)
            asked.clear()
            found = ops[dense_vjp](place(dA), X, W, Z, A, g)
            for x, y in zip(found, expected, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
            wide = place is np.copy and H % (16 // X.itemsize) == 0
            assert asked == [(-(-H // (32 * (16 // X.itemsize if wide else 1))), int(wide))]


@HOST
def test_an_update_that_waits_comes_before_what_follows(cupy):
    """It waits for the end of a step; whatever else is asked for first does not overtake it."""
    space = cuda_on_host.on_host().Workspace(np)
    ops = Ops(np, space.kernels())
    params, grads = np.ones(6, np.float32), np.full(6, 2.0, np.float32)
    space.optimizers.hold()
    before = cupy.launches
    ops[optimizers.gradient_descent_update](params, grads, 0.25)
    assert cupy.launches == before
    assert params.tolist() == [1.0] * 6
    ops[optimizers.shrink_weights](params, 0.5, 3)
    assert params.tolist() == [0.25] * 3 + [0.5] * 3
    ops[optimizers.gradient_descent_update](params, grads, 0.25)
    assert space.optimizers.release()
    assert params.tolist() == [-0.25] * 3 + [0.0] * 3
    assert not space.optimizers.release()
    space.optimizers.hold_no_more()
    ops[optimizers.gradient_descent_update](params, grads, 0.25)
    assert params.tolist() == [-0.75] * 3 + [-0.5] * 3


@HOST
def test_one_thread_fences_for_its_block():
    """And once more in the last of them: 100 blocks of 256 threads each leave a sum."""
    before, grads = cuda_on_host.library().fences(), np.ones(100 * 1024, np.float32)
    found = kernels()[optimizers.clip_by_global_norm](grads, 32.0)
    assert cuda_on_host.library().fences() - before == 100 + 1
    np.testing.assert_allclose(found, 0.1, rtol=1e-5)


SEEDS = (0, 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1)


@HOST
@pytest.mark.parametrize("step", [7, np.array(7, np.int32)], ids=["host", "device"])
@DTYPES
def test_dropout_has_the_bits_of_its_definition(step, dtype):
    X = np.ones((50, 33), dtype)
    keys = [Key(seed, np.array(7, np.int32), path) for seed in SEEDS for path in (0, 12345)]
    for key in keys:
        for rate in (0.1, 0.5, 0.9):
            A, M = kernels()[dropout](X, key._replace(step=step), rate)
            np.testing.assert_array_equal(M > 0, bernoulli(key, 1.0 - rate, X.shape, xp=np))
            np.testing.assert_array_equal(M, dropout(X, key, rate, xp=np)[1])
            np.testing.assert_array_equal(A, M)


# Steps and epochs


@HOST
def test_a_training_step_is_fourteen_launches(xp, cupy, device):
    """For the network of the benchmarks: seven products, and seven kernels with the rest."""
    network, rng = mlp(784, [512, 512], 10), np.random.default_rng(0)
    X = rng.integers(0, 255, (500, 784)).astype(np.uint8)
    data = Data(device(X), device(rng.integers(0, 10, 500)), None)
    params = device(initialize(network).astype(np.float32))
    optimizer = optimizers.adam(0.001)
    state = optimizer.init(params, xp=np)._replace(step=np.zeros((), np.int32))
    problem = simple(network, optimizer, data, batch_size=125)
    epoch = problem.fused_on(backend_of(xp))
    order = device(rng.permutation(500))
    params, state, _ = epoch(params, state, data, order)
    before, OnDevice.operations = cupy.launches, 0
    params, state, records = epoch(params, state, data, order)
    assert cupy.launches - before == 4 * 14
    assert OnDevice.operations == 1  # the losses of the steps are stacked
    assert state.step == 8
    assert records.shape == (4,)
    assert np.isfinite(np.asarray(records)).all()


@HOST
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), *OTHER_OPTIMIZERS.values()])
def test_an_epoch_does_not_wait_for_the_device(xp, device, optimizer):
    data = Data(*map(device, examples(weighted=True)))
    problem = simple(optimizer=optimizer, data=data, l2=0.1)
    expected = trained(problem.steps(), problem._replace(data=examples(weighted=True)))
    epoch = problem.fused_on(backend_of(xp))
    params, state = problem.start
    start = device(params), state._replace(slots=tuple(map(device, state.slots)))
    params, state, records = trained(epoch, problem, start=start)
    plain = np.asarray(params), state._replace(slots=tuple(map(np.asarray, state.slots)))
    assert_same_run((*plain, np.asarray(records)), expected)


class Counter:
    """A step counter on the device: it can be read only once."""

    def __init__(self, value, reads=1):
        self.value, self.reads = value, reads

    def __add__(self, n):
        return Counter(self.value + n, 0)

    def __int__(self):
        assert self.reads, "the host waits for the device"
        self.reads -= 1
        return self.value


@HOST
def test_only_the_first_epoch_of_a_run_asks_the_device_for_its_step(xp):
    problem = simple()
    epoch = problem.fused_on(backend_of(xp))
    params, state = problem.start
    state = state._replace(step=Counter(7))
    for _ in range(3):
        params, state, _ = epoch(params, state, problem.data, problem.order)
    expected = trained(problem.steps(), problem, state_step=7)
    np.testing.assert_allclose(params, expected[0], rtol=1e-3, atol=1e-5)
    assert state.step.value == expected[1].step


@HOST
@pytest.mark.parametrize("lead", [None, 3])
@pytest.mark.parametrize("metric", [None, metrics.for_loss("softmax_cross_entropy")])
def test_an_epoch_in_one_launch_does_not_wait_for_the_device(
    xp, cupy, device, metric, lead, monkeypatch
):
    """A launch for the network of the notes, and for three; the rest is done once an epoch."""
    monkeypatch.setattr(cuda_on_host.small_on_host(), "MOST", 1e6)
    host = examples(N=100, weighted=True)
    problem = simple(data=host, l2=0.1, metric=metric)
    expected = trained(problem.steps(), problem, start=lead and members(problem, lead))
    epoch = problem.fused_on(backend_of(xp))
    params, state = problem.start if lead is None else members(problem, lead)
    start = device(params), state._replace(slots=tuple(map(device, state.slots)))
    there = problem._replace(data=Data(*map(device, host)))
    before = cupy.launches
    params, state, records = trained(epoch, there, start=start)
    assert cupy.launches - before == 3
    plain = np.asarray(params), state._replace(slots=tuple(map(np.asarray, state.slots)))
    assert_same_run((*plain, np.asarray(records)), expected)


@HOST
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("metric", [None, metrics.for_loss("softmax_cross_entropy")])
def test_an_epoch_is_its_steps_by_the_definitions(xp, network, metric):
    problem = simple(
        network, dtype="float64", data=examples(dtype="float64", weighted=True), metric=metric
    )._replace(l2=0.01)
    epoch = problem.fused_on(backend_of(xp))
    found = trained(epoch, problem)
    assert_same_run(found, trained(problem.steps(), problem), "float64")


@HOST
@pytest.mark.parametrize("name", [name for name in losses.LOSSES if "softmax" not in name])
def test_an_epoch_of_other_losses_is_its_steps(xp, name):
    problem = simple(loss=name, data=examples(name, 3, dtype="float64"), dtype="float64")
    epoch = problem.fused_on(backend_of(xp))
    assert_same_run(trained(epoch, problem), trained(problem.steps(), problem), "float64")


@HOST
@pytest.mark.parametrize("name", OTHER_OPTIMIZERS)
def test_an_epoch_with_another_optimizer_is_its_steps(xp, name):
    problem = simple(optimizer=OTHER_OPTIMIZERS[name])
    epoch = problem.fused_on(backend_of(xp))
    assert_same_run(trained(epoch, problem), trained(problem.steps(), problem))


@HOST
def test_several_networks_are_left_to_the_steps(xp):
    problem = simple()
    epoch = or_none(problem.fused_on(backend_of(xp)))
    params = initialize(problem.network, members=2).astype(np.float32)
    state = problem.optimizer.init(params, xp=np)
    assert epoch(params, state, problem.data, problem.order) is None


@HOST
def test_the_sum_of_the_loss_serves_the_output_layer_alone(monkeypatch):
    """db of an identity output layer comes from the loss; of the same dZ elsewhere it does not."""
    network = mlp(5, [7], 3, activation="tanh")
    loss, data = losses.get("softmax_cross_entropy"), examples(D=5, dtype="float64")
    params = np.random.default_rng(0).standard_normal(layout(network).size)
    ops, asked, module = kernels(), [], cuda_on_host.modules_on_host().dense
    kernel = module.kernel
    monkeypatch.setattr(module, "kernel", lambda *name: asked.append(name[0]) or kernel(*name))
    grads = value_and_grad(network, loss, params, data.X, data.Y, ops=ops)[1].copy()
    assert asked.count("activation_vjp") == 1
    expected = value_and_grad(network, loss, params, data.X, data.Y, ops=Ops(np))[1]
    np.testing.assert_allclose(grads, expected, rtol=1e-10, atol=1e-14)
    wide = mlp(5, [7], 40, activation="tanh")
    params = np.random.default_rng(0).standard_normal(layout(wide).size)
    value_and_grad(wide, loss, params, data.X, data.Y, ops=ops)
    assert asked.count("activation_vjp") == 3


@HOST
@pytest.mark.parametrize("name", ["adam", "rmsprop", "nesterov"])
def test_a_run_has_the_same_bits_in_any_order_of_blocks_and_threads(cupy, name):
    """The host turns the order round with each launch, and one run begins a launch later."""
    network = mlp(6, [100, 33], 5, dropout=0.2)
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((600, 6)).astype(np.float32), rng.integers(0, 5, 600)
    data, optimizer = Data(X, Y, None), optimizers.clipped(optimizers.get(name, 0.01), 0.1)
    runs = []
    for run in range(2):
        loss, dtype = losses.get("softmax_cross_entropy"), np.dtype(np.float32)
        step = make_step(Run(network, loss, optimizer, 600, dtype, l2=0.01), kernels())
        params = initialize(network).astype(np.float32)
        state, values, before = optimizer.init(params, xp=np), [], cupy.launches
        for _ in range(3):
            params, state, value = step(params, state, data, np.arange(600))
            values.append(float(value))
        runs.append((params, values))
        if (cupy.launches - before) % 2 == run:
            kernels()[optimizers.shrink_weights](np.ones(3), 0.0, 3)
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


@pytest.mark.gpu
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@DTYPES
def test_an_epoch_on_a_gpu_is_its_steps_by_the_definitions(network, dtype):
    data = examples(dtype=dtype, weighted=True)
    assert_trains_on_a_gpu(simple(network, dtype=dtype, data=data, l2=0.01))


@pytest.mark.gpu
@pytest.mark.parametrize("network", ["every activation", "dropout", "encoding"])
@DTYPES
def test_several_networks_on_a_gpu_are_their_steps(network, dtype, monkeypatch):
    """With weights of each, by graphs."""
    monkeypatch.setattr("nnaccel.kernels.cuda.graphs.FIRST", 1)
    data = examples(N=300, dtype=dtype)
    weights = np.random.default_rng(0).random((300, 3)).astype(dtype)
    problem = simple(NETWORKS[network], dtype=dtype, data=data._replace(weights=weights), l2=0.01)
    assert_trains_on_a_gpu(problem, members(problem, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@DTYPES
def test_an_epoch_of_graphs_on_a_gpu_has_the_bits_of_one_without(
    network, dtype, monkeypatch, caplog
):
    device = named("cuda")
    monkeypatch.setattr("nnaccel.kernels.cuda.graphs.FIRST", 1)
    monkeypatch.setattr("nnaccel.kernels.cuda.small_network.MOST", 0)
    data = examples(N=500, dtype=dtype, weighted=True)
    problem = simple(network, dtype=dtype, data=data, l2=0.01)
    runs = []
    with device.context(), caplog.at_level("DEBUG", logger="nnaccel"):
        for graphs in (True, False):
            epoch = problem.fused_on(replace(backend_of(device.xp), graphs=graphs))
            there, params = Data(*map(device.asarray, data)), device.asarray(problem.start[0])
            state, found = problem.optimizer.init(params, xp=device.xp), []
            for _ in range(3):
                params, state, losses = epoch(params, state, there, device.asarray(problem.order))
                found.append(to_host(losses))
            runs.append([*found, *map(to_host, (params, *state.slots))])
    for x, y in zip(*runs, strict=True):
        np.testing.assert_array_equal(x, y)
    assert "captured" in caplog.text
    assert "without CUDA graphs" not in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("sizes", "batch"), [((3, 5, 4, 3), 16), ((2, 4, 2), 400), ((3, 40, 3), 128), ((64, 90, 9), 96)]
)
@pytest.mark.parametrize("lead", [None, 3])
@DTYPES
def test_an_epoch_in_one_launch_on_a_gpu_is_its_steps(sizes, batch, lead, dtype):
    """The last one needs more shared memory than a kernel has unasked."""
    network = mlp(sizes[0], sizes[1:-1], sizes[-1], activation="tanh")
    data = examples(K=sizes[-1], N=3 * batch + 7, D=sizes[0], dtype=dtype, weighted=True)
    problem = simple(network, dtype=dtype, data=data, l2=0.01, batch_size=batch)
    assert_trains_on_a_gpu(problem, None if lead is None else members(problem, lead))


SWITCHES = ("RELU_IN_PRODUCT", "NARROW_LOSS", "UPDATE_BESIDE", "NEXT_ROWS")


@pytest.mark.gpu
@pytest.mark.parametrize("lead", [None, 3])
@pytest.mark.parametrize("name", SWITCHES)
def test_both_ways_of_a_switch_on_a_gpu_are_the_steps(name, lead, monkeypatch):
    monkeypatch.setattr("nnaccel.kernels.cuda.graphs.FIRST", 1)
    monkeypatch.setattr("nnaccel.kernels.cuda.small_network.MOST", 0)
    monkeypatch.setattr("nnaccel.kernels.cuda.early_update.LEAST", 100)
    problem = simple(mlp(8, [128, 128], 3), data=examples(N=300, D=8, weighted=True))
    for on in (True, False):
        monkeypatch.setattr(f"nnaccel.kernels.cuda.fusions.{name}", on)
        assert_trains_on_a_gpu(problem, None if lead is None else members(problem, lead))


def assert_trains_on_a_gpu(problem, start=None):
    start = problem.start if start is None else start
    copy = start[0].copy(), start[1]._replace(slots=tuple(map(np.copy, start[1].slots)))
    expected = trained(problem.steps(), problem, start=copy)
    device = named("cuda")
    with device.context():
        epoch, _ = compiled_on(device.xp, problem)
        there = Data(*map(device.asarray, problem.data))
        params = device.asarray(start[0], copy=True)
        state, records = problem.optimizer.init(params, xp=device.xp), []
        for _ in range(3):
            params, state, record = epoch(params, state, there, device.asarray(problem.order))
            records.append(to_host(record))
    tolerance = {"float32": 1e-3, "float64": 1e-8}[problem.dtype]
    np.testing.assert_allclose(to_host(params), expected[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(np.stack(records), expected[2], rtol=tolerance)
