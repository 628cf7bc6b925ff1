"""The input of the estimators: arrays of every library, validated as by scikit-learn."""

from math import inf, isfinite
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
from sklearn.utils.validation import column_or_1d, validate_data

from nnaccel.devices.device import Device, device_of, dtype_name, dtype_of, to_host
from nnaccel.maths.minibatch import is_sparse
from nnaccel.typing import Array, Namespace

FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
SQUARE = float(np.finfo(np.float32).max) ** 2  # the square of the largest number of float32
TIMES = ("date", "time", "duration")  # prefixes of the names of dtypes of dates and durations


def is_foreign(x: Any) -> bool:
    """Whether x is an array of another library than NumPy."""
    return compat.is_array_api_obj(x) and not compat.is_numpy_array(x)


def on_host(x: Any) -> Any:
    """x unchanged, except that another library's array becomes a NumPy array."""
    return to_host(x) if is_foreign(x) else x


def take(X: Any, rows: np.ndarray) -> Any:
    """The rows of X with those numbers."""
    if not is_foreign(X):
        return X[rows]
    where = device_of(X)
    return where.xp.take(X, where.asarray(rows), axis=0)


def check_X(estimator: Any, X: Any, dtype: Any) -> Any:
    """X for a prediction, validated by scikit-learn, in its own array library.

    dtype: of the prediction, in which the numbers of X must be finite, too.
    """
    if is_valid(estimator, X, dtype):
        return X
    X = validated(estimator, X, reset=False)
    check_cast(X, dtype, type(estimator).__name__)
    return X


