"""The core across backends: whole training steps, the bare matrix product, and one dense layer."""

import numpy as np
import pytest

from bench.shared.shapes import SHAPES, TABLE
from bench.suites.kernel_sets import backend_for
from bench.suites.race import Backend, Work
from nnaccel.devices.device import prepare
from nnaccel.kernels.definition import NotSupported
from nnaccel.maths.activations import ACTIVATIONS
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.network import layout, mlp, views
from nnaccel.training.benchmark import Shape, Trainer, examples, products

MOST = 2e10  # operations of a call, about a tenth of a second
LAUNCHED = 64  # steps of a call where Python launches each operation


def step(backend: Backend, shape: Shape) -> Work:
    """Some steps in one epoch, as `train` does them."""
    steps = max(1, min(shape.steps, int(MOST / shape.flops)))
    if backend.device.library == "torch" or backend.kernels == "numpy definition":
        steps = min(steps, LAUNCHED)
    device, (X, Y, order) = backend.device, examples(shape)
    trainer = Trainer(shape, X, Y, device, backend=backend_for(device.xp, backend.kernels))
    index, bare = device.asarray(order[: steps * shape.batch]), products(shape, device)
    first_loss = float(trainer.epoch(index)[:LAUNCHED].mean())
    return Work(
        lambda: trainer.epoch(index),
        steps,
        lambda: bare(steps),
        shape.flops,
        shape.batch,
        lambda: {"loss": first_loss},
    )


@pytest.mark.parametrize("shape", [*SHAPES, TABLE], ids=lambda shape: shape.name)
def test_step(race, backend, shape):
    """A training step, and the matrix products of a step alone."""
    assert np.isfinite(race(step, shape, group="step", case=shape.name)["loss"])


def product(backend: Backend, n: int, dtype: str) -> Work:
    """A A for a square matrix."""
    if backend.kernels != "all":
        raise NotSupported("the product is the same with Numba and without")
    device = backend.device
    prepare(device, dtype)
    A = device.asarray(np.random.default_rng(0).standard_normal((n, n)), dtype)
    repeats = max(1, int(2e8 / n**3))

    def multiply() -> None:
        for _ in range(repeats):
            result = A @ A
        device.synchronize(result)

    return Work(multiply, repeats, flops=2 * n**3)


@pytest.mark.parametrize(
    ("dtype", "n"), [*(("float32", n) for n in (2048, 1024, 256, 64)), ("float64", 1024)]
)
def test_product(race, backend, n, dtype):
    """The bare product."""
    race(product, n, dtype, group="gemm", case=f"{n} {dtype}")


def layer(backend: Backend, N: int, D: int, H: int, activation: str) -> Work:
    """Three products, bias, activation and its derivative."""
    device, rng, g = backend.device, np.random.default_rng(0), ACTIVATIONS[activation]
    ops, network = backend_for(device.xp, backend.kernels).operations(), mlp(D, (), H)
    params = device.asarray(rng.standard_normal(layout(network).size) / D**0.5, "float32")
    X = device.asarray(rng.standard_normal((N, D)), "float32")
    dA = device.asarray(rng.standard_normal((N, H)) / N, "float32")
    W = device.asarray(rng.standard_normal((D, H)), "float32")
    repeats = max(1, int(1e8 / (N * D * H)))
    transposed = device.xp.matrix_transpose

    def both_ways() -> None:
        with np.errstate(all="ignore"):
            for _ in range(repeats):
                ((W, b),) = ops[views](params, layout(network))
                Z, A = ops[dense](X, W, b, g)
                result = ops[dense_vjp](dA, X, W, Z, A, g)[0]
        device.synchronize(result)

    def bare() -> None:
        for _ in range(repeats):
            result = X @ W, transposed(X) @ dA, dA @ transposed(W)
        device.synchronize(result[-1])

    return Work(both_ways, repeats, bare, 6 * N * D * H, N)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("N", "D", "H"), [(200, 64, 100), (256, 512, 512), (1024, 2048, 2048)])
def test_layer(race, backend, N, D, H, activation):
    """One dense layer forward and backward, an operation a call: JAX without `jit`."""
    race(layer, N, D, H, activation, group="layer", case=f"{D}-{H}x{N} {activation}")
