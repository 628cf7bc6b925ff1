"""Products in tf32 and bf16: rounding against integer arithmetic and the libraries' own types,
layers against float64 products of numbers rounded so, and runs on every library."""

import inspect
import math
import sys
import threading
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

from nnaccel.devices.device import select, to_host
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.definition import FusedEpoch, Run
from nnaccel.maths import layers, losses, optimizers
from nnaccel.maths.activations import Activation, get
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.network import Network, mlp, value_and_grad
from nnaccel.maths.precision import PRECISIONS, check_precision, rounded
from nnaccel.ops import Ops
from nnaccel.training.data import Data
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize, make_step
from tests.conftest import named
from tests.kernels.cuda import cuda_on_host
from tests.kernels.test_kernels import assert_allocates_nothing_large

LOW = ("tf32", "bf16")
EACH = pytest.mark.parametrize("precision", PRECISIONS)
LOWER = pytest.mark.parametrize("precision", LOW)
NUMBA = pytest.mark.skipif(not find_spec("numba"), reason="needs Numba")
TINY, LARGEST = np.finfo(np.float32).tiny, np.finfo(np.float32).max


def nearest(x, precision):
    """The oracle: x float32 rounded by 64-bit arithmetic on its bits."""
    n = 23 - {"float32": 23, "tf32": 10, "bf16": 7}[precision]
    bits = x.view(np.uint32).astype(np.uint64)
    below, kept = bits & (2**n - 1), bits >> n
    up = 2 * below > 2**n if n else np.zeros(x.shape, bool)
    up |= (2 * below == 2**n) & (kept % 2 == 1)
    result = ((kept + up) << n).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(x), x, result)


def numbers(precision, N=20_000):
    """Bits at random, ties and their neighbours, and every corner, as float32 (rows, 100)."""
    n = max(1, 23 - PRECISIONS[precision])
    bits = np.random.default_rng(0).integers(0, 2**32, N, dtype=np.uint64)
    ties = (bits >> n << n) | (1 << (n - 1))
    corners = np.array(
        [
            *(0.0, 1.0, 1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, 1.0 + 2.0**-11, 1.0 + 3 * 2.0**-11),
            *(2.0 - 2.0**-23, 2.0**60, 2.0**60 * (2 - 2.0**-23), 2.0**61, 2.0**127, LARGEST),
            *(TINY, TINY * (1 - 2.0**-23), TINY * 2.0**-7, TINY * 1.5 * 2.0**-7),
            *(TINY * 2.0**-8, TINY * 3 * 2.0**-8, TINY * 2.0**-11, TINY * 2.0**-23),
            *(math.inf, math.nan),
        ],
        np.float32,
    )
    # Not numbers whose digits that are kept are all 0, or that a carry would make something else.
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0x7FBFFFFF], np.uint64)
    parts = [bits, ties, ties + 1, ties - 1, corners.view(np.uint32).astype(np.uint64), nans]
    x = np.concatenate(parts)
    x = np.concatenate([x, x ^ 2**31]).astype(np.uint32).view(np.float32)
    return np.concatenate([x, np.ones(-len(x) % 100, np.float32)]).reshape(-1, 100)


def assert_same_bits(found, expected, label=""):
    """Equal with the sign of zero; of what is no number only that it is none."""
    assert found.dtype == np.float32
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), ~number, err_msg=label)
    np.testing.assert_array_equal(
        np.where(number, found, 0).view(np.uint32),
        np.where(number, expected, 0).view(np.uint32),
        err_msg=label,
    )


# Rounding


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # to infinity, as meant
@EACH
def test_rounding_is_to_the_nearest_and_ties_to_even(xp_device, precision):
    x = numbers(precision)
    found = xp_device.to_numpy(rounded(xp_device.asarray(x), precision, xp=xp_device.xp))
    expected = nearest(x, precision)
    if xp_device.name in ("jax", "cupy"):  # whose numbers below the normal range are zero
        normal = ~((np.abs(x) < TINY) & (x != 0)) if precision != "float32" else np.isfinite(x)
        found, expected = found[normal], expected[normal]
    assert_same_bits(found, expected)


