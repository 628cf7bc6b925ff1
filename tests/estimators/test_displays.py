"""Displays: the loss curve, and scikit-learn's own with these estimators."""

import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need scikit-learn")
matplotlib = pytest.importorskip("matplotlib", reason="displays need the extra [plot]")
pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
matplotlib.use("Agg")

import matplotlib.pyplot as plt
from sklearn.calibration import CalibrationDisplay
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LinearRegression
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PredictionErrorDisplay,
    confusion_matrix,
)
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnaccel import (
    LossCurveDisplay,
    MLPClassifier,
    MLPRegressor,
    TableClassifier,
    TableRegressor,
)

X, y = load_iris(return_X_y=True)
QUICK = {"hidden_layer_sizes": (4,), "max_iter": 4, "random_state": 0}
TABLE = {"hidden": (4,), "epochs": 3, "random_state": 0}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def flowers():
    """A table with a column of text, and what its models predict."""
    table = {"length": X[:, 2].tolist(), "wide": np.where(X[:, 1] > 3, "yes", "no").tolist()}
    return table, TableClassifier(members=2, **TABLE).fit(table, y)


def validated(max_iter=4):
    options = {**QUICK, "max_iter": max_iter}
    return MLPClassifier(**options).fit(X[::2], y[::2], validation_data=(X[1::2], y[1::2]))


def test_the_curves_are_those_of_the_estimator():
    clf = validated()
    display = LossCurveDisplay.from_estimator(clf)
    assert display.loss_line_.get_ydata().tolist() == clf.loss_curve_
    assert display.validation_line_.get_ydata().tolist() == clf.validation_loss_curve_
    assert display.loss_line_.get_xdata().tolist() == [1, 2, 3, 4]
    best = int(np.argmin(clf.validation_loss_curve_)) + 1
    assert display.best_epoch_ == best
    assert display.best_line_.get_xydata().tolist() == [[best, min(clf.validation_loss_curve_)]]
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == [
        "MLPClassifier: training",
        "MLPClassifier: validation",
        f"MLPClassifier: lowest, epoch {best}",
    ]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Epoch", "Loss")
    assert display.figure_ is display.ax_.figure


def test_two_networks_on_the_same_axes_and_a_logarithmic_scale():
    first = LossCurveDisplay.from_estimator(validated(), name="a", loss_kw={"color": "black"})
    second = LossCurveDisplay([3.0, 2.0], name="b").plot(first.ax_, log_scale=True)
    assert second.ax_ is first.ax_
    assert second.ax_.get_yscale() == "log"
    assert first.loss_line_.get_color() == "black"
    assert second.loss_line_.get_label() == "b: training"
    assert (second.validation_line_, second.best_line_, second.best_epoch_) == (None, None, None)
    assert LossCurveDisplay([1.0]).plot(name="c").loss_line_.get_label() == "c: training"


def test_a_loss_that_is_not_finite_is_not_the_best():
    display = LossCurveDisplay([1, 2, 3], [np.nan, 5.0, np.inf]).plot()
    assert display.best_epoch_ == 2
    assert LossCurveDisplay([1.0], [np.nan]).plot().best_line_ is None


def test_early_stopping_gives_a_validation_curve():
    reg = MLPRegressor(early_stopping=True, **QUICK).fit(X, X[:, 0])
    display = LossCurveDisplay.from_estimator(reg)
    assert display.validation_line_.get_ydata().tolist() == reg.validation_loss_curve_


def test_estimators_of_tables_show_their_history(flowers):
    _, clf = flowers
    display = LossCurveDisplay.from_estimator(clf)
    history = clf.model_.history
    assert display.loss.tolist() == [epoch["loss"] for epoch in history]
    assert display.validation_loss.tolist() == [epoch["validation_loss"] for epoch in history]
    one = TableRegressor(members=1, validation_fraction=0, **TABLE).fit(X, X[:, 0])
    display = LossCurveDisplay.from_estimator(one)
    assert len(display.loss) == 3
    assert display.validation_loss is None


