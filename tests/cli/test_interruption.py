"""Runs of `nnaccel train` that are interrupted, and that go on; and disks that fail meanwhile."""

import errno
import json
import os
import shlex
import signal
import sys

import pytest

from nnaccel import files
from nnaccel.cli import checkpoints
from nnaccel.cli.interruption import SIGNALS, Interruption
from nnaccel.tabular.model import Model
from nnaccel.training import checkpoint

from .examples import columns, process, write

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
ARGUMENTS = ("train", "d.csv", "--target", "label", "--hidden", "8", "--no-kernels")
LONG = (*ARGUMENTS, "--epochs", "2000")
VALIDATED = ("--validation-fraction", "0.2")


@pytest.fixture
def table(here):
    write("d.csv", columns(), name=None)
    return here


@pytest.fixture(autouse=True)
def as_on_a_terminal():
    """`nohup`, and a shell for what it starts in the background, leave signals ignored, which
    children inherit."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupted(number, *arguments, epochs=3):
    """Exit status, and the lines on both streams, of a command that gets a signal after epochs."""
    with process(*arguments) as child:
        lines = []
        for line in child.stdout:
            lines.append(line)
            if line.startswith(f"epoch {epochs:4d}/"):
                break
        child.send_signal(number)
        rest, error = child.communicate(timeout=60)
    return child.returncode, "".join(lines) + rest, error


# ---------------------------------------------------------------------------- signals


@POSIX
@pytest.mark.parametrize(
    ("name", "words"),
    [("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "the end of its terminal")],
)
def test_a_signal_ends_the_run_in_good_order(table, run, name, words):
    number = getattr(signal, name)
    status, out, error = interrupted(
        number, *LONG, *VALIDATED, "--checkpoint", "c k", "--every", "2"
    )
    assert status == 128 + number
    assert "the best on validation" in out
    assert "test on 24 rows" in out
    assert "model written to d.safetensors" in out
    first, line = error.splitlines()
    assert first == f"nnaccel: {words}: the run ends; once more ends it at once"
    done = checkpoint.load("c k").epoch.number
    assert line.startswith(f"nnaccel: interrupted by {words} after epoch {done} of 2000; the model")
    command = line.partition("; resume with: ")[2]
    assert shlex.split(command)[-2:] == ["--resume", "c k"]
    assert len(Model.load("d.safetensors").history) == done >= 3
    # What it says is what goes on.
    shorter = shlex.split(command)[1:]
    shorter[shorter.index("2000")] = "3"
    run(*shorter, status=2)
    assert "epochs may grow, but not shrink" in run.err


@POSIX
def test_the_model_of_a_run_that_went_on_is_that_of_an_undisturbed_one(table, run):
    common = (*ARGUMENTS, *VALIDATED, "--epochs", "1000", "--output")
    run(*common, "whole")
    arguments = (*common, "m", "--checkpoint", "c")
    assert interrupted(signal.SIGINT, *arguments)[0] == 130
    out = run(*arguments, "--resume", "c")
    assert "best: epoch" in out
    assert (table / "m").read_bytes() == (table / "whole").read_bytes()
    out = run(*arguments, "--resume", "c")  # there is nothing left to do
    assert "epoch 1000/1000" not in out
    assert (table / "m").read_bytes() == (table / "whole").read_bytes()


@POSIX
def test_without_a_checkpoint_the_model_is_kept_all_the_same(table):
    status, _, error = interrupted(signal.SIGTERM, *LONG, *VALIDATED)
    assert status == 143
    assert "; the model is the best by then; " in error
    assert error.endswith("; a run without --checkpoint FILE cannot be resumed\n")
    assert Model.load("d.safetensors").history


@POSIX
def test_of_a_run_without_validation_the_last_whole_epoch_is_kept(table):
    status, out, error = interrupted(signal.SIGINT, *LONG)
    assert status == 130
    assert "best: epoch" not in out
    assert "; the model is that of this epoch; " in error
    history = Model.load("d.safetensors").history
    assert f"the weights are those of epoch {len(history)}\n" in out


@POSIX
def test_before_the_first_epoch_is_done_nothing_is_kept(table, run, monkeypatch):
    from nnaccel.tabular import problem

    def interrupting(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        yield

    monkeypatch.setattr(problem, "train", interrupting)
    run(*ARGUMENTS, "--epochs", "3", "--checkpoint", "c", status=130)
    assert run.err == (
        "nnaccel: Ctrl-C: the run ends; once more ends it at once\n"
        "nnaccel: interrupted by Ctrl-C in the first epoch: nothing to keep\n"
    )
    assert sorted(child.name for child in table.iterdir()) == ["d.csv"]


@POSIX
def test_the_first_signal_gives_up_and_the_next_ends_at_once():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with Interruption() as interruption:
        with interruption.gives_up():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("this is given up")
        assert interruption.status == 143
        assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_DFL}
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


@POSIX
def test_a_signal_while_the_model_is_written_waits_for_it():
    with Interruption() as interruption:
        with interruption.gives_up():
            pass
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.status == 130


@POSIX
def test_a_signal_that_is_ignored_stays_so(monkeypatch):
    """As by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption, interruption.gives_up():
            os.kill(os.getpid(), signal.SIGHUP)
        assert interruption.status == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------------------- disks that fail


