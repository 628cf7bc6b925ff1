"""Matrix products by cuBLASLt: without a GPU, with a library of the same functions on the host."""

import ctypes
import gc
import json
import logging
import re
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnaccel.devices.device import to_host
from tests.conftest import named
from tests.kernels.cuda import cuda_on_host

HOST = pytest.mark.skipif(not cuda_on_host.COMPILER, reason=cuda_on_host.NO_COMPILER)
HEADERS = pytest.mark.skipif(
    not (cuda_on_host.COMPILER and cuda_on_host.header_folders()),
    reason="needs g++ and cublasLt.h, as of the package nvidia-cublas; CUDA_PATH says where",
)

IN_TURN, IN_EIGHT, HALVES, IN_PLACE = range(4)  # algorithms of cublaslt_on_host.cpp
BITS = {"float32": 23, "float64": 52, "tf32": 10, "bf16": 7}  # of the fractions
ERROR = {"float64": 1e-14, "float32": 2e-6, "uint16": 2**-8}  # of sums, by their type


def rounded(x, bits):
    """To the nearest number with so many bits after the first, ties to even; by arithmetic."""
    _, exponent = np.frexp(x)
    unit = np.ldexp(1.0, exponent - 1 - bits)
    return np.rint(x / unit) * unit


def stored(x, precision):
    """The array as products of that precision take it: bfloat16 as its bits."""
    if precision != "bf16":
        return x.astype("float64" if precision == "float64" else "float32")
    bits = rounded(x.astype(np.float64), 7).astype(np.float32).view(np.uint32)
    return (bits >> 16).astype(np.uint16)


def draws(seed=0):
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape)


@pytest.fixture
def module(monkeypatch):
    """The plans of products on the host, with none of other tests."""
    found = cuda_on_host.modules_on_host().product_plan
    monkeypatch.setattr(found, "_plans", {})
    costs = 4.0, 2.0, 3.0, 1.0
    yield found
    for kind, cost in enumerate(costs):
        cuda_on_host.cublaslt().host_cost(kind, cost)
    cuda_on_host.cublaslt().host_force_tf32(0)
    cuda_on_host.cublaslt().host_keep_order(0)


def room():
    return np.empty(cuda_on_host.modules_on_host().cublaslt.WORKSPACE, np.uint8)


def product(module, X, Y, out, precision="float32"):
    """X Y by a plan, which it returns."""
    workspace = room()
    plan = module.product_plan(X, Y, out, workspace, tf32=precision == "tf32")
    places = (module.address(x) for x in (X, Y, out, workspace))
    plan(*places, 0)
    return plan


# The interface


