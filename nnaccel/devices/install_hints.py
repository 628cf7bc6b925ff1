"""Imports an array library, or raises the ImportError that names the command to install it."""

import ctypes
import re
import sys
from importlib import import_module, metadata
from typing import Any


def load_library(library: str, kind: str) -> Any:
    """Import an array library. Raises ImportError that says how to install it."""
    try:
        return import_module(library)
    except Exception as error:  # a broken installation can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == library:
            raise ImportError(not_installed(library, kind)) from None
        raise ImportError(
            f"device {kind!r} needs {TITLES[library]}, which is installed but cannot be imported "
            f"({first_line(error.__cause__ or error)}); reinstall it: {install_command(library)}"
        ) from error


def not_installed(library: str, kind: str) -> str:
    return (
        f"device {kind!r} needs {TITLES[library]}, which is not installed; "
        f"run: {install_command(library)}"
    )


def install_command(library: str) -> str:
    if library != "cupy":
        return f"python -m pip install {library}"
    if major := cuda_major():
        return f"python -m pip install 'nnaccel[cuda{major}]'"
    return (
        "python -m pip install 'nnaccel[cuda12]' (or cuda13, by the CUDA version that nvidia-smi "
        "shows; no NVIDIA driver is found here)"
    )


def install_cuda_command() -> str:
    """The command that installs cuBLAS, NVRTC and the headers for the installed CuPy."""
    names = [name for name in ("cupy-cuda12x", "cupy-cuda13x") if has_distribution(name)]
    name = names[0] if names else f"cupy-cuda{cuda_major() or 12}x"
    return f"python -m pip install '{name}[ctk]'"


def has_distribution(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def cuda_driver() -> int | None:
    """The newest CUDA version that the NVIDIA driver supports, as 1000 major + 10 minor; None
    without a driver."""
    version = ctypes.c_int()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        driver.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return version.value or None


def cuda_major() -> int | None:
    """The CUDA version to install for: 12 or 13, None without a driver."""
    driver = cuda_driver()
    return driver and (13 if driver >= 13000 else 12)


def first_line(error: BaseException) -> str:
    """The first line of an error that contains a word."""
    lines = (line.strip() for line in str(error).splitlines() if re.search(r"\w", line))
    return next(lines, type(error).__name__)


TITLES = {"numpy": "NumPy", "cupy": "CuPy", "torch": "PyTorch", "jax": "JAX"}
