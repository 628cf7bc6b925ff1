"""The orders in which epochs visit the examples. A thread draws each while the epoch before
runs."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Thread

import numpy as np

from nnaccel.devices.device import Device

# With at least this many examples a thread draws: drawing takes 0.5 ms, starting it 0.05 ms.
MANY = 50_000

# With at least this many processors a thread draws while an epoch runs on the CPU. On two
# processors, or when other programs ran, one more thread made the epochs of a small network up to a
# half longer.
SPARE = 4


class Orders:
    """The orders of the epochs with the given numbers, in sequence.

    draw: number -> order (N,), on the host.   N: the number of examples.   where: the device of the
    epochs.
    """

    def __init__(
        self, draw: Callable[[int], np.ndarray], numbers: range, N: int, where: Device
    ) -> None:
        self._draw, self._numbers = draw, numbers
        self._ahead = N >= MANY and ("cpu" not in where.name or processors() >= SPARE)
        self._drawn: Callable[[], np.ndarray] | None = None

    def of(self, number: int) -> np.ndarray:
        """The order of an epoch, which `next_drawn` may have drawn. An error of the drawing thread
        is raised here."""
        drawn, self._drawn = self._drawn, None
        return self._draw(number) if drawn is None else drawn()

    def next_drawn(self, number: int) -> AbstractContextManager[None]:
        """A context for epoch `number`, in which a thread draws the order of the next epoch; NumPy
        releases the lock meanwhile. The thread ends with the context, so none runs while the caller
        has the epoch."""
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
            except BaseException as error:  # raised by `of`
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
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