@HEADERS
def test_numbers_and_structures_are_those_of_the_headers(tmp_path):
    """Ours, and those of the declarations that stand in for the headers where there are none."""
    module = cuda_on_host.modules_on_host().cublaslt
    numbers = {k: v for k, v in vars(module.header).items() if k.startswith("CU")}
    declarations = cuda_on_host.HEADER.with_name("cublaslt_on_host.h").read_text()
    pairs = re.findall(r"\b(CU[A-Z]\w+)(?: = | )(\(.*\)|0x\w+|\d+)", declarations)
    assert len(pairs) > 25
    assert len(numbers) > 20
    lines = [f"static_assert({k} == {v});" for k, v in [*numbers.items(), *pairs]]
    whole = "cublasLtMatmulHeuristicResult_t"
    lines.append(f"static_assert(sizeof({whole}) == {ctypes.sizeof(module.Algorithm)});")
    fields = {"algorithm": "algo", "workspace": "workspaceSize", "state": "state"}
    lines += [
        f"static_assert(offsetof({whole}, {theirs}) == {getattr(module.Algorithm, ours).offset});"
        for ours, theirs in fields.items()
    ]
    source = tmp_path / "numbers.cpp"
    source.write_text("#include <cublasLt.h>\n#include <cstddef>\n" + "\n".join(lines))
    folders = [flag for path in cuda_on_host.header_folders() for flag in ("-isystem", path)]
    command = [cuda_on_host.COMPILER, "-std=c++17", "-fsyntax-only", *folders, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@HOST
def test_the_stand_in_compiles_without_the_headers(tmp_path):
    source = cuda_on_host.HEADER.with_name("cublaslt_on_host.cpp")
    flags = "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"
    done = subprocess.run([cuda_on_host.COMPILER, *flags, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@HEADERS
def test_the_library_itself_takes_what_it_is_told(module, monkeypatch):
    """It needs no GPU for descriptions; it needs one for a handle, and says so in our words."""
    lib = Path(cuda_on_host.header_folders()[0]).with_name("lib")
    paths = sorted(lib.glob("libcublasLt.so.*"))
    if not paths:
        pytest.skip("needs libcublasLt beside its headers")
    binding = cuda_on_host.modules_on_host().cublaslt
    library = binding.declared(ctypes.CDLL(str(paths[-1])))
    for part in (binding, module):
        monkeypatch.setattr(part, "library", lambda: library)
    made = ctypes.c_void_p()
    if library.cublasLtCreate(ctypes.byref(made)):
        with pytest.raises(RuntimeError, match="^cublasLtCreate of cuBLASLt .*NOT_INITIALIZED"):
            module.handle.__wrapped__(0)
    monkeypatch.setattr(module, "handle", lambda _: 0)
    draw = draws()
    for X, Y, precision in (
        (draw(3, 5), draw(5, 4), "float64"),
        (draw(5, 3).T, draw(4, 5).T, "tf32"),
        (draw(2, 3, 5), draw(5, 4), "float32"),
        (draw(3, 5), draw(2, 5, 4), "bf16"),
    ):
        X, Y = stored(X, precision), stored(Y, precision)
        shape = (*(2,) * (max(X.ndim, Y.ndim) - 2), 3, 4)
        out = np.empty(shape, "float64" if precision == "float64" else "float32")
        plan = module.ProductPlan(module.problem_of(X, Y, out, precision == "tf32"), 0)
        assert plan.candidates() == []  # having set every preference
        assert plan.run(*([0] * 5)) != 0
    X, Y, out = (np.ones(s, np.float32) for s in ((2, 3, 5), (2, 5, 128), (2, 3, 128)))
    mask, db = np.zeros((2, 3, 4), np.uint32), np.empty((2, 1, 128), np.float32)
    problem = module.with_relu(module.problem_of(X, Y, out, False), mask, db)
    plan = module.ProductPlan(problem, 0)
    plan.point_to(16, 32)
    assert plan.candidates() == []


# The products


def layouts(x):
    """The same numbers as they may lie in memory."""
    yield "rows", x
    yield "columns", x.swapaxes(-1, -2).copy().swapaxes(-1, -2)
    roomy = np.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)
    roomy[..., : x.shape[-1]] = x
    yield "part of wider rows", roomy[..., : x.shape[-1]]
    odd = np.empty(x.size + 1, x.dtype)[1:].reshape(x.shape)
    odd[...] = x
    yield "at an odd place", odd


@HOST
@pytest.mark.parametrize("precision", BITS)
@pytest.mark.parametrize("shape", [(4, 8, 16), (1, 5, 3), (6, 1, 4), (7, 9, 1), (1, 1, 1)])
@pytest.mark.parametrize("lead", [((), ()), ((3,), (3,)), ((), (3,)), ((3,), ()), ((1,), (3,))])
def test_products_are_those_of_rounded_factors(module, precision, shape, lead):
    """For every place in memory that the library reads without a copy."""
    (N, D, H), draw = shape, draws()
    name = "float64" if precision == "float64" else "float32"
    X, Y = (x.astype(name) for x in (draw(*lead[0], N, D), draw(*lead[1], D, H)))
    expected = np.matmul(*(rounded(x.astype(np.float64), BITS[precision]) for x in (X, Y)))
    X, Y = stored(X, precision), stored(Y, precision)
    out_types = [name, "uint16"] if precision == "bf16" else [name]
    for label, x in layouts(X):
        for other, y in layouts(Y):
            for name in out_types:
                out = np.full(expected.shape, 12345, name)
                product(module, x, y, out, precision)
                found = out
                if name == "uint16":
                    found = (out.astype(np.uint32) << 16).view(np.float32)
                error = ERROR[name] * D
                np.testing.assert_allclose(
                    found, expected, rtol=error, atol=error, err_msg=f"{label}, {other}"
                )


# Products that end with the derivative of ReLU


def masked(lead, N=9, D=5, H=256, precision="float32"):
    """The arrays of such a product, those of db in a larger vector, and what it has to give."""
    draw = draws()
    X, Y, bits = draw(*lead, N, D), draw(*lead, D, H), draw(*lead, N, H) > 0
    X, Y = X.astype(np.float32), Y.astype(np.float32)
    mask = np.packbits(bits, axis=-1, bitorder="little").view(np.uint32)
    exact = np.matmul(*(rounded(x.astype(float), BITS[precision]) for x in (X, Y))) * bits
    db = np.full((*lead, H + 24), 7.0, np.float32)[..., None, 4 : H + 4]
    return X, Y, mask, db, exact


@HOST
@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("lead", [(), (1,), (3,)])
def test_a_product_may_end_with_relu_and_the_sum_of_rows(module, precision, lead):
    X, Y, mask, db, exact = masked(lead, precision=precision)
    for label, y in layouts(Y):
        out, workspace = np.full(exact.shape, 9.0, np.float32), room()
        tf32 = precision == "tf32"
        plan = module.product_plan(X, y, out, workspace, tf32=tf32, relu=(mask, db))
        plan.point_to(module.address(mask), module.address(db))
        plan(*(module.address(x) for x in (X, y, out, workspace)), 0)
        np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-5, err_msg=label)
        np.testing.assert_allclose(db, exact.sum(-2, keepdims=True), rtol=1e-4, atol=1e-4)
        assert not out[exact == 0].any()
    around = db.base
    assert (around[..., :4] == 7).all()
    assert (around[..., 260:] == 7).all()


@HOST
def test_the_library_is_told_of_an_end_what_its_header_asks_for(module, monkeypatch):
    """Each attribute with its number, its size and its value."""
    X, Y, mask, db, exact = masked((3,))
    told, Description = [], module.Description
    put = Description.put

    def watched(self, attribute, value):
        if self.kind == "MatmulDesc":
            told.append((attribute, ctypes.sizeof(value), value.value))
        put(self, attribute, value)

    monkeypatch.setattr(Description, "put", watched)
    out = np.empty(exact.shape, np.float32)
    plan = module.product_plan(X, Y, out, room(), tf32=False, relu=(mask, db))
    at = module.address(mask), module.address(db)
    told.clear()
    plan = plan.again()
    plan.point_to(*at)
    # DRELU_BGRAD; bits from row to row and from mask to mask; numbers from db to db; the pointers.
    ends = [
        (7, 4, 152),
        (12, 8, 256),
        (13, 8, 9 * 256),
        (10, 8, 280),
        (11, 8, at[0]),
        (8, 8, at[1]),
    ]
    assert told == ends
    before = len(told)
    plan.point_to(*at)  # where it points already
    assert len(told) == before
    assert plan.problem.relu == (9 * 256, 280, tuple(min(256, x & -x) for x in at))


@HOST
def test_runs_that_take_turns_have_masks_of_their_own(module):
    """As two threads may: what one says of its arrays is not said to the other."""
    runs = [masked((), N=9), masked((), N=9)]
    runs[1][2][...] ^= 0xFFFFFFFF  # the other numbers
    plans, outs = [], [np.empty(runs[0][-1].shape, np.float32) for _ in runs]
    for (X, Y, mask, db, _), out in zip(runs, outs, strict=True):
        plans.append(module.product_plan(X, Y, out, room(), tf32=False, relu=(mask, db)))
        plans[-1].point_to(module.address(mask), module.address(db))
    workspace = room()
    for (X, Y, *_), out, plan in zip(runs, outs, plans, strict=True):
        plan(*(module.address(x) for x in (X, Y, out, workspace)), 0)
    np.testing.assert_allclose(outs[0], runs[0][-1], rtol=1e-5, atol=1e-5)
    assert not (outs[0] * outs[1]).any()
    assert np.all((outs[0] != 0) | (outs[1] != 0))


@HOST
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda X, Y, out, m, db: (X[..., :1], Y[:1], out, m, db), "ReLU stays out of a product"),
        (lambda *arrays: tuple(x.astype(float) for x in arrays[:3]) + arrays[3:], None),
        (lambda X, Y, out, m, db: (X, Y, out, m, db.astype(float)), None),
        (lambda X, Y, out, m, db: (X, Y[:, :96], out[:, :96].copy(), m, db), None),
        (lambda X, Y, out, m, db: (X, Y[:, :128], out[:, :128], m, db), None),
        (lambda X, Y, out, m, db: (X, Y, out, m[:, :7], db), None),
        (
            lambda X, Y, out, m, db: (
                *(x.astype(np.uint16) for x in (X, Y, out)),
                m,
                db,
            ),
            None,
        ),
    ],
    ids=["one input", "float64", "db of float64", "96 columns", "wide rows", "mask", "bfloat16"],
)
def test_what_cannot_end_with_relu_has_no_plan(module, change, says, caplog):
    caplog.set_level(logging.DEBUG, "nnaccel")
    X, Y, mask, db, exact = masked(())
    X, Y, out, mask, db = change(X, Y, exact.astype(np.float32), mask, db)
    assert module.product_plan(X, Y, out, room(), tf32=False, relu=(mask, db)) is None
    assert [says in r.getMessage() for r in caplog.records] == ([] if says is None else [True])


