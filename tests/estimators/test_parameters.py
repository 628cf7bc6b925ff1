"""Parameters out of range are refused before anything is read, with scikit-learn's error."""

import inspect

import numpy as np
import pytest
from sklearn import neural_network as sk
from sklearn.datasets import load_iris
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import check_param_validation

from nnaccel import MLPClassifier, MLPRegressor
from nnaccel.maths.losses import LOSSES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
PAIRS = [(MLPClassifier, sk.MLPClassifier), (MLPRegressor, sk.MLPRegressor)]
OPTIONS = {"max_iter": 3, "random_state": 0}

CANDIDATES = [
    *(-1, 0, 1, 2, True, np.True_, np.int64(3), np.int64(0), np.uint8(7)),
    *(-0.5, 0.0, 0.5, 1.0, 2.5, np.float32(0.5), np.float64(1.0), np.nan, np.inf, -np.inf, 1j),
    *("relu", "adam", "auto", "constant", "squared_error", "nonsense", "", b"relu"),
    *(None, [], (3,), [3.5], {}, {1: 2.0}, set(), object(), np.ones(2), len),
]

# What ours may be beside scikit-learn's values: kinds of values by the name of the parameter.
MORE = {"activation": (list, tuple), "learning_rate": type(len)}

# Of the parameters that are ours: what is refused, and what is not.
NEITHER = [-1, 1.5, "nonsense", object(), np.nan]
OWN = {
    "device": ([3, True, ["cpu"], object()], [None, "cpu", "auto"]),
    "dtype": (["float16", np.float32, 32], [None, "float32", "float64"]),
    "precision": (["float16", None, 32], ["float32", "tf32", "bf16"]),
    "kernels": (["numba", None, 2, "True"], [True, False, "numpy", np.True_]),
    "dropout": ([*NEITHER, 1.0, None], [0, 0.0, 0.99, np.float32(0.5)]),
    "weight_decay": ([-1, "nonsense", None, np.nan, np.inf], [0, 0.1, 5, np.float64(1)]),
    "clip_norm": ([-1, 0, 0.0, "nonsense", np.nan, np.inf], [None, 1, 0.5, np.float32(2)]),
    "initializer": (["nonsense", 3, True], [None, "auto", "he_normal"]),
    "callbacks": ([3, "nonsense", {}], [None, [], (), [len], len]),
    "scoring": ([3, "nonsense", {}, []], [None, "loss", "roc_auc", "r2", len]),
}
OWN_OF = {
    MLPClassifier: {
        "class_weight": (["nonsense", 3, [1.0]], [None, "balanced", {0: 1.0}]),
        "label_smoothing": ([*NEITHER, 1.0, None], [0, 0.0, 0.5, np.float32(0.1)]),
        "loss": ([3, "huber", None, len], ["log_loss", LOSSES["binary_cross_entropy"]]),
    },
    MLPRegressor: {
        "delta": ([-1, 0, "nonsense", None, np.nan, np.inf], [1, 0.5, np.float32(2)]),
        "quantile": ([*NEITHER, 0, 0.0, 1, 1.0, None], [0.5, np.float32(0.25), (0.1, 0.9), [0.5]]),
    },
}


def refuses(cls, name, value):
    """Whether the class refuses the value with an error that names the parameter and itself."""
    try:
        cls(**{name: value})._validate_params()
    except InvalidParameterError as error:
        return str(error).startswith(f"The {name!r} parameter of {cls.__name__} must be ")
    return False


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_what_scikit_learn_refuses_is_refused_and_nothing_else(ours, theirs):
    for name in inspect.signature(theirs).parameters:
        expected = [refuses(theirs, name, value) for value in CANDIDATES]
        assert sum(expected) > 5
        for value, refused in zip(CANDIDATES, expected, strict=True):
            more = isinstance(value, MORE.get(name, ()))
            assert refuses(ours, name, value) == (refused and not more), (name, value)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_parameters_of_ours_have_ranges_too(ours, theirs):
    table = OWN | OWN_OF[ours]
    signatures = (inspect.signature(cls).parameters.keys() for cls in (ours, theirs))
    assert table.keys() == set.difference(*map(set, signatures))
    for name, (wrong, right) in table.items():
        assert [value for value in wrong if not refuses(ours, name, value)] == []
        assert [value for value in right if refuses(ours, name, value)] == []


