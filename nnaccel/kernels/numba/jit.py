"""How functions are compiled: the floating-point flags, and the cache on disk."""

from collections.abc import Callable
from typing import Any

from numba import njit

# Sums in any order and fused multiply-add, but NaN and infinity keep their meaning: training
# that diverges must show.
RELAXED = {"contract", "reassoc", "nsz", "arcp"}


IN_ORDER = RELAXED - {"reassoc"}  # of a sum in which digits cancel on purpose


def compiled(function: Callable, **options: Any) -> Any:
    """The function compiled when first called; without a disk cache where none can be written."""
    options = {"fastmath": RELAXED, "error_model": "numpy", "nogil": True} | options
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)
