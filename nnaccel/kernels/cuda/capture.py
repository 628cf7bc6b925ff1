"""Launches captured as CUDA graphs, and the memory to which the graphs write."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import cupy

from nnaccel.typing import Array

log = logging.getLogger("nnaccel.kernels.backend")

TOGETHER = 16  # steps per graph in `replayed`


class Capture:
    """Captures graphs on the current device, with a separate stream and memory pool.

    CuPy's default pool would reuse the memory of a temporary array to which a graph still writes
    (CuPy issue 9655). So temporary arrays come from a pool that only captures use. Its memory is
    returned to the device with the last reference to this object, explicitly, since a pool that is
    deleted does not free its unused blocks.
    """

    def __init__(self) -> None:
        self._pool = cupy.cuda.MemoryPool(allocate_or_raise)
        self._stream = cupy.cuda.Stream(non_blocking=True)
        device = cupy.cuda.runtime.getDevice()
        self.give_back = weakref.finalize(self, give_back, self._pool, device)
        self.give_back.atexit = False  # CUDA may be shut down by then

    def graph(self, launch: Callable[[], Any]) -> Any:
        """The graph of all launches by `launch`. Arrays that `launch` allocates must not be read
        after it returns."""
        collecting = gc.isenabled()
        gc.disable()  # a collection might free CUDA memory during the capture
        try:
            with cupy.cuda.using_allocator(self._pool.malloc), self._stream:
                self._stream.begin_capture()
                try:
                    launch()
                except BaseException:
                    with suppress(Exception):  # ending an invalid capture raises another error
                        self._stream.end_capture()
                    raise
                return self._stream.end_capture()
        finally:
            if collecting:
                gc.enable()


class Branch:
    """A second branch of the graph that is being captured. Outside a capture all launches run in
    order on the current stream."""

    def __init__(self) -> None:
        self._stream: Any = None
        self._open = False

    def forget(self) -> None:
        """Drops the branch, since after a failed capture `join` must not wait for it."""
        self._open = False

    @contextmanager
    def fork(self) -> Iterator[None]:
        """In this context launches go to the branch: they wait for all earlier launches, and only
        `join` waits for them."""
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
        """Makes all later launches wait for the branch."""
        if self._open:
            follow(cupy.cuda.get_current_stream(), self._stream)
        self._open = False


def follow(stream: Any, other: Any) -> None:
    """Makes later launches on `stream` wait for all earlier launches on `other`."""
    event = cupy.cuda.Event(disable_timing=True)
    event.record(other)
    stream.wait_event(event)


def allocate_or_raise(size: int) -> Any:
    """Allocates `size` bytes on the device; MemoryError if they are not available.

    CuPy's own error would make the pool free its unused blocks and retry, but graphs captured
    before still write to those blocks.
    """
    try:
        return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise MemoryError(f"no room for {size} bytes of a CUDA graph: {error}") from error


def give_back(pool: Any, device: int) -> None:
    """Returns the unused blocks of a pool to the device: all blocks if its graphs are deleted."""
    with cupy.cuda.Device(device):
        pool.free_all_blocks()


def replayed(step: Callable[[], Array]) -> Callable[[int], Array | None]:
    """A function n -> result that runs `step` n times, as `plain_loop` of kernels/definition.py.

    The first call runs the steps directly. Later calls replay a CUDA graph of TOGETHER steps, and
    run the remaining steps directly. Every step must use the same arrays. If the steps cannot be
    captured, all steps run directly, and a debug line gives the reason.
    """
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
            except Exception as error:  # any reason against a graph
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
