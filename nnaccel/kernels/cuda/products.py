"""Matrix products that write into given arrays, by cuBLASLt or else by CuPy."""

from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda.bfloat16 import widened
from nnaccel.kernels.cuda.cublaslt import WORKSPACE, address
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.product_plan import ALIGNED, ProductPlan, product_plan
from nnaccel.typing import Array


class Products:
    """The matrix products of a run, with their plans and the workspace of cuBLASLt."""

    def __init__(self, buffers: DeviceBuffers, *, tf32: bool) -> None:
        self._buffers, self._tf32 = buffers, tf32
        self._plans: dict[Any, ProductPlan | None] = {}  # by shapes, strides, types and alignments
        self._workspace = 0  # its address

    def matmul(self, X: Array, Y: Array, out: Array) -> Array:
        """out = X Y, on the current stream, which may be in a capture.

        X: (..., N, D).   Y: (..., D, H).   out: (..., N, H), sharing no memory with X and Y.
        Transposed views are not copied.
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
        """out = X Y where the bit of the mask is set, else 0, and db = the sum of out over rows.

        X, Y, out: as for `matmul`.   mask: (..., N, H / 32) words, written by `store_mask` of
        `dense.cuh`.   db: (..., 1, H).
        Returns False, without a launch, if the library does not support the product.
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
        """The plan for arrays with these shapes, strides, dtypes and alignments; None without one.

        at: the addresses of X, Y and out.   relu: as for `product_plan`.
        """
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
    """The shape (..., N, H) of X Y, for X (..., N, D) and Y (..., D, H) with at most one leading
    axis; None for other shapes, and for empty arrays."""
    if {X.ndim, Y.ndim} - {2, 3} or X.shape[-1] != Y.shape[-2] or not X.size or not Y.size:
        return None
    counts = {x.shape[0] for x in (X, Y) if x.ndim == 3} - {1}
    if len(counts) > 1:
        return None
    lead = (counts.pop() if counts else 1,) if 3 in (X.ndim, Y.ndim) else ()
    return *lead, X.shape[-2], Y.shape[-1]
