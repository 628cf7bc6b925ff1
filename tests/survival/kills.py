"""Training runs that are killed by SIGKILL, and resumed until they end.

A run is a process that trains a small network and writes a checkpoint after every epoch. Half of
the kills come at a random moment, and half in the middle of a write: the process says that one
begins, and dies a random time later. After each kill the checkpoint must load, and must not be
older than the last one that the process has said to be written; the run that ends in the end must
have the parameters of one that nobody has killed, in every bit.
"""

import contextlib
import os
import select
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from nnaccel import files
from nnaccel.maths.network import mlp
from nnaccel.maths.optimizers import adamw
from nnaccel.maths.schedules import one_cycle
from nnaccel.training import checkpoint
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.loop import train

EPOCHS, ROWS, BATCH = 12, 300, 16
NETWORK = mlp(20, [48, 32], 3, activation="tanh", dropout=0.1)
BEGINS, WRITTEN = b"b", b"w"  # what a process says of its writes


class Killed(NamedTuple):
    """What came of a run: its kills, those that hit a write, and what was wrong."""

    kills: int
    in_writes: int
    faults: list[str]


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    Y = rng.integers(0, 3, ROWS)
    return rng.standard_normal((ROWS, 20)) + 0.5 * np.eye(3, 20)[Y], Y


def work(path: Path, say: Any = lambda word: None) -> None:
    """Trains from the checkpoint, if there is one, to the end; a checkpoint after every epoch."""
    X, Y = data()
    saved = checkpoint.load(path) if path.exists() else None
    stopping = EarlyStopping(None, after=saved)
    epochs = train(
        NETWORK, X, Y, loss="softmax_cross_entropy", epochs=EPOCHS, batch_size=BATCH, seed=5,
        optimizer=adamw(one_cycle(0.01, EPOCHS * ROWS // BATCH)), validation_data=(X, Y),
        kernels="numpy", after=saved and saved.epoch,
    )  # fmt: skip
    for epoch in stopping(epochs):
        say(BEGINS)
        checkpoint.save(path, epoch, stopping=stopping)
        say(WRITTEN)


def undisturbed(folder: Path) -> tuple[bytes, float]:
    """The bytes of the checkpoint at the end of a run, and the seconds that it takes."""
    path = folder / "whole"
    started = time.monotonic()
    work(path)
    return path.read_bytes(), time.monotonic() - started


@contextlib.contextmanager
def process(path: Path) -> Iterator[tuple[int, int]]:
    """A process that works, and the end of the pipe on which it says what it writes."""
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(heard)
            work(path, lambda word: os.write(said, word))
            status = 0
        finally:
            os._exit(status)
    os.close(said)
    try:
        yield child, heard
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.close(heard)


def until_killed(child: int, heard: int, rng: Random, seconds: float, write: int) -> bytes:
    """Kills the child at some moment, unless it has ended; what it has said by then.

    write: the number of the write in which it dies, or 0 for any moment within those seconds.
    """
    said = b""
    deadline = time.monotonic() + (20.0 if write else rng.uniform(0, seconds))
    while (wait := deadline - time.monotonic()) > 0:
        if not select.select([heard], [], [], wait)[0]:
            break
        word = os.read(heard, 1)
        if not word:
            break
        said += word
        if write and word == BEGINS and said.count(BEGINS) == write:
            time.sleep(rng.choice([0.0, rng.uniform(0, 0.001), rng.uniform(0, 0.004)]))
            break
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    while word := os.read(heard, 64):
        said += word
    return said


def run_and_kill(folder: Path, seed: int, whole: bytes, seconds: float) -> Killed:
    """A run with one to four kills, and its end."""
    rng, path, faults, number = Random(seed), folder / "run", [], 0
    kills = in_writes = 0
    for _ in range(rng.randint(1, 4)):
        with process(path) as (child, heard):
            write = rng.randint(1, max(1, EPOCHS - number)) if rng.random() < 0.5 else 0
            share = (EPOCHS - number) / EPOCHS
            said = until_killed(child, heard, rng, 0.8 * share * seconds, write)
            _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            if os.WEXITSTATUS(status):
                faults.append(f"seed {seed}: a run ended with status {os.WEXITSTATUS(status)}")
            break
        kills += 1
        in_writes += any(part.suffix == ".part" for part in folder.iterdir())
        number += said.count(WRITTEN)
        try:
            found = checkpoint.load(path).epoch.number if path.exists() else 0
        except (OSError, ValueError) as error:
            faults.append(f"seed {seed}: {error}")
            break
        if found not in (number, number + 1):
            faults.append(f"seed {seed}: epoch {number} was written, and {found} is there")
        number = found
    with process(path) as (child, _):
        _, status = os.waitpid(child, 0)
    if status:
        faults.append(f"seed {seed}: the last run ended with status {status}")
    elif path.read_bytes() != whole:
        faults.append(f"seed {seed}: another result than without kills")
    if left := [part.name for part in folder.iterdir() if part != path]:
        # A run that was already at its end writes nothing more, and so removes nothing.
        files.write(path, path.read_bytes())
        left = [part.name for part in folder.iterdir() if part != path]
    if left:
        faults.append(f"seed {seed}: left behind: {left}")
    path.unlink(missing_ok=True)
    return Killed(kills, in_writes, faults)


def survive(runs: int, first: int = 0) -> tuple[Counter[str], list[str]]:
    """Runs with these seeds; how many kills there were and how many in a write, and all faults."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="nnaccel-survival-") as name:
        folder = Path(name)
        whole, seconds = undisturbed(folder)
        (folder / "whole").unlink()
        for seed in range(first, first + runs):
            found = run_and_kill(folder, seed, whole, seconds)
            counts.update(runs=1, kills=found.kills, in_writes=found.in_writes)
            faults += found.faults
    return counts, faults
