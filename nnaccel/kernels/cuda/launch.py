"""Kernel launches: compilation for given types, arguments and grids."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import cupy

from nnaccel.kernels.cuda.signatures import THREADS, TYPES
from nnaccel.kernels.cuda.source import kernel_source
from nnaccel.typing import Array

# Most blocks of a launch: eight per multiprocessor of a large device. The same number on every
# device gives the same order of sums, and so the same bits.
BLOCKS = 1024

Scalar: TypeAlias = tuple[Any, float]  # (an array on the device, 0), or (0, a number)


@cache
def kernel(name: str, *types: str) -> Any:
    """The kernel `name` for these types; CuPy compiles it for the device of the launch, and caches
    it in memory and on disk. RuntimeError, with the remedy, if it cannot be compiled."""
    expression = f"{name}<{', '.join(types)}>"
    try:
        module = cupy.RawModule(
            code=kernel_source(), options=("--std=c++17",), name_expressions=(expression,)
        )
        return module.get_function(expression)
    except (cupy.cuda.compiler.CompileException, OSError, RuntimeError) as error:
        log = "\n".join(str(error).strip().splitlines()[:5])
        raise RuntimeError(
            f"CuPy could not compile the CUDA kernel {expression} (CUDA {_versions()}):\n{log}\n"
            "Reinstall the CuPy that fits the driver, with its CUDA libraries, such as "
            "pip install 'cupy-cuda13x[ctk]'; or train with device='cpu'"
        ) from error


def _versions() -> str:
    """The CUDA versions of CuPy and of the driver, as text."""

    def asked(version: Callable[[], int]) -> str:
        try:
            number = version()
        except Exception:  # the caller reports the problem with CUDA already
            return "unknown"
        return f"{number // 1000}.{number % 1000 // 10}" if number else "none"

    runtime = cupy.cuda.runtime
    return f"of CuPy {asked(runtime.runtimeGetVersion)}, of the driver " + asked(
        runtime.driverGetVersion
    )


def row_grid(rows: int, columns: int, element: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block of a kernel over a matrix (rows, columns) of `element` bytes per element.

    A thread handles 16 bytes of a row if the row is a multiple of 16 bytes, else one element. A
    block handles several rows if one row needs fewer threads than a block has.
    """
    wide = 16 // element
    packs = columns // wide if columns % wide == 0 else columns
    width = min(THREADS, 1 << (packs - 1).bit_length())
    blocks = -(-rows // (THREADS // width))
    return (blocks, max(1, min(-(-packs // width), BLOCKS // blocks))), (width, THREADS // width)


def vector_grid(n: int, element: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block of a kernel over a vector (n,) of `element` bytes per element: a thread
    handles 16 bytes at a time."""
    return (max(1, min(BLOCKS, -(-n * element // (16 * THREADS)))),), (THREADS,)


def pointer(x: Array | None) -> Any:
    """The argument of a kernel for an optional array: a null pointer for None."""
    return 0 if x is None else x


def scalar(x: Any, like: Array) -> Scalar | None:
    """The pair of kernel arguments for a number x, on the host or on the device.

    None for an array with axes, and for a device array of another dtype than `like`.
    """
    if getattr(x, "ndim", 0):
        return None
    if not isinstance(x, cupy.ndarray):
        return 0, float(x)
    return (x, 0.0) if x.dtype == like.dtype else None


def gap(x: Array | None) -> int:
    """The stride in elements between the matrices of two networks; 0 if they share one matrix."""
    return 0 if x is None or x.ndim < 3 or x.shape[0] == 1 else x.strides[0] // x.itemsize


def are_matrices(*arrays: Array) -> bool:
    """Whether all arrays are contiguous matrices, or stacks of contiguous matrices, of one dtype,
    float32 or float64."""
    dtype = arrays[0].dtype
    return dtype.name in TYPES and all(
        x.dtype == dtype
        and x.ndim in (2, 3)
        and (x.shape[-1] == 1 or x.strides[-1] == x.itemsize)
        and (x.shape[-2] == 1 or x.strides[-2] == x.shape[-1] * x.itemsize)
        for x in arrays
    )


def are_contiguous(*arrays: Array) -> bool:
    """Whether all arrays are contiguous and of one dtype, float32 or float64."""
    dtype = arrays[0].dtype
    return dtype.name in TYPES and all(x.dtype == dtype and x.flags.c_contiguous for x in arrays)
