"""Which of the algorithms that cuBLASLt suggests for a product is taken.

The fastest is timed once on a machine, and the choice is kept beside CuPy's own kernels
(CUPY_CACHE_DIR): so the same product has the same bits in every process. Where nothing can be kept
(CUPY_CACHE_IN_MEMORY=1), it is the first suggestion.
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any, Protocol

import cupy

from nnaccel.kernels.cuda.cublaslt import WORKSPACE, Algorithm, library

ROUNDS, REPEATS = 3, 4  # of the timing; a suggestion counts with its best round
MARGIN = 1.03  # a later suggestion has to be faster by more than noise
AHEAD = 8  # times that the workspace is cleared, so that the device falls behind the host


class TunableProduct(Protocol):
    """What a choice needs of a `ProductPlan`."""

    device: int
    problem: Any

    def choose(self, algorithm: Algorithm) -> None: ...

    def run(self, x: int, y: int, out: int, workspace: int, stream: int) -> int: ...


def choice(plan: TunableProduct, algorithms: Sequence[Algorithm], addresses: Sequence[int]) -> int:
    """The number of the algorithm that this machine takes: as before, or else the fastest. The
    first where it cannot be kept, and where a stream that is being captured forbids to wait."""
    folder, stream = cache_folder(), cupy.cuda.get_current_stream()
    if folder is None or len(algorithms) == 1:
        return 0
    properties = cupy.cuda.runtime.getDeviceProperties(plan.device)
    about = properties["name"], properties["multiProcessorCount"], len(algorithms)
    words = f"{library().cublasLtGetVersion()} {about} {plan.problem}"
    path = folder / f"nnaccel-{sha256(words.encode()).hexdigest()[:32]}.algorithm"
    kept = read(path)
    if kept is None and not stream.is_capturing():
        kept = keep(path, fastest(plan, algorithms, addresses, stream), words)
    return kept if kept is not None and 0 <= kept < len(algorithms) else 0


def fastest(
    plan: TunableProduct, algorithms: Sequence[Algorithm], addresses: Sequence[int], stream: Any
) -> int:
    """The number of the first algorithm that is as fast as any of them, but for noise.

    The device is given something to do before: a small product takes it less time than its launch
    takes the host, and times would be those of the host.
    """
    X, Y, out, workspace = addresses
    clear = cupy.cuda.runtime.memsetAsync
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    times = [inf] * len(algorithms)
    for turn in range(1 + ROUNDS):  # the first warms up
        for i, algorithm in enumerate(algorithms):
            plan.choose(algorithm)
            for _ in range(AHEAD):
                clear(workspace, 0, WORKSPACE, stream.ptr)
            begin.record(stream)
            repeats = range(REPEATS if turn else 1)
            statuses = [plan.run(X, Y, out, workspace, stream.ptr) for _ in repeats]
            end.record(stream)
            end.synchronize()
            if turn and not any(statuses):
                times[i] = min(times[i], cupy.cuda.get_elapsed_time(begin, end))
    return next(i for i, time in enumerate(times) if time <= MARGIN * min(times))


def cache_folder() -> Path | None:
    """Where CuPy keeps compiled kernels; None if it keeps them in memory."""
    if os.environ.get("CUPY_CACHE_IN_MEMORY") == "1":
        return None
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


def read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def keep(path: Path, number: int, words: str) -> int | None:
    """Writes a choice down and returns what is written there: that of whoever came first. None if
    nothing can be written: then the next process would choose anew, and perhaps otherwise."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8") as file:
            file.write(f"{number} of {words}\n")
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    except OSError:
        return None
    return read(path)
