"""Plans of matrix products: one plan for all products of the same kind, then one library call each.

Float32 is IEEE float32: algorithms that round their factors to TF32 or 16 bits are excluded, even
if the library would choose them. CuPy's variable CUPY_TF32 has no effect here.
NVIDIA_TF32_OVERRIDE=0 turns TF32 off for the whole process, so that "tf32" computes in float32 too.

A product has the same bits in every process on a machine. All requested algorithms sum in a fixed
order. Algorithms that round partial sums of K to the output's type are excluded. Algorithms that
add partial sums in the output are excluded too, although their order is fixed according to the
library's documentation; see IN_PLACE. `algorithm_choice.py` chooses among the suggestions.
"""

import ctypes
import logging
from typing import NamedTuple

import cupy
import numpy as np

from nnaccel.kernels.cuda.algorithm_choice import choice
from nnaccel.kernels.cuda.cublaslt import (
    WORKSPACE,
    Algorithm,
    Description,
    address,
    check,
    failure,
    handle,
    header,
    library,
)
from nnaccel.typing import Array

log = logging.getLogger("nnaccel.kernels.backend")

# Whether algorithms may add partial sums of K in a float32 output, which saves the launch of a
# second kernel. Such an algorithm must give the same bits in a thousand runs. Off until tested on a
# GPU: the phase `products` of bench/gpu/gpu.py runs the test.
IN_PLACE = False

CANDIDATES = 8  # suggestions of the library to time
ALIGNED = 256  # bytes: the alignment that the library assumes by default
MASK_COLUMNS = 128  # the number of columns of a mask must be a multiple of this

# 16-bit unsigned integers hold the bits of bfloat16, which NumPy does not have.
TYPES = {
    "float32": header.CUDA_R_32F,
    "float64": header.CUDA_R_64F,
    "uint16": header.CUDA_R_16BF,
}

NOT_IEEE = (
    header.CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16F
    | header.CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16BF
    | header.CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_TF32
)


class Matrix(NamedTuple):
    """A matrix, or a stack of matrices, in column-major order: the transpose of the array."""

    type: int
    rows: int
    columns: int
    leading: int  # elements from one column to the next
    stride: int  # elements from one matrix of a stack to the next; 0 if all are the same matrix
    flipped: bool  # whether the product uses the transpose of this matrix


class ReluEnd(NamedTuple):
    """The epilogue DRELU_BGRAD of a product dX = dZ W^T, where X is the output of a ReLU layer.

    It multiplies dX by ReLU's derivative, which gives dZ of that layer, and sums this dZ over
    examples into db. The derivative is the bit mask that `store_mask` of `dense.cuh` writes.
    """

    mask_stride: int  # bits from the mask of one matrix of a stack to the next
    db_stride: int  # elements from one db to the next
    alignments: tuple[int, int]  # of the mask and of db, in bytes


class Problem(NamedTuple):
    """A product out = X Y, which the column-major library computes as out^T = Y^T X^T."""

    Y: Matrix
    X: Matrix
    out: Matrix
    count: int  # of matrices in a stack
    compute: int
    alignments: tuple[int, ...]  # of Y, X and out, in bytes
    relu: ReluEnd | None = None


def matrix_of(x: Array) -> Matrix | None:
    """The `Matrix` of an array (..., rows, columns) with at most one leading axis.

    None for other dtypes than those of TYPES, and for arrays whose rows and columns are both not
    contiguous, or overlap.
    """
    if x.dtype.name not in TYPES or x.ndim not in (2, 3):
        return None
    rows, columns = x.shape[-2:]
    *lead, down, across = (step // x.itemsize for step in x.strides)
    stride = lead[0] if lead and x.shape[0] > 1 else 0
    kind = TYPES[x.dtype.name]
    if stride < 0:
        return None
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):
        return Matrix(kind, columns, rows, down if rows > 1 else columns, stride, False)
    if (down == 1 or rows == 1) and across >= rows:
        return Matrix(kind, rows, columns, across, stride, True)
    return None


def problem_of(X: Array, Y: Array, out: Array, tf32: bool) -> Problem | None:
    """The `Problem` of out = X Y for the library; None for arrays that it does not support.

    X: (..., N, D).   Y: (..., D, H).   out: (..., N, H).   tf32: whether factors are rounded.
    """
    matrices = matrix_of(Y), matrix_of(X), matrix_of(out)
    y, x, o = matrices
    if y is None or x is None or o is None or o.flipped:
        return None
    count = out.shape[0] if out.ndim == 3 else 1
    if any(a.ndim == 3 and a.shape[0] not in (1, count) for a in (X, Y)):
        return None
    if x.type == header.CUDA_R_64F:
        compute = header.CUBLAS_COMPUTE_64F
    elif tf32:
        compute = header.CUBLAS_COMPUTE_32F_FAST_TF32
    else:
        compute = header.CUBLAS_COMPUTE_32F
    alignments = tuple(map(alignment, (Y, X, out)))
    return Problem(y, x, o, count, compute, alignments)


