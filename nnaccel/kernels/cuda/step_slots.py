"""What captured steps find on the device, and what they leave there."""

from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda.launch import kernel, pointer, vector_grid
from nnaccel.kernels.cuda.signatures import TYPES
from nnaccel.kernels.dense_plan import by_batch
from nnaccel.maths.metrics import Metric
from nnaccel.typing import Array, Namespace

NO_ROWS = (0,) * 12  # arguments of `begin` where each step takes its minibatch itself


class StepSlots:
    """The arrays that captured steps find at the same addresses in every step and epoch; two
    kernels of `graph_step.cuh` write there.

    n: numbers of the optimizer in a step.   batch: examples in one.
    """

    def __init__(self, n: int, batch: int, dtype: Any) -> None:
        self._type, self._batch = TYPES[dtype.name], batch
        self._epoch = cupy.empty(256, np.uint8)  # memory for an `Epoch`
        self._taken = 0  # numbers of a minibatch that the end of a step takes
        self._counter = cupy.zeros((1,), np.uint32)
        self.numbers = cupy.empty((n,), dtype)
        self.index = cupy.empty((batch,), np.int64)  # the examples of the minibatch
        self.count = cupy.empty((), np.int32)  # updates before this one

    def begin(
        self,
        table: Array | None,
        order: Array,
        losses: Array,
        logits: Array | None,
        count: int,
        rows: tuple[Any, ...] | None,
    ) -> None:
        """The first step of an epoch is the next one. These arrays must live until the last one.

        table: (n_steps, n), or None where n is 0.   order: (N,).   losses: (n_steps, networks).
        logits: (kept, size), of so many steps and then of the next in their place, or None.
        count: of updates before.   rows: as of `ElementwiseKernels.rows_of`.
        """
        self._taken = 0 if rows is None else self._batch * rows[3]
        kept, size = (1, 0) if logits is None else logits.shape
        args = (
            self._epoch, pointer(table), self.numbers.shape[0], order, order.shape[0], self._batch,
            losses, pointer(logits), kept, size,
            self.numbers, self.index, self.count, count, *(NO_ROWS if rows is None else rows),
        )  # fmt: skip
        grid = vector_grid(max(self._batch, self._taken), self.index.itemsize)
        kernel("begin", self._type)(*grid, args)

    def tick(self, value: Array, Z: Array, keeps: bool) -> None:
        """Ends a step with its loss (...), and its logits (..., B, K) if the epoch keeps them."""
        end = self.end(value, Z)
        most = max(self._batch, self._taken, Z.size if keeps else 0)
        grid, block = vector_grid(most, Z.itemsize)
        kernel("tick", self._type)(grid, block, end)

    def end(self, value: Array, Z: Array) -> tuple[Any, ...]:
        """The arguments by which a kernel ends a step."""
        value = cupy.ascontiguousarray(value, self.numbers.dtype)
        Z = cupy.ascontiguousarray(Z, self.numbers.dtype)
        return self._epoch, value, value.size, Z, Z.size, self._counter


def logits_of(kept: Array, N: int, batch: int, shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """The logits (..., N, K) of some steps of `batch` examples, the last of which may have fewer.

    kept: (steps, size), those of a step side by side.   shape: (..., K).
    """
    *lead, K = shape
    if not lead:
        return xp.reshape(kept, (-1, K))[:N]
    (networks,), n_full, rest = lead, N // batch, N % batch
    full = xp.reshape(kept[:n_full], (n_full, networks, batch, K))
    parts = [xp.reshape(xp.permute_dims(full, (1, 0, 2, 3)), (networks, n_full * batch, K))]
    if rest:
        parts.append(xp.reshape(kept[n_full, : networks * rest * K], (networks, rest, K)))
    return xp.concat(parts, axis=1)


def means_of(
    metric: Metric, Z: Array, Y: Array, weights: Array | None, batch: int, *, xp: Namespace
) -> Array:
    """The metric of each batch (n_steps, ...).   Z: (..., N, K).   weights: (N,), (N, networks) or
    None."""
    if weights is None or weights.ndim == 1:
        return by_batch(metric, Z, Y, weights, batch, xp=xp).T
    each = [by_batch(metric, Z[k, ...], Y, weights[:, k], batch, xp=xp) for k in range(Z.shape[0])]
    return xp.stack(each, axis=-1)
