"""Several networks at once, params (K, P): hyper-parameters with one value for each network."""

import math
from typing import Any

from nnaccel.devices.device import to_host
from nnaccel.maths.hyper_parameters import AMOUNT, check_ranges
from nnaccel.typing import Array


def l2_of(l2: Any) -> float | tuple[float, ...]:
    """The L2 penalty as plain data: a number, or a tuple of K numbers from an array (K,) or (K, 1).
    Raises TypeError or ValueError for other values and for values out of range."""
    if type(l2) is float and 0.0 <= l2 < math.inf:  # the usual case
        return l2
    check_ranges({"l2": AMOUNT}, {"l2": tuple(l2) if isinstance(l2, list) else l2})
    values = to_host(l2).reshape(-1).tolist()
    return float(values[0]) if len(values) == 1 else tuple(map(float, values))


def check_members(params: Array, **values: Any) -> None:
    """Raises ValueError that names the first value for another number of networks than params (P,)
    or (K, P) have.   values: results of `l2_of`, or optimizers."""
    for name, value in values.items():
        K = len(value) if type(value) is tuple else getattr(value, "members", None)
        if K is not None and tuple(params.shape[:-1]) != (K,):
            raise ValueError(
                f"params must be ({K}, {params.shape[-1]}), since {name} has values for {K} "
                f"networks, got shape {tuple(params.shape)}; nnaccel.initialize(network, "
                f"members={K}) draws them"
            )


def check_examples_of_members(params: Array, sample_weight: Any, validation: Any) -> None:
    """Raises ValueError if there are sample weights or validation examples for each of K networks,
    and params have another number of networks."""
    of = {"sample_weight": (sample_weight, 2)}
    if validation is not None:
        of["validation_data"] = (validation[0], 3)
    for name, (array, ndim) in of.items():
        if getattr(array, "ndim", 1) == ndim and tuple(params.shape[:-1]) != (len(array),):
            raise ValueError(
                f"params must be ({len(array)}, {params.shape[-1]}), since {name} is for "
                f"{len(array)} networks, got shape {tuple(params.shape)}; nnaccel.initialize("
                f"network, members={len(array)}) draws them"
            )
