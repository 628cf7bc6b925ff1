"""Permutation importance and partial dependence, against loops over the table as it is."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables need the extra [cli]")

from sklearn import metrics
from sklearn.inspection import permutation_importance as of_scikit_learn

import nnaccel as nn
from nnaccel.kernels.numpy.backend import NumPyBackend
from nnaccel.maths import losses
from nnaccel.tabular import swaps
from nnaccel.tabular.features import fit_features
from nnaccel.tabular.importance import (
    SCORES,
    grid_of,
    partial_dependence,
    permutation_importance,
    shuffles,
)
from nnaccel.tabular.swaps import Swaps
from nnaccel.tabular.tables import TableWarning, as_table
from nnaccel.tabular.targets import Target
from tests.conftest import named
from tests.export.examples import fitted, outputs_of, table, target


@pytest.fixture(scope="module")
def columns():
    return table()


def shuffled(columns, name, rows):
    """The table with the cells of one column from other rows."""
    return columns | {name: [columns[name][i] for i in rows]}


def loop(model, columns, measure, repeats, seed=0):
    """The importances, a prediction of the whole table for each column and shuffle."""
    baseline = measure(outputs_of(model, columns))
    used = [name for name in columns if name in model.features.places]
    return np.array(
        [
            [
                baseline - measure(outputs_of(model, shuffled(columns, name, rows)))
                for rows in shuffles(len(columns[name]), repeats, seed)
            ]
            for name in used
        ]
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"members": 3, "numbers": "both", "hidden": (5, 4)},
        {"hidden": ()},
        {"dtype": "float64", "numbers": "piecewise", "members": 2},
    ],
    ids=["one network", "both kinds", "linear", "float64"],
)
def test_every_kind_of_column_is_shuffled_as_in_the_table(columns, settings):
    y = target(columns, "three words")
    model = fitted(columns, y, **settings)
    codes = model.target.encode(y)
    found = permutation_importance(model, columns, y, score="log_loss", repeats=2)

    def measure(P):
        return -metrics.log_loss(codes, P, labels=[0, 1, 2])

    expected = loop(model, columns, measure, repeats=2)
    assert found.columns == tuple(columns)
    assert (found.score, found.values.shape) == ("log loss", (len(columns), 2))
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found.baseline, -measure(outputs_of(model, columns)), rtol=1e-6)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("score", SCORES)
def test_every_score_is_that_of_scikit_learn(columns, score):
    tasks = SCORES[score].tasks
    kind = "two words" if "classification" in tasks else "numbers"
    y, options = target(columns, kind), {}
    if score == "pinball_loss":
        options = {"loss": "pinball", "quantile": 0.8}
    model = fitted(columns, y, epochs=4, **options)
    weights = np.random.default_rng(0).random(len(y))
    truth = (y == "yes").astype(int) if kind == "two words" else y
    w = {"sample_weight": weights}
    of = {
        "accuracy": lambda P: metrics.accuracy_score(truth, P.argmax(axis=1), **w),
        "log_loss": lambda P: -metrics.log_loss(truth, P, **w),
        "roc_auc": lambda P: metrics.roc_auc_score(truth, P[:, 1], **w),
        "r2": lambda p: metrics.r2_score(truth, p, **w),
        "rmse": lambda p: -metrics.root_mean_squared_error(truth, p, **w),
        "mae": lambda p: -metrics.mean_absolute_error(truth, p, **w),
        "pinball_loss": lambda p: -metrics.mean_pinball_loss(truth, p, alpha=0.8, **w),
    }[score]
    found = permutation_importance(model, columns, y, score=score, repeats=1, weights=weights)
    expected = loop(model, columns, of, repeats=1)
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-5 * scale)
    sign = 1 if SCORES[score].greater_is_better else -1
    np.testing.assert_allclose(found.baseline, sign * of(outputs_of(model, columns)), rtol=1e-6)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_it_is_what_scikit_learn_finds_of_the_estimators(columns, task):
    pandas = pytest.importorskip("pandas", reason="scikit-learn shuffles data frames")
    frame = pandas.DataFrame({n: v for n, v in columns.items() if not n.startswith("flag")})
    kind = {"epochs": 3, "hidden": (6,), "members": 2, "random_state": 0}
    if task == "classification":
        estimator, y = nn.TableClassifier(**kind), target(columns, "two words")
    else:
        estimator, y = nn.TableRegressor(**kind), target(columns, "numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        estimator.fit(frame, y)
        expected = of_scikit_learn(estimator, frame, y, n_repeats=3, random_state=7)
        found = estimator.model_.importance(frame, y, repeats=3, seed=7)
    assert found.columns == tuple(frame.columns)
    np.testing.assert_allclose(found.values, expected.importances, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.mean, expected.importances_mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.std, expected.importances_std, rtol=0, atol=1e-6)
    assert found.ranking[0] == np.argmax(expected.importances_mean)
    assert found.mean.max() > 0.01


def test_several_targets(columns):
    import pyarrow as pa

    words, number = target(columns, "two words"), target(columns, "numbers")
    labels = pa.table({"a": words, "b": np.roll(words, 1)})
    model = fitted(columns, labels, name="a, b")
    truth = model.target.encode(labels)
    found = permutation_importance(model, columns, labels, repeats=1)
    expected = loop(model, columns, lambda P: ((P >= 0.5) == truth).all(axis=1).mean(), 1)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-9)
    [curve] = partial_dependence(model, columns, ["flag"])
    assert (curve.of, curve.mean.shape) == (("P(a=yes)", "P(b=yes)"), (2, 2))
    both = np.stack([number, np.roll(number, 1)], axis=1)
    numbers = pa.table({"a": both[:, 0], "b": both[:, 1]})
    model = fitted(columns, numbers, name="a, b")
    found = permutation_importance(model, columns, numbers, repeats=1)
    expected = loop(model, columns, lambda p: metrics.r2_score(both, p), 1)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-5)


def test_blocks_make_no_difference(columns, monkeypatch):
    y = target(columns, "two words")
    model = fitted(columns, y, members=2, numbers="piecewise")
    whole = permutation_importance(model, columns, y, score="log_loss", repeats=3).values
    monkeypatch.setattr(swaps, "ROWS", 100)
    monkeypatch.setattr(swaps, "OUTPUTS", 2500)
    found = permutation_importance(model, columns, y, score="log_loss", repeats=3).values
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-6)


def test_threads_make_no_difference(columns, monkeypatch):
    y = target(columns, "two words")
    model = fitted(columns, y, members=2, numbers="piecewise")
    found = {}
    for n in (1, 3):
        monkeypatch.setattr(NumPyBackend, "team", lambda self, n=n: nullcontext(n))
        found[n] = permutation_importance(model, columns, y, score="log_loss", repeats=3).values
    np.testing.assert_array_equal(found[3], found[1])


@pytest.mark.parametrize("name", ["torch:cpu", "jax:cpu"])
def test_on_other_devices(columns, name):
    y = target(columns, "two words")
    model = fitted(columns, y, members=2, numbers="piecewise")
    how = {"score": "log_loss", "repeats": 1}
    expected = permutation_importance(model, columns, y, **how).values
    found = permutation_importance(model, columns, y, device=named(name), **how).values
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.LayerNorm(), nn.Dense(4, "gelu"), nn.Dense(1)),
        (nn.PiecewiseLinear(((-1.0, 0.0, 0.5), (0.0, 1.0))), nn.LayerNorm(), nn.Dense(1)),
        (nn.PiecewiseLinear(((-1.0, 0.0, 0.5), (), (0.0, 1.0))), nn.Dense(1, "tanh")),
        (nn.Dropout(0.5), nn.Dense(1)),
    ],
    ids=lambda layers: type(layers[0]).__name__,
)
def test_networks_of_ones_own(layers):
    rng = np.random.default_rng(0)
    X, network = rng.standard_normal((50, 3)), nn.Network(3, layers)
    params = nn.initialize(network) + 0.1 * rng.standard_normal(nn.initialize(network).shape)
    goal = Target("regression", "y", mean=3.0, scale=2.0)
    loss = losses.get("squared_error")
    model = nn.Model(network, params, loss, fit_features(X), goal, [], {}, {})
    index = shuffles(50, 2, 0)
    swaps = Swaps(model, model.features.transform(X, params.dtype.name))
    for j, (name, outputs) in enumerate(swaps.outputs(["x0", "x1", "x2"], index)):
        assert name == f"x{j}"
        for rows, found in zip(index, outputs, strict=True):
            swapped = X.copy()
            swapped[:, j] = X[rows, j]
            np.testing.assert_allclose(found, model.outputs(swapped), rtol=1e-12, atol=1e-12)


def test_what_is_refused(columns):
    y = target(columns, "numbers")
    model = fitted(columns, y)
    for changes, message in (
        (
            {"score": "accuracy"},
            "score 'accuracy' is not for regression; choose one of r2",
        ),
        ({"score": "R2"}, "score must be one of accuracy, .* got 'R2'; did you mean 'r2'"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            permutation_importance(model, columns, y, **changes)
    with pytest.raises(ValueError, match="y must have a value for each of the 300 rows, got 3"):
        permutation_importance(model, columns, y[:3])
    with pytest.raises(ValueError, match="R² needs rows with different targets; choose another"):
        permutation_importance(model, columns, 0 * y)
    huge = model._replace(params=np.full_like(model.params, 3e38))
    message = "rows give no finite prediction with other values of 'number': some are far outside"
    with pytest.raises(ValueError, match=message):
        permutation_importance(huge, columns, y)
    with pytest.raises(ValueError, match="the model uses no column named 'txet'.*mean 'text'"):
        partial_dependence(model, columns, ["txet"])


# ---------------------------------------------------------------------------- partial dependence


@pytest.mark.parametrize("kind", ["numbers", "two words", "three words"])
def test_partial_dependence_is_the_mean_with_one_value_everywhere(columns, kind):
    model = fitted(columns, target(columns, kind), members=2, numbers="piecewise")
    names = ["gaps", "text", "date", "flag", "codes"]
    given = model.inputs(columns)
    for curve in partial_dependence(model, columns, names):
        values = given[curve.column].tolist()
        for value, mean in zip(curve.grid, curve.mean, strict=True):
            gone = [v == "" or v != v for v in values]
            i = gone.index(True) if value is None else values.index(value)
            everywhere = columns | {curve.column: [columns[curve.column][i]] * len(values)}
            expected = outputs_of(model, everywhere).mean(axis=0).reshape(-1)
            expected = expected[1:] if kind == "two words" else expected
            scale = 1e6 if kind == "numbers" else 1.0
            np.testing.assert_allclose(mean / scale, expected / scale, rtol=0, atol=1e-5)
    curves = {curve.column: curve for curve in partial_dependence(model, columns, names)}
    assert curves["text"].grid == ["blau ü", "green", "no", "red", None]
    assert curves["flag"].grid == [0.0, 1.0]
    assert len(curves["gaps"].grid) == 21
    assert curves["gaps"].grid[-1] is curves["codes"].grid[-1] is None
    assert curves["date"].kind == "date"
    assert (
        curves["text"].of
        == {
            "numbers": ("y",),
            "two words": ("P(yes)",),
            "three words": ("P(high)", "P(low)", "P(mid)"),
        }[kind]
    )


def test_the_grid_is_of_values_that_occur():
    values = np.array([3.0, np.nan, 1.0, 3.0])
    grid, rows = grid_of(values)
    assert (grid, rows.tolist()) == ([1.0, 3.0, None], [2, 0, 1])
    many = np.arange(1000.0)
    grid, rows = grid_of(many)
    assert (grid[0], grid[-1], len(grid)) == (10.0, 989.0, 20)
    np.testing.assert_array_equal(many[rows], grid)
    mostly_0 = np.concatenate([np.zeros(2000), many])
    grid, _ = grid_of(mostly_0)
    assert grid[:3] == [0.0, 10.0, 41.0]  # 10 by the different values, 41 by the rows
    assert (grid[-2], grid[-1], len(grid)) == (969.0, 989.0, 18)
    words = np.array([*"abc"] * 2 + ["", "c"], dtype=object)
    assert grid_of(words)[0] == ["a", "b", "c", None]


def test_as_many_rows_as_there_are_in_a_table_of_arrow(columns):
    y = target(columns, "two words")
    model = fitted(columns, y)
    found = permutation_importance(model, as_table(columns), y, repeats=1)
    expected = permutation_importance(model, columns, y, repeats=1)
    np.testing.assert_array_equal(found.values, expected.values)
