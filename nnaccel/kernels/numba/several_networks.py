"""Trains several networks on several threads, where each thread has its own networks.

The networks are independent. So no thread waits for another one in a step, unlike the members of a
team, and each network has the bits that it has alone on one thread.
"""

from collections.abc import Callable, Iterator
from threading import Event

from nnaccel.kernels.numba.thread_team import barrier_wait
from nnaccel.typing import Array

WAIT = 0.01  # seconds between two checks whether another thread has failed

# (rank, network, steps) -> an iterator that trains some of these steps per iteration.
Train = Callable[[int, int, range], Iterator[None]]


class Progress:
    """The events that threads signal to each other. Threads wait in Python, so that Ctrl-C is
    handled at once."""

    def __init__(self, n_networks: int, size: int) -> None:
        self.begun = [Event() for _ in range(n_networks)]  # networks whose first steps are done
        self.ended = [Event() for _ in range(size)]  # threads that have finished
        self.failed = Event()

    def wait_for(self, event: Event) -> bool:
        """Waits for an event; False if a thread fails before it."""
        while not event.wait(WAIT):
            if self.failed.is_set():
                return False
        return True


def train_share(
    rank: int, size: int, barrier: Array, n_steps: int, progress: Progress, train: Train
) -> None:
    """Trains the share of thread `rank` of `size` in n_steps steps of each network.

    It returns early if another thread fails or is interrupted. The first thread returns last.
    """
    if not barrier_wait(barrier, size):  # one could not be started
        return
    try:
        for network, steps in shares(len(progress.begun), n_steps, rank, size):
            if steps.start and not progress.wait_for(progress.begun[network]):
                return
            for _ in train(rank, network, steps):
                if progress.failed.is_set():
                    return
            progress.begun[network].set()
        progress.ended[rank].set()
        for ended in progress.ended[1:size] if rank == 0 else []:
            progress.wait_for(ended)
    except BaseException:
        progress.failed.set()
        raise


def shares(n_networks: int, n_steps: int, rank: int, size: int) -> list[tuple[int, range]]:
    """The networks of thread `rank` of `size` and the steps of each, in the order of training.

    The numbers of steps of two threads differ by one at most. Where threads have to share a
    network, one trains its first steps before anything else, and its neighbour trains the last
    steps at the end. With at least as many networks as threads, the last steps certainly come
    later.
    Source: McNaughton (1959), "Scheduling with deadlines and loss functions".
    """
    total = n_networks * n_steps
    start, stop = total * rank // size, total * (rank + 1) // size
    found = []
    for network in range(start // n_steps, -(-stop // n_steps)):
        begin = network * n_steps
        found.append((network, range(max(start - begin, 0), min(stop - begin, n_steps))))
    return sorted(found, key=lambda share: (share[1].start > 0, share[1].stop == n_steps))