def check_X_y(estimator: Any, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
    """X and y validated by scikit-learn. y is moved to the host, where targets are encoded."""
    if not reset and is_valid(estimator, X) and is_valid_target(y, X.shape[0]):
        return X, y
    check_kind("y", y, dates=is_classifier(estimator))
    y, how = on_host(y), {"multi_output": True, "y_numeric": not is_classifier(estimator)}
    if is_foreign(X) and not get_config()["array_api_dispatch"]:
        # An array with as many rows stands in for X, so that scikit-learn checks y.
        X = validated(estimator, X, reset=reset)
        _, y = validation.check_X_y(np.zeros((X.shape[0], 1)), y, estimator=estimator, **how)
    else:
        check_kind("X", X)
        X, y = quiet_validation(estimator, X, y, dtype=kept(X), reset=reset, **how)
    y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
    if not is_classifier(estimator):
        check_numbers(y)
    return in_rows(X), y


def validated(estimator: Any, X: Any, *, reset: bool) -> Any:
    """X validated by scikit-learn, or by the same rules for an array that it cannot read."""
    check_kind("X", X)
    if is_foreign(X) and not get_config()["array_api_dispatch"]:
        check_foreign(X, type(estimator).__name__)
        if not reset and has_its_features(estimator, X):
            return X
        return validate_data(estimator, X, reset=reset, skip_check_array=True)
    return in_rows(quiet_validation(estimator, X, dtype=kept(X), reset=reset))


def quiet_validation(*args: Any, **how: Any) -> Any:
    """A context without warnings of overflow, which scikit-learn's sums of large numbers may give
    before it checks each number."""
    with np.errstate(all="ignore"):
        return validate_data(*args, accept_sparse=["csr", "csc"], **how)


def in_rows(X: Any) -> Any:
    """X, where a sparse matrix is converted to CSR format."""
    return X.tocsr() if hasattr(X, "tocsr") else X


def is_valid(estimator: Any, X: Any, dtype: Any = None) -> bool:
    """Whether X is a NumPy array that validation would return unchanged. Otherwise validation
    decides.

    Validation takes ten times as long, which counts where a single row is predicted.
    """
    if type(X) is not np.ndarray or X.dtype not in FLOATS or X.ndim != 2 or X.shape[0] == 0:
        return False
    if not has_its_features(estimator, X):
        return False
    return is_finite(X, SQUARE if narrows(X, dtype) else inf)


def has_its_features(estimator: Any, X: Array) -> bool:
    """Whether an array has as many columns as the fit, whose columns had no names."""
    return X.shape[1] == estimator.n_features_in_ and not hasattr(estimator, "feature_names_in_")


def is_valid_target(y: Any, N: int) -> bool:
    """Whether validation would return y, numbers (N,) or (N, n_outputs), unchanged."""
    if type(y) is not np.ndarray or y.dtype.kind not in "biuf" or y.shape[:1] != (N,):
        return False
    return (y.ndim == 1 or (y.ndim == 2 and y.shape[1] > 1)) and is_finite(y)


def narrows(x: Array, dtype: Any) -> bool:
    """Whether numbers of x may overflow in a cast to dtype, a floating dtype of any library."""
    if dtype is None or dtype is x.dtype:
        return False
    return str(x.dtype).endswith("float64") and not str(dtype).endswith("float64")


def is_finite(x: np.ndarray, most: float = inf) -> bool:
    """Whether the sum of the squares of x is finite and below `most`. If so, all of x is finite.

    It takes one pass of the BLAS. A sum that is not finite says nothing about x.
    """
    if x.dtype.kind != "f":
        return True
    if x.flags.forc:
        flat = x.ravel(order="K")
        return bool(np.vdot(flat, flat) < most)
    with np.errstate(all="ignore"):
        return bool(np.vecdot(x, x).sum() < most)


def all_finite(x: Array, xp: Namespace) -> bool:
    """Whether all numbers of an array of any library are finite.   xp: its namespace."""
    if type(x) is np.ndarray:
        return is_finite(x) or bool(np.isfinite(x).all())
    with np.errstate(all="ignore"):
        return isfinite(float(to_host(xp.sum(x)))) or bool(xp.all(xp.isfinite(x)))


def check_kind(name: str, x: Any, *, dates: bool = False) -> None:
    """Raises ValueError for data that would become numbers of another meaning, and for an
    unsupported layout.

    dates: whether dates are accepted, as labels.
    """
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(
            f"{name} is a masked array, whose hidden numbers would count like the others; fill "
            f"them, {name}.filled(value), or leave their rows out"
        )
    columns = [x.dtype] if hasattr(x, "dtype") else getattr(x, "dtypes", ())
    if not dates and any(str(dtype).lower().startswith(TIMES) for dtype in columns):
        raise ValueError(
            f"{name} must hold numbers, got dates or durations; count them in a unit, such as the "
            f"days since the first, ({name} - {name}.min()) / np.timedelta64(1, 'D')"
        )
    layout = str(getattr(x, "layout", "")) if compat.is_torch_array(x) else "torch.strided"
    if layout != "torch.strided":
        raise ValueError(
            f"{name} must be a dense tensor or a sparse matrix of SciPy, got a tensor with layout "
            f"{layout}; use {name}.to_dense() or scipy.sparse.csr_array"
        )


def check_numbers(y: Any) -> None:
    """Raises ValueError unless the validated y holds finite numbers, the targets of a regressor."""
    if is_sparse(y) or not hasattr(y, "dtype") or y.dtype.kind not in "biuf":
        kind = type(y).__name__ if is_sparse(y) else f"dtype {y.dtype}"
        raise ValueError(
            f"y must be a dense array of numbers, got {kind}; use y.toarray() of a sparse matrix, "
            "or MLPClassifier for labels"
        )
    if not all_finite(y, np):  # objects are numbers only after a conversion
        raise ValueError("Input y contains NaN or infinity.")


def check_cast(X: Any, dtype: Any, name: str) -> None:
    """Raises ValueError for finite numbers of X that dtype cannot hold."""
    values = X.data if is_sparse(X) else X
    if not narrows(values, dtype):
        return
    xp = device_of(values).xp
    with np.errstate(over="ignore"):
        narrow = xp.astype(values, xp.float32)
    if not all_finite(narrow, xp):
        raise ValueError(
            "Input X contains infinity or a value too large for dtype('float32'), in which this "
            f"{name} computes; scale X, or fit with dtype='float64'"
        )


def check_outputs(found: Array, xp: Namespace, name: str) -> None:
    """Raises ValueError that names the first row of the outputs (N, ...) of a network that is not
    finite."""
    if all_finite(found, xp):
        return
    finite = np.isfinite(to_host(found)).reshape(found.shape[0], -1).all(axis=1)
    dtype, remedy = dtype_name(found), "scale X as it was for fit"
    if dtype != "float64":
        remedy += ", or fit with dtype='float64'"
    raise ValueError(
        f"Row {int(np.argmin(finite))} of X gives {name} outputs that are not finite in {dtype}: "
        f"its numbers are too large for the network; {remedy}"
    )


def check_foreign(X: Array, name: str) -> None:
    """Checks X like scikit-learn, for an array that it cannot read without array API dispatch."""
    xp = device_of(X).xp
    check_real(X, xp)
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
    if xp.isdtype(X.dtype, "real floating") and not all_finite(X, xp):
        raise ValueError(f"Input X contains NaN or infinity. {name} does not accept missing values")


def check_real(X: Array, xp: Namespace) -> None:
    """Raises ValueError for complex numbers."""
    if xp.isdtype(X.dtype, "complex floating"):
        raise ValueError("Complex data not supported: X must hold real numbers")


def kept(X: Any) -> list[Any]:
    """The dtypes that validation keeps; every other dtype becomes the first of them.

    Integers stay integers in memory, and become floating a minibatch at a time.
    """
    if not is_foreign(X):
        return [np.float64, np.float32, *(getattr(np, n) for n in INTEGERS[:-1]), np.bool_]
    where = device_of(X)
    check_real(X, where.xp)
    names = (*dict.fromkeys((float_dtype(where), "float32")), *INTEGERS)
    return [getattr(where.xp, name) for name in names if hasattr(where.xp, name)]


def float_dtype(where: Device) -> str:
    """float64, or float32 where the device has no float64."""
    try:
        dtype_of(where, "float64")
    except ValueError:
        return "float32"
    return "float64"
