"""The arithmetic of the benchmarks, their turns, workers and scripts."""

import json
import math
import os
import signal
import subprocess
import sys
from argparse import Namespace

import pytest

pytest.importorskip(
    "bench.shared.measures", reason="the benchmarks are not part of this distribution"
)

from bench import compare
from bench.shared import measures, report, rounds, script
from bench.shared.report import ROOT
from bench.shared.shapes import SHAPES

BENCH = ROOT / "bench"
SCRIPTS = [p for p in sorted(BENCH.rglob("*.py")) if "__main__" in p.read_text()]


def test_ratios_are_quartiles_of_the_rounds():
    ratios = measures.ratios
    assert ratios([2.0, 4.0, 6.0, 8.0, 10.0], [2.0] * 5) == (1.5, 3.0, 4.5)
    assert ratios([3.0, 1.0], [1.0, 1.0]) == (1.0, 2.0, 3.0)
    # Within a round: a machine that is twice as slow in one of them changes nothing.
    assert ratios([2.0, 4.0, 2.0, 2.0], [1.0, 2.0, 1.0, 1.0]) == (2.0, 2.0, 2.0)


def test_who_comes_to_another_loss_is_marked():
    found = {
        "a": {"loss": 1.0},
        "b": {"loss": 1.01},
        "wrong": {"loss": 1.1},
        "diverged": {"loss": math.nan},
        "floor": {"loss": 7.0},
        "absent": {"problem": "not installed"},
    }
    measures.judge(found, "loss", 0.02, leave=["floor"])
    assert "problem" not in found["a"] | found["b"] | found["floor"]
    assert found["wrong"]["problem"] == "comes to loss 1.1, the others to 1.01"
    assert "nan" in found["diverged"]["problem"]
    assert found["absent"] == {"problem": "not installed"}


def test_the_exponent_of_a_power_law():
    sizes = [64, 128, 256, 1024]
    costs = [3.0 * n**1.5 for n in sizes]
    assert measures.exponent(sizes, costs) == pytest.approx(1.5)


def test_turns_are_taken_round_by_round(monkeypatch):
    monkeypatch.setattr(rounds, "calm", lambda patience: None)
    order = []
    turns = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    found = {"a": {}, "b": {"problem": "no"}, "c": {}}
    rounds.take_turns(found, turns, Namespace(rounds=2, patience=0.0))
    assert order == ["a", "c", "c", "a"]
    assert found == {"a": {"times": [1.0, 1.0]}, "b": {"problem": "no"}, "c": {"times": [1.0, 1.0]}}


def test_a_turn_waits_for_other_programs_but_not_for_ever(monkeypatch):
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


def test_the_command_is_without_folders(monkeypatch):
    words = ["/a/bench/peers/fits.py", "--data", "/home/me/my data.npz"]
    monkeypatch.setattr(sys, "argv", words)
    about = report.about(2)
    assert about["command"] == "python bench/peers/fits.py --data 'my data.npz'"
    assert about["machine"]["threads"] == 2


def results(**times):
    contestants = {name: {"times": values} for name, values in times.items()}
    contestants["jax scan"] = {"problem": "not installed"}
    shape = SHAPES[0]
    return {
        "command": "python bench/peers/steps.py",
        "date": "2030-01-02T03:04:05+00:00",
        "machine": {"processor": "two cores", "threads": 2, "versions": {"numpy": "2"}},
        "problems": {shape.name: {"gflop": 4e-3, "batch": 400, "contestants": contestants}},
    }


