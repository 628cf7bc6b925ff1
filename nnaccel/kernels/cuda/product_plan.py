"""Matrix products with a plan: made once for the products of a kind, then one call of the library.

Float32 is IEEE float32: algorithms that read TF32 or 16 bits are left out, whatever the library
would like. CUPY_TF32 is CuPy's and has no meaning here. NVIDIA_TF32_OVERRIDE=0 turns TF32 off for
all of a process, so that "tf32" then computes in float32 too.

The same product has the same bits in every process on a machine. Sums have a fixed order in all
algorithms that are asked for: those that round partial sums of K to the type of the output are left
out, and so are those that add them up in the output, though in a fixed order by the words of the
library; see IN_PLACE. Which of the library's suggestions is taken, `algorithm_choice.py` decides.
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

# Whether algorithms may add up partial sums of K in an output of float32, which saves the launch of
# a second kernel. Such an algorithm has to show that it gives the same bits in a thousand runs. Off
# until a GPU has shown it: `products` of bench/gpu/gpu.py looks.
IN_PLACE = False

CANDIDATES = 8  # suggestions of the library that are timed
ALIGNED = 256  # bytes: what the library takes for granted where it is not told
MASK_COLUMNS = 128  # of which the columns of a mask have to be a multiple

# 16-bit integers hold the bits of bfloat16, for which NumPy has no name.
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
    """A matrix, or a stack of them, as a library sees it that counts along columns: transposed."""

    type: int
    rows: int
    columns: int
    leading: int  # elements from one column to the next
    stride: int  # elements from one matrix of a stack to the next, 0 where it is the same one
    flipped: bool  # transposed once more, back to what lies in memory


class ReluEnd(NamedTuple):
    """How a product dX = dZ W^T ends where X is the output of a layer with ReLU: as dZ of that
    layer, by a mask of bits as `store_mask` of `dense.cuh` writes it, and with the sum db over
    examples. It is the epilogue DRELU_BGRAD."""

    mask_stride: int  # bits from the mask of one matrix of a stack to the next
    db_stride: int  # elements from one db to the next
    alignments: tuple[int, int]  # of the mask and of db, in bytes


class Problem(NamedTuple):
    """A product out = X Y, which the library computes as out^T = Y^T X^T."""

    Y: Matrix
    X: Matrix
    out: Matrix
    count: int  # of matrices in a stack
    compute: int
    alignments: tuple[int, ...]  # of Y, X and out, in bytes
    relu: ReluEnd | None = None


def matrix_of(x: Array) -> Matrix | None:
    """An array (..., rows, columns) with at most one leading axis; None where neither its rows nor
    its columns are contiguous, where they overlap, and where it is of another type."""
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
    """The product as the library is told of it; None for arrays that it cannot take."""
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
    """The largest power of two, up to ALIGNED, of which the address of an array is a multiple."""
    return min(ALIGNED, address(x) & -address(x))


def with_relu(problem: Problem, mask: Array, db: Array) -> Problem | None:
    """The product that ends as `ReluEnd` says; None where the library has no such end.

    mask: (..., N, H / 32) words.   db: (..., 1, H), of the type of the output. That is float32:
    the library sums db in the type of what it writes, and has no such end in float64.
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
    """A product with its algorithm: call it with the addresses of X, Y, out and of a workspace of
    WORKSPACE bytes, and with a stream. RuntimeError where the library refuses."""

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
        """Another plan with this one's algorithm."""
        plan = ProductPlan(self.problem, self.device)
        plan.choose(self.algorithm)
        return plan

    def end_with_relu(self, relu: ReluEnd, H: int) -> None:
        """Every number has the size that cublasLt.h gives the attribute."""
        put, epilogue = self.product.put, header.CUBLASLT_EPILOGUE_DRELU_BGRAD
        put(header.CUBLASLT_MATMUL_DESC_EPILOGUE, ctypes.c_uint32(epilogue))
        put(header.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, ctypes.c_int64(H))
        masks, dbs = map(ctypes.c_int64, (relu.mask_stride, relu.db_stride))
        put(header.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, masks)
        put(header.CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, dbs)

    def point_to(self, mask: int, db: int) -> None:
        """Where the mask lies, and where db belongs: addresses, which a suggestion of the library
        and the next launches look at."""
        if self.pointers != (mask, db):
            put, self.pointers = self.product.put, (mask, db)
            put(header.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, ctypes.c_void_p(mask))
            put(header.CUBLASLT_MATMUL_DESC_BIAS_POINTER, ctypes.c_void_p(db))

    def choose(self, algorithm: Algorithm) -> None:
        self.algorithm, self.chosen = algorithm, ctypes.addressof(algorithm)

    def run(self, x: int, y: int, out: int, workspace: int, stream: int) -> int:
        """The status of a launch."""
        return self.function(
            *self.first, y, self.Y, x, self.X, self.zero, out, self.out, out, self.out,
            self.chosen, workspace, WORKSPACE, stream,
        )  # fmt: skip

    def __call__(self, x: int, y: int, out: int, workspace: int, stream: int) -> None:
        if status := self.run(x, y, out, workspace, stream):
            raise failure("cublasLtMatmul", status)

    def sums_in_place(self, algorithm: Algorithm) -> bool:
        """Whether an algorithm adds up partial sums in the output."""
        scheme, written = ctypes.c_uint32(), ctypes.c_size_t()
        check(
            "cublasLtMatmulAlgoConfigGetAttribute",
            ctypes.addressof(algorithm), header.CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
            ctypes.byref(scheme), ctypes.sizeof(scheme), ctypes.byref(written),
        )  # fmt: skip
        return bool(scheme.value & header.CUBLASLT_REDUCTION_SCHEME_INPLACE)

    def candidates(self, *, in_place: bool | None = None) -> list[Algorithm]:
        """The suggestions of the library, those that it thinks fastest first.   in_place: whether
        they may add up partial sums in an output of float32; by default as IN_PLACE says."""
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
        for i, alignment in enumerate((y, x, out, out)):  # of A, B, C and D, which follow
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


# All that have been made in this process; None for a problem without an algorithm.
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
    """The plan for products of such arrays on the current device, in IEEE float32, in float64, with
    bfloat16 (uint16) factors summed in float32, or, with tf32, with float32 factors rounded to it.

    X: (..., N, D).   Y: (..., D, H).   out: (..., N, H) of their type, or float32 for bfloat16; it
    is overwritten where algorithms are timed.   ...: at most one axis, the same for all arrays that
    have it.   relu: the mask and db of a product that ends as `ReluEnd` says; such a plan is the
    caller's own, for it knows where they are.   None, with a line in the log, where the library
    cannot do it.
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
