"""The device memory of one training run."""

from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda.signatures import LANES
from nnaccel.kernels.gradient_buffers import Buffers
from nnaccel.typing import Array


class DeviceBuffers(Buffers):
    """The buffers of a run, and the scratch memory for the partial sums of blocks."""

    def __init__(self) -> None:
        super().__init__(cupy)
        self._counters: Array | None = None  # zero between launches

    def named(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """The buffer with this name: the same memory in every step, initially uninitialised."""
        return self._buffer(name, shape, dtype)

    def partial_sums(self, n: int, dtype: Any, counters: int = 1) -> tuple[Array, Array]:
        """Scratch memory (n,) for partial sums, and counters of the blocks that have written their
        sums, at least `counters` of them."""
        if self._counters is None or self._counters.shape[0] < counters:
            self._counters = cupy.zeros(max(counters, LANES), np.uint32)
        return self.named("sums", (n,), dtype), self._counters

    def memory(self) -> list[Array]:
        """All memory of `Buffers.memory`, and the counters."""
        return [*super().memory(), *([] if self._counters is None else [self._counters])]

    def has_views_of(self, params: Array) -> bool:
        """Whether params is the vector of the latest call of `views`."""
        return params is self._params

    @property
    def gradient(self) -> Array:
        """The gradient vector, of the shape of the parameters in the latest call of `views`."""
        return self._grads

    def gradients_of(self, W: Array) -> tuple[Array | None, Array | None]:
        """The views of the gradient vector for dW and db of the layer with weights W; (None, None)
        for unknown weights."""
        return self._homes.get(id(W), (None, None))