@pytest.mark.parametrize(
    ("precision", "multiples", "units"),
    [
        ("bf16", (1, 1, 65, 201, -205, 1, 256), (0, 0, -6, -6, -11, -133, 8)),
        ("tf32", (1, 257, 259, 1608, -1638, 9, 2047), (0, -8, -8, -9, -14, -136, 5)),
    ],
)
def test_rounding_by_hand(precision, multiples, units):
    """As multiples of powers of two; the second and the third are ties in bf16."""
    x = [1.0, 1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, 3.14159265, -0.1, 1e-40, 65519.0]
    found = rounded(np.array(x, np.float32), precision, xp=np)
    np.testing.assert_array_equal(found, np.ldexp(multiples, units))


def test_the_oracle_is_what_the_libraries_call_bfloat16():
    x, found = numbers("bf16"), 0
    with np.errstate(all="ignore"):
        if find_spec("torch"):
            import torch

            assert_same_bits(torch.from_numpy(x).bfloat16().float().numpy(), nearest(x, "bf16"))
            found += 1
        if find_spec("ml_dtypes"):
            import ml_dtypes

            assert_same_bits(x.astype(ml_dtypes.bfloat16).astype(np.float32), nearest(x, "bf16"))
            found += 1
    if not found:
        pytest.skip("needs PyTorch or ml_dtypes")


@LOWER
def test_rounding_is_done_once(precision):
    with np.errstate(over="ignore"):
        once = rounded(numbers(precision), precision, xp=np)
        assert_same_bits(rounded(once, precision, xp=np), once)


def test_float32_is_left_as_it_is():
    x = np.ones(3)
    assert rounded(x, "float32", xp=np) is x


def fast_workspace(precision):
    from nnaccel.kernels.numba.elementwise import FastWorkspace

    return FastWorkspace(precision)


def plain_workspace(precision):
    from nnaccel.kernels.numpy.workspace import Workspace

    return Workspace(precision)


WORKSPACES = pytest.mark.parametrize(
    "workspace", [plain_workspace, pytest.param(fast_workspace, marks=NUMBA)]
)


@WORKSPACES
@LOWER
def test_kernels_for_numpy_round_as_the_definition_does(workspace, precision):
    x, space = numbers(precision), workspace(precision)
    x.flags.writeable = False
    expected = nearest(x, precision)
    assert_same_bits(space.rounded(x, "left"), expected)
    found = space.rounded(x.T, "right")
    assert found.flags.f_contiguous  # it lies in memory as x does
    assert_same_bits(np.ascontiguousarray(found), np.ascontiguousarray(expected.T))
    assert_same_bits(space.rounded(x[::2, ::3], "left").copy(), expected[::2, ::3].copy())
    assert space.rounded(x[:0], "left").shape == (0, 100)


@LOWER
def test_kernels_for_torch_and_jax_round_as_the_definition_does(precision):
    x, expected = numbers(precision), nearest(numbers(precision), precision)
    if find_spec("torch"):
        import torch

        from nnaccel.kernels.torch import rounded as kernel

        assert_same_bits(kernel(torch.from_numpy(x), precision).numpy(), expected)
        assert_same_bits(kernel(torch.from_numpy(x).T, precision).T.numpy(), expected)
    if find_spec("jax"):
        import jax

        from nnaccel.kernels.jax import rounded as kernel

        found = np.asarray(jax.jit(kernel, static_argnums=1)(x, precision))
        normal = ~((np.abs(x) < TINY) & (x != 0))
        assert_same_bits(found[normal], expected[normal])


# Names


def test_the_names_of_precisions():
    for precision in PRECISIONS:
        check_precision(precision, "float32")
    check_precision("float32", "float64")
    with pytest.raises(ValueError, match="did you mean 'bf16'") as info:
        check_precision("bf61", "float32")
    assert str(info.value).startswith("precision must be one of float32, tf32, bf16, got 'bf61'")
    with pytest.raises(ValueError, match="precision must be one of .*, got None"):
        check_precision(None, "float32")
    with pytest.raises(ValueError, match="precision='tf32' is for dtype float32, got float64: .*"):
        check_precision("tf32", "float64")


def test_there_are_no_operations_in_another_precision():
    with pytest.raises(ValueError, match="precision must be one of float32, tf32, bf16, got 'fp8'"):
        backend_of(np).operations("fp8")


@pytest.mark.parametrize("name", ["numpy", "strict", "torch", "jax"])
def test_other_dtypes_are_refused_where_they_are_rounded(name):
    from tests.conftest import XP_DEVICES

    device = XP_DEVICES[name]()
    ones = device.asarray(np.ones((2, 2)))
    with pytest.raises(ValueError, match="for dtype float32, got float64"):
        rounded(ones, "bf16", xp=device.xp)
    with pytest.raises(ValueError, match="must be one of"):
        rounded(ones, "fp16", xp=device.xp)


