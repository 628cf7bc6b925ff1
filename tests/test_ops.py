"""The operations of a library: its functions are those of the Array API standard."""

from importlib import import_module

import numpy as np
import pytest

from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.losses import get
from nnaccel.maths.network import mlp, value_and_grad
from nnaccel.ops import Ops
from nnaccel.training.step import initialize


def test_a_function_without_a_kernel_is_its_definition():
    ops = Ops(np, {dense: len})
    assert ops[dense] is len
    assert ops[dense_vjp].func is dense_vjp
    assert repr(ops) == "Ops(numpy, the definition: dense)"


@pytest.mark.parametrize("name", ["numpy", "torch", "jax.numpy"])
def test_a_library_is_taken_by_its_own_module(name):
    xp = pytest.importorskip(name)
    ops = Ops(xp)
    assert Ops(ops.xp).xp is ops.xp
    network = mlp(3, [4], 2, activation="softplus")
    params, X, Y = initialize(network), np.ones((5, 3)), np.ones((5, 2))
    expected = value_and_grad(network, get("huber"), params, X, Y, ops=Ops(np))
    found = value_and_grad(network, get("huber"), *map(xp.asarray, (params, X, Y)), ops=ops)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(mine), theirs, rtol=1e-12)


@pytest.mark.parametrize(
    ("xp", "found"),
    [("jax", "the module jax"), ("math", "the module math"), (np.ones(2), "array"), ("", "''")],
)
def test_what_is_no_array_library_is_refused(xp, found):
    if isinstance(xp, str) and xp:
        pytest.importorskip(xp)
        xp = import_module(xp)
    with pytest.raises(TypeError, match=f"xp must be the functions of an array library.*{found}"):
        Ops(xp)
