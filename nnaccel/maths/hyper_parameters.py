"""Hyper-parameters: what each may be, and one value for each of K networks.

A number has a range, in words and as a function; the tables `RANGES` beside optimizers, schedules,
losses and activations have one a name. Where K networks are trained at once, a number may be an
array (K,) or (K, 1).
"""

import math
from collections.abc import Callable, Mapping
from inspect import signature
from numbers import Real
from typing import Any, NamedTuple

from nnaccel.typing import Array, Namespace, handle_of


class Range(NamedTuple):
    """What a number must be, in words, and whether it is; of an array, whether each element is."""

    expected: str
    holds: Callable[[Any], Any]


AMOUNT = Range("at least 0 and finite", lambda v: (v >= 0) & (v < math.inf))
POSITIVE = Range("above 0 and finite", lambda v: (v > 0) & (v < math.inf))
STEPS = Range("at least 1 and finite", lambda v: (v >= 1) & (v < math.inf))
SHARE = Range("at least 0 and below 1", lambda v: (v >= 0) & (v < 1))
INNER_SHARE = Range("above 0 and below 1", lambda v: (v > 0) & (v < 1))
UP_TO_ONE = Range("from 0 to 1", lambda v: (v >= 0) & (v <= 1))


def check_ranges(ranges: Mapping[str, Range], values: Mapping[str, Any]) -> None:
    """ValueError that names the first value out of its range or shape, TypeError one that is no
    number.

    A value is a number, an array or a tuple of them, all in range. Functions, such as schedules,
    have been checked where they were made, and names without a range are not looked at.
    """
    for name, value in values.items():
        if name not in ranges or callable(value):
            continue
        expected, holds = ranges[name]
        for number in value if isinstance(value, tuple) else (value,):
            is_number = isinstance(number, Real) and not isinstance(number, bool)
            if not is_number and not hasattr(number, "shape"):
                raise TypeError(f"{name} must be a number {expected}, got {number!r}")
            shape = tuple(getattr(number, "shape", ()))
            if len(shape) > 1 and shape[-1] != 1:
                raise ValueError(
                    f"{name} must be a number, or (K,) for K networks, got shape {shape}"
                )
            if not _all(holds(number)):
                raise ValueError(f"{name} must be {expected}, got {number}")


def _all(held: Any) -> bool:
    """Whether all is true; an array that has no values yet, for JAX traces it, is taken to be."""
    try:
        return bool(held.all() if hasattr(held, "all") else held)
    except TypeError:
        return True


def plain(value: Any) -> Any:
    """A number as Python's own float, which keeps float32 as NumPy's does not, and an array (K,)
    as (K, 1), which broadcasts with parameters (K, P); all else as it is."""
    if isinstance(value, float):
        return float(value)
    return value[:, None] if getattr(value, "ndim", 0) == 1 else value


def members_of(values: Mapping[str, Any]) -> int | None:
    """For how many networks the values are, None where they serve any number.

    Those are arrays (K, 1), and schedules and optimizers with `members`. ValueError for values of
    different K.
    """
    found = {}
    for name, value in values.items():
        K = getattr(value, "members", None)
        K = value.shape[0] if getattr(value, "ndim", 0) == 2 else K
        if K not in (None, 1):
            found[K] = name
    if len(found) > 1:
        (K, one), (other_K, other) = [*found.items()][:2]
        raise ValueError(
            f"{one} is for {K} networks, but {other} for {other_K}; both must be numbers, or "
            "arrays of as many values"
        )
    return next(iter(found), None)


def beside(value: Any, like: Array, *, xp: Namespace) -> Any:
    """An array of hyper-parameters, of any library, as one beside `like` and of its dtype; a number
    as it is."""
    if not getattr(value, "ndim", 0):
        return value
    return xp.asarray(value, dtype=like.dtype, device=handle_of(like))


def given(
    function: Callable[..., Any],
    ranges: Mapping[str, Range],
    args: tuple[Any, ...],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of a call by their names, in their ranges and `plain`; TypeError where they do
    not fit the function's signature."""
    try:
        values = signature(function).bind(*args, **options).arguments
    except TypeError as error:
        raise TypeError(f"{function.__name__}: {error}") from None
    check_ranges(ranges, values)
    return {name: plain(value) for name, value in values.items()}
