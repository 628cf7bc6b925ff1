"""CuPy on the host: the real modules and `.cuh` files of `kernels/cuda`, without a GPU.

A stand-in for the few parts of CuPy that they use. Its arrays are NumPy's, and its kernels are
those of the `.cuh` files, compiled by g++ with `cuda_on_host.h`, which runs all threads of a
launch. Matrix products go by the real `product_plan.py` to a library of the same functions, which
is compiled from `cublaslt_on_host.cpp`.

While a stream is captured nothing runs: what is launched is taken down, with the addresses and
numbers of that moment and nothing else, and runs when the graph is launched: in any order in which
each comes after what it waits for, now one and now another. What CuPy refuses in a capture is
refused. Memory comes from pools, as CuPy's does: when the last array of a piece is
gone, the next array of that size has it.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar, NamedTuple

if sys.platform == "linux":
    import fcntl

import numpy as np

from nnaccel.kernels.cuda.signatures import expressions
from nnaccel.kernels.cuda.source import kernel_source

HEADER = Path(__file__).with_suffix(".h")
BUILT = Path(__file__).parents[3] / ".pytest_cache" / "cuda"

COMPILER = shutil.which("g++") if sys.platform == "linux" else None
NO_COMPILER = "needs g++ on Linux, to run CUDA kernels on the host"

GLUE = """
#include "{header}"
{kernels}

template <auto kernel>
void run(const unsigned* grid, const unsigned* shape, size_t room, void** args) {{
    host::launch(kernel, grid, shape, room, args);
}}

struct Entry {{
    const char* types;
    void (*launch)(const unsigned*, const unsigned*, size_t, void**);
}};

static const Entry table[] = {{{entries}}};

extern "C" unsigned long long fences() {{ return host::fences; }}

extern "C" const char* types_of(int i) {{ return table[i].types; }}

extern "C" void launch(
    int i, const unsigned* grid, const unsigned* shape, size_t room, void** args) {{
    table[i].launch(grid, shape, room, args);
}}
"""


def compiled(text: str, *flags: str | Path, reads: Iterable[Path] = ()) -> ctypes.CDLL:
    """The library of a text of C++; it is compiled once, and again when the text, the flags or a
    file that it reads have changed."""
    assert COMPILER is not None, NO_COMPILER
    key = hashlib.sha256(repr((text, COMPILER, flags)).encode())
    for path in reads:
        key.update(path.read_bytes())
    BUILT.mkdir(parents=True, exist_ok=True)
    binary = BUILT / f"{key.hexdigest()[:32]}.so"
    # The processes of pytest-xdist all need it: one compiles, and the others wait.
    with open(binary.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            source, made = binary.with_suffix(".cpp"), binary.with_suffix(".new")
            source.write_text(text)
            subprocess.run([COMPILER, *flags, source, "-o", made], check=True)
            made.replace(binary)
    return ctypes.CDLL(str(binary))


@cache
def library(flags: tuple[str, ...] = ("-O1",)) -> ctypes.CDLL:
    """All kernels that can be asked for."""
    entries = ",\n".join(f"{{host::types({e}), run<{e}>}}" for e in expressions())
    text = GLUE.format(header=HEADER, kernels=kernel_source(), entries=entries)
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
    # As on a device, reading 16 bytes together at another place ends the process.
    traps = ("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")
    found = compiled(
        text,
        *("-std=c++17", "-shared", "-fPIC", "-fno-strict-aliasing"),
        *("-U_FORTIFY_SOURCE", *warnings, *traps, *flags),
        reads=[HEADER],
    )
    found.types_of.restype = ctypes.c_char_p
    found.fences.restype = ctypes.c_ulonglong
    return found


@cache
def header_folders() -> tuple[Path, ...]:
    """Where CUDA's headers are, cublasLt.h and what it includes; empty where they are not."""
    nvcc = shutil.which("nvcc")
    gradient_homes = [os.environ.get("CUDA_PATH"), nvcc and Path(nvcc).resolve().parents[1]]
    folders = [Path(home) / "include" for home in (*gradient_homes, "/usr/local/cuda") if home]
    folders += [x for path in sys.path for x in Path(path).glob("nvidia/*/include")]
    found = next((folder for folder in folders if (folder / "cublasLt.h").exists()), None)
    return () if found is None else (found, found / "cccl")


