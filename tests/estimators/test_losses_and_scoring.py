"""Estimators: losses of one's own, quantiles, deviations, and what early stopping goes by."""

import pickle
import re

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need scikit-learn (the extra [sklearn])")
from sklearn import metrics
from sklearn.base import clone
from sklearn.model_selection import cross_val_score, train_test_split

from nnaccel import MLPClassifier, MLPRegressor, TableClassifier, TableRegressor
from nnaccel.devices.device import select
from nnaccel.maths import losses
from nnaccel.maths.activations import sigmoid
from nnaccel.maths.losses import CLASSES, LABELS, Loss, softmax

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

LEVELS = (0.1, 0.5, 0.9)
rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (300, 3))
NOISE = 0.3 + 0.2 * X[:, 1]
Y = X[:, 0] + NOISE * rng.standard_normal(300)
TWO = np.stack([Y, 3 - 10 * Y], axis=1)
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0, "kernels": "numpy"}
LONG = QUICK | {"max_iter": 40, "learning_rate_init": 0.02}


def focal(Z, T, weights=None, *, xp, gamma=1.0):
    """Cross-entropy of labels times (1 - p)^gamma, p the probability of the right one; here its
    gradient is by the chain rule. Source: Lin et al. (2017), arXiv:1708.02002, eq. 4."""
    S = Z * (2.0 * T - 1.0)
    p = sigmoid(S, xp=xp)
    log_p = -xp.logaddexp(-S, xp.zeros_like(S))
    value = -((1 - p) ** gamma) * log_p
    dS = (1 - p) ** gamma * (gamma * p * log_p - (1 - p))
    return losses.average(xp.sum(value, axis=-1), dS * (2.0 * T - 1.0), weights, xp=xp)


FOCAL = Loss("focal", focal, sigmoid, targets=LABELS)
EVEN = Loss("even", losses.softmax_cross_entropy, softmax, targets=CLASSES)
HUBER = losses.get("huber", delta=0.2)


# Quantiles and deviations


def test_several_quantiles():
    model = MLPRegressor("pinball", quantile=LEVELS, **LONG).fit(X, Y)
    A = model.predict(X)
    assert A.shape == (300, 3)
    assert (np.diff(A, axis=1) >= 0).all()
    np.testing.assert_allclose(np.mean(Y[:, None] <= A, axis=0), LEVELS, atol=0.07)
    assert (model.n_outputs_, model.out_activation_) == (1, "ascending")
    assert model.score(X, Y) == metrics.r2_score(Y, A[:, 1])
    assert cross_val_score(model, X, Y, cv=2).shape == (2,)
    several = MLPRegressor("pinball", quantile=[0.2, 0.7], **QUICK).fit(X, TWO)
    assert several.predict(X).shape == (300, 2, 2)
    assert several.score(X, TWO) == metrics.r2_score(TWO, several.predict(X)[..., 1])


def test_a_mean_with_its_standard_deviation():
    model = MLPRegressor("gaussian", **LONG).fit(X, Y)
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_array_equal(mean, model.predict(X))
    assert np.corrcoef(std, NOISE)[0, 1] > 0.8
    np.testing.assert_allclose(np.mean(np.abs(Y - mean) < 1.645 * std), 0.9, atol=0.05)
    assert model.score(X, Y) == metrics.r2_score(Y, mean)
    mean, std = MLPRegressor("gaussian", **QUICK).fit(X, TWO).predict(X, return_std=True)
    assert mean.shape == std.shape == (300, 2)
    with pytest.raises(ValueError, match="^return_std is for loss='gaussian', which estimates it, "
                       "got loss='huber'$"):  # fmt: skip
        MLPRegressor("huber", **QUICK).fit(X, Y).predict(X, return_std=True)


def test_they_follow_the_library_of_X():
    pytest.importorskip("torch", reason="PyTorch is another library")
    there = select("torch")
    expected = MLPRegressor("gaussian", dtype="float64", **QUICK).fit(X, Y)
    model = MLPRegressor("gaussian", **QUICK).fit(there.asarray(X), there.asarray(Y))
    for mine, theirs in zip(
        model.predict(there.asarray(X), return_std=True),
        expected.predict(X, return_std=True),
        strict=True,
    ):
        assert there.holds(mine)
        np.testing.assert_allclose(np.asarray(mine), theirs, rtol=1e-6)


