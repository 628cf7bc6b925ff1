"""Checks of arguments, with helpful errors: names in a table, ranges of numbers."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from numbers import Real
from operator import index
from typing import Any, TypeVar

Value = TypeVar("Value")

# Names in other libraries and in common use -> the names here, for error messages.
MEANT = {
    "mse": "squared_error",
    "mean_squared_error": "squared_error",
    "l2_loss": "squared_error",
    "mae": "absolute_error",
    "mean_absolute_error": "absolute_error",
    "l1_loss": "absolute_error",
    "smooth_l1": "huber",
    "quantile": "pinball",
    "ce": "softmax_cross_entropy",
    "cross_entropy": "softmax_cross_entropy",
    "crossentropy": "softmax_cross_entropy",
    "categorical_crossentropy": "softmax_cross_entropy",
    "sparse_categorical_crossentropy": "softmax_cross_entropy",
    "log_loss": "softmax_cross_entropy",
    "nll": "softmax_cross_entropy",
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy",
    "binary_crossentropy": "binary_cross_entropy",
    "acc": "accuracy",
    "rmse": "RMSE",
    "swish": "silu",
    "logistic": "sigmoid",
    "linear": "identity",
    "leakyrelu": "leaky_relu",
    "nag": "nesterov",
    "xavier": "glorot_uniform",
    "xavier_uniform": "glorot_uniform",
    "xavier_normal": "glorot_normal",
    "kaiming": "he_uniform",
    "kaiming_uniform": "he_uniform",
    "kaiming_normal": "he_normal",
    "invscaling": "inverse_scaling",
    "onecycle": "one_cycle",
    "warmup": "warm_up",
}


def find(what: str, name: object, table: Mapping[str, Value]) -> Value:
    """`table[name]`. Raises ValueError that lists the names and suggests the closest one."""
    if isinstance(name, str) and name in table:
        return table[name]
    raise ValueError(
        f"{what} must be one of {', '.join(table)}, got {name!r}{did_you_mean(name, table)}"
    )


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A closing question for an error message, or "" if no known name is close."""
    # The leading dashes would make all options similar.
    by_lower = {word.lower().lstrip("-"): word for word in known}
    meant = MEANT.get(str(name).lower().replace("-", "_"), "")
    if meant.lower() in by_lower:
        return f"; did you mean {meant!r}?"
    close = get_close_matches(str(name).lower().lstrip("-"), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def check_options(what: str, function: Callable, options: Mapping[str, object]) -> None:
    """Raises TypeError for an option that is not a keyword-only parameter of the function, or is
    xp."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "xp"]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(
            f"{what} has no parameter {unknown[0]!r}; it has {', '.join(known) or 'none'}"
        )


def at_least(least: int, **values: Any) -> list[int]:
    """The values as Python's integers, in their order. They may be integers of any library.

    Raises TypeError that names the first argument that is no integer, ValueError that names one
    below `least`. Flags and 3.0 are not integers here.
    """
    return [_at_least(least, name, value) for name, value in values.items()]


def _at_least(least: int, name: str, value: Any) -> int:
    flag, remedy = isinstance(value, bool), ""
    try:
        number = None if flag else index(value)
    except TypeError:  # an array that is not a single integer
        number = None
    if number is None:
        if isinstance(value, Real) and not flag and float(value).is_integer():
            remedy = f"; use int({value!r})"
        raise TypeError(f"{name} must be a whole number of at least {least}, got {value!r}{remedy}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
