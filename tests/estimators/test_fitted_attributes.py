"""After every way to fit, the public attributes are scikit-learn's: the same are there, or None."""

import re
import warnings

import numpy as np
import pytest
from sklearn import neural_network as sk
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning

import nnaccel

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
OURS_ALONE = {"validation_loss_curve_"}
WAYS = ["fit", "fit fit", "partial_fit", "partial_fit partial_fit", "fit partial_fit"]
# Without the epochs that partial_fit adds where there are none, or no validation: see below.
CASES = [
    (solver, way, early_stopping)
    for solver in ("adam", "sgd", "lbfgs")
    for way in WAYS
    for early_stopping in (False, True)
    if "partial_fit" not in way or (solver != "lbfgs" and not early_stopping)
]


def fitted(library, kind, way, **options):
    estimator = getattr(library, kind)(max_iter=3, random_state=0, **options)
    for number, method in enumerate(way.split()):
        classes = {"classes": [0, 1, 2]} if kind == "MLPClassifier" else {}
        first = number == 0 and method == "partial_fit"
        getattr(estimator, method)(X, Y, **(classes if first else {}))
    return estimator


def told(value):
    """What of an attribute is the same in both runs: that it is None, a number, or its length."""
    if isinstance(value, list | int | str):
        return len(value) if isinstance(value, list) else value
    return "None" if value is None else "something"


def attributes(estimator):
    public = {n: v for n, v in vars(estimator).items() if n.endswith("_")}
    return {name: told(public[name]) for name in public.keys() - OURS_ALONE}


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize(("solver", "way", "early_stopping"), CASES)
def test_the_same_are_there_and_the_same_are_None(kind, solver, way, early_stopping):
    for warm_start in (False, True):
        theirs, ours = (
            fitted(library, kind, way, solver=solver, early_stopping=early_stopping,
                   warm_start=warm_start)
            for library in (sk, nnaccel)
        )  # fmt: skip
        assert attributes(ours) == attributes(theirs)


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_partial_fit_is_refused_where_there_are_no_epochs_or_no_validation(kind):
    assert not hasattr(getattr(nnaccel, kind)(solver="lbfgs"), "partial_fit")
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        fitted(nnaccel, kind, "partial_fit", early_stopping=True)


def test_attributes_that_are_set_by_hand_are_enough_to_go_on_from():
    clf = nnaccel.MLPClassifier((2,), solver="sgd", learning_rate_init=0.1, momentum=0.0)
    clf.coefs_ = [np.ones((4, 2)), np.ones((2, 1))]
    clf.intercepts_ = [np.zeros(2), np.zeros(1)]
    clf.n_features_in_, clf.n_outputs_, clf.n_layers_ = 4, 1, 3
    clf.n_iter_, clf.t_, clf.loss_curve_, clf.best_loss_ = 0, 0, [], np.inf
    clf._no_improvement_count = 0
    clf.partial_fit(X[:1], [0], classes=[0, 1])
    assert len(clf.loss_curve_) == 1
    assert clf.coefs_[0].shape == (4, 2)


@pytest.mark.parametrize("max_fun", [1, 3, 10])
@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_lbfgs_at_its_limit_of_evaluations_warns_as_scikit_learn(kind, max_fun):
    texts = []
    for library in (sk, nnaccel):
        estimator = getattr(library, kind)(solver="lbfgs", max_fun=max_fun, random_state=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            estimator.fit(X, Y)
        # How it says so differs from one SciPy to the next.
        limit = re.compile("STOP: TOTAL NO. .* EVALUATIONS EXCEEDS LIMIT")
        texts.append([limit.sub("LIMIT", str(warning.message)) for warning in caught])
    assert texts[0] == texts[1]
    assert "LIMIT" in texts[1][0]


def test_a_class_of_one_row_is_named_as_scikit_learn_names_it():
    messages = []
    for library in (sk, nnaccel):
        with pytest.raises(ValueError, match="The least populated class") as caught:
            library.MLPClassifier(early_stopping=True).fit(X[:20], np.arange(20) == 3)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]  # of which older versions name no class
    assert "[1]" not in messages[1]
