"""Layers: values, gradients and the protocol, for every row of the name table."""

import math
from dataclasses import FrozenInstanceError, dataclass, fields

import numpy as np
import pytest

from nnaccel.maths import losses
from nnaccel.maths.activations import ACTIVATIONS, get
from nnaccel.maths.layers import (
    LAYERS,
    MAX_DEPTH,
    BatchNorm,
    Chain,
    Dense,
    Dropout,
    LayerNorm,
    Param,
    Residual,
    example,
)
from nnaccel.maths.network import Network, leaves, transform, value_and_grad
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.training.architecture import describe, rebuild
from nnaccel.training.step import initialize

D = 4  # inputs of every layer below

EXAMPLES = {name: example(name, D) for name in LAYERS}
EVERY = pytest.mark.parametrize("layer", EXAMPLES.values(), ids=EXAMPLES)

OPS = Ops(np)


def test_the_example_of_a_layer_is_such_a_layer():
    assert all(type(layer) is LAYERS[name] for name, layer in EXAMPLES.items())
    assert EXAMPLES["dense"].width(D) != D


def test_a_layer_without_an_example_is_its_own_with_default_fields(monkeypatch):
    class Plain:
        pass

    monkeypatch.setitem(LAYERS, "plain", Plain)
    assert type(example("plain", D)) is Plain


def key(step=0, seed=0, asarray=np.asarray):
    return Key(seed, asarray(np.asarray(step, dtype=np.int32)))


def draw(layer, lead=(), seed=0, asarray=np.asarray, dtype="float64"):
    """Parameters, nested as the layer nests them, and inputs (..., 6, D)."""
    rng = np.random.default_rng(seed)

    def one(param):
        x = rng.standard_normal((*lead, *param.shape)).astype(dtype)
        return asarray(x if param.trained else np.abs(x))  # it may be a variance

    params = transform(one, layer.params(D), Param)
    return params, asarray(rng.standard_normal((*lead, 6, D)).astype(dtype))


def shift(tree, direction, h):
    """The tree moved by h in a direction that nests alike."""
    if isinstance(tree, tuple):
        return tuple(shift(t, d, h) for t, d in zip(tree, direction, strict=True))
    return tree + h * direction


# The protocol


@EVERY
def test_output_has_the_width_that_the_layer_states(layer):
    params, X = draw(layer)
    A, _ = layer.forward(params, X, ops=OPS, key=key(), training=True)
    assert A.shape == (6, layer.width(D))


@EVERY
def test_a_layer_is_frozen_hashable_data(layer):
    assert hash(layer) == hash(layer)
    with pytest.raises(FrozenInstanceError):
        setattr(layer, fields(layer)[0].name, 7)


@EVERY
def test_gradients_are_central_differences(layer, xp_device):
    """In the input and in every parameter array: one inner product each."""
    xp, ops, h = xp_device.xp, Ops(xp_device.xp), 1e-5
    params, X = draw(layer, asarray=xp_device.asarray)
    k = key(3, asarray=xp_device.asarray)
    A, saved = layer.forward(params, X, ops=ops, key=k, training=True)
    dA = xp_device.asarray(np.random.default_rng(2).standard_normal(tuple(A.shape)))
    dX, grads = layer.backward(params, saved, dA + 0.0, ops=ops, need_dX=True)

    def difference(dparams, dX):
        above, _ = layer.forward(
            shift(params, dparams, h), X + h * dX, ops=ops, key=k, training=True
        )
        below, _ = layer.forward(
            shift(params, dparams, -h), X - h * dX, ops=ops, key=k, training=True
        )
        return float(xp.sum(dA * (above - below))) / (2 * h)

    directions, X_direction = draw(layer, seed=3, asarray=xp_device.asarray)
    still = transform(lambda p: xp_device.asarray(np.zeros(p.shape)), layer.params(D), Param)
    assert float(xp.sum(dX * X_direction)) == pytest.approx(
        difference(still, X_direction), rel=1e-6
    )
    trained = [param.trained for param in leaves(layer.params(D), Param)]
    for i, (grad, direction) in enumerate(zip(leaves(grads), leaves(directions), strict=True)):
        if not trained[i]:
            continue
        count = iter(range(100))
        one = transform(
            lambda p, i=i, d=direction, count=count: (
                d if next(count) == i else xp_device.asarray(np.zeros(p.shape))
            ),
            layer.params(D),
            Param,
        )
        expected = difference(one, xp.zeros_like(X))
        assert float(xp.sum(grad * direction)) == pytest.approx(expected, rel=1e-6)


