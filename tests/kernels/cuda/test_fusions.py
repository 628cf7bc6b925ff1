"""The switches of `kernels/cuda/fusions.py`: each way has the results of the definition, and falls
back where it cannot be taken. Without a GPU; see `cuda_on_host.py`.
"""

from functools import partial

import numpy as np
import pytest
from array_api_compat import numpy as compat

from nnaccel.maths import layers, losses
from nnaccel.maths.activations import get
from nnaccel.maths.layers.dense import Dense, dense
from nnaccel.maths.network import Network, layout, mlp, value_and_grad, views
from nnaccel.ops import Ops
from nnaccel.training.data import Data
from nnaccel.training.step import initialize
from tests.kernels.cuda import cuda_on_host
from tests.kernels.cuda.test_cuda_precision import definitions, distance

pytestmark = pytest.mark.skipif(not cuda_on_host.COMPILER, reason=cuda_on_host.NO_COMPILER)
LOSS = losses.get("softmax_cross_entropy")
RELU = get("relu")


@pytest.fixture
def switch(monkeypatch):
    """Turns a switch on or off; all others are off."""
    module = cuda_on_host.modules_on_host().fusions
    for name in ("RELU_IN_PRODUCT",):
        monkeypatch.setattr(module, name, False)
    return partial(monkeypatch.setattr, module)


@pytest.fixture
def asked(monkeypatch):
    """The names of the kernels that are launched, and "product" for those of cuBLASLt."""
    modules, names = cuda_on_host.modules_on_host(), []
    for part in (modules.dense, modules.elementwise, modules.optimizers):
        kernel = part.kernel
        monkeypatch.setattr(
            part, "kernel", lambda *name, kernel=kernel: names.append(name[0]) or kernel(*name)
        )
    plan = modules.product_plan.ProductPlan
    call = plan.__call__
    monkeypatch.setattr(plan, "__call__", lambda *args: names.append("product") or call(*args))
    return names


def examples(N=70, D=12, K=3):
    rng = np.random.default_rng(0)
    return Data(rng.standard_normal((N, D)).astype(np.float32), rng.integers(0, K, N), None)


def passed(network, params, data, ops):
    """Loss, gradient and logits of a pass."""
    found = value_and_grad(network, LOSS, params, data.X, data.Y, data.weights, ops=ops)
    return [np.array(x) for x in found]


def ops_of(precision="float32"):
    return Ops(np, cuda_on_host.on_host().Workspace(np, precision).kernels())


def assert_close(found, expected, tolerance=1e-5):
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        assert distance(x, y) < tolerance


# The derivative of ReLU in the product of the layer above


MASKED = {
    "two": (mlp(12, [128, 256], 3), 2),
    "three": (mlp(12, [256, 128, 384], 40), 3),
    "not the last": (mlp(12, [128, 40], 3), 1),  # 40 columns are no multiple of 128
    "not after tanh": (mlp(12, [128, 128], 3, activation=["relu", "tanh"]), 1),
    "in a chain": (Network(12, (layers.Chain((Dense(128, RELU), Dense(128, RELU))), Dense(3))), 1),
    "not before others": (Network(12, (Dense(128, RELU), layers.LayerNorm(), Dense(3))), 0),
    "not out of a sum": (
        Network(12, (layers.Residual((Dense(128, RELU), Dense(12, RELU))), Dense(3))),
        1,
    ),
}


@pytest.mark.parametrize(("network", "layers_saved"), MASKED.values(), ids=MASKED)
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_relu_in_the_product_is_the_definition(switch, asked, network, layers_saved, precision):
    params, data = initialize(network).astype(np.float32), examples(K=network.n_outputs)
    runs, counts = [], []
    for on in (False, True):
        switch("RELU_IN_PRODUCT", on)
        asked.clear()
        runs.append(passed(network, params, data, ops_of(precision)))
        counts.append((asked.count("activation_vjp"), asked.count("product")))
    assert (counts[0][0] - counts[1][0], counts[0][1] - counts[1][1]) == (layers_saved, 0)
    exact = Ops(np) if precision == "float32" else definitions(precision)
    expected = passed(network, params, data, exact)
    assert_close(runs[1], expected, 1e-5 if precision == "float32" else 1e-4)
    assert_close(runs[1], runs[0], 1e-5)
    np.testing.assert_array_equal(runs[1][2], runs[0][2])


