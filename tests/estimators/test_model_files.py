"""Estimators in model files: whatever is loaded predicts, and is what its parameters say."""

import copy

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

from nnaccel import MLPClassifier, MLPRegressor
from nnaccel.maths import losses
from nnaccel.training import model_file

X = np.random.default_rng(0).standard_normal((30, 3))
OPTIONS = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}
Y = {
    "binary": np.array(["no", "yes"])[np.arange(30) % 2],
    "multiclass": np.arange(30) % 3,
    "multilabel-indicator": np.stack([np.arange(30) % 2, np.arange(30) % 3 > 0], 1).astype(int),
}

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


def forged(tmp_path, task="multiclass", network=None, loss=None, params=None, **extra):
    """The path of a sound file in which something is exchanged, its digest as it should be."""
    path = tmp_path / "m"
    if task == "numbers":
        MLPRegressor(**OPTIONS).fit(X, X[:, 0]).save(path)
    else:
        weights = {"no": 1.0, "yes": 2.0} if task == "binary" else None
        MLPClassifier(**OPTIONS, class_weight=weights).fit(X, Y[task]).save(path)
    found = model_file.load(path)
    changed = copy.deepcopy(found.extra)
    changed["parameters"] |= extra.pop("parameters", {})
    model_file.save(
        path,
        network or found.network,
        found.params if params is None else params(found.params),
        loss=loss or found.loss,
        extra=changed | extra,
        vectors={n: v if params is None else params(v) for n, v in found.vectors.items()},
    )
    return path


def test_the_forgery_itself_is_good(tmp_path):
    for task in Y:
        assert MLPClassifier.load(forged(tmp_path, task)).predict(X).shape[0] == 30
    assert MLPRegressor.load(forged(tmp_path, "numbers")).predict(X).shape == (30,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"activation": "tanh"}}, "its network is not the one that its parameters"),
        ({"parameters": {"dropout": 0.5}}, "its network is not the one that its parameters"),
        ({"parameters": {"initializer": "zeros"}}, "its network is not the one that its param"),
        ({"loss": losses.get("binary_cross_entropy")}, "the loss 'softmax_cross_entropy', not 'bi"),
        ({"parameters": {"label_smoothing": 0.1}}, "the loss 'softmax_cross_entropy', not 'softm"),
        ({"params": lambda p: np.stack([p, p])}, "it holds several networks"),
        ({"classes": [0, 1]}, "2 classes .0, 1. are not those of a multiclass target"),
        ({"classes": [0, 1, 2, 3]}, "4 classes do not fit 3 outputs"),
        ({"classes": [0, 2, 1]}, "'classes' must be a list of 64-bit integers in ascending order"),
        ({"classes": [0, 1, 2**63]}, "'classes' must be a list of 64-bit integers in ascending"),
        ({"classes": [0, 1, "b"]}, "'classes' must be a list of 64-bit integers in ascending"),
        ({"classes": []}, "'classes' must be a list of 64-bit integers in ascending order, got"),
        ({"classes": None}, "'classes' must be a list of 64-bit integers"),
        ({"dtype": "none"}, "it has no classes"),
        ({"dtype": "string", "classes": ["a", "b", "b\0"]}, "are not those of a multiclass target"),
        ({"target": "numbers"}, "it has no classes"),
        ({"target": "binary"}, "3 classes .0, 1, 2. are not those of a binary target"),
        ({"feature_names": ["a", "b"]}, "as many feature names as inputs"),
        ({"feature_names": ["a", "b", "b"]}, "'feature_names' must be a list of different strings"),
        ({"n_iter": -1}, "'n_iter' must be a whole number, not negative, got -1"),
        ({"t": 2**63}, "'t' must be a whole number"),
        ({"curves": {"loss_": "low"}}, "curves: 'loss_' must be a number, or nothing, got 'low'"),
        ({"curves": {"loss_curve_": 1.0}}, "curves: 'loss_curve_' must be a list of numbers"),
        ({"curves": {"loss_curve_": [[1.0]]}}, "curves: 'loss_curve_' must be a list of numbers"),
        ({"curves": {"coefs_": []}}, "curves has an unknown key 'coefs_'"),
        ({"parameters": {"alpha": -1.0}}, "'alpha' parameter"),
        ({"parameters": {"alpha": {"number": []}}}, "an object in it has no key 'pairs'"),
        ({"parameters": {"alpha": {"number": "1_0"}}}, "an object in it has no key 'pairs'"),
        ({"parameters": {"class_weight": {"pairs": 3}}}, "'pairs' must be a list of pairs"),
        ({"parameters": {"class_weight": {"pairs": [[[], 1]]}}}, "'pairs' must be a list of pairs"),
        (
            {"parameters": {"class_weight": {"pairs": [[1, "a"]]}}},
            "'pairs' must be a list of pairs",
        ),
        (
            {"parameters": {"hidden_layer_sizes": [[1]]}},
            "'hidden_layer_sizes' must be positive num",
        ),
        ({"parameters": {"hidden_layer_sizes": [0]}}, "'hidden_layer_sizes' must be positive num"),
        (
            {"parameters": {"activation": [["relu"]]}},
            "'activation' must be a name or a list of nam",
        ),
        ({"parameters": {"activation": ["relu", "relu"]}}, "for each of the 1 hidden layers"),
        ({"parameters": {"code": 1}}, "unknown parameters code"),
    ],
)
def test_what_does_not_agree_is_refused(tmp_path, changes, message):
    path = forged(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        MLPClassifier.load(path)
    assert str(error.value).startswith(f"{path}: not an estimator that can be used: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [{"classes": [1, 2]}, {"target": "binary"}, {"dtype": "string"}],
)
def test_a_regressor_has_no_classes(tmp_path, changes):
    with pytest.raises(ValueError, match="a regressor has no classes, and numbers as its target"):
        MLPRegressor.load(forged(tmp_path, "numbers", **changes))


def test_classes_that_a_file_cannot_hold_are_refused_when_it_is_written(tmp_path):
    classes = np.array([2**63, 2**63 + 1], dtype="uint64")
    net = MLPClassifier(**OPTIONS).fit(X, classes[np.arange(30) % 2])
    with pytest.raises(ValueError, match="can hold classes that are text, .* integers of 64 bits"):
        net.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_parameters_that_were_changed_after_the_fit_are_saved_and_loaded(tmp_path):
    """The network is that of the fitted weights; what only a new fit would use may differ."""
    net = MLPClassifier(**OPTIONS).fit(X, Y["multiclass"])
    net.set_params(hidden_layer_sizes=(9, 9), alpha=0.5, solver="sgd").save(tmp_path / "m")
    back = MLPClassifier.load(tmp_path / "m")
    assert back.hidden_layer_sizes == [9, 9]
    np.testing.assert_array_equal(back.predict(X), net.predict(X))


# ---------------------------------------------------------------------------- going on

GO_ON = {
    "adam": {"solver": "adam"},
    "decay": {"solver": "adam", "weight_decay": 0.1, "dropout": 0.2},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.1},
    "plain": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1},
    "cosine": {"learning_rate": "cosine"},
    "stopping": {"early_stopping": True, "warm_start": True, "validation_fraction": 0.3},
}


