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
from nnaccel.maths.minibatch import minibatch
from nnaccel.maths.network import Network, forward, layout, mlp, value_and_grad, views
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
    for name in filter(str.isupper, vars(module)):
        monkeypatch.setattr(module, name, False)
    return partial(monkeypatch.setattr, module)


@pytest.fixture
def asked(monkeypatch):
    """The names of the kernels that are launched, and "product" for those of cuBLASLt."""
    modules, names = cuda_on_host.modules_on_host(), []
    for part in (modules.dense, modules.elementwise, modules.loss, modules.optimizers):
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


def stepped(network, params, data, ops, index):
    """The same for the examples of a minibatch, as a step takes them."""
    X, Y, weights = ops[minibatch](*data, index, params.dtype)
    found = value_and_grad(network, LOSS, params, X, Y, weights, ops=ops)
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


# A narrow output layer with the loss


def both(switch, network, params, data, precision="float32", rows=37):
    """A step with the loss in the output layer's kernel, and without; and its definition."""
    index = np.random.default_rng(1).permutation(len(data.X))[:rows]
    runs = []
    for on in (True, False):
        switch("NARROW_LOSS", on)
        runs.append(stepped(network, params, data, ops_of(precision), index))
    exact = Ops(np) if precision == "float32" else definitions(precision)
    return *runs, stepped(network, params, data, exact, index)


@pytest.mark.parametrize("K", [2, 3, 8, 10, 31, 32])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_narrow_output_layer_has_the_loss_in_it(switch, asked, K, dtype, weighted):
    """An odd number of rows: the last warps of a block have none."""
    network, (X, Y, _) = mlp(12, [40], K), examples(K=K)
    weights = np.random.default_rng(2).random(70).astype(dtype) if weighted else None
    params, data = initialize(network).astype(dtype), Data(X.astype(dtype), Y, weights)
    found, apart, expected = both(switch, network, params, data)
    assert asked.count("dense_cross_entropy") == 1
    assert asked.count("narrow_dense") == asked.count("softmax_cross_entropy") == 1
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    assert_close(found, expected, tolerance)
    assert_close(found, apart, tolerance)
    np.testing.assert_array_equal(found[2], apart[2])  # the logits


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_narrow_output_layer_rounds_its_factors(switch, asked, precision):
    network, data = mlp(12, [40, 36], 10), examples(K=10)
    params = initialize(network).astype(np.float32)
    found, apart, expected = both(switch, network, params, data, precision)
    assert asked.count("dense_cross_entropy") == 1
    gap = distance(stepped(network, params, data, Ops(np), np.arange(37))[1], expected[1])
    assert distance(found[1], expected[1]) < gap / 8
    assert_close(found, apart, 1e-4 if precision == "tf32" else 2e-3)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("rows", [1, 8, 70])
def test_a_narrow_output_layer_of_several_networks(switch, asked, own, rows):
    """With weights of an example, and of each network and example."""
    network, (X, Y, _) = mlp(12, [40], 5), examples(K=5)
    weights = np.random.default_rng(2).random((70, 3) if own else 70).astype(np.float32)
    params = initialize(network, members=3).astype(np.float32)
    found, apart, expected = both(switch, network, params, Data(X, Y, weights), rows=rows)
    assert asked.count("dense_cross_entropy") == 1
    assert_close(found, expected)
    assert_close(found, apart)


def test_many_rows_are_summed_by_few_blocks(switch, asked):
    """More than the warps of a launch: each takes some, and the last block adds up their sums, in
    the same order whichever comes last."""
    rng = np.random.default_rng(0)
    data = Data(rng.standard_normal((2100, 5)), rng.integers(0, 4, 2100), None)
    network = mlp(5, [], 4)
    params = initialize(network)
    runs = [both(switch, network, params, data, rows=2100) for _ in range(2)]
    assert asked.count("dense_cross_entropy") == 2
    for found, apart, expected in runs:
        assert_close(found, expected, 1e-12)
        assert_close(found, apart, 1e-12)
    for x, y in zip(runs[0][0], runs[1][0], strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_the_loss_of_the_output_layer(switch, asked, value):
    network, data = mlp(12, [40], 5), examples(K=5)
    params = initialize(network)
    views(params, layout(network), xp=np)[-1][1][0, 2] = value
    data = data._replace(X=data.X.astype(float))
    with np.errstate(all="ignore"):
        found, apart, expected = both(switch, network, params, data)
    assert asked.count("dense_cross_entropy") == 1
    # Of -inf the definition makes 0 times that, for the classes that are not meant.
    for x, y in zip(found, apart if value == -np.inf else expected, strict=True):
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y))
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


OTHERS = {
    "many classes": (mlp(12, [40], 33), "softmax_cross_entropy", {}),
    "an activation": (
        Network(12, (Dense(40, RELU), Dense(5, get("tanh")))),
        "softmax_cross_entropy",
        {},
    ),
    "another loss": (mlp(12, [40], 5), "squared_error", {}),
    "smoothed labels": (mlp(12, [40], 5), "softmax_cross_entropy", {"label_smoothing": 0.1}),
}


@pytest.mark.parametrize(("network", "loss", "options"), OTHERS.values(), ids=OTHERS)
def test_other_outputs_and_losses_are_as_ever(switch, asked, network, loss, options):
    data = examples(K=network.n_outputs)
    if loss == "squared_error":
        data = data._replace(Y=np.eye(5, dtype=np.float32)[data.Y])
    params, index = initialize(network).astype(np.float32), np.arange(30)
    loss = losses.get(loss, **options)

    def run(ops):
        X, Y, _ = ops[minibatch](*data, index, params.dtype)
        return [np.array(x) for x in value_and_grad(network, loss, params, X, Y, ops=ops)]

    switch("NARROW_LOSS", True)
    assert_close(run(ops_of()), run(Ops(np)))
    # Of smoothed labels the layer cannot know: what it has computed is left where it is.
    assert asked.count("dense_cross_entropy") == len(options)


def test_targets_of_another_pass_count_for_nothing(switch, asked):
    """Nor does a loss of other targets, or of other weights."""
    network, data, ops = mlp(12, [40], 5), examples(K=5), ops_of()
    params, index = initialize(network).astype(np.float32), np.arange(30)
    switch("NARROW_LOSS", True)
    X, Y, _ = ops[minibatch](*data, index, params.dtype)
    forward(network, params, X, ops=ops)
    assert asked.count("dense_cross_entropy") == 1
    forward(network, params, X, ops=ops)
    forward(network, params, X[:7], ops=ops)
    assert asked.count("dense_cross_entropy") == 1
    for targets, weights in ((Y.copy()[::-1].copy(), None), (Y, np.full(30, 2.0, np.float32))):
        X, _, _ = ops[minibatch](*data, index, params.dtype)
        found = value_and_grad(network, LOSS, params, X, targets, weights, ops=ops)
        expected = value_and_grad(network, LOSS, params, X, targets, weights, ops=Ops(np))
        assert_close([np.array(x) for x in found], expected)
