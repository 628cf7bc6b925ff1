"""Launching kernels: compiled for their types, with the arguments and the grids that they take."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import cupy

from nnaccel.kernels.cuda.signatures import THREADS, TYPES
from nnaccel.kernels.cuda.source import kernel_source
from nnaccel.typing import Array

# Blocks of a launch, at most: eight a multiprocessor of a large device. The same number on every
# device gives the same order of sums, and so the same bits.
BLOCKS = 1024

Scalar: TypeAlias = tuple[Any, float]  # an address on the device and 0, or 0 and a number


@cache
def kernel(name: str, *types: str) -> Any:
    """The kernel for these types, compiled for the device where it is called; CuPy keeps it there
    and on the disk. RuntimeError, with the remedy, where it cannot be compiled."""
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
    """The versions of CUDA that CuPy and the driver have, in words."""

    def asked(version: Callable[[], int]) -> str:
        try:
            number = version()
        except Exception:  # whatever is wrong with CUDA is being reported already
            return "unknown"
        return f"{number // 1000}.{number % 1000 // 10}" if number else "none"

    runtime = cupy.cuda.runtime
    return f"of CuPy {asked(runtime.runtimeGetVersion)}, of the driver " + asked(
        runtime.driverGetVersion
    )


def row_grid(rows: int, columns: int, element: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block of a kernel over a matrix: a thread takes 16 bytes of a row if they can be
    read together, else one element; threads that a row does not need take other rows."""
    wide = 16 // element
    packs = columns // wide if columns % wide == 0 else columns
    width = min(THREADS, 1 << (packs - 1).bit_length())
    blocks = -(-rows // (THREADS // width))
    return (blocks, max(1, min(-(-packs // width), BLOCKS // blocks))), (width, THREADS // width)


def vector_grid(n: int, element: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block of a kernel over n elements in a line: a thread takes 16 bytes at a time."""
    return (max(1, min(BLOCKS, -(-n * element // (16 * THREADS)))),), (THREADS,)


def pointer(x: Array | None) -> Any:
    """An array as the argument of a kernel: null where there is none."""
    return 0 if x is None else x


def scalar(x: Any, like: Array) -> Scalar | None:
    """A number as the pair of arguments that kernels take, wherever it lies. None for an array of
    several numbers, or of another type than `like`."""
    if getattr(x, "ndim", 0):
        return None
    if not isinstance(x, cupy.ndarray):
        return 0, float(x)
    return (x, 0.0) if x.dtype == like.dtype else None


def gap(x: Array | None) -> int:
    """Elements from the matrix of one network to that of the next; 0 where all have the same."""
    return 0 if x is None or x.ndim < 3 or x.shape[0] == 1 else x.strides[0] // x.itemsize


def are_matrices(*arrays: Array) -> bool:
    """Whether the arrays are matrices, or stacks of them, each of which is contiguous, and all of
    the first one's type, float32 or float64."""
    dtype = arrays[0].dtype
    return dtype.name in TYPES and all(
        x.dtype == dtype
        and x.ndim in (2, 3)
        and (x.shape[-1] == 1 or x.strides[-1] == x.itemsize)
        and (x.shape[-2] == 1 or x.strides[-2] == x.shape[-1] * x.itemsize)
        for x in arrays
    )


def are_contiguous(*arrays: Array) -> bool:
    """Whether the arrays are contiguous and all of the first one's type, float32 or float64."""
    dtype = arrays[0].dtype
    return dtype.name in TYPES and all(x.dtype == dtype and x.flags.c_contiguous for x in arrays)
