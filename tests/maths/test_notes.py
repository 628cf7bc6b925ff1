"""The course notes, row by row, against the library.

Source: A. Ng, Neural Networks and Deep Learning (deeplearning.ai), weeks 2 to 4. Everything on
the left of a comparison is written here as the notes write it: one column an example, X (n_x, m),
W^[l] (n^[l], n^[l-1]), b^[l] (n^[l], 1), loops where the notes have loops, NumPy in float64. The
library has one row an example, so `to_code` and `to_notes` transpose. `docs/notes.md` is the
same walk for a reader.
"""

import math
from itertools import pairwise

import numpy as np
import pytest

from nnaccel.kernels.backend import backend_of
from nnaccel.maths import activations, losses
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.network import (
    Network,
    flatten,
    forward,
    initial_params,
    layout,
    mlp,
    value_and_grad,
    views,
)
from nnaccel.maths.optimizers import gradient_descent
from nnaccel.ops import Ops
from nnaccel.tabular.datasets import load
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize

CROSS_ENTROPY = losses.get("binary_cross_entropy")


@pytest.fixture(params=["definitions", "kernels"])
def ops(request):
    return Ops(np) if request.param == "definitions" else backend_of(np).operations()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---------------------------------------------------------------- between the notes and the code


def to_code(network, parameters):
    """The notes' [(W1, b1), (W2, b2), ...] as the library's flat vector."""
    return flatten(tuple((W.T, b.T) for W, b in parameters), layout(network), xp=np)


def to_notes(network, vector):
    """A flat vector of parameters or gradients as the notes' [(W1, b1), (W2, b2), ...]."""
    # A copy: the vector may be a buffer that the next step writes over.
    return [(W.T, b.T) for W, b in views(vector.copy(), layout(network), xp=np)]


def assert_same(found, expected, rtol=1e-10):
    """Two lists of (W, b) pairs, equal to rounding."""
    assert len(found) == len(expected)
    for pair, other in zip(found, expected, strict=True):
        for array, wanted in zip(pair, other, strict=True):
            assert array.shape == wanted.shape
            np.testing.assert_allclose(array, wanted, rtol=rtol, atol=1e-14)


def draw(rng, *sizes):
    """[(W, b), ...] for layers of sizes n^[0], n^[1], ..., n^[L]."""
    return [
        (rng.standard_normal((n, n_prev)), rng.standard_normal((n, 1)))
        for n_prev, n in pairwise(sizes)
    ]


def problem(rng, n_x, m):
    """X (n_x, m) and labels Y (1, m)."""
    return rng.standard_normal((n_x, m)), rng.integers(0, 2, (1, m)).astype(float)


def gradients(network, parameters, X, Y, ops):
    """The library's cost and gradients for the notes' parameters and data."""
    J, grads, _ = value_and_grad(
        network, CROSS_ENTROPY, to_code(network, parameters), X.T, Y.T, ops=ops
    )
    return float(J), to_notes(network, grads)


# --------------------------------------------------------------------- the notes: g, its slope, J


def sigma(z):
    return 1 / (1 + np.exp(-z))


# name: (g(z), g'(z)), each as the notes write it
G = {
    "sigmoid": (sigma, lambda z: sigma(z) * (1 - sigma(z))),
    "tanh": (
        lambda z: (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z)),
        lambda z: 1 - np.tanh(z) ** 2,
    ),
    "relu": (lambda z: np.maximum(0, z), lambda z: np.where(z < 0, 0.0, 1.0)),
    "leaky_relu": (lambda z: np.maximum(0.01 * z, z), lambda z: np.where(z < 0, 0.01, 1.0)),
}


def cost(A, Y):
    """J = -(1/m) sum(y log a + (1 - y) log(1 - a))."""
    return -np.sum(Y * np.log(A) + (1 - Y) * np.log(1 - A)) / Y.shape[1]


# ----------------------------------------------------- logistic regression: no hidden layer at all


