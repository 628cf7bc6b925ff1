"""A few worker processes, each with a limit of time and memory; one that dies is replaced."""

import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 2.0  # for one mutant
MEMORY = 4 << 30  # bytes of address space that a worker may take beyond what it starts with
# Other processes may have the processors: the clock of one that is busy with something else is no
# sign of a hang, so that the time of a worker is that of its processor.
PATIENCE = 30.0
WARM_UP = 20


# What becomes of the mutant of a seed: the kind of outcome, and words about it.
Judge = Callable[[int], tuple[str, str]]


class Outcome(NamedTuple):
    """What became of a mutant: `refused`, `of use`, or a fault in words."""

    seed: int
    kind: str
    words: str = ""

    @property
    def is_fault(self) -> bool:
        return self.kind not in ("refused", "of use")


class Worker(NamedTuple):
    process: Any
    connection: Connection

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run(
    subject: Callable[[Path], Judge], seeds: Iterable[int], workers: int = 1
) -> Iterator[Outcome]:
    """The outcome of each mutant, as they come.   subject: a folder to work in -> what judges."""
    context = multiprocessing.get_context("spawn")  # threads of pyarrow do not survive a fork
    remaining, busy = iter(seeds), {}

    def start() -> Worker:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(subject, there), daemon=True)
        process.start()
        there.close()
        return Worker(process, here)

    def feed(worker: Worker) -> bool:
        """Give it the next seed; False where none is left."""
        if (seed := next(remaining, None)) is None:
            worker.stop()
            return False
        worker.connection.send(seed)
        busy[worker.connection] = worker, seed, time.monotonic()
        return True

    for _ in range(workers):
        worker = start()
        worker.connection.recv()  # it is ready
        if not feed(worker):
            break
    try:
        while busy:
            ready = wait(list(busy), timeout=0.2)
            late = [c for c, (_, _, t) in busy.items() if time.monotonic() - t > PATIENCE]
            for connection in dict.fromkeys([*ready, *late]):
                worker, seed, _ = busy.pop(connection)
                outcome = _outcome(worker, seed) if connection in ready else None
                yield outcome or Outcome(seed, "hang", f"no answer in {PATIENCE:g} s")
                if outcome is None or outcome.kind in ("death", "hang"):
                    worker.stop()
                    worker = start()
                    worker.connection.recv()
                feed(worker)
    finally:
        for worker, _, _ in busy.values():
            worker.stop()


def _outcome(worker: Worker, seed: int) -> Outcome:
    """What the worker says, or what it died of."""
    try:
        return Outcome(seed, *worker.connection.recv())
    except EOFError:
        worker.process.join(5)
        code = worker.process.exitcode
        if code == -signal.SIGPROF:
            return Outcome(seed, "hang", f"more than {SECONDS:g} s of a processor")
        return Outcome(seed, "death", f"exit code {code}")


def work(subject: Callable[[Path], Judge], connection: Connection) -> None:
    """The life of a worker: seeds come, outcomes go."""
    warnings.simplefilter("ignore")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # spares the disk
    with tempfile.TemporaryDirectory(prefix="nnaccel-fuzz-", dir=memory) as folder:
        judge = subject(Path(folder))
        for seed in range(WARM_UP):  # whatever is loaded by the first ones is loaded now
            outcome_of(judge, -1 - seed)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        connection.send("ready")
        while True:
            try:
                seed = connection.recv()
            except (EOFError, OSError):  # the other end is gone
                return
            # The signal's own action ends the process, be it in whatever loop of C.
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            connection.send(outcome_of(judge, seed))
            signal.setitimer(signal.ITIMER_PROF, 0)


def outcome_of(judge: Judge, seed: int) -> tuple[str, str]:
    """The kind of outcome and its words."""
    try:
        return judge(seed)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{str(error)[:200]!r} at {Path(where.filename).name}:{where.lineno}"
        return type(error).__name__, words
