"""The operations of one array library, with kernels where it has them."""

from collections.abc import Callable
from functools import partial
from importlib import import_module

from nnaccel.typing import Namespace


class Ops(dict[Callable, Callable]):
    """The operations of one library: ``ops[f]`` runs the function ``f`` of the maths.

    A function without a kernel falls through to its definition with ``xp`` bound, so a new layer or
    loss works on every library without a kernel. The look-up is one dictionary access on the hot
    path.
    """

    def __init__(
        self,
        xp: Namespace,
        kernels: dict[Callable, Callable] | None = None,
        name: str = "the definition",
    ) -> None:
        super().__init__(kernels or {})
        self.xp = standard(xp)
        self.name = name  # of the set of kernels
        self._kernels = [function.__name__ for function in self]

    def __missing__(self, function: Callable) -> Callable:
        self[function] = bound = partial(function, xp=self.xp)
        return bound

    def __repr__(self) -> str:
        """Lists the functions with kernels; all others run by the definition."""
        library = self.xp.__name__.removeprefix("array_api_compat.")
        kernels = f": {', '.join(self._kernels)}" if self._kernels else ""
        return f"Ops({library}, {self.name}{kernels})"


# Libraries whose functions have other names or signatures than the standard's.
WRAPPED = ("torch", "cupy")


def standard(xp: Namespace) -> Namespace:
    """The namespace of a library with the functions of the Array API standard: array_api_compat's
    for `torch` and `cupy`. Raises TypeError for objects without such functions."""
    name = getattr(xp, "__name__", "")
    if name in WRAPPED:
        return import_module(f"array_api_compat.{name}")
    if not hasattr(xp, "matmul"):
        found = f"the module {name}" if name else repr(xp)
        raise TypeError(
            "xp must be the functions of an array library, such as numpy, torch or jax.numpy, got "
            + found
        )
    return xp
