"""How functions are compiled: the floating-point flags, the cache on disk, inlining."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import NullCache

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
    try:
        dispatcher = njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)
    key_cache_by_sources(dispatcher)
    return dispatcher


def key_cache_by_sources(dispatcher: Any) -> None:
    """Lets the cache of a function depend on every file of this folder.

    Numba looks at the file of the function alone: after a change in what it calls, the old machine
    code would run. The files of the cache have no public name; where Numba has renamed them, the
    function is compiled in every process.
    """
    try:
        files = dispatcher._cache._cache_file
        old = files._index_name.removesuffix(".nbi")
        base = f"{old}-{digest_of_sources()}"
        pattern = files._data_name_pattern.replace(old, base)
        files._index_name, files._data_name_pattern = f"{base}.nbi", pattern
        files._index_path = str(Path(files._index_path).with_name(files._index_name))
    except AttributeError:
        dispatcher._cache = NullCache()


@cache
def digest_of_sources() -> str:
    """A name for the text of all files of this folder."""
    texts = (path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return sha256(b"\0".join(texts)).hexdigest()[:16]


def inlined(function: Callable) -> Any:
    """The function as a part of its caller, for a part that has one caller.

    A compiled function is optimised once for itself and once more in each of its callers.
    """
    return compiled(function, inline="always")
