"""Several networks on several threads, each of which trains networks of its own.

They have nothing to do with each other. So no thread waits for another one in a step, as the
members of a team do, and each network has the bits that it has alone on one thread.
"""

from collections.abc import Callable, Iterator
from threading import Event

from nnaccel.kernels.numba.thread_team import barrier_wait
from nnaccel.typing import Array

WAIT = 0.01  # seconds between two looks at whether another thread has failed

# (rank, network, steps) -> an iterator that trains some of these steps each time.
Train = Callable[[int, int, range], Iterator[None]]


class Progress:
    """What the threads tell each other. They wait in Python, so that Ctrl-C need not."""

    def __init__(self, n_networks: int, size: int) -> None:
        self.begun = [Event() for _ in range(n_networks)]  # whose first steps are done
        self.ended = [Event() for _ in range(size)]  # the threads that have done all
        self.failed = Event()

    def wait_for(self, event: Event) -> bool:
        """Waits for an event; False where a thread has failed before."""
        while not event.wait(WAIT):
            if self.failed.is_set():
                return False
        return True


def train_share(
    rank: int, size: int, barrier: Array, n_steps: int, progress: Progress, train: Train
) -> None:
    """Trains the share of one of `size` threads in n_steps steps of each network.

    It returns early where another thread has failed or was interrupted. The first thread returns
    last.
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
    """The networks of one of `size` threads and the steps of each, in the order of training.

    All threads have as many steps, to within one. Two neighbours share a network where it must be:
    one trains its first steps before anything else, and the other one its last steps in the end.
    That these are later is sure where there are as many networks as threads.
    Source: McNaughton (1959), "Scheduling with deadlines and loss functions".
    """
    total = n_networks * n_steps
    start, stop = total * rank // size, total * (rank + 1) // size
    found = []
    for network in range(start // n_steps, -(-stop // n_steps)):
        begin = network * n_steps
        found.append((network, range(max(start - begin, 0), min(stop - begin, n_steps))))
    return sorted(found, key=lambda share: (share[1].start > 0, share[1].stop == n_steps))
