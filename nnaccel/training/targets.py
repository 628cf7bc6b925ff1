"""Checks the targets of a loss: the shape, kind and range that the loss states."""

from typing import Any

import numpy as np

from nnaccel.devices.device import Device, integer_name, to_host
from nnaccel.maths.losses import Loss, Targets
from nnaccel.maths.network import Network
from nnaccel.training.array_checks import at_hand, check_all_finite
from nnaccel.typing import Array, Namespace

ROUNDING = 0.01  # tolerance for probabilities out of their range by rounding, as to bfloat16
SHARES = "divide each row by its sum, or use 'binary_cross_entropy' for several labels at once"


def put_targets(network: Network, loss: Loss, home: Device, dtype: str, Y: Any) -> Array:
    """Y on a device as `loss` takes it: class numbers (N,), or numbers (N, T) of `dtype`.

    Raises ValueError, with the remedy, for another shape and for targets out of the range of the
    loss.
    """
    K = network.n_outputs
    if loss.targets.kind == "classes" and Y.ndim == 1:
        return home.asarray(_class_numbers(loss, K, Y))
    T, left = divmod(K, loss.n_outputs)
    if left:
        raise ValueError(
            f"the loss {loss.name!r} takes {loss.n_outputs} outputs of the network for each column "
            f"of Y, and the network has {K}; give its last layer {loss.n_outputs} times as many "
            "units as Y has columns"
        )
    if Y.ndim not in (1, 2) or (Y.shape[1] if Y.ndim == 2 else 1) != T:
        shape = tuple(Y.shape) if Y.ndim != 1 else (Y.shape[0], 1)
        each = "each output" if loss.n_outputs == 1 else f"every {loss.n_outputs} outputs"
        raise ValueError(
            f"Y must be (n_samples, {T}), one column for {each} of the network, got shape {shape}"
        )
    placed = home.asarray(Y, dtype)
    if Y.ndim == 1:
        placed = home.xp.reshape(placed, (-1, 1))
    check_all_finite("Y", placed, Y, home)
    _check_range(loss, *at_hand(placed, home))
    return placed


def _class_numbers(loss: Loss, K: int, Y: Any) -> Any:
    name = integer_name(Y)
    if name is None:
        raise ValueError(
            f"Y must hold integer classes or be (n_samples, {K}) probabilities for "
            f"{loss.name!r}, got shape {tuple(Y.shape)} of {Y.dtype}; if these are class numbers, "
            "make them integers"
        )
    host = to_host(Y)
    if not 0 <= host.min() <= host.max() < K:
        least, most = int(host.min()), int(host.max())
        remedy = "number them from 0: numpy.unique(Y, return_inverse=True)[1]"
        if K == 2 and {least, most} <= {-1, 1}:
            remedy = "for labels -1 and 1 use (Y + 1) // 2"
        elif (least, most) == (1, K):
            remedy = "for class numbers from 1 use Y - 1"
        raise ValueError(
            f"Y must hold classes from 0 to {K - 1}, one for each output of the network, got "
            f"{least} to {most}; {remedy}"
        )
    # PyTorch cannot index arrays of long unsigned integers.
    return host.astype(np.int32) if name in ("uint16", "uint32", "uint64") else Y


def _check_range(loss: Loss, Y: Array, xp: Namespace) -> None:
    """Raises ValueError if a number (N, K) is out of the range of the loss.   Y: not empty."""
    targets, name = loss.targets, repr(loss.name)
    if targets.bounded:
        slack = 0.0 if targets.kind == "numbers" else ROUNDING
        least, most = float(xp.min(Y)), float(xp.max(Y))
        if not (targets.low - slack <= least and most <= targets.high + slack):
            raise ValueError(
                f"Y must hold {targets.in_words} for {name}, got {least:g} to {most:g}; "
                + _remedy(targets, least, most)
            )
    if targets.kind == "classes":
        sums = to_host(xp.sum(Y, axis=-1))
        wrong = np.abs(sums - 1.0) > ROUNDING
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"Y must hold probabilities that sum to 1 in every row for {name}, got a sum of "
                f"{sums[row]:g} in row {row} (from 0); {SHARES}"
            )


def _remedy(targets: Targets, least: float, most: float) -> str:
    if targets.kind == "classes" and least >= 0.0:
        return SHARES
    if (targets.low, targets.high) == (0.0, 1.0):
        if {least, most} <= {-1.0, 1.0}:
            return "for labels -1 and 1 use (Y + 1) / 2"
        if {least, most} <= {1.0, 2.0}:
            return "for labels 1 and 2 use Y - 1"
        if targets.kind == "labels":
            return "use 'softmax_cross_entropy' for classes, 'squared_error' for amounts"
    return "use a loss of that range, such as 'squared_error'"
