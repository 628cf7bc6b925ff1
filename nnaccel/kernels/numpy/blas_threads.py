"""Limits the BLAS to one thread for small products, and for a team (`numba/thread_team.py`).

Two threads hand over the work of a small product in about the time that it takes to do it, and on
a machine with other things to do each hand-over may wait for a time slice of milliseconds: steps
of a tenth of a millisecond have been seen to take twenty. The limit is a setting of the process,
made by threadpoolctl where that is installed, for as long as an epoch lasts.
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
_LEFT = threading.local()  # .threads: what the thread that has set the limit leaves to others


def threads_for(network: Network, batch_size: int) -> int:
    """How many threads have work in the largest product of a step."""
    matrices = (slot.stop - slot.start for slot in leaves(layout(network).slots, Slot))
    largest = batch_size * max(matrices, default=0)
    return max(1, 2 * largest // SMALL)


def one_is_enough(network: Network, batch_size: int) -> bool:
    """Whether all products of a step are small."""
    return threads_for(network, batch_size) == 1


@contextmanager
def one_thread() -> Iterator[int]:
    """One BLAS thread inside, and outside what there was before.

    Gives the number of threads that it leaves to others, which is as many as the BLAS had: 1 where
    another Python thread has taken them, 0 where the BLAS cannot be limited.

    Only the first of several Python threads sets and lifts the limit: if each did, one could
    restore what another had only just set, and leave the process with one thread for good. Where it
    enters a second time, the threads are still its own.
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
    """How many threads the BLAS takes now; 1 where that is not known."""
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
    """threadpoolctl's view of the loaded BLAS libraries, NumPy's and perhaps SciPy's."""
    return _found("scipy.linalg.cython_blas" in sys.modules)


@lru_cache(maxsize=2)
def _found(scipy: bool) -> Any:
    """Looked for once, since it takes milliseconds, and again when SciPy has brought its own."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()
