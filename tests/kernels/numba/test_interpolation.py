"""The first layer after an encoding, interpolated between edges: the products of the definition."""

import numpy as np
import pytest

from nnaccel.maths import metrics, optimizers
from nnaccel.maths.activations import get
from nnaccel.maths.layers import Dense, Dropout, PiecewiseLinear
from nnaccel.maths.layers.piecewise_linear import piecewise_linear
from nnaccel.maths.network import Network
from tests.kernels.test_epoch import assert_same_run, examples, simple, trained

pytest.importorskip("numba")
pytest.importorskip("scipy")

from nnaccel.kernels.numba import epoch as compiled_epoch
from nnaccel.kernels.numba import interpolation
from nnaccel.kernels.numba.gather import NARROW, encoding_of

ROW = (-1.0, -0.2, 0.0, 0.7, 2.0)
SIXTY_FOUR = tuple(np.linspace(-2.0, 2.0, 65).tolist())


@pytest.fixture
def seen(monkeypatch):
    """Whether each call of compiled code interpolates."""
    seen, of = [], compiled_epoch.located_for

    def located_for(encoding, batch_size):
        seen.append(encoding.interpolated)
        return of(encoding, batch_size)

    monkeypatch.setattr(compiled_epoch, "located_for", located_for)
    return seen


def network_of(edges, D=3, K=3, units=(40,), on_inputs=0.0, activation="tanh"):
    layers = [Dense(H, get(activation)) for H in units]
    return Network(D, (PiecewiseLinear(edges), Dropout(on_inputs), *layers, Dense(K)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bins_and_shares_are_the_encoding(dtype):
    """Of numbers on the edges, below the first and above the last one, and infinite ones."""
    edges = (ROW, (), SIXTY_FOUR, (0.0, 1.0))
    bins, D = PiecewiseLinear(edges).bins, len(edges)
    X = np.random.default_rng(0).standard_normal((100, D)).astype(dtype)
    near_zero = np.nextafter(X.dtype.type(0), [1, -1])
    special = [*ROW, *SIXTY_FOUR, -9.0, 9.0, np.inf, -np.inf, *near_zero]
    X[: len(special)] = np.array(special, dtype)[:, None]
    encoding = encoding_of(bins, X.dtype, interpolated=True)
    located = interpolation.located_for(encoding, len(X) + 2)
    located.bins[:], located.shares[:] = 7, 7.0
    interpolation.locate(encoding, np.pad(X, ((1, 1), (0, 0))).T, 1, len(X) + 1, located)
    found = [X]
    for f, T in enumerate([4, 64, 1]):
        t, share = located.bins[f, 1:-1, None], located.shares[f, 1:-1, None]
        found.append(np.where(np.arange(T) < t, 1.0, np.where(np.arange(T) == t, share, 0.0)))
    tolerance = 10 * np.finfo(dtype).eps
    expected = piecewise_linear(X, bins, xp=np)
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=0, atol=tolerance)
    assert (located.bins[:, [0, -1]] == 7).all()
    assert (located.shares[:, [0, -1]] == 7.0).all()


def test_what_is_not_a_number_has_a_share_that_is_none():
    encoding = encoding_of(PiecewiseLinear((ROW,)).bins, np.float32, interpolated=True)
    located = interpolation.located_for(encoding, 1)
    interpolation.locate(encoding, np.full((1, 1), np.nan, np.float32), 0, 1, located)
    assert located.bins == 0
    assert np.isnan(located.shares)


SPECIAL = {
    "on the edges": lambda rng, shape: rng.choice(ROW, shape),
    "below the first edge": lambda rng, shape: -1.0 - rng.random(shape),
    "above the last edge": lambda rng, shape: 2.0 + rng.random(shape),
    "on both sides": lambda rng, shape: rng.choice([-3.0, 3.0], shape),
    "all in one bin": lambda rng, shape: rng.uniform(0.1, 0.6, shape),
    "constant": lambda rng, shape: np.full(shape, 0.25),
    "constant, on an edge": lambda rng, shape: np.full(shape, 0.7),
}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("units", [(), (40,), (70, 20)], ids=["one", "two", "three"])
@pytest.mark.parametrize("values", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_epoch_is_its_steps(dtype, values, units, size, team, interpolating, seen):
    """Also where the first layer is the only one, and of inputs with one bin or with none."""
    team(size)
    interpolating(True)
    X = values(np.random.default_rng(2), (70, 4)).astype(dtype)
    data = examples(N=70, D=4, dtype=dtype, weighted=True)._replace(X=X)
    problem = simple(
        network_of((ROW, (0.0, 1.0), (), SIXTY_FOUR), 4, units=units),
        optimizers.adamw(0.01, weight_decay=0.1), data, dtype=dtype, batch_size=32, l2=0.05,
        metric=metrics.for_loss("softmax_cross_entropy"),
    )  # fmt: skip
    found = trained(problem.small(numba=True), problem)
    assert_same_run(found, trained(problem.steps(), problem), dtype)
    assert seen == [True] * len(seen) != []


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("D", [5, NARROW + 9])
def test_inputs_without_bins_stay_a_product(D, size, team, interpolating):
    """Of categories and flags, beside those with bins and after them; rows are padded."""
    team(size)
    interpolating(True)
    rng = np.random.default_rng(4)
    X = rng.standard_normal((320, D))
    X[:, [0, *range(3, D)]] = rng.integers(0, 2, (320, D - 2))
    data = examples(N=320, D=D)._replace(X=X.astype(np.float32))
    network = network_of(((), SIXTY_FOUR, ROW), D, units=(128, 30))
    problem = simple(network, data=data, batch_size=192)
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_of_one_row_or_few(batch_size, size, team, interpolating):
    """A team's second member has no example, and with few units none of these."""
    team(size)
    interpolating(True)
    for units in ((), (3,), (70,)):
        network = network_of((ROW, SIXTY_FOUR), units=units)
        problem = simple(network, data=examples(N=16), batch_size=batch_size)
        found = trained(problem.small(numba=True), problem)
        assert_same_run(found, trained(problem.steps(), problem))


def test_what_is_not_a_number_shows(interpolating):
    interpolating(True)
    data = examples(N=32)
    data.X[5, 0] = np.nan
    problem = simple(network_of((ROW,)), data=data, batch_size=16)
    found, expected = (
        trained(epoch, problem, epochs=1) for epoch in (problem.small(numba=True), problem.steps())
    )
    np.testing.assert_array_equal(np.isnan(found[2]), np.isnan(expected[2]))
    assert np.isnan(found[2]).any()


def test_dropout_between_the_encoding_and_the_layer_is_left_to_products(interpolating, seen):
    interpolating(True)
    problem = simple(network_of((ROW, SIXTY_FOUR), on_inputs=0.3))
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))
    assert seen == [False] * len(seen) != []


