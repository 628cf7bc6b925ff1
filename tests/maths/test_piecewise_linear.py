"""The piecewise linear encoding against its definition, number by number."""

from itertools import pairwise

import numpy as np
import pytest

from nnaccel.kernels.backend import backend_of
from nnaccel.maths.layers import PiecewiseLinear
from nnaccel.ops import Ops

from ..conftest import XpDevice

EDGES = ((-1.0, 0.0, 0.25, 2.0), (), (0.5, 0.75))
X = np.array([[-2.0, 7.0, 0.6], [0.1, -7.0, 0.5], [0.25, 0.0, 9.0], [3.0, 1.0, -9.0]])


def encoded(x, edges):
    """The paper's equation 1 for one number: 1 below it, 0 above it, its share in its own bin."""
    found = []
    for low, high in pairwise(edges):
        found.append(0.0 if x < low else 1.0 if x >= high else (x - low) / (high - low))
    return found


def test_it_is_the_equation_of_the_paper(xp_device: XpDevice):
    layer = PiecewiseLinear(EDGES)
    ops = Ops(xp_device.xp)
    A, _ = layer.forward((), xp_device.asarray(X), ops=ops, key=None)
    expected = [[*row, *(y for x, e in zip(row, EDGES, strict=True) for y in encoded(x, e))]
                for row in X]  # fmt: skip
    np.testing.assert_allclose(xp_device.to_numpy(A), expected, rtol=1e-15)
    assert A.shape[1] == layer.width(3) == 7


def test_leading_axes_and_float32(xp_device: XpDevice):
    layer, ops = PiecewiseLinear(EDGES), Ops(xp_device.xp)
    several = np.stack([X, 2 * X]).astype("float32")
    A, _ = layer.forward((), xp_device.asarray(several), ops=ops, key=None)
    assert "float32" in str(A.dtype)
    for k in range(2):
        one, _ = layer.forward((), xp_device.asarray(several[k]), ops=ops, key=None)
        np.testing.assert_array_equal(xp_device.to_numpy(A)[k], xp_device.to_numpy(one))


def test_the_derivative_is_the_difference_quotient():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 3, (50, 3))
    dA, dX = rng.standard_normal((50, 7)), rng.standard_normal((50, 3))
    layer, ops, h = PiecewiseLinear(EDGES), Ops(backend_of(np).xp), 1e-7
    out = [layer.forward((), X + s * h * dX, ops=ops, key=None)[0] for s in (1, -1)]
    by_difference = np.sum(dA * (out[0] - out[1])) / (2 * h)
    found, _ = layer.backward((), X, dA, ops=ops, need_dX=True)
    np.testing.assert_allclose(np.sum(found * dX), by_difference, rtol=1e-6)


def test_equal_edges_are_one_key():
    one, same = PiecewiseLinear(EDGES), PiecewiseLinear([list(row) for row in EDGES])
    assert one == same
    assert hash(one) == hash(same)
    assert one != PiecewiseLinear(EDGES[:1])


@pytest.mark.parametrize(
    "edges",
    [((0.0, 0.0),), ((1.0, 0.0),), ((1.0,),), ((0.0, np.inf),), (("a", "b"),), 3, ((1, None),)],
)
def test_edges_that_are_none_are_refused(edges):
    with pytest.raises(ValueError, match="edges of PiecewiseLinear must be a list of lists"):
        PiecewiseLinear(edges)


def test_more_edges_than_inputs_are_refused():
    with pytest.raises(ValueError, match="edges of 3 inputs, and got 2"):
        PiecewiseLinear(EDGES).width(2)
