"""The bare matrix product, and one dense layer: what everything else is made of."""

import numpy as np
import pytest

from nnaccel.kernels.backend import backend_of
from nnaccel.maths.activations import ACTIVATIONS
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.network import layout, mlp, views


@pytest.mark.benchmark(group="gemm")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2048, 1024, 512, 256, 128, 64])
def test_product(record, benchmark, device, n, dtype, best):
    A = device.asarray(np.random.default_rng(0).standard_normal((n, n)), dtype)
    repeats = max(1, int(2e8 / n**3))

    def multiply():
        for _ in range(repeats):
            result = A @ A
        device.synchronize(result)

    record(multiply, device=device, repeats=repeats, flops=2 * n**3, n=n, dtype=dtype)
    rate, key = benchmark.extra_info["gflops"], (device.name, dtype)
    best[key] = max(rate, best.get(key, 0.0))
    benchmark.extra_info["share_of_best"] = rate / best[key]


@pytest.fixture(scope="module")
def best():
    """GFLOP/s of the fastest product so far by device and type; the largest ones come first."""
    return {}


@pytest.mark.benchmark(group="dense")
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "gelu"])
@pytest.mark.parametrize(("N", "D", "H"), [(200, 64, 100), (256, 512, 512), (1024, 2048, 2048)])
def test_layer(record, device, N, D, H, activation):
    """Forward and backward: three products, bias, activation and its derivative."""
    rng, ops, g = np.random.default_rng(0), backend_of(device.xp).operations(), ACTIVATIONS[activation]
    network = mlp(D, (), H)
    params = device.asarray(rng.standard_normal(layout(network).size) / D**0.5, "float32")
    X = device.asarray(rng.standard_normal((N, D)), "float32")
    dA = device.asarray(rng.standard_normal((N, H)) / N, "float32")
    repeats = max(1, int(1e8 / (N * D * H)))

    def layer():
        for _ in range(repeats):
            ((W, b),) = ops[views](params, layout(network))
            Z, A = ops[dense](X, W, b, g)
            result = ops[dense_vjp](dA, X, W, Z, A, g)[0]
        device.synchronize(result)

    W = device.asarray(rng.standard_normal((D, H)), "float32")

    def bare():
        for _ in range(repeats):
            result = X @ W, device.xp.matrix_transpose(X) @ dA, dA @ device.xp.matrix_transpose(W)
        device.synchronize(result[-1])

    with np.errstate(all="ignore"):
        record(layer, device=device, bare=bare, repeats=repeats, flops=6 * N * D * H, samples=N)
