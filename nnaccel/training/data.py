"""Examples: checked against a network and its loss, put where they are to live, and weighted."""

from collections.abc import Mapping
from math import prod
from string import ascii_letters
from typing import Any, NamedTuple

import array_api_compat as compat
import numpy as np

from nnaccel.devices.device import Device, device_of, dtype_of, select, to_host
from nnaccel.maths.losses import Loss
from nnaccel.maths.minibatch import is_sparse
from nnaccel.maths.network import Network
from nnaccel.typing import Array


class Data(NamedTuple):
    """Examples on a device: inputs X (N, D), targets Y, and weights (N,) of mean 1 or None."""

    X: Array
    Y: Array
    weights: Array | None = None


class HostData(NamedTuple):
    """The same on the host, as NumPy arrays, or with X a CSR matrix of SciPy or CuPy.

    The rows reach a device a chunk at a time, as `Data`; see `nnaccel.training.streaming`.
    """

    X: Any
    Y: np.ndarray
    weights: np.ndarray | None = None


RESIDENT = 0.6  # of a device's free memory: what a data set may take to live there


def put(
    network: Network,
    loss: Loss,
    where: Device,
    dtype: str,
    X: Any,
    Y: Any,
    weights: Any = None,
) -> Data | HostData:
    """Examples checked against a network and its loss, and put where they are to live.

    That is the device, unless they are sparse or take more than `RESIDENT` of its free memory.
    Integer X and classes stay integers; other targets become (N, K) of `dtype`, weights are
    brought to mean 1. ValueError that names the array, what was expected and what came.
    """
    dtype_of(where, dtype)  # that there is one of that name
    X, Y = (x if is_sparse(x) or compat.is_array_api_obj(x) else to_host(x) for x in (X, Y))
    if X.ndim != 2 or X.shape[1] != network.n_inputs:
        raise ValueError(
            f"X must be (n_samples, {network.n_inputs}) for this network, got shape "
            f"{tuple(X.shape)}" + ("; for one sample use X[None, :]" if X.ndim == 1 else "")
        )
    if X.shape[0] == 0:
        raise ValueError("X has no rows; at least one example is needed")
    resident = not is_sparse(X) and _fits(where, dtype, X, Y)
    home = where if resident else select("cpu")
    if not is_sparse(X):
        X = home.in_rows(home.asarray(X, None if _is_integral(X) else dtype))
    elif X.dtype.kind == "f":
        X = X.astype(dtype)
    Y = home.in_rows(_targets(network, loss, home, dtype, home.asarray(Y)))
    _same_length("Y", Y, X)
    if weights is not None:
        weights = home.asarray(weights, dtype)
        if weights.ndim != 1:
            raise ValueError(
                f"sample_weight must be (n_samples,), got shape {tuple(weights.shape)}"
            )
        _same_length("sample_weight", weights, X)
        host = to_host(weights)
        if not (np.isfinite(host).all() and (host >= 0).all() and host.any()):
            raise ValueError("sample_weight must be finite, not negative, and not all zero")
        weights = weights / float(host.mean(dtype=np.float64))
    return Data(X, Y, weights) if resident else HostData(X, Y, weights)


def _fits(where: Device, dtype: str, X: Array, Y: Array) -> bool:
    """Whether the examples may live on the device; what is there already stays."""
    free = where.memory_free()
    if free is None or where.holds(X):
        return True
    return sum(nbytes(x, dtype) for x in (X, Y)) < RESIDENT * free


def nbytes(x: Array, dtype: str) -> int:
    """The bytes of an array whose integers stay what they are, and all else becomes `dtype`."""
    each = getattr(x.dtype, "itemsize", 8) if _is_integral(x) else itemsize(dtype)
    return prod(x.shape) * each


def itemsize(dtype: str) -> int:
    """The bytes of a number, of which the name of its dtype ends in the bits: "float32"."""
    return int(dtype.lstrip(ascii_letters)) // 8


def _is_integral(x: Array) -> bool:
    return device_of(x).xp.isdtype(x.dtype, ("integral", "bool"))


def _targets(network: Network, loss: Loss, where: Device, dtype: str, Y: Array) -> Array:
    K = network.n_outputs
    if loss.targets.kind == "classes" and Y.ndim == 1:
        if not where.xp.isdtype(Y.dtype, "integral"):
            raise ValueError(
                f"Y must hold integer classes or be (n_samples, {K}) probabilities for "
                f"{loss.name!r}, got shape {tuple(Y.shape)} of {Y.dtype}"
            )
        host = to_host(Y)
        if host.size and not 0 <= host.min() <= host.max() < K:
            raise ValueError(
                f"Y must hold classes from 0 to {K - 1}, one for each output of the network, got "
                f"{host.min()} to {host.max()}"
            )
        return Y
    if Y.ndim == 1:
        Y = where.xp.reshape(Y, (-1, 1))
    columns = {1, K} if loss.targets.broadcast else {K}
    if Y.ndim != 2 or Y.shape[1] not in columns:
        raise ValueError(
            f"Y must be (n_samples, {K}), one column for each output of the network, got shape "
            f"{tuple(Y.shape)}"
        )
    return where.asarray(Y, dtype)


def _same_length(name: str, array: Array, X: Array) -> None:
    if array.shape[0] != X.shape[0]:
        raise ValueError(
            f"{name} must have as many rows as X, got {array.shape[0]} for {X.shape[0]}"
        )


def floating_dtype(X: Any) -> str:
    """float64 if X is, else float32."""
    return "float64" if str(getattr(X, "dtype", "")).endswith("float64") else "float32"


def rows_of(X: Any, rows: slice, where: Device, dtype: Any) -> Array:
    """Rows of an array of any library, or of a CSR matrix, dense and as `dtype` on a device."""
    part = where.asarray(X[rows].toarray() if is_sparse(X) else X[rows, ...])
    return part if part.dtype == dtype else where.xp.astype(part, dtype)


def class_weights(Y: Any, weighting: str | Mapping[int, float]) -> np.ndarray:
    """Sample weights (N,) from weights of the classes 0 ... K-1 in Y.

    "balanced" gives class k the weight N / (K N_k), so that all classes count alike; a mapping
    names some, the others count 1. ValueError for anything else, or a class that is not there.
    """
    Y = to_host(Y)
    counts = np.bincount(Y)
    if isinstance(weighting, Mapping):
        unknown = [k for k in weighting if k not in range(len(counts)) or not counts[k]]
        if unknown:
            raise ValueError(f"class_weight names classes that are not in Y: {unknown}")
        table = np.array([float(weighting.get(k, 1.0)) for k in range(len(counts))])
    elif weighting == "balanced":
        table = len(Y) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        raise ValueError(f"class_weight must be 'balanced' or a mapping, got {weighting!r}")
    return table[Y]
