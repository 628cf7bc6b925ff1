"""Examples: checked against a network and its loss, moved to their device, and weighted."""

from collections.abc import Mapping
from math import prod
from string import ascii_letters
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device, dtype_name, dtype_of, integer_name, select, to_host
from nnaccel.devices.processes import odd_process, of_all_processes
from nnaccel.maths.losses import Loss
from nnaccel.maths.minibatch import is_sparse
from nnaccel.maths.network import Network
from nnaccel.training.array_checks import check_all_finite, check_width, real_array
from nnaccel.training.targets import put_targets
from nnaccel.typing import Array


class Data(NamedTuple):
    """Examples on a device: inputs X (N, D), targets Y, and weights (N,) of mean 1 or None.

    weights are (N, K) if each of K networks has its own.
    """

    X: Array
    Y: Array
    weights: Array | None = None


class HostData(NamedTuple):
    """Examples on the host, as NumPy arrays, or with X a CSR matrix of SciPy or CuPy.

    The rows reach a device a chunk at a time, as `Data`; see `nnaccel.training.streaming`.
    """

    X: Any
    Y: np.ndarray
    weights: np.ndarray | None = None


RESIDENT = 0.6  # the largest share of a device's free memory for a data set that stays there
MIB = 2**20


def put(
    network: Network,
    loss: Loss,
    where: Device,
    dtype: str,
    X: Any,
    Y: Any,
    weights: Any = None,
) -> Data | HostData:
    """Checks examples against a network and its loss, and moves them to the device.

    They stay on the host unless they are resident (`is_resident`).   Integer X and classes stay
    integers; other targets become (N, K) of `dtype`; weights are divided by their mean. Raises
    ValueError or TypeError, with the name of the array, the expected and the given value, for a
    wrong kind or shape, numbers that are not finite, and targets out of the range of the loss.
    """
    dtype_of(where, dtype)  # raises for an unknown name
    X, Y = real_array("X", X), real_array("Y", Y)
    check_width(network, X)
    if X.shape[0] == 0:
        raise ValueError("X has no rows; at least one example is needed")
    if Y.ndim:  # a scalar has a wrong shape, which is reported later
        _same_length("Y", Y, X)
    if where.is_joined:
        _check_same(X, Y, weights)
    resident = is_resident(where, dtype, X, Y)
    home = where if resident else select("cpu")
    # An overflow in a cast is reported with its position.
    with home.context(), np.errstate(all="ignore"):
        Y = home.in_rows(put_targets(network, loss, home, dtype, Y))
        if weights is not None:
            weights = home.asarray(_of_mean_one(weights, X), dtype)
        X = _put_inputs(X, where, home, dtype)
    return Data(X, Y, weights) if resident else HostData(X, Y, weights)


def put_held_out(
    network: Network, loss: Loss, where: Device, dtype: str, validation_data: Any
) -> Data | HostData | None:
    """Checks and moves validation data, (X, Y) or (X, Y, sample_weight). Errors call them
    validation data."""
    if validation_data is None:
        return None
    try:
        if getattr(validation_data[0], "ndim", 2) == 3:
            return put_of_members(network, loss, where, dtype, *validation_data)
        return put(network, loss, where, dtype, *validation_data)
    except (ValueError, TypeError) as error:
        raise type(error)(f"validation_data: {error}") from None


def put_of_members(
    network: Network, loss: Loss, where: Device, dtype: str, X: Any, Y: Any, weights: Any = None
) -> Data:
    """`Data` of K networks, each with its own examples: X (K, n, D), Y (K, n, ...) and weights (K,
    n), which are divided by the mean of each network."""
    for name, array in (("Y", Y), ("sample_weight", weights)):
        if array is not None and tuple(array.shape[:2]) != tuple(X.shape[:2]):
            raise ValueError(
                f"{name} must begin with the axes {tuple(X.shape[:2])} of networks and examples "
                f"that X has, got shape {tuple(array.shape)}"
            )
    each = []
    for k in range(len(X)):
        own = None if weights is None else weights[k]
        data = put(network, loss, where, dtype, X[k], Y[k], own)
        if not isinstance(data, Data):
            raise ValueError("X of several networks must fit into the memory of the device")
        each.append(data)
    with where.context():
        columns = zip(*each, strict=True)
        return Data(*(None if c[0] is None else where.xp.stack(list(c)) for c in columns))


def _put_inputs(X: Any, where: Device, home: Device, dtype: str) -> Any:
    """X in the dtype of its storage: integers that the device can hold keep their type, other
    numbers become `dtype`."""
    if is_sparse(X):
        kept = X.dtype.kind in "biu" and where.keeps(X.data)
        placed = X if kept or X.dtype == dtype else X.astype(dtype)
    else:
        kept = _is_integral(X) and where.keeps(X)
        placed = home.in_rows(home.asarray(X, None if kept else dtype))
    if not kept:
        check_all_finite("X", placed, X, home)
    return placed