@pytest.mark.parametrize(
    ("T", "F", "batch_size", "expected"),
    [
        (64, 8, 128, True),
        (64, 8, 16, True),
        (64, 8, 4, False),  # sums over bins cost more than so few examples
        (64, 1, 128, False),  # what is saved is no more than the examples' transposition
        (4, 8, 1024, False),
        (35, 57, 128, True),
    ],
)
def test_it_is_done_where_the_count_of_work_says_so(T, F, batch_size, expected, seen):
    """That is where products would cost twice as much, since another processor's may be faster."""
    edges = (tuple(np.linspace(-2.0, 2.0, T + 1).tolist()),) * F
    problem = simple(network_of(edges, F), data=examples(N=8, D=F), batch_size=batch_size)
    assert interpolation.repays(PiecewiseLinear(edges).bins, batch_size) is expected
    trained(problem.small(numba=True), problem, epochs=1)
    assert seen == [expected] * len(seen) != []


@pytest.mark.parametrize("edges", [(), ((), ())])
def test_without_bins_there_is_nothing_to_interpolate(edges, seen):
    problem = simple(network_of(edges))
    trained(problem.small(numba=True), problem, epochs=1)
    assert not interpolation.repays(None, 128)
    assert not interpolation.repays(PiecewiseLinear(edges).bins, 128)
    assert seen == [False] * len(seen) != []