@pytest.fixture
def failing(monkeypatch):
    """Makes the writes of files whose names begin so fail, from one on."""

    def fail(start, code, after=0):
        real, seen = os.replace, 0

        def replace(source, target):
            nonlocal seen
            seen += os.path.basename(target).startswith(start)
            if os.path.basename(target).startswith(start) and seen > after:
                raise OSError(code, os.strerror(code))
            real(source, target)

        monkeypatch.setattr(files.os, "replace", replace)

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_checkpoint_that_cannot_be_written_costs_nothing_but_itself(table, run, failing, code):
    failing("c", code, after=2)
    out = run(*ARGUMENTS, "--epochs", "6", "--checkpoint", "c", "--every", "1", status=2)
    assert "epoch 6/6" in out
    first, last = run.err.splitlines()
    reason = f"cannot write c ({os.strerror(code)}); choose another place"
    assert first == f"nnaccel: warning: no checkpoint: {reason}; the run continues"
    assert last == (f"nnaccel: error: the checkpoint is not that of the end of the run: {reason}")
    assert checkpoint.load("c").epoch.number == 2
    assert len(Model.load("d.safetensors").history) == 6
    assert sorted(child.name for child in table.iterdir()) == ["c", "d.csv", "d.safetensors"]


def test_a_disk_that_recovers_gets_the_last_checkpoint(table, run, monkeypatch):
    write_file, calls = files.write, []

    def flaky(path, content):
        calls.append(path)
        if len(calls) in (2, 3):
            raise OSError(errno.ENOSPC, "cannot write c (full)")
        write_file(path, content)

    monkeypatch.setattr(files, "write", flaky)
    run(*ARGUMENTS, "--epochs", "5", "--checkpoint", "c", "--every", "1")
    assert run.err.count("warning") == 1
    assert checkpoint.load("c").epoch.number == 5


def test_a_model_that_has_no_place_is_written_elsewhere(table, run, failing, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(table))
    failing("m", errno.ENOSPC)
    real = files.os.replace
    monkeypatch.setattr(
        files.os, "replace",
        lambda s, t: (os.rename if "nnaccel-" in os.path.dirname(t) else real)(s, t),
    )  # fmt: skip
    run(*ARGUMENTS, "--epochs", "2", "--output", "m", status=2)
    (line,) = run.err.splitlines()
    words = "nnaccel: error: cannot write m (No space left on device); choose another place; the "
    assert line.startswith(f"{words}model is in {table}/nnaccel-")
    assert len(Model.load(line.partition("the model is in ")[2]).history) == 2