def test_networks_within_pipelines_and_searches_and_scikit_learns_own():
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**QUICK)).fit(X, y)
    assert LossCurveDisplay.from_estimator(pipeline).loss.tolist() == pipeline[-1].loss_curve_
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [0.1]}, cv=2).fit(X, y)
    found = LossCurveDisplay.from_estimator(search)
    assert found.loss.tolist() == search.best_estimator_[-1].loss_curve_
    theirs = TheirRegressor(**QUICK).fit(X, X[:, 0])
    display = LossCurveDisplay.from_estimator(theirs)
    assert display.loss.tolist() == theirs.loss_curve_


def test_what_has_no_curve_is_refused():
    with pytest.raises(NotFittedError, match="This MLPClassifier instance is not fitted yet"):
        LossCurveDisplay.from_estimator(MLPClassifier())
    lbfgs = MLPClassifier(solver="lbfgs", **QUICK).fit(X, y)
    with pytest.raises(ValueError, match=r"^MLPClassifier fitted by solver='lbfgs' has no loss cu"):
        LossCurveDisplay.from_estimator(lbfgs)
    with pytest.raises(ValueError, match=r"^LinearRegression has no loss curve; use a network"):
        LossCurveDisplay.from_estimator(LinearRegression().fit(X, y))


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        (([],), r"loss must have a number for each epoch, \(n_epochs,\), got shape \(0,\)"),
        (([[1.0]],), r"loss must have a number for each epoch, \(n_epochs,\), got shape \(1, 1\)"),
        (([1.0], 2.0), r"validation_loss must have a number for each epoch, .* got shape \(\)"),
        (([1, 2], [1]), r"validation_loss must have a number for each of the 2 epochs of lo"),
    ],
)
def test_curves_that_are_none_are_refused(curves, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        LossCurveDisplay(*curves)


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ModuleNotFoundError, match=r"install it with: .* 'nnaccel\[plot\]'"):
        LossCurveDisplay([1.0]).plot()


# scikit-learn's displays


def test_confusion_matrix_display(flowers):
    table, clf = flowers
    display = ConfusionMatrixDisplay.from_estimator(clf, table, y)
    np.testing.assert_array_equal(display.confusion_matrix, confusion_matrix(y, clf.predict(table)))
    mlp = validated()
    display = ConfusionMatrixDisplay.from_estimator(mlp, X, y, normalize="true")
    expected = confusion_matrix(y, mlp.predict(X), normalize="true")
    np.testing.assert_array_equal(display.confusion_matrix, expected)


def test_decision_boundary_display():
    clf = MLPClassifier(**QUICK).fit(X[:, :2], y > 1)
    how = {"response_method": "predict_proba", "grid_resolution": 5}
    display = DecisionBoundaryDisplay.from_estimator(clf, X[:, :2], **how)
    grid = np.stack([display.xx0, display.xx1], axis=-1).reshape(-1, 2)
    expected = clf.predict_proba(grid)[:, 1].reshape(5, 5)
    np.testing.assert_allclose(display.response, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["mlp", "table"])
def test_calibration_display(kind):
    if kind == "mlp":
        clf = MLPClassifier(**QUICK).fit(X, y > 1)
    else:
        clf = TableClassifier(members=1, **TABLE).fit(X, y > 1)
    display = CalibrationDisplay.from_estimator(clf, X, y > 1, n_bins=3, strategy="quantile")
    np.testing.assert_array_equal(display.y_prob, clf.predict_proba(X)[:, 1])
    assert len(display.prob_true) == 3


@pytest.mark.parametrize("kind", ["residual_vs_predicted", "actual_vs_predicted"])
def test_prediction_error_display(kind):
    for reg in (MLPRegressor(**QUICK), TableRegressor(members=1, **TABLE)):
        reg.fit(X, X[:, 0])
        display = PredictionErrorDisplay.from_estimator(reg, X, X[:, 0], kind=kind, subsample=None)
        np.testing.assert_array_equal(display.y_pred, reg.predict(X))
        np.testing.assert_array_equal(display.y_true, X[:, 0])
