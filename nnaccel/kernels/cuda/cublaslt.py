"""Matrix products by cuBLASLt, called through ctypes.

CuPy refuses its own products while a stream is being captured into a CUDA graph, and has no word
for their precision: one switch for the whole process. Here each product says for itself what it
computes in, and a call is a function of the library with a plan that was made once.

Float32 is IEEE float32: algorithms that read TF32 or 16 bits are left out, whatever the library
would like. CUPY_TF32 is CuPy's and has no meaning here. NVIDIA_TF32_OVERRIDE=0 turns TF32 off for
all of a process, so that "tf32" then computes in float32 too.

The same product has the same bits in every process on a machine. Sums have a fixed order in all
algorithms that are asked for: those that keep partial sums of K in the output, in the order in
which they come, or round them to its type are left out. Which of the library's suggestions is
fastest is timed once on a machine and kept beside CuPy's own kernels (CUPY_CACHE_DIR); where
nothing can be kept (CUPY_CACHE_IN_MEMORY=1), it is the first.

Source: NVIDIA, cuBLAS documentation, "Using the cuBLASLt API", and cublasLt.h.
"""

import ctypes
import logging
import os
import sys
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import cupy

from nnaccel.typing import Array

log = logging.getLogger("nnaccel.kernels.backend")

# Bytes for partial sums, as NVIDIA recommends for Hopper. Fewer would exclude fast algorithms.
WORKSPACE = 32 * 2**20

CANDIDATES = 8  # suggestions of the library that are timed
ROUNDS, REPEATS = 3, 4  # of the timing; a suggestion counts with its best round
MARGIN = 1.03  # a later suggestion has to be faster by more than noise

ALIGNED = 256  # bytes: what the library takes for granted where it is not told
AHEAD = 8  # times that the workspace is cleared, so that the device falls behind the host


class header:
    """Numbers of cublasLt.h and of what it includes, under their names there."""

    CUDA_R_32F, CUDA_R_64F, CUDA_R_16BF = 0, 1, 14
    CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_32F_FAST_TF32 = 68, 70, 77
    CUBLAS_OP_T = 1
    CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB = 3, 4
    CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET = 5, 6
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1
    CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
    CUBLASLT_MATMUL_PREF_IMPL_MASK = 12
    CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2
    CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16F = 0x01 << 16
    CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16BF = 0x02 << 16
    CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_TF32 = 0x04 << 16


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


