"""Copies to CUDA devices during the steps: pinned memory and a separate stream."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from nnaccel.devices.device import Device
from nnaccel.typing import Array


class Copies(Protocol):
    """Pinned memory, which the driver can read, and a stream for the copies from it.

    Events have `record(stream)` and `synchronize()`, streams `wait_event(event)` and
    `synchronize()`, in CuPy as in PyTorch.
    """

    stream: Any  # runs independently of the stream of the steps, except for events
    event: Callable[[], Any]
    current: Callable[[], Any]  # the stream that the steps are launched on
    pinned: Callable[[tuple[int, ...], Any], np.ndarray]
    empty: Callable[[tuple[int, ...], Any], Array]
    copy: Callable[[np.ndarray, Array], None]  # enqueued on `stream`, from pinned memory


class CupyCopies:
    """`Copies` by CuPy, on the current device."""

    def __init__(self) -> None:
        cupy = import_module("cupy")
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.event = partial(cupy.cuda.Event, block=True, disable_timing=True)
        self.current = cupy.cuda.get_current_stream
        self.pinned = import_module("cupyx").empty_pinned
        self.empty = cupy.empty

    def copy(self, host: np.ndarray, device: Array) -> None:
        device.set(host, stream=self.stream)


class TorchCopies:
    """`Copies` by PyTorch."""

    def __init__(self, handle: Any) -> None:
        self._torch = torch = import_module("torch")
        self._handle = handle
        self.stream = torch.cuda.Stream(handle)
        self.event = partial(torch.cuda.Event, blocking=True)
        self.current = partial(torch.cuda.current_stream, handle)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        kind = getattr(self._torch, np.dtype(dtype).name)
        return self._torch.empty(shape, dtype=kind, pin_memory=True).numpy()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        kind = getattr(self._torch, np.dtype(dtype).name)
        return self._torch.empty(shape, dtype=kind, device=self._handle)

    def copy(self, host: np.ndarray, device: Array) -> None:
        with self._torch.cuda.stream(self.stream):
            device.copy_(self._torch.from_numpy(host), non_blocking=True)


def copies_to(device: Device) -> Copies | None:
    """The copies to a CUDA device of CuPy or PyTorch; None for any other device."""
    if device.library == "cupy":
        return CupyCopies()
    if device.name.startswith("torch:cuda"):
        return TorchCopies(device.handle)
    return None
