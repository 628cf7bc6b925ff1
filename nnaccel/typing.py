"""Types that every floor of the library uses."""

from collections.abc import Hashable
from typing import Any, TypeAlias

Array: TypeAlias = Any
"""An array of any library that follows the Python Array API standard."""


Namespace: TypeAlias = Any
"""The functions of such a library, conventionally named ``xp``."""


Options: TypeAlias = tuple[tuple[str, Hashable], ...]
"""Keyword arguments as sorted pairs: plain, hashable data that a model file can hold."""


def freeze(options: dict[str, Any]) -> Options:
    """Keyword arguments as hashable Python data: sequences become tuples.

    NumPy's scalars become Python's, which keep float32 where a NumPy float64 would not.
    """
    plain = ((k, v.tolist() if hasattr(v, "tolist") else v) for k, v in sorted(options.items()))
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in plain)


def handle_of(array: Array) -> Any:
    """The device of an array, to create another array there; None while JAX traces."""
    return getattr(array, "device", None)