@cache
def cublaslt() -> ctypes.CDLL:
    """The library of `cublaslt_on_host.cpp`: with CUDA's own headers where they are found."""
    source = HEADER.with_name("cublaslt_on_host.cpp")
    headers = [flag for path in header_folders() for flag in ("-isystem", path)]
    found = compiled(
        source.read_text(),
        *("-I", source.parent, "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC"),
        *("-Wall", "-Wextra", "-Werror", *headers, *(["-DCUDA_HEADERS"] if headers else [])),
        reads=[source.with_suffix(".h"), *(x / "cublasLt.h" for x in header_folders()[:1])],
    )
    found.host_clock.restype = ctypes.c_double
    found.host_cost.argtypes = [ctypes.c_int, ctypes.c_double]
    found.host_objects.restype = ctypes.c_longlong
    return found


class Counted:
    """A library whose products count as launches of CuPy's stand-in."""

    def __init__(self, library: ctypes.CDLL, cupy: ModuleType) -> None:
        self._library, self._cupy = library, cupy

    def __getattr__(self, name: str) -> object:
        return getattr(self._library, name)

    def cublasLtMatmul(self, *args: int) -> int:
        """Its status, which in a graph must be that of success."""
        assert args[-1] == self._cupy.cuda.get_current_stream().ptr
        statuses = []

        def run() -> None:
            statuses.append(self._library.cublasLtMatmul(*args[:-1], 0))

        def run_again() -> None:
            run()
            assert not statuses[-1]

        self._cupy.launch(run if self._cupy.recorded is None else run_again)
        return statuses[0] if statuses else 0


class Event:
    """A moment on the clock of the stand-in for cuBLASLt, and of a stream that is captured."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self._timed = not disable_timing

    def record(self, stream: "Stream") -> None:
        if self._timed:
            self.time = cublaslt().host_clock()
        self.after = set(stream.last)

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
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert min(*grid, *block) >= 1
        assert len(args) == len(self._types)
        values = [as_argument(x, kind) for x, kind in zip(args, self._types, strict=True)]
        shapes = [(ctypes.c_uint * 3)(*shape, *[1] * (3 - len(shape))) for shape in (grid, block)]
        self._cupy.launch(partial(self._run, shapes, ctypes.c_size_t(shared_mem), values))

    def _run(self, shapes: list, room: ctypes.c_size_t, values: list) -> None:
        # Not by `ctypes.cast`, which leaves cycles of references behind.
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        library().launch(self._number, *shapes, room, pointers)


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


class CUDARuntimeError(RuntimeError):
    """There is no memory left."""


class DeviceMemory:
    """A piece of the device's memory, of the size that pools ask for."""

    def __init__(self, size: int) -> None:
        self.block = np.empty(size + 512, np.uint8)


