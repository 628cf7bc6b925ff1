"""The peers: they compute the same, and their tables say it."""

import contextlib
import math

import pytest

pytest.importorskip(
    "bench.shared.measures", reason="the benchmarks are not part of this distribution"
)

from bench.peers import contestants, low_precision, serial, steps
from bench.shared import measures, precisions, shapes
from nnaccel.maths.precision import PRECISIONS


def test_the_serial_part_by_amdahls_law():
    # Products 80 / n, a serial part of 6, a parallel one of 14 / n.
    left = measures.rest((100.0, 40 + 6 + 7), (80.0, 40.0), 2)
    assert left.share_1 == pytest.approx(0.2)
    assert left.share_n == pytest.approx(13 / 53)
    assert left.serial == pytest.approx(6.0)
    assert left.serial_share == pytest.approx(6 / 53)
    # Noise: a rest that more than halves has no serial part, one that grows is all serial.
    assert measures.rest((100.0, 44.0), (80.0, 40.0), 2).serial == 0.0
    assert measures.rest((100.0, 65.0), (80.0, 40.0), 2).serial == 25.0
    # 94 / n of the first: 6 is a tenth of the step at 94 / n = 54, which is n = 1.74.
    assert serial.threads_to(0.1, 53.0, 6.0, 2) == "2 threads"
    assert serial.threads_to(0.1, 53.0, 0.0, 2) == "never"


def test_differences_between_precisions_are_those_of_pairs():
    difference = low_precision.difference
    assert difference([3.0, 5.0, 7.0], [1.0, 3.0, 5.0]) == (2.0, 0.0)
    mean, error = difference([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert (mean, error) == (2.0, pytest.approx(1.0 / 3**0.5))
    about = {"processor": "a chip", "threads": 2, "versions": {"numpy": "2"}}
    tested = {"accuracy": [0.9, 0.8], "log loss": [0.25, 0.35]}
    other = {"accuracy": [0.91, 0.82], "log loss": [0.25, 0.33]}
    found = {
        "machine": about, "date": "2026-11-24T00", "command": "python bench/peers/low_precision.py",
        "runs": {"flowers": {"settings": {}, "float32": tested, "bf16": other}},
    }  # fmt: skip
    lines = low_precision.table(found).splitlines()
    assert "| float32 | 0.8500 ± 0.0707 |  | 0.3000 ± 0.0707 |  |" in lines
    assert (
        "| bf16 | 0.8650 ± 0.0636 | +0.0150 ± 0.0050 | 0.2900 ± 0.0566 | -0.0100 ± 0.0100 |"
        in lines
    )


def results(**times):
    contestants = {name: {"times": values} for name, values in times.items()}
    contestants["jax scan"] = {"problem": "not installed"}
    shape = shapes.SHAPES[0]
    return {
        "command": "python bench/peers/steps.py",
        "date": "2030-01-02T03:04:05+00:00",
        "machine": {"processor": "two cores", "threads": 2, "versions": {"numpy": "2"}},
        "problems": {shape.name: {"gflop": 4e-3, "batch": 400, "contestants": contestants}},
    }


def test_the_table_of_the_peers():
    found = results(products=[1.0, 2.0], nnaccel=[2.0, 2.5], torch=[4.0, 5.0])
    lines = steps.table(found).splitlines()
    assert lines[0] == "two cores, 2 threads, 2030-01-02; numpy 2."
    rows = [line for line in lines if line.startswith("|")]
    assert rows[0] == "| | best ms | median ms | GFLOP/s | share of products | to nnaccel |"
    assert rows[3] == "| nnaccel | 2 | 2.25 | 2 | 0.50 |  |"
    assert rows[4] == "| torch | 4 | 4.5 | 1 | 0.25 | 2.00 (2.00 to 2.00) |"
    assert rows[5] == "| jax scan | not installed |  |  |  |  |"
    assert {row.count("|") for row in rows} == {7}


def test_every_precision_is_told_to_each_library():
    known = precisions.PRECISIONS
    assert list(known) == ["ieee", "tf32", "bf16"]
    names = {how.nnaccel.get("precision", "float32") for how in known.values()}
    assert names == {*PRECISIONS}
    errors = [p.error for p in known.values()]
    assert errors == sorted(errors)
    for precision in known.values():
        assert precision.torch in ("highest", "high")
        assert precision.jax in ("highest", "tensorfloat32")
    problem = shapes.problem(shapes.TINY[0])
    losses = {contestants.GPU_CONTESTANTS["nnaccel"](problem, "cpu", name)(1) for name in known}
    assert len(losses) == len(known)
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize(
    ("number", "loss"), [(0, "binary_cross_entropy"), (1, "softmax_cross_entropy")]
)
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_contestants_learn_the_same_in_every_precision(library, number, loss):
    """But for torch.compile, which takes seconds."""
    pytest.importorskip(library)
    problem = shapes.problem(shapes.TINY[number])
    assert problem.shape.loss == loss
    problem = problem._replace(order=problem.order[:128])
    expected = contestants.GPU_CONTESTANTS["nnaccel"](problem, "cpu", "ieee")(3)
    names = {"torch": ("torch eager", "torch graphs"), "jax": ("jax jit", "jax scan")}[library]
    with settings_kept(library):
        for precision, how in precisions.PRECISIONS.items():
            for name in names:
                run = contestants.GPU_CONTESTANTS[name](problem, "cpu", precision)
                assert run(3) == pytest.approx(expected, rel=how.tolerance)


@contextlib.contextmanager
def settings_kept(library):
    """The contestants set the precision of a whole process, which is theirs as a rule."""
    if library == "torch":
        import torch

        before = torch.get_float32_matmul_precision()
        yield
        torch.set_float32_matmul_precision(before)
    else:
        import jax

        names = ("jax_default_matmul_precision", "jax_enable_x64")
        before = {name: getattr(jax.config, name) for name in names}
        jax.config.update("jax_enable_x64", False)
        yield
        for name, value in before.items():
            jax.config.update(name, value)
