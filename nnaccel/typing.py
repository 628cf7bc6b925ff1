"""Names for what flows through every floor of the library."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeAlias

Array: TypeAlias = Any
"""An array of any library that follows the Python Array API standard."""

Namespace: TypeAlias = Any
"""The functions of such a library, conventionally named ``xp``."""

Options: TypeAlias = tuple[tuple[str, Hashable], ...]
"""Keyword arguments as sorted pairs: plain, hashable data that a model file can hold."""


class Ops(dict[Callable, Callable]):
    """The operations of one library: ``ops[f]`` is what runs the floor-1 function ``f``.

    A function without a kernel of its own falls through to its definition with ``xp`` bound, so
    a new layer or loss works on every library before anybody has written a kernel for it.
    The look-up is one dictionary access on the hot path.
    """

    def __init__(self, xp: Namespace, kernels: dict[Callable, Callable] | None = None) -> None:
        super().__init__(kernels or {})
        self.xp = xp

    def __missing__(self, function: Callable) -> Callable:
        self[function] = bound = partial(function, xp=self.xp)
        return bound


def freeze(options: dict[str, Any]) -> Options:
    """Keyword arguments as hashable data of Python's own: sequences become tuples.

    NumPy's scalars become Python's, which keep float32 where a NumPy float64 would not.
    """
    plain = ((k, v.tolist() if hasattr(v, "tolist") else v) for k, v in sorted(options.items()))
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in plain)


def handle_of(array: Array) -> Any:
    """The device of an array, to create another one beside it; None while JAX traces."""
    return getattr(array, "device", None)
