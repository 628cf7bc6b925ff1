"""pytest-benchmark's tables with the times of other processes, and the lines below them."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from bench.shared import report
from bench.shared.measures import busy
from bench.suites.kernel_sets import KERNEL_SETS
from bench.suites.race import Backend, Race, Work, backends
from bench.suites.tables import rates, side_by_side

COLUMNS = ["min", "median", "iqr", "rounds"]
RACE = pytest.StashKey[Race]()


class Clock:
    """A timer for pytest-benchmark that returns the seconds measured by another process."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        action="append",
        help="a device to compare, as often as wanted; default: those of NumPy, CuPy, PyTorch and "
        "JAX, where they are installed",
    )
    parser.addoption("--turns", type=int, default=4, help="that each row has; default 4")


def pytest_configure(config: pytest.Config) -> None:
    words = map(str, config.invocation_params.args)
    if not any(word.startswith("--benchmark-columns") for word in words):
        config.option.benchmark_columns = COLUMNS
    config.stash[RACE] = Race(config.option.turns)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[RACE].close()


def pytest_report_header() -> list[str]:
    return [f"{report.hardware()}, {report.threads()} threads", *filter(None, [report.load()])]


def every(names: list[str] | None) -> list[Backend]:
    return backends(names)


def main(names: list[str] | None) -> list[Backend]:
    """The named backends; else those with nnaccel's own kernels, each once."""
    found = [backend for backend in backends(names) if backend.kernels == "all"]
    return found if names else [b for b in found if b.device_name.startswith(("cpu", "cuda"))]


def kernel_sets(names: list[str] | None) -> list[Backend]:
    there = {backend.device_name for backend in backends(names)}
    return [Backend(n, k.library, n) for n, k in KERNEL_SETS.items() if k.library in there]


# Parameters of a test that stand for the rows of a table.
ROWS = {"backend": every, "main_backend": main, "kernels": kernel_sets}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in ROWS.keys() & set(metafunc.fixturenames):
        rows = ROWS[name](metafunc.config.getoption("device"))
        metafunc.parametrize(name, rows, ids=lambda backend: backend.name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK))


@pytest.fixture
def race(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., dict[str, Any]]:
    """race(build, *args) -> facts: times the rows of a table in turns, and reports one of them.

    build: (backend, *args) -> `Work`.   group, case: the table's name; the case is what differs
    between tables that are shown side by side.
    """

    def run(
        build: Callable[..., Work], *args: Any, group: str, case: str, **more: Any
    ) -> dict[str, Any]:
        mine, rows = rows_of(request)
        row = request.config.stash[RACE].run(build, args, rows)[mine]
        if isinstance(row, str):
            pytest.skip(row)
        times = iter(row.times)
        benchmark.group = f"{group} {case}"
        benchmark.pedantic(lambda: CLOCK.advance(next(times)), rounds=len(row.times))
        about = {"machine": report.hardware(mine.device_name), "versions": report.versions()}
        facts = row.facts | more | {"group": group, "case": case}
        benchmark.extra_info.update(facts | about)
        return facts

    return run


def rows_of(request: pytest.FixtureRequest) -> tuple[Backend, list[Backend]]:
    """The backend of a test, and the backends of tests that differ from it in nothing else."""
    items: list[Any] = request.session.items  # functions with parameters, but for their type
    params: dict[str, Any] = request.node.callspec.params
    (name,) = ROWS.keys() & params.keys()

    def rest(item: Any) -> dict[str, Any]:
        return {key: value for key, value in item.callspec.params.items() if key != name}

    same = (item for item in items if item.function is request.function)
    rows = [item.callspec.params[name] for item in same if rest(item) == rest(request.node)]
    return params[name], rows


# The end: pytest-benchmark prints the times, in the order of the tests; then come the rates.


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_group_stats(benchmarks: list[Any], group_by: str) -> Any:
    if group_by != "group":
        return None
    groups: dict[str, list[Any]] = {}
    for benchmark in benchmarks:
        groups.setdefault(benchmark["group"], []).append(benchmark)
    return list(groups.items())


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    results = [result for result in getattr(session, "benchmarks", []) if result.stats.data]
    if not results:
        return
    infos = [result.extra_info for result in results]
    for line in lines_of(infos, [result.stats.data for result in results]):
        terminalreporter.write_line(line)


def lines_of(infos: list[dict[str, Any]], times: Iterable[list[float]]) -> Iterable[str]:
    yield from rates(infos)
    yield from side_by_side(infos)
    yield from filter(None, [busy(times)])