def logistic_regression_by_loops(w, b, X, Y):
    """J, dw, db, with a loop over examples and one over features in it."""
    n_x, m = X.shape
    J, dw, db = 0.0, np.zeros((n_x, 1)), 0.0
    for i in range(m):
        z = b
        for j in range(n_x):
            z += w[j, 0] * X[j, i]
        a = 1 / (1 + math.exp(-z))
        J += -(Y[0, i] * math.log(a) + (1 - Y[0, i]) * math.log(1 - a))
        dz = a - Y[0, i]
        for j in range(n_x):
            dw[j, 0] += X[j, i] * dz
        db += dz
    return J / m, dw / m, db / m


def logistic_regression_vectorised(w, b, X, Y):
    m = X.shape[1]
    Z = np.dot(w.T, X) + b
    A = sigma(Z)
    dZ = A - Y
    dw = 1 / m * np.dot(X, dZ.T)
    db = 1 / m * np.sum(dZ)
    return cost(A, Y), dw, db


@pytest.mark.parametrize("notes", [logistic_regression_by_loops, logistic_regression_vectorised])
def test_logistic_regression_is_a_network_without_hidden_layers(notes, rng, ops):
    X, Y = problem(rng, 3, 20)
    w, b = rng.standard_normal((3, 1)), 0.3
    network = mlp(3, [], 1)
    J, [(dW, dB)] = gradients(network, [(w.T, np.array([[b]]))], X, Y, ops)
    J_notes, dw, db = notes(w, b, X, Y)
    assert pytest.approx(J_notes, rel=1e-12) == J
    assert_same([(dW, dB)], [(dw.T, np.array([[db]]))])


# ------------------------------------------------------------------ the two-layer network, forward


def two_layers_by_neuron(parameters, X, g):
    """z_j = w_j^T x + b_j and a_j = g(z_j): one neuron and one example at a time."""
    (W1, b1), (W2, b2) = parameters
    m = X.shape[1]
    A1, A2 = np.zeros((len(W1), m)), np.zeros((len(W2), m))
    for i in range(m):
        for j in range(len(W1)):
            A1[j, i] = g(sum(W1[j, k] * X[k, i] for k in range(len(X))) + b1[j, 0])
        for j in range(len(W2)):
            A2[j, i] = sigma(sum(W2[j, k] * A1[k, i] for k in range(len(W1))) + b2[j, 0])
    return A1, A2


def two_layers_by_example(parameters, X, g):
    """z^[l](i) = W^[l] a^[l-1](i) + b^[l]: all the neurons of one example at once."""
    (W1, b1), (W2, b2) = parameters
    columns_1, columns_2 = [], []
    for i in range(X.shape[1]):
        x = X[:, i : i + 1]
        a1 = g(W1 @ x + b1)
        a2 = sigma(W2 @ a1 + b2)
        columns_1.append(a1)
        columns_2.append(a2)
    return np.hstack(columns_1), np.hstack(columns_2)


def two_layers_vectorised(parameters, X, g):
    """Z^[l] = W^[l] A^[l-1] + b^[l]: all the examples at once."""
    (W1, b1), (W2, b2) = parameters
    Z1 = np.dot(W1, X) + b1
    A1 = g(Z1)
    Z2 = np.dot(W2, A1) + b2
    A2 = sigma(Z2)
    return A1, A2


@pytest.mark.parametrize("name", G)
@pytest.mark.parametrize(
    "notes", [two_layers_by_neuron, two_layers_by_example, two_layers_vectorised]
)
def test_two_layers_forward(notes, name, rng, ops):
    X, _ = problem(rng, 3, 6)
    parameters = draw(rng, 3, 4, 1)
    network = mlp(3, [4], 1, activation=name)
    A1, A2 = notes(parameters, X, G[name][0])

    hidden = Network(3, network.layers[:1])
    found = forward(hidden, to_code(hidden, parameters[:1]), X.T, ops=ops)
    np.testing.assert_allclose(found.T, A1, rtol=1e-12, atol=1e-14)

    Z2 = forward(network, to_code(network, parameters), X.T, ops=ops)
    prediction = CROSS_ENTROPY.link(Z2, xp=np)
    np.testing.assert_allclose(prediction.T, A2, rtol=1e-12)


# -------------------------------------------------------------------- activations and their slopes