class Memory:
    """A piece of a pool's memory; it goes back when the last array of it is gone."""

    def __init__(self, pool: "MemoryPool", size: int) -> None:
        rounded = -(-max(size, 1) // 512) * 512
        free = pool.free[rounded]
        self.block = free.pop() if free else pool.new(rounded)
        self.free = free
        # No number is in it, so that what reads it before it is written shows.
        self.block.fill(0xFF)
        at = self.block.ctypes.data
        self.__array_interface__ = {
            "data": (at + -at % 512, False), "shape": (size,), "typestr": "|u1", "version": 3,
        }  # fmt: skip

    def __del__(self) -> None:
        if hasattr(self, "block"):
            self.free.append(self.block)


class MemoryPool:
    """Memory is not given back by itself, as in CuPy, where that of a pool that is gone is lost.
    Where CUDA says that there is none left, what is free goes back to the device."""

    def __init__(self, allocator: Callable[[int], DeviceMemory] = DeviceMemory) -> None:
        self.free: dict[int, list[np.ndarray]] = defaultdict(list)
        self._allocator = allocator

    def new(self, size: int) -> np.ndarray:
        try:
            return self._allocator(size).block
        except CUDARuntimeError:
            self.free_all_blocks()
            return self._allocator(size).block

    def free_all_blocks(self) -> None:
        self.free.clear()

    def malloc(self, size: int) -> Memory:
        return Memory(self, size)


class Device(nullcontext):
    """The only one."""

    attributes: ClassVar = {"MaxSharedMemoryPerBlockOptin": 227 * 1024}

    def __init__(self, number: int = 0) -> None:
        assert number == 0
        super().__init__(self)


class Address:
    """An array as a launch knows it: keeps nothing alive."""

    def __init__(self, x: np.ndarray) -> None:
        self.__array_interface__ = {
            "data": (x.ctypes.data, False), "shape": x.shape, "strides": x.strides,
            "typestr": x.dtype.str, "version": 3,
        }  # fmt: skip

    def array(self) -> np.ndarray:
        return np.asarray(self)


def mapped(function: Callable, kind: type, x: object) -> object:
    """x with the function applied to what is of that kind in it."""
    if isinstance(x, kind):
        return function(x)
    if isinstance(x, tuple | list):
        return type(x)(mapped(function, kind, part) for part in x)
    if isinstance(x, dict):
        return {name: mapped(function, kind, part) for name, part in x.items()}
    return x


def looking(name: str) -> Callable:
    """The method of NumPy's arrays, for which the host would wait for the device."""

    def look(self: "OnDevice", *args: object) -> object:
        cupy_on_host().wait()
        return getattr(self.view(np.ndarray), name)(*args)

    return look


class OnDevice(np.ndarray):
    """An array that the host cannot look into; counts the operations that are not kernels."""

    operations = 0
    __float__, __int__, __bool__ = map(looking, ("__float__", "__int__", "__bool__"))
    __index__, __iter__ = map(looking, ("__index__", "__iter__"))
    item, tolist = map(looking, ("item", "tolist"))

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, host: np.ndarray, stream: object) -> None:
        cupy_on_host().upload()
        self.view(np.ndarray)[...] = host

    def get(self) -> np.ndarray:
        """A copy on the host, which waits for the device."""
        assert cupy_on_host().recorded is None
        return np.array(self)

    def __array_ufunc__(self, ufunc, method, *args, **options):
        if ufunc is np.matmul:
            cupy_on_host().refuse_products()
        return self.apply(getattr(ufunc, method), args, options)

    def __array_function__(self, function, types, args, options):
        return self.apply(function, args, options)

    def apply(self, function: Callable, args: tuple, options: dict) -> "OnDevice":
        """The result of an operation of NumPy's, as a launch; views are none."""
        cupy = cupy_on_host()
        known = mapped(Address, OnDevice, (args, options))

        def result() -> np.ndarray:
            with np.errstate(all="ignore"):
                args, options = mapped(Address.array, Address, known)
                return np.asarray(function(*args, **options))

        if out := options.get("out"):
            cupy.operation(result)
            return out[0]
        found = result()  # of whatever is there by now, if this is captured: its shape is needed
        arrays = []
        mapped(arrays.append, OnDevice, (args, options))
        for x in arrays:
            if np.may_share_memory(found, x.view(np.ndarray)):
                assert found.ctypes.data == x.ctypes.data
                assert found.dtype == x.dtype
                return np.lib.stride_tricks.as_strided(x, found.shape, found.strides, subok=True)
        into = cupy.empty(found.shape, found.dtype)
        target = Address(into)
        cupy.operation(lambda: np.copyto(target.array(), result()))
        return into

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        if any(isinstance(i, np.ndarray | list) for i in index):
            return self.apply(np.ndarray.__getitem__, (self, index), {})
        # An element is an array too.
        return super().__getitem__(index if ... in index else (*index, ...))

    def __setitem__(self, index, value):
        if isinstance(value, np.ndarray) and not isinstance(value, OnDevice):
            cupy_on_host().upload()
        into, value = Address(self[index]), mapped(Address, OnDevice, value)
        cupy_on_host().operation(
            lambda: np.copyto(into.array(), mapped(Address.array, Address, value))
        )

    def astype(self, dtype, copy=True):
        if self.dtype == dtype and not copy:
            return self
        return self.apply(np.ndarray.astype, (self, dtype), {})

    def copy(self, order="C"):
        return self.apply(np.ndarray.copy, (self, order), {})


