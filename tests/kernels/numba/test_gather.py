"""Examples brought together in compiled code, and the instructions that it is made with."""

import numpy as np
import pytest

from nnaccel import mlp
from nnaccel.maths.activations import get
from nnaccel.maths.layers import Dense, Dropout
from nnaccel.maths.network import Network
from nnaccel.training.data import Data
from tests.kernels.test_epoch import LOSSES, assert_same_run, examples, simple, trained

pytest.importorskip("numba")
pytest.importorskip("scipy")

from nnaccel.kernels.numba import gather
from nnaccel.kernels.numba.intrinsics import X86, denormals_as_zero, floating_point
from nnaccel.kernels.numba.jit import compiled

TINY = np.finfo(np.float32).tiny


@pytest.mark.parametrize("n", [1, 2, gather.AHEAD, 100])
@pytest.mark.parametrize("D", [1, 2, gather.NARROW, 16, 17, 64, 300])
@pytest.mark.parametrize("source", ["same", "uint8"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_examples_come_together(dtype, source, D, n):
    """In rows and in columns, and nothing is written beside them."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (50, D)).astype(dtype if source == "same" else source)
    index = rng.integers(0, 50, n)
    index[0] = 49
    for array in (X, index):
        array.flags.writeable = False
    rows = np.full((n + 2, D + 3), 7.0, dtype)
    gather.rows(X, index, rows[1:-1, :D])
    assert (rows[1:-1, :D] == X[index]).all()
    columns = np.full((D + 2, n + 3), 7.0, dtype)
    gather.columns(X, index, columns[1:-1, 2:-1])
    assert (columns[1:-1, 2:-1] == X[index].T).all()
    rows[1:-1, :D] = columns[1:-1, 2:-1] = 7.0
    assert (rows == 7.0).all()
    assert (columns == 7.0).all()


@pytest.mark.parametrize("D", [1, gather.NARROW, gather.NARROW + 1])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("loss", "K"), LOSSES)
def test_wide_and_narrow_examples(loss, K, size, D, team):
    team(size)
    hidden = Dense(20, get("relu"))
    network = Network(D, (Dropout(0.2), hidden, Dropout(0.3), Dense(K)))
    data = examples(loss, K, N=75, D=D, weighted=True)
    problem = simple(network, data=data, loss=loss, batch_size=32)
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


@pytest.mark.parametrize("K", [255, 256, 257, 70_000])
def test_every_class_is_known(K):
    """Also those whose numbers want more than a byte, and those beyond which there is none."""
    data = examples(N=40)
    Y = np.resize([0, K - 1, K // 2, max(0, K - 257)], 40)
    problem = simple(mlp(3, [2], K), data=Data(data.X, Y), batch_size=16)
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


@compiled
def product_without_denormals(x, y):
    mode = denormals_as_zero()
    z = x * y
    floating_point(mode)
    return z


def test_denormal_numbers_count_as_zero_for_a_while():
    one, half = np.float32(1), np.float32(0.5)
    assert product_without_denormals(TINY, one) == TINY
    for x, y in ((TINY, half), (TINY * half, one)):  # as a result and as a factor
        assert x * y > 0
        assert product_without_denormals(x, y) == (0 if X86 else x * y)
        assert x * y > 0


@pytest.mark.parametrize("size", [1, 2])
def test_training_leaves_denormal_numbers_to_others(size, team):
    team(size)
    problem = simple()
    trained(problem.small(numba=True), problem)
    assert TINY * np.float32(0.5) > 0


@pytest.mark.skipif(not X86, reason="other processors take no longer over them")
def test_training_meets_no_denormal_numbers():
    """Where all inputs are denormal the first layer sees nothing, and learns nothing."""
    data = examples(N=64, D=2)
    X = np.full((64, 2), TINY * np.float32(0.25))
    problem = simple(mlp(2, [4], 3), data=Data(X, data.Y), batch_size=64)
    params, state, _ = trained(problem.small(numba=True), problem, epochs=1)
    W = slice(0, 8)
    assert (params[W] == problem.start[0][W]).all()
    assert not state.slots[0][W].any()
