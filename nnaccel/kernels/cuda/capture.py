"""What is launched, captured as a CUDA graph, with the memory that the graph goes on writing to."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import cupy

from nnaccel.typing import Array

log = logging.getLogger("nnaccel.kernels.backend")

TOGETHER = 16  # steps of `replayed` in a graph


class Capture:
    """Captures graphs on the current device, on a stream and from a memory pool of their own.

    CuPy's common pool would give away the memory of a temporary array that a graph still writes to
    (its issue 9655), so such arrays come from a pool that nobody else uses. It goes back to the
    device with the last reference to this object: a pool that is no more keeps what is free in it.
    """

    def __init__(self) -> None:
        self._pool = cupy.cuda.MemoryPool(allocate_or_raise)
        self._stream = cupy.cuda.Stream(non_blocking=True)
        device = cupy.cuda.runtime.getDevice()
        self.give_back = weakref.finalize(self, give_back, self._pool, device)
        self.give_back.atexit = False  # CUDA may be gone before

    def graph(self, launch: Callable[[], Any]) -> Any:
        """The graph of all that `launch` launches. What it allocates must not be needed outside."""
        collecting = gc.isenabled()
        gc.disable()  # which might give memory back to CUDA meanwhile
        try:
            with cupy.cuda.using_allocator(self._pool.malloc), self._stream:
                self._stream.begin_capture()
                try:
                    launch()
                except BaseException:
                    with suppress(Exception):  # an invalid capture ends in an error of its own
                        self._stream.end_capture()
                    raise
                return self._stream.end_capture()
        finally:
            if collecting:
                gc.enable()


class Branch:
    """A second branch of the graph that is being captured. What is launched where nothing is
    captured comes one after the other, as ever."""

    def __init__(self) -> None:
        self._stream: Any = None
        self._open = False

    def forget(self) -> None:
        """There is no branch: of a capture that has failed, nothing is left to wait for."""
        self._open = False

    @contextmanager
    def fork(self) -> Iterator[None]:
        """What is launched meanwhile waits for what has been launched before, and is waited for by
        `join` alone."""
        trunk = cupy.cuda.get_current_stream()
        if not trunk.is_capturing():
            yield
            return
        if self._stream is None:
            self._stream = cupy.cuda.Stream(non_blocking=True)
        follow(self._stream, trunk)
        self._open = True
        with self._stream:
            yield

    def join(self) -> None:
        """What follows waits for the branch."""
        if self._open:
            follow(cupy.cuda.get_current_stream(), self._stream)
        self._open = False


def follow(stream: Any, other: Any) -> None:
    """What comes next on a stream waits for all that has been launched on the other."""
    event = cupy.cuda.Event(disable_timing=True)
    event.record(other)
    stream.wait_event(event)


def allocate_or_raise(size: int) -> Any:
    """Memory of the device; MemoryError where there is none.

    CuPy's own error would make the pool give its free memory back to the device and try again. But
    graphs that were captured before still write there.
    """
    try:
        return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise MemoryError(f"no room for {size} bytes of a CUDA graph: {error}") from error


def give_back(pool: Any, device: int) -> None:
    """Returns what is free in a pool to the device: all of it, once its graphs are gone."""
    with cupy.cuda.Device(device):
        pool.free_all_blocks()


def replayed(step: Callable[[], Array]) -> Callable[[int], Array | None]:
    """A function that takes so many steps, as `plain_loop` of kernels/definition.py: TOGETHER of
    them a launch, once they have been taken as they are. The arrays of a step must be the same in
    each. Where it cannot be captured all are taken as they are, and a debug line says why."""
    result: Array | None = None
    graph: tuple[Capture, Any] | None = None
    failed = False

    def captured() -> tuple[Capture, Any]:
        capture = Capture()
        return capture, capture.graph(lambda: [step() for _ in range(TOGETHER)])

    def run(n: int) -> Array | None:
        nonlocal result, graph, failed
        if result is not None and graph is None and not failed:
            try:
                graph = captured()
            except Exception as error:  # whatever speaks against a graph
                failed = True
                log.debug(
                    "products go on without a CUDA graph: %s: %s", type(error).__name__, error
                )
        while graph is not None and n >= TOGETHER:
            graph[1].launch()
            n -= TOGETHER
        for _ in range(n):
            result = step()
        return result

    return run
