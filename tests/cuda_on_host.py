"""CuPy on the host: the real `_cupy.py` and `cuda.cu`, on NumPy's arrays and without a GPU.

A stand-in for the few parts of CuPy that `_cupy.py` uses. Its arrays are NumPy's, and its kernels
are those of `cuda.cu`, compiled by g++ with `cuda_on_host.h`, which runs all threads of a launch.
Matrix products go by the real `_cublaslt.py` to a library of the same functions, which is compiled
from `cublaslt_on_host.cpp`.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

import nnaccel.kernels
from nnaccel.kernels._cuda import expressions

KERNELS = Path(nnaccel.kernels.__file__).parent
HEADER = Path(__file__).with_suffix(".h")

COMPILER = shutil.which("g++") if sys.platform == "linux" else None
NO_COMPILER = "needs g++ on Linux, to run CUDA kernels on the host"

GLUE = """
#include "{header}"
#include "{source}"

template <auto kernel>
void run(const unsigned* grid, const unsigned* shape, size_t room, void** args) {{
    host::launch(kernel, grid, shape, room, args);
}}

struct Entry {{
    const char* types;
    void (*launch)(const unsigned*, const unsigned*, size_t, void**);
}};

static const Entry table[] = {{{entries}}};

extern "C" const char* types_of(int i) {{ return table[i].types; }}

extern "C" void launch(
    int i, const unsigned* grid, const unsigned* shape, size_t room, void** args) {{
    table[i].launch(grid, shape, room, args);
}}
"""


@cache
def library(flags: tuple[str, ...] = ("-O1",)) -> ctypes.CDLL:
    """All kernels that `_cupy.py` can ask for, compiled once in a process."""
    entries = ",\n".join(f"{{host::types({e}), run<{e}>}}" for e in expressions())
    folder = tempfile.TemporaryDirectory()
    source, binary = (Path(folder.name) / name for name in ("all.cpp", "all.so"))
    source.write_text(GLUE.format(header=HEADER, source=KERNELS / "cuda.cu", entries=entries))
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
    # As on a device, reading 16 bytes together at another place ends the process.
    traps = ("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")
    command = [
        *(COMPILER, "-std=c++17", "-shared", "-fPIC", "-fno-strict-aliasing"),
        *("-U_FORTIFY_SOURCE", *warnings, *traps, *flags),
        *(source, "-o", binary),
    ]
    subprocess.run(command, check=True)
    found = ctypes.CDLL(str(binary))
    found.types_of.restype = ctypes.c_char_p
    found.folder = folder  # kept as long as the library
    return found


@cache
def header_folders() -> tuple[Path, ...]:
    """Where CUDA's headers are, cublasLt.h and what it includes; empty where they are not."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_PATH"), nvcc and Path(nvcc).resolve().parents[1]]
    folders = [Path(home) / "include" for home in (*homes, "/usr/local/cuda") if home]
    folders += [x for path in sys.path for x in Path(path).glob("nvidia/*/include")]
    found = next((folder for folder in folders if (folder / "cublasLt.h").exists()), None)
    return () if found is None else (found, found / "cccl")


@cache
def cublaslt() -> ctypes.CDLL:
    """The library of `cublaslt_on_host.cpp`, compiled once in a process: with CUDA's own headers
    where they are found."""
    folder = tempfile.TemporaryDirectory()
    binary = Path(folder.name) / "cublaslt.so"
    headers = [flag for path in header_folders() for flag in ("-isystem", path)]
    command = [
        *(COMPILER, "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC"),
        *("-Wall", "-Wextra", "-Werror", *headers, *(["-DCUDA_HEADERS"] if headers else [])),
        *(HEADER.with_name("cublaslt_on_host.cpp"), "-o", binary),
    ]
    subprocess.run(command, check=True)
    found = ctypes.CDLL(str(binary))
    found.host_clock.restype = ctypes.c_double
    found.host_cost.argtypes = [ctypes.c_int, ctypes.c_double]
    found.host_objects.restype = ctypes.c_longlong
    found.folder = folder
    return found


class Counted:
    """A library whose products count as launches of CuPy's stand-in."""

    def __init__(self, library: ctypes.CDLL, cupy: ModuleType) -> None:
        self._library, self._cupy = library, cupy

    def __getattr__(self, name: str) -> object:
        return getattr(self._library, name)

    def cublasLtMatmul(self, *args: int) -> int:
        self._cupy.launches += 1
        return self._library.cublasLtMatmul(*args)


class Event:
    """A moment on the clock of the stand-in for cuBLASLt."""

    def record(self, stream: object) -> None:
        self.time = cublaslt().host_clock()

    def synchronize(self) -> None:
        pass