@WORKSPACES
def test_kernels_for_numpy_refuse_other_dtypes(workspace):
    ops = workspace("bf16").kernels()
    with pytest.raises(ValueError, match="for dtype float32, got float64"):
        ops[dense](np.ones((2, 3)), np.ones((3, 4)), np.ones((1, 4)), get("relu"))


# Layers


def exact(X, Y, precision):
    """X Y in float64, and what float32 sums of it are off by, with roundings both ways."""
    X, Y = (nearest(np.ascontiguousarray(x), precision).astype(np.float64) for x in (X, Y))
    return X @ Y, (X.shape[-1] ** 0.5 + 2) * 2.0**-24 * (np.abs(X) @ np.abs(Y))


def assert_within(found, expected, error, label=""):
    assert found.dtype == np.float32, label
    assert found.shape == expected.shape, label
    assert (np.abs(found - expected) <= error).all(), label


def operations(xp):
    """The definitions, and every set of kernels that `bind` has for a library."""
    yield (
        "definitions",
        lambda precision: Ops(
            xp,
            {
                f: lambda *args, f=f, **options: f(*args, **options, xp=xp, precision=precision)
                for f in (dense, dense_vjp)
            },
        ),
    )
    yield "kernels", lambda precision: backend_of(xp, "numpy").operations(precision)
    if find_spec("numba"):
        yield "fast kernels", lambda precision: backend_of(xp).operations(precision)


SHAPES = [((7, 5), (5, 3)), ((1, 1), (1, 1)), ((0, 5), (5, 3)), ((200, 64), (64, 100)),
          ((40, 700), (700, 9)), ((7, 5), (2, 5, 3)), ((2, 70, 50), (2, 50, 30))]  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@EACH
def test_dense_multiplies_rounded_operands(xp_device, precision, shapes):
    rng = np.random.default_rng(0)
    X, W = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    W /= np.float32(W.shape[-2] ** 0.5)
    b = rng.standard_normal((*W.shape[:-2], 1, W.shape[-1])).astype(np.float32)
    expected, error = exact(X, W, precision)
    whole, _ = exact(X, W, "float32")
    for label, make in operations(xp_device.xp):
        args = map(xp_device.asarray, (X, W, b))
        Z, A = make(precision)[dense](*args, get("tanh"))
        Z = A if Z is None else Z
        A, bound = xp_device.to_numpy(A), error + 1e-6
        assert_within(A, np.tanh(expected + b), bound, label)
        if precision != "float32" and X.size > 1:  # rounding shows, and is not that of the sums
            assert np.abs(A - np.tanh(whole + b)).max() > 2.0 * bound.max(), label


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@EACH
def test_gradients_multiply_rounded_operands(xp_device, precision, shapes):
    rng = np.random.default_rng(0)
    X, W = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    shape = np.broadcast_shapes(X.shape[:-2], W.shape[:-2])
    dA = rng.standard_normal((*shape, X.shape[-2], W.shape[-1])).astype(np.float32)
    Z = rng.standard_normal(dA.shape).astype(np.float32)
    A = np.maximum(Z, 0)
    dZ = np.where(Z > 0, dA, 0).astype(np.float32)
    expected = {
        "dX": exact(dZ, W.swapaxes(-1, -2), precision),
        "dW": exact(X.swapaxes(-1, -2), dZ, precision),
        "db": (dZ.sum(-2, keepdims=True, dtype=np.float64), 1e-5),  # of dZ as it is
    }
    for label, make in operations(xp_device.xp):
        for need_dX in (True, False):
            args = [xp_device.asarray(x) for x in (dA, X, W, Z, A)]
            if xp_device.name == "numpy-readonly":
                args[0] = dA.copy()  # which a kernel may destroy
            grads = make(precision)[dense_vjp](*args, get("relu"), need_dX=need_dX)
            assert (grads[0] is None) == (not need_dX)
            for (name, bounds), found in zip(expected.items(), grads, strict=True):
                if found is not None:
                    assert_within(xp_device.to_numpy(found), *bounds, f"{label} {name}")