@HOST
def test_products_write_into_stacks_of_a_larger_vector(module):
    """As the gradients of several networks lie."""
    draw = draws()
    X, Y, flat = draw(3, 4, 5), draw(3, 5, 6), np.zeros((3, 40))
    out = flat[:, 3:27].reshape(3, 4, 6)
    assert np.shares_memory(out, flat)
    product(module, X, Y, out)
    np.testing.assert_allclose(out, X @ Y, rtol=1e-12)
    assert not flat[:, :3].any()
    assert not flat[:, 27:].any()


@HOST
def test_float32_is_ieee_even_if_the_library_prefers_tf32(module):
    draw = draws()
    X, Y = (x.astype(np.float32) for x in (draw(8, 16), draw(16, 8)))
    out, exact = np.empty((8, 8), np.float32), X.astype(np.float64) @ Y.astype(np.float64)
    for forced in (0, 1):
        cuda_on_host.cublaslt().host_force_tf32(forced)
        module._plans.clear()
        product(module, X, Y, out)
        np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-6)
        product(module, X, Y, out, "tf32")
        assert 1e-4 < np.abs(out - exact).max() < 1e-2


def sliding(x, width):
    return np.lib.stride_tricks.sliding_window_view(x, width)


@HOST
@pytest.mark.parametrize(
    "make",
    [
        lambda x: (x[::2, ::2], x[:3, :4], np.empty((3, 4))),
        lambda x: (x[:3, :3], x[:3, :3], np.empty((3, 3)).T),
        lambda x: (x[:3, :3], x[:3, :4].astype(np.float32), np.empty((3, 4))),
        lambda x: (x[:3, :3], x[:3, :4], np.empty((3, 4), np.float32)),
        lambda x: (*(np.ones((3, 3), np.int64) for _ in range(3)),),
        lambda x: (x[None, None, :3, :3], x[:3, :4], np.empty((1, 1, 3, 4))),
        lambda x: (np.stack([x[:3, :3]] * 2), np.stack([x[:3, :3]] * 3), np.empty((3, 3, 3))),
        lambda x: (x[:3, :3], x[2::-1, :4], np.empty((3, 4))),
        lambda x: (np.stack([x[:3, :3]] * 3)[::-1], x[:3, :3], np.empty((3, 3, 3))),
        lambda x: (np.broadcast_to(x[:1, :3], (3, 3)), x[:3, :3], np.empty((3, 3))),
        lambda x: (np.broadcast_to(x[:3, :1], (3, 3)), x[:3, :3], np.empty((3, 3))),
        lambda x: (sliding(x[0], 3), x[:3, :3], np.empty((4, 3))),
    ],
)
def test_what_it_cannot_take_has_no_plan(module, make, caplog):
    caplog.set_level(logging.DEBUG, "nnaccel")
    arrays = make(np.ones((6, 6)))
    assert module.product_plan(*arrays, room(), tf32=False) is None


