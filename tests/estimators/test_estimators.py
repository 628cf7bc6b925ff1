"""The estimators against scikit-learn's own: its checks, its classes, its other tools."""

import inspect
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import neural_network as sk
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import (
    load_diabetes,
    load_digits,
    load_iris,
    make_classification,
    make_multilabel_classification,
    make_regression,
)
from sklearn.ensemble import BaggingClassifier, StackingClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import d2_pinball_score, get_scorer, mean_absolute_error
from sklearn.model_selection import (
    GridSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nnaccel import MLPClassifier, MLPRegressor
from nnaccel.estimators.fit_plan import NOT_FINITE
from nnaccel.estimators.labels import codes_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("one_thread"),
]

PAIRS = [(MLPClassifier, sk.MLPClassifier), (MLPRegressor, sk.MLPRegressor)]
IRIS = load_iris(return_X_y=True)
TWO = (IRIS[0], (IRIS[1] == 1) * 1)
LABELS = (IRIS[0], np.stack([IRIS[1] == 1, IRIS[1] > 0], axis=1) * 1)
DIABETES = tuple(a / a.std(axis=0) for a in load_diabetes(return_X_y=True))


@parametrize_with_checks([MLPClassifier(max_iter=100), MLPRegressor(max_iter=100)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [
        MLPClassifier(solver="lbfgs", alpha=1.0),
        MLPClassifier(
            learning_rate="cosine", learning_rate_init=0.01, label_smoothing=0.1, max_iter=60
        ),
        MLPRegressor(solver="lbfgs", loss="huber"),
        MLPRegressor(solver="sgd", max_iter=100, weight_decay=0.01, clip_norm=1.0),
    ]
)
def test_scikit_learns_checks_of_other_solvers_and_losses(estimator, check):
    if "array_api" not in check.func.__name__:
        check(estimator)


# ---------------------------------------------------------------------- the same class


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_parameters_are_scikit_learns_and_more(ours, theirs):
    expected = inspect.signature(theirs).parameters
    found = inspect.signature(ours).parameters
    for name, parameter in expected.items():
        assert (found[name].default, found[name].kind) == (parameter.default, parameter.kind)
    positional = [n for n, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [n for n, p in expected.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(inspect.signature(ours.fit).parameters)[:4] == ["self", "X", "y", "sample_weight"]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("options", [{}, {"solver": "lbfgs"}, {"early_stopping": True}])
def test_attributes_are_scikit_learns_and_more(ours, theirs, options):
    X, y = IRIS
    a, b = (c(max_iter=3, **options).fit(X, y) for c in (theirs, ours))
    for name, value in vars(a).items():
        if name.endswith("_") and not name.startswith("_"):
            assert isinstance(
                getattr(b, name), type(value) if type(value) is not np.float64 else float
            )
    for name in ("coefs_", "intercepts_"):
        assert [w.shape for w in getattr(b, name)] == [w.shape for w in getattr(a, name)]
    for name in ("n_layers_", "n_outputs_", "n_features_in_", "out_activation_"):
        assert getattr(b, name) == getattr(a, name)


SAME = {
    "sgd": {"solver": "sgd"},
    "plain": {"solver": "sgd", "momentum": 0.0},
    "classical": {"solver": "sgd", "nesterovs_momentum": False, "alpha": 1.0},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.3,
                 "n_iter_no_change": 2},
    # scikit-learn adds epsilon before the correction of the bias, Adam's authors after it.
    "adam": {"epsilon": 1e-300, "activation": "logistic"},
    "early": {"early_stopping": True, "solver": "sgd", "learning_rate_init": 0.1},
    "stops": {"tol": 0.05, "solver": "sgd", "n_iter_no_change": 3},
}  # fmt: skip


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
@pytest.mark.parametrize("data", [IRIS, TWO, LABELS], ids=["classes", "two", "labels"])
def test_the_same_run_as_scikit_learn_to_rounding(options, data):
    X, y = data
    X = StandardScaler().fit_transform(X)
    # 45 of the 150 (and of the 135 that remain from early stopping) divide them evenly.
    options = {"random_state": 3, "shuffle": False, "batch_size": 45, "max_iter": 25} | options
    options["batch_size"] = 45 if options.get("early_stopping") else 50
    a, b = (c(**options).fit(X, y) for c in (sk.MLPClassifier, MLPClassifier))
    np.testing.assert_allclose(b.loss_curve_, a.loss_curve_, rtol=1e-8)
    for name in ("coefs_", "intercepts_"):
        for ours, theirs in zip(getattr(b, name), getattr(a, name), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert (b.n_iter_, b.t_, b.best_loss_) == (a.n_iter_, a.t_, pytest.approx(a.best_loss_))
    assert b.validation_scores_ == a.validation_scores_
    assert b.best_validation_score_ == a.best_validation_score_
    np.testing.assert_allclose(b.predict_proba(X), a.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(b.predict(X), a.predict(X))


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_the_same_regression_as_scikit_learn_to_rounding(loss):
    X, y = DIABETES
    options = {"loss": loss, "random_state": 1, "max_iter": 15, "solver": "sgd", "shuffle": False}
    options["batch_size"] = 221
    w = np.ones(len(y))
    a, b = (c(**options).fit(X, y, w) for c in (sk.MLPRegressor, MLPRegressor))
    np.testing.assert_allclose(b.loss_curve_, a.loss_curve_, rtol=1e-8)
    np.testing.assert_allclose(b.predict(X), a.predict(X), rtol=1e-8)


def test_lbfgs_as_scikit_learn():
    X, y = load_digits(n_class=2, return_X_y=True)
    options = {"solver": "lbfgs", "random_state": 1, "activation": "tanh"}
    a, b = (c(**options).fit(X / 16, y) for c in (sk.MLPClassifier, MLPClassifier))
    assert b.loss_ == pytest.approx(a.loss_, rel=1e-3)
    assert b.n_iter_ <= a.n_iter_ + 3


def test_partial_fit_is_fit_an_epoch_at_a_time():
    X, y = IRIS
    whole = MLPClassifier(random_state=1, max_iter=5, dropout=0.2, tol=0).fit(X, y)
    parts = MLPClassifier(random_state=1, dropout=0.2, tol=0)
    for _ in range(5):
        parts.partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(parts.coefs_[0], whole.coefs_[0])
    assert parts.loss_curve_ == whole.loss_curve_
    assert parts.n_iter_ == 1
    assert parts.t_ == 750
    copied = pickle.loads(pickle.dumps(parts))
    for estimator in (parts, copied):
        estimator.partial_fit(X, y)
    np.testing.assert_array_equal(parts.coefs_[0], copied.coefs_[0])


def test_warm_start_goes_on():
    X, y = IRIS
    clf = MLPClassifier(random_state=0, warm_start=True, max_iter=4).fit(X, y)
    before = clf.loss_curve_[-1]
    clf.fit(X, y)
    assert len(clf.loss_curve_) == 8
    assert clf.n_iter_ == 4
    assert clf.loss_curve_[4] < before
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same"):
        clf.fit(X[:50], y[:50])
    with pytest.raises(ValueError, match="hidden_layer_sizes and the outputs of y give layers"):
        clf.set_params(hidden_layer_sizes=(5,)).fit(X, y)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden_layer_sizes": -1}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": (3, 0)}, r"hidden_layer_sizes must be > 0, got \[3, 0\]"),
        ({"activation": "ghost"}, "The 'activation' parameter of MLPClassifier must be"),
        ({"activation": ["relu", "tanh"]}, "one for each of the 1 hidden layers, got 2 names"),
        ({"activation": ["ghots"]}, "activation must be one of"),
        ({"dropout": 1.0}, "The 'dropout' parameter of MLPClassifier"),
        ({"device": "gpu"}, "did you mean 'cuda'"),
        ({"momentum": 2}, "The 'momentum' parameter"),
        ({"early_stopping": True, "validation_fraction": 0.001}, "validation set is too small"),
        ({"solver": "sgd", "learning_rate_init": 1e20}, "Solver produced non-finite"),
    ],
)
def test_errors(options, match):
    X, y = IRIS
    clf = MLPClassifier(random_state=0).set_params(**options)
    with pytest.raises(ValueError, match=match):
        clf.fit(X, y)