class Algorithm(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: a suggestion, which begins with the algorithm itself."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class Matrix(NamedTuple):
    """A matrix, or a stack of them, as a library sees it that counts along columns: transposed."""

    type: int
    rows: int
    columns: int
    leading: int  # elements from one column to the next
    stride: int  # elements from one matrix of a stack to the next, 0 where it is the same one
    flipped: bool  # transposed once more, back to what lies in memory


class Problem(NamedTuple):
    """A product out = X Y, which the library computes as out^T = Y^T X^T."""

    Y: Matrix
    X: Matrix
    out: Matrix
    count: int  # of matrices in a stack
    compute: int
    alignments: tuple[int, ...]  # of Y, X and out, in bytes


def address(x: Array) -> int:
    """Where an array begins on the device."""
    return x.data.ptr


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
    alignments = tuple(min(ALIGNED, at & -at) for at in map(address, (Y, X, out)))
    return Problem(y, x, o, count, compute, alignments)


@cache
def library() -> Any:
    """libcublasLt, the one that CuPy's own products use; None, with a line in the log, where there
    is none."""
    try:
        loader = import_module("cuda.pathfinder").load_nvidia_dynamic_lib
        found = ctypes.CDLL(loader("cublasLt").abs_path)
    except Exception:  # no pathfinder, as before CuPy 14, or none of the libraries that it knows
        try:
            major = cupy.cuda.runtime.runtimeGetVersion() // 1000
            windows = sys.platform == "win32"
            found = ctypes.CDLL(f"cublasLt64_{major}" if windows else f"libcublasLt.so.{major}")
        except (OSError, RuntimeError) as error:
            log.debug("matrix products stay with CuPy: cuBLASLt cannot be loaded: %s", error)
            return None
    return declared(found)


def declared(found: Any) -> Any:
    """The library, told the types of its functions."""
    pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    attribute = [pointer, integer, pointer, size]
    arguments = {
        "Create": [pointer],
        "MatmulDescCreate": [pointer, integer, integer],
        "MatmulDescDestroy": [pointer],
        "MatmulDescSetAttribute": attribute,
        "MatrixLayoutCreate": [pointer, integer, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64],
        "MatrixLayoutDestroy": [pointer],
        "MatrixLayoutSetAttribute": attribute,
        "MatmulPreferenceCreate": [pointer],
        "MatmulPreferenceDestroy": [pointer],
        "MatmulPreferenceSetAttribute": attribute,
        "MatmulAlgoGetHeuristic": [*[pointer] * 7, integer, pointer, pointer],
        "Matmul": [*[pointer] * 14, size, pointer],
    }
    for name, types in arguments.items():
        getattr(found, f"cublasLt{name}").argtypes = types
    found.cublasLtGetVersion.restype = size
    for name in ("cublasLtGetStatusName", "cublasLtGetStatusString"):
        getattr(found, name).restype = ctypes.c_char_p
    return found


def check(call: str, *arguments: Any) -> None:
    """Calls a function of the library; RuntimeError with its name and the status in words."""
    if status := getattr(library(), call)(*arguments):
        raise failure(call, status)


def failure(call: str, status: int) -> RuntimeError:
    name = library().cublasLtGetStatusName(status).decode()
    words = library().cublasLtGetStatusString(status).decode()
    return RuntimeError(
        f"{call} of cuBLASLt {library().cublasLtGetVersion()} ended with {name} ({status}): "
        f"{words}. Reinstall the CuPy that fits the driver, with its CUDA libraries, such as "
        "pip install 'cupy-cuda13x[ctk]'; or train with device='cpu'"
    )


@cache
def handle(device: int) -> int:
    """The library's handle for a device, the current one; any number of threads may use it."""
    made = ctypes.c_void_p()
    check("cublasLtCreate", ctypes.byref(made))
    return made.value or 0


class Description:
    """An object of the library with attributes, which goes when this does."""

    def __init__(self, kind: str, *arguments: Any) -> None:
        made = ctypes.c_void_p()
        check(f"cublasLt{kind}Create", ctypes.byref(made), *arguments)
        self.kind, self.at = kind, made.value or 0
        # A process that ends leaves them to the system: the library may be gone before.
        destroy = getattr(library(), f"cublasLt{kind}Destroy")
        weakref.finalize(self, destroy, self.at).atexit = False

    def put(self, attribute: int, value: Any) -> None:
        """Sets an attribute to a number of ctypes, whose size has to be that of the attribute."""
        size = ctypes.sizeof(value)
        check(f"cublasLt{self.kind}SetAttribute", self.at, attribute, ctypes.byref(value), size)


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
        self.layouts, self.problem, self.device = (Y, X, out), problem, device
        self.function = library().cublasLtMatmul
        self.first = handle(device), self.product.at, ctypes.addressof(ONE[scale])
        self.Y, self.X, self.out, self.zero = Y.at, X.at, out.at, ctypes.addressof(ZERO[scale])
        self.choose(Algorithm())

    @staticmethod
    def layout(matrix: Matrix, count: int) -> Description:
        layout = Description("MatrixLayout", *matrix[:4])
        if count > 1:
            layout.put(header.CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, ctypes.c_int32(count))
            stride = ctypes.c_int64(matrix.stride)
            layout.put(header.CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride)
        return layout

    def choose(self, algorithm: Algorithm) -> None:
        self.algorithm, self.chosen = algorithm, ctypes.addressof(algorithm)

    def run(self, x: int, y: int, out: int, workspace: int, stream: int) -> int:
        """The status of a launch."""
        return self.function(
            *self.first,
            *(y, self.Y, x, self.X, self.zero, out, self.out, out, self.out),
            *(self.chosen, workspace, WORKSPACE, stream),
        )

    def __call__(self, x: int, y: int, out: int, workspace: int, stream: int) -> None:
        if status := self.run(x, y, out, workspace, stream):
            raise failure("cublasLtMatmul", status)

    def candidates(self) -> list[Algorithm]:
        """What the library suggests, what it thinks fastest first."""
        preference, compute = Description("MatmulPreference"), self.problem.compute
        workspace = ctypes.c_uint64(WORKSPACE)
        preference.put(header.CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace)
        preference.put(
            header.CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            ctypes.c_uint32(header.CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE),
        )
        first = header.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES
        y, x, out = self.problem.alignments
        for i, alignment in enumerate((y, x, out, out)):  # of A, B, C and D, which follow
            preference.put(first + i, ctypes.c_uint32(alignment))
        if self.problem.X.type == header.CUDA_R_32F and compute == header.CUBLAS_COMPUTE_32F:
            mask = ctypes.c_uint64(~NOT_IEEE)
            preference.put(header.CUBLASLT_MATMUL_PREF_IMPL_MASK, mask)
        found, n = (Algorithm * CANDIDATES)(), ctypes.c_int()
        status = library().cublasLtMatmulAlgoGetHeuristic(
            *(self.first[0], self.product.at, self.Y, self.X, self.out, self.out, preference.at),
            *(CANDIDATES, ctypes.byref(found), ctypes.byref(n)),
        )
        return [] if status else [a for a in found[: n.value] if a.state == 0]


# All that have been made in this process; None for a problem without an algorithm.
_plans: dict[tuple[int, Problem], ProductPlan | None] = {}


def product_plan(
    X: Array, Y: Array, out: Array, workspace: Array, *, tf32: bool
) -> ProductPlan | None:
    """The plan for products of such arrays on the current device, in IEEE float32, in float64, with
    bfloat16 (uint16) factors summed in float32, or, with tf32, with float32 factors rounded to it.

    X: (..., N, D).   Y: (..., D, H).   out: (..., N, H) of their type, or float32 for bfloat16; it
    is overwritten where algorithms are timed.   ...: at most one axis, the same for all arrays that
    have it.   None, with a line in the log, where the library cannot do it.
    """
    problem = problem_of(X, Y, out, tf32)
    if library() is None or problem is None:
        return None
    key = cupy.cuda.runtime.getDevice(), problem
    if key not in _plans:
        plan: ProductPlan | None = ProductPlan(problem, key[0])
        algorithms = plan.candidates()
        if algorithms:
            places = [address(x) for x in (X, Y, out, workspace)]
            plan.choose(algorithms[choice(plan, algorithms, places)])
        else:
            log.debug("a product stays with CuPy: cuBLASLt has no algorithm for %s", problem)
            plan = None
        _plans[key] = plan
    return _plans[key]


def choice(plan: ProductPlan, algorithms: Sequence[Algorithm], places: Sequence[int]) -> int:
    """The number of the algorithm that this machine takes: as before, or else the fastest. The
    first where it cannot be kept, and where a stream that is being captured forbids to wait."""
    folder, stream = cache_folder(), cupy.cuda.get_current_stream()
    if folder is None or len(algorithms) == 1:
        return 0
    properties = cupy.cuda.runtime.getDeviceProperties(plan.device)
    about = properties["name"], properties["multiProcessorCount"], len(algorithms)
    words = f"{library().cublasLtGetVersion()} {about} {plan.problem}"
    path = folder / f"nnaccel-{sha256(words.encode()).hexdigest()[:32]}.algorithm"
    kept = read(path)
    if kept is None and not stream.is_capturing():
        kept = keep(path, fastest(plan, algorithms, places, stream), words)
    return kept if kept is not None and 0 <= kept < len(algorithms) else 0


def fastest(
    plan: ProductPlan, algorithms: Sequence[Algorithm], places: Sequence[int], stream: Any
) -> int:
    """The number of the first algorithm that is as fast as any of them, but for noise.

    The device is given something to do before: a small product takes it less time than its launch
    takes the host, and times would be those of the host.
    """
    X, Y, out, workspace = places
    clear = cupy.cuda.runtime.memsetAsync
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    times = [inf] * len(algorithms)
    for turn in range(1 + ROUNDS):  # the first warms up
        for i, algorithm in enumerate(algorithms):
            plan.choose(algorithm)
            for _ in range(AHEAD):
                clear(workspace, 0, WORKSPACE, stream.ptr)
            begin.record(stream)
            repeats = range(REPEATS if turn else 1)
            statuses = [plan.run(X, Y, out, workspace, stream.ptr) for _ in repeats]
            end.record(stream)
            end.synchronize()
            if turn and not any(statuses):
                times[i] = min(times[i], cupy.cuda.get_elapsed_time(begin, end))
    return next(i for i, time in enumerate(times) if time <= MARGIN * min(times))


def cache_folder() -> Path | None:
    """Where CuPy keeps compiled kernels; None if it keeps them in memory."""
    if os.environ.get("CUPY_CACHE_IN_MEMORY") == "1":
        return None
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


def read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def keep(path: Path, number: int, words: str) -> int | None:
    """Writes a choice down and returns what is written there: that of whoever came first. None if
    nothing can be written: then the next process would choose anew, and perhaps otherwise."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8") as file:
            file.write(f"{number} of {words}\n")
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    except OSError:
        return None
    return read(path)
