"""A phase of `gpu.py`: training steps of nnaccel and other libraries on one GPU, in turns.

As in `peers.py`, each library runs in a separate process, with the same parameters and minibatches,
and is shown only if its loss is the same. All processes of a precision start at the same time, and
one computes at a time. The precisions share the time. Each begins with the largest network, so that
the least informative results are missing if the time runs out.
"""

import argparse
import gc
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.contestants import GPU_CONTESTANTS
from bench.shared.measures import Entry, judge
from bench.shared.precisions import PRECISIONS
from bench.shared.report import FLOOR
from bench.shared.rounds import Worker, take_turns, timed
from bench.shared.shapes import Problem, Shape, gpu_shapes, problem

EPOCHS = 2  # epochs before the losses are compared
TURN = 0.1  # seconds of a turn
LIMIT = 100.0  # seconds to wait for an answer, since compiling may take long
LIBRARIES = {"products": "cupy", "nnaccel": "cupy", "torch": "torch", "jax": "jax"}


def peers(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    shapes = gpu_shapes(args.rehearse)
    numbers = range(len(shapes)) if args.shapes is None else args.shapes
    expected = dict.fromkeys(numbers, 10.0)  # seconds, as measured in the last precision
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            save(problem(shapes[number]), Path(folder) / f"{number}.npz")
        for left, precision in zip(
            range(len(args.precisions), 0, -1), args.precisions, strict=True
        ):
            begun = time.monotonic()
            stop = begun + (args.stop - begun) / left
            race = Race(precision, folder, args)
            for number in sorted(numbers, key=lambda n: -shapes[n].flops):
                name, started = f"{precision} {shapes[number].name}", time.monotonic()
                if stop - started < expected[number]:
                    yield name, {"note": "left out: no time was left"}
                    continue
                yield name, race.run(number, shapes[number])
                expected[number] = time.monotonic() - started
            race.close()


class Race:
    """The contestants of one precision; their processes run one shape after the other."""

    def __init__(self, precision: str, folder: str, args: argparse.Namespace) -> None:
        self.precision, self.folder, self.args = precision, folder, args
        self.workers = {name: self.start(name) for name in args.contestants}

    def start(self, name: str) -> Worker:
        words = ["peer", name, self.args.device, self.precision, self.folder]
        return Worker(words, self.args.threads)

    def run(self, number: int, shape: Shape) -> dict[str, Any]:
        """Milliseconds per step of each contestant in each round, and its loss after EPOCHS."""
        found: dict[str, Entry] = {}
        turns = {}
        print(self.precision, shape.name, file=sys.stderr)
        for name in self.args.contestants:
            found[name] = {}
            turns[name] = self.prepare(name, number, shape, found[name])
        judge(found, "loss", PRECISIONS[self.precision].tolerance, leave=[FLOOR])
        if any("problem" not in entry for entry in found.values()):
            # A short pause is enough: no thread pool spins, and a synchronised GPU is idle.
            take_turns(found, turns, self.args, wait=lambda: time.sleep(0.01))
        for entry in found.values():
            if "problem" in entry:
                entry.pop("times", None)
        return {"gflop": shape.flops / 1e9, "batch": shape.batch, "contestants": found}

    def prepare(self, name: str, number: int, shape: Shape, entry: Entry) -> Callable[[], float]:
        """Builds and warms up a contestant, and returns its turn: a function that gives the
        milliseconds per step.

        entry: receives the loss, or the problem.
        """

        def ask(epochs: int) -> list[float]:
            if "problem" in entry:
                return [float("nan")] * 2
            try:
                return self.workers[name].ask(number, epochs, limit=LIMIT)
            except RuntimeError as error:
                entry["problem"] = str(error) or "the process has died"
                self.workers[name].process.kill()
                self.workers[name].close()
                self.workers[name] = self.start(name)  # for the next shape
                return [float("nan")] * 2

        first, loss = ask(EPOCHS)
        ask(1)
        seconds = min(ask(1)[0] for _ in range(2))
        if "problem" not in entry:
            entry |= {"loss": loss, "first": first}
        turn = 0.01 if self.args.rehearse else TURN
        epochs = max(1, round(turn / seconds)) if seconds > 0 else 1
        return lambda: 1e3 * ask(epochs)[0] / epochs / shape.steps_on_gpu

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def worker(
    name: str, device: str, precision: str, folder: str
) -> Callable[[int, int], tuple[float, float]]:
    """A function (index of a shape, number of epochs) -> (seconds, mean loss of the last epoch)."""
    library = LIBRARIES[name.partition(" ")[0]]
    if not (library == "cupy" and device == "cpu"):
        importlib.import_module(library)  # at the same time as the other processes
    current, run = -1, None

    def work(number: int, epochs: int) -> tuple[float, float]:
        nonlocal current, run
        if number != current or run is None:
            run = None  # frees its memory
            gc.collect()
            run = GPU_CONTESTANTS[name](load(Path(folder) / f"{number}.npz"), device, precision)
            current = number
        return timed(run, epochs)

    return work


def save(problem: Problem, path: Path) -> None:
    """Saves a problem for all processes, with the order of the examples in an epoch on a GPU."""
    arrays: dict[str, Any] = {f"W{i}": W for i, W in enumerate(problem.weights)}
    arrays |= {f"b{i}": b for i, b in enumerate(problem.biases)}
    shape = np.array([*problem.shape.sizes, problem.shape.batch])
    order = np.resize(problem.order, (problem.shape.steps_on_gpu, problem.shape.batch))
    np.savez(path, shape=shape, X=problem.X, Y=problem.Y, order=order, **arrays)


def load(path: Path) -> Problem:
    with np.load(path) as file:
        *sizes, batch = map(int, file["shape"])
        weights, biases = ([file[f"{x}{i}"] for i in range(len(sizes) - 1)] for x in "Wb")
        shape = Shape(tuple(sizes), batch)
        return Problem(shape, file["X"], file["Y"], file["order"], weights, biases)