def test_more_errors_and_warnings():
    X, y = IRIS
    with pytest.raises(NotFittedError):
        MLPClassifier().predict(X)
    with pytest.raises(AttributeError, match="partial_fit"):
        _ = MLPClassifier(solver="lbfgs").partial_fit
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        MLPClassifier(early_stopping=True).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        MLPClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match="has classes not in"):
        MLPClassifier().partial_fit(X, y, classes=[0, 1, 2]).partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="not supported for partial_fit"):
        MLPClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="Unknown label type"):
        MLPClassifier().fit(X, y + 0.5)
    with pytest.raises(ValueError, match="zero"):
        MLPClassifier().fit(X, y, np.zeros(150))
    with pytest.raises(ValueError, match="y must not be negative for loss='poisson'"):
        MLPRegressor(loss="poisson").fit(X, y - 1.0)
    with pytest.raises(ValueError, match=r"validation_data must be \(X, y\)"):
        MLPClassifier().fit(X, y, validation_data=(X,))
    with pytest.raises(TypeError, match="callbacks must be functions"):
        MLPClassifier(callbacks=[3]).fit(X, y)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        MLPClassifier(max_iter=2).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 2 iteration"):
        MLPClassifier(max_iter=2, solver="lbfgs").fit(X, y)
    with pytest.warns(UserWarning, match="larger than sample size. It is going to be clipped"):
        MLPClassifier(max_iter=2, batch_size=1000).fit(X, y)


