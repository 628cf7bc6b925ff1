"""Parallel regions of compiled code, on threads that release Python's lock, and a barrier."""

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from nnaccel.kernels.numba.intrinsics import (
    atomic_add,
    atomic_load,
    denormals_as_zero,
    floating_point,
    register_symbol,
)
from nnaccel.kernels.numba.jit import compiled
from nnaccel.typing import Array

ARRIVED, ABORTED = 0, 1  # indices into a barrier (2,)

# Spins at the barrier before sleeping, about 0.5 ms: longer than threads normally drift apart. If
# the others are later than that they were descheduled, so give this core away too.
SPINS = 1_000_000


def run_parallel(function: Callable[..., None], size: int, *args: Any) -> None:
    """Calls function(rank, size, barrier, *args) in `size` threads, where this thread has rank 0.

    All of them treat denormal numbers as 0. The threads end with the call, so a fork loses none. If
    a thread cannot be started, this thread runs alone: no other has passed the first barrier.
    """
    barrier, errors = np.zeros(2, np.int64), []

    def call(rank: int, size: int) -> None:
        mode = without_denormals()
        try:
            function(rank, size, barrier, *args)
        finally:
            restore_mode(mode)

    def member(rank: int) -> None:
        try:
            call(rank, size)
        except BaseException as error:  # such as MemoryError; the others would wait forever
            barrier[ABORTED] = 1
            errors.append(error)

    team = [threading.Thread(target=member, args=(rank,), daemon=True) for rank in range(1, size)]
    try:
        try:
            for thread in team:
                thread.start()
        except RuntimeError:
            abort(team, barrier)
            call(0, 1)
        else:
            call(0, size)
    finally:
        abort(team, barrier)
    if errors:
        raise errors[0]


@compiled
def without_denormals() -> int:
    return denormals_as_zero()


@compiled
def restore_mode(mode: int) -> None:
    floating_point(mode)


def abort(team: list[threading.Thread], barrier: Array) -> None:
    """Makes threads that wait at the barrier return, and waits until all threads have ended."""
    barrier[ABORTED] = 1
    for thread in team:
        if thread.ident is not None:
            thread.join()


def _sleep_of_system() -> tuple[Any, int]:
    """The system's function that sleeps, and the time of a nap, in its unit."""
    if sys.platform == "win32":
        return ctypes.WinDLL("kernel32").Sleep, 1  # milliseconds
    return ctypes.CDLL(None).usleep, 50  # microseconds


sleep, NAP = _sleep_of_system()
register_symbol("nnaccel_sleep", ctypes.cast(sleep, ctypes.c_void_p).value)
nap = types.ExternalFunction("nnaccel_sleep", types.void(types.uint32))


@compiled
def barrier_wait(barrier: Array, size: int) -> bool:
    """Waits until all members have arrived; False if the team was aborted."""
    if size == 1:
        return True
    # No member arrives twice before all have arrived once, so the old count divided by size is the
    # number of earlier barriers.
    all_here = (atomic_add(barrier, ARRIVED) // size + 1) * size
    for _ in range(SPINS):
        if atomic_load(barrier, ARRIVED) >= all_here:
            return True
    while atomic_load(barrier, ARRIVED) < all_here:
        if atomic_load(barrier, ABORTED):
            return False
        nap(np.uint32(NAP))
    return True