@HOST
def test_a_product_without_an_algorithm_says_so_once(module, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "nnaccel")
    monkeypatch.setattr(module.ProductPlan, "candidates", lambda _: [])
    X = np.ones((3, 3))
    for _ in range(2):
        assert module.product_plan(X, X, np.empty((3, 3)), room(), tf32=False) is None
    (record,) = caplog.records
    assert "no algorithm for Problem" in record.getMessage()


@HOST
def test_without_the_library_products_are_cupys(module, monkeypatch, caplog):
    """One line in the log; the results are the same."""
    cuda_on_host.cublaslt()  # compiled and loaded before nothing can be
    caplog.set_level(logging.DEBUG, "nnaccel")
    modules = cuda_on_host.modules_on_host()
    lost = cuda_on_host.loaded_on(module.cupy, lambda _: None)

    def missing(name):
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr(lost.cublaslt.ctypes, "CDLL", missing)
    monkeypatch.setattr(lost.cublaslt, "import_module", missing)
    monkeypatch.setattr(lost.product_plan, "address", module.address)
    monkeypatch.setattr(modules.products, "product_plan", lost.product_plan.product_plan)
    draw, multiply = draws(), modules.workspace.Workspace(np).products.matmul
    X, Y = draw(4, 5), draw(5, 6)
    for out in (np.empty((4, 6)), np.empty((4, 9))[:, :6]):
        np.testing.assert_allclose(multiply(X, Y, out), X @ Y)
    (record,) = caplog.records
    assert re.search("cannot be loaded: libcublasLt.so.13: no such file", record.getMessage())


