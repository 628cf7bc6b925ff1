"""Scorers of scikit-learn, by which the best epoch of a table is told."""

import re

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
metrics = pytest.importorskip("sklearn.metrics", reason="scorers need scikit-learn")
import pyarrow as pa

from nnaccel import Model, TableClassifier, TableRegressor
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import Examples
from nnaccel.tabular.tables import as_table
from nnaccel.training import checkpoint

N = 120
rng = np.random.default_rng(0)
X = rng.standard_normal(N)
COLUMNS = {"x": X.tolist(), "z": rng.standard_normal(N).tolist()}
NUMBERS = 1e3 + 50 * (X + rng.standard_normal(N))
WORDS = np.where(NUMBERS > 1e3, "up", "down")
THREE = np.digitize(NUMBERS, [970, 1030]).astype(str)
LABELS = pa.table({"a": WORDS, "b": np.roll(WORDS, 1)})
QUICK = {"hidden": (6,), "epochs": 6, "numbers": "plain", "learning_rate": 0.05}


def trained(y, scorer=None, name="y", weights=None, **settings):
    examples = Examples("t", as_table(COLUMNS), y, name, None, "auto", None, weights=weights)
    fit = Fit(examples, Settings(**QUICK | settings), test_fraction=0, scorer=scorer)
    for _ in fit:
        pass
    return fit, fit.model()


@pytest.mark.parametrize(
    ("y", "name", "scoring", "members"),
    [
        (NUMBERS, "y", "neg_mean_absolute_error", 2),
        (WORDS, "y", "roc_auc", 2),
        (WORDS, "y", "f1", 1),
        (THREE, "y", "neg_log_loss", 1),
        (LABELS, "a, b", "f1_macro", 2),
        (pa.table({"a": NUMBERS, "b": X}), "a, b", "r2", 1),
    ],
    ids=["numbers", "two classes", "f1", "three classes", "labels", "several numbers"],
)
def test_the_best_epoch_is_that_of_the_score(y, name, scoring, members):
    seen = []

    def watched(estimator, X, y):
        seen.append(metrics.get_scorer(scoring)(estimator, X, y))
        return seen[-1]

    how = {"name": name, "members": members, "validation_fraction": 0.2 if members == 1 else None}
    fit, model = trained(y, scoring=scoring, **how)
    again, _ = trained(y, watched, **how)
    scores = np.array(seen).reshape(6, members)
    assert fit.best == again.best == (1 + scores.argmax(axis=0)).tolist()
    found = [epoch["validation_score"] for epoch in model.history]
    np.testing.assert_allclose(found, scores.mean(axis=1), rtol=1e-12)
    assert model.settings["scoring"] == scoring


def test_a_score_may_choose_another_epoch_than_the_loss(tmp_path):
    """One that says that the networks get worse keeps the first epoch."""
    calls = iter(range(1000, 0, -1))
    fit, model = trained(NUMBERS, lambda estimator, X, y: next(calls), members=2)
    assert fit.best == [1, 1]
    assert trained(NUMBERS, members=2)[0].best != [1, 1]
    model.save(tmp_path / "m")
    assert Model.load(tmp_path / "m").history == model.history


def test_it_stops_early():
    calls = iter(range(1000, 0, -1))
    how = {"members": 2, "early_stopping": 2}
    _, model = trained(NUMBERS, lambda estimator, X, y: next(calls), **how)
    assert len(model.history) == 3


def test_a_run_that_goes_on_is_that_of_one_without_a_break(tmp_path):
    settings = Settings(**QUICK | {"members": 2, "scoring": "r2"})
    examples = Examples("t", as_table(COLUMNS), NUMBERS, "y", None, "auto", None)
    whole = Fit(examples, settings, test_fraction=0, keeps=True)
    for epoch in whole:
        if epoch.number == 3:
            whole.save(tmp_path / "c")
    rest = Fit(examples, settings, test_fraction=0, after=checkpoint.load(tmp_path / "c"))
    assert len(list(rest)) == 3
    assert rest.best == whole.best
    np.testing.assert_array_equal(rest.model().params, whole.model().params)
    assert rest.model().history == whole.model().history


def test_a_scorer_sees_units_and_weights():
    weights, seen = rng.uniform(0.5, 2, N), []

    def scorer(estimator, X, y, sample_weight):
        seen.append((estimator.predict(X), y, sample_weight))
        return metrics.r2_score(y, estimator.predict(X), sample_weight=sample_weight)

    trained(NUMBERS, scorer, weights=weights, members=1, validation_fraction=0.25)
    predicted, y, w = seen[-1]
    assert {*np.round(y, 6)} <= {*np.round(NUMBERS, 6)}
    assert len(y) == len(w) == 30
    assert w.mean() == pytest.approx(1.0)
    assert np.corrcoef(predicted, y)[0, 1] > 0.3


def test_a_mean_with_its_deviation_is_scored_by_its_mean():
    _, model = trained(NUMBERS, loss="gaussian", scoring="r2", members=2)
    assert len(model.history[0]) == 5


def test_rows_are_set_aside_for_a_score():
    """Of a small table with one network none are, unless they are needed."""
    fit, _ = trained(NUMBERS, members=1, scoring="r2")
    assert fit.rows["validation"] == 18


@pytest.mark.parametrize("scoring", ["roc_auc", None, "loss", metrics.get_scorer("accuracy")])
def test_the_estimators_take_it(scoring):
    how = QUICK | {"members": 2, "random_state": 0}
    model = TableClassifier(scoring=scoring, **how).fit(COLUMNS, WORDS)
    assert ("validation_score" in model.model_.history[0]) == (scoring != "loss")
    if scoring is None:
        same = TableClassifier(scoring="accuracy", **how).fit(COLUMNS, WORDS)
        assert same.model_.history == model.model_.history
        numbers = TableRegressor(scoring=None, **how).fit(COLUMNS, NUMBERS)
        assert numbers.model_.settings["scoring"] == "r2"


@pytest.mark.parametrize(
    ("y", "settings", "message"),
    [
        (NUMBERS, {"scoring": "nonsense"}, "scoring must be one of loss, "),
        (NUMBERS, {"scoring": "roc_auc", "members": 2},
         "scoring: the score cannot be computed: "),
        (NUMBERS, {"scoring": "r2", "members": 1, "validation_fraction": 0.0},
         "scoring needs rows to tell by; leave validation_fraction out, or above 0"),
        (NUMBERS, {"scoring": "r2", "quantile": (0.1, 0.9)},
         "scoring 'r2' is of one prediction for each target, and there are 2 quantiles; leave it "
         "out"),
    ],
)  # fmt: skip
def test_what_is_refused(y, settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        trained(y, **settings)
