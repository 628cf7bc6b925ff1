"""How functions are compiled: the floating-point flags, the cache on disk, inlining."""

from collections.abc import Callable
from typing import Any

from numba import njit

from nnaccel.kernels.numba.cache import SourceKeyedCache, tell

# Sums in any order and fused multiply-add, but NaN and infinity keep their meaning: training
# that diverges must show.
RELAXED = {"contract", "reassoc", "nsz", "arcp"}
IN_ORDER = RELAXED - {"reassoc"}  # for sums in which digits cancel on purpose


def compiled(function: Callable, **options: Any) -> Any:
    """The function compiled at its first call, with a cache on disk where one can be written."""
    options = {
        "fastmath": RELAXED,
        "error_model": "numpy",
        "nogil": True,
        "no_cfunc_wrapper": True,  # an entry for C, which nobody calls
    } | options
    dispatcher: Any = njit(**options)(function)
    try:
        dispatcher._cache = SourceKeyedCache(function)
    except (RuntimeError, AttributeError) as error:
        tell("compiled code cannot be kept", error)
    return dispatcher


def inlined(function: Callable) -> Any:
    """The function as a part of its caller, for a part that has one caller.

    A compiled function is optimised once for itself and once more in each of its callers.
    """
    return compiled(function, inline="always")