@HOST
def test_errors_name_the_call_and_the_status(module):
    X, out = np.ones((4, 4)), np.empty((4, 4))
    plan = product(module, X, X, out)
    start = r"^cublasLtMatmul of cuBLASLt 130000 ended with CUBLAS_STATUS_INVALID_VALUE \(7\): "
    for wrong in ([X, X, X], [X, X, out[1:]]):
        places = [module.address(x) for x in wrong]
        places[2] += 4 if wrong[2] is not X else 0
        with pytest.raises(RuntimeError, match=start) as caught:
            plan(*places, module.address(room()), 0)
    assert "device='cpu'" in str(caught.value)
    with pytest.raises(RuntimeError, match="^cublasLtMatrixLayoutSetAttribute of"):
        cuda_on_host.modules_on_host().cublaslt.Description("MatrixLayout", 0, 3, 3, 3).put(
            5, ctypes.c_int64(2)
        )


@HOST
def test_what_is_made_in_the_library_goes_with_its_plan(module):
    gc.collect()
    before = cuda_on_host.cublaslt().host_objects()
    X = np.ones((3, 3))
    product(module, X, X, np.empty((3, 3)))
    assert cuda_on_host.cublaslt().host_objects() == before + 4
    module._plans.clear()
    gc.collect()
    assert cuda_on_host.cublaslt().host_objects() == before


# The choice of an algorithm


@pytest.fixture
def choice():
    """The module that chooses algorithms, on the host."""
    return cuda_on_host.modules_on_host().algorithm_choice


@pytest.fixture
def choose(module, choice, monkeypatch, tmp_path):
    """The algorithm for a product of the host's library in a new process, by its costs."""
    monkeypatch.setattr(choice, "cache_folder", lambda: tmp_path / "kernels")
    draw = draws()
    X, Y = draw(8, 16), draw(16, 8)

    def kind(*costs, X=X, dtype="float64"):
        module._plans.clear()
        for number, cost in enumerate(costs):
            cuda_on_host.cublaslt().host_cost(number, cost)
        plan = product(
            module, X.astype(dtype, copy=False), Y.astype(dtype), np.empty((8, 8), dtype)
        )
        return plan.algorithm.algorithm[0]

    return kind


@HOST
@pytest.mark.parametrize("best", [IN_TURN, IN_EIGHT, HALVES])
def test_the_fastest_is_taken_and_kept(choose, tmp_path, best):
    costs = [10.0] * 3
    costs[best] = 1.0
    assert choose(*costs) == best
    (path,) = (tmp_path / "kernels").iterdir()
    note = json.loads(path.read_text())
    assert note["algorithm"] == best
    assert note["microseconds"] == [4e3 * cost for cost in costs]  # of four products
    assert note["product"].startswith("130000 (b'host', 1, 3) Problem(Y=Matrix(type=1, rows=8, ")
    assert choose(1.0, 10.0, 10.0) == best  # another process, in which the times are different
    path.unlink()
    assert choose(1.0, 10.0, 10.0) == IN_TURN


@HOST
def test_a_hair_does_not_count(choose):
    assert choose(1.0, 0.99, 0.98) == IN_TURN


