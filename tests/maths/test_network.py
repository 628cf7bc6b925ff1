"""Whole networks: the flat parameter vector, forward propagation and backpropagation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnaccel.maths import losses
from nnaccel.maths.activations import ACTIVATIONS, get
from nnaccel.maths.layers import Dense, Dropout, LayerNorm, Residual
from nnaccel.maths.losses import LOSSES
from nnaccel.maths.network import (
    Network,
    Slot,
    flatten,
    forward,
    initial_params,
    l2_penalty,
    layout,
    leaves,
    mlp,
    value_and_grad,
    views,
)
from nnaccel.maths.random import Key
from nnaccel.ops import Ops

OPS = Ops(np)
D, K = 4, 3

# One of everything: blocks in blocks, normalisation, several activations.
EVERYTHING = Network(
    D,
    (
        Dense(5, get("gelu")),
        LayerNorm(),
        Residual((Dense(6, get("elu", alpha=0.7)), Residual((Dense(6, get("tanh")),)), Dense(5))),
        Dense(K),
    ),
)


def random_params(network, lead=(), seed=0):
    """Parameters with nothing at zero, not the biases either."""
    rng = np.random.default_rng(seed)
    return 0.7 * rng.standard_normal((*lead, layout(network).size))


def examples(N=6, seed=1):
    rng = np.random.default_rng(seed)
    Y = losses.softmax(rng.standard_normal((N, K)), xp=np)
    return rng.standard_normal((N, D)), Y, rng.uniform(0.5, 1.5, N)


# The flat parameter vector


def test_all_weights_come_first_and_then_all_biases():
    places = layout(mlp(4, [3], 2))
    first, second = places.slots
    assert [slot.start for slot in (*first, *second)] == [0, 18, 12, 21]
    assert [slot.stop for slot in (*first, *second)] == [12, 21, 18, 23]
    assert (places.n_weights, places.size) == (18, 23)


def test_layers_are_views_of_the_vector():
    network = mlp(4, [3], 2)
    params = random_params(network)
    (W, b), _ = views(params, layout(network), xp=np)
    assert W.shape == (4, 3)
    assert b.shape == (1, 3)
    assert np.shares_memory(W, params)
    W[1, 2] = 7.0
    assert params[1 * 3 + 2] == 7.0


def test_the_parts_of_the_vector_lie_side_by_side():
    slots = sorted(leaves(layout(EVERYTHING).slots, Slot))
    assert [slot.start for slot in slots] == [0, *(slot.stop for slot in slots[:-1])]
    assert slots[-1].stop == layout(EVERYTHING).size
    decays = [slot.param.decays for slot in slots]
    assert decays == sorted(decays, reverse=True)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    lead=st.lists(st.integers(1, 3), max_size=2),
    norm=st.booleans(),
)
def test_flatten_is_the_inverse_of_views(sizes, lead, norm):
    first, *widths = sizes
    layers = [layer for H in widths for layer in ([LayerNorm()] if norm else []) + [Dense(H)]]
    network = Network(first, tuple(layers))
    params = random_params(network, tuple(lead))
    tree = views(params, layout(network), xp=np)
    np.testing.assert_array_equal(flatten(tree, layout(network), xp=np), params)
    shapes = [slot.param.shape for slot in leaves(layout(network).slots, Slot)]
    assert [a.shape for a in leaves(tree)] == [(*lead, *shape) for shape in shapes]


def test_views_and_flatten_on_every_library(xp_device):
    params = random_params(EVERYTHING, (2,))
    there, places = xp_device.asarray(params), layout(EVERYTHING)
    tree = views(there, places, xp=xp_device.xp)
    for mine, expected in zip(leaves(tree), leaves(views(params, places, xp=np)), strict=True):
        np.testing.assert_array_equal(xp_device.to_numpy(mine), expected, strict=True)
    back = flatten(tree, places, xp=xp_device.xp)
    np.testing.assert_array_equal(xp_device.to_numpy(back), params, strict=True)


def test_a_network_is_hashable_data_and_its_layout_is_made_once():
    network, same = mlp(4, [3], 2, activation="tanh"), mlp(4, [3], 2, activation="tanh")
    assert network == same
    assert layout(network) is layout(same)
    elu = [mlp(4, [3], 2, activation=get("elu", alpha=0.5)) for _ in range(2)]
    assert elu[0] == elu[1] != mlp(4, [3], 2, activation="elu")


def test_initial_parameters_are_drawn_layer_by_layer():
    network = mlp(4, [3], 2, activation="tanh", initializer="small_normal")
    params = initial_params(network, np.random.default_rng(5), xp=np)
    rng = np.random.default_rng(5)
    W1 = 0.01 * rng.standard_normal((4, 3))
    rng.random((1, 3))  # the biases draw too, and are zero
    W2 = 0.01 * rng.standard_normal((3, 2))
    expected = np.concatenate([W1.ravel(), W2.ravel(), np.zeros(5)])
    np.testing.assert_array_equal(params, expected)


# Building one


def test_mlp_is_dense_layers_and_dropout_after_each_hidden_one():
    tanh, relu = get("tanh"), get("relu")
    assert mlp(4, [3, 2], 1, activation=["tanh", relu], dropout=0.1) == Network(
        4, (Dense(3, tanh), Dropout(0.1), Dense(2, relu), Dropout(0.1), Dense(1))
    )
    assert mlp(4, [], 1, dropout=0.1) == Network(4, (Dense(1),))
    assert mlp(4, [7], 2).n_outputs == 2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, [3], 2), "n_inputs must be at least 1, got 0"),
        ((4, [3, 0], 2), "hidden must be at least 1, got 0"),
        ((4, [-1], 2), "hidden must be at least 1, got -1"),
        ((4, [3], 0), "n_outputs must be at least 1, got 0"),
    ],
)
def test_sizes_below_one_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        mlp(*sizes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((4, 32, 2), r"hidden must list the units of each .*, got 32; for one layer: \[32\]"),
        ((4, [3.7], 2), "hidden must be a whole number of at least 1, got 3.7"),
        ((4, "ab", 2), "hidden must be a whole number of at least 1, got 'a'"),
        ((None, [3], 2), "n_inputs must be a whole number of at least 1, got None"),
    ],
)
def test_sizes_that_are_no_whole_numbers_are_refused(sizes, message):
    with pytest.raises(TypeError, match=message):
        mlp(*sizes)


def test_another_number_of_activations_than_hidden_layers_is_refused():
    with pytest.raises(ValueError, match="one for each of the 2 hidden layers, got 1 names"):
        mlp(4, [3, 3], 2, activation=["tanh"])


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="did you mean 'tanh'"):
        mlp(4, [3], 2, activation="tahn")


# Values and identities


def test_a_network_worked_by_hand():
    """Two inputs, two ReLU units, one logit; loss log(1 + e^-z) at z = 2 for a positive label."""
    network = mlp(2, [2], 1)
    W1, W2 = [[1.0, -1.0], [0.5, 1.0]], [[1.0], [3.0]]
    b1, b2 = [0.0, -2.0], [0.0]
    params = np.concatenate([np.ravel(a) for a in (W1, W2, b1, b2)])
    X, Y = np.array([[1.0, 2.0]]), np.array([[1.0]])
    value, grads, Z = value_and_grad(network, LOSSES["binary_cross_entropy"], params, X, Y, ops=OPS)
    assert Z.tolist() == [[2.0]]
    assert float(value) == pytest.approx(np.log1p(np.exp(-2.0)))
    dz = -1 / (1 + np.exp(2.0))
    np.testing.assert_allclose(grads, dz * np.array([1, 0, 2, 0, 2, 0, 1, 0, 1]), rtol=1e-14)


def test_permuting_hidden_units_leaves_the_loss():
    network = mlp(D, [5, 6], K, activation="tanh")
    params, (X, Y, _) = random_params(network), examples()
    (W1, b1), (W2, b2), (W3, b3) = views(params, layout(network), xp=np)
    p, q = [3, 1, 4, 0, 2], [5, 0, 3, 2, 1, 4]
    permuted = flatten(
        ((W1[:, p], b1[:, p]), (W2[p][:, q], b2[:, q]), (W3[q], b3)), layout(network), xp=np
    )
    loss = LOSSES["softmax_cross_entropy"]
    before = value_and_grad(network, loss, params, X, Y, ops=OPS)
    after = value_and_grad(network, loss, permuted, X, Y, ops=OPS)
    assert after[0] == pytest.approx(before[0], rel=1e-14)
    assert np.sort(after[1]) == pytest.approx(np.sort(before[1]), rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_with_zero_weights_all_classes_are_alike_and_hidden_units_stay_identical(activation):
    network = mlp(D, [5], K, activation=activation, initializer="zeros")
    params, (X, Y, _) = np.zeros(layout(network).size), examples()
    loss = LOSSES["softmax_cross_entropy"]
    for step in range(20):
        value, grads, _ = value_and_grad(network, loss, params, X, Y, ops=OPS)
        if step == 0:
            assert value == pytest.approx(np.log(K), rel=1e-14)
        params = params - 0.5 * grads
    (W1, b1), (W2, _) = views(params, layout(network), xp=np)
    for array in (W1, b1, W2.T):
        np.testing.assert_array_equal(array, np.broadcast_to(array[:, :1], array.shape))


def test_forward_and_value_and_grad_give_the_same_logits():
    params, (X, Y, _) = random_params(EVERYTHING), examples()
    _, _, Z = value_and_grad(EVERYTHING, LOSSES["huber"], params, X, Y, ops=OPS)
    np.testing.assert_array_equal(forward(EVERYTHING, params, X, ops=OPS), Z)


def test_examples_do_not_see_each_other():
    params, (X, _, _) = random_params(EVERYTHING), examples()
    together = forward(EVERYTHING, params, X, ops=OPS)
    one_by_one = [forward(EVERYTHING, params, X[i : i + 1], ops=OPS) for i in range(6)]
    np.testing.assert_allclose(together, np.concatenate(one_by_one), rtol=1e-12)


def test_the_gradient_of_a_batch_is_the_mean_over_its_examples():
    params, (X, Y, weights) = random_params(EVERYTHING), examples()
    loss = LOSSES["squared_error"]
    value, grads, _ = value_and_grad(EVERYTHING, loss, params, X, Y, weights, ops=OPS)
    each = [
        value_and_grad(EVERYTHING, loss, params, *(a[i : i + 1] for a in (X, Y, weights)), ops=OPS)
        for i in range(6)
    ]
    assert value == pytest.approx(np.mean([v for v, _, _ in each]), rel=1e-13)
    np.testing.assert_allclose(grads, np.mean([g for _, g, _ in each], axis=0), rtol=1e-11)


def test_prediction_has_no_dropout_and_a_training_step_has():
    network, plain = mlp(D, [64], K, dropout=0.5), mlp(D, [64], K)
    params, (X, Y, _) = random_params(network), examples()
    without = forward(plain, params, X, ops=OPS)
    np.testing.assert_array_equal(forward(network, params, X, ops=OPS), without)
    key = Key(0, np.zeros((), dtype=np.int32))
    assert not np.allclose(forward(network, params, X, ops=OPS, key=key), without)
    loss = LOSSES["squared_error"]
    trained = [value_and_grad(network, loss, params, X, Y, ops=OPS, key=key)[0] for _ in range(2)]
    assert trained[0] == trained[1]


def test_l2_adds_half_the_squared_weights_and_no_bias():
    network = mlp(D, [5], K)
    params, (X, Y, _) = random_params(network), examples()
    loss, n = LOSSES["squared_error"], layout(network).n_weights
    plain, grads, _ = value_and_grad(network, loss, params, X, Y, ops=OPS)
    value, penalised, _ = value_and_grad(network, loss, params, X, Y, ops=OPS, l2=0.3)
    assert value == pytest.approx(plain + 0.15 * np.sum(params[:n] ** 2), rel=1e-14)
    np.testing.assert_allclose(penalised[:n], grads[:n] + 0.3 * params[:n], rtol=1e-12)
    np.testing.assert_array_equal(penalised[n:], grads[n:])
    alone = l2_penalty(plain, grads, params, 0.3, n, xp=np)
    assert alone[0] == value
    np.testing.assert_array_equal(alone[1], penalised)


# Leading axes


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("l2", [0.0, 0.2])
def test_K_stacked_networks_are_K_networks(loss, l2):
    loss = LOSSES[loss]
    n_outputs = K * loss.n_outputs
    network = EVERYTHING._replace(layers=(*EVERYTHING.layers[:-1], Dense(n_outputs)))
    params, (X, Y, weights) = random_params(network, (3,)), examples()
    value, grads, Z = value_and_grad(network, loss, params, X, Y, weights, ops=OPS, l2=l2)
    assert value.shape == (3,)
    assert grads.shape == params.shape
    assert Z.shape == (3, 6, n_outputs)
    for k in range(3):
        expected = value_and_grad(network, loss, params[k], X, Y, weights, ops=OPS, l2=l2)
        for mine, theirs in zip((value[k], grads[k], Z[k]), expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-13)


def test_each_of_K_networks_may_have_data_of_its_own():
    params, (X, Y, _) = random_params(EVERYTHING, (2,)), examples(12)
    X, Y = X.reshape(2, 6, D), Y.reshape(2, 6, K)
    loss = LOSSES["softmax_cross_entropy"]
    value, grads, _ = value_and_grad(EVERYTHING, loss, params, X, Y, ops=OPS)
    for k in range(2):
        expected = value_and_grad(EVERYTHING, loss, params[k], X[k], Y[k], ops=OPS)
        assert value[k] == pytest.approx(expected[0], rel=1e-13)
        np.testing.assert_allclose(grads[k], expected[1], rtol=1e-10, atol=1e-14)


# Libraries and dtypes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_library_keeps_dtype_and_gives_the_same_numbers(dtype, xp_device):
    network = EVERYTHING._replace(layers=(*EVERYTHING.layers[:3], Dropout(0.3), Dense(K)))
    params, (X, Y, weights) = random_params(network), examples()
    arrays = [a.astype(dtype) for a in (params, X, Y, weights)]
    step = np.asarray(3, dtype=np.int32)
    loss = LOSSES["softmax_cross_entropy"]
    expected = value_and_grad(network, loss, *arrays, ops=OPS, l2=0.1, key=Key(1, step))
    there = [xp_device.asarray(a) for a in arrays]
    found = value_and_grad(
        network, loss, *there, ops=Ops(xp_device.xp), l2=0.1, key=Key(1, xp_device.asarray(step))
    )
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == getattr(xp_device.xp, dtype)
        assert theirs.dtype == dtype
        np.testing.assert_allclose(xp_device.to_numpy(mine), theirs, rtol=tolerance, atol=tolerance)
    for before, after in zip(arrays, there, strict=True):
        np.testing.assert_array_equal(xp_device.to_numpy(after), before)


# Independent implementations


def test_torch_autograd_gives_the_same_gradient_of_a_whole_network():
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    F = torch.nn.functional
    network = Network(
        D,
        (Dense(5, get("silu")), LayerNorm(), Residual((Dense(6, get("tanh")), Dense(5))), Dense(K)),
    )
    params, (X, _, weights) = random_params(network), examples()
    Y = np.array([0, 2, 1, 1, 0, 2])
    value, grads, Z = value_and_grad(
        network, LOSSES["softmax_cross_entropy"], params, X, Y, weights, ops=OPS, l2=0.05
    )
    flat = torch.tensor(params, requires_grad=True)
    tree = [
        flat[slot.start : slot.stop].reshape(slot.param.shape)
        for slot in leaves(layout(network).slots, Slot)
    ]
    W1, b1, gain, bias, W2, b2, W3, b3, W4, b4 = tree
    A = F.silu(torch.tensor(X) @ W1 + b1)
    A = F.layer_norm(A, (5,), gain[0], bias[0])
    A = A + torch.tanh(A @ W2 + b2) @ W3 + b3
    logits = A @ W4 + b4
    each = F.cross_entropy(logits, torch.tensor(Y), reduction="none") * torch.tensor(weights)
    penalty = sum((W**2).sum() for W in (W1, W2, W3, W4))
    expected = each.mean() + 0.025 * penalty
    expected.backward()
    np.testing.assert_allclose(Z, logits.detach().numpy(), rtol=1e-11)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(grads, flat.grad.numpy(), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "poisson"])
def test_jax_differentiates_the_forward_pass_to_the_same_gradient(loss):
    jax = pytest.importorskip("jax", reason="JAX is an oracle where it is installed")
    network = EVERYTHING._replace(layers=(*EVERYTHING.layers[:3], Dropout(0.3), Dense(K)))
    loss, ops = LOSSES[loss], Ops(jax.numpy)
    params, (X, Y, weights) = random_params(network), examples()
    step = np.asarray(3, dtype=np.int32)
    value, grads, _ = value_and_grad(
        network, loss, params, X, Y, weights, ops=OPS, key=Key(1, step)
    )

    def objective(params):
        key = Key(1, jax.numpy.asarray(step))
        Z = forward(network, params, jax.numpy.asarray(X), ops=ops, key=key)
        return loss.function(Z, jax.numpy.asarray(Y), jax.numpy.asarray(weights), xp=jax.numpy)[0]

    expected, dparams = jax.jit(jax.value_and_grad(objective))(jax.numpy.asarray(params))
    assert value == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(grads, dparams, rtol=1e-9, atol=1e-13)
