"""Weights of examples: their scale moves the penalty as in scikit-learn, and nothing else."""

import numpy as np
import pytest
from sklearn import neural_network as sk
from sklearn.datasets import load_iris

from nnaccel import MLPClassifier, MLPRegressor
from nnaccel.estimators.example_weights import Weights

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
W = np.linspace(1.0, 3.0, 150)
SCALES = [5e-324, 1e-300, 1e-30, 1e30, 1e200, 5e307]
OPTIONS = {"max_iter": 4, "random_state": 0, "alpha": 0.0, "hidden_layer_sizes": (5,)}


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_loss_is_the_same_for_weights_of_every_scale(solver, dtype, early_stopping):
    options = OPTIONS | {"solver": solver, "dtype": dtype, "early_stopping": early_stopping}
    for cls in (MLPClassifier, MLPRegressor):
        expected = cls(**options).fit(X, Y, W / W.mean())
        for scale in SCALES[1:]:
            found = cls(**options).fit(X, Y, W * scale)
            np.testing.assert_allclose(found.coefs_[0], expected.coefs_[0], rtol=2e-5, atol=1e-7)
            assert found.loss_ == pytest.approx(expected.loss_, rel=1e-5)
        equal = cls(**options).fit(X, Y, np.full(150, SCALES[0]))
        np.testing.assert_array_equal(equal.coefs_[0], cls(**options).fit(X, Y).coefs_[0])


@pytest.mark.parametrize("scale", SCALES[1:])
def test_partial_fit_class_weights_and_validation_data_likewise(scale):
    expected = MLPClassifier(**OPTIONS).partial_fit(X, Y, W, classes=[0, 1, 2])
    found = MLPClassifier(**OPTIONS).partial_fit(X, Y, W * scale, classes=[0, 1, 2])
    np.testing.assert_allclose(found.coefs_[0], expected.coefs_[0], atol=1e-9)

    table = {0: 1.0, 1: 2.0, 2: 3.0}
    scaled = {label: weight * scale for label, weight in table.items()}
    expected = MLPClassifier(**OPTIONS, class_weight=table).fit(X, Y, W)
    found = MLPClassifier(**OPTIONS, class_weight=scaled).fit(X, Y, W * scale)
    np.testing.assert_allclose(found.coefs_[0], expected.coefs_[0], atol=1e-9)

    expected = MLPClassifier(**OPTIONS).fit(X, Y, validation_data=(X, Y, W))
    found = MLPClassifier(**OPTIONS).fit(X, Y, validation_data=(X, Y, W * scale))
    np.testing.assert_allclose(found.validation_loss_curve_, expected.validation_loss_curve_)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 1e4, 1e200])
def test_the_penalty_is_scikit_learns(solver, scale):
    options = OPTIONS | {"solver": solver, "alpha": 0.1, "batch_size": 150, "shuffle": False}
    ours, theirs = (c(**options).fit(X, Y, W * scale) for c in (MLPClassifier, sk.MLPClassifier))
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-9)
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-6, atol=1e-8)


def test_a_penalty_that_leaves_nothing_to_learn_is_refused():
    for solver in ("adam", "lbfgs"):
        clf = MLPClassifier(solver=solver, alpha=0.5, batch_size=150)
        message = (
            "alpha=0.5 over the sum of the weights of 150 examples, of mean 2e-200, is a penalty "
            "of 1.66667e+197, too large for float64; bring the weights to mean 1, or set alpha=0"
        )
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (all of it is compared)
            clf.fit(X, Y, W * 1e-200)
        assert str(caught.value) == message
    with pytest.raises(ValueError, match="too large for float32; bring the weights to mean 1"):
        MLPClassifier(dtype="float32").fit(X, Y, W * 1e-30)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_weights_of_classes_are_checked(weight):
    message = f"class_weight must be finite and not negative, got {weight!r} for the class 1"
    with pytest.raises(ValueError, match=message):
        MLPClassifier(class_weight={0: 1.0, 1: weight}).fit(X, Y)
    with pytest.raises(ValueError, match="class_weight must not be zero for all classes in y"):
        MLPClassifier(class_weight={0: 0.0, 1: 0.0, 2: 0}).fit(X, Y)


def test_weights_have_mean_1_and_a_scale():
    for largest in (5e-324, 1.0, 1.7e308):
        weights = Weights.of(np.full(1000, largest))
        np.testing.assert_array_equal(weights.values, 1.0)
        assert weights.mean() == largest
    product = Weights.of(np.array([1.0, 3.0])).times(Weights.of(np.array([2.0, 2.0])))
    np.testing.assert_array_equal(product.values, [0.5, 1.5])
    assert product.mean() == 4.0
    assert product.rows(np.array([1])).mean() == 6.0
