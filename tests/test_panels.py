"""Matrix products of compiled code, against NumPy's in float64."""

import itertools
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("scipy")

from numba import njit

from nnaccel.kernels import _panels
from nnaccel.kernels._panels import by_panels, product, room_for
from nnaccel.kernels._vectors import BYTES, ROWS, processor

known = pytest.mark.skipif(not BYTES, reason="on this processor all products are the BLAS's")

# Around the ends of tiles, vectors, panels and blocks, of both dtypes and kinds of processor.
MANY = [1, 3, 4, 5, 6, 11, 12, 13, 48, 49, 97, 250]
TERMS = [1, 2, 3, 4, 7, 8, 15, 16, 17, 129, 255, 256, 257, 511, 512, 513, 1000]
WIDE = [1, 8, 16, 17, 31, 32, 33, 65, 257, 513, 1025]


# Compiled for arrays of any strides, or it would be for each combination of them.
SIGNATURES = [f"void({f}[:,:], {f}[:,:], {f}, {f}[:,:])" for f in ("float32", "float64")]


@cache
def called(multiply):
    """A product with memory of its own, as a function of Python. What the memory holds is no part
    of the result."""

    @njit(SIGNATURES)
    def function(X, Y, scale, out):
        room = room_for(out)
        room[:] = np.nan
        multiply(X, Y, scale, out, room)

    return function


def matrix(rng, rows, columns, dtype, lies):
    """By rows, by columns, or a part of a larger one by rows or by columns."""
    if lies.endswith("columns"):
        return matrix(rng, columns, rows, dtype, lies.replace("columns", "rows")).T
    gap = 5 if lies.startswith("part") else 0
    return rng.standard_normal((rows, columns + gap)).astype(dtype)[:, :columns]


def check(multiply, M, K, N, dtype, of_X, of_Y):
    rng = np.random.default_rng(0)
    X, Y = matrix(rng, M, K, dtype, of_X), matrix(rng, K, N, dtype, of_Y)
    around = np.full((M + 2, N + 3), 7.0, dtype)
    called(multiply)(X, Y, X.dtype.type(0.5), around[1:-1, 1:-2])
    expected = 0.5 * (X.astype(float) @ Y.astype(float))
    digits = 40 * np.finfo(dtype).eps * np.sqrt(K)
    np.testing.assert_allclose(around[1:-1, 1:-2], expected, rtol=digits, atol=digits)
    around[1:-1, 1:-2] = 7.0
    assert (around == 7.0).all()


@known
@pytest.mark.parametrize("of_Y", ["rows", "part columns"])
@pytest.mark.parametrize("of_X", ["part rows", "columns"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_product_by_panels(dtype, of_X, of_Y):
    """Every row, column and term is in it once, and nothing is written beside it."""
    for M, N in itertools.product(MANY, WIDE):
        check(by_panels, M, 17, N, dtype, of_X, of_Y)
    for M, K in itertools.product(MANY[::3], TERMS):
        check(by_panels, M, K, 33, dtype, of_X, of_Y)
    check(by_panels, 1201, 531, 451, dtype, of_X, of_Y)  # more than is packed at a time, of each


@pytest.mark.parametrize("lies", ["rows", "columns", "part rows", "part columns"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_all_sizes(dtype, lies):
    least = _panels.LEAST
    assert least**3 < _panels.WORK
    for M, K, N in [(1, 1, 1), (2, 9, 3), (least, 2000, least), (10, 512, 256), (130, 110, 120)]:
        check(product, M, K, N, dtype, lies, lies)
    check(product, 4, 5, 0, dtype, lies, lies)


@known
def test_any_strides():
    X, Y = np.random.default_rng(0).standard_normal((2, 120, 120))
    out = np.empty((60, 60))
    called(by_panels)(X[::2, ::2], Y[::2, ::2], 1.0, out)
    np.testing.assert_allclose(out, X[::2, ::2] @ Y[::2, ::2], atol=1e-12)


@known
def test_a_part_of_the_rows_has_the_same_bits():
    """So a team of any size learns the same."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((250, 600), "f"), rng.standard_normal((600, 300), "f")
    whole, part = np.empty((250, 300), "f"), np.empty((37, 300), "f")
    called(by_panels)(X, Y, np.float32(1), whole)
    called(by_panels)(X[100:137], Y, np.float32(1), part)
    np.testing.assert_array_equal(part, whole[100:137])


@known
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row_and_column(value):
    """Also in tiles that are filled up with zeros."""
    X, Y = np.ones((ROWS + 1, 40), "f"), np.ones((40, BYTES + 1), "f")
    X[ROWS, 3] = Y[5, BYTES] = value
    out = np.empty((ROWS + 1, BYTES + 1), "f")
    called(by_panels)(X, Y, np.float32(1), out)
    assert (out[:ROWS, :BYTES] == 40).all()
    np.testing.assert_array_equal(out[ROWS, :-1], np.full(BYTES, value))
    np.testing.assert_array_equal(out[:-1, BYTES], np.full(ROWS, value))


OUTSIDE = """
import ctypes, mmap, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_panels import by_panels, called

libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
kept = []

def at_the_end(rows, columns, dtype):
    "A matrix of ones, after which the process may not read."
    n_bytes = rows * columns * np.dtype(dtype).itemsize
    pages = -(-n_bytes // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert not libc.mprotect(ctypes.c_void_p(start + pages * page), page, 0)
    offset = pages * page - n_bytes
    array = np.frombuffer(memory, dtype, rows * columns, offset).reshape(rows, columns)
    array[:] = 1
    return array

for dtype in ("f", "d"):
    for M, K, N in [(12, 17, 32), (13, 16, 33), (6, 40, 8), (97, 257, 129)]:
        for turned in (False, True):
            X = at_the_end(K, M, dtype).T if turned else at_the_end(M, K, dtype)
            Y = at_the_end(N, K, dtype).T if turned else at_the_end(K, N, dtype)
            out = at_the_end(M, N, dtype)
            called(by_panels)(X, Y, out.dtype.type(1), out)
            assert (out == K).all()
"""


@known
@pytest.mark.skipif(sys.platform != "linux", reason="protects memory as Linux does")
def test_nothing_outside_is_read():
    command = [sys.executable, "-c", OUTSIDE, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or done


@pytest.mark.skipif(BYTES < 64, reason="needs a processor with more than the ones that are tried")
@pytest.mark.parametrize(
    ("features", "expected", "tests"),
    [
        ("+avx,+avx2,+fma,+sse4.2", (32, 6), "product_by_panels"),
        ("+sse2", (0, 0), "all_sizes"),
    ],
    ids=["AVX2", "unknown"],
)
def test_other_processors(features, expected, tests, monkeypatch):
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64")
    assert processor() == expected
    options = f"-m pytest -q -p no:cacheprovider -k {tests}".split()
    command = [sys.executable, *options, __file__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