def test_a_run_that_diverges_keeps_the_best_weights():
    options = {"solver": "sgd", "learning_rate_init": 1e3, "random_state": 0, "max_iter": 50,
               "activation": "identity"}  # fmt: skip
    X, y = IRIS[0], IRIS[1] * 1.0
    with pytest.raises(ValueError, match=NOT_FINITE[:40]):
        MLPRegressor(**options).fit(X, y)
    rises = MLPRegressor(**options | {"learning_rate_init": 0.4}, early_stopping=True)
    with pytest.warns(ConvergenceWarning, match="best epoch are kept"):
        rises.fit(X, y)
    assert np.isnan(rises.validation_scores_[-1])
    assert np.isfinite(rises.predict(X)).all()


def test_interrupting_keeps_what_was_learned():
    X, y = IRIS

    def interrupt(clf):
        if clf.n_iter_ == 3:
            raise KeyboardInterrupt

    clf = MLPClassifier(callbacks=interrupt)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        clf.fit(X, y)
    assert len(clf.loss_curve_) == 3
    assert clf.predict(X).shape == (150,)


def test_verbose(capsys):
    X, y = IRIS
    options = {"verbose": True, "early_stopping": True, "random_state": 0, "max_iter": 40}
    said = []
    for c in (sk.MLPClassifier, MLPClassifier):
        c(**options, solver="sgd", tol=0.1, n_iter_no_change=2, learning_rate="adaptive",
          shuffle=False, batch_size=45, learning_rate_init=1e-5).fit(X, y)  # fmt: skip
        said.append(capsys.readouterr().out.splitlines())
    assert said[0] == said[1]
    MLPClassifier(solver="lbfgs", verbose=1, max_iter=3).fit(X, y)
    assert capsys.readouterr().out.count("Iteration") == 3


# ---------------------------------------------------------------------- more than scikit-learn


def test_validation_data():
    X, y = IRIS
    fit, held = slice(0, None, 2), slice(1, None, 2)
    clf = MLPClassifier(random_state=0, max_iter=30, alpha=0.0)
    clf.fit(X[fit], y[fit], validation_data=(X[held], y[held]))
    assert len(clf.validation_loss_curve_) == 30
    P = clf.predict_proba(X[held])
    expected = -np.mean(np.log(P[np.arange(75), y[held]]))
    assert clf.validation_loss_curve_[-1] == pytest.approx(expected)
    assert clf.validation_scores_ is None

    weights = np.linspace(1, 2, 75)
    clf = MLPClassifier(random_state=0, max_iter=30, early_stopping=True, n_iter_no_change=50)
    clf.fit(X[fit], y[fit], validation_data=(X[held], y[held], weights))
    assert len(clf.validation_scores_) == len(clf.validation_loss_curve_) == 30
    assert clf.score(X[held], y[held], weights) == pytest.approx(clf.best_validation_score_)
    with pytest.raises(ValueError, match="previously unseen labels"):
        clf.fit(X, y, validation_data=(X, y + 7))
    lbfgs = MLPClassifier(solver="lbfgs", max_iter=5).fit(X, y, validation_data=(X, y))
    assert len(lbfgs.validation_loss_curve_) >= 5
    assert not hasattr(MLPClassifier(max_iter=2).fit(X, y), "validation_loss_curve_")


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_weights_are_repetitions_and_class_weights_are_weights(solver):
    rng = np.random.default_rng(0)
    X, y = IRIS
    w = rng.integers(0, 4, 150)
    w[[0, 60, 120]] = 1
    options = {"random_state": 0, "solver": solver, "batch_size": 150, "alpha": 0.1, "tol": 1e-9}
    options |= {"max_iter": 20, "hidden_layer_sizes": (5,)}
    weighted = MLPClassifier(**options).fit(X, y, w)
    options["batch_size"] = w.sum()
    repeated = MLPClassifier(**options).fit(np.repeat(X, w, axis=0), np.repeat(y, w))
    np.testing.assert_allclose(weighted.coefs_[0], repeated.coefs_[0], atol=1e-6)

    options["batch_size"] = 150
    by_class = MLPClassifier(**options, class_weight={0: 1.0, 1: 2.0, 2: 5.0}).fit(X, y)
    by_weight = MLPClassifier(**options).fit(X, y, np.array([1.0, 2.0, 5.0])[y])
    np.testing.assert_array_equal(by_class.coefs_[0], by_weight.coefs_[0])


