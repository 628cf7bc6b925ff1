"""The array libraries that every test of array code runs on, and teams of any size."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

# Processes of pytest-xdist share the processors: with threads of their own for all of them, those
# of NumPy, PyTorch and SciPy, which read this when they are imported, would wait for each other.
# Tests of several threads say how many.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from nnaccel.devices.device import Device, device_of, select, to_host

# SciPy reads it once, when it is first imported; scikit-learn's array API dispatch asks for it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

if find_spec("jax"):
    # Most of the time of JAX's tests is its compiler's, which is asked for no optimization; nor
    # again for what one of the processes has compiled, now or in an earlier run.
    no_optimization = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ.setdefault("XLA_FLAGS", no_optimization)
    kept = Path(__file__).parents[1] / ".pytest_cache" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(kept))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

    import jax

    # At the start, since it is a setting of the whole process: the derivatives need float64.
    jax.config.update("jax_enable_x64", True)

if find_spec("array_api_strict"):
    import array_api_strict

    array_api_strict.set_array_api_strict_flags(api_version="2024.12")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """scikit-learn's checks of CuPy's arrays, which ask for no device before they make one."""
    for item in items:
        if "array_namespace=cupy" in item.name:
            item.add_marker(pytest.mark.gpu)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where there is no GPU, also beside a CuPy without a driver, what needs one is skipped."""
    if item.get_closest_marker("gpu"):
        named("cuda")


def pytest_collection_finish() -> None:
    """What is there before the first test is no garbage; a search for it takes half a second."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Counts the skips by their reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    counts = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, n in counts.most_common():
        terminalreporter.write_line(f"{n:6d} skipped: {reason.splitlines()[0]}")


class XpDevice(NamedTuple):
    """One array library on one device, as a test sees it."""

    name: str
    device: Device
    writeable: bool = True

    @property
    def xp(self) -> Any:
        return self.device.xp

    @property
    def handle(self) -> Any:
        """What the library's own functions take as `device=`."""
        return self.device.handle

    def asarray(self, x: Any) -> Any:
        """A copy of a NumPy array on this device, of the same dtype."""
        array = self.device.asarray(x, copy=True)
        if not self.writeable:
            array.flags.writeable = False
        return array

    def to_numpy(self, x: Any) -> np.ndarray:
        """The values of x, after a check that it has not left the device."""
        assert device_of(x).name == self.device.name
        return to_host(x)


def strict(name: str) -> Device:
    xp = pytest.importorskip("array_api_strict")
    return device_of(xp.empty(0, device=xp.Device(name)))


def named(name: str) -> Device:
    """The device of that name; skips the test, with the reason, where there is none."""
    try:
        return select(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))


XP_DEVICES = {
    "numpy": lambda: XpDevice("numpy", select("cpu")),
    "numpy-readonly": lambda: XpDevice("numpy-readonly", select("cpu"), writeable=False),
    "strict": lambda: XpDevice("strict", strict("CPU_DEVICE")),
    # Arrays on it cannot be mixed with those of the first, nor turned into NumPy's unasked.
    "strict-device1": lambda: XpDevice("strict-device1", strict("device1")),
    "torch": lambda: XpDevice("torch", named("torch:cpu")),
    "jax": lambda: XpDevice("jax", named("jax:cpu")),
    "cupy": lambda: XpDevice("cupy", named("cuda")),
}


@pytest.fixture(
    params=[pytest.param(n, marks=pytest.mark.gpu if n == "cupy" else ()) for n in XP_DEVICES]
)
def xp_device(request: pytest.FixtureRequest) -> XpDevice:
    """Each array library in turn: .xp, .device, .handle, .asarray, .to_numpy, .name."""
    return XP_DEVICES[request.param]()


@pytest.fixture
def jax_of_32_bits() -> Iterator[Device]:
    """JAX as it is unless it is asked for float64: its integers too are of 32 bits."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", False)
    yield select("jax:cpu")
    jax.config.update("jax_enable_x64", True)


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes every epoch that is built afterwards one of so many threads, however small."""
    from nnaccel.kernels.numba import epoch as compiled_epoch
    from nnaccel.kernels.numpy import blas_threads

    def of(size: int) -> None:
        @contextmanager
        def one_thread() -> Iterator[int]:
            with blas_threads.one_thread():
                yield size

        monkeypatch.setattr(blas_threads, "SMALL", 1)
        monkeypatch.setattr(compiled_epoch, "one_thread", one_thread)

    return of


@pytest.fixture
def interpolating(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes every compiled epoch that is built afterwards interpolate in the first layer after an
    encoding, whatever that costs, or never."""
    from nnaccel.kernels.numba import epoch as compiled_epoch

    def of(interpolated: bool) -> None:
        monkeypatch.setattr(compiled_epoch, "repays", lambda *_: interpolated)

    return of


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the teams that are called together."""
    from nnaccel.kernels.numba import epoch as compiled_epoch
    from nnaccel.kernels.numba import thread_team

    seen = []

    def counting(function: Callable[..., None], size: int, *args: Any) -> None:
        seen.append(size)
        thread_team.run_parallel(function, size, *args)

    monkeypatch.setattr(compiled_epoch, "run_parallel", counting)
    return seen
