"""The memory of one training run on a device."""

from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda.signatures import LANES
from nnaccel.kernels.gradient_buffers import Buffers
from nnaccel.typing import Array


class DeviceBuffers(Buffers):
    """The buffers of a run, and the scratch memory in which blocks add up their sums."""

    def __init__(self) -> None:
        super().__init__(cupy)
        self._counters: Array | None = None  # zeros, between launches

    def named(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """The array of that name: the same memory in every step, uninitialised at first."""
        return self._buffer(name, shape, dtype)

    def partial_sums(self, n: int, dtype: Any, counters: int = 1) -> tuple[Array, Array]:
        """Scratch memory for n partial sums, and counters of the blocks that have left theirs."""
        if self._counters is None or self._counters.shape[0] < counters:
            self._counters = cupy.zeros(max(counters, LANES), np.uint32)
        return self.named("sums", (n,), dtype), self._counters

    def memory(self) -> list[Array]:
        """As `Buffers.memory`, with the counters."""
        return [*super().memory(), *([] if self._counters is None else [self._counters])]

    def has_views_of(self, params: Array) -> bool:
        """Whether these are the parameters of the latest `views`."""
        return params is self._params

    @property
    def gradient(self) -> Array:
        """The gradient vector of the latest `views`."""
        return self._grads

    def gradients_of(self, W: Array) -> tuple[Array | None, Array | None]:
        """Where dW and db of a layer belong in the gradient vector; None for unknown weights."""
        return self._homes.get(id(W), (None, None))
