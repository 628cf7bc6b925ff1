"""Runs contestants in separate processes that take turns, so that a disturbance slows all of them.

A ratio is formed within a round. Each process has one thread pool: two BLAS thread pools in one
process slow each other down by up to ten times.
"""

import argparse
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.shared.measures import Entry
from bench.shared.script import environment

PAUSE = 0.25  # seconds between turns: thread pools spin that long before they sleep
END = 10.0  # seconds within which a worker has to end
IDLE = 0.85  # the share of idle processor time in a pause without other programs


def arguments(description: str, contestants: Iterable[str], rounds: int) -> argparse.ArgumentParser:
    """The arguments that all commands have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contestants", nargs="*", default=list(contestants))
    parser.add_argument("--rounds", type=int, default=rounds, help=f"at most; default {rounds}")
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="after which no round begins; default 9"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--patience",
        type=float,
        default=1.0,
        help="seconds to wait at most before each turn for other programs to end; default 1",
    )
    parser.add_argument("--output", type=Path, help="default: a .json in bench/results, by date")
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    return parser


class Worker:
    """A process of this script with `--worker ...`, which waits for questions."""

    def __init__(self, words: Iterable[Any], threads: int) -> None:
        processors = sorted(os.sched_getaffinity(0))[:threads]
        pools = ("OMP", "OPENBLAS", "MKL", "NUMBA")
        # A file and not a pipe, which would fill up, since it is not read.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        # XLA takes its number of threads from the processors that it may run on, and a child may
        # run where its parent may.
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, processors)
        try:
            self.process = subprocess.Popen(
                [sys.executable, sys.argv[0], "--worker", *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                env=environment(**{f"{pool}_NUM_THREADS": str(threads) for pool in pools}),
            )
        finally:
            os.sched_setaffinity(0, mine)

    def ask(self, *numbers: int, limit: float | None = None) -> list[float]:
        """The answer to some numbers. Raises RuntimeError with the last output of a worker that
        died, or that has no answer after `limit` seconds and is ended."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(" ".join(map(str, numbers)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        if not select.select([self.process.stdout], [], [], limit)[0]:
            self.process.kill()
            raise RuntimeError(f"no answer in {limit:.0f} seconds")
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()  # its last output comes after the end of its answers
            self.errors.seek(0)
            raise RuntimeError(self.errors.read().strip().rpartition("\n")[2])
        return [float(word) for word in answer.split()]

    def close(self) -> None:
        """Ends the worker, and prints the debug lines of nnaccel. It does not wait for a worker
        that hangs at its end, as in a driver."""
        for _ in range(2):
            try:
                self.process.communicate(timeout=END)
                break
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.errors.seek(0)
        for line in self.errors:
            if line.startswith("DEBUG:nnaccel"):
                print(line, end="", file=sys.stderr)
        self.errors.close()


def answer(work: Callable[..., Iterable[float]]) -> None:
    """The loop of a worker: reads numbers and writes its answers. The output of libraries and their
    processes goes to standard error instead."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            print(*work(*map(int, line.split())), file=out, flush=True)


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - started, result


def take_turns(
    found: dict[str, Entry],
    turns: dict[str, Callable[[], float]],
    args: argparse.Namespace,
    wait: Callable[[], None] | None = None,
    stop: float = math.inf,
) -> None:
    """Appends to the `times` of each contestant the result of its turn, in each round.

    The first contestant changes from round to round.
    args: as returned by `arguments`.   wait: called before each turn; None: `calm`, for contestants
    on the CPU.   stop: the time of `time.monotonic` after which no round begins, except the first.
    """
    names = [name for name in turns if "problem" not in found[name]]
    for name in names:
        found[name]["times"] = []
    for number in range(args.rounds if names else 0):
        if number and time.monotonic() >= stop:
            say(f"  its share of the time is up after {number} of {args.rounds} rounds")
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            wait() if wait else calm(args.patience)
            found[name]["times"].append(turns[name]())
        latest = (f"{name} {found[name]['times'][-1]:.3g}" for name in names)
        say(f"  round {number + 1} of {args.rounds}: {', '.join(latest)}")


def say(line: str) -> None:
    """Progress goes to standard error, so that standard output has the results alone."""
    print(line, file=sys.stderr, flush=True)


def deadline(end: float, left: float) -> float:
    """The end of the time for the first of some problems, which share the remaining time."""
    now = time.monotonic()
    return now + (end - now) / left


def calm(patience: float) -> None:
    """Returns after a pause in which the processors were idle, or after `patience` seconds."""
    stop, before, quiet = time.monotonic() + patience, processor_time(), False
    while not quiet:
        time.sleep(PAUSE)
        after = processor_time()
        idle, total = (b - a for a, b in zip(before, after, strict=True))
        quiet = idle >= IDLE * total or time.monotonic() >= stop
        before = after


def processor_time() -> tuple[int, int]:
    """(idle, all) of the processors since the start, in ticks; zeros where Linux does not tell."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except OSError:
        return 0, 0
    return ticks[3] + ticks[4], sum(ticks)