@pytest.mark.parametrize("xp", ["numpy", "torch", "jax.numpy"])
def test_kernels_of_each_precision_have_the_parameters_of_the_definition(xp):
    library = {"numpy": "cpu", "torch": "torch", "jax.numpy": "jax"}[xp]
    for precision in PRECISIONS:
        ops = backend_of(named(library).xp).operations(precision)
        for f in (dense, dense_vjp):
            names = [n for n in inspect.signature(f).parameters if n not in ("xp", "precision")]
            assert list(inspect.signature(ops[f]).parameters) == names


# Runs

LIBRARIES = pytest.mark.parametrize("library", ["cpu", "torch:cpu", "jax:cpu"])
SMALL = mlp(6, [8, 7], 3, activation=["tanh", "relu"], dropout=0.1)  # an epoch of compiled code
LARGE = Network(
    20,
    (
        layers.Dense(300, get("relu")),
        layers.LayerNorm(),
        layers.Residual((layers.Dense(300, get("gelu")),)),
        layers.Dense(4),
    ),
)
NETWORKS = pytest.mark.parametrize("network", [SMALL, LARGE], ids=["small", "large"])


def examples(network, N=300):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((N, network.n_inputs)).astype(np.float32)
    return X, np.argmax(X[:, : network.n_outputs], axis=1)


def run(network, library="cpu", epochs=3, **options):
    """The losses and validation losses of each epoch, and the parameters at the end."""
    X, Y = examples(network)
    epochs = train(
        network, X, Y, loss="softmax_cross_entropy", optimizer=optimizers.adam(3e-3), epochs=epochs,
        batch_size=32, validation_data=(X[:50], Y[:50]), device=named(library), seed=1, **options,
    )  # fmt: skip
    rows, params = [], None
    for epoch in epochs:
        rows.append((epoch.loss, epoch.validation_loss))
        params = to_host(epoch.params).copy()
    return np.array(rows), params


def difference(found, expected):
    return np.abs(found - expected).max()


@LIBRARIES
@NETWORKS
@LOWER
def test_a_run_in_a_lower_precision_is_near_that_in_float32_but_another(
    network, library, precision
):
    """As near as its digits tell: losses are of size 1, and their error is that of the logits."""
    whole, params = run(network, library)
    rows, rounded_params = run(network, library, precision=precision)
    digit = 2.0 ** -(PRECISIONS[precision] + 1)
    for column in (0, 1):  # training, validation
        assert 1e-3 * digit < difference(rows[:, column], whole[:, column]) < 4 * digit
    assert rounded_params.dtype == np.float32
    assert difference(rounded_params, params) > 1e-3 * digit
    # They are not rounded themselves.
    assert difference(nearest(rounded_params, precision), rounded_params) > 1e-2 * digit


def gradient(network, library, precision):
    """Of the loss at the initial parameters, float64 on the host."""
    device, loss = named(library), losses.get("softmax_cross_entropy")
    start, (X, Y) = device.asarray(initialize(network), "float32"), examples(network)
    ops = backend_of(device.xp).operations(precision)
    data = device.asarray(X), device.asarray(Y)
    return to_host(value_and_grad(network, loss, start, *data, ops=ops)[1]).astype(np.float64)


@NETWORKS
@EACH
def test_libraries_agree_in_every_precision(network, precision):
    """Many times nearer than to float32: they round the same numbers, but for a few that come out
    on another side of a tie."""
    length = np.linalg.norm
    expected, whole = gradient(network, "cpu", precision), gradient(network, "cpu", "float32")
    size, digit = length(whole), 2.0 ** -(PRECISIONS[precision] + 1)
    if precision != "float32":
        assert digit / 4 < length(expected - whole) / size < 8 * digit
    for library in ("torch:cpu", "jax:cpu"):
        if find_spec(library.partition(":")[0]):
            found = gradient(network, library, precision)
            assert length(found - expected) / size < (1e-6 if precision == "float32" else 5e-5)
            rows, theirs = (
                run(network, x, epochs=1, precision=precision)[0] for x in (library, "cpu")
            )
            assert difference(rows, theirs) < max(digit, 1e-5)


@NUMBA
@EACH
def test_numpy_with_and_without_numba_is_one_run(precision):
    rows = [
        run(SMALL, kernels=kernels, precision=precision, epochs=1)[0] for kernels in (True, "numpy")
    ]
    tolerance = {"float32": 1e-6, "tf32": 1e-5, "bf16": 1e-4}[precision]
    assert difference(*rows) < tolerance


