"""What the estimators are given: arrays of every library, as scikit-learn validates them."""

from collections.abc import Callable
from typing import Any

import array_api_compat as compat
import numpy as np

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "sklearn":
        raise
    raise ImportError(
        "MLPClassifier and MLPRegressor need scikit-learn, which is not installed; "
        "run: python -m pip install 'nnaccel[sklearn]'"
    ) from None

from sklearn import get_config
from sklearn.base import is_classifier
from sklearn.utils import validation
from sklearn.utils.validation import _check_sample_weight, column_or_1d, validate_data

from nnaccel.devices.device import Device, device_of, dtype_of, to_host
from nnaccel.maths.optimizers import State
from nnaccel.typing import Array

FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


def is_foreign(x: Any) -> bool:
    """Whether x is an array of another library than NumPy."""
    return compat.is_array_api_obj(x) and not compat.is_numpy_array(x)


def on_host(x: Any) -> Any:
    """x as it is, but for another library's array, which becomes NumPy's."""
    return to_host(x) if is_foreign(x) else x


def moved(value: Any, move: Callable[[Any], Array]) -> Any:
    """The arrays of nested tuples and lists moved; text stays with NumPy, which alone holds it."""
    if isinstance(value, State):
        return State(move(value.step), moved(value.slots, move))
    if isinstance(value, list | tuple):
        return type(value)(moved(member, move) for member in value)
    if not compat.is_array_api_obj(value):
        return value
    is_text = compat.is_numpy_array(value) and value.dtype.kind in "OSU"
    return value if is_text else move(value)


def take(X: Any, rows: np.ndarray) -> Any:
    """The rows of X with those numbers."""
    if not is_foreign(X):
        return X[rows]
    where = device_of(X)
    return where.xp.take(X, where.asarray(rows), axis=0)


def check_X(estimator: Any, X: Any, *, reset: bool) -> Any:
    """X validated by scikit-learn, in the library it came in."""
    if not reset and is_valid(estimator, X):
        return X
    if is_foreign(X) and not get_config()["array_api_dispatch"]:
        check_foreign(X, type(estimator).__name__)
        return validate_data(estimator, X, reset=reset, skip_check_array=True)
    X = validate_data(estimator, X, accept_sparse=["csr", "csc"], dtype=kept(X), reset=reset)
    return X.tocsr() if hasattr(X, "tocsr") else X


def check_X_y(estimator: Any, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
    """X and y validated by scikit-learn; y comes to the host, where targets are encoded."""
    if not reset and is_valid(estimator, X) and is_valid_target(y, X.shape[0]):
        return X, y
    y, how = on_host(y), {"multi_output": True, "y_numeric": not is_classifier(estimator)}
    if is_foreign(X) and not get_config()["array_api_dispatch"]:
        check_foreign(X, type(estimator).__name__)
        # As many rows stand in for X, so that y is checked as it always is.
        rows = np.zeros((X.shape[0], 1))
        _, y = validation.check_X_y(rows, y, estimator=estimator, **how)
        X = validate_data(estimator, X, reset=reset, skip_check_array=True)
    else:
        sparse = ["csr", "csc"]
        X, y = validate_data(
            estimator, X, y, accept_sparse=sparse, dtype=kept(X), reset=reset, **how
        )
    y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
    return (X.tocsr() if hasattr(X, "tocsr") else X), y


def is_valid(estimator: Any, X: Any) -> bool:
    """Whether X is a NumPy array that validation would return as it is; for others it decides.

    Validation takes ten times as long, which counts where a single row is predicted.
    """
    if type(X) is not np.ndarray or X.dtype not in FLOATS or X.ndim != 2 or X.shape[0] == 0:
        return False
    if X.shape[1] != estimator.n_features_in_ or hasattr(estimator, "feature_names_in_"):
        return False
    return is_finite(X)


def is_valid_target(y: Any, N: int) -> bool:
    """The same for the numbers y, (N,) or of several outputs."""
    if type(y) is not np.ndarray or y.dtype.kind not in "biuf" or y.shape[:1] != (N,):
        return False
    return (y.ndim == 1 or (y.ndim == 2 and y.shape[1] > 1)) and is_finite(y)


def is_finite(x: np.ndarray) -> bool:
    """Whether the sum of x is: if so, all of x is."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(x.sum()))


def check_foreign(X: Array, name: str) -> None:
    """What scikit-learn checks of X, for an array that it cannot read without dispatch."""
    kept(X)
    if X.ndim != 2:
        raise ValueError(
            f"X must be 2-D (n_samples, n_features), got shape {tuple(X.shape)}; for one sample "
            "use X[None, :]"
        )
    if 0 in X.shape:
        raise ValueError(
            f"Found array with {X.shape[0]} sample(s) and {X.shape[1]} feature(s) while a minimum "
            f"of 1 is required by {name}."
        )
    xp = device_of(X).xp
    if xp.isdtype(X.dtype, "real floating") and not bool(xp.all(xp.isfinite(X))):
        raise ValueError(f"Input X contains NaN or infinity. {name} does not accept missing values")


def codes_of(y: Any, classes: np.ndarray) -> np.ndarray | None:
    """The number of the class of each y (N,); None where scikit-learn has to look at y."""
    if type(y) is not np.ndarray or y.ndim != 1 or y.dtype != classes.dtype:
        return None
    if y.dtype.kind not in "biuU":
        return None
    codes = np.minimum(classes.searchsorted(y), len(classes) - 1)
    return codes if (classes[codes] == y).all() else None


def check_weights(sample_weight: Any, X: Any) -> np.ndarray | None:
    """Sample weights as scikit-learn validates them, float64 on the host."""
    if sample_weight is None:
        return None
    rows = np.zeros((X.shape[0], 1))
    weights = _check_sample_weight(on_host(sample_weight), rows, ensure_non_negative=True)
    if not weights.any():
        raise ValueError("sample_weight must not be all zero; no example would count")
    return weights.astype(np.float64)


def kept(X: Any) -> list[Any]:
    """The dtypes that validation leaves as they are; every other one becomes the first.

    Integers stay what they are in memory, and become floating a batch at a time.
    """
    if not is_foreign(X):
        return [np.float64, np.float32, *(getattr(np, n) for n in INTEGERS[:-1]), np.bool_]
    where = device_of(X)
    if where.xp.isdtype(X.dtype, "complex floating"):
        raise ValueError("Complex data not supported: X must hold real numbers")
    names = (*dict.fromkeys((float_dtype(where), "float32")), *INTEGERS)
    return [getattr(where.xp, name) for name in names if hasattr(where.xp, name)]


def float_dtype(where: Device) -> str:
    """float64, or float32 where the device has nothing longer."""
    try:
        dtype_of(where, "float64")
    except ValueError:
        return "float32"
    return "float64"