def through_a_file(estimator, path):
    estimator.save(path)
    return type(estimator).load(path)


def assert_equal_fits(found, expected):
    for mine, theirs in zip(found.coefs_ + found.intercepts_,
                            expected.coefs_ + expected.intercepts_, strict=True):  # fmt: skip
        np.testing.assert_array_equal(mine, theirs)
    for name in ("loss_curve_", "validation_scores_", "n_iter_", "t_", "_rate",
                 "_no_improvement_count"):  # fmt: skip
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize("name", [*GO_ON][:-1])
@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
def test_partial_fit_goes_on_from_a_file_with_the_same_bits(tmp_path, cls, name):
    y = Y["multiclass"] if cls is MLPClassifier else X[:, 0]
    expected, found = (cls(**OPTIONS | GO_ON[name]) for _ in range(2))
    for _ in range(4):
        first = (X, y, None, [0, 1, 2]) if cls is MLPClassifier else (X, y)
        expected.partial_fit(*first)
        found.partial_fit(*first)
        found = through_a_file(found, tmp_path / "m")
        assert_equal_fits(found, expected)


@pytest.mark.parametrize("name", GO_ON)
def test_a_warm_start_goes_on_from_a_file_with_the_same_bits(tmp_path, name):
    options = OPTIONS | GO_ON[name] | {"warm_start": True, "max_iter": 5}
    expected, found = (MLPClassifier(**options) for _ in range(2))
    for _ in range(3):
        expected.fit(X, Y["multiclass"])
        found = through_a_file(found.fit(X, Y["multiclass"]), tmp_path / "m")
        assert_equal_fits(found, expected)


def test_a_file_of_before_has_no_memory_and_loads(tmp_path):
    path = forged(tmp_path)
    found = model_file.load(path)
    del found.extra["memory"]
    model_file.save(path, *found[:2], loss=found.loss, extra=found.extra)
    assert MLPClassifier.load(path)._memory is None
    MLPClassifier.load(path).partial_fit(X, Y["multiclass"])


@pytest.mark.parametrize(
    ("memory", "vectors", "words"),
    [
        ({"solver": "adam"}, 1, "are not the memory of solver 'adam'"),
        ({"solver": None}, 2, "are not the memory of solver None"),
        ({"solver": "adam", "step": -1}, 2, "'step' must be an integer below 2"),
        ({"solver": "adam", "rate": 0}, 2, "'rate' must be a positive finite number"),
        ({"solver": "lion"}, 1, "'solver' must be 'sgd' or 'adam', or nothing"),
    ],
)
def test_a_memory_that_does_not_fit_is_refused(tmp_path, memory, vectors, words):
    path = tmp_path / "m"
    MLPClassifier(**OPTIONS).fit(X, Y["multiclass"]).save(path)
    found = model_file.load(path)
    extra = found.extra | {"memory": found.extra["memory"] | memory}
    more = {f"slot{i}": found.params for i in range(vectors)}
    model_file.save(path, *found[:2], loss=found.loss, extra=extra, vectors=more)
    with pytest.raises(ValueError, match=words):
        MLPClassifier.load(path)
