"""NVIDIA's run-time compiler, as CuPy calls it, from wheels that need no driver.

pip install -e '.[nvrtc]'      # of two versions; each is a library of its own
"""

import ctypes
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

# What CuPy 14.2 adds to the options of `launch.kernel` for an H100 or H200.
OPTIONS = ("--std=c++17", "-ftz=true", "-arch=sm_90", "--device-as-default-execution-space")
REPORT = "--ptxas-options=-v"  # changes the log alone


class Resources(NamedTuple):
    """What a kernel needs in each thread: registers, and bytes of local memory, which is slow."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int


@cache
def library(version: tuple[int, int]) -> ctypes.CDLL | None:
    """The compiler of that version of CUDA; None where there is none."""
    major, minor = version
    for path in map(Path, sys.path):
        for builtins in path.glob(f"nvidia/*/lib/libnvrtc-builtins.so.{major}.{minor}"):
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            found = ctypes.CDLL(str(builtins.with_name(f"libnvrtc.so.{major}")))
            found.nvrtcGetErrorString.restype = ctypes.c_char_p
            return found
    return None


def compiled(source: str, kernels: Sequence[str], version: tuple[int, int]) -> dict[str, Resources]:
    """What each of the kernels that these expressions name needs, by its name in the binary.
    AssertionError with the log where one does not compile."""
    nvrtc, program = library(version), ctypes.c_void_p()
    assert nvrtc is not None

    def check(status: int, log: str = "") -> None:
        assert not status, f"{nvrtc.nvrtcGetErrorString(status).decode()}\n{log}"

    def log() -> str:
        size = ctypes.c_size_t()
        check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        check(nvrtc.nvrtcGetProgramLog(program, text))
        return text.value.decode()

    at = ctypes.byref(program)
    check(nvrtc.nvrtcCreateProgram(at, source.encode(), b"kernels.cu", 0, None, None))
    for name in kernels:
        check(nvrtc.nvrtcAddNameExpression(program, name.encode()))
    options = [option.encode() for option in (*OPTIONS, REPORT)]
    words = (ctypes.c_char_p * len(options))(*options)
    check(nvrtc.nvrtcCompileProgram(program, len(options), words), log())
    found = dict(resources_in(log()))
    check(nvrtc.nvrtcDestroyProgram(at))
    assert len(found) == len(kernels)
    return found


def resources_in(log: str) -> list[tuple[str, Resources]]:
    """Names and needs of the kernels in a log of the assembler."""
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers"
    )
    return [
        (name, Resources(*map(int, (registers, *rest))))
        for name, *rest, registers in re.findall(pattern, log, re.DOTALL)
    ]
