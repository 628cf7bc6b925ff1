"""Compiles functions with the project's floating-point flags, cache on disk, and inlining."""

from collections.abc import Callable
from typing import Any

from numba import njit

from nnaccel.kernels.numba.cache import SourceKeyedCache, tell

# Sums may be reordered and multiply-adds fused, but NaN and infinity keep their meaning, so that
# diverging training shows.
RELAXED = {"contract", "reassoc", "nsz", "arcp"}
IN_ORDER = RELAXED - {"reassoc"}  # for sums in which digits cancel by design


def compiled(function: Callable, **options: Any) -> Any:
    """The function, compiled at its first call, with a cache on disk if one can be written."""
    options = {
        "fastmath": RELAXED,
        "error_model": "numpy",
        "nogil": True,
        "no_cfunc_wrapper": True,  # leaves out an entry for C, which is never called
    } | options
    dispatcher: Any = njit(**options)(function)
    try:
        dispatcher._cache = SourceKeyedCache(function)
    except (RuntimeError, AttributeError) as error:
        tell("compiled code cannot be kept", error)
    return dispatcher


def inlined(function: Callable) -> Any:
    """The function inlined into its caller, for a function with one caller.

    A compiled function is optimised once by itself and once more in each of its callers.
    """
    return compiled(function, inline="always")
