"""Lists the devices of this machine, and says why a device is not usable."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from nnaccel.devices import install_hints
from nnaccel.devices.device import Device, devices_of


class DeviceInfo(NamedTuple):
    """One line of the list of `available` devices.

    Attributes
    ----------
    name : str
        The name for `select`.
    library : str
        The array library, with its version if known.
    hardware : str
        The name of the processor or GPU.
    memory_total, memory_free : int or None
        Bytes; None if unknown.
    problem : str
        Why the device cannot be used, and the remedy; "" for a usable device.
    """

    name: str
    library: str
    hardware: str = ""
    memory_total: int | None = None
    memory_free: int | None = None
    problem: str = ""


def available() -> list[DeviceInfo]:
    """The devices of this machine, with the reason for each that is not usable. Raises nothing.

    PyTorch and JAX are imported, which takes seconds, only if the machine has a GPU. Their CPU
    devices are listed if they are installed.
    """
    rows = []
    for library, kinds in _LISTED.items():
        title = f"{install_hints.TITLES[library]} {_version(library)}".rstrip()
        if not _installed(library):
            why = install_hints.not_installed(library, kinds[0])
            rows.append(DeviceInfo(kinds[0], title, problem=why))
            continue
        for kind in kinds:
            try:
                rows.extend(_rows(kind, title))
            except Exception as error:  # one broken library must not hide the others
                rows.append(DeviceInfo(kind, title, problem=install_hints.first_line(error)))
    return rows


def unusable(device: Device, error: BaseException) -> str | None:
    """The message for a GPU that exists but cannot be used, if a library's error means that; else
    None.

    CUDA raises this error when a program first runs on the GPU, and not when devices are counted.
    """
    said, library = str(error), device.library
    install = install_hints.install_command(library)
    found = f"{install_hints.TITLES.get(library, library)} says: {install_hints.first_line(error)}"
    if re.search(r"UnsupportedPtxVersion|UNSUPPORTED_PTX_VERSION|InsufficientDriver", said):
        return (
            f"device {device.name!r} has a driver that is older than the CUDA of this library "
            f"({found}); update the driver, or replace the library: {install}"
        )
    if re.search(
        r"(?i)NoKernelImage|no kernel image|NO_BINARY_FOR_GPU|value for --gpu-architecture", said
    ):
        return (
            f"device {device.name!r} is a GPU that this build does not serve ({found}); install "
            f"one that does: {install}"
        )
    if re.search(r"Failure finding \"|cannot open shared object|CuPy failed to load", said):
        return (
            f"device {device.name!r} needs a library of CUDA that is not found ({found}); "
            f"run: {install_hints.install_cuda_command() if library == 'cupy' else install}"
        )
    if type(error).__name__ in ("CompileException", "NVRTCError"):
        return f"device {device.name!r} cannot compile its kernels ({found}); {_HEADERS}"
    return None


def _rows(kind: str, title: str) -> Iterator[DeviceInfo]:
    if kind == "cpu" or kind.endswith(":cpu"):
        yield DeviceInfo(kind, title, _processor(), *host_memory())
        return
    if (
        kind != "torch:mps"
        and install_hints.cuda_driver() is None
        and not Path("/dev/kfd").exists()
    ):
        raise RuntimeError(
            "no GPU driver is found on this machine; if there is a GPU, install its driver"
        )
    for device in devices_of(kind):
        title = f"{install_hints.TITLES[device.library]} {_version(device.library)}"
        yield DeviceInfo(device.name, title, *_hardware(device))


def _hardware(device: Device) -> tuple[str, int | None, int | None]:
    """The name of a GPU, and its total and free memory in bytes."""
    module, handle = import_module(device.library), device.handle
    if device.library == "cupy":
        free, total = handle.mem_info
        return module.cuda.runtime.getDeviceProperties(handle.id)["name"].decode(), total, free
    if device.library == "jax":
        memory = handle.memory_stats() or {}
        total = memory.get("bytes_limit")
        return handle.device_kind, total, total and total - memory.get("bytes_in_use", 0)
    if handle.type == "mps":
        return _processor(), module.mps.recommended_max_memory(), None
    free, total = module.cuda.mem_get_info(handle)
    return module.cuda.get_device_name(handle), total, free


def _processor() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*: (.+)", cpuinfo.read_text())):
        name = found[1]
    usable = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return f"{name}, {len(usable)} cores"


def host_memory() -> tuple[int | None, int | None]:
    """Total and free memory in bytes. Caches that the system frees on demand count as free."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        sizes = dict(re.findall(r"(\w+):\s+(\d+) kB", meminfo.read_text()))
        return 1024 * int(sizes["MemTotal"]), 1024 * int(sizes["MemAvailable"])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    except (AttributeError, ValueError, OSError):
        return None, None


def _installed(library: str) -> bool:
    return sys.modules.get(library) is not None or find_spec(library) is not None


def _version(library: str) -> str:
    """The version, without importing the library; "" if it is not found."""
    for name in (library, f"{library}-cuda12x", f"{library}-cuda13x"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return ""


_HEADERS = "the headers and the NVRTC of CUDA must be of one version, see cupy.show_config()"


_LISTED = {
    "numpy": ["cpu"],
    "cupy": ["cuda"],
    "torch": ["torch:cpu", "torch:mps" if sys.platform == "darwin" else "torch:cuda"],
    "jax": ["jax:cpu", "jax:gpu"],
}