class Stream:
    """CuPy's stream, or the default one. A stream that waits for one that is captured is captured
    with it."""

    def __init__(self, cupy: ModuleType, non_blocking: bool = False) -> None:
        self._cupy, self._non_blocking = cupy, non_blocking
        self._capturing = False
        self._before: list[Stream | None] = []
        self.last: set[int] = set()  # the nodes of a capture that the next one waits for
        self.ptr = id(self) if non_blocking else 0

    def __enter__(self) -> None:
        self._before.append(self._cupy.stream)
        self._cupy.stream = self

    def __exit__(self, *_: object) -> None:
        self._cupy.stream = self._before.pop()
        assert self._before or self._cupy.stream or not self._capturing, "a capture goes on"

    def is_capturing(self) -> bool:
        return self._capturing

    def wait_event(self, event: Event) -> None:
        """Where nothing is captured, what has been launched has run."""
        if self._cupy.recorded is not None:
            self.last |= event.after
            self._capturing = True
            self._cupy.captured.add(self)

    def synchronize(self) -> None:
        """Likewise."""

    def begin_capture(self) -> None:
        assert self._non_blocking
        assert self._cupy.stream is self
        assert self._cupy.recorded is None
        self._capturing, self._cupy.recorded, self._cupy.captured = True, [], {self}

    def end_capture(self) -> "Graph":
        assert self._capturing
        recorded, self._cupy.recorded = self._cupy.recorded, None
        joined = set(self.last)
        for number in reversed(range(len(recorded))):
            if number in joined:
                joined |= recorded[number].after
        for stream in self._cupy.captured:
            stream._capturing, stream.last = False, set()
        if len(joined) < len(recorded):
            raise RuntimeError("cudaErrorStreamCaptureUnjoined")
        return Graph(self._cupy, recorded)


class Node(NamedTuple):
    """Of a graph: what it does, and the numbers of the nodes that it waits for."""

    run: Callable[[], None]
    after: frozenset[int]


class Graph:
    """What has been captured. Where it has branches, launches differ in which goes first."""

    def __init__(self, cupy: ModuleType, recorded: list[Node]) -> None:
        self._cupy, self.recorded, self._launches = cupy, recorded, 0

    def launch(self) -> None:
        assert self._cupy.recorded is None
        self._cupy.graphs += 1
        self._launches += 1
        for number in self.order(self._launches % 2 == 0):
            self.recorded[number].run()

    def order(self, late: bool) -> Iterator[int]:
        """The nodes, each after those that it waits for: of those that may run the one that was
        captured first, or the last."""
        waits = [set(node.after) for node in self.recorded]
        ready = [number for number, after in enumerate(waits) if not after]
        followers = defaultdict(list)
        for number, after in enumerate(waits):
            for before in after:
                followers[before].append(number)
        while ready:
            number = (max if late else min)(ready)
            ready.remove(number)
            yield number
            for follower in followers[number]:
                waits[follower].remove(number)
                if not waits[follower]:
                    ready.append(follower)

    def __reduce__(self) -> str:
        raise TypeError("no default __reduce__ due to non-trivial __cinit__")


