"""Predictions block by block, against the definition on all rows at once."""

import array_api_compat.numpy as xp
import numpy as np
import pytest
import scipy.sparse as sp

from nnaccel.devices.device import select, to_host
from nnaccel.kernels.backend import backend_of
from nnaccel.maths.losses import softmax
from nnaccel.maths.network import forward, mlp
from nnaccel.ops import Ops
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize

NETWORK = mlp(6, [9, 5], 3, activation=["gelu", "tanh"], dropout=0.2)
BLOCK = backend_of(xp).prediction_rows


@pytest.mark.parametrize("N", [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_give_what_all_rows_at_once_give(N, members, dtype):
    params = initialize(NETWORK, 1, members=members).astype(dtype)
    X = np.random.default_rng(0).standard_normal((N, 6)).astype(dtype)
    before = params.copy()
    Z = forward(NETWORK, params, X, ops=Ops(xp))
    rtol = 1e-5 if dtype == "float32" else 1e-12
    for loss, expected in ((None, Z), ("softmax_cross_entropy", softmax(Z, xp=xp))):
        found = predict(NETWORK, params, X, loss=loss)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol, rtol)
    np.testing.assert_array_equal(params, before)


@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_blocks_on_every_library_and_of_sparse_rows(device):
    if device != "cpu":
        pytest.importorskip(device)
    params = initialize(NETWORK, 1).astype("float32")
    X = np.random.default_rng(0).standard_normal((2 * 8192 + 5, 6)).astype("float32")
    X[X < 0] = 0
    expected = forward(NETWORK, params, X, ops=Ops(xp))
    found = predict(NETWORK, select(device).asarray(params), X)
    np.testing.assert_allclose(to_host(found), expected, 1e-4, 1e-5)
    sparse = predict(NETWORK, select(device).asarray(params), sp.csr_matrix(X))
    np.testing.assert_allclose(to_host(sparse), expected, 1e-4, 1e-5)