def test_balanced_class_weights_help_a_rare_class():
    X, y = make_classification(2000, weights=[0.97], flip_y=0.02, class_sep=0.7, random_state=0)
    recalls = []
    for class_weight in (None, "balanced"):
        clf = MLPClassifier((10,), class_weight=class_weight, random_state=0, max_iter=30)
        recalls.append(clf.fit(X, y).predict(X)[y == 1].mean())
    assert recalls[1] > recalls[0] + 0.2


def test_label_smoothing_keeps_probabilities_from_the_ends():
    for data in (IRIS, TWO, LABELS):
        X, y = data
        clf = MLPClassifier(solver="lbfgs", label_smoothing=0.2, random_state=0, max_iter=500)
        P = clf.fit(X, y).predict_proba(X)
        confident = MLPClassifier(solver="lbfgs", random_state=0).fit(X, y).predict_proba(X)
        # A row far from its class may end up surer than the target, so the mean is compared.
        assert P.max(axis=1).mean() < confident.max(axis=1).mean() - 0.02
        assert P.max() < 0.999 < confident.max()
        assert clf.score(X, y) > 0.95


def test_losses_of_the_regressor():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (400, 2))
    y = 2.0 * X[:, 0] + rng.standard_normal(400)
    options = {"hidden_layer_sizes": (), "solver": "adam", "learning_rate_init": 0.05,
               "random_state": 0, "max_iter": 150, "alpha": 0.0}  # fmt: skip
    for q in (0.1, 0.5, 0.9):
        reg = MLPRegressor("pinball", quantile=q, **options).fit(X, y)
        assert np.mean(y < reg.predict(X)) == pytest.approx(q, abs=0.05)
        assert d2_pinball_score(y, reg.predict(X), alpha=q) > 0.1
    y[::20] += 50.0  # outliers
    squared = MLPRegressor(**options).fit(X, y).predict(X)
    for loss in ("absolute_error", "huber"):
        robust = MLPRegressor(loss, **options).fit(X, y).predict(X)
        assert mean_absolute_error(2.0 * X[:, 0], robust) < 0.5
        assert mean_absolute_error(2.0 * X[:, 0], squared) > 1.5


def test_an_activation_for_each_layer_dropout_and_initializers():
    X, y = IRIS
    clf = MLPClassifier((8, 6), ["tanh", "gelu"], dropout=0.2, initializer="he_normal",
                        random_state=0, max_iter=150).fit(X, y)  # fmt: skip
    assert clf.score(X, y) > 0.9
    np.testing.assert_array_equal(clf.predict_proba(X), clf.predict_proba(X))
    zeros = MLPClassifier(initializer="auto", max_iter=1, learning_rate_init=1e-9).fit(X, y)
    assert abs(zeros.intercepts_[0]).max() < 1e-6
    theirs = sk.MLPClassifier(max_iter=1, learning_rate_init=1e-9, random_state=0).fit(X, y)
    ours = MLPClassifier(max_iter=1, learning_rate_init=1e-9, random_state=0).fit(X, y)
    np.testing.assert_allclose(ours.coefs_[1], theirs.coefs_[1], atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": "cosine"},
        {"learning_rate": "one_cycle", "solver": "sgd", "learning_rate_init": 0.1},
        {"learning_rate": lambda step, *, xp: 0.01 / (1.0 + 0.01 * step)},
        {"solver": "rmsprop"},
        {"solver": "adamw", "weight_decay": 0.1},
        {"weight_decay": 0.1, "clip_norm": 1.0},
        {"dtype": "float32"},
        {"dtype": "float32", "precision": "tf32"},
        {"dtype": "float32", "precision": "bf16"},
    ],
)
def test_ways_to_train(options):
    X, y = StandardScaler().fit_transform(IRIS[0]), IRIS[1]
    options = {"learning_rate_init": 0.01} | options
    clf = MLPClassifier(random_state=0, max_iter=60, batch_size=30, **options).fit(X, y)
    assert clf.score(X, y) > 0.94
    assert clf.coefs_[0].dtype == options.get("dtype", "float64")


@pytest.mark.parametrize(("ours", "_"), PAIRS)
def test_without_kernels_a_fit_is_the_same(ours, _, tmp_path):
    X, y = make_classification(100, random_state=0)
    for solver in ("adam", "lbfgs"):
        found, expected = (
            ours(solver=solver, max_iter=5, random_state=0, kernels=kernels).fit(X, y)
            for kernels in (False, "numpy")
        )
        np.testing.assert_allclose(found.loss_, expected.loss_, rtol=1e-9)
        found.save(tmp_path / "m")
        assert type(found).load(tmp_path / "m").kernels is False
    with pytest.raises(ValueError, match="The 'kernels' parameter of .* must be"):
        ours(kernels="numba").fit(X, y)