def stand_in() -> ModuleType:
    """A module with what is used of CuPy. It counts launches of kernels, graphs and products,
    and copies from the host. `kind` is the type of the arrays that it makes; `patient`: whether
    the host may look into those on the device."""
    cupy = ModuleType("cupy")
    cupy.kind = cupy.ndarray = np.ndarray
    cupy.launches = cupy.graphs = cupy.uploads = 0
    cupy.recorded = cupy.stream = None
    cupy.patient = False
    cupy.malloc = MemoryPool().malloc
    cupy.device_memory = DeviceMemory

    def record(run):
        """A node of the graph that is being captured, on the current stream."""
        stream = cupy.stream or null
        assert stream.is_capturing(), "CUDA would refuse: another stream is being captured"
        cupy.recorded.append(Node(run, frozenset(stream.last)))
        stream.last = {len(cupy.recorded) - 1}

    def launch(run):
        """What runs now, or in each launch of the graph that is being captured."""
        if cupy.recorded is not None:
            record(run)
        else:
            cupy.launches += 1
            run()

    def operation(run):
        """The same, of NumPy's."""
        if cupy.recorded is not None:
            record(run)
        else:
            OnDevice.operations += 1
            run()

    def wait():
        if cupy.recorded is not None:
            raise RuntimeError("the current stream is capturing, so D2H transfers are disallowed")
        assert cupy.patient, "the host waits for the device"

    def upload():
        if cupy.recorded is not None:
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        cupy.uploads += 1

    def refuse_products():
        if cupy.recorded is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is unsupported")

    @contextmanager
    def using_allocator(malloc):
        before, cupy.malloc = cupy.malloc, malloc
        try:
            yield
        finally:
            cupy.malloc = before

    def empty(shape, dtype=np.float64):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        return np.asarray(cupy.malloc(size)).view(dtype).reshape(shape).view(cupy.kind)

    def zeros(shape, dtype=np.float64):
        array = empty(shape, dtype)
        array.view(np.ndarray).fill(0)
        if cupy.recorded is not None:
            into = Address(array)
            record(lambda: into.array().fill(0))
        return array

    def asarray(x, dtype=None, order=None):
        """With arrays on the device: copies what is not there yet."""
        if cupy.kind is np.ndarray:
            return np.asarray(x, dtype, order=order)
        if isinstance(x, cupy.kind):
            return cast(x, dtype)
        host = np.asarray(x, dtype)
        upload()
        array = empty(host.shape, host.dtype)
        array.view(np.ndarray)[...] = host
        return array

    def cast(x, dtype):
        return x if dtype is None or x.dtype == dtype else x.astype(dtype)

    def ascontiguousarray(x, dtype=None):
        x = cast(x, dtype)
        return x if x.flags.c_contiguous else x.copy()

    def matmul(X, Y, out=None):
        """As cuBLAS does it: without a copy where `out` is what CuPy wants; not in a capture."""
        refuse_products()
        if out is None:
            out = empty((*X.shape[:-1], Y.shape[-1]), X.dtype)
        assert out.flags.c_contiguous
        assert X.dtype == Y.dtype == out.dtype
        x, y, into = map(Address, (X, Y, out))
        assert not any(np.shares_memory(factor.array(), into.array()) for factor in (x, y))
        launch(lambda: np.matmul(x.array(), y.array(), out=into.array()))
        return out

    def memset(at, value, size, stream):
        """Of its ends alone, which is quicker."""
        for place in (at, at + size - 1):
            ctypes.memset(place, value, 1)

    class RawModule:
        def __init__(self, *, code, options, name_expressions):
            assert code == kernel_source()
            assert options == ("--std=c++17",)
            self.name_expressions = name_expressions

        def get_function(self, name):
            assert name in self.name_expressions
            return Kernel(cupy, name)

    null = Stream(cupy)
    cupy.launch, cupy.operation, cupy.upload, cupy.wait = launch, operation, upload, wait
    cupy.refuse_products = refuse_products
    cupy.empty, cupy.zeros, cupy.asarray = empty, zeros, asarray
    cupy.ascontiguousarray, cupy.matmul, cupy.RawModule = ascontiguousarray, matmul, RawModule
    cupy.empty_like = lambda x: empty(x.shape, x.dtype)
    cupy.reshape = np.reshape
    cupy.cuda = SimpleNamespace(
        Device=Device,
        Memory=lambda size: cupy.device_memory(size),
        MemoryPointer=lambda memory, offset: memory,
        MemoryPool=MemoryPool,
        Stream=partial(Stream, cupy),
        compiler=SimpleNamespace(CompileException=CompileException),
        runtime=SimpleNamespace(
            runtimeGetVersion=lambda: 13000,
            driverGetVersion=lambda: 12080,
            CUDARuntimeError=CUDARuntimeError,
            getDevice=lambda: 0,
            memsetAsync=memset,
            getDeviceProperties=lambda _: {"name": b"host", "multiProcessorCount": 1},
        ),
        get_current_stream=lambda: cupy.stream or null,
        Event=Event,
        get_elapsed_time=lambda begin, end: end.time - begin.time,
        using_allocator=using_allocator,
    )
    return cupy


