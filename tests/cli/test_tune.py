"""`nnaccel tune`: rungs, the table of trials, the command of the best, and interruptions."""

import json
import os
import shlex
import signal

import pytest

pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")

from nnaccel.cli import searching
from nnaccel.tabular.model import Model
from nnaccel.tabular.trials import Rung

from .examples import columns, write

TUNE = ("tune", "d.csv", "--target", "price", "--drop", "name")
QUICK = (*TUNE, "--hidden", "4", "--epochs", "3", "--batch-size", "32", "--trials", "6")


@pytest.fixture
def table(here):
    write("d.csv", columns())
    return here


@pytest.fixture
def stops(monkeypatch):
    """Ctrl-C when the rung of that number is shown."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)

    show, stop = searching.line_of, {}

    def line_of(rung, seconds):
        if rung.number == stop.get("after"):
            os.kill(os.getpid(), signal.SIGINT)
        return show(rung, seconds)

    def after(number):
        stop["after"] = number

    monkeypatch.setattr(searching, "line_of", line_of)
    yield after
    signal.signal(signal.SIGINT, handler)


def test_the_best_is_fitted_and_the_command_says_how(run, table):
    out = run(*QUICK, "--json", "s.json")
    assert "rung 1: 4 trials, 3 go on   best: trial " in out
    assert "RMSE" in out
    assert "of 10:00" in out
    assert "\n6 trials\n" in out
    assert "(default)" in out
    found = json.loads((table / "s.json").read_text())
    trials, losses = found["trials"], [trial["validation loss"] for trial in found["trials"]]
    assert [trial["trial"] for trial in trials] != sorted(trial["trial"] for trial in trials)
    done = [loss for loss, trial in zip(losses, trials, strict=True) if trial["rungs"] == 3]
    assert done == sorted(done)
    [default] = [trial for trial in trials if not trial["settings"]]
    assert losses[0] <= default["validation loss"]
    best = trials[0]["settings"]
    assert {"learning_rate", "weight_decay"} <= best.keys()
    model = Model.load("d.safetensors")
    for name, value in best.items():
        assert model.settings[name] == value
    assert model.settings["hidden"] == [4]
    assert found["scores"]["RMSE"] == model.scores["RMSE"]  # on the test rows
    # The command that is shown trains the same model.
    command = next(line for line in out.splitlines() if line.startswith("the best settings: "))
    assert command.removeprefix("the best settings: ") == found["command"]
    words = shlex.split(found["command"])
    assert words[:6] == ["nnaccel", "train", "d.csv", "--target", "price", "--drop"]
    assert not {"--trials", "--time"} & {*words}
    before = (table / "d.safetensors").read_bytes()
    run(*words[1:])
    assert (table / "d.safetensors").read_bytes() == before


def test_what_is_given_is_the_same_for_all_trials(run, table):
    run(*QUICK, "--activation", "relu", "--dropout", "0", "--learning-rate", "0.01", "--json", "s")
    for trial in json.loads((table / "s").read_text())["trials"]:
        assert trial["settings"].keys() <= {"weight_decay"}


def test_a_search_that_goes_on_ends_like_one_that_was_not_interrupted(run, table, stops):
    run(*QUICK, "--output", "whole", "--json", "whole.json")
    stops(2)
    arguments = (*QUICK, "--output", "m", "--json", "m.json", "--checkpoint", "c k")
    out = run(*arguments, status=130)
    assert "the best settings: nnaccel train d.csv" in out
    assert not (table / "m").exists()
    last = run.err.splitlines()[-1]
    assert last.startswith("nnaccel: interrupted by Ctrl-C after rung ")
    assert Rung.load("c k").number in (1, 2)
    stops(None)
    run(*shlex.split(last.partition("; resume with: ")[2])[1:])
    assert (table / "m").read_bytes() == (table / "whole").read_bytes()
    ours, theirs = (json.loads((table / name).read_text()) for name in ("m.json", "whole.json"))
    assert ours["trials"] == theirs["trials"]
    assert run(*arguments, "--resume", "c k").count("\nrung") == 0  # there is nothing left to do
    line = run(*arguments, status=2) or run.err
    expected = "c k exists, the checkpoint of a run; resume it with --resume 'c k', or start again"
    assert expected in line


def test_without_a_checkpoint_the_best_so_far_is_offered(run, table, stops):
    stops(1)
    out = run(*QUICK, status=130)
    assert "the best settings: nnaccel train d.csv" in out
    last = run.err.splitlines()[-1]
    assert last.endswith("rung 1; a run without --checkpoint FILE cannot be resumed")


def test_an_interruption_before_the_first_rung_leaves_nothing(run, table, monkeypatch, stops):
    def interrupted(*args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        yield

    monkeypatch.setattr(searching, "tune", interrupted)
    run(*QUICK, "--checkpoint", "c", status=130)
    assert run.err == "nnaccel: interrupted by Ctrl-C before the first rung: nothing to keep\n"
    assert [path.name for path in table.iterdir()] == ["d.csv"]


def test_an_interrupted_fit_says_how_to_go_on(run, table, monkeypatch):
    from nnaccel.cli import display

    def follow(epochs, *args):
        for epoch in epochs:
            yield epoch
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(display, "follow", follow)
    run(*QUICK, "--checkpoint", "c", status=130)
    signal.signal(signal.SIGINT, before)
    last = run.err.splitlines()[-1]
    kept = "after epoch 1 of 3; the model is that of this epoch"
    assert f"{kept}; resume with: nnaccel tune d.csv" in last
    assert last.endswith("--checkpoint c --resume c")
    monkeypatch.undo()
    os.chdir(table)
    assert "epoch 3/3" in run(*shlex.split(last.partition("; resume with: ")[2])[1:])


def test_a_disk_that_fails_costs_a_warning(run, table, monkeypatch):
    def fails(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Rung, "save", fails)
    run(*QUICK, "--checkpoint", "c")
    warning = "nnaccel: warning: no checkpoint: No space left on device; the search goes on"
    assert warning in run.err
    assert (table / "d.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--time", "10"), "argument --time: expected a time such as 30s, 10m or 2h, got '10'"),
        (("--time", "0s"), "argument --time: expected a time such as 30s, 10m or 2h, got '0s'"),
        (("--trials", "1"), "--trials must be at least 2, got 1"),
        (("--stream",), "unrecognized arguments: --stream"),
        (("--json", "-"), "tune prints its plan on standard output; give --json the name of a"),
        (("--checkpoint", "d.csv"), "--checkpoint and SOURCE both name d.csv; choose another"),
        (("--resume", "c"), "c: no such file"),
        (
            (
                *("--activation", "relu", "--dropout", "0", "--learning-rate", "0.1"),
                *("--weight-decay", "0.1"),
            ),
            "space has nothing to draw: all of it is given (hidden, activation, dropout, "
            "learning_rate, weight_decay); leave a setting to the search",
        ),
    ],
)
def test_wrong_options_are_named(error, table, arguments, message):
    assert message in error(*QUICK, *arguments)


def test_a_time_that_is_too_short_is_named(error, table, monkeypatch):
    from nnaccel.tabular import tuning

    ticks = iter(range(10**6))
    monkeypatch.setattr(tuning.Clock, "now", staticmethod(lambda: float(next(ticks))))
    line = error(*QUICK, "--time", "2s")
    assert line.startswith("--time must be enough for the first rung, got 2; give it more time")


def test_a_table_that_would_be_streamed_is_refused(error, table, monkeypatch):
    from nnaccel.cli import streaming

    monkeypatch.setattr(streaming, "wants_stream", lambda source, options: True)
    line = error(*QUICK)
    assert line.startswith("tune needs the table in memory; tune on some of its rows")


def test_options_can_be_printed_and_read(run, table):
    config = run(*QUICK, "--print-config")
    assert "trials: 6\n" in config
    assert "time: 10m\n" in config
    (table / "run.yaml").write_text(config)
    assert run("tune", "d.csv", "--config", "run.yaml", "--print-config") == config


def test_source_is_needed(error):
    assert error("tune").startswith("tune needs a SOURCE: a file or a built-in data set")
