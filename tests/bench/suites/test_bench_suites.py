"""The suites: a row is the time of one work, and a kernel set computes what its definition does."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip(
    "bench.shared.measures", reason="the benchmarks are not part of this distribution"
)
pytest.importorskip("pytest_benchmark")

from bench.shared import script
from bench.shared.report import ROOT
from bench.suites import race, tables
from bench.suites.kernel_sets import KERNEL_SETS, backend_for
from nnaccel.devices.device import select
from nnaccel.kernels.definition import NotSupported
from nnaccel.training.benchmark import SHAPES, Shape, Trainer, examples

TINY = Shape((8, 16, 4), 16)


def test_a_device_has_a_row_and_numpy_two():
    def rows(names):
        return [(b.name, b.device_name, b.kernels) for b in race.backends(names)]

    numpy = [("numpy", "cpu", "numpy"), ("numpy[fast]", "cpu", "all")]
    assert rows(["cpu"]) == numpy
    assert rows(["jax:cpu", "cpu"]) == [("jax", "jax:cpu", "all"), *numpy]
    assert rows(["torch:cuda:0"]) == [("torch:cuda:0", "torch:cuda:0", "all")]
    assert rows(None)[:2] == numpy


@pytest.fixture
def clock(monkeypatch):
    """A clock that only works advance."""
    now = [0.0]
    monkeypatch.setattr(race.time, "perf_counter", lambda: now[0])

    def works(seconds):
        def work():
            now[0] += seconds

        return work

    return works


def test_a_time_is_that_of_one_work(clock, monkeypatch):
    """However many works a call does, and however many calls a turn has."""
    monkeypatch.setattr(race, "TURN", 0.04)
    backend = race.Backend("numpy", "cpu")

    def build(backend, repeats):
        return race.Work(clock(0.01 * repeats), repeats, clock(0.004 * repeats), 2e7, 5.0)

    for repeats in (1, 7):
        race.prepare(build, backend, (repeats,))
        assert race._WORKS[backend][1] == max(1, round(4 / repeats))
        assert race.turn(backend) == (pytest.approx(0.01), pytest.approx(0.004))
        facts = race.finish(backend, 0.01, 0.004)
        assert facts["gflops"] == pytest.approx(2.0)
        assert facts["samples_per_second"] == pytest.approx(500.0)
        assert facts["share_of_products"] == pytest.approx(0.4)
    assert race._WORKS == {}


def test_a_table_is_timed_once_and_another_one_of_the_same_work_by_itself(monkeypatch):
    raced = []

    def times(self, build, args, rows):
        raced.append(rows)
        return dict.fromkeys(rows, race.Row([1.0], {}))

    monkeypatch.setattr(race.Race, "_raced", times)
    one, other = (
        race.backends(["cpu"]),
        [race.Backend("numpy definition", "cpu", "numpy definition")],
    )
    found = race.Race(1)
    for rows in (one, other, one):
        assert list(found.run(print, (), iter(rows))) == rows
    assert raced == [one, other]


def test_the_tables_under_the_times():
    def row(group, case, backend, seconds, **more):
        return {"group": group, "case": case, "backend": backend, "seconds": seconds} | more

    infos = [
        row("step", "2-4-2", "numpy", 14.7e-6, gflops=2.0, share_of_products=1.25),
        row("step", "2-4-2", "jax", 39e-6, gflops=0.8, share_of_products=0.5),
        row("step", "9-9", "numpy", 0.2, gflops=190.0, share_of_products=1.0),
        row("scaling", "rows 8", "numpy", 1.5, exponent=1.02),
    ]
    infos[0] |= {"device": "cpu", "products_seconds": 9e-6}
    infos[1] |= {"device": "cpu", "products_seconds": 8e-6}
    text = list(tables.rates(infos))
    assert text[1].split("  ")[0] == "what the times mean"
    assert text[1].split()[-5:] == ["time", "GFLOP/s", "of", "products", "exponent"]
    assert text[3].split() == ["step", "2-4-2,", "numpy", "14.7", "µs", "2.00", "1.25"]
    assert text[6].split() == ["scaling", "rows", "8,", "numpy", "1.50", "s", "1.02"]
    # More backends than works: a row each, and the products' better time.
    assert list(tables.side_by_side(infos)) == [
        "",
        "step: time (GFLOP/s)            2-4-2           9-9",
        "---------------------------------------------------",
        "numpy                  14.7 µs (2.00)  200 ms (190)",
        "jax                   39.0 µs (0.800)",
        "products, cpu          8.00 µs (3.90)",
    ]
    assert list(tables.side_by_side([i | {"products_seconds": 0} for i in infos]))[1:4:2] == [
        "step: time (GFLOP/s)           numpy              jax",
        "2-4-2                 14.7 µs (2.00)  39.0 µs (0.800)",
    ]


def library_of(name):
    device = KERNEL_SETS[name].library
    try:
        select(device)
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))
    if name.startswith("numba"):
        pytest.importorskip("numba")
        pytest.importorskip("scipy")
    return select(device)


@pytest.mark.parametrize("name", KERNEL_SETS)
def test_a_kernel_set_trains_as_the_definition_does(name):
    device = library_of(name)
    X, Y, order = examples(TINY)
    order = order[: 64 * TINY.batch]
    ours, numpy = (
        Trainer(TINY, X, Y, where, backend=backend_for(where.xp, kernels))
        for where, kernels in ((device, name), (select("cpu"), "numpy definition"))
    )
    losses = np.stack([ours.epoch(order) for _ in range(3)])
    np.testing.assert_allclose(losses, [numpy.epoch(order) for _ in range(3)], rtol=1e-3)
    assert losses[-1].mean() < losses[0].mean()


def test_a_set_that_cannot_do_a_network_says_so():
    shape = SHAPES[-1]
    X, Y = np.zeros((1, 1024), np.float32), np.zeros(1, np.int64)
    device = select("cpu")
    with pytest.raises(NotSupported):
        Trainer(shape, X, Y, device, backend=backend_for(device.xp, "numpy call list"))


def test_pytest_shows_one_work_and_its_rates(tmp_path):
    file = tmp_path / "found.json"
    words = ["-q", "-p", "no:cacheprovider", "bench/suites", f"--benchmark-json={file}"]
    words += ["--device", "cpu", "--turns", "2", "-k", "notes or (product and 64 and float32)"]
    environment = script.environment()
    environment.pop("PYTEST_XDIST_WORKER", None)  # in which nothing would be timed
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(file.read_text())["benchmarks"]
    assert len(rows) == 6 + 1
    for row in rows:
        info = row["extra_info"]
        assert row["stats"]["min"] == pytest.approx(info["seconds"])
        assert row["stats"]["rounds"] == 2
    (gemm,) = (row["extra_info"] for row in rows if row["group"] == "gemm 64 float32")
    assert gemm["gflops"] * gemm["seconds"] * 1e9 == pytest.approx(2 * 64**3)
    # The core comes first, whatever the names of the groups.
    assert done.stdout.index("'gemm 64 float32'") < done.stdout.index("'notes 2-4x400 loops'")
    assert done.stdout.index("'notes") < done.stdout.index("what the times mean")