def test_of_tables():
    how = {"members": 2, "numbers": "plain", "epochs": 4, "random_state": 0, "kernels": "numpy"}
    table = {f"x{k}": X[:, k] for k in range(3)}
    model = TableRegressor(quantile=LEVELS, **how).fit(table, Y)
    A = model.predict(table)
    assert A.shape == (300, 3)
    assert model.score(table, Y) == pytest.approx(metrics.r2_score(Y, A[:, 1]))
    assert clone(model).get_params()["quantile"] == LEVELS
    model = TableRegressor(loss="gaussian", **how).fit(table, TWO)
    mean, std = model.predict(table, return_std=True)
    assert mean.shape == std.shape == (300, 2)
    assert (std > 0).all()
    assert model.score(table, TWO) == pytest.approx(metrics.r2_score(TWO, mean))
    with pytest.raises(ValueError, match="^return_std is for loss='gaussian', which estimates it, "
                       "got loss='squared_error'$"):  # fmt: skip
        TableRegressor(**how).fit(table, Y).predict(table, return_std=True)


def test_a_loss_of_ones_own_for_tables():
    how = {"members": 2, "numbers": "plain", "epochs": 4, "random_state": 0, "kernels": "numpy"}
    table = {f"x{k}": X[:, k] for k in range(3)}
    model = TableClassifier(loss=FOCAL, scoring="roc_auc", **how).fit(table, Y > 0)
    assert model.score(table, Y > 0) > 0.7
    assert model.model_.loss == FOCAL
    assert clone(model).loss == FOCAL


# A loss of one's own


def test_a_loss_in_the_place_of_a_name():
    named = MLPRegressor("huber", delta=0.2, **QUICK).fit(X, Y)
    given = MLPRegressor(HUBER, **QUICK).fit(X, Y)
    np.testing.assert_array_equal(given.predict(X), named.predict(X))


@pytest.mark.parametrize(("loss", "y"), [(FOCAL, Y > 0), (EVEN, np.digitize(Y, [-0.5, 0.5]))])
def test_a_loss_of_classes(loss, y):
    model = MLPClassifier(loss=loss, **LONG).fit(X, y)
    assert model.score(X, y) > 0.75
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)
    if loss is EVEN:
        expected = MLPClassifier(**LONG).fit(X, y).predict_proba(X)
        np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-6)


def test_the_gradient_of_the_focal_loss_here_is_right():
    T, h = (Y > 0).astype(float)[:, None], 1e-6
    direction = rng.standard_normal((300, 1))
    up, down = (focal(X[:, :1] + d * direction, T, xp=np)[0] for d in (h, -h))
    dZ = focal(X[:, :1], T, xp=np)[1]
    assert np.sum(dZ * direction) == pytest.approx((up - down) / (2 * h), rel=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        MLPRegressor("pinball", quantile=LEVELS, **QUICK),
        MLPRegressor("gaussian", **QUICK),
        MLPRegressor(HUBER, **QUICK),
        MLPClassifier(loss=FOCAL, **QUICK, scoring="roc_auc", early_stopping=True),
    ],
    ids=["quantiles", "gaussian", "huber", "focal"],
)
def test_copies_pickles_and_files(model, tmp_path):
    y = Y > 0 if isinstance(model, MLPClassifier) else Y
    model = clone(model).fit(X, y)
    expected = model.predict(X)
    twin = clone(model).fit(X, y)
    np.testing.assert_array_equal(twin.predict(X), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), expected)
    if isinstance(model, MLPClassifier):
        with pytest.raises(ValueError, match="a file cannot hold the loss 'focal'"):
            model.save(tmp_path / "m")
        return
    model.save(tmp_path / "m")
    again = MLPRegressor.load(tmp_path / "m")
    np.testing.assert_array_equal(again.predict(X), expected)
    assert again._loss() == model._loss()
    assert again.fit(X, y).n_outputs_ == 1


# What early stopping goes by

STOPPING = QUICK | {"early_stopping": True, "max_iter": 8, "n_iter_no_change": 20}


@pytest.mark.parametrize(
    ("cls", "y", "scoring"),
    [
        (MLPRegressor, Y, "neg_mean_absolute_error"),
        (MLPClassifier, np.where(Y > 0, "up", "down"), "roc_auc"),
        (MLPClassifier, np.digitize(Y, [-0.5, 0.5]), "neg_log_loss"),
    ],
    ids=["numbers", "two classes", "three classes"],
)
def test_a_scorer_by_name(cls, y, scoring):
    held = train_test_split(np.arange(300), random_state=3, test_size=0.2)[1]
    seen = []

    def watched(estimator, X, y):
        seen.append((X, y))
        return metrics.get_scorer(scoring)(estimator, X, y)

    how = STOPPING | {"validation_fraction": 0.2}
    model = cls(scoring=scoring, **how).fit(X, y)
    same = cls(scoring=watched, **how).fit(X, y)
    assert model.validation_scores_ == same.validation_scores_
    assert len(seen) == len(model.validation_scores_) == 8
    assert len(seen[0][0]) == len(held)
    assert model.best_validation_score_ == max(model.validation_scores_)
    # The weights are those of the best epoch: the score is theirs.
    found = metrics.get_scorer(scoring)(model, *seen[0])
    assert found == pytest.approx(model.best_validation_score_)
    assert {*np.unique(seen[0][1])} <= {*np.unique(y)}


