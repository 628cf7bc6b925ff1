"""The public loss and gradient: the maths, on the arrays that are given."""

import numpy as np
import pytest

import nnaccel as nn
from nnaccel.maths import network as maths
from nnaccel.maths.losses import LOSSES
from nnaccel.ops import Ops

NETWORK = nn.Network(4, [nn.Dense(5, "tanh"), nn.LayerNorm(), nn.Dense(3)])


def examples():
    rng = np.random.default_rng(0)
    return rng.standard_normal((7, 4)), rng.integers(0, 3, 7), rng.uniform(0.5, 1.5, 7)


@pytest.mark.parametrize("lead", [None, 2], ids=["one", "members"])
def test_it_is_the_maths_on_every_library(xp_device, lead):
    params, (X, Y, weights) = nn.initialize(NETWORK, members=lead), examples()
    weights /= weights.mean()
    loss = LOSSES["softmax_cross_entropy"]
    expected = maths.value_and_grad(NETWORK, loss, params, X, Y, weights, ops=Ops(np), l2=0.1)
    there = xp_device.asarray(params)
    for arrays in ((X, Y, 3.0 * weights), map(xp_device.asarray, (X, Y, weights))):
        found = nn.value_and_grad(NETWORK, "softmax_cross_entropy", there, *arrays, l2=0.1)
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(xp_device.to_numpy(mine), theirs, rtol=1e-10, atol=1e-12)


def test_the_arrays_are_the_callers_to_keep():
    params, (X, Y, _) = nn.initialize(NETWORK), examples()
    first = nn.value_and_grad(NETWORK, "softmax_cross_entropy", params, X, Y)
    kept = [np.copy(x) for x in first]
    nn.value_and_grad(NETWORK, "softmax_cross_entropy", params + 1.0, X, Y)
    for mine, theirs in zip(first, kept, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_what_is_not_trained_has_no_gradient():
    network = nn.Network(4, (nn.BatchNorm(), nn.Dense(1)))
    X, y, _ = examples()
    _, grads, _ = nn.value_and_grad(network, "squared_error", nn.initialize(network), X, 1.0 * y)
    assert grads.shape == (21,)
    assert grads[:13].all()
    assert not grads[13:].any()


def test_arrays_that_do_not_fit_are_refused():
    params, (X, Y, _) = nn.initialize(NETWORK), examples()
    with pytest.raises(ValueError, match=r"params must be \(53,\) for this network"):
        nn.value_and_grad(NETWORK, "softmax_cross_entropy", params[1:], X, Y)
    with pytest.raises(ValueError, match=r"X must be \(n_samples, 4\) for this network"):
        nn.value_and_grad(NETWORK, "softmax_cross_entropy", params, X[:, 1:], Y)