@pytest.mark.parametrize("name", G)
def test_activations_and_their_derivatives(name):
    # Not at 0, where ReLU has no slope: the notes then say 1, the library says 0.
    z = np.array([[-20.0, -3.0, -1.0, -0.1, 0.1, 1.0, 3.0, 20.0]])
    g, slope = G[name]
    activation = activations.get(name)
    A = activation.forward(z, xp=np)
    np.testing.assert_allclose(A, g(z), rtol=1e-12, atol=1e-15)
    found = activation.vjp(np.ones_like(z), z, A, xp=np)
    np.testing.assert_allclose(found, slope(z), rtol=1e-12, atol=1e-15)


# ------------------------------------------------------------------------------- backpropagation


def six_equations(parameters, X, Y, g, slope):
    (W1, b1), (W2, b2) = parameters
    m = X.shape[1]
    Z1 = np.dot(W1, X) + b1
    A1 = g(Z1)
    A2 = sigma(np.dot(W2, A1) + b2)

    dZ2 = A2 - Y
    dW2 = 1 / m * np.dot(dZ2, A1.T)
    db2 = 1 / m * np.sum(dZ2, axis=1, keepdims=True)
    dZ1 = np.dot(W2.T, dZ2) * slope(Z1)
    dW1 = 1 / m * np.dot(dZ1, X.T)
    db1 = 1 / m * np.sum(dZ1, axis=1, keepdims=True)
    return cost(A2, Y), [(dW1, db1), (dW2, db2)]


def six_equations_by_example(parameters, X, Y, g, slope):
    """The six for one example, in small letters, and the mean of them over the examples."""
    (W1, b1), (W2, b2) = parameters
    m = X.shape[1]
    J, dW1, db1, dW2, db2 = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(m):
        x, y = X[:, i : i + 1], Y[:, i : i + 1]
        z1 = W1 @ x + b1
        a1 = g(z1)
        a2 = sigma(W2 @ a1 + b2)
        J += cost(a2, y) / m

        dz2 = a2 - y
        dW2 += dz2 @ a1.T / m
        db2 += dz2 / m
        dz1 = W2.T @ dz2 * slope(z1)
        dW1 += dz1 @ x.T / m
        db1 += dz1 / m
    return J, [(dW1, db1), (dW2, db2)]


@pytest.mark.parametrize("name", G)
@pytest.mark.parametrize("notes", [six_equations, six_equations_by_example])
def test_the_six_equations_of_backpropagation(notes, name, rng, ops):
    X, Y = problem(rng, 3, 10)
    parameters = draw(rng, 3, 4, 1)
    J, grads = gradients(mlp(3, [4], 1, activation=name), parameters, X, Y, ops)
    J_notes, grads_notes = notes(parameters, X, Y, *G[name])
    assert pytest.approx(J_notes, rel=1e-12) == J
    assert_same(grads, grads_notes)


def deep(parameters, X, Y, names):
    """The general form, for layers 1 ... L; `names` are the activations of the hidden ones."""
    L, m = len(parameters), X.shape[1]
    W, b = ([None, *arrays] for arrays in zip(*parameters, strict=True))
    g = [None, *(G[name] for name in names), G["sigmoid"]]
    A, Z = [X], [None]
    for l in range(1, L + 1):  # noqa: E741
        Z.append(np.dot(W[l], A[l - 1]) + b[l])
        A.append(g[l][0](Z[l]))

    grads = []
    dA = -(Y / A[L]) + (1 - Y) / (1 - A[L])
    for l in range(L, 0, -1):  # noqa: E741
        dZ = dA * g[l][1](Z[l])
        dW = 1 / m * np.dot(dZ, A[l - 1].T)
        db = 1 / m * np.sum(dZ, axis=1, keepdims=True)
        dA = np.dot(W[l].T, dZ)
        grads.insert(0, (dW, db))
    return A[L], grads


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ([3, 1], []),
        ([3, 4, 1], ["tanh"]),
        ([5, 4, 3, 2, 1], ["relu", "tanh", "sigmoid"]),
        ([2, 6, 5, 4, 3, 1], ["leaky_relu", "relu", "tanh", "leaky_relu"]),
    ],
)
def test_the_general_form_for_any_depth(sizes, names, rng, ops):
    n_x, *hidden, n_y = sizes
    X, Y = problem(rng, n_x, 12)
    parameters = draw(rng, *sizes)
    network = mlp(n_x, hidden, n_y, activation=names)
    A, grads_notes = deep(parameters, X, Y, names)
    J, grads = gradients(network, parameters, X, Y, ops)
    assert pytest.approx(cost(A, Y), rel=1e-11) == J
    assert_same(grads, grads_notes, rtol=1e-8)