def test_relu_in_the_product_of_several_networks(switch, asked):
    """Of each its own mask, and db in its own place."""
    network, data = mlp(12, [128, 256], 3), examples(N=33)
    params = initialize(network, members=3).astype(np.float32)
    switch("RELU_IN_PRODUCT", True)
    found = passed(network, params, data, ops_of())
    assert "activation_vjp" not in asked
    assert_close(found, passed(network, params, data, Ops(np)))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_where_the_library_would_round_db_relu_stays_a_kernel(switch, asked, precision):
    """In bfloat16; and the library has no such end in float64. The same bits as ever."""
    network, data = mlp(12, [128, 256], 3), examples()
    dtype = "float64" if precision == "float32" else "float32"
    params, data = initialize(network).astype(dtype), data._replace(X=data.X.astype(dtype))
    expected = passed(network, params, data, ops_of(precision))
    switch("RELU_IN_PRODUCT", True)
    asked.clear()
    found = passed(network, params, data, ops_of(precision))
    assert asked.count("activation_vjp") == 2
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_mask_has_a_bit_for_each_positive_number(switch):
    """The lowest first; none for what is zero, negative or not a number, which the output shows."""
    network, rng = mlp(5, [256], 3), np.random.default_rng(0)
    X = rng.standard_normal((9, 5)).astype(np.float32)
    X[4], X[6] = np.nan, 0.0
    space = cuda_on_host.on_host().Workspace(np)
    switch("RELU_IN_PRODUCT", True)
    params = initialize(network).astype(np.float32)
    ops = Ops(np, space.kernels())
    (W, b), _ = ops[views](params, layout(network))
    A = ops[dense](X, W, b, RELU)[1]
    mask, db = space.ahead.mask_for(A)
    assert np.isnan(A[4]).all()
    expected = dense(X, W, b, RELU, xp=compat)[1] > 0
    assert not expected[[4, 6]].any()
    np.testing.assert_array_equal(
        np.unpackbits(mask.view(np.uint8), axis=1, bitorder="little"), expected
    )
    assert mask.shape == (9, 8)
    assert db is space.buffers.gradients_of(W)[1]


def test_what_is_not_a_number_reaches_the_loss_with_relu_in_the_product(switch, asked):
    network, data = mlp(12, [128, 256], 3), examples()
    params = initialize(network).astype(np.float32)
    data.X[7, 3] = np.nan
    switch("RELU_IN_PRODUCT", True)
    value, grads, _ = passed(network, params, data, ops_of())
    assert "activation_vjp" not in asked
    assert np.isnan(value)
    assert np.isnan(grads).any()


@pytest.mark.parametrize("reason", ["no library", "no algorithm"])
def test_where_the_library_cannot_end_with_relu_a_kernel_does(switch, asked, reason, monkeypatch):
    network, data = mlp(12, [128, 256], 3), examples()
    params = initialize(network).astype(np.float32)
    modules = cuda_on_host.modules_on_host()
    monkeypatch.setattr(modules.product_plan, "_plans", {})
    if reason == "no library":
        monkeypatch.setattr(modules.product_plan, "library", lambda: None)
    else:
        candidates = modules.product_plan.ProductPlan.candidates
        monkeypatch.setattr(
            modules.product_plan.ProductPlan,
            "candidates",
            lambda plan: [] if plan.problem.relu else candidates(plan),
        )
    switch("RELU_IN_PRODUCT", True)
    found = passed(network, params, data, ops_of())
    assert asked.count("activation_vjp") == 2
    assert_close(found, passed(network, params, data, Ops(np)))