@pytest.mark.parametrize(("ours", "_"), PAIRS)
def test_precision(ours, _, tmp_path):
    """Another run than in float32, near to it, and refused where it means nothing."""
    X, y = (DIABETES[0], DIABETES[1]) if ours is MLPRegressor else IRIS
    X = X.astype(np.float32)
    nets = {
        precision: ours(max_iter=5, random_state=0, precision=precision).fit(X, y)
        for precision in ("float32", "tf32", "bf16")
    }
    whole = nets["float32"].loss_
    assert 0 < abs(nets["tf32"].loss_ - whole) < 1e-3 * whole
    assert 0 < abs(nets["bf16"].loss_ - whole) < 1e-2 * whole
    assert nets["tf32"].loss_ != nets["bf16"].loss_
    assert clone(nets["bf16"]).get_params()["precision"] == "bf16"
    nets["bf16"].save(tmp_path / "model")
    back = ours.load(tmp_path / "model")
    assert back.precision == "bf16"
    np.testing.assert_array_equal(back.predict(X), nets["bf16"].predict(X))
    step = ours(random_state=0, precision="bf16").partial_fit(
        X, y, **({} if ours is MLPRegressor else {"classes": np.unique(y)})
    )
    assert step.loss_ == nets["bf16"].loss_curve_[0]
    for options, message in {
        ("float16",): "The 'precision' parameter of .* must be a str among",
        (
            "tf32",
            "float64",
        ): "precision='tf32' is for dtype float32, got float64: .*dtype='float32'",
        ("bf16", "float32", "lbfgs"): "precision='bf16' is for the stochastic solvers, .*'adam'",
    }.items():
        given = dict(zip(("precision", "dtype", "solver"), options, strict=False))
        with pytest.raises(ValueError, match=message):
            ours(**given).fit(X, y)
    # float64 data ask for float64 arithmetic, unless a dtype is named.
    with pytest.raises(ValueError, match="is for dtype float32, got float64"):
        ours(precision="bf16").fit(X.astype(np.float64), y)


def test_weight_decay_shrinks_and_the_learning_rate_follows_its_schedule():
    X, y = IRIS
    norms = [
        abs(MLPClassifier(weight_decay=d, random_state=0, max_iter=20, learning_rate_init=0.01)
            .fit(X, y).coefs_[0]).sum()
        for d in (0.0, 5.0)
    ]  # fmt: skip
    assert norms[1] < 0.6 * norms[0]
    still = MLPClassifier(learning_rate=lambda step, *, xp: 0.0 * step, random_state=0, max_iter=3)
    start = MLPClassifier(max_iter=1, learning_rate_init=1e-12, random_state=0).fit(X, y)
    np.testing.assert_allclose(still.fit(X, y).coefs_[0], start.coefs_[0], atol=1e-9)


def test_partial_fit_with_several_labels():
    X, Y = make_multilabel_classification(200, n_classes=4, random_state=0)
    clf = MLPClassifier(random_state=0, learning_rate_init=0.01)
    for _ in range(30):
        clf.partial_fit(X, Y)
    assert clf.predict(X).shape == Y.shape
    assert (clf.predict(X) == Y).mean() > 0.85
    assert clf.predict_proba(X).shape == Y.shape
    with pytest.raises(ValueError, match="classes not in"):
        clf.partial_fit(X, Y[:, 0])
    sparse = MLPClassifier(random_state=0, max_iter=10).fit(X, sp.csr_matrix(Y))
    dense = MLPClassifier(random_state=0, max_iter=10).fit(X, Y)
    assert sp.issparse(sparse.predict(X))
    np.testing.assert_array_equal(sparse.predict(X).toarray(), dense.predict(X))


def test_predictions_agree_with_each_other():
    for X, y in (IRIS, TWO, LABELS):
        clf = MLPClassifier(random_state=0, max_iter=50).fit(X, y)
        P, labels = clf.predict_proba(X), clf.predict(X)
        np.testing.assert_allclose(clf.predict_log_proba(X), np.log(P), rtol=1e-9)
        if y.ndim == 2:
            np.testing.assert_array_equal(labels, P > 0.5)
        else:
            np.testing.assert_allclose(P.sum(axis=1), 1.0)
            np.testing.assert_array_equal(labels, clf.classes_[P.argmax(axis=1)])


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csr_array, sp.csc_array])
@pytest.mark.parametrize("options", [{}, {"solver": "lbfgs"}, {"early_stopping": True}])
def test_sparse_as_dense(form, options):
    X, y = load_digits(return_X_y=True)
    X, y = X[:300], y[:300]
    clfs = [
        MLPClassifier((10,), random_state=0, max_iter=5, **options).fit(data, y)
        for data in (X, form(X))
    ]
    np.testing.assert_allclose(clfs[0].coefs_[0], clfs[1].coefs_[0], atol=1e-10)
    np.testing.assert_allclose(clfs[0].predict_proba(X), clfs[1].predict_proba(form(X)), atol=1e-10)


