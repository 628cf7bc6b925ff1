"""The estimators of raw tables: scikit-learn's checks and tools, and tables as people have them."""

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
pytest.importorskip("sklearn", reason="the estimators need scikit-learn (the extra [sklearn])")
from sklearn.base import clone
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from nnaccel import Model, TableClassifier, TableEncoder, TableRegressor
from nnaccel.tabular.tables import TableWarning

QUICK = {"epochs": 20, "random_state": 0, "kernels": "numpy"}
# What scikit-learn checks knows nothing of members, and ten networks would take ten times as long.
ONE = QUICK | {"members": 1, "numbers": "plain", "dtype": "float64"}
# A minibatch of rows that count twice is another than one with each of them twice.
FAILS = {"check_sample_weight_equivalence_on_dense_data": "minibatches of other rows"}


@parametrize_with_checks(
    [
        TableEncoder(),
        TableClassifier(**ONE),
        TableRegressor(**ONE),
    ],
    expected_failed_checks=lambda estimator: {} if isinstance(estimator, TableEncoder) else FAILS,
)
@pytest.mark.filterwarnings("ignore::nnaccel.tabular.tables.TableWarning")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def people(n=300, seed=0):
    """A frame of all kinds of columns, and labels and numbers that depend on all of them."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, n).astype(float)
    job = rng.choice(["nurse", "clerk", "cook"], n)
    days = rng.integers(0, 1000, n)
    signal = (age - 50) / 15 + 2 * (job == "cook") + np.where(days > 500, 1.5, -1.5)
    age[rng.random(n) < 0.1] = np.nan
    frame = pandas.DataFrame(
        {
            "age": age,
            "job": job,
            "joined": np.datetime64("2020-01-01") + days.astype("m8[D]"),
            "member": rng.random(n) < 0.5,
            "price": [f"${v:,.2f}" for v in rng.uniform(0, 5000, n)],
        }
    )
    return frame, np.where(signal > 0, "yes", "no"), signal


def test_a_frame_of_all_kinds_of_columns():
    X, label, signal = people()
    classifier = TableClassifier(members=1, random_state=0).fit(X, label)
    assert classifier.classes_.tolist() == ["no", "yes"]
    assert classifier.score(X, label) > 0.9
    P = classifier.predict_proba(X)
    np.testing.assert_allclose(P.sum(axis=1), 1)
    assert (classifier.predict(X) == classifier.classes_[P.argmax(axis=1)]).all()
    assert TableRegressor(members=1, random_state=0).fit(X, signal).score(X, signal) > 0.9
    assert classifier.feature_names_in_.tolist() == list(X.columns)


def test_all_forms_of_a_table_are_one():
    X, label, _ = people(60)
    X["joined"] = X["joined"].astype(str)
    expected = TableClassifier(**QUICK).fit(X, label).predict_proba(X)
    columns = {name: [None if v != v else v for v in X[name].tolist()] for name in X}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for same in (pa.table(columns), columns, rows):
        found = TableClassifier(**QUICK).fit(same, label).predict_proba(same)
        np.testing.assert_array_equal(found, expected)
    one = TableClassifier(**QUICK).fit(rows, label).predict_proba(rows[:1])
    np.testing.assert_allclose(one, expected[:1], rtol=1e-5)


def test_a_matrix_of_objects():
    X = np.array([[1.5, "a"], [None, "b"], [2.5, "a"], [0.5, "b"]] * 10, dtype=object)
    model = TableClassifier(**QUICK).fit(X, np.arange(40) % 2)
    assert model.model_.features.names == ["x0", "x0 missing", "x1=a", "x1=b"]


def test_the_tools_of_scikit_learn():
    X, label, signal = people(200)
    classifier = TableClassifier(**QUICK, members=1)
    assert cross_val_score(classifier, X, label, cv=3).mean() > 0.7
    search = GridSearchCV(classifier, {"hidden": [(), (8,)]}, cv=2).fit(X, label)
    assert search.best_params_["hidden"] in ((), (8,))
    regressor = TableRegressor(members=1, random_state=0).fit(X, signal)
    found = permutation_importance(regressor, X, signal, n_repeats=2, random_state=0)
    order = X.columns[np.argsort(-found.importances_mean)]
    assert set(order[:3]) == {"age", "job", "joined"}
    curve = partial_dependence(regressor, X, ["age"], kind="average")["average"][0]
    assert curve[-1] > curve[0] + 1


def test_weights_of_rows_and_classes():
    X = {"x": [0.0, 1.0] * 20}
    y = np.array([0, 0, 0, 1] * 10)
    plain = TableClassifier(**QUICK).fit(X, y).predict_proba(X)[:, 1].mean()
    heavy = TableClassifier(**QUICK).fit(X, y, sample_weight=1 + 9 * y).predict_proba(X)
    assert heavy[:, 1].mean() > plain + 0.15
    by_class = TableClassifier(**QUICK, class_weight={0: 1, 1: 10}).fit(X, y)
    np.testing.assert_array_equal(by_class.predict_proba(X), heavy)


def test_several_numbers_at_once():
    X, _, signal = people(200)
    Y = np.stack([signal, 10 - 3 * signal], axis=1)
    model = TableRegressor(members=1, random_state=0).fit(X, Y)
    assert model.predict(X).shape == (200, 2)
    assert model.score(X, Y) > 0.9


def test_files_are_those_of_the_command_line(tmp_path):
    X, label, _ = people(100)
    classifier = TableClassifier(**QUICK).fit(X, label)
    classifier.save(tmp_path / "m.safetensors")
    again = TableClassifier.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
    assert again.get_params()["epochs"] == 20
    assert clone(again).fit(X, label).score(X, label) > 0.6
    model = Model.load(tmp_path / "m.safetensors")
    assert model.predict(X).tolist() == classifier.predict(X).tolist()
    with pytest.raises(ValueError, match="holds a model for classification, and TableRegressor is"):
        TableRegressor.load(tmp_path / "m.safetensors")


def test_rules_for_columns():
    X = {"id": list(range(50)), "x": [0.5, 1.5] * 25, "code": [-9999.0, *np.linspace(0, 1, 49)]}
    y = [0, 1] * 25
    with pytest.warns(TableWarning, match="'id' is dropped: it counts the rows"):
        model = TableClassifier(**QUICK).fit(X, y)
    assert "id" in model.model_.features.dropped
    model = TableClassifier(**QUICK, keep=["id"], drop=["code"]).fit(X, y)
    assert model.model_.features.names == ["id", "x"]
    model = TableClassifier(**QUICK, keep=["id"], missing=[-9999]).fit(X, y)
    assert "code missing" in model.model_.features.names
    with pytest.raises(ValueError, match="missing must be 'auto', 'none' or numbers .* 'nope'"):
        TableClassifier(**QUICK, missing="nope").fit(X, y)


def test_the_encoder_in_a_pipeline():
    X, label, _ = people(200)
    encoder = TableEncoder()
    pipeline = make_pipeline(encoder, LogisticRegression()).fit(X, label)
    assert pipeline.score(X, label) > 0.8
    names = encoder.get_feature_names_out().tolist()
    assert {"age", "age missing", "job=cook", "joined days", "price"} <= set(names)
    assert encoder.transform(X).shape == (200, len(names))


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ({"x": [1, 2]}, [0, 0], "y has 1 class, .*0.*nothing to tell apart"),
        ({"x": [1, 2, 3]}, [0, 1], "inconsistent numbers of samples"),
        ({"x": [1, 2]}, None, "requires y to be passed"),
        ({"x": [1]}, [0], "n_samples = 1"),
        (
            {"x": [[1], [2]]},
            [0, 1],
            "cannot be used: 'x' .*give each of its values a separate column",
        ),
    ],
)
def test_what_is_refused(X, y, message):
    with pytest.raises(ValueError, match=message):
        TableClassifier(**QUICK).fit(X, y)