def test_the_loss_is_a_score_too():
    model = MLPRegressor(scoring="loss", **STOPPING).fit(X, Y)
    assert model.validation_scores_ == [-v for v in model.validation_loss_curve_]
    quantiles = MLPRegressor("pinball", quantile=LEVELS, scoring="loss", **STOPPING).fit(X, Y)
    assert quantiles.best_validation_score_ == -min(quantiles.validation_loss_curve_)

    def width(estimator, X, y):
        low, _, high = estimator.predict(X).T
        return -np.mean(high - low)

    own = MLPRegressor("pinball", quantile=LEVELS, scoring=width, **STOPPING).fit(X, Y)
    assert own.best_validation_score_ == max(own.validation_scores_) < 0


@pytest.mark.parametrize("cls", [MLPRegressor, MLPClassifier])
def test_the_default_is_the_score_of_the_estimator(cls):
    y = Y if cls is MLPRegressor else Y > 0
    name = "r2" if cls is MLPRegressor else "accuracy"
    default, named = (cls(scoring=s, **STOPPING).fit(X, y) for s in (None, name))
    np.testing.assert_allclose(default.validation_scores_, named.validation_scores_, rtol=1e-12)


def test_scores_have_the_weights_of_the_validation_data():
    w = rng.uniform(0, 3, 300)
    held = (X[:100], Y[:100], w[:100])
    model = MLPRegressor(scoring="neg_mean_squared_error", **STOPPING)
    model.fit(X, Y, w, validation_data=held)
    found = -metrics.mean_squared_error(Y[:100], model.predict(X[:100]), sample_weight=w[:100])
    assert found == pytest.approx(model.best_validation_score_)


def test_a_frame_of_named_columns_and_labels_of_several_kinds():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    labels = np.stack([Y > 0, X[:, 1] > 0], axis=1).astype(int)
    model = MLPClassifier(scoring="f1_macro", **STOPPING).fit(frame, labels)
    assert len(model.validation_scores_) == 8
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]


def test_a_scorer_of_a_network_that_is_elsewhere():
    pytest.importorskip("torch", reason="PyTorch is another library")
    there = select("torch")
    how = STOPPING | {"scoring": "neg_mean_absolute_error", "dtype": "float64"}
    expected = MLPRegressor(**how).fit(X, Y).validation_scores_
    found = MLPRegressor(**how).fit(there.asarray(X), there.asarray(Y)).validation_scores_
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_function_is_left_out_of_a_file_and_a_name_is_not(tmp_path):
    for scoring in ("r2", lambda estimator, X, y: 0.0):
        MLPRegressor(scoring=scoring, **QUICK).fit(X, Y).save(tmp_path / "m")
        kept = scoring if isinstance(scoring, str) else None
        assert MLPRegressor.load(tmp_path / "m").scoring == kept


# What is refused


@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (MLPRegressor("pinball", quantile=(0.9, 0.1)), Y,
         "quantile must ascend, each level once, got 0.9, 0.1; in order: 0.1, 0.9"),
        (MLPRegressor("pinball", quantile=(0.1, 2.0)), Y,
         "quantile must be between 0 and 1, got 2.0"),
        (MLPRegressor("pinball", quantile=[]), Y, "quantile must be one level or more, got none"),
        (MLPRegressor("huber", quantile=(0.1, 0.9)), Y,
         "quantile=(0.1, 0.9) is for loss='pinball', got loss='huber'"),
        (MLPRegressor(FOCAL), Y,
         "loss 'focal' is for labels, and MLPRegressor predicts numbers; use MLPClassifier"),
        (MLPRegressor("pinball", quantile=LEVELS, early_stopping=True, scoring="r2"), Y,
         "scoring='r2' is of one prediction for each target, and there are 3 quantiles; use "
         "scoring='loss', None for R^2 of the one next to the median, or a function (estimator, X, "
         "y)"),
        (MLPClassifier(loss=HUBER), Y > 0,
         "loss 'huber' must have the link sigmoid and targets nnaccel.losses.LABELS for two "
         "classes or labels, got the link identity and targets of the kind 'numbers'"),
        (MLPClassifier(loss=FOCAL), np.arange(300) % 3,
         "loss 'focal' must have the link softmax and targets nnaccel.losses.CLASSES for 3 "
         "classes, got the link sigmoid and targets of the kind 'labels'"),
        (MLPClassifier(loss=FOCAL, label_smoothing=0.1), Y > 0,
         "label_smoothing is for loss='log_loss', got loss 'focal'; leave it out"),
    ],
)  # fmt: skip
def test_what_is_refused(model, y, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.fit(X, y)