PACKAGE = "nnaccel.kernels.cuda"


def loaded_on(cupy: ModuleType, prepare: Callable[[ModuleType], None]) -> SimpleNamespace:
    """The modules of `nnaccel.kernels.cuda` by name, loaded once more where this is CuPy.

    Those that were loaded before stay what they are.   prepare: what is done to `cublaslt` before
    the others import from it.
    """
    package, before = sys.modules[PACKAGE], dict(vars(sys.modules[PACKAGE]))
    known = {name: x for name, x in sys.modules.items() if is_part(name)}
    for name in known:
        del sys.modules[name]
        vars(package).pop(name.rpartition(".")[2], None)
    sys.modules["cupy"] = cupy
    try:
        prepare(import_module(f"{PACKAGE}.cublaslt"))
        for name in ("workspace", "small_network", "graphs"):
            import_module(f"{PACKAGE}.{name}")
        parts = {name.rpartition(".")[2]: x for name, x in sys.modules.items() if is_part(name)}
        return SimpleNamespace(**parts)
    finally:
        for name in [name for name in sys.modules if is_part(name)]:
            del sys.modules[name]
        sys.modules.update(known)
        vars(package).clear()
        vars(package).update(before)


def is_part(module: str) -> bool:
    return module == "cupy" or module.startswith(f"{PACKAGE}.")


@cache
def modules_on_host() -> SimpleNamespace:
    """The modules of `nnaccel.kernels.cuda` on the stand-ins, and the stand-in for CuPy. Products
    take the algorithm that comes first, as where no choice can be kept."""
    cupy = stand_in()

    def prepare(cublaslt_module: ModuleType) -> None:
        library = cache(lambda: Counted(cublaslt_module.declared(cublaslt()), cupy))
        cublaslt_module.library = library
        cublaslt_module.address = lambda x: x.ctypes.data

    modules = loaded_on(cupy, prepare)
    modules.algorithm_choice.cache_folder = lambda: None
    return modules


def on_host() -> ModuleType:
    """The module `nnaccel.kernels.cuda.workspace` on the stand-ins."""
    return modules_on_host().workspace


def cupy_on_host() -> ModuleType:
    """The stand-in for CuPy."""
    return modules_on_host().cupy


def small_on_host() -> ModuleType:
    """The module `nnaccel.kernels.cuda.small_network`, likewise."""
    return modules_on_host().small_network


def graphs_on_host() -> ModuleType:
    """The module `nnaccel.kernels.cuda.graphs`, likewise."""
    return modules_on_host().graphs