@HOST
def test_small_products_are_timed_on_the_device_and_not_on_the_host(choice, monkeypatch):
    """A launch takes the host longer than either algorithm takes the device."""
    launch, clearing = 5.0, 10.0
    clock = {"host": 0.0, "device": 0.0}

    def enqueue(cost):
        clock["host"] += launch
        clock["device"] = max(clock.values()) + cost
        return 0

    class Event:
        def record(self, stream):
            enqueue(0.0)
            self.time = clock["device"]

        def synchronize(self):
            clock["host"] = max(clock.values())

    costs = {"slow": 4.0, "quick": 2.0}
    plan = SimpleNamespace(run=lambda *_: enqueue(costs[plan.algorithm]))
    plan.choose = partial(setattr, plan, "algorithm")
    monkeypatch.setattr(choice.cupy.cuda, "Event", Event)
    monkeypatch.setattr(choice.cupy.cuda.runtime, "memsetAsync", lambda *_: enqueue(clearing))
    plan.sums_in_place = lambda _: False
    found = choice.fastest(plan, list(costs), range(4), SimpleNamespace(ptr=0), None)
    assert found == (1, [16e3, 8e3])


@HOST
def test_algorithms_within_a_tenth_are_timed_again(choice, monkeypatch):
    """A disturbance of the first rounds, here of the faster one, does not decide."""
    costs, calls, clock = {"slow": 10.0, "quick": 9.6, "slowest": 20.0}, Counter(), [0.0]

    def run(*_):
        calls[plan.algorithm] += 1
        disturbed = plan.algorithm == "quick" and calls["quick"] <= 1 + 3 * 4
        clock[0] += costs[plan.algorithm] + (0.8 if disturbed else 0.0)
        return 0

    class Event:
        def record(self, stream):
            self.time = clock[0]

        def synchronize(self):
            pass

    plan = SimpleNamespace(run=run, sums_in_place=lambda _: False)
    plan.choose = partial(setattr, plan, "algorithm")
    monkeypatch.setattr(choice.cupy.cuda, "Event", Event)
    monkeypatch.setattr(choice.cupy.cuda.runtime, "memsetAsync", lambda *_: None)
    best, times = choice.fastest(plan, list(costs), range(4), SimpleNamespace(ptr=0), None)
    assert best == 1
    np.testing.assert_allclose(times, [40e3, 38.4e3, 80e3])
    assert calls["slowest"] == 1 + 3 * 4
    assert calls["slow"] == calls["quick"] == 1 + 3 * 4 + 1 + 12 * 4


@HOST
def test_a_choice_can_be_made_anew(choose, tmp_path, monkeypatch):
    """By a switch, for one that was made beside other load; then it is kept again."""
    assert choose(10.0, 5.0, 1.0) == HALVES
    monkeypatch.setenv("NNACCEL_CHOOSE_ALGORITHMS", "1")
    assert choose(1.0, 5.0, 10.0) == IN_TURN
    monkeypatch.delenv("NNACCEL_CHOOSE_ALGORITHMS")
    assert choose(10.0, 5.0, 1.0) == IN_TURN
    (path,) = (tmp_path / "kernels").iterdir()
    assert json.loads(path.read_text())["microseconds"] == [4e3, 20e3, 40e3]


@HOST
def test_sums_without_an_order_are_never_taken(choose, module, monkeypatch):
    assert choose(10.0, 5.0, 5.0, 0.01, dtype="float32") == IN_EIGHT
    monkeypatch.setattr(module, "IN_PLACE", True)
    assert choose(10.0, 5.0, 6.0, 0.01, dtype="float32") == IN_EIGHT


@HOST
def test_sums_in_the_output_have_to_show_their_order(choose, module, choice, monkeypatch, tmp_path):
    """Where they may be taken at all, which is for results of float32."""
    cuda_on_host.cublaslt().host_keep_order(1)
    assert choose(10.0, 5.0, 6.0, 0.01, dtype="float32") == IN_EIGHT
    monkeypatch.setattr(module, "IN_PLACE", True)
    assert choose(10.0, 5.0, 6.0, 0.01) == IN_EIGHT
    runs, run = [], module.ProductPlan.run
    monkeypatch.setattr(module.ProductPlan, "run", lambda *args: runs.append(1) or run(*args))
    assert choose(10.0, 5.0, 6.0, 0.01, dtype="float32") == IN_PLACE
    assert len(runs) == 4 * (1 + 3 * 4) + 1000 + 1
    notes = [json.loads(path.read_text()) for path in (tmp_path / "kernels").iterdir()]
    assert sorted(note["algorithm"] for note in notes) == [IN_EIGHT, IN_EIGHT, IN_PLACE]


@HOST
def test_what_fails_when_it_is_timed_is_not_taken(choose):
    assert choose(10.0, -1.0, 5.0) == HALVES


