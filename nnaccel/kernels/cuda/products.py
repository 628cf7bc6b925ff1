"""Matrix products that are written where they belong."""

from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda.bfloat16 import widened
from nnaccel.kernels.cuda.cublaslt import WORKSPACE, address
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.product_plan import ALIGNED, ProductPlan, product_plan
from nnaccel.typing import Array


class Products:
    """The products of a run with their plans and the workspace that cuBLASLt needs."""

    def __init__(self, buffers: DeviceBuffers, *, tf32: bool) -> None:
        self._buffers, self._tf32 = buffers, tf32
        self._plans: dict[Any, ProductPlan | None] = {}  # by shapes, strides, types and alignments
        self._workspace = 0  # its address

    def matmul(self, X: Array, Y: Array, out: Array) -> Array:
        """X Y, written into `out`, which shares no memory with X and Y.

        X: (..., N, D).   Y: (..., D, H).   out: (..., N, H).   Transposed views are read as they
        lie. On the current stream, which may be one that is being captured.
        """
        at = address(X), address(Y), address(out)
        plan = self._plan(X, Y, out, at)
        if plan is not None:
            plan(*at, self._workspace, cupy.cuda.get_current_stream().ptr)
        elif out.flags.c_contiguous:
            cupy.matmul(widened(X), widened(Y), out=out)
        else:
            out[...] = cupy.matmul(widened(X), widened(Y))
        return out

    def relu_matmul(self, X: Array, Y: Array, out: Array, mask: Array, db: Array) -> bool:
        """X Y where a bit of the mask is set, else 0, written into `out`, and its sum over rows
        into db. False, having done nothing, where the library cannot do it.

        X, Y, out: as of `matmul`.   mask: (..., N, H / 32), as `store_mask` of `dense.cuh` writes
        it.   db: (..., 1, H).
        """
        at = address(X), address(Y), address(out)
        plan = self._plan(X, Y, out, at, (mask, db))
        if plan is None:
            return False
        plan.point_to(address(mask), address(db))
        plan(*at, self._workspace, cupy.cuda.get_current_stream().ptr)
        return True

    def _plan(
        self,
        X: Array,
        Y: Array,
        out: Array,
        at: tuple[int, int, int],
        relu: tuple[Array, Array] | None = None,
    ) -> ProductPlan | None:
        """The plan for products of such arrays at such addresses.   relu: as of `product_plan`."""
        key = (
            (X.shape, X.strides, at[0] % ALIGNED, X.dtype.char),
            (Y.shape, Y.strides, at[1] % ALIGNED, Y.dtype.char),
            (out.strides, at[2] % ALIGNED, out.dtype.char),
            relu and tuple((x.strides, address(x) % ALIGNED) for x in relu),
        )
        if key not in self._plans:
            workspace = self._buffers.named("products", (WORKSPACE,), np.uint8)
            self._workspace = address(workspace)
            self._plans[key] = product_plan(X, Y, out, workspace, tf32=self._tf32, relu=relu)
        return self._plans[key]


def product_shape(X: Array, Y: Array) -> tuple[int, ...] | None:
    """The shape of X Y for matrices, or stacks of them along one axis; None for other arrays, and
    where nothing is to be multiplied."""
    if {X.ndim, Y.ndim} - {2, 3} or X.shape[-1] != Y.shape[-2] or not X.size or not Y.size:
        return None
    counts = {x.shape[0] for x in (X, Y) if x.ndim == 3} - {1}
    if len(counts) > 1:
        return None
    lead = (counts.pop() if counts else 1,) if 3 in (X.ndim, Y.ndim) else ()
    return *lead, X.shape[-2], Y.shape[-1]
