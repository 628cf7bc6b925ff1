"""Checks of the user's arrays: real numbers, the network's width, finite values."""

import math
from contextlib import suppress
from numbers import Real
from typing import Any, NoReturn

import array_api_compat as compat
import numpy as np

from nnaccel.devices.device import INTEGERS, Device, dtype_name, to_host
from nnaccel.maths.minibatch import bounds, is_sparse
from nnaccel.maths.network import Network
from nnaccel.typing import Array, Namespace

REAL = {"bool", *INTEGERS, "bfloat16", "float16", "float32", "float64"}  # longer are NumPy only
NUMBERS = "biuf"  # the kinds of NumPy's dtypes that are real numbers

# The other kinds: their names, and advice what to give instead.
OTHERS = {
    "c": ("complex numbers", "give {name}.real and {name}.imag as columns of their own"),
    "M": ("dates", "count from one: ({name} - {name}.min()) / numpy.timedelta64(1, 'D')"),
    "m": ("durations", "count in a unit: {name} / numpy.timedelta64(1, 's')"),
    "U": (
        "text",
        "encode categories; numpy.asarray({name}, dtype=float) reads text that spells numbers",
    ),
    "O": ("objects", "use numpy.asarray({name}, dtype=float) if they are numbers"),
    "V": ("records", "use numpy.lib.recfunctions.structured_to_unstructured({name})"),
}
OTHERS["S"] = OTHERS["T"] = OTHERS["U"]

PART = 2**30  # numbers in a sum: the BLAS of a GPU counts to 2^31


def real_array(name: str, x: Any) -> Any:
    """x as an array of its library with real numbers; a sparse X in CSR format.

    Lists and tables become NumPy arrays, and so do arrays of objects that are all numbers. Raises
    TypeError, with advice, for other kinds and for masked arrays.
    """
    if type(x) is np.ndarray and x.dtype.kind in NUMBERS:
        return x
    if hasattr(x, "tocsr"):
        return _csr(name, x)
    if compat.is_array_api_obj(x) and not compat.is_numpy_array(x):
        if (kind := dtype_name(x)) not in REAL:
            _refuse(name, kind, "c" if "complex" in kind else "")
        if "sparse" in str(getattr(x, "layout", "")):  # PyTorch's
            raise TypeError(f"{name} must be dense, got a sparse tensor; use {name}.to_dense()")
        return x
    if np.ma.is_masked(x):
        raise TypeError(
            f"{name} has masked values, which training would take for numbers; fill them, as by "
            f"{name}.filled({name}.mean(axis=0)), or leave out the rows"
        )
    try:
        return _real_numpy(name, to_host(x))
    except ValueError as error:  # of lists whose rows differ in length
        raise ValueError(f"{name} must be an array of numbers, got: {error}") from None


def _real_numpy(name: str, x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "O":
        with suppress(ValueError):
            x = np.asarray(x.tolist())  # so that NumPy finds the common type of the objects
        if x.dtype.kind == "O":
            other = next((v for v in x.flat if not isinstance(v, Real | np.bool_)), x.flat[0])
            _refuse(name, f"such as {str(other)[:40]!r}, of type {type(other).__name__}", "O")
    if x.dtype.kind not in NUMBERS and x.dtype.name not in REAL:
        _refuse(name, x.dtype, x.dtype.kind)
    return np.asarray(x)


def _csr(name: str, x: Any) -> Any:
    if name != "X":
        raise TypeError(f"{name} must be dense, got {type(x).__name__}; use {name}.toarray()")
    if x.dtype.kind not in NUMBERS:
        _refuse(name, x.dtype, x.dtype.kind)
    return x if is_sparse(x) else x.tocsr()


def _refuse(name: str, found: Any, kind: str) -> NoReturn:
    what, remedy = OTHERS.get(kind, ("this dtype", "use float32"))
    raise TypeError(
        f"{name} must hold real numbers, got {what} ({found}); {remedy.format(name=name)}"
    )


def check_width(network: Network, X: Any) -> None:
    """Raises ValueError unless X is (N, n_inputs)."""
    if X.ndim != 2 or X.shape[1] != network.n_inputs:
        raise ValueError(
            f"X must be (n_samples, {network.n_inputs}) for this network, got shape "
            f"{tuple(X.shape)}" + ("; for one sample use X[None, :]" if X.ndim == 1 else "")
        )


def at_hand(x: Array, where: Device) -> tuple[Array, Namespace]:
    """x, an array on that device, and the namespace to check it with. That is NumPy's, which
    compiles nothing, if x is in the memory of the host."""
    if isinstance(x, np.ndarray):
        return x, np
    return (to_host(x), np) if where.memory_free() is None else (x, where.xp)


def check_all_finite(name: str, x: Any, given: Any, where: Device) -> None:
    """Raises ValueError if a number of x is not finite. It names the first one, and says whether it
    was infinite already in `given`, which is x before the cast.   x: (N, D), an array on that
    device or a CSR matrix.

    Finite data take one pass: a sum of squares is finite only if all numbers are, and the BLAS
    computes it as fast as memory is read.
    """
    flat, xp = at_hand(x.data[: x.nnz] if is_sparse(x) else x, where)
    flat = xp.reshape(flat, (-1,))
    parts = (flat[start:stop] for start, stop in bounds(flat.shape[0], PART))
    if all(math.isfinite(part @ part) for part in parts):
        return
    place = _first_not_finite(flat, xp=xp)
    if place is None:
        return  # all are finite, but the sum of squares overflows
    if is_sparse(x):
        row = int(to_host(x.indptr).searchsorted(place, side="right")) - 1
        column, before = int(x.indices[place]), float(given.data[place])
    else:
        row, column = divmod(place, x.shape[1])
        before = float(given[row, column] if given.ndim == 2 else given[row])
    found = f"in row {row}, column {column} (both from 0)"
    if math.isfinite(before):
        raise ValueError(
            f"{name} must be finite, and {before:g} {found} is too large for {dtype_name(x)}; "
            "scale it, or train in float64"
        )
    raise ValueError(f"{name} must be finite, got {before} {found}; fill it, or leave out the row")


def _first_not_finite(flat: Array, *, xp: Namespace) -> int | None:
    """The index of the first element that is not finite, by a search block by block."""
    for start, stop in bounds(flat.shape[0], 2**20):
        bad = ~xp.isfinite(flat[start:stop])
        if bool(xp.any(bad)):
            return start + int(xp.argmax(xp.astype(bad, xp.uint8)))
    return None