# ---------------------------------------------------------------------------------- the update loop


def updated(parameters, grads, alpha):
    """W := W - alpha dW and b := b - alpha db."""
    return [
        (W - alpha * dW, b - alpha * db) for (W, b), (dW, db) in zip(parameters, grads, strict=True)
    ]


def test_the_update_loop_is_gradient_descent_on_all_examples(rng):
    alpha, m = 0.5, 30
    X, Y = problem(rng, 3, m)
    parameters = draw(rng, 3, 4, 1)
    network = mlp(3, [4], 1, activation="tanh")
    epochs = train(
        network,
        X.T,
        Y.T,
        loss="binary_cross_entropy",
        optimizer=gradient_descent(alpha),
        epochs=20,
        batch_size=m,
        shuffle=False,
        params=to_code(network, parameters),
    )
    for epoch in epochs:
        J, grads = six_equations(parameters, X, Y, *G["tanh"])
        parameters = updated(parameters, grads, alpha)
        assert epoch.loss == pytest.approx(J, rel=1e-10)
        assert_same(to_notes(network, epoch.params), parameters, rtol=1e-9)
    assert epoch.number == 20


# ----------------------------------------------------------------------------------- initialisation


def trained(network, X, y, alpha, iterations):
    """The last epoch of gradient descent on all examples, in the code's layout."""
    *_, last = train(
        network,
        X,
        y,
        loss="binary_cross_entropy",
        optimizer=gradient_descent(alpha),
        epochs=iterations,
        batch_size=len(X),
        shuffle=False,
    )
    return last


def spread_of_units(network, params):
    """How far the hidden units of a two-layer network are from the first of them."""
    (W1, b1), (W2, _) = to_notes(network, params)
    units = np.hstack([W1, b1, W2.T])  # one row a unit: what comes in and what goes out
    return np.max(np.abs(units - units[0]))


def test_zero_weights_keep_hidden_units_identical():
    flower = load("planar")
    network = mlp(2, [4], 1, activation="sigmoid", initializer="zeros")
    epoch = trained(network, flower.X, flower.y, 1.2, 2000)
    (W1, _), _ = to_notes(network, epoch.params)
    assert np.max(np.abs(W1)) > 0.1  # they have learnt something, but all of them the same
    assert spread_of_units(network, epoch.params) < 1e-9


def test_zero_weights_under_tanh_never_move():
    # a = tanh(0) = 0 makes dW2 = 0, and W2 = 0 makes dW1 = 0.
    flower = load("planar")
    network = mlp(2, [4], 1, activation="tanh", initializer="zeros")
    (W1, b1), (W2, _) = to_notes(network, trained(network, flower.X, flower.y, 1.2, 100).params)
    assert not W1.any()
    assert not b1.any()
    assert not W2.any()


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_random_weights_break_the_symmetry(name):
    flower = load("planar")
    network = mlp(2, [4], 1, activation=name, initializer="small_normal")
    assert spread_of_units(network, initialize(network)) < 0.05
    epoch = trained(network, flower.X, flower.y, 1.2, 2000)
    assert spread_of_units(network, epoch.params) > 1


def test_small_normal_is_randn_times_one_hundredth():
    network = mlp(3, [4], 1, activation="tanh", initializer="small_normal")
    (W1, b1), (W2, b2) = to_notes(network, initial_params(network, np.random.default_rng(5), xp=np))
    np.testing.assert_array_equal(W1.T, np.random.default_rng(5).standard_normal((3, 4)) * 0.01)
    assert 0 < np.max(np.abs(W2)) < 0.05
    assert not b1.any()
    assert not b2.any()


