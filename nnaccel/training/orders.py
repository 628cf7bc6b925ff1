"""The orders in which epochs visit the examples, drawn while the epoch before is under way."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Thread

import numpy as np

from nnaccel.devices.device import Device

# Examples from which on a thread draws: it takes 0.5 ms for so many, and 0.05 ms to start.
MANY = 50_000

# Processors from which on there is one for it beside an epoch on the CPU. On two, and beside other
# programs, a thread more made the epochs of a small network up to a half longer.
SPARE = 4


class Orders:
    """The orders of the epochs with these numbers, one after the other.

    draw: number -> order (N,), on the host.   N: of examples.   where: the device of the epochs.
    """

    def __init__(
        self, draw: Callable[[int], np.ndarray], numbers: range, N: int, where: Device
    ) -> None:
        self._draw, self._numbers = draw, numbers
        self._ahead = N >= MANY and ("cpu" not in where.name or processors() >= SPARE)
        self._drawn: Callable[[], np.ndarray] | None = None

    def of(self, number: int) -> np.ndarray:
        """The order of an epoch, which `next_drawn` may have drawn; what was raised there is raised
        here."""
        drawn, self._drawn = self._drawn, None
        return self._draw(number) if drawn is None else drawn()

    def next_drawn(self, number: int) -> AbstractContextManager[None]:
        """Within it, which is epoch `number`, a thread draws the order of the next one; NumPy holds
        no lock meanwhile. The thread is gone at the end: while a caller has the epoch, none is
        there."""
        if not (self._ahead and number + 1 in self._numbers):
            return nullcontext()
        return self._drawn_by_a_thread(number + 1)

    @contextmanager
    def _drawn_by_a_thread(self, number: int) -> Iterator[None]:
        found: list[np.ndarray] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                found.append(self._draw(number))
            except BaseException as error:  # for who asks for the order
                failures.append(error)

        def drawn() -> np.ndarray:
            if failures:
                raise failures[0]
            return found[0]

        thread = Thread(target=work, name="nnaccel: order of the next epoch")
        thread.start()
        try:
            yield
        finally:
            thread.join()
            self._drawn = drawn


def processors() -> int:
    """How many this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