def alignment(x: Array) -> int:
    """The alignment of an array's address in bytes: its largest power-of-two factor, at most
    ALIGNED."""
    return min(ALIGNED, address(x) & -address(x))


def with_relu(problem: Problem, mask: Array, db: Array) -> Problem | None:
    """The problem with the epilogue `ReluEnd`; None where the library does not support it.

    mask: (..., N, H / 32) words.   db: (..., 1, H) float32.
    The output must be float32 too: the library sums db in the type of the output, and does not have
    this epilogue in float64.
    """
    if problem.out.type != header.CUDA_R_32F or db.dtype != np.float32:
        return None
    H, N = problem.out.rows, problem.out.columns
    if problem.out.leading != H or H % MASK_COLUMNS or mask.size != problem.count * N * H // 32:
        return None
    stride = db.strides[0] // db.itemsize if problem.count > 1 else 0
    return problem._replace(relu=ReluEnd(N * H, stride, (alignment(mask), alignment(db))))


ONE = {header.CUDA_R_32F: ctypes.c_float(1), header.CUDA_R_64F: ctypes.c_double(1)}
ZERO = {header.CUDA_R_32F: ctypes.c_float(0), header.CUDA_R_64F: ctypes.c_double(0)}


class ProductPlan:
    """A product and its algorithm, called with addresses and a stream: out = X Y.

    The addresses are those of X, Y, out and a workspace of WORKSPACE bytes. RuntimeError if the
    library reports a failure.
    """

    def __init__(self, problem: Problem, device: int) -> None:
        scale = header.CUDA_R_64F if problem.X.type == header.CUDA_R_64F else header.CUDA_R_32F
        self.product = Description("MatmulDesc", problem.compute, scale)
        Y, X, out = (self.layout(m, problem.count) for m in (problem.Y, problem.X, problem.out))
        for attribute, matrix in (
            (header.CUBLASLT_MATMUL_DESC_TRANSA, problem.Y),
            (header.CUBLASLT_MATMUL_DESC_TRANSB, problem.X),
        ):
            if matrix.flipped:
                self.product.put(attribute, ctypes.c_int32(header.CUBLAS_OP_T))
        if problem.relu is not None:
            self.end_with_relu(problem.relu, problem.out.rows)
        self.layouts, self.problem, self.device = (Y, X, out), problem, device
        self.function = library().cublasLtMatmul
        self.first = handle(device), self.product.at, ctypes.addressof(ONE[scale])
        self.Y, self.X, self.out, self.zero = Y.at, X.at, out.at, ctypes.addressof(ZERO[scale])
        self.pointers = 0, 0
        self.choose(Algorithm())

    @staticmethod
    def layout(matrix: Matrix, count: int) -> Description:
        layout = Description("MatrixLayout", *matrix[:4])
        if count > 1:
            layout.put(header.CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, ctypes.c_int32(count))
            stride = ctypes.c_int64(matrix.stride)
            layout.put(header.CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride)
        return layout

    def again(self) -> "ProductPlan":
        """A new plan for the same problem with the same algorithm."""
        plan = ProductPlan(self.problem, self.device)
        plan.choose(self.algorithm)
        return plan

    def end_with_relu(self, relu: ReluEnd, H: int) -> None:
        """Sets the epilogue; each number has the size that cublasLt.h specifies for the attribute.

        H: columns of the output.
        """
        put, epilogue = self.product.put, header.CUBLASLT_EPILOGUE_DRELU_BGRAD
        put(header.CUBLASLT_MATMUL_DESC_EPILOGUE, ctypes.c_uint32(epilogue))
        put(header.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, ctypes.c_int64(H))
        masks, dbs = map(ctypes.c_int64, (relu.mask_stride, relu.db_stride))
        put(header.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, masks)
        put(header.CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, dbs)

    def point_to(self, mask: int, db: int) -> None:
        """Sets the addresses of the mask and of db, for the library's suggestions and for later
        launches."""
        if self.pointers != (mask, db):
            put, self.pointers = self.product.put, (mask, db)
            put(header.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, ctypes.c_void_p(mask))
            put(header.CUBLASLT_MATMUL_DESC_BIAS_POINTER, ctypes.c_void_p(db))

    def choose(self, algorithm: Algorithm) -> None:
        self.algorithm, self.chosen = algorithm, ctypes.addressof(algorithm)

    def run(self, x: int, y: int, out: int, workspace: int, stream: int) -> int:
        """Launches the product and returns the status of the library, 0 for success."""
        return self.function(
            *self.first, y, self.Y, x, self.X, self.zero, out, self.out, out, self.out,
            self.chosen, workspace, WORKSPACE, stream,
        )  # fmt: skip

    def __call__(self, x: int, y: int, out: int, workspace: int, stream: int) -> None:
        if status := self.run(x, y, out, workspace, stream):
            raise failure("cublasLtMatmul", status)

    def sums_in_place(self, algorithm: Algorithm) -> bool:
        """Whether an algorithm adds partial sums in the output."""
        scheme, written = ctypes.c_uint32(), ctypes.c_size_t()
        check(
            "cublasLtMatmulAlgoConfigGetAttribute",
            ctypes.addressof(algorithm), header.CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
            ctypes.byref(scheme), ctypes.sizeof(scheme), ctypes.byref(written),
        )  # fmt: skip
        return bool(scheme.value & header.CUBLASLT_REDUCTION_SCHEME_INPLACE)

    def candidates(self, *, in_place: bool | None = None) -> list[Algorithm]:
        """The suggestions of the library, in its order, fastest by its estimate first.

        in_place: whether they may add partial sums in a float32 output; None means IN_PLACE.
        """
        schemes = header.CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
        if (IN_PLACE if in_place is None else in_place) and (
            self.problem.out.type == header.CUDA_R_32F
        ):
            schemes |= header.CUBLASLT_REDUCTION_SCHEME_INPLACE
        preference, compute = Description("MatmulPreference"), self.problem.compute
        workspace = ctypes.c_uint64(WORKSPACE)
        preference.put(header.CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace)
        preference.put(header.CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, ctypes.c_uint32(schemes))
        first = header.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES
        y, x, out = self.problem.alignments
        for i, alignment in enumerate((y, x, out, out)):  # of A, B, C and D: consecutive constants
            preference.put(first + i, ctypes.c_uint32(alignment))
        if self.problem.X.type == header.CUDA_R_32F and compute == header.CUBLAS_COMPUTE_32F:
            mask = ctypes.c_uint64(~NOT_IEEE)
            preference.put(header.CUBLASLT_MATMUL_PREF_IMPL_MASK, mask)
        found, n = (Algorithm * CANDIDATES)(), ctypes.c_int()
        status = library().cublasLtMatmulAlgoGetHeuristic(
            self.first[0], self.product.at, self.Y, self.X, self.out, self.out, preference.at,
            CANDIDATES, ctypes.byref(found), ctypes.byref(n),
        )  # fmt: skip
        return [] if status else [a for a in found[: n.value] if a.state == 0]