def test_a_sparse_matrix_is_never_dense_as_a_whole():
    class Counted(sp.csr_matrix):
        most = 0

        def toarray(self, *args, **kwargs):
            Counted.most = max(Counted.most, self.shape[0])
            return super().toarray(*args, **kwargs)

    X = Counted(sp.random(4000, 2000, 0.002, format="csr", random_state=0))
    y = np.arange(4000) % 2
    for solver in ("adam", "lbfgs"):
        MLPClassifier((4,), max_iter=2, solver=solver).fit(X, y).predict(X)
    assert 200 <= Counted.most <= 2**22 // 2000


def test_callbacks_see_the_estimator_and_may_stop_it():
    X, y = IRIS
    seen = []

    def watch(clf):
        seen.append((clf.n_iter_, clf.loss_, clf.score(X, y)))
        return len(seen) == 4

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who stops it needs no warning that it did not converge
        clf = MLPClassifier(random_state=0, callbacks=[watch]).fit(X, y)
    assert [n for n, *_ in seen] == [1, 2, 3, 4]
    assert [loss for _, loss, _ in seen] == clf.loss_curve_
    assert seen[-1][2] == clf.score(X, y)
    seen.clear()
    MLPClassifier(solver="lbfgs", callbacks=watch).fit(X, y)
    assert len(seen) == 4


def test_scikit_learns_callbacks():
    callback = pytest.importorskip("sklearn.callback")
    del callback

    class Recorder:
        def __init__(self):
            self.events = []

        def setup(self, estimator, context):
            self.events.append("setup")

        def teardown(self, estimator, context):
            self.events.append("teardown")

        def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
            self.events.append(f"begin {context.task_name}")

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            self.events.append(f"end {context.task_name}")
            assert fitted_estimator.predict(IRIS[0]).shape == (150,)
            return context.task_name == "epoch" and context.task_id == 1

    recorder = Recorder()
    clf = MLPClassifier(random_state=0).set_callbacks(recorder).fit(*IRIS)
    assert clf.n_iter_ == 2
    epoch = ["begin epoch", "end epoch"]
    assert recorder.events == ["setup", "begin fit", *epoch, *epoch, "end fit", "teardown"]


# ---------------------------------------------------------------------- with the other tools


