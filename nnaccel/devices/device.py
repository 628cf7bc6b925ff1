"""The device flag to (namespace, device): the only door between host and device.

    device = select("cuda")              # or "cpu", "torch:mps", "jax", "auto", None, ...
    X = device.asarray(X, "float32")     # from a list, a table, an array of any library
    to_host(X)                           # a NumPy array

A library is imported when one of its devices is selected, never before.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, NamedTuple

import array_api_compat as compat
import numpy as np

from nnaccel.arguments import did_you_mean
from nnaccel.devices.libraries import KINDS, MEANT, ROWS, jax_mesh
from nnaccel.typing import Array, Namespace


class Device(NamedTuple):
    """A device with its array library.

    Attributes
    ----------
    name : str
        Canonical, and accepted by `select`: "cpu", "cuda:0", "torch:cuda:0", "jax:cpu:0",
        ``"jax:cpu:*"``.
    xp : module
        The Array API namespace: array-api-compat's for NumPy, CuPy and PyTorch, else the
        library's own.
    handle : object or None
        The library's device object for the argument ``device=``; None for NumPy. For several
        devices of JAX, a sharding with a copy of every array on each.
    """

    name: str
    xp: Namespace
    handle: Any

    @property
    def library(self) -> str:
        """Import name of the array library: "numpy", "cupy", "torch", "jax", ..."""
        return _library(self.xp)

    def context(self) -> AbstractContextManager[Any]:
        """A context in which this is the current device.

        CuPy allocates and launches on the current device, so everything for "cuda:1" must run in
        the context. In the mesh of several devices of JAX a step divides its rows among them. Other
        libraries compute where their arrays are and get an empty context.
        """
        if self.is_several:
            return import_module("jax").set_mesh(self.handle.mesh)
        return self.handle if self.library == "cupy" else nullcontext()

    @property
    def is_several(self) -> bool:
        """Whether this is several devices of JAX."""
        return hasattr(self.handle, "mesh")

    @property
    def is_joined(self) -> bool:
        """Whether some of its devices are those of other processes."""
        return self.is_several and not self.handle.is_fully_addressable

    @property
    def n_slices(self) -> int:
        """How many devices share out the rows of a minibatch."""
        return self.handle.mesh.size if self.is_several else 1

    @property
    def own_slices(self) -> list[int]:
        """The numbers among these of the devices of this process."""
        if not self.is_several:
            return [0]
        own = {*self.handle.mesh.local_devices}
        return [i for i, device in enumerate(self.handle.mesh.devices.flat) if device in own]

    def in_slices(self, parts: Mapping[int, np.ndarray]) -> Array:
        """An array (n_slices, ...) of several devices, of which each has an entry of its own.

        parts: the entries of the devices of this process, by number, alike in shape and dtype.
        """
        jax = import_module("jax")
        devices, mesh = [*self.handle.mesh.devices.flat], self.handle.mesh
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(ROWS))
        placed = [jax.device_put(part[None], devices[i]) for i, part in parts.items()]
        shape = (self.n_slices, *placed[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, placed)

    def asarray(self, x: Any, dtype: str | None = None, copy: bool | None = None) -> Array:
        """x as an array on this device, which shares the memory of x if possible.

        x: a list, a table, or an array of any library on any device.
        dtype: a name; None keeps that of x if the library supports it (JAX makes 64-bit numbers
        32-bit unless x64 is enabled).   copy: True: do not share memory.   Integers never wrap.
        Read-only memory is never shared with a library that could write to it: a read-only array
        becomes a read-only NumPy array, or a copy. PyTorch tensors lose their gradient. Raises
        ValueError for a dtype that this device does not have, integers that do not fit the dtype,
        and copy=False for another library's array.
        """
        kind = None if dtype is None else dtype_of(self, dtype)
        if compat.is_torch_array(x):
            x = x.detach()
        with self.context():
            foreign = not compat.is_array_api_obj(x) or device_of(x).library != self.library
            if foreign and copy is False:
                raise ValueError(
                    f"copy=False needs an array of {self.library}, got {type(x).__name__}; "
                    "leave copy out to share memory where that is possible"
                )
            if foreign or dtype in INTEGERS:
                x = self._exact(x, dtype)
            if foreign:
                x = self._adopt(x)
            if foreign and self.is_joined:
                return self._on_own(np.asarray(to_host(x), dtype=kind))
            return self.xp.asarray(x, dtype=kind, device=self.handle, copy=copy)

    def _on_own(self, x: np.ndarray) -> Array:
        """An array that every process has, on its devices of several. JAX's own way would first
        send it from each process to each other one, to compare."""
        jax = import_module("jax")
        placed = [jax.device_put(x, device) for device in self.handle.mesh.local_devices]
        return jax.make_array_from_single_device_arrays(x.shape, self.handle, placed)

    def keeps(self, x: Array) -> bool:
        """Whether this device can hold integers x, of any library, without a change of value."""
        return self.library != "jax" or integers_outside(x, self._integer(integer_name(x))) is None

    def _integer(self, name: str | None) -> str | None:
        """The default dtype on this device for integers of the dtype with that name."""
        short = {"int64": "int32", "uint64": "uint32"}
        if self.library == "jax" and name in short and not _has_x64():
            return short[name]
        return name

    def _exact(self, x: Any, dtype: str | None) -> Any:
        """x, of any library, after a check that its integers fit their dtype on this device."""
        x = x if compat.is_array_api_obj(x) else to_host(x)
        name = integer_name(x)
        becomes = dtype or self._integer(name)
        if name is None or becomes == name or becomes not in INTEGERS:
            return x
        if (found := integers_outside(x, becomes)) is not None:
            remedy = "ask for a longer dtype, or make them floating"
            if dtype is None:
                remedy = "run jax.config.update('jax_enable_x64', True), or make them floating"
            raise ValueError(
                f"integers from {found[0]} to {found[1]} do not fit {becomes} on {self.name!r}; "
                f"{remedy}"
            )
        xp = device_of(x).xp
        return xp.astype(x, getattr(xp, becomes))

    def _adopt(self, x: Any) -> Array:
        """x as an array of this library: by DLPack on the same GPU, else through a NumPy array on
        the host.

        Between libraries on the CPU the NumPy array is a view, so nothing is copied.
        """
        if compat.is_array_api_obj(x) and _same_gpu(self, device_of(x)):
            # JAX's arrays are immutable, so they must not share memory that others may write to.
            if self.library == "jax":  # JAX cannot read arrays with gaps; a copy has none
                return self.xp.from_dlpack(device_of(x).xp.asarray(x, copy=True))
            adopted = self.xp.from_dlpack(x)
            return self.xp.asarray(adopted, copy=True) if compat.is_jax_array(x) else adopted
        x = to_host(x)
        if self.library != "numpy":
            x = x.astype(x.dtype.newbyteorder("="), copy=False)  # the others need native byte order
        if self.library == "torch" and not (x.flags.writeable and min(x.strides, default=0) >= 0):
            x = x.copy()  # PyTorch has neither read-only tensors nor negative strides
        return x

    def in_rows(self, x: Array) -> Array:
        """x, an array of this device, with contiguous rows. Others, such as columns of a table or a
        part of them, are copied.

        Every step gathers rows, for which NumPy would copy a whole array without contiguous rows.
        """
        with self.context():
            match self.library:
                case "numpy" | "cupy":
                    return self.xp.ascontiguousarray(x)
                case "torch":
                    return x.contiguous()
        return x

    def holds(self, x: Array) -> bool:
        """Whether x, of any library, is in the memory of this device already."""
        return device_of(x).name == self.name or _same_gpu(self, device_of(x))

    def memory_free(self) -> int | None:
        """The free memory of a GPU in bytes. Memory that its library keeps for reuse counts as
        free.

        None if arrays are in the memory of the host, and if the library does not report it.
        """
        if self.library == "cupy":
            with self.context():
                pool = import_module("cupy").get_default_memory_pool()
                return self.handle.mem_info[0] + pool.free_bytes()
        if self.library == "torch" and self.handle.type == "cuda":
            cuda = import_module("torch").cuda
            kept = cuda.memory_reserved(self.handle) - cuda.memory_allocated(self.handle)
            return cuda.mem_get_info(self.handle)[0] + kept
        if self.library == "jax":
            handle = self.handle.mesh.local_devices[0] if self.is_several else self.handle
            memory = handle.memory_stats() or {}
            if "bytes_limit" in memory:
                return memory["bytes_limit"] - memory.get("bytes_in_use", 0)
        return None

    def give_back(self) -> None:
        """Free the memory that the library keeps for reuse. Arrays are not touched."""
        if self.library == "cupy":
            cupy = import_module("cupy")
            cupy.get_default_memory_pool().free_all_blocks()
            cupy.get_default_pinned_memory_pool().free_all_blocks()
        elif self.library == "torch" and self.handle.type == "cuda":
            import_module("torch").cuda.empty_cache()

    def synchronize(self, *arrays: Array) -> None:
        """Wait for the device.   JAX can wait for arrays only: pass the arrays that were computed
        last."""
        if self.library == "cupy":
            self.handle.synchronize()
        elif self.library == "torch" and self.handle.type != "cpu":
            import_module("torch").accelerator.synchronize(self.handle)
        elif self.library == "jax":
            import_module("jax").block_until_ready(arrays)


def select(spec: str | Device | None = None, *arrays: Any) -> Device:
    """The device with the given name, or for None the device of the arrays.

    "cpu": NumPy.   "cuda", "cuda:1": CuPy.   "torch", "torch:cuda:0", "torch:mps": PyTorch.
    "jax", "jax:gpu", "jax:gpu:1", "jax:tpu": JAX.   "auto": CUDA where CuPy sees a device, else
    NumPy. A name without a number means the first device; "torch" is PyTorch's CPU, "jax" the best
    device that JAX sees.
    "jax:*", "jax:gpu:*": all devices of that kind, of all processes that JAX has joined; the rows
    of each minibatch are divided among them.
    None: objects that are no arrays, such as lists and tables, are on no device. If there are only
    such objects, the device is NumPy's.
    Raises errors with the cause and the remedy: TypeError for an object that is no name; ValueError
    for an unknown name or number, and for arrays on several devices; ImportError for a library that
    is absent or broken; RuntimeError for absent hardware or drivers.
    """
    if isinstance(spec, Device):
        return spec
    if spec is None:
        return _follow(arrays)
    if not isinstance(spec, str):
        raise TypeError(f"device must be a name such as 'cpu' or 'cuda:0', or None, got {spec!r}")
    if spec == "auto":
        try:
            return select("cuda")
        except (ImportError, RuntimeError):
            return select("cpu")
    kind, number = re.fullmatch(r"(.*?)(?::(\d+|\*))?", spec, re.DOTALL).groups()  # pyright: ignore
    if kind not in KINDS:
        known = ("auto", *KINDS)
        meant = MEANT.get(kind.lower())
        hint = f"; did you mean {meant!r}?" if meant else did_you_mean(kind, known)
        raise ValueError(f"device must be one of {', '.join(known)}, got {spec!r}{hint}")
    if number == "*":
        if not kind.startswith("jax"):
            raise ValueError(f"several devices are JAX's alone: 'jax:*', 'jax:gpu:*'; got {spec!r}")
        return _device(*jax_mesh(kind))
    devices, index = devices_of(kind), int(number or 0)
    if index >= len(devices):
        raise ValueError(
            f"device {spec!r} needs a number below {len(devices)}, which is how many {kind!r} "
            f"devices there are; the last is {devices[-1].name!r}"
        )
    return devices[index]


def devices_of(kind: str) -> list[Device]:
    """All devices of a kind, such as "cuda". Raises the errors of `select`."""
    return [_device(xp, handle) for xp, handle in KINDS[kind](kind)]


def device_of(x: Array) -> Device:
    """The device of the array x."""
    handle = compat.device(x)
    is_sharding = compat.is_jax_array(x) and not hasattr(handle, "platform")
    if is_sharding and not _is_ours(handle):
        raise ValueError(
            f"device: an array is spread over several ({handle}); use jax.device_put(x, one_device)"
        )
    return _device(compat.array_namespace(x), handle)


def dtype_of(device: Device, name: str) -> Any:
    """The dtype of that name, such as "float32", on that device.

    Raises ValueError if the device would silently compute in another dtype: 64 bits on JAX without
    x64, double precision on Apple's GPUs.
    """
    if name not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {name!r}")
    if device.library == "jax" and name in _X64 and not _has_x64():
        raise ValueError(
            f"dtype {name!r} needs 64-bit numbers, which JAX makes 32-bit; "
            "run jax.config.update('jax_enable_x64', True) at the start, or ask for 32 bits"
        )
    if device.name == "torch:mps" and name in ("float64", "complex128"):
        raise ValueError(f"dtype {name!r} is not to be had on 'torch:mps'; use 'float32' or 'cpu'")
    if not hasattr(device.xp, name):
        raise ValueError(f"dtype {name!r} is not to be had on {device.name!r}; use 'float32'")
    return getattr(device.xp, name)


def dtype_name(x: Array) -> str:
    """The name of the dtype of x, such as "float32", which `dtype_of` takes."""
    return str(x.dtype).rpartition(".")[2]


def prepare(device: Device, dtype: str) -> None:
    """Make `dtype` available on a device that the user named: "float64" on JAX enables x64.

    That is a setting of the whole process. Make it when a program starts, if its user has chosen
    JAX and float64, and never because given arrays happen to be JAX's.
    """
    if device.library == "jax" and dtype in _X64:
        import_module("jax").config.update("jax_enable_x64", True)


def _has_x64() -> bool:
    return import_module("jax").config.jax_enable_x64


def integer_name(x: Array) -> str | None:
    """The name of the dtype of x if it is an integer type, in any byte order."""
    if isinstance(x, np.ndarray):
        return x.dtype.name if x.dtype.kind in "iu" else None
    name = dtype_name(x)
    return name if name in INTEGERS else None


def integers_outside(x: Array, name: str | None) -> tuple[int, int] | None:
    """The smallest and the largest of integers x, unless the integer dtype with that name holds
    both."""
    if name is None or integer_name(x) == name or 0 in x.shape:
        return None
    host, bounds = to_host(x), np.iinfo(name)
    least, most = int(host.min()), int(host.max())
    return None if bounds.min <= least and most <= bounds.max else (least, most)


def to_host(x: Any) -> np.ndarray:
    """x as a NumPy array; a view if x is in host memory, read-only for an array of JAX.

    A bfloat16 tensor of PyTorch becomes float32."""
    if compat.is_torch_array(x):
        x = x.detach().cpu()
        # NumPy has no bfloat16, and float32 holds all of its numbers.
        return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    if compat.is_cupy_array(x):
        return x.get()
    if compat.is_array_api_obj(x) and not (compat.is_numpy_array(x) or compat.is_jax_array(x)):
        exporter: Any = x  # to a type checker the checks above leave no type
        return np.from_dlpack(exporter)
    return np.asarray(x)


def _library(xp: Namespace) -> str:
    return xp.__name__.removeprefix("array_api_compat.").partition(".")[0]


def _device(xp: Namespace, handle: Any) -> Device:
    match _library(xp):
        case "numpy":
            return Device("cpu", xp, None)
        case "cupy":
            return Device(f"cuda:{handle.id}", xp, handle)
        case "torch":
            number = f":{handle.index or 0}" if handle.type == "cuda" else ""
            return Device(f"torch:{handle.type}{number}", xp, handle)
        case "jax":
            if hasattr(handle, "mesh"):
                return Device(f"jax:{handle.mesh.devices.flat[0].platform}:*", xp, handle)
            return Device(f"jax:{handle.platform}:{handle.id}", xp, handle)
        case library:
            return Device(f"{library}:{handle}", xp, handle)


def _is_ours(sharding: Any) -> bool:
    """Whether arrays with a sharding of JAX are placed like those of "jax:*": whole on each
    device."""
    mesh = getattr(sharding, "mesh", None)
    return mesh is not None and mesh.axis_names == (ROWS,) and sharding.is_fully_replicated


def _follow(arrays: Sequence[Any]) -> Device:
    devices = {d.name: d for d in map(device_of, filter(compat.is_array_api_obj, arrays))}
    if len(devices) > 1:
        raise ValueError(
            f"device: the arrays are on {' and '.join(map(repr, devices))}, expected one device; "
            f"move them there, or name it: device={next(iter(devices))!r}"
        )
    return next(iter(devices.values())) if devices else select("cpu")


def _same_gpu(a: Device, b: Device) -> bool:
    a_gpu, b_gpu = (re.fullmatch(r"(?:cuda|torch:cuda|jax:gpu):(\d+)", d.name) for d in (a, b))
    return a_gpu is not None and b_gpu is not None and a_gpu[1] == b_gpu[1]


INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


_X64 = ("float64", "int64", "uint64", "complex128")


_DTYPES = (
    *("bool", *INTEGERS),
    *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
)
