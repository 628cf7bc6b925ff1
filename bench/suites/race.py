"""Times the rows of one table in turns, each in the process of its library.

Two BLAS thread pools in one process slow each other down by up to ten times. So each library has
its own process, and spinning threads fall asleep in a pause between turns. Compared rows take turns
round by round, so that a machine that slows down slows all of them.
"""

import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

from bench.shared import report
from nnaccel.devices.available import available
from nnaccel.devices.device import Device, select
from nnaccel.kernels.definition import NotSupported

PAUSE = 0.03  # seconds between turns, as long as OpenBLAS's threads spin
TURN = 0.04  # seconds of a turn; a turn is at least one call

NAMES = {"cpu": "numpy", "cuda": "cupy", "torch:cpu": "torch", "jax:cpu": "jax"}
FAST = "[fast]"  # with Numba


class Backend(NamedTuple):
    """One row of a table: a device, and the kernels that are switched on."""

    name: str
    device_name: str
    kernels: str = "all"  # those, "numpy" (without Numba), or one of `kernel_sets.KERNEL_SETS`

    @property
    def device(self) -> Device:
        return select(self.device_name)


class Work(NamedTuple):
    """The timed functions, built in the process of their library."""

    run: Callable[[], Any]  # a call does the work `repeats` times
    repeats: int = 1
    bare: Callable[[], Any] | None = None  # the matrix products of such a call, alone
    flops: float = 0.0  # of these products, for one work
    samples: float = 0.0  # examples that one work goes through
    facts: Callable[[], dict[str, Any]] = dict  # further results after the timing


class Row(NamedTuple):
    """The times of one backend, in seconds of one work."""

    times: list[float]
    facts: dict[str, Any]  # GFLOP/s and other results besides the times


def backends(names: Iterable[str] | None) -> list[Backend]:
    """The backends of the named devices; None: NumPy, CuPy, PyTorch and JAX, if installed.

    NumPy occurs twice, without and with Numba.
    """
    if names is None:
        there = [device.name for device in available() if not device.problem]
        names = [name for name in there if name.partition(":")[0] == "cuda" or name in NAMES]
    found = []
    for device_name in names:
        name = NAMES.get(device_name, device_name)
        if device_name == "cpu":
            found.append(Backend(name, device_name, "numpy"))
            name += FAST
        found.append(Backend(name, device_name))
    return found


class Race:
    """The processes of the libraries, one for each, started when they are first needed."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self._pools: dict[str, ProcessPoolExecutor] = {}
        self._rows: dict[Any, dict[Backend, Row | str]] = {}

    def run(
        self, build: Callable[..., Work], args: tuple[Any, ...], rows: Iterable[Backend]
    ) -> dict[Backend, Row | str]:
        """The rows of one table. Rows with the same work are timed once.

        build: (backend, *args) -> Work, a function of a module, since a process finds it by name.
        If it raises ImportError or NotSupported, the row has the message.
        """
        rows = tuple(rows)
        key = build, args, rows
        if key not in self._rows:
            self._rows[key] = self._raced(build, args, list(rows))
        return self._rows[key]

    def _raced(
        self, build: Callable[..., Work], args: tuple[Any, ...], rows: list[Backend]
    ) -> dict[Backend, Row | str]:
        ready = {b: self._pool(b).submit(prepare, build, b, args) for b in rows}
        result: dict[Backend, Row | str] = {}
        for backend, future in ready.items():
            try:
                future.result()
            except (ImportError, NotSupported) as error:
                result[backend] = str(error)
        rows = [backend for backend in rows if backend not in result]
        times: dict[Backend, list[tuple[float, float]]] = {backend: [] for backend in rows}
        for number in range(self.rounds if rows else 0):
            first = number % len(rows)
            for backend in rows[first:] + rows[:first]:
                time.sleep(PAUSE)
                times[backend].append(self._pool(backend).submit(turn, backend).result())
        for backend in rows:
            mine, bare = map(list, zip(*times[backend], strict=True))
            told = self._pool(backend).submit(finish, backend, min(mine), min(bare))
            result[backend] = Row(mine, told.result())
        return result

    def _pool(self, backend: Backend) -> ProcessPoolExecutor:
        """The process of a library; NumPy has two, since Numba's epochs bring threads and SciPy."""
        library = backend.device_name
        if library == "cpu" and (backend.kernels == "all" or backend.kernels.startswith("numba")):
            library += FAST
        if library not in self._pools:
            self._pools[library] = ProcessPoolExecutor(1, get_context("spawn"))
        return self._pools[library]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown()


# In the process of a library:

_WORKS: dict[Backend, tuple[Work, int]] = {}  # and the calls of a turn


def prepare(build: Callable[..., Work], backend: Backend, args: tuple[Any, ...]) -> None:
    """Builds the work and warms up."""
    warnings.simplefilter("ignore")
    work = build(backend, *args)
    work.run()
    seconds = _timed(work.run, 1)
    if work.bare:
        work.bare()
    _WORKS[backend] = work, max(1, round(TURN / seconds))


def turn(backend: Backend) -> tuple[float, float]:
    """Seconds of one work, and of its bare products, or 0 without any."""
    work, calls = _WORKS[backend]
    bare = _timed(work.bare, calls) if work.bare else 0.0
    return _timed(work.run, calls) / work.repeats, bare / work.repeats


def _timed(function: Callable[[], Any], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls


def finish(backend: Backend, seconds: float, bare: float) -> dict[str, Any]:
    """The results besides the time. Ends the work, whose memory others need."""
    work, _ = _WORKS.pop(backend)
    facts: dict[str, Any] = {"backend": backend.name, "device": backend.device_name}
    facts |= {"seconds": seconds, "threads": report.threads()}
    if work.flops:
        facts["gflops"] = work.flops / seconds / 1e9
    if work.samples:
        facts["samples_per_second"] = work.samples / seconds
    if bare:
        facts |= {"share_of_products": bare / seconds, "products_seconds": bare}
    return facts | work.facts()
