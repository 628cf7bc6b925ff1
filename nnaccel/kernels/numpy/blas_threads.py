"""Limits the BLAS to one thread, for small products and for a team of threads.

Two threads take about as long to share a small product as one takes to compute it. On a busy
machine each hand-over may wait for a time slice of milliseconds: steps of a tenth of a millisecond
have taken twenty. The limit is a setting of the process. threadpoolctl, where it is installed, sets
it while an epoch runs. The team is that of `numba/thread_team.py`.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from nnaccel.maths.network import Network, Slot, layout, leaves

# Multiplications of the largest product of a step. On two cores of a recent x86 processor two
# threads were slower by a third at 4e6 and faster by a third at 16e6.
SMALL = 8_000_000

_LIMITING = threading.Lock()
_LEFT = threading.local()  # .threads: how many threads the BLAS had before this thread limited it


def threads_for(network: Network, batch_size: int) -> int:
    """How many threads the largest product of a step can keep busy."""
    matrices = (slot.stop - slot.start for slot in leaves(layout(network).slots, Slot))
    largest = batch_size * max(matrices, default=0)
    return max(1, 2 * largest // SMALL)


def one_is_enough(network: Network, batch_size: int) -> bool:
    """Whether all products of a step are small."""
    return threads_for(network, batch_size) == 1


@contextmanager
def one_thread() -> Iterator[int]:
    """The context in which the BLAS has one thread; it restores the former number.

    Its value is the number of threads that the caller may use: as many as the BLAS had; 1 where
    another Python thread uses them; 0 where the BLAS cannot be limited.

    Only the first of several Python threads sets and lifts the limit. If each did, one could
    restore the limit that another had just set, and the process would keep one thread for good. A
    thread that enters a second time keeps its threads.
    """
    controller = _controller()
    if controller is None:
        yield 0
        return
    if not _LIMITING.acquire(blocking=False):
        yield getattr(_LEFT, "threads", 1)
        return
    try:
        blas = controller.select(user_api="blas")
        threads = min((library.num_threads for library in blas.lib_controllers), default=0)
        with blas.limit(limits=1):
            _LEFT.threads = threads
            yield threads
    finally:
        _LEFT.threads = 1
        _LIMITING.release()


def blas_threads() -> int:
    """How many threads the BLAS uses now; 1 where that is unknown."""
    controller = _controller()
    if controller is None:
        return 1
    libraries = controller.select(user_api="blas").lib_controllers
    return min((library.num_threads for library in libraries), default=1)


def blas_name() -> str:
    """The name of the BLAS, such as OpenBLAS, where threadpoolctl knows it."""
    controller = _controller()
    if controller is None:
        return "the BLAS"
    found = {str(lib.internal_api) for lib in controller.select(user_api="blas").lib_controllers}
    names = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS"}
    return " and ".join(names.get(name, name) for name in sorted(found)) or "the BLAS"


def _controller() -> Any:
    """threadpoolctl's controller of the loaded BLAS libraries, NumPy's and perhaps SciPy's; None
    without it."""
    return _found("scipy.linalg.cython_blas" in sys.modules)


@lru_cache(maxsize=2)
def _found(scipy: bool) -> Any:
    """The controller. Cached, since the search takes milliseconds; searched again once SciPy's BLAS
    is loaded."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()