def test_compare_fails_where_a_share_has_fallen(tmp_path, monkeypatch, capsys):
    old, new, suite = (tmp_path / f"{name}.json" for name in ("old", "new", "suite"))
    old.write_text(json.dumps(results(products=[1.0], nnaccel=[2.0, 3.0])))
    # A slower machine is no worse, since the products are slower as well; slower code is.
    new.write_text(json.dumps(results(products=[2.0], nnaccel=[4.0], torch=[5.0])))
    name = f"{SHAPES[0].name} nnaccel"
    assert compare.shares(old) == {name: 0.5}

    def status(*files):
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, files)])
        return compare.main()

    assert status(old, new) == 0
    assert "torch" in capsys.readouterr().out
    new.write_text(json.dumps(results(products=[1.0], nnaccel=[2.5])))
    assert status(old, new) == 1
    assert "slower" in capsys.readouterr().out
    entry = {
        "fullname": "bench/suites/test_core.py::test_step",
        "extra_info": {"share_of_products": 0.7},
    }
    suite.write_text(json.dumps({"benchmarks": [entry, {"fullname": "x", "extra_info": {}}]}))
    assert compare.shares(suite) == {entry["fullname"]: 0.7}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_script_whose_reader_has_gone_ends_quietly(tmp_path, unbuffered):
    file = tmp_path / "found.json"
    file.write_text(json.dumps(results(products=[1.0], nnaccel=[2.0])))
    process = subprocess.Popen(
        [sys.executable, BENCH / "compare.py", file, file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=script.environment(PYTHONUNBUFFERED=unbuffered),
    )
    process.stdout.close()
    _, error = process.communicate()
    assert (process.returncode, error) == (1, b"")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_all_scripts_end_so(path):
    _, _, end = path.read_text().partition('if __name__ == "__main__":\n')
    assert end.endswith(("    run(main)\n", "    run(lambda: main(__doc__))\n"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_all_scripts_start_in_a_checkout(path):
    done = subprocess.run(
        [sys.executable, path.relative_to(ROOT), "--help"],
        cwd=ROOT,
        env=script.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {path.name} ")


def test_scripts_end_with_the_status_of_their_function():
    def fails():
        raise ValueError("as it was")

    for status in (None, 0, 1):
        with pytest.raises(SystemExit) as caught:
            script.run(lambda status=status: status)
        assert caught.value.code == status
    with pytest.raises(ValueError, match="as it was"):
        script.run(fails)


def test_a_worker_that_does_not_answer_is_ended(monkeypatch, tmp_path):
    file = tmp_path / "worker.py"
    file.write_text(
        "import sys\nfor line in sys.stdin:\n    a, b = map(int, line.split())\n"
        "    if a == 0:\n        sys.stderr.write('x' * 10**6 + '\\nlast words\\n'); sys.exit(1)\n"
        "    if a == 1:\n        sys.stdin.read()\n"
        "    print(a, b, flush=True)\n"
    )
    monkeypatch.setattr(sys, "argv", [str(file)])
    workers = [rounds.Worker([], 1) for _ in range(2)]
    assert workers[0].ask(2, 3, limit=60.0) == [2.0, 3.0]
    with pytest.raises(RuntimeError, match="^last words$"):
        workers[0].ask(0, 0)
    with pytest.raises(RuntimeError, match="no answer in 0 seconds"):
        workers[1].ask(1, 0, limit=0.1)
    for worker in workers:
        worker.close()


def test_a_worker_that_fails_is_heard_out(monkeypatch, tmp_path):
    """The end of its answers comes before its last words."""
    file = tmp_path / "worker.py"
    file.write_text(
        "import sys, time\nfrom bench.shared import rounds\n"
        "def slow(*error):\n    time.sleep(0.5)\n    sys.__excepthook__(*error)\n"
        "sys.excepthook = slow\n"
        "def work(a):\n    raise ValueError('last words')\n"
        "rounds.answer(work)\n"
    )
    monkeypatch.setattr(sys, "argv", [str(file)])
    worker = rounds.Worker([], 1)
    with pytest.raises(RuntimeError, match="^ValueError: last words$"):
        worker.ask(1)
    worker.close()


def test_what_a_worker_prints_is_no_answer(monkeypatch, tmp_path, capsys):
    """Nor do the processes that it starts hold its answers open."""
    file = tmp_path / "worker.py"
    file.write_text(
        "import subprocess, sys\nfrom bench.shared import rounds\n"
        "def work(a):\n    print('a library prints', flush=True)\n"
        "    print('DEBUG:nnaccel.kernels.backend:it falls back', file=sys.stderr, flush=True)\n"
        "    child = subprocess.Popen(['sleep', '3600'], start_new_session=True)\n"
        "    return a + 1, child.pid\n"
        "rounds.answer(work)\n"
    )
    monkeypatch.setattr(sys, "argv", [str(file)])
    worker = rounds.Worker([], 1)
    answer, child = worker.ask(2)
    worker.close()
    os.kill(int(child), signal.SIGTERM)  # ProcessLookupError if close has waited for its end
    assert answer == 3.0
    assert capsys.readouterr().err == "DEBUG:nnaccel.kernels.backend:it falls back\n"


def test_rounds_end_with_the_time_but_not_before_the_second(monkeypatch, capsys):
    monkeypatch.setattr(rounds, "calm", lambda patience: None)
    found, args = {"a": {}}, Namespace(rounds=7, patience=0.0)
    rounds.take_turns(found, {"a": lambda: 1.5}, args, stop=0.0)
    assert found["a"]["times"] == [1.5]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  round 1 of 7: a 1.5"
    assert lines[-1] == "  its share of the time is up after 1 of 7 rounds"
    rounds.take_turns({"a": {"problem": "no"}}, {"a": None}, args)


def test_problems_share_the_minutes(monkeypatch):
    monkeypatch.setattr(rounds.time, "monotonic", lambda: 160.0)
    assert rounds.deadline(400.0, 4) == 160.0 + 240.0 / 4
    assert rounds.deadline(400.0, 1) == 400.0


def test_a_busy_machine_is_told_from_an_unsteady_contestant():
    steady, unsteady = [1.0, 1.05, 1.1], [1.0, 1.6, 3.0]
    assert measures.spread(unsteady) == pytest.approx(0.6)
    assert measures.busy([steady, steady, unsteady]) == ""
    assert measures.busy([]) == ""
    assert measures.busy([[1.0, 1.0], [2.0, 2.1]]).startswith("There was time for fewer than three")
    text = measures.busy([steady, unsteady, unsteady])
    assert text.startswith("The machine was busy: the middle round took 60% longer than the best")


def test_other_programs_are_seen_before_the_start(monkeypatch):
    monkeypatch.setattr(report.os, "getloadavg", lambda: (0.3, 9.0, 9.0))
    assert report.load() == ""
    monkeypatch.setattr(report.os, "getloadavg", lambda: (1.84, 0.0, 0.0))
    assert report.load().endswith("the load average is 1.8 before the start.")