@LIBRARIES
@LOWER
def test_several_networks_at_once_are_each_alone(precision, library):
    network = mlp(6, [8, 7], 3, activation="tanh")
    params = np.stack([initialize(network, seed) for seed in (0, 1)])
    together, _ = run(network, library, epochs=1, params=params, precision=precision)
    for k in range(2):
        alone, _ = run(network, library, epochs=1, params=params[k], precision=precision)
        np.testing.assert_allclose(together[..., k], alone, atol=1e-4)


@LIBRARIES
def test_a_model_predicts_in_float32(library):
    """Whatever it was trained in: the same parameters give the same predictions."""
    X, _ = examples(LARGE)
    device = named(library)
    params = device.asarray(run(LARGE, library, epochs=1, precision="bf16")[1])
    found = to_host(predict(LARGE, params, X))
    expected = to_host(predict(LARGE, to_host(params).astype(np.float64), X))
    assert difference(found, expected) < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["tf32", "fp8"])
def test_train_checks_the_precision_at_once(precision):
    X, Y = examples(SMALL)
    match = "precision must be one of" if precision == "fp8" else "got float64"
    with pytest.raises(ValueError, match=match):
        train(SMALL, X.astype(np.float64), Y, loss="softmax_cross_entropy", precision=precision)


@pytest.mark.parametrize("kernels", ["numpy", pytest.param(True, marks=NUMBA)])
@LOWER
def test_a_step_allocates_nothing_large_once_it_is_warm(kernels, precision):
    ops = backend_of(np, kernels).operations(precision)
    assert_allocates_nothing_large(ops, optimizers.adam(1e-3))


@pytest.mark.skipif(not cuda_on_host.COMPILER, reason=cuda_on_host.NO_COMPILER)
@EACH
def test_cupy_is_told_the_precision(monkeypatch, precision):
    """Its kernels are, those of graphs too; the epoch in one launch, which multiplies by itself,
    steps aside."""
    loss, rule = losses.get("softmax_cross_entropy"), optimizers.adam(1e-3)
    run = Run(mlp(6, [8], 3), loss, rule, 16, np.dtype("float32"), precision=precision)
    small, graphs = cuda_on_host.small_on_host(), cuda_on_host.graphs_on_host()
    spaces, Workspace = [], graphs.Workspace
    monkeypatch.setattr(
        graphs, "Workspace", lambda *args: spaces.append(Workspace(*args)) or spaces[-1]
    )
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.workspace", cuda_on_host.on_host())
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.small_network", small)
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.graphs", graphs)
    xp = ModuleType("array_api_compat.cupy")
    xp.__dict__.update({k: v for k, v in vars(select("cpu").xp).items() if k[:2] != "__"})
    backend = backend_of(xp)
    ops = backend.operations(precision)
    one_launch, *_ = backend.fused_epochs(run, ops)
    assert isinstance(one_launch, FusedEpoch) == (precision == "float32")
    rng = np.random.default_rng(0)
    X, W = (rng.standard_normal(shape).astype(np.float32) for shape in ((70, 60), (60, 40)))
    for kernels in (ops, spaces[0].kernels()):
        A = kernels[dense](X, W, np.zeros((1, 40), np.float32), get("identity"))[1]
        assert_within(A, *exact(X, W, precision))


# What PyTorch and JAX do by themselves


class Witness:
    """An activation that writes down what it finds while a network computes."""

    def __init__(self, look):
        self.look, self.seen = look, []

    @property
    def network(self):
        def forward(Z, *, xp):
            self.seen.append(self.look())
            return xp.tanh(Z)

        def vjp(dA, Z, A, *, xp):
            self.seen.append(self.look())
            return dA * (1.0 - A * A)

        return mlp(6, [8], 3, activation=Activation("witness", forward, vjp, ()))


def torch_setting():
    import torch

    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return matmul.fp32_precision


@contextmanager
def torch_set(name):
    """PyTorch as a process may have set it, by its older or its newer functions."""
    torch = pytest.importorskip("torch")
    newer = hasattr(torch.backends.cuda.matmul, "fp32_precision")
    try:
        if name in ("high", "medium"):
            torch.set_float32_matmul_precision(name)
        elif name is not None:
            if not newer:
                pytest.skip("needs PyTorch 2.9")
            place = {"all": torch.backends, "cuda": torch.backends.cuda.matmul}[name]
            place.fp32_precision = "tf32"
        yield
    finally:
        if newer:
            torch.backends.fp32_precision = "none"
            torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")
        if newer:
            torch.backends.cuda.matmul.fp32_precision = "none"
            torch.backends.mkldnn.matmul.fp32_precision = "none"


