"""Calls SciPy's BLAS from compiled code, since Numba can call no other."""

from typing import Any

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  # loaded here, so that its threads can be limited
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address

from nnaccel.kernels.numba.intrinsics import llvm_intrinsic, register_symbol
from nnaccel.kernels.numba.jit import compiled
from nnaccel.typing import Array

N, T = (np.uint8(ord(letter)) for letter in "NT")

for name in ("sgemm", "dgemm"):
    address = get_cython_function_address("scipy.linalg.cython_blas", name)
    register_symbol(f"nnaccel_{name}", address)


@compiled
def product(X: Array, Y: Array, scale: Any, out: Array) -> None:
    """out (m, n) = scale X (m, k) Y (k, n). X and Y have contiguous rows or columns, `out` rows."""
    if not out.size:
        return
    if not X.shape[1]:
        out[:] = 0
        return
    # The BLAS stores columns, so it computes out^T = Y^T X^T.
    of_Y, of_X, of_out = blas_layout(Y), blas_layout(X), blas_layout(out)
    gemm(
        of_Y[0], of_X[0], out.shape[1], out.shape[0], X.shape[1], scale,
        Y.ctypes.data, of_Y[1], X.ctypes.data, of_X[1], out.ctypes.data, of_out[1],
    )  # fmt: skip


@compiled
def blas_layout(x: Array) -> tuple[Any, Any]:
    """The BLAS's letter for contiguous rows (N) or columns (T), and the distance of two of them in
    elements."""
    if x.strides[1] == x.itemsize:
        return N, max(x.strides[0] // x.itemsize, x.shape[1])
    return T, max(x.strides[1] // x.itemsize, x.shape[0])


@llvm_intrinsic
def gemm(
    typing: Any, a: Any, b: Any, m: Any, n: Any, k: Any, alpha: Any, A: Any, lda: Any, B: Any,
    ldb: Any, C: Any, ldc: Any,
) -> Any:  # fmt: skip
    """C = alpha A B with contiguous columns: the BLAS's The BLAS takes the address of each
    argument. a, b: the letters of `blas_layout`.   m, n, k: sizes.   A, B, C: addresses.   lda,
    ldb, ldc: distances of columns in elements.

    a, b: the letters of `blas_layout`.   m, n, k: C is (m, n), A (m, k).   A, B, C: addresses.
    lda, ldb, ldc: distances of columns in elements.
    """
    # The BLAS takes the address of each argument.
    letter, number, address = types.uint8, types.int32, types.uintp
    number_of, name = alpha, "nnaccel_dgemm" if alpha == types.float64 else "nnaccel_sgemm"

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()

        def by_address(value: Any) -> Any:
            return builder.bitcast(cgutils.alloca_once_value(builder, value), pointer)

        a, b, m, n, k, alpha, A, lda, B, ldb, C, ldc = [
            builder.inttoptr(value, pointer) if kind == address else by_address(value)
            for kind, value in zip(signature.args, args, strict=True)
        ]
        zero = by_address(context.get_constant(number_of, 0.0))
        kind = ir.FunctionType(ir.VoidType(), [pointer] * 13)
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, [a, b, m, n, k, alpha, A, lda, B, ldb, zero, C, ldc])
        return context.get_dummy_value()

    parameters = letter, letter, number, number, number, alpha, *[address, number] * 3
    return types.void(*parameters), generate