def _of_mean_one(weights: Any, X: Any) -> np.ndarray:
    """Sample weights divided by their mean, float64 on the host: (N,), or (N, K) from the weights
    (K, N) of K networks.

    A weight that underflows in `dtype` becomes 0.
    """
    weights = to_host(real_array("sample_weight", weights)).astype(np.float64)
    if weights.ndim == 2 and len(weights) and weights.shape[1] == X.shape[0]:  # one row per network
        return np.stack([_of_mean_one(w, X) for w in weights], axis=1)
    if weights.ndim != 1:
        raise ValueError(
            "sample_weight must be (n_samples,), or (K, n_samples) for K networks, got shape "
            f"{tuple(weights.shape)}"
        )
    _same_length("sample_weight", weights, X)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any() or not weights.any():
        row = int(wrong.argmax())
        found = f"{weights[row]:g} in row {row} (from 0)" if wrong.any() else "zeros only"
        raise ValueError(
            f"sample_weight must be finite, not negative, and not all zero, got {found}"
        )
    return mean_one(weights)[0]


def mean_one(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (N,) divided by their mean, and the mean; neither overflows.

    Not checked: that they are finite, not negative and not all zero.
    """
    largest = float(weights.max())
    shares = weights / largest  # at most 1, so neither they nor their sum overflow
    mean = float(shares.mean())
    return shares / mean, largest * mean


def is_resident(where: Device, dtype: str, X: Any, Y: Any) -> bool:
    """Whether examples live on the device, on each of several: where they take less than `RESIDENT`
    of its free memory, and where they are there already. All processes give the same answer."""
    if is_sparse(X):
        return False
    free = where.memory_free()
    if free is None or where.holds(X):
        return True
    if where.is_joined:
        free = MIB * int(of_all_processes([free // MIB]).min())
    return sum(nbytes(x, dtype) for x in (X, Y)) < RESIDENT * free


def _check_same(X: Any, Y: Any, weights: Any) -> None:
    """ValueError unless all processes have the same examples."""
    arrays = (X.data, X.indices, X.indptr) if is_sparse(X) else (X,)
    arrays = [to_host(array) for array in (*arrays, Y, *(() if weights is None else (weights,)))]
    odd = odd_process(np.ascontiguousarray(array).view(np.uint8).data for array in arrays)
    if odd is not None:
        raise ValueError(
            f"X, Y and sample_weight must be the same in all processes, and process {odd} has "
            "others than process 0"
        )


def nbytes(x: Array, dtype: str) -> int:
    """The size of an array in bytes after the cast to `dtype`; integers keep their type."""
    each = getattr(x.dtype, "itemsize", 8) if _is_integral(x) else itemsize(dtype)
    return prod(x.shape) * each


def itemsize(dtype: str) -> int:
    """The size of a number in bytes, by the bits at the end of the dtype's name: "float32"."""
    return int(dtype.lstrip(ascii_letters)) // 8


def _is_integral(x: Array) -> bool:
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "biu"
    return integer_name(x) is not None or dtype_name(x) == "bool"


def _same_length(name: str, array: Array, X: Array) -> None:
    if array.shape[0] != X.shape[0]:
        raise ValueError(
            f"{name} must have as many rows as X, got {array.shape[0]} for {X.shape[0]}"
        )


def floating_dtype(X: Any) -> str:
    """float64 if X is, else float32."""
    return "float64" if str(getattr(X, "dtype", "")).endswith("float64") else "float32"


def rows_of(X: Any, rows: slice, where: Device, dtype: Any) -> Array:
    """Rows of an array of any library, or of a CSR matrix, as a dense array of `dtype` on a
    device."""
    part = X[rows].toarray() if is_sparse(X) else X[rows, ...]
    part = where.asarray(part, None if where.keeps(part) else str(dtype).rpartition(".")[2])
    return part if part.dtype == dtype else where.xp.astype(part, dtype)


def class_weights(Y: Any, weighting: str | Mapping[int, float]) -> np.ndarray:
    """Sample weights (N,) from weights of the classes 0 ... K-1 in Y (N,).

    "balanced" gives class k the weight N / (K N_k), so that all classes count equally. A mapping
    gives the weights of some classes; the others have weight 1. Raises ValueError for other values,
    for a class that does not occur, and for weights that are not finite, negative, or all zero.
    """
    Y = to_host(real_array("Y", Y))
    if Y.ndim != 1 or integer_name(Y) is None:
        raise ValueError(f"Y must hold integer classes (N,), got shape {Y.shape} of {Y.dtype}")
    classes, places, counts = np.unique(Y, return_inverse=True, return_counts=True)
    if isinstance(weighting, Mapping):
        unknown = [k for k in weighting if k not in classes.tolist()]
        if unknown:
            raise ValueError(f"class_weight names classes that are not in Y: {unknown}")
        table = np.array([float(weighting.get(k, 1.0)) for k in classes.tolist()])
        for k, weight in zip(classes, table, strict=True):
            if not 0 <= weight < np.inf:
                raise ValueError(
                    f"class_weight must be finite and not negative, got {weight:g} for class {k}"
                )
        if not table.any():
            raise ValueError("class_weight must not be 0 for all classes; no example would count")
    elif weighting == "balanced":
        table = len(Y) / (len(classes) * counts)
    else:
        raise ValueError(f"class_weight must be 'balanced' or a mapping, got {weighting!r}")
    return table[places]
