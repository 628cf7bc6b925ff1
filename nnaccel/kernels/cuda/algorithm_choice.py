"""The choice among the algorithms that cuBLASLt suggests for a product.

The algorithms are timed once on a machine. The choice and the times are saved in the folder of
CuPy's compiled kernels (CUPY_CACHE_DIR), so that a product has the same bits in every process.
Without this folder (CUPY_CACHE_IN_MEMORY=1) the first suggestion is used. A process with
NNACCEL_CHOOSE_ALGORITHMS=1 times the algorithms again and replaces the saved choice.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from math import inf, isfinite
from pathlib import Path
from typing import Any, Protocol

import cupy
import numpy as np

from nnaccel.kernels.cuda.cublaslt import WORKSPACE, Algorithm, library
from nnaccel.typing import Array

ROUNDS, REPEATS = 3, 4  # of the timing; the best round of a suggestion counts
NEAR, MORE_ROUNDS = 1.1, 12  # suggestions within 10 % of the fastest are timed in more rounds
MARGIN = 1.03  # a later suggestion must be faster by more than the noise
AHEAD = 8  # clears of the workspace before a timing, so that the device lags behind the host
SAME_BITS = 1000  # runs that must give the same bits, for algorithms that sum in the output


class TunableProduct(Protocol):
    """The part of `ProductPlan` that a choice uses."""

    device: int
    problem: Any

    def choose(self, algorithm: Algorithm) -> None: ...

    def run(self, x: int, y: int, out: int, workspace: int, stream: int) -> int: ...

    def sums_in_place(self, algorithm: Algorithm) -> bool: ...


def choice(
    plan: TunableProduct, algorithms: Sequence[Algorithm], addresses: Sequence[int], out: Array
) -> int:
    """The index of the algorithm for this machine: the saved choice, else the fastest algorithm.

    The index is 0 if choices cannot be saved, or if none is saved yet and the current stream is in
    a capture, which makes timing impossible.
    addresses: of X, Y, out and the workspace.   out: the array of the product, overwritten.
    """
    folder, stream = cache_folder(), cupy.cuda.get_current_stream()
    if folder is None or len(algorithms) == 1:
        return 0
    properties = cupy.cuda.runtime.getDeviceProperties(plan.device)
    about = properties["name"], properties["multiProcessorCount"], len(algorithms)
    product = f"{library().cublasLtGetVersion()} {about} {plan.problem}"
    path = folder / f"nnaccel-{sha256(product.encode()).hexdigest()[:32]}.algorithm"
    kept, anew = read(path), os.environ.get("NNACCEL_CHOOSE_ALGORITHMS") == "1"
    if (kept is None or anew) and not stream.is_capturing():
        number, times = fastest(plan, algorithms, addresses, stream, out)
        note = {"algorithm": number, "microseconds": times, "product": product}
        kept = keep(path, note, replace=anew)
    return kept if kept is not None and 0 <= kept < len(algorithms) else 0


def fastest(
    plan: TunableProduct,
    algorithms: Sequence[Algorithm],
    addresses: Sequence[int],
    stream: Any,
    out: Array,
) -> tuple[int, list[float | None]]:
    """The index of the first algorithm that is within MARGIN of the fastest, and all times.

    times: microseconds of REPEATS products by each algorithm; None for an algorithm that fails, or
    whose results differ from run to run.
    """
    numbers = range(len(algorithms))
    times = timed(plan, algorithms, addresses, stream, numbers, ROUNDS)
    near = [i for i in numbers if times[i] <= NEAR * min(times)]
    if len(near) > 1:
        again = timed(plan, algorithms, addresses, stream, near, MORE_ROUNDS)
        times = [again[i] if i in near else times[i] for i in numbers]
    while True:
        best = next(i for i in numbers if times[i] <= MARGIN * min(times))
        if not isfinite(times[best]) or not plan.sums_in_place(algorithms[best]):
            break
        plan.choose(algorithms[best])
        if has_same_bits(plan, addresses, stream, out):
            break
        times[best] = inf
    return best, [round(1e3 * time, 3) if isfinite(time) else None for time in times]


def timed(
    plan: TunableProduct,
    algorithms: Sequence[Algorithm],
    addresses: Sequence[int],
    stream: Any,
    numbers: Sequence[int],
    rounds: int,
) -> list[float]:
    """Milliseconds of REPEATS products by each algorithm, the best of `rounds` rounds.

    numbers: the indices of the algorithms to time. The time is infinity for all others, and for
    algorithms that fail.
    The device clears the workspace first, so that it lags behind the host. Otherwise a small
    product would take the device less time than its launch takes the host, and the times would
    measure the host.
    """
    X, Y, out, workspace = addresses
    clear = cupy.cuda.runtime.memsetAsync
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    times = [inf] * len(algorithms)
    for turn in range(1 + rounds):  # the first warms up
        for i in numbers:
            plan.choose(algorithms[i])
            for _ in range(AHEAD):
                clear(workspace, 0, WORKSPACE, stream.ptr)
            begin.record(stream)
            repeats = range(REPEATS if turn else 1)
            statuses = [plan.run(X, Y, out, workspace, stream.ptr) for _ in repeats]
            end.record(stream)
            end.synchronize()
            if turn and not any(statuses):
                times[i] = min(times[i], cupy.cuda.get_elapsed_time(begin, end))
    return times


def has_same_bits(plan: TunableProduct, addresses: Sequence[int], stream: Any, out: Array) -> bool:
    """Whether the chosen algorithm of the plan gives the same bits in SAME_BITS runs."""
    X, Y, to, workspace = addresses
    first, different = None, cupy.zeros((), np.bool_)
    for _ in range(SAME_BITS):
        if plan.run(X, Y, to, workspace, stream.ptr):
            return False
        if first is None:
            first = out.copy()
        different |= (out != first).any()
    return not bool(different)


def cache_folder() -> Path | None:
    """The folder of CuPy's compiled kernels; None if CuPy keeps them in memory."""
    if os.environ.get("CUPY_CACHE_IN_MEMORY") == "1":
        return None
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


def read(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["algorithm"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def keep(path: Path, note: dict[str, Any], *, replace: bool = False) -> int | None:
    """Saves a choice and returns the saved index.

    If another process has saved its choice first, that choice stays and is returned, unless
    `replace` is set. Returns None if the file cannot be written: the next process would then
    choose again, and might choose differently.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if replace:
            path.unlink(missing_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    except OSError:
        return None
    return read(path)
