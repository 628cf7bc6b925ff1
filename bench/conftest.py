"""The devices of the suites, and what each result says beside its time."""

import os
import platform
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any

import pytest

from nnaccel.benchmark import Shape, interleaved, products
from nnaccel.devices import Device, available, select


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        action="append",
        help="where to run, as often as wanted; default: cpu, and cuda where there is one",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        names = metafunc.config.getoption("device")
        if not names:
            found = [d.name for d in available() if not d.problem]
            names = [name for name in found if name.startswith(("cpu", "cuda"))]
        metafunc.parametrize("device", names, indirect=True)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Device:
    return select(request.param)


@pytest.fixture
def record(benchmark: Any) -> Callable[..., None]:
    """Times a call that does `repeats` times the work, and stores what is comparable of it.

    `flops` and `samples` are of one such work, `floor` the seconds of its bare products.
    """

    def timed(
        function: Callable[[], Any],
        *,
        device: Device | None = None,
        repeats: int = 1,
        flops: float = 0.0,
        samples: float = 0.0,
        floor: float = 0.0,
        rounds: int = 10,
        **more: Any,
    ) -> None:
        benchmark.pedantic(function, rounds=rounds, warmup_rounds=1)
        if not benchmark.stats:
            pytest.skip("nothing is timed under --benchmark-disable")
        seconds = benchmark.stats.stats.min / repeats
        info = {"seconds": seconds, "device": device.name if device else "cpu"}
        if flops:
            info["gflops"] = flops / seconds / 1e9
        if samples:
            info["samples_per_second"] = samples / seconds
        if floor:
            info["share_of_products"] = floor / seconds
        benchmark.extra_info.update(info | more | {"versions": versions(), "threads": threads()})

    return timed


@cache
def floor_of(shape: Shape, device: Device) -> float:
    """Seconds of the bare products of a step, the best of half a second."""
    bare = products(shape, device)
    return interleaved(lambda: bare(shape.steps), seconds=0.5)[0] / shape.steps


@cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("nnaccel", "numpy", "numba", "torch", "jax", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def threads() -> int:
    return int(os.environ.get("OPENBLAS_NUM_THREADS") or len(os.sched_getaffinity(0)))
