"""Labels of classes, on a device if its library can hold them, else in NumPy arrays."""

from typing import Any

import numpy as np

from nnaccel.devices.device import Device, device_of, to_host
from nnaccel.estimators.array_input import on_host
from nnaccel.typing import Array


def beside(labels: np.ndarray, where: Device) -> Any:
    """The labels (K,) on a device, if its library holds each of them exactly and can index them.

    Otherwise they stay a NumPy array: text, dates and objects, whole numbers too large for JAX's 32
    bits, and unsigned integers for PyTorch.
    """
    if where.holds(labels) or labels.dtype.kind not in "biuf":
        return labels
    try:
        moved = where.asarray(labels)
        everyone = where.asarray(np.arange(labels.shape[0]))
        held = to_host(where.xp.take(moved, everyone, axis=0))
    except (ValueError, TypeError, OverflowError, NotImplementedError):
        return labels
    return moved if np.array_equal(held, labels) else labels


def labels_of(codes: Array, classes: Any, home: Device) -> Any:
    """The labels of the codes (N,) on the device `home`, or a NumPy array if it cannot hold
    them."""
    if type(classes) is not np.ndarray and device_of(classes) == home:
        return home.xp.take(classes, codes, axis=0)
    labels = beside(on_host(classes), home)
    if type(labels) is np.ndarray:
        return labels[on_host(codes)]
    return home.xp.take(labels, codes, axis=0)


def codes_of(y: Any, classes: np.ndarray) -> np.ndarray | None:
    """The class number of each y (N,); None if scikit-learn has to validate y."""
    if type(y) is not np.ndarray or y.ndim != 1 or y.dtype != classes.dtype:
        return None
    if y.dtype.kind not in "biuU":
        return None
    codes = np.minimum(classes.searchsorted(y), len(classes) - 1)
    return codes if (classes[codes] == y).all() else None
