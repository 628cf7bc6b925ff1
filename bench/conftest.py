"""The devices of the suites, and what each result says beside its time."""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import report
from rounds import timed

from nnaccel.devices.available import available
from nnaccel.devices.device import Device, select
from nnaccel.training.benchmark import Shape, products


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

    `flops` and `samples` are of one such work; `bare` does the matrix products of the whole call.
    The two take turns, so that a machine that slows down slows both.
    """

    def run(
        function: Callable[[], Any],
        *,
        device: Device | None = None,
        bare: Callable[[], Any] | None = None,
        repeats: int = 1,
        flops: float = 0.0,
        samples: float = 0.0,
        rounds: int = 10,
        **more: Any,
    ) -> None:
        floors: list[float] = []
        before = (lambda: floors.append(timed(bare)[0])) if bare else None
        benchmark.pedantic(function, setup=before, rounds=rounds, warmup_rounds=1)
        if not benchmark.stats:
            pytest.skip("nothing is timed under --benchmark-disable")
        seconds, name = benchmark.stats.stats.min / repeats, device.name if device else "cpu"
        info = {"seconds": seconds, "device": name}
        if flops:
            info["gflops"] = flops / seconds / 1e9
        if samples:
            info["samples_per_second"] = samples / seconds
        if floors:
            info["share_of_products"] = min(floors) / repeats / seconds
        info |= {"machine": hardware(name), "threads": threads(), "versions": report.versions()}
        benchmark.extra_info.update(info | more)

    return run


def bare_steps(shape: Shape, device: Device, steps: int) -> Callable[[], None]:
    """The bare products of so many training steps."""
    bare = products(shape, device)
    return lambda: bare(steps)


hardware = cache(report.hardware)


def threads() -> int:
    return int(os.environ.get("OPENBLAS_NUM_THREADS") or len(os.sched_getaffinity(0)))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What the times alone do not say, a line for each result."""
    results = getattr(getattr(config, "_benchmarksession", None), "benchmarks", [])
    shown = ("share_of_products", "exponent", "final_loss", "memory_ratio", "last_over_first")
    width = max((len(result.name) for result in results), default=0)
    for result in results:
        info = result.extra_info
        facts = [f"{name} {info[name]:.3g}" for name in shown if name in info]
        if facts:
            terminalreporter.write_line(f"{result.name:{width}}  {', '.join(facts)}")