@pytest.mark.parametrize(("ours", "_"), PAIRS)
def test_scikit_learns_own_check_of_all_parameters(ours, _):
    check_param_validation(ours.__name__, ours(max_iter=1))


@pytest.mark.parametrize(("ours", "_"), PAIRS)
def test_they_are_refused_before_X_is_read(ours, _):
    for options in ({"beta_1": 1.0}, {"momentum": 2}, {"max_iter": 2.5}, {"dropout": 1.0}):
        for method in ("fit", "partial_fit"):
            with pytest.raises(InvalidParameterError, match=f"The {next(iter(options))!r} param"):
                getattr(ours(**options), method)("no array", None)


@pytest.mark.parametrize(
    "sizes", [(2.5,), (3.0, 2), ["a"], "12", [[3, 2]], np.array([3.0]), (None,), {"a": 2}]
)
def test_units_are_whole_numbers(sizes):
    with pytest.raises(ValueError, match="hidden_layer_sizes.* must be"):
        MLPClassifier(sizes, **OPTIONS).fit(X, Y)


ENDS = {
    "beta_1": {"beta_1": 0.0, "epsilon": 1e-300},
    "beta_2": {"beta_2": 0},
    "betas": {"beta_1": 0, "beta_2": 0.0},
    "no momentum": {"solver": "sgd", "momentum": 0},
    "all momentum": {"solver": "sgd", "momentum": 1, "nesterovs_momentum": False},
    "alpha": {"alpha": 0, "solver": "sgd"},
    "power": {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0},
    "tolerance": {"solver": "sgd", "tol": 0, "n_iter_no_change": 1},
    "one iteration": {"solver": "lbfgs", "max_iter": 1},
    "one evaluation": {"solver": "lbfgs", "max_fun": 1},
}


@pytest.mark.parametrize("options", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_the_ends_of_the_ranges_mean_what_they_mean_to_scikit_learn(ours, theirs, options):
    options = OPTIONS | {"shuffle": False, "batch_size": 150, "max_iter": 8} | options
    a, b = (cls(**options).fit(X, Y) for cls in (theirs, ours))
    assert b.loss_ == pytest.approx(a.loss_, rel=1e-6)


@pytest.mark.parametrize("device", ["cpu", "torch", "jax:cpu"])
def test_numbers_of_numpy_are_numbers_of_python(device):
    pytest.importorskip({"cpu": "numpy"}.get(device, device.partition(":")[0]))
    plain = {"hidden_layer_sizes": (4, 3), "batch_size": 40, "max_iter": 3, "n_iter_no_change": 2,
             "alpha": 0.25, "learning_rate_init": 0.125, "dropout": 0.5, "clip_norm": 1.5,
             "weight_decay": 0.25, "label_smoothing": 0.125, "beta_1": 0.75, "beta_2": 0.875,
             "tol": 0.5, "early_stopping": True, "validation_fraction": 0.25, "shuffle": False,
             "random_state": 3, "verbose": False, "device": device}  # fmt: skip
    kinds = {float: np.float32, int: np.int16, bool: np.bool_, str: str, tuple: np.array}
    of_numpy = {name: kinds[type(value)](value) for name, value in plain.items()}
    of_numpy["verbose"] = 0
    a, b = (MLPClassifier(**options).fit(X, Y) for options in (plain, of_numpy))
    assert a.validation_scores_ == b.validation_scores_
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_batch_larger_than_the_data_is_clipped_and_said_so(ours, theirs, method):
    text = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
    y = Y * 1.0 if ours is MLPRegressor else Y
    how = {"classes": [0, 1, 2]} if (ours, method) == (MLPClassifier, "partial_fit") else {}
    for cls in (theirs, ours):
        with pytest.warns(UserWarning, match="clipped") as caught:
            found = getattr(cls(batch_size=1000, **OPTIONS), method)(X, y, **how)
        assert [str(w.message) for w in caught if w.category is UserWarning] == [text]
        whole = getattr(cls(batch_size=150, **OPTIONS), method)(X, y, **how)
        np.testing.assert_array_equal(found.coefs_[0], whole.coefs_[0])