@pytest.mark.parametrize(("name", "factor"), [("sigmoid", 500), ("tanh", 1000), ("relu", 1)])
def test_large_weights_saturate_sigmoid_and_tanh(name, factor, ops):
    """With z = w x and x even over (-1, 1), the mean slope is (g(w) - g(-w)) / 2w.

    From small weights to w = 1000 it falls from 1/4 to 1/2000 for the sigmoid and from 1 to
    1/1000 for tanh, and with it the gradient. ReLU keeps its slope of 1/2.
    """
    N, activation = 20_000, activations.get(name)
    X = ((np.arange(N) + 0.5) / N * 2 - 1)[:, None]
    slopes = []
    for w in (0.01, 1000.0):
        W, b = np.array([[w]]), np.zeros((1, 1))
        Z, A = ops[dense](X, W, b, activation)
        _, _, db = ops[dense_vjp](np.full((N, 1), 1 / N), X, W, Z, A, activation)
        slopes.append(db.item())
    assert slopes[0] / slopes[1] == pytest.approx(factor, rel=0.001)


# ------------------------------------------------------------------------ why g must not be linear


def test_linear_hidden_layers_collapse(rng, ops):
    """W2 (W1 x + b1) + b2 = W' x + b', with W' = W2 W1 and b' = W2 b1 + b2."""
    X, _ = problem(rng, 3, 10)
    (W1, b1), (W2, b2) = parameters = draw(rng, 3, 4, 1)
    network = mlp(3, [4], 1, activation="identity")
    Z = forward(network, to_code(network, parameters), X.T, ops=ops).copy()
    W, b = W2 @ W1, W2 @ b1 + b2
    np.testing.assert_allclose(Z.T, W @ X + b, rtol=1e-12)

    line = mlp(3, [], 1)
    same = forward(line, to_code(line, [(W, b)]), X.T, ops=ops)
    np.testing.assert_allclose(same, Z, rtol=1e-12)


# -------------------------------------------------------------------------------- the planar flower


def accuracy(network, params, X, y):
    """The share of examples on the right side of a = 0.5."""
    return np.mean((predict(network, params, X)[:, 0] > 0) == y)


def test_the_costs_that_the_course_prints():
    """The exercise of week 3 with its own seeds: its data, its weights, its costs.

    Its print-outs agree up to iteration 7000 and then differ from machine to machine.
    """
    rng = np.random.RandomState(1)
    petals = []
    for j in range(2):
        t = np.linspace(j * 3.12, (j + 1) * 3.12, 200) + rng.randn(200) * 0.2
        r = 4 * np.sin(4 * t) + rng.randn(200) * 0.2
        petals.append(np.c_[r * np.sin(t), r * np.cos(t)])
    X, y = np.concatenate(petals), np.repeat([0, 1], 200)

    rng = np.random.RandomState(2)
    W1, W2 = rng.randn(4, 2) * 0.01, rng.randn(1, 4) * 0.01
    parameters = [(W1, np.zeros((4, 1))), (W2, np.zeros((1, 1)))]
    network = mlp(2, [4], 1, activation="tanh")
    costs = {}
    for epoch in train(
        network,
        X,
        y,
        loss="binary_cross_entropy",
        optimizer=gradient_descent(1.2),
        epochs=10_000,
        batch_size=400,
        shuffle=False,
        params=to_code(network, parameters),
    ):
        costs[epoch.number - 1] = epoch.loss  # the cost before the update
    printed = [0.693048, 0.288083, 0.254385, 0.233864, 0.226792, 0.222644, 0.219731, 0.217504]
    assert [costs[1000 * k] for k in range(8)] == pytest.approx(printed, abs=1e-6)
    assert accuracy(network, epoch.params, X, y) == pytest.approx(0.90, abs=0.01)

    line = mlp(2, [], 1, initializer="zeros")
    assert accuracy(line, trained(line, X, y, 0.1, 1000).params, X, y) == 0.47


def test_the_flower_of_the_library():
    flower = load("planar")
    network = mlp(2, [4], 1, activation="tanh", initializer="small_normal")
    epoch = trained(network, flower.X, flower.y, 1.2, 5000)
    assert accuracy(network, epoch.params, flower.X, flower.y) > 0.88

    line = mlp(2, [], 1, initializer="zeros")
    epoch = trained(line, flower.X, flower.y, 0.1, 1000)
    assert accuracy(line, epoch.params, flower.X, flower.y) < 0.55
