"""The arithmetic of the benchmarks: ratios, equal losses, exponents, serial parts, comparisons."""

import importlib
import json
import math
import sys
from argparse import Namespace
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
if not BENCH.is_dir():
    pytest.skip("the benchmarks are not part of this distribution", allow_module_level=True)


@pytest.fixture(scope="module")
def bench():
    """The modules of bench/, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        names = ("measures", "compare", "report", "rounds", "peers", "serial", "shapes")
        yield {name: importlib.import_module(name) for name in names}
        for name in (*names, "contestants"):
            sys.modules.pop(name, None)


def test_ratios_are_quartiles_of_the_rounds(bench):
    ratios = bench["measures"].ratios
    assert ratios([2.0, 4.0, 6.0, 8.0, 10.0], [2.0] * 5) == (1.5, 3.0, 4.5)
    assert ratios([3.0, 1.0], [1.0, 1.0]) == (1.0, 2.0, 3.0)
    # Within a round: a machine that is twice as slow in one of them changes nothing.
    assert ratios([2.0, 4.0, 2.0, 2.0], [1.0, 2.0, 1.0, 1.0]) == (2.0, 2.0, 2.0)


def test_who_comes_to_another_loss_is_marked(bench):
    found = {
        "a": {"loss": 1.0},
        "b": {"loss": 1.01},
        "wrong": {"loss": 1.1},
        "diverged": {"loss": math.nan},
        "floor": {"loss": 7.0},
        "absent": {"problem": "not installed"},
    }
    bench["measures"].judge(found, "loss", 0.02, leave=["floor"])
    assert "problem" not in found["a"] | found["b"] | found["floor"]
    assert found["wrong"]["problem"] == "comes to loss 1.1, the others to 1.01"
    assert "nan" in found["diverged"]["problem"]
    assert found["absent"] == {"problem": "not installed"}


def test_the_exponent_of_a_power_law(bench):
    sizes = [64, 128, 256, 1024]
    costs = [3.0 * n**1.5 for n in sizes]
    assert bench["measures"].exponent(sizes, costs) == pytest.approx(1.5)


def test_the_serial_part_by_amdahls_law(bench):
    # Products 80 / n, a serial part of 6, a parallel one of 14 / n.
    left = bench["measures"].rest((100.0, 40 + 6 + 7), (80.0, 40.0), 2)
    assert left.share_1 == pytest.approx(0.2)
    assert left.share_n == pytest.approx(13 / 53)
    assert left.serial == pytest.approx(6.0)
    assert left.serial_share == pytest.approx(6 / 53)
    # Noise: a rest that more than halves has no serial part, one that grows is all serial.
    assert bench["measures"].rest((100.0, 44.0), (80.0, 40.0), 2).serial == 0.0
    assert bench["measures"].rest((100.0, 65.0), (80.0, 40.0), 2).serial == 25.0
    # 94 / n of the first: 6 is a tenth of the step at 94 / n = 54, which is n = 1.74.
    assert bench["serial"].threads_to(0.1, 53.0, 6.0, 2) == "2 threads"
    assert bench["serial"].threads_to(0.1, 53.0, 0.0, 2) == "never"


def test_turns_are_taken_round_by_round(bench, monkeypatch):
    monkeypatch.setattr(bench["rounds"], "calm", lambda patience: None)
    order = []
    turns = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    found = {"a": {}, "b": {"problem": "no"}, "c": {}}
    bench["rounds"].take_turns(found, turns, Namespace(rounds=2, patience=0.0))
    assert order == ["a", "c", "c", "a"]
    assert found == {"a": {"times": [1.0, 1.0]}, "b": {"problem": "no"}, "c": {"times": [1.0, 1.0]}}


def test_a_turn_waits_for_other_programs_but_not_for_ever(bench, monkeypatch):
    rounds = bench["rounds"]
    monkeypatch.setattr(rounds, "PAUSE", 0.0)
    ticks = iter([(0, 0), (10, 100), (100, 200), (1000, 1100)])  # idle: 10 %, 90 %
    monkeypatch.setattr(rounds, "processor_time", lambda: next(ticks))
    rounds.calm(60.0)
    assert next(ticks) == (1000, 1100)
    monkeypatch.setattr(rounds, "processor_time", iter([(0, i) for i in range(10**6)]).__next__)
    rounds.calm(0.01)
    monkeypatch.undo()
    idle, total = rounds.processor_time()
    assert 0 <= idle <= total


def results(bench, **times):
    contestants = {name: {"times": values} for name, values in times.items()}
    contestants["jax scan"] = {"problem": "not installed"}
    shape = bench["shapes"].SHAPES[0]
    return {
        "command": "python bench/peers.py",
        "date": "2030-01-02T03:04:05+00:00",
        "machine": {"processor": "two cores", "threads": 2, "versions": {"numpy": "2"}},
        "problems": {shape.name: {"gflop": 4e-3, "batch": 400, "contestants": contestants}},
    }


def test_the_table_of_the_peers(bench):
    found = results(bench, products=[1.0, 2.0], nnaccel=[2.0, 2.5], torch=[4.0, 5.0])
    lines = bench["peers"].table(found).splitlines()
    assert lines[0] == "two cores, 2 threads, 2030-01-02; numpy 2."
    rows = [line for line in lines if line.startswith("|")]
    assert rows[0] == "| | best ms | median ms | GFLOP/s | share of products | to nnaccel |"
    assert rows[3] == "| nnaccel | 2 | 2.25 | 2 | 0.50 |  |"
    assert rows[4] == "| torch | 4 | 4.5 | 1 | 0.25 | 2.00 (2.00 to 2.00) |"
    assert rows[5] == "| jax scan | not installed |  |  |  |  |"
    assert {row.count("|") for row in rows} == {7}


def test_the_command_is_without_folders(bench, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/a/bench/fits.py", "--data", "/home/me/my data.npz"])
    about = bench["report"].about(2)
    assert about["command"] == "python bench/fits.py --data 'my data.npz'"
    assert about["machine"]["threads"] == 2


def test_compare_fails_where_a_share_has_fallen(bench, tmp_path, monkeypatch, capsys):
    old, new, suite = (tmp_path / f"{name}.json" for name in ("old", "new", "suite"))
    old.write_text(json.dumps(results(bench, products=[1.0], nnaccel=[2.0, 3.0])))
    # A slower machine is no worse, since the products are slower as well; slower code is.
    new.write_text(json.dumps(results(bench, products=[2.0], nnaccel=[4.0], torch=[5.0])))
    name = f"{bench['shapes'].SHAPES[0].name} nnaccel"
    assert bench["compare"].shares(old) == {name: 0.5}

    def status(*files):
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, files)])
        with pytest.raises(SystemExit) as caught:
            bench["compare"].main()
        return caught.value.code

    assert status(old, new) == 0
    assert "torch" in capsys.readouterr().out
    new.write_text(json.dumps(results(bench, products=[1.0], nnaccel=[2.5])))
    assert status(old, new) == 1
    assert "slower" in capsys.readouterr().out
    entry = {"fullname": "bench/test_steps.py::test_step", "extra_info": {"share_of_products": 0.7}}
    suite.write_text(json.dumps({"benchmarks": [entry, {"fullname": "x", "extra_info": {}}]}))
    assert bench["compare"].shares(suite) == {entry["fullname"]: 0.7}
