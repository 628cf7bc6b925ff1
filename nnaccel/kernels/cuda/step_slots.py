"""The device arrays that captured steps read and write at fixed addresses."""

from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda.launch import kernel, pointer, vector_grid
from nnaccel.kernels.cuda.signatures import TYPES
from nnaccel.kernels.dense_plan import by_batch
from nnaccel.maths.metrics import Metric
from nnaccel.typing import Array, Namespace

NO_ROWS = (0,) * 12  # arguments of `begin` if each step gathers its own minibatch


class StepSlots:
    """The arrays that captured steps read at the same addresses in every step and epoch. The
    kernels of `graph_step.cuh` write them.

    n: optimizer numbers per step.   batch: examples per step.
    """

    def __init__(self, n: int, batch: int, dtype: Any) -> None:
        self._type, self._batch = TYPES[dtype.name], batch
        self._epoch = cupy.empty(256, np.uint8)  # memory for an `Epoch`
        self._taken = 0  # elements of X per minibatch, if the end of a step gathers it
        self._counter = cupy.zeros((1,), np.uint32)
        self.numbers = cupy.empty((n,), dtype)
        self.index = cupy.empty((batch,), np.int64)  # the examples of the minibatch
        self.count = cupy.empty((), np.int32)  # updates before this step

    def begin(
        self,
        table: Array | None,
        order: Array,
        losses: Array,
        logits: Array | None,
        count: int,
        rows: tuple[Any, ...] | None,
    ) -> None:
        """Prepares the first step of an epoch. The arrays must live until the last step.

        table: (n_steps, n) optimizer numbers, or None if n is 0.   order: (N,).
        losses: (n_steps, networks).   logits: (kept, size), a ring buffer of the logits of the
        last `kept` steps, or None.   count: updates before the epoch.
        rows: the result of `ElementwiseKernels.rows_of`.
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
        """Ends a step with a kernel that records its loss (...), and its logits (..., B, K) if the
        epoch stores them, and prepares the next step.

        keeps: whether the epoch stores logits.
        """
        end = self.end(value, Z)
        most = max(self._batch, self._taken, Z.size if keeps else 0)
        grid, block = vector_grid(most, Z.itemsize)
        kernel("tick", self._type)(grid, block, end)

    def end(self, value: Array, Z: Array) -> tuple[Any, ...]:
        """The kernel arguments that end a step with the loss `value` (...) and logits Z."""
        value = cupy.ascontiguousarray(value, self.numbers.dtype)
        Z = cupy.ascontiguousarray(Z, self.numbers.dtype)
        return self._epoch, value, value.size, Z, Z.size, self._counter


def logits_of(kept: Array, N: int, batch: int, shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """The logits (..., N, K) of some steps of `batch` examples; the last step may have fewer.

    kept: (steps, size), the logits (..., B, K) of a step as one row.   N: examples in all steps.
    shape: (..., K).
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
    """The metric of each batch, (n_steps, ...).

    Z: (..., N, K).   Y: N targets.   weights: (N,), (N, networks) or None.
    """
    if weights is None or weights.ndim == 1:
        return by_batch(metric, Z, Y, weights, batch, xp=xp).T
    each = [by_batch(metric, Z[k, ...], Y, weights[:, k], batch, xp=xp) for k in range(Z.shape[0])]
    return xp.stack(each, axis=-1)