# ---------------------------------------------------------------------------- options


def test_options_that_do_not_go_together(table, error):
    assert error(*ARGUMENTS, "--every", "3") == (
        "--every is for --checkpoint FILE, which says where to write it"
    )
    assert error(*ARGUMENTS, "--checkpoint", "m", "--output", "./m") == (
        "--checkpoint and --output both name m; choose another file"
    )
    assert "no such file" in error(*ARGUMENTS, "--resume", "c")
    (table / "other").write_text("x,y\n1,2\n")
    assert error(*ARGUMENTS, "--resume", "other").startswith(
        "other: not a checkpoint that can be used: "
    )


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "10x", "m", "", "1 m", "١"])
def test_what_is_no_period(table, error, text):
    assert error(*ARGUMENTS, "--checkpoint", "c", f"--every={text}") == (
        "argument --every: expected a number of epochs, or a time such as 30s, 10m or 2h, got "
        f"{text!r}; see nnaccel train --help"
    )


def test_periods():
    def over(text, *now):
        return checkpoints.Period.of(text).is_over(*now)

    assert [over("3", n, 1e9) for n in (2, 3, 4)] == [False, True, True]
    assert [over("2m", 10**9, seconds) for seconds in (119.0, 120.0)] == [False, True]
    assert over("1h", 0, 3600.0)
    assert not over("1h", 0, 3599.0)
    assert over("30s", 0, 30.0)


def test_another_run_does_not_take_the_place_of_a_checkpoint(table, run, error):
    arguments = (*ARGUMENTS, "--epochs", "2", "--checkpoint", "c", "--output", "m")
    run(*arguments)
    assert error(*arguments) == (
        "c exists, the checkpoint of a run; resume it with --resume c, or start again with --force"
    )
    assert error(*ARGUMENTS, "--checkpoint", "d.csv", "--output", "m").startswith(
        "--checkpoint and SOURCE both name d.csv"
    )
    assert error(*ARGUMENTS, "--checkpoint", "m", "--output", "n") == (
        "m exists and is no checkpoint; choose another --checkpoint"
    )
    assert error(*arguments, "--resume", "c", "--seed", "5") == (
        "the checkpoint is of another run: its seed is 0, and now it is 5; give it the same, or "
        "begin a new run"
    )
    run(*arguments, "--force")
    run(*arguments, "--resume", "c", "--epochs", "3")
    assert checkpoint.load("c").epoch.number == 3


def test_a_log_goes_on_with_its_run(table, run, error):
    arguments = (*ARGUMENTS, "--epochs", "3", "--checkpoint", "c", "--log", "log.jsonl")
    run(*arguments)
    longer = [word if word != "3" else "5" for word in arguments]
    run(*longer, "--resume", "c")
    rows = [json.loads(line) for line in (table / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    history = Model.load("d.safetensors").history
    assert [row["loss"] for row in rows] == [row["loss"] for row in history]
    assert error(*ARGUMENTS, "--output", "n", "--log", "log.txt") == (
        "a log is a .jsonl or a .csv file, got log.txt"
    )
    assert error(*ARGUMENTS, "--output", "n", "--log", "log.jsonl").startswith(
        "log.jsonl exists; choose another --log"
    )
    before = (table / "d.csv").read_bytes()
    assert error(*ARGUMENTS, "--output", "n", "--log", "d.csv", "--force") == (
        "d.csv is read or written by this command; choose another --log"
    )
    assert (table / "d.csv").read_bytes() == before


def test_a_configuration_may_say_so(table, run):
    out = run(*ARGUMENTS, "--checkpoint", "c", "--every", "5m", "--print-config")
    (table / "conf.yaml").write_text(out)
    run("train", "--config", "conf.yaml", "--epochs", "1")
    assert checkpoint.load("c").epoch.number == 1
