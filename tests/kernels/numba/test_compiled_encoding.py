"""The piecewise linear encoding in the compiled epoch: the training of the steps by definitions."""

import numpy as np
import pytest

from nnaccel.kernels import dense_plan
from nnaccel.kernels.definition import NotSupported, Run
from nnaccel.maths import losses, metrics, optimizers
from nnaccel.maths.activations import get
from nnaccel.maths.layers import Dense, Dropout, PiecewiseLinear
from nnaccel.maths.layers.piecewise_linear import piecewise_linear
from nnaccel.maths.network import Network
from nnaccel.training.loop import train
from tests.kernels.test_epoch import LOSSES, assert_same_run, examples, simple, trained

pytest.importorskip("numba")
pytest.importorskip("scipy")

from nnaccel.kernels.numba import gather
from nnaccel.kernels.numba.activations import ACTIVATIONS

BOTH_WAYS = pytest.mark.parametrize(
    "interpolated", [False, True], ids=["by products", "interpolated"]
)

# Three inputs, of which one has no bins; and many, whose rows are wide.
FEW = ((-1.0, -0.2, 0.0, 0.7, 2.0), (), (-0.5, 0.5))
MANY = tuple(tuple(np.linspace(-2, 2, 2 + 7 * (j % 5)).tolist()) for j in range(19))
EDGES = {"few": FEW, "many": MANY, "some": FEW[:1], "none": ((), ()), "no inputs": ()}


def network_of(edges=FEW, K=3, *, D=3, on_inputs=0.0, hidden=0.0, units=(20, 7)):
    """Dense layers after the encoding, with dropout at these rates."""
    layers = [PiecewiseLinear(edges), Dropout(on_inputs)]
    for H in units:
        layers += [Dense(H, get("relu")), Dropout(hidden)]
    return Network(D, (*layers, Dense(K)))


def inputs_of(edges):
    return max(3, len(edges))


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_encoding_is_that_of_the_definition(dtype, edges, n):
    """Of numbers on the edges too, of infinity and of what is not a number."""
    bins, D = PiecewiseLinear(edges).bins, inputs_of(edges)
    X = np.random.default_rng(0).standard_normal((n, D)).astype(dtype)
    X[0] = np.resize([np.nan, np.inf, -np.inf, *MANY[1]], D)
    X[-1] = np.resize([2.0, -0.5, 0.5, -1.0], D)
    found = np.full((n + 2, D + len(bins.of) + 3), 7.0, dtype)
    found[1:-1, :D] = X
    gather.encode(gather.encoding_of(bins, X.dtype), found[1:-1, :-3])
    np.testing.assert_array_equal(found[1:-1, :-3], piecewise_linear(X, bins, xp=np))
    found[1:-1, :-3] = 7.0
    assert (found == 7.0).all()


@BOTH_WAYS
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_epoch_with_an_encoding_is_its_steps(
    dtype, edges, size, interpolated, team, interpolating
):
    """With a last batch that is short, with weights and dropout and without."""
    team(size)
    interpolating(interpolated)
    D = inputs_of(edges)
    for rate in (0.0, 0.3):
        network = network_of(edges, D=D, on_inputs=rate * (not interpolated), hidden=rate)
        data = examples(N=70, D=D, dtype=dtype, weighted=rate > 0)
        problem = simple(network, data=data, dtype=dtype, l2=0.1 * rate, batch_size=32, seed=11)
        found = trained(problem.small(numba=True), problem, state_step=9)
        assert_same_run(found, trained(problem.steps(), problem, state_step=9), dtype)


@BOTH_WAYS
@pytest.mark.parametrize(("loss", "K"), LOSSES)
def test_every_loss_comes_after_an_encoding(loss, K, interpolated, interpolating):
    interpolating(interpolated)
    data = examples(loss, K, weighted=True)
    problem = simple(network_of(K=K), data=data, loss=loss, metric=metrics.for_loss(loss))
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


@BOTH_WAYS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("edges", [FEW, MANY], ids=["few", "many"])
def test_bytes_are_encoded_as_numbers(edges, dtype, interpolated, interpolating):
    interpolating(interpolated)
    edges = tuple(tuple(3.0 + e for e in row) for row in edges)
    D = inputs_of(edges)
    X = np.random.default_rng(0).integers(0, 6, (50, D), np.uint8)
    data = examples(D=D, dtype=dtype)._replace(X=X)
    problem = simple(network_of(edges, D=D, hidden=0.2), data=data, dtype=dtype)
    found = trained(problem.small(numba=True), problem)
    assert_same_run(found, trained(problem.steps(), problem), dtype)


@BOTH_WAYS
@pytest.mark.parametrize(("N", "batch_size"), [(1, 16), (1, 1), (33, 16)])
def test_one_row_is_encoded(N, batch_size, interpolated, interpolating):
    """That is all there is, or the last batch."""
    interpolating(interpolated)
    problem = simple(network_of(), data=examples(N=N), batch_size=batch_size)
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


@BOTH_WAYS
def test_a_run_with_an_encoding_is_that_of_the_definition(interpolated, interpolating):
    interpolating(interpolated)
    X, Y, weights = examples(N=70, weighted=True)
    network, options = network_of(hidden=0.2), {"sample_weight": weights, "seed": 3}
    found, expected = (
        [e.copy() for e in train(network, X, Y, loss="softmax_cross_entropy", epochs=3,
                                 batch_size=32, kernels=kernels, **options)]
        for kernels in (True, False)
    )  # fmt: skip
    for epoch, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(epoch.loss, reference.loss, rtol=1e-4)
    np.testing.assert_allclose(found[-1].params, expected[-1].params, rtol=1e-3, atol=2e-5)


# What has no plan

ENCODING = PiecewiseLinear(FEW)
UNKNOWN = {
    "two in a row": (ENCODING, PiecewiseLinear(FEW), Dense(3)),
    "after dropout": (Dropout(0.2), ENCODING, Dense(3)),
    "after a layer": (Dense(3, get("tanh")), ENCODING, Dense(3)),
    "alone": (ENCODING,),
}


@pytest.mark.parametrize("layers", UNKNOWN.values(), ids=UNKNOWN)
def test_an_encoding_elsewhere_is_left_to_the_steps(layers):
    assert simple(Network(3, layers)).small(numba=True) is None


def test_a_plan_has_an_encoding_for_those_who_ask_for_it():
    network = Network(3, (ENCODING, Dense(20, get("relu")), Dense(3)))
    run = Run(network, losses.get("squared_error"), optimizers.adam(0.01), 16, np.dtype("float32"))
    with pytest.raises(NotSupported, match="it has no layer PiecewiseLinear"):
        dense_plan.plan_of(run, ACTIVATIONS, dropout=True)
    plan = dense_plan.plan_of(run, ACTIVATIONS, encoding=True)
    assert plan.sizes == [8, 20, 3]
    assert plan.bins is ENCODING.bins
    assert simple(network).small(numba=False) is None