class Kernel:
    """What CuPy calls a RawKernel."""

    def __init__(self, cupy: ModuleType, expression: str) -> None:
        self._cupy = cupy
        self._number = list(expressions()).index(expression)
        self._types = library().types_of(self._number).decode()
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple, *, shared_mem: int = 0
    ) -> None:
        self._cupy.launches += 1
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert min(*grid, *block) >= 1
        assert len(args) == len(self._types)
        values = [as_argument(x, kind) for x, kind in zip(args, self._types, strict=True)]
        pointers = [ctypes.cast(ctypes.pointer(x), ctypes.c_void_p) for x in values]
        shapes = [(ctypes.c_uint * 3)(*shape, *[1] * (3 - len(shape))) for shape in (grid, block)]
        room = ctypes.c_size_t(shared_mem)
        library().launch(self._number, *shapes, room, (ctypes.c_void_p * len(args))(*pointers))


def as_argument(x: object, kind: str) -> ctypes._SimpleCData:
    """An argument as CuPy passes it on, if the kernel wants one of that type."""
    if isinstance(x, np.ndarray):
        assert kind == "p"
        return ctypes.c_void_p(x.ctypes.data)
    if type(x) is int:
        assert kind == "i" or (kind == "p" and x == 0)
        return ctypes.c_longlong(x)
    assert isinstance(x, float)
    assert kind == "d"
    return ctypes.c_double(x)


class CompileException(Exception):
    """CuPy's own is not a RuntimeError either."""


def stand_in() -> ModuleType:
    """A module with what `_cupy.py` uses of CuPy; it counts launches."""
    cupy = ModuleType("cupy")

    def empty(shape, dtype=np.float64):
        """Memory that holds no number, so that what reads it before it is written shows."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(0xFF)
        return array

    def matmul(X, Y, out=None):
        """As cuBLAS does it: without a copy where `out` is what CuPy wants."""
        cupy.launches += 1
        X, Y = X.view(np.ndarray), Y.view(np.ndarray)
        if out is None:
            return np.matmul(X, Y)
        into = out.view(np.ndarray)
        assert into.flags.c_contiguous
        assert X.dtype == Y.dtype == into.dtype
        assert not any(np.shares_memory(factor, into) for factor in (X, Y))
        np.matmul(X, Y, out=into)
        return out

    class RawModule:
        def __init__(self, *, code, options, name_expressions):
            assert code == (KERNELS / "cuda.cu").read_text()
            assert options == ("--std=c++17",)
            self.name_expressions = name_expressions

        def get_function(self, name):
            assert name in self.name_expressions
            return Kernel(cupy, name)

    cupy.launches = 0
    cupy.ndarray = np.ndarray
    cupy.empty, cupy.matmul, cupy.RawModule = empty, matmul, RawModule
    for name in ("asarray", "ascontiguousarray", "empty_like", "reshape", "zeros"):
        setattr(cupy, name, getattr(np, name))
    cupy.cuda = SimpleNamespace(
        Device=lambda: SimpleNamespace(attributes={"MaxSharedMemoryPerBlockOptin": 227 * 1024}),
        compiler=SimpleNamespace(CompileException=CompileException),
        runtime=SimpleNamespace(
            runtimeGetVersion=lambda: 13000,
            driverGetVersion=lambda: 12080,
            getDevice=lambda: 0,
            getDeviceProperties=lambda _: {"name": b"host", "multiProcessorCount": 1},
        ),
        get_current_stream=lambda: SimpleNamespace(ptr=0, is_capturing=lambda: False),
        Event=Event,
        get_elapsed_time=lambda begin, end: end.time - begin.time,
    )
    return cupy


def loaded(name: str, **modules: ModuleType) -> ModuleType:
    """That module of the kernels, under another name, where it finds these modules."""
    spec = importlib.util.spec_from_file_location(f"{name}_on_host", KERNELS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    before = {known: sys.modules.get(known) for known in modules}
    sys.modules.update(modules)
    try:  # not by `patch.dict`, which would forget whatever else is loaded meanwhile
        spec.loader.exec_module(module)
    finally:
        for known, old in before.items():
            del sys.modules[known]
            if old is not None:
                sys.modules[known] = old
    return module


@cache
def on_host() -> ModuleType:
    """The module `nnaccel.kernels._cupy` on the stand-in for CuPy."""
    products = products_on_host()
    modules = {"cupy": products.cupy, "nnaccel.kernels._cublaslt": products}
    return loaded("_cupy", **modules)


@cache
def products_on_host() -> ModuleType:
    """The module `nnaccel.kernels._cublaslt` on the stand-ins; it takes the algorithm that comes
    first, as where no choice can be kept."""
    module = loaded("_cublaslt", cupy=stand_in())
    module.library = cache(lambda: Counted(module.declared(cublaslt()), module.cupy))
    module.address = lambda x: x.ctypes.data
    module.cache_folder = lambda: None
    return module


@cache
def small_on_host() -> ModuleType:
    """The module `nnaccel.kernels._cupy_small`, likewise."""
    modules = {"cupy": on_host().cupy, "nnaccel.kernels._cupy": on_host()}
    return loaded("_cupy_small", **modules)