# All plans of this process; None for a problem without an algorithm.
_plans: dict[tuple[int, Problem], ProductPlan | None] = {}


def product_plan(
    X: Array,
    Y: Array,
    out: Array,
    workspace: Array,
    *,
    tf32: bool,
    relu: tuple[Array, Array] | None = None,
) -> ProductPlan | None:
    """The plan for products out = X Y of arrays with these layouts, on the current device.

    X: (..., N, D).   Y: (..., D, H).   out: (..., N, H) of their dtype, or float32 for bfloat16.
    Leading axes: at most one, of the same length for all arrays that have it.
    Precision: IEEE float32, float64, bfloat16 (uint16) factors summed in float32, or, with `tf32`,
    float32 factors rounded to TF32.
    workspace: WORKSPACE bytes. It and `out` are overwritten if algorithms are timed.
    relu: (mask, db) for the epilogue `ReluEnd`. Such a plan is a new object in every call, since it
    holds the addresses of mask and db.
    Returns None, with a debug line, if the library does not support the product.
    """
    problem = problem_of(X, Y, out, tf32)
    if problem is not None and relu is not None:
        problem = with_relu(problem, *relu)
    if library() is None or problem is None:
        return None
    key = cupy.cuda.runtime.getDevice(), problem
    if key not in _plans:
        plan: ProductPlan | None = ProductPlan(problem, key[0])
        if relu is not None:
            plan.point_to(*map(address, relu))
        algorithms = plan.candidates()
        if algorithms:
            addresses = [address(x) for x in (X, Y, out, workspace)]
            plan.choose(algorithms[choice(plan, algorithms, addresses, out)])
        else:
            whose = "a product stays with CuPy" if relu is None else "ReLU stays out of a product"
            log.debug("%s: cuBLASLt has no algorithm for %s", whose, problem)
            plan = None
        _plans[key] = plan
    plan = _plans[key]
    return plan if plan is None or relu is None else plan.again()
