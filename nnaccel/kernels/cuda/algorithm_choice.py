"""Which of the algorithms that cuBLASLt suggests for a product is taken.

The fastest is timed once on a machine, and the choice is kept with its times beside CuPy's own
kernels (CUPY_CACHE_DIR): so the same product has the same bits in every process. Where nothing can
be kept (CUPY_CACHE_IN_MEMORY=1), it is the first suggestion. A process with
NNACCEL_CHOOSE_ALGORITHMS=1 chooses anew, and keeps that instead.
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

ROUNDS, REPEATS = 3, 4  # of the timing; a suggestion counts with its best round
NEAR, MORE_ROUNDS = 1.1, 12  # those within a tenth of the fastest are timed again, in more rounds
MARGIN = 1.03  # a later suggestion has to be faster by more than noise
AHEAD = 8  # times that the workspace is cleared, so that the device falls behind the host
SAME_BITS = 1000  # runs without another result, of an algorithm that has to show it


class TunableProduct(Protocol):
    """What a choice needs of a `ProductPlan`."""

    device: int
    problem: Any

    def choose(self, algorithm: Algorithm) -> None: ...

    def run(self, x: int, y: int, out: int, workspace: int, stream: int) -> int: ...

    def sums_in_place(self, algorithm: Algorithm) -> bool: ...


def choice(
    plan: TunableProduct, algorithms: Sequence[Algorithm], addresses: Sequence[int], out: Array
) -> int:
    """The number of the algorithm that this machine takes: as before, or else the fastest. The
    first where it cannot be kept, and where a stream that is being captured forbids to wait.

    addresses: of X, Y, out and the workspace.
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
    """The number of the first algorithm that is as fast as any of them, but for noise; and the
    microseconds of each, None for one that fails, or whose results differ from run to run."""
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
    """Milliseconds of REPEATS products by each algorithm with one of these numbers, the best of so
    many rounds; infinity for others, and for those that fail.

    The device is given something to do before: a small product takes it less time than its launch
    takes the host, and times would be those of the host.
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
    """Whether the algorithm that is chosen gives the same result in SAME_BITS runs."""
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
    """Where CuPy keeps compiled kernels; None if it keeps them in memory."""
    if os.environ.get("CUPY_CACHE_IN_MEMORY") == "1":
        return None
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


def read(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["algorithm"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def keep(path: Path, note: dict[str, Any], *, replace: bool = False) -> int | None:
    """Writes a choice down and returns what is written there: that of whoever came first, unless
    it is to be replaced. None if nothing can be written: then the next process would choose anew,
    and perhaps otherwise."""
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
