"""The functions of cuBLASLt, called through ctypes.

CuPy refuses matrix products while a stream is being captured into a CUDA graph, and has one switch
for the precision of all products in a process. Here each product has its own precision; see
`product_plan.py`.

Source: NVIDIA, cuBLAS documentation, "Using the cuBLASLt API", and cublasLt.h.
"""

import ctypes
import logging
import sys
import weakref
from functools import cache
from importlib import import_module
from typing import Any

import cupy

from nnaccel.typing import Array

log = logging.getLogger("nnaccel.kernels.backend")

# Bytes for partial sums, as NVIDIA recommends for Hopper. A smaller workspace would exclude fast
# algorithms.
WORKSPACE = 32 * 2**20


class header:
    """Constants of cublasLt.h and of the headers that it includes, under the same names."""

    CUDA_R_32F, CUDA_R_64F, CUDA_R_16BF = 0, 1, 14
    CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_32F_FAST_TF32 = 68, 70, 77
    CUBLAS_OP_T = 1
    CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB = 3, 4
    CUBLASLT_MATMUL_DESC_EPILOGUE = 7
    CUBLASLT_MATMUL_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE = 8, 10
    CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER = 11
    CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD = 12
    CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE = 13
    CUBLASLT_EPILOGUE_DRELU_BGRAD = 8 | 128 | 16
    CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET = 5, 6
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1
    CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
    CUBLASLT_MATMUL_PREF_IMPL_MASK = 12
    CUBLASLT_REDUCTION_SCHEME_INPLACE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 1, 2
    CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME = 3
    CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16F = 0x01 << 16
    CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16BF = 0x02 << 16
    CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_TF32 = 0x04 << 16


class Algorithm(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: a suggestion of the library, with the algorithm first."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


def address(x: Array) -> int:
    """The device address of the first element of an array."""
    return x.data.ptr


@cache
def library() -> Any:
    """The libcublasLt that CuPy's own products use; None, with a debug line, if it cannot be
    loaded."""
    try:
        loader = import_module("cuda.pathfinder").load_nvidia_dynamic_lib
        found = ctypes.CDLL(loader("cublasLt").abs_path)
    except Exception:  # no pathfinder, or it does not find the library
        try:
            major = cupy.cuda.runtime.runtimeGetVersion() // 1000
            windows = sys.platform == "win32"
            found = ctypes.CDLL(f"cublasLt64_{major}" if windows else f"libcublasLt.so.{major}")
        except (OSError, RuntimeError) as error:
            log.debug("matrix products stay with CuPy: cuBLASLt cannot be loaded: %s", error)
            return None
    return declared(found)


def declared(found: Any) -> Any:
    """The same library, with the argument and return types of its functions declared."""
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
        "MatmulAlgoConfigGetAttribute": [pointer, integer, pointer, size, pointer],
        "Matmul": [*[pointer] * 14, size, pointer],
    }
    for name, types in arguments.items():
        getattr(found, f"cublasLt{name}").argtypes = types
    found.cublasLtGetVersion.restype = size
    for name in ("cublasLtGetStatusName", "cublasLtGetStatusString"):
        getattr(found, name).restype = ctypes.c_char_p
    return found


def check(call: str, *arguments: Any) -> None:
    """Calls a function of the library; RuntimeError with its name and the status if it fails."""
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
    """The library's handle for `device`, which must be the current device. Threads may share it."""
    made = ctypes.c_void_p()
    check("cublasLtCreate", ctypes.byref(made))
    return made.value or 0


class Description:
    """An object of the library with attributes; it is destroyed together with this object."""

    def __init__(self, kind: str, *arguments: Any) -> None:
        made = ctypes.c_void_p()
        check(f"cublasLt{kind}Create", ctypes.byref(made), *arguments)
        self.kind, self.at = kind, made.value or 0
        # Not at exit, when the library may be unloaded already.
        destroy = getattr(library(), f"cublasLt{kind}Destroy")
        weakref.finalize(self, destroy, self.at).atexit = False

    def put(self, attribute: int, value: Any) -> None:
        """Sets an attribute to a ctypes number, whose size must be the size of the attribute."""
        size = ctypes.sizeof(value)
        check(f"cublasLt{self.kind}SetAttribute", self.at, attribute, ctypes.byref(value), size)