def torch_state():
    import torch

    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return torch.get_float32_matmul_precision()
    return tuple(
        place.fp32_precision
        for place in (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    )


@pytest.mark.parametrize("process", [None, "high", "medium", "all", "cuda"])
@EACH
def test_torch_computes_as_the_run_says_and_not_as_the_process_is_set(process, precision):
    wanted = "tf32" if precision == "tf32" else "ieee"
    with torch_set(process):
        before, witness = torch_state(), Witness(torch_setting)
        _, params = run(witness.network, "torch:cpu", epochs=1, precision=precision)
        assert set(witness.seen) == {wanted}
        assert len(witness.seen) > 20
        assert torch_state() == before
        witness.seen.clear()
        X, _ = examples(witness.network)
        predict(witness.network, named("torch:cpu").asarray(params), X)
        assert witness.seen == ["ieee"]
        assert torch_state() == before


def test_torch_is_set_back_when_a_run_fails():
    with torch_set("high"):
        before = torch_state()
        X, Y = examples(SMALL)
        with pytest.raises(FloatingPointError):
            list(
                train(SMALL, X * np.float32(1e30), Y, loss="softmax_cross_entropy", epochs=3,
                      optimizer=optimizers.gradient_descent(1e30), device="torch:cpu")
            )  # fmt: skip
        assert torch_state() == before


def test_torch_is_not_set_between_epochs():
    with torch_set(None):
        before = torch_state()
        X, Y = examples(SMALL)
        for _ in train(SMALL, X, Y, loss="softmax_cross_entropy", epochs=2, device="torch:cpu",
                       precision="tf32"):  # fmt: skip
            assert torch_state() == before


def test_threads_that_want_another_setting_of_torch_wait_for_it():
    with torch_set("high"):
        before, seen, entered, go = torch_state(), [], threading.Event(), threading.Event()

        def first():
            with backend_of(named("torch:cpu").xp).ieee_products("tf32"):
                entered.set()
                go.wait(10)
                seen.append(("tf32", torch_setting()))

        def others(precision):
            with backend_of(named("torch:cpu").xp).ieee_products(precision):
                seen.append((precision, torch_setting()))

        threads = [threading.Thread(target=first)]
        threads += [threading.Thread(target=others, args=(p,)) for p in ("float32", "bf16", "tf32")]
        threads[0].start()
        assert entered.wait(10)
        for thread in threads[1:]:
            thread.start()
        threads[3].join(10)  # it wants what the first one wants, and goes on
        assert seen == [("tf32", "tf32")]
        go.set()
        for thread in threads:
            thread.join(10)
        assert sorted(seen[2:]) == [("bf16", "ieee"), ("float32", "ieee")]
        assert torch_state() == before


def test_within_a_run_torch_stays_as_it_is():
    """As when a metric asks a model for predictions: it does not wait for itself."""
    with torch_set(None):
        xp = named("torch:cpu").xp
        with backend_of(xp).ieee_products("tf32"), backend_of(xp).ieee_products("float32"):
            assert torch_setting() == "tf32"


def test_bfloat16_products_of_torch_keep_their_sums(monkeypatch):
    """As on a CUDA device, whose products of bfloat16 matrices have float32 results."""
    torch = pytest.importorskip("torch")
    from nnaccel.kernels import torch as kernels_of_torch

    calls, mm = [], torch.mm

    def product(X, Y, *, out_dtype, out=None):
        assert X.dtype == Y.dtype == torch.bfloat16
        assert out_dtype == torch.float32
        calls.append(out)
        return mm(X.float(), Y.float(), out=out)

    expected = run(LARGE, "torch:cpu", precision="bf16")
    monkeypatch.setattr(kernels_of_torch, "multiplies_bf16", lambda device: True)
    monkeypatch.setattr(torch, "mm", product)
    found = run(LARGE, "torch:cpu", precision="bf16")
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert any(out is not None for out in calls)  # gradients, where they belong


def test_a_device_says_whether_it_multiplies_bfloat16(monkeypatch):
    torch = pytest.importorskip("torch")
    from nnaccel.kernels.torch import multiplies_bf16

    ask = multiplies_bf16.__wrapped__
    for error in (TypeError("no out_dtype"), NotImplementedError("CPU"), RuntimeError("cuBLAS")):
        monkeypatch.setattr(torch, "mm", lambda *args, error=error, **options: raise_(error))
        assert not ask(torch.device("cpu"))
    monkeypatch.setattr(torch, "mm", lambda X, Y, *, out_dtype: X.to(out_dtype))
    assert ask(torch.device("cpu"))


def raise_(error):
    raise error


@pytest.mark.parametrize(
    "library",
    [
        *("cpu", "torch:cpu", "jax:cpu"),
        *(pytest.param(name, marks=pytest.mark.gpu) for name in ("cuda", "torch:cuda", "jax:gpu")),
    ],
)
@EACH
def test_how_precise_a_device_is(library, precision):
    """Where a process has asked for TF32 in everything; a GPU may cut digits off for it."""
    rng, device = np.random.default_rng(0), named(library)
    X, W = rng.standard_normal((2, 512, 512)).astype(np.float32)
    whole, args = X.astype(np.float64) @ W, (X, W, np.zeros((1, 512), np.float32))
    with torch_set("high") if library.startswith("torch") else nullcontext():
        ops = backend_of(device.xp).operations(precision)
        with device.context(), backend_of(device.xp).ieee_products(precision):
            A = to_host(ops[dense](*map(device.asarray, args), get("identity"))[1])
    error = np.abs(A - whole).max() / np.abs(whole).max()
    lowest, highest = {
        "float32": (0.0, 2e-6), "tf32": (5e-5, 2e-3), "bf16": (5e-4, 1e-2)
    }[precision]  # fmt: skip
    assert lowest < error < highest
    if precision == "bf16":
        assert_within(A, *exact(X, W, precision))


def dots(precision, platform, context=nullcontext):
    """The products in the program of a training step for a platform, as JAX writes them."""
    jax = pytest.importorskip("jax")
    xp = named("jax:cpu").xp
    network, rule = LARGE, optimizers.adam(1e-3)
    ops = backend_of(xp).operations(precision)
    params = xp.asarray(initialize(network), dtype=xp.float32)
    X, Y = examples(network)
    data = Data(xp.asarray(X), xp.asarray(Y))
    loss = losses.get("softmax_cross_entropy")
    step = make_step(Run(network, loss, rule, 32, xp.dtype("float32")), ops)
    traced = jax.jit(step).trace(params, rule.init(params, xp=xp), data, xp.arange(32))
    with context():
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 8  # three for each layer, but dX of the first
    return products, text


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_programs_of_jax_are_ieee_in_float32(platform):
    products, text = dots("float32", platform)
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
    assert "reduce_precision" not in text


def test_programs_of_jax_use_the_units_of_a_gpu():
    products, text = dots("tf32", "cuda")
    assert all("precision = [HIGH, HIGH]" in line for line in products)
    assert "reduce_precision" not in text
    products, text = dots("tf32", "cpu")
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
    assert text.count("format = e8m10") == 2 * len(products)
    for platform in ("cpu", "cuda", "tpu"):
        products, _ = dots("bf16", platform)
        for line in products:
            *operands, result = [part.rpartition("x")[2] for part in line.split("tensor<")[1:]]
            assert [part[:4] for part in operands] == ["bf16", "bf16"]
            assert result.startswith("f32")


def test_jax_multiplies_in_ieee_whatever_the_process_has_set():
    """Also what no kernel does: a layer of a user, and the definitions, which predict."""
    jax = pytest.importorskip("jax")
    witness = Witness(lambda: jax.config.jax_default_matmul_precision)
    with jax.default_matmul_precision("bfloat16"):
        _, params = run(witness.network, "jax:cpu", epochs=1, precision="bf16")
        predict(witness.network, named("jax:cpu").asarray(params), examples(witness.network)[0])
        assert jax.config.jax_default_matmul_precision == "bfloat16"
    assert {*witness.seen} == {"highest"}


def test_float32_is_the_plain_product():
    rng = np.random.default_rng(0)
    X, W, b = (rng.standard_normal(s).astype(np.float32) for s in ((7, 5), (5, 3), (1, 3)))
    np.testing.assert_array_equal(dense(X, W, b, get("identity"), xp=np)[0], X @ W + b)
