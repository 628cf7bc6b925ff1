"""The devices that each library sees, or an error that names what is missing and the remedy.

A library is imported when one of its devices is selected, never before.
"""

import platform
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from nnaccel.devices import install_hints
from nnaccel.typing import Namespace

Found = list[tuple[Namespace, Any]]  # the namespace, and the library's own device object


def _numpy_devices(kind: str) -> Found:
    return [(import_module("array_api_compat.numpy"), None)]


def _cupy_devices(kind: str) -> Found:
    cupy = install_hints.load_library("cupy", kind)
    try:
        count, reason = cupy.cuda.runtime.getDeviceCount(), "no device"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        count, reason = 0, install_hints.first_line(error)
    if not count:
        driver, remedy = install_hints.cuda_driver(), "see what nvidia-smi shows, or use 'cpu'"
        found = f"a driver for CUDA {driver // 1000}" if driver else "no NVIDIA driver"
        if driver and "InsufficientDriver" in reason:
            remedy = f"update the driver, or replace CuPy: {install_hints.install_command('cupy')}"
        raise RuntimeError(
            f"device {kind!r} needs an NVIDIA GPU and its driver, found {found} ({reason}); "
            f"{remedy}"
        )
    try:  # CuPy loads both in the first step
        cupy.cuda.nvrtc.getVersion()
        cupy.cuda.cublas  # noqa: B018
    except (ImportError, RuntimeError, OSError) as error:
        raise ImportError(
            f"device {kind!r} needs the libraries of CUDA, which CuPy does not find "
            f"({install_hints.first_line(error)}); run: {install_hints.install_cuda_command()}"
        ) from error
    xp = import_module("array_api_compat.cupy")
    return [(xp, cupy.cuda.Device(index)) for index in range(count)]


def _torch_devices(kind: str) -> Found:
    torch = install_hints.load_library("torch", kind)
    hardware = kind.partition(":")[2] or "cpu"
    if hardware == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda or torch.version.hip:
            found, remedy = "a PyTorch that sees none", "see what nvidia-smi shows"
        else:
            found = f"PyTorch {torch.__version__}, built without CUDA"
            remedy = "on Linux, run: python -m pip install --force-reinstall torch"
        raise RuntimeError(f"device {kind!r} needs a CUDA device, found {found}; {remedy}")
    if hardware == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError(
            f"device {kind!r} needs macOS and an Apple GPU, found {platform.platform(terse=True)} "
            f"and PyTorch {torch.__version__}; use 'torch:cpu'"
        )
    xp = import_module("array_api_compat.torch")
    if hardware != "cuda":
        return [(xp, torch.device(hardware))]
    return [(xp, torch.device("cuda", i)) for i in range(torch.cuda.device_count())]


def _jax_devices(kind: str) -> Found:
    jax = install_hints.load_library("jax", kind)
    backend = kind.partition(":")[2] or None  # None: the best one
    try:
        handles = jax.local_devices(backend=backend)
    except RuntimeError as error:
        extra = "tpu" if backend == "tpu" else f"cuda{install_hints.cuda_major() or 12}"
        raise RuntimeError(
            f"device {kind!r} needs a {backend} backend, found JAX {jax.__version__} without one; "
            f"where there is a {backend}, run: python -m pip install 'jax[{extra}]'"
        ) from error
    return [(import_module("jax.numpy"), handle) for handle in handles]


ROWS = "rows"  # the axis of a mesh of devices, which divides the rows of minibatches


def jax_mesh(kind: str) -> tuple[Namespace, Any]:
    """All devices of a kind of JAX, of all processes, as a sharding with a copy of arrays on each.

    A single device is returned itself."""
    jax = install_hints.load_library("jax", kind)
    (xp, first), *_ = _jax_devices(kind)
    handles = jax.devices(first.platform)
    if len(handles) == 1:
        return xp, first
    if not hasattr(jax, "set_mesh"):
        raise ImportError(
            f"several devices need a later JAX than {jax.__version__}; run: python -m pip install "
            "--upgrade jax"
        )
    sharding = jax.sharding
    return xp, sharding.NamedSharding(
        sharding.Mesh(np.array(handles), (ROWS,)), sharding.PartitionSpec()
    )


KINDS: dict[str, Callable[[str], Found]] = {
    "cpu": _numpy_devices,
    "cuda": _cupy_devices,
    "torch": _torch_devices,
    "torch:cpu": _torch_devices,
    "torch:cuda": _torch_devices,
    "torch:mps": _torch_devices,
    "jax": _jax_devices,
    "jax:cpu": _jax_devices,
    "jax:gpu": _jax_devices,
    "jax:tpu": _jax_devices,
}


# Common other names, for which the closest spelling would mislead (gpu is one letter from cpu).
MEANT = {
    "gpu": "cuda",
    "cupy": "cuda",
    "nvidia": "cuda",
    "numpy": "cpu",
    "host": "cpu",
    "pytorch": "torch",
    "mps": "torch:mps",
    "metal": "torch:mps",
    "torch:gpu": "torch:cuda",
    "jax:cuda": "jax:gpu",
    "tpu": "jax:tpu",
}