def test_pipelines_searches_and_meta_estimators():
    X, y = IRIS
    net = MLPClassifier((8,), random_state=0, max_iter=60, learning_rate_init=0.02)
    pipe = make_pipeline(StandardScaler(), net)
    assert cross_val_score(pipe, X, y, cv=3).mean() > 0.9
    search = GridSearchCV(
        pipe,
        {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__activation": ["tanh", ["relu"]]},
        cv=2,
    )
    assert search.fit(X, y).best_score_ > 0.9
    assert CalibratedClassifierCV(pipe, cv=2).fit(X, y).score(X, y) > 0.9
    bagging = BaggingClassifier(net, n_estimators=3, max_features=3, random_state=0)
    assert bagging.fit(X, y).score(X, y) > 0.8
    assert cross_val_predict(pipe, X, y, cv=2, method="predict_log_proba").shape == (150, 3)
    copy = clone(net)
    assert copy.get_params() == net.get_params()


TOOLS = {
    "sigmoid": lambda net: CalibratedClassifierCV(net, method="sigmoid", cv=3),
    "isotonic": lambda net: CalibratedClassifierCV(net, method="isotonic", cv=3),
    "temperature": lambda net: CalibratedClassifierCV(net, method="temperature", cv=3),
    "stacking": lambda net: StackingClassifier([("net", net)], LogisticRegression(), cv=3),
    "threshold": lambda net: TunedThresholdClassifierCV(net, cv=3),
}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
@pytest.mark.parametrize("data", [IRIS, TWO], ids=["classes", "two"])
def test_tools_ask_for_probabilities_as_of_scikit_learns_networks(tool, data):
    """A `decision_function` would be asked first, and calibrated in its place."""
    X, y = StandardScaler().fit_transform(data[0]), data[1]
    # 50 divide the rows of all folds, so that both make the same steps.
    options = {"solver": "sgd", "shuffle": False, "batch_size": 50, "random_state": 0,
               "learning_rate_init": 0.1, "max_iter": 20}  # fmt: skip
    found = []
    for cls in (sk.MLPClassifier, MLPClassifier):
        try:
            found.append(tool(cls(**options)).fit(X, y).predict_proba(X))
        except ValueError as error:  # thresholds are for two classes, and temperatures for 1.8
            found.append(str(error))
    if isinstance(found[0], str):
        assert found[0] == found[1]
        assert re.search("Only binary classification|'method' parameter", found[0])
    else:
        np.testing.assert_allclose(found[1], found[0], atol=1e-9)
    scorer = get_scorer("roc_auc_ovr")
    a, b = (scorer(cls(**options).fit(X, y), X, y) for cls in (sk.MLPClassifier, MLPClassifier))
    assert a == pytest.approx(b, abs=1e-9)


def test_frames_of_pandas_and_polars():
    rng = np.random.default_rng(0)
    table = {"age": rng.uniform(20, 60, 120), "town": rng.choice(["A", "B"], 120)}
    rich = np.where((table["age"] > 40) == (table["town"] == "A"), "yes", "no")
    for library in ("pandas", "polars"):
        frames = pytest.importorskip(library)
        X = frames.DataFrame(table)
        columns = ColumnTransformer(
            [("n", StandardScaler(), ["age"]), ("c", OneHotEncoder(), ["town"])]
        )
        clf = MLPClassifier((10,), solver="lbfgs", random_state=0)
        pipe = make_pipeline(columns, clf).fit(X, frames.Series(rich))
        assert pipe.score(X, rich) > 0.95
        assert set(pipe.predict(X)) == {"yes", "no"}
        named = MLPClassifier(max_iter=2).fit(X[["age"]], rich)
        assert named.feature_names_in_.tolist() == ["age"]
        with pytest.raises(ValueError, match="feature names"):
            named.predict(frames.DataFrame({"size": [1.0]}))


def test_threads_and_processes_give_what_one_gives():
    X, y = load_digits(return_X_y=True)
    net = MLPClassifier((30,), max_iter=3, random_state=0)
    alone = cross_val_score(net, X, y, cv=4)
    with joblib.parallel_config("threading", n_jobs=4):
        np.testing.assert_array_equal(cross_val_score(net, X, y, cv=4), alone)
        fitted = net.fit(X, y)
        calls = joblib.Parallel()(joblib.delayed(fitted.predict)(X) for _ in range(8))
        assert all((labels == fitted.predict(X)).all() for labels in calls)
    with joblib.parallel_config("loky", n_jobs=2):
        np.testing.assert_allclose(cross_val_score(net, X, y, cv=4), alone, atol=0.02)


def test_pickles_hold_no_device(tmp_path):
    pytest.importorskip("torch")
    X, y = IRIS
    clf = MLPClassifier(max_iter=3, device="torch", random_state=0).fit(X, y)
    assert type(clf.coefs_[0]).__module__ == "torch"
    content = pickle.dumps(clf)
    assert b"torch." not in content
    back = pickle.loads(content)
    assert type(back.coefs_[0]) is np.ndarray
    np.testing.assert_allclose(back.predict_proba(X), clf.predict_proba(X), atol=1e-12)
    back.partial_fit(X, y)
    assert type(back.to("cpu").coefs_[0]) is np.ndarray
    assert back.device == "cpu"
    assert back.predict(X).shape == (150,)
    joblib.dump(back, tmp_path / "model")
    assert joblib.load(tmp_path / "model").score(X, y) == back.score(X, y)


def test_model_files(tmp_path):
    path = tmp_path / "model.safetensors"
    names = np.array(["setosa", "versicolor", "virginica"], dtype=object)
    for X, y in (IRIS, TWO, LABELS, (IRIS[0], names[IRIS[1]]), (IRIS[0], IRIS[1] == 0)):
        clf = MLPClassifier((6, 5), ["tanh", "gelu"], max_iter=4, dropout=0.1, random_state=0,
                            early_stopping=True, n_iter_no_change=np.inf,
                            validation_fraction=np.float64(0.2)).fit(X, y)  # fmt: skip
        clf.save(path)
        back = MLPClassifier.load(path)
        np.testing.assert_array_equal(back.predict(X), clf.predict(X))
        np.testing.assert_array_equal(back.predict_proba(X), clf.predict_proba(X))
        assert back.validation_scores_ == clf.validation_scores_
        assert back.classes_.dtype == clf.classes_.dtype
        assert back.n_iter_no_change == np.inf
        assert (back.n_layers_, back.out_activation_) == (clf.n_layers_, clf.out_activation_)
    weighted = MLPClassifier(class_weight={True: 2.0, False: 1.0}, max_iter=2).fit(X, y)
    weighted.save(path)
    assert MLPClassifier.load(path).class_weight == {True: 2.0, False: 1.0}
    with pytest.raises(ValueError, match="it holds an MLPClassifier, not an MLPRegressor"):
        MLPRegressor.load(path)
    path.write_bytes(path.read_bytes().replace(b"n_iter", b"n_itex"))
    with pytest.raises(ValueError, match="altered"):
        MLPClassifier.load(path)
    reg = MLPRegressor("huber", delta=2.0, max_iter=2, random_state=0).fit(*DIABETES)
    reg.save(path)
    np.testing.assert_array_equal(MLPRegressor.load(path).predict(DIABETES[0]),
                                  reg.predict(DIABETES[0]))  # fmt: skip
    with pytest.raises(ValueError, match="learning_rate=.* cannot be written to a model file"):
        reg.set_params(learning_rate=lambda step, *, xp: step).save(path)


def test_without_scikit_learn_one_line_names_the_extra():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import nnaccel, nnaccel.training.loop\n"
        "try:\n    from nnaccel import MLPClassifier\n"
        "except ImportError as error:\n    print(error)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert "pip install 'nnaccel[sklearn]'" in said
    assert "\n" not in said


def test_as_accurate_as_scikit_learn():
    X, y = load_digits(return_X_y=True)
    X = X[::2] / 16
    y = y[::2]
    scores = {
        c: [c((30,), random_state=s, max_iter=15).fit(X[:600], y[:600]).score(X[600:], y[600:])
            for s in range(4)]
        for c in (sk.MLPClassifier, MLPClassifier)
    }  # fmt: skip
    assert np.mean(scores[MLPClassifier]) > np.mean(scores[sk.MLPClassifier]) - 0.015
    X, y = make_regression(300, 5, noise=1.0, random_state=0)
    assert MLPRegressor(solver="lbfgs", random_state=0, max_iter=500).fit(X, y).score(X, y) > 0.99


def test_the_page_about_the_estimators(tmp_path, monkeypatch):
    page = Path(__file__).parents[2].resolve() / "docs" / "estimators.md"
    monkeypatch.chdir(tmp_path)
    text, names = page.read_text(encoding="utf-8"), {}
    # That of the displays, which need matplotlib, is run in tests/test_docs.py.
    others = re.sub(r"^## Displays$.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)
    for block in re.findall(r"^```python\n(.*?)^```$", others, re.DOTALL | re.MULTILINE):
        exec(compile(block, str(page), "exec"), names)
    assert names["model"].score(names["X_test"], names["y_test"]) > 0.95
    for parameter in inspect.signature(MLPClassifier).parameters.keys() - set(
        inspect.signature(sk.MLPClassifier).parameters
    ):
        assert f"| `{parameter}`" in text
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


# What is valid as it stands is not validated twice


def test_the_short_way_refuses_and_warns_as_validation_does():
    X, y = IRIS
    clf = MLPClassifier(random_state=0, max_iter=5).fit(X, y)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
            clf.predict(np.where(X[3, 1] == X, bad, X))
    with pytest.raises(ValueError, match="X has 3 features, but MLPClassifier is expecting 4"):
        clf.predict(X[:, :3])
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        clf.predict(X[:0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clf.partial_fit(X, y[:-1])
    with pytest.raises(ValueError, match="Input y contains NaN"):
        MLPRegressor().partial_fit(X, y).partial_fit(X, np.where(y == 1, np.nan, y))
    pd = pytest.importorskip("pandas")
    named = clone(clf).fit(pd.DataFrame(X, columns=[*"abcd"]), y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        named.predict(X)


@pytest.mark.parametrize("labels", [[3, 5, 9], [False, True], ["b", "d", "e"], [1.0, 2.0]])
def test_codes_are_those_of_scikit_learn(labels):
    labels = np.array(labels)
    y = np.resize(labels[::-1], 40)
    expected = LabelEncoder().fit(labels).transform(y)
    found = MLPClassifier(max_iter=1).fit(np.ones((40, 2)), y)._encode(y)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


def test_scikit_learn_looks_at_labels_that_are_not_known():
    assert codes_of(np.array([3, 4]), np.array([3, 5])) is None
    assert codes_of(np.array(["b", "c"]), np.array(["b", "d"])) is None


def calls_of(function):
    """How many functions a call enters, after two that fill the caches."""
    function()
    function()
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_single_row_takes_fewer_calls_than_scikit_learn(ours, theirs):
    X, y = IRIS
    counts = []
    for cls in (ours, theirs):
        model = cls(random_state=0, max_iter=5).fit(X, y)
        first, target = X[:1].copy(), y[:1]
        counts.append(calls_of(lambda m=model, X=first: m.predict(X)))
        if cls in (MLPClassifier, sk.MLPClassifier):
            counts.append(calls_of(lambda m=model, X=first, y=target: m.partial_fit(X, y)))
    half = len(counts) // 2
    assert all(np.less(counts[:half], counts[half:])), counts