@HOST
def test_an_algorithm_for_aligned_arrays_is_not_for_others(choose):
    costs, odd = (10.0, 1.0, 20.0), np.ones(8 * 16 + 1)[1:].reshape(8, 16)
    assert odd.ctypes.data % 16
    assert choose(*costs) == IN_EIGHT
    assert choose(*costs, X=odd) == IN_TURN


@HOST
def test_of_two_processes_that_choose_at_once_the_first_counts(choice, tmp_path):
    path = tmp_path / "a choice"
    assert [choice.keep(path, {"algorithm": number}) for number in (2, 1)] == [2, 2]
    assert list(tmp_path.iterdir()) == [path]


@HOST
def test_where_nothing_can_be_kept_the_first_is_taken(choose, choice, monkeypatch, tmp_path):
    (tmp_path / "kernels").write_text("not a folder")
    assert choose(10.0, 5.0, 1.0) == IN_TURN
    monkeypatch.setattr(choice, "cache_folder", lambda: None)
    assert choose(10.0, 5.0, 1.0) == IN_TURN


@HOST
@pytest.mark.parametrize("text", ["", "seven", '{"algorithm": 7}', '{"algorithm": -1}', "[]"])
def test_a_broken_note_counts_for_nothing(choose, tmp_path, text):
    assert choose(10.0, 5.0, 1.0) == HALVES
    (path,) = (tmp_path / "kernels").iterdir()
    path.write_text(text)
    assert choose(10.0, 5.0, 1.0) == IN_TURN


@HOST
def test_nothing_is_timed_while_a_stream_is_captured(choose, choice, monkeypatch, tmp_path):
    """The first is taken, or what another process has chosen before."""
    now = SimpleNamespace(ptr=0, is_capturing=lambda: True)
    monkeypatch.setattr(choice.cupy.cuda, "get_current_stream", lambda: now)
    assert choose(10.0, 5.0, 1.0) == IN_TURN
    assert not (tmp_path / "kernels").exists()
    monkeypatch.undo()
    monkeypatch.setattr(choice, "cache_folder", lambda: tmp_path / "kernels")
    assert choose(10.0, 5.0, 1.0) == HALVES
    monkeypatch.setattr(choice.cupy.cuda, "get_current_stream", lambda: now)
    assert choose(1.0, 5.0, 10.0) == HALVES


def test_choices_are_kept_beside_cupys_kernels(monkeypatch):
    modules = cuda_on_host.loaded_on(cuda_on_host.stand_in(), lambda _: None)
    folder = modules.algorithm_choice.cache_folder
    for name in ("CUPY_CACHE_DIR", "CUPY_CACHE_IN_MEMORY"):
        monkeypatch.delenv(name, raising=False)
    assert folder() == Path.home() / ".cupy" / "kernel_cache"
    monkeypatch.setenv("CUPY_CACHE_DIR", "/somewhere")
    assert folder() == Path("/somewhere")
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
    assert folder() is None


@pytest.mark.gpu
@pytest.mark.parametrize("precision", BITS)
@pytest.mark.parametrize("shape", [(256, 784, 512), (100, 30, 10), (1, 3, 1)])
def test_products_on_a_gpu_are_those_of_rounded_factors(precision, shape):
    """The same bits each time; and TF32 is told from float32 by its error."""
    device = named("cuda")
    (N, D, H), draw = shape, draws()
    X, Y = draw(N, D), draw(D, H)
    if precision != "float64":
        X, Y = (x.astype(np.float32).astype(np.float64) for x in (X, Y))
    with device.context():
        from nnaccel.kernels.cuda import cublaslt, workspace

        x, y = (device.asarray(stored(a, precision)) for a in (X, Y))
        space = workspace.Workspace(device.xp, "float32" if precision == "float64" else precision)
        name = "float64" if precision == "float64" else "float32"
        runs = []
        for _ in range(3):
            out = device.asarray(np.zeros((N, H), name))
            runs.append(to_host(space.products.matmul(x, y, out)))
        assert None not in space.products._plans.values()
        assert cublaslt.library() is not None
    exact = np.matmul(*(rounded(a, BITS[precision]) for a in (X, Y)))
    scale = np.abs(X) @ np.abs(Y)
    limit = {"float64": 1e-14, "tf32": 2e-3}.get(precision, 1e-6) * np.sqrt(D)
    assert (np.abs(runs[0] - exact) <= limit * scale).all()
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])