@EVERY
def test_a_gradient_that_is_not_needed_changes_no_other(layer):
    params, X = draw(layer)
    A, saved = layer.forward(params, X, ops=OPS, key=key(), training=True)
    _, expected = layer.backward(params, saved, A + 0.0, ops=OPS, need_dX=True)
    _, grads = layer.backward(params, saved, A + 0.0, ops=OPS, need_dX=False)
    for mine, theirs in zip(leaves(grads), leaves(expected), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_library_keeps_dtype_and_gives_the_same_numbers(layer, dtype, xp_device):
    def run(xp, asarray):
        ops, k = Ops(xp), key(3, asarray=asarray)
        params, X = draw(layer, asarray=asarray, dtype=dtype)
        A, saved = layer.forward(params, X, ops=ops, key=k, training=True)
        dX, grads = layer.backward(params, saved, A + 0.0, ops=ops, need_dX=True)
        return [A, dX, *leaves(grads)]

    found = run(xp_device.xp, xp_device.asarray)
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    for mine, expected in zip(found, run(np, np.asarray), strict=True):
        assert mine.dtype == getattr(xp_device.xp, dtype)
        assert expected.dtype == dtype
        np.testing.assert_allclose(
            xp_device.to_numpy(mine), expected, rtol=tolerance, atol=tolerance
        )


@EVERY
def test_leading_axes_are_separate_layers(layer):
    """But for dropout, whose draws go through all of them."""
    k = None if isinstance(layer, Dropout) else key()
    params, X = draw(layer, lead=(3,))
    A, saved = layer.forward(params, X, ops=OPS, key=k, training=True)
    dX, grads = layer.backward(params, saved, A + 0.0, ops=OPS, need_dX=True)
    for i in range(3):
        own = transform(lambda a, i=i: a[i], params, np.ndarray)
        A_i, saved_i = layer.forward(own, X[i], ops=OPS, key=k, training=True)
        dX_i, grads_i = layer.backward(own, saved_i, A_i + 0.0, ops=OPS, need_dX=True)
        np.testing.assert_allclose(A[i], A_i, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(dX[i], dX_i, rtol=1e-12, atol=1e-14)
        for mine, expected in zip(leaves(grads), leaves(grads_i), strict=True):
            np.testing.assert_allclose(mine[i], expected, rtol=1e-12, atol=1e-14)


@EVERY
def test_layers_on_a_leading_axis_may_share_their_input(layer):
    params, X = draw(layer, lead=(3,))
    A, saved = layer.forward(params, X[0], ops=OPS, key=None, training=True)
    _, grads = layer.backward(params, saved, A + 0.0, ops=OPS, need_dX=True)
    for i in range(3):
        own = transform(lambda a, i=i: a[i], params, np.ndarray)
        A_i, saved_i = layer.forward(own, X[0], ops=OPS, key=None, training=True)
        _, grads_i = layer.backward(own, saved_i, A_i + 0.0, ops=OPS, need_dX=True)
        for mine, expected in zip(leaves(grads), leaves(grads_i), strict=True):
            np.testing.assert_allclose(mine[i], expected, rtol=1e-12, atol=1e-14)


@EVERY
@pytest.mark.parametrize("N", [0, 1])
def test_no_example_and_one_example(layer, N):
    params, X = draw(layer)
    A, saved = layer.forward(params, X[:N], ops=OPS, key=key(), training=True)
    dX, grads = layer.backward(params, saved, A + 0.0, ops=OPS, need_dX=True)
    assert A.shape == (N, layer.width(D))
    assert dX.shape == (N, D)
    described = list(leaves(layer.params(D), Param))
    assert [grad.shape for grad in leaves(grads)] == [param.shape for param in described]
    if not N:
        for grad, param, own in zip(leaves(grads), described, leaves(params), strict=True):
            np.testing.assert_array_equal(grad, 0.0 if param.trained else own)


@EVERY
def test_prediction_does_not_look_at_the_other_examples(layer):
    params, X = draw(layer)
    together, _ = layer.forward(params, X, ops=OPS, key=None)
    alone = [layer.forward(params, X[i : i + 1], ops=OPS, key=None)[0] for i in range(len(X))]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-12)


# Dense


def test_dense_worked_by_hand():
    X = np.array([[1.0, 2.0]])
    W, b = np.array([[1.0, -1.0, 0.5], [0.5, -1.0, 0.0]]), np.array([[0.0, 1.0, -0.5]])
    layer = Dense(3, get("relu"))
    A, saved = layer.forward((W, b), X, ops=OPS, key=None)
    np.testing.assert_array_equal(A, [[2.0, 0.0, 0.0]])
    dX, (dW, db) = layer.backward((W, b), saved, np.ones((1, 3)), ops=OPS, need_dX=True)
    np.testing.assert_array_equal(dW, [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    np.testing.assert_array_equal(db, [[1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(dX, [[1.0, 0.5]])


@pytest.mark.parametrize("g", ACTIVATIONS)
def test_dense_gradients_are_those_of_torch(g):
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    F = torch.nn.functional
    twins = {
        "identity": lambda Z: Z,
        "gelu": lambda Z: F.gelu(Z, approximate="tanh"),
        "gelu_exact": F.gelu,
    }
    layer = Dense(3, get(g))
    (W, b), X = draw(layer)
    A, saved = layer.forward((W, b), X, ops=OPS, key=None)
    dA = np.cos(np.arange(18.0)).reshape(6, 3)
    dX, (dW, db) = layer.backward((W, b), saved, dA + 0.0, ops=OPS, need_dX=True)
    tX, tW, tb = (torch.tensor(a, requires_grad=True) for a in (X, W, b))
    expected = (twins.get(g) or getattr(F, g))(tX @ tW + tb)
    expected.backward(torch.tensor(dA))
    np.testing.assert_allclose(A, expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    for mine, theirs in ((dX, tX), (dW, tW), (db, tb)):
        np.testing.assert_allclose(mine, theirs.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_weights_decay_and_biases_do_not():
    W, b = Dense(3).params(D)
    assert (W.shape, W.decays) == ((D, 3), True)
    assert (b.shape, b.decays) == ((1, 3), False)
    assert not any(param.decays for param in LayerNorm().params(D))


# Dropout


def test_dropout_is_zero_or_the_input_scaled_up_and_keeps_its_mean():
    X = np.random.default_rng(0).uniform(1.0, 2.0, (1000, 200))
    A, M = Dropout(0.3).forward((), X, ops=OPS, key=key())
    kept = A != 0.0
    np.testing.assert_allclose(A[kept], X[kept] / 0.7, rtol=1e-15)
    deviation = (kept.sum() - 0.7 * X.size) / math.sqrt(X.size * 0.7 * 0.3)
    assert abs(deviation) < 4
    assert A.mean() == pytest.approx(X.mean(), rel=0.005)
    dX, _ = Dropout(0.3).backward((), M, np.ones_like(X), ops=OPS, need_dX=True)
    np.testing.assert_allclose(dX, kept / 0.7, rtol=1e-15)


def test_dropout_differs_by_step_seed_and_layer():
    X = np.ones((50, 20))
    network = Chain((Dropout(0.5), Dropout(0.5)))
    masks = [
        Dropout(0.5).forward((), X, ops=OPS, key=k)[0]
        for k in (key(0), key(1), key(0, seed=1), key(0).child(0), key(0).child(1))
    ]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert 0.4 < np.mean(mask == other) < 0.6
    both, (first, second) = network.forward(((), ()), X, ops=OPS, key=key(0))
    np.testing.assert_array_equal(both, first * second)
    assert 0.4 < np.mean(first == second) < 0.6


def test_dropout_is_the_same_again_for_the_same_key():
    X = np.ones((50, 20))
    first, _ = Dropout(0.5).forward((), X, ops=OPS, key=key(3))
    np.testing.assert_array_equal(first, Dropout(0.5).forward((), X, ops=OPS, key=key(3))[0])


def test_dropout_is_identical_on_every_library_bit_for_bit(xp_device):
    X = np.random.default_rng(0).standard_normal((64, 33)).astype("float32")
    layer = Dropout(0.25)
    expected, _ = layer.forward((), X, ops=OPS, key=key(12, seed=5))
    k = key(12, seed=5, asarray=xp_device.asarray)
    A, _ = layer.forward((), xp_device.asarray(X), ops=Ops(xp_device.xp), key=k)
    np.testing.assert_array_equal(xp_device.to_numpy(A), expected, strict=True)


def test_there_is_no_dropout_in_prediction_nor_at_rate_zero():
    X = np.ones((5, 4))
    for layer, k in ((Dropout(0.9), None), (Dropout(0.0), key())):
        A, saved = layer.forward((), X, ops=OPS, key=k)
        assert A is X
        assert layer.backward((), saved, X, ops=OPS, need_dX=True)[0] is X


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match="rate of Dropout must be a number from 0 to below 1, got"):
        Dropout(rate)


def test_a_rate_that_is_a_numpy_scalar_keeps_float32():
    X = np.ones((5, 4), dtype=np.float32)
    A, M = Dropout(np.float64(0.5)).forward((), X, ops=OPS, key=key())
    assert A.dtype == M.dtype == np.float32


# LayerNorm


def test_layer_norm_brings_each_example_to_mean_zero_and_variance_one():
    X = np.random.default_rng(0).normal(5.0, 3.0, (6, 40))
    A, _ = LayerNorm(1e-30).forward((np.ones((1, 40)), np.zeros((1, 40))), X, ops=OPS, key=None)
    np.testing.assert_allclose(A.mean(axis=1), 0.0, atol=1e-14)
    np.testing.assert_allclose(A.var(axis=1), 1.0, rtol=1e-13)


def test_layer_norm_does_not_see_scale_and_shift_of_its_input():
    params, X = draw(LayerNorm())
    A, _ = LayerNorm(1e-30).forward(params, X, ops=OPS, key=None)
    moved, _ = LayerNorm(1e-30).forward(params, 7.0 * X - 3.0, ops=OPS, key=None)
    np.testing.assert_allclose(moved, A, rtol=1e-12, atol=1e-13)


def test_layer_norm_starts_as_plain_normalisation():
    gain, bias = (p.initializer(p.shape, np.random.default_rng(0)) for p in LayerNorm().params(D))
    np.testing.assert_array_equal(gain, np.ones((1, D)))
    np.testing.assert_array_equal(bias, np.zeros((1, D)))


def test_layer_norm_gradients_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    (gain, bias), X = draw(LayerNorm())
    A, saved = LayerNorm().forward((gain, bias), X, ops=OPS, key=None)
    dA = np.cos(np.arange(24.0)).reshape(6, D)
    dX, grads = LayerNorm().backward((gain, bias), saved, dA + 0.0, ops=OPS, need_dX=True)
    tX, tgain, tbias = (torch.tensor(a, requires_grad=True) for a in (X, gain[0], bias[0]))
    expected = torch.nn.functional.layer_norm(tX, (D,), tgain, tbias, eps=1e-5)
    expected.backward(torch.tensor(dA))
    np.testing.assert_allclose(A, expected.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(dX, tX.grad.numpy(), rtol=1e-8, atol=1e-13)
    for mine, theirs in zip(grads, (tgain, tbias), strict=True):
        np.testing.assert_allclose(mine[0], theirs.grad.numpy(), rtol=1e-10, atol=1e-13)


# Residual and chains


def test_a_residual_block_with_zero_weights_is_the_identity():
    layer = Residual((Dense(3, get("tanh")), Dense(D)))
    params, X = draw(layer)
    zeros = transform(np.zeros_like, params, np.ndarray)
    A, saved = layer.forward(zeros, X, ops=OPS, key=None)
    np.testing.assert_array_equal(A, X)
    dX, _ = layer.backward(zeros, saved, X + 0.0, ops=OPS, need_dX=True)
    np.testing.assert_array_equal(dX, X)


def test_a_residual_block_adds_its_input():
    layer = Residual((Dense(D, get("tanh")),))
    params, X = draw(layer)
    A, _ = layer.forward(params, X, ops=OPS, key=None)
    inner, _ = layer.layers[0].forward(params[0], X, ops=OPS, key=None)
    np.testing.assert_array_equal(A, X + inner)


def test_a_residual_block_that_changes_the_width_is_refused():
    with pytest.raises(ValueError, match="got 3 outputs for 4 inputs; end it with Dense\\(4\\)"):
        Residual((Dense(3),)).width(D)


def test_a_chain_is_the_composition_of_its_layers():
    layers = (Dense(5, get("tanh")), LayerNorm(), Dense(2))
    params, X = draw(Chain(layers))
    A, _ = Chain(layers).forward(params, X, ops=OPS, key=None)
    for layer, own in zip(layers, params, strict=True):
        X, _ = layer.forward(own, X, ops=OPS, key=None)
    np.testing.assert_array_equal(A, X)
    assert Chain(layers).width(D) == 2


def test_backpropagation_stops_at_the_first_layer_that_learns():
    class Asked(Ops):
        needs = ()

        def __missing__(self, function):
            if function.__name__ != "dense_vjp":
                return super().__missing__(function)

            def dense_vjp(*args, need_dX):
                self.needs = (*self.needs, need_dX)
                return function(*args, xp=np, need_dX=need_dX)

            return dense_vjp

    chain = Chain((Dropout(0.5), Dense(3), Dropout(0.5), Dense(2)))
    (params, X), ops = draw(chain), Asked(np)
    A, saved = chain.forward(params, X, ops=ops, key=key())
    dX, grads = chain.backward(params, saved, A, ops=ops, need_dX=False)
    assert dX is None
    assert ops.needs == (True, False)  # from the last layer to the first
    assert [len(g) for g in grads] == [0, 2, 0, 2]


# What a layer may be


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Dense(0), ValueError, "units must be at least 1, got 0"),
        (lambda: Dense(2.5), TypeError, "units must be a whole number of at least 1, got 2.5"),
        (lambda: Dense(True), TypeError, "units .*must be .*, got True"),
        (lambda: Dense(2**31), ValueError, "units of Dense must be a positive integer below"),
        (lambda: Dropout("0.1"), TypeError, "rate of Dropout must be a number .*, got '0.1'"),
        (lambda: Dropout(None), TypeError, "rate of Dropout must be a number .*, got None"),
        (lambda: LayerNorm(-1), ValueError, "epsilon of LayerNorm must be a positive .*, got -1"),
        (lambda: LayerNorm(math.nan), ValueError, "epsilon of LayerNorm must be .*, got nan"),
        (lambda: BatchNorm(math.inf), ValueError, "epsilon of BatchNorm must be .*, got inf"),
    ],
)
def test_a_field_out_of_range_is_refused_when_the_layer_is_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_numbers_of_numpy_become_pythons():
    assert type(Dense(np.int64(3)).units) is int
    assert type(LayerNorm(np.float32(0.5)).epsilon) is float
    assert type(BatchNorm(momentum=np.float64(0.5)).momentum) is float
    assert Dropout(0) == Dropout(np.asarray(0.0)) == Dropout(0.0)


def network(layers):
    return Network(3, layers)


@dataclass(frozen=True)
class Listed(Residual):
    """A layer that keeps its list, so that no table can hold it."""

    def __post_init__(self):
        pass


@pytest.mark.parametrize("make", [network, Residual], ids=["network", "residual"])
@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ((), ValueError, "layers must hold at least one layer, got none"),
        ([Dense], TypeError, r"layers\[0\] must be a layer, got the class Dense; make one: Dense"),
        ([Dense(3), "relu"], TypeError, r"layers\[1\] must be a layer, .*, got 'relu', which has"),
        ([None], TypeError, r"layers\[0\] must be a layer, .*, got None, which has no method"),
        ("relu", TypeError, "layers must be a list or tuple of layers, got 'relu'"),
        (Dense(3), TypeError, r"layers must be a list or tuple of .*; for one: \[layer\]"),
        (
            [Dense(3), Listed([Dense(3)])],
            TypeError,
            r"layers\[1\] must be hashable, .* got a Listed: unhashable type: 'list'",
        ),
    ],
)
def test_what_is_no_layer_is_refused_where_layers_are_given(make, layers, error, message):
    with pytest.raises(error, match=message):
        make(layers)


@pytest.mark.parametrize("make", [tuple, list, iter])
def test_layers_come_in_any_sequence(make):
    layers = (Dense(3), Residual(make([Dense(4), Dense(3)])))
    assert Network(3, make(layers)) == Network(3, layers)
    assert hash(Network(3, make(layers))) == hash(Network(3, layers))


def nested(depth, kind=Residual):
    layer = Dense(3)
    for _ in range(depth):
        layer = kind((layer,))
    return layer


def test_layers_are_nested_only_so_deep():
    deepest = Network(3, (nested(MAX_DEPTH), Dense(2)))
    params, X, Y = initialize(deepest), np.ones((4, 3)), np.ones((4, 2))
    value, _, _ = value_and_grad(deepest, losses.get("huber"), params, X, Y, ops=OPS)
    assert math.isfinite(value)
    assert rebuild(describe(deepest)) == deepest
    for make in (lambda: nested(MAX_DEPTH + 1), lambda: nested(400)):
        with pytest.raises(ValueError, match="layers may be nested at most 32 deep"):
            make()
    with pytest.raises(ValueError, match="layers may be nested at most 32 deep"):
        network((nested(400, Listed),))


def test_a_file_nests_layers_only_so_deep():
    data = describe(Network(3, (Dense(3),)))
    for _ in range(400):
        data["layers"] = [{"type": "residual", "layers": data["layers"]}]
    with pytest.raises(ValueError, match="layers may be nested at most 32 deep"):
        rebuild(data)


def test_a_network_is_checked_when_it_is_made_and_when_it_is_replaced():
    made = network([Dense(2)])
    for make in (lambda n: Network(n, made.layers), lambda n: made._replace(n_inputs=n)):
        with pytest.raises(ValueError, match="n_inputs must be at least 1, got 0"):
            make(0)
        with pytest.raises(TypeError, match="n_inputs must be a whole number .*, got 2.0"):
            make(2.0)
        assert type(make(np.int64(4)).n_inputs) is int
    with pytest.raises(ValueError, match="layers must hold at least one layer"):
        made._replace(layers=[])
    assert made._replace(layers=[Dense(4)]) == network((Dense(4),))
