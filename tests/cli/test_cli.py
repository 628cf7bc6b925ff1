"""The command line, as its user sees it: what it prints, writes and refuses.

Most tests call `main` in this process; where the process matters (a closed pipe, an interrupt,
what is at the end of standard output) they start one.
"""

import ast
import errno
import inspect
import io
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")

from nnaccel import __version__
from nnaccel.cli import commands, display
from nnaccel.cli.main import COMMANDS, build_parser, main
from nnaccel.kernels.definition import Definition
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.model import Model
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import read
from nnaccel.tabular.table_files import read_table
from tests.cli.examples import QUICK, N, columns, process, write

# ---------------------------------------------------------------------------- options


def test_help_shows_every_command_and_every_option(run):
    assert "nnaccel COMMAND --help" in run("--help")
    parser, parsers = build_parser()
    for name, command in COMMANDS.items():
        assert name in parser.format_help()
        assert command.summary in parser.format_help()
        text = parsers[name].format_help()
        assert "None" not in text
        assert text.splitlines()[0] == f"usage: nnaccel {name} {command.usage}"
    for name in Settings.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in parsers["train"].format_help()


def test_version(run):
    assert run("--version") == f"nnaccel {__version__}\n"


def test_the_precision_of_products(run, error, here):
    def trained(*options):
        run("train", "iris", *QUICK, *options, "--force")
        return Model.load(here / "iris.safetensors")

    whole = trained()
    assert "products in" not in run.out
    (here / "run.yaml").write_text("precision: bf16\n")
    model = trained("--config", "run.yaml")
    assert ", on cpu, products in bf16\n" in run.out
    assert (whole.settings["precision"], model.settings["precision"]) == ("float32", "bf16")
    assert 0 < abs(model.history[0]["loss"] - whole.history[0]["loss"]) < 1e-2
    assert re.search(r"precision +bf16", run("inspect", "iris.safetensors"))
    assert "did you mean 'bf16'?" in error("train", "iris", "--precision", "fb16")
    line = error("train", "iris", "--precision", "tf32", "--dtype", "float64")
    assert line.startswith("precision='tf32' is for dtype float32, got float64: ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "the following arguments are required: COMMAND; see nnaccel --help"),
        (("trian",), "argument COMMAND: invalid choice: 'trian'"),
        (("train",), "train needs a SOURCE"),
        (("train", "iris", "--hiden", "3"), "unrecognized arguments: --hiden 3; did you mean"),
        (("train", "iris", "wine"), "unrecognized arguments: wine"),
        (("train", "iris", "--epochs", "x"), "argument --epochs: invalid int value: 'x'; see"),
        (("train", "iris", "--drop"), "argument --drop: expected at least one argument; see"),
        (("train", "iris", "--activation", "rellu"), "argument --activation: invalid choice"),
        (("train", "iris", "--config", "none.yaml"), "none.yaml: no such file"),
        (("predict", "m"), "the following arguments are required: FILE; see nnaccel predict"),
        (("devices", "cpu"), "unrecognized arguments: cpu"),
    ],
)
def test_wrong_usage(error, argv, message):
    assert error(*argv).startswith(message)


def test_the_closest_word_is_suggested(error):
    assert error("trian").endswith("; did you mean 'train'?")
    assert error("train", "iris", "--activation", "rellu").endswith("; did you mean 'relu'?")
    assert error("train", "iris", "--hiden=3").endswith("; did you mean '--hidden'?")
    assert error("train", "iris", "--lr", "1").endswith("--lr 1; see nnaccel train --help")
    assert error("bench", "--precision", "bf16").endswith("; see nnaccel bench --help")


# ---------------------------------------------------------------------------- train


def test_a_table_from_end_to_end(run, here):
    write("d.csv", columns())
    write("new.csv", columns(seed=1), label=None, price=None)
    out = run("train", "d.csv", "--target", "label", "--drop", "price", "--epochs", "30")
    assert run.err == (
        "nnaccel: warning: column 'name' is dropped: "
        "120 different texts in 120 rows, like an identifier; --keep 'name' uses it\n"
    )
    first, *_, last = out.splitlines()
    assert first == "d: classification of 'label', rows: 96 train, 24 test"
    assert last == ("model written to d.safetensors; use it: nnaccel predict d.safetensors d.csv")
    model = Model.load("d.safetensors")
    assert [column.name for column in model.features.numeric] == ["x [m]", "[bold]ünï[/]"]
    assert [column.name for column in model.features.categorical] == ["c=c", "flag"]
    assert model.features.dropped["same"] == "constant"
    assert model.scores["accuracy"] > 0.7
    run("predict", "d.safetensors", "new.csv", "--output", "p.parquet", "--proba")
    found = read_table("p.parquet")[0]
    assert found.column_names == ["label", "label=no", "label=yes"]
    assert found.num_rows == N
    total = np.array(found["label=no"]) + np.array(found["label=yes"])
    np.testing.assert_allclose(total, 1, rtol=1e-12)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather"])
def test_every_kind_of_table_gives_the_same_model(run, here, suffix):
    write("d.csv", columns(), name=None)
    write(f"other{suffix}", columns(), name=None)
    run("train", "d.csv", "--target", "price", *QUICK)
    run("train", f"other{suffix}", "--target", "price", *QUICK)
    assert Model.load("d.safetensors").scores == Model.load("other.safetensors").scores


def test_arrays_with_and_without_test_data(run, here):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = X[:, 0] > 0
    np.savez("one.npz", X=X, y=y)
    np.savez("two.npz", X_train=X[:40], y_train=y[:40], X_test=X[40:], y_test=y[40:])
    assert "rows: 48 train, 12 test" in run("train", "one.npz", *QUICK)
    assert "rows: 40 train, 20 test" in run("train", "two.npz", *QUICK)
    assert "on 20 rows of two.npz" in run("evaluate", "two.safetensors", "two.npz")
    assert len(run("predict", "two.safetensors", "two.npz").splitlines()) == 1 + 20


def test_a_file_to_test_on(run, here):
    write("d.csv", columns(), name=None)
    write("t.parquet", columns(seed=1), name=None)
    out = run("train", "d.csv", "--test", "t.parquet", "--target", "label", *QUICK)
    assert f"rows: {N} train, {N} test" in out


def test_regression_reports_its_own_units(run, here):
    write("d.csv", columns(), name=None, label=None)
    run("train", "d.csv", "--target", "price", "--epochs", "40")
    scores = Model.load("d.safetensors").scores
    tested = [name for name in scores if not name.startswith("out-of-fold ")]
    assert tested == ["RMSE", "MAE", "R²", "RMSE of always the mean"]
    assert scores["RMSE"] < 0.7 * scores["RMSE of always the mean"]
    assert scores["R²"] > 0.5
    assert 100 < scores["MAE"] < 10_000


def test_lines_are_plain_in_a_pipe(run, here):
    out = run("train", "digits", *QUICK, "--validation-fraction", "0.1")
    assert "\x1b" not in out
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert [line.split("   ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    for word in ("loss ", "accuracy ", "validation loss ", " samples/s", " left"):
        assert all(word in line for line in lines)
    assert "the weights are those of epoch 2, the best on validation\n" in out
    for word in ("accuracy", "log loss", "ROC AUC", "confusion matrix"):
        assert word in out.partition("test on 359 rows")[2]


def test_on_a_terminal_there_is_a_bar():
    screen = io.StringIO()
    console = display.Screen(file=screen, force_terminal=True, width=100)
    fit = Fit(read("iris"), Settings(hidden=(4,), epochs=3))
    numbers = [epoch.number for epoch in display.follow(fit, 3, "accuracy", console)]
    assert numbers == [1, 2, 3]
    text = screen.getvalue()
    assert "\x1b[?25l" in text  # the cursor is hidden,
    assert "\x1b[?25h" in text  # and comes back
    assert "━━━" in text
    assert "epoch 3/3" in text
    assert "0:00 left" in text


def test_a_terminal_is_restored_when_training_fails():
    screen = io.StringIO()
    console = display.Screen(file=screen, force_terminal=True, width=100)

    def epochs():
        yield from Fit(read("iris"), Settings(hidden=(4,), epochs=1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(display.follow(epochs(), 2, "accuracy", console))
    assert screen.getvalue().rstrip().endswith("\x1b[?25h")


def test_the_plan_says_what_was_chosen(run, here):
    out = run("train", "breast_cancer", "--epochs", "1", "--batch-size", "1000")
    for line in (
        "network 30-256-128-64-1, tanh, dropout 0.1 for 75% of the epochs, ",
        "numbers: plain and piecewise linear encoding, ",
        "10 networks, 5 of each kind on 5 folds, each validated on the fold that it does not see",
        "adamw, one_cycle schedule up to 0.005, weight decay 0.2, 1 epoch in batches of 455, ",
        "the weights are those of epoch 1, the best on validation; numbers: ",
        "\nout of fold on 455 rows\nscore ",
    ):
        assert line in out
    out = run("train", "breast_cancer", "--epochs", "1", "--members", "1", "--force")
    assert "network 30-128-64-1, tanh, dropout 0.1 for 75% of the epochs, " in out
    assert "numbers: with their piecewise linear encoding, " in out
    assert "network 2-1, linear, 3 parameters" in run("train", "moons", "--hidden", "--epochs", "1")


def test_the_same_seed_prints_the_same_scores(run, here):
    again = ("train", "wine", *QUICK, "--force")
    once, again = (run(*again).partition("test on")[2] for _ in range(2))
    assert once == again


@pytest.mark.parametrize("device", ["cpu", "torch", "jax:cpu"])
def test_a_model_from_one_device_is_used_on_another(run, here, device):
    if device != "cpu":
        pytest.importorskip(device.partition(":")[0])
    run("train", "iris", *QUICK, "--device", device)
    here_, there = (
        run("predict", "iris.safetensors", "iris", "--proba", "--device", where)
        for where in ("cpu", device)
    )
    here_, there = (
        np.array([line.split(",")[1:] for line in out.splitlines()[1:]], float)
        for out in (here_, there)
    )
    np.testing.assert_allclose(here_, there, rtol=1e-4)


def test_many_classes_are_not_shown_as_a_matrix(run, here):
    rng = np.random.default_rng(0)
    write("d.csv", {"x": rng.normal(size=N).tolist(), "y": [f"c{i % 30}" for i in range(N)]})
    out = run("train", "d.csv", "--target", "y", *QUICK)
    assert "confusion matrix: not shown for 30 classes" in out


def test_classes_are_never_markup(run, here):
    write("d.csv", {"x": [1.0, 2.0, 3.0, 4.0] * 10, "--y": ["[red]p[/red]", "q"] * 20})
    assert "[red]p[/red]" in run("train", "d.csv", "--target=--y", *QUICK)
    assert "classification of '--y'" in run("inspect", "d.safetensors")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("diggits",), "'diggits' is neither a file nor one of the built-in data sets"),
        (("none.csv",), "none.csv: no such file"),
        ((".",), ". is a folder, not a file"),
        (("empty.csv",), "empty.csv is empty"),
        (("d.csv",), "d.csv: no target column named; pass --target NAME, for example --target"),
        (("d.csv", "--target", "lable"), "d.csv: no column named 'lable'; columns: x [m]"),
        (("d.csv", "--target", "same"), "target 'same' has a single class, 1"),
        (("d.csv", "--target", "lonely"), "target 'lonely' has 1 of 2 classes with a single row"),
        (("d.csv", "--target", "void"), "target 'void' has no values at all"),
        (("d.csv", "--target", "wild"), "target 'wild' is infinite or too large in 1 of 120 rows"),
        (("d.csv", "--target", "label", "--drop", "nmae"), "no column named nmae to drop"),
        (("d.csv", "--target", "label", "--task", "regression"), "target 'label' holds text"),
        (("useless.csv", "--target", "y"), "no usable feature; x: constant"),
        (("one.csv", "--target", "y"), "one.csv: 'y' is the only column"),
        (("iris", "--device", "cudaa"), "device must be one of auto, cpu, cuda, "),
        (("iris", "--epochs", "0"), "--epochs must be at least 1, got 0"),
        (("iris", "--batch-size", "-4"), "--batch-size must be at least 1, got -4"),
        (("iris", "--hidden", "8", "0"), "--hidden must be at least 1, got 0"),
        (("iris", "--learning-rate", "nan"), "--learning-rate must be a positive finite number"),
        (("iris", "--dropout", "1"), "--dropout must be at least 0 and below 1"),
        (("iris", "--test-fraction", "1"), "--test-fraction must be at least 0 and below 1"),
        (("iris", "--test-fraction", "nan"), "--test-fraction must be at least 0 and below 1"),
        (("iris", "--seed", "-1"), "--seed must be a whole number from 0"),
        (("iris", "--seed", "9" * 30), "--seed must be a whole number from 0"),
        (("iris", "--activation", *["relu"] * 4), "activation must be one name or one for each"),
        (("iris", "--loss", "huber"), "loss 'huber' is not for classification with 3 classes"),
        (("iris", "--target", "kind"), "'iris' has the target 'species', and no 'kind'"),
        (("diabetes", "--learning-rate", "1e30", "--optimizer", "gd"), ""),
        (("iris", "--output", "nowhere/m"), "cannot write nowhere/m (No such file"),
        (("iris", "--output", "."), ". is a folder; give the name of a file"),
        (("iris", "--output", "/dev/null"), "/dev/null is a device or a pipe"),
        (("iris", "--output", "d.csv"), "d.csv exists and is no model file; choose another"),
        (("d.csv", "--target", "label", "--test", "iris"), "'iris' has the target 'species'"),
        (("d.csv", "--target", "label", "--test", "one.csv"), "one.csv: no column named 'label'"),
        (("good.csv", "--target", "label", "--test", "text.csv"), "column 'x [m]' held numbers"),
    ],
)
def test_what_cannot_be_trained_is_found_before_training(error, here, monkeypatch, argv, message):
    data = columns()
    changes = {
        "lonely": ["p"] * (N - 1) + ["q"],
        "void": pa.array([None] * N, pa.string()),
        "wild": [1.5] * (N - 1) + [float("inf")],
    }
    write("d.csv", data, **changes)
    write("good.csv", data)
    write("text.csv", data, **{"x [m]": ["tall"] * N})
    write("useless.csv", {"x": [1] * 40, "y": ["p", "q"] * 20})
    write("one.csv", {"y": ["p", "q"] * 20})
    (here / "empty.csv").touch()
    if message:
        monkeypatch.setattr(display, "follow", lambda *_: pytest.fail("training has started"))
        assert error("train", *argv).startswith(message)
    else:  # it diverges, which only training can tell
        assert main(["train", *argv]) == 2
        assert not (here / "diabetes.safetensors").exists()


def test_the_remedy_for_a_device_that_is_not_there(error):
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    assert "cuda" in error("train", "iris", "--device", "cuda:7")


def test_a_diverging_run_names_the_epoch_and_writes_nothing(run, here):
    run("train", "diabetes", "--optimizer", "gd", "--learning-rate", "1e30", status=2)
    assert run.err.startswith("nnaccel: error: ")
    assert "epoch 1" in run.err
    assert len(run.err.splitlines()) == 1
    assert not list(here.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved here")
def test_a_full_disk_is_found_before_training(error, here, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(display, "follow", lambda *_: pytest.fail("training has started"))
    assert error("train", "iris").startswith("cannot write iris.safetensors (no room for ")


def test_a_folder_that_cannot_be_written_to(error, here, monkeypatch):
    """The superuser may write anywhere, so the refusal is played."""
    import tempfile

    def refuse(**kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    assert error("train", "iris") == (
        "cannot write iris.safetensors (Permission denied); choose another place"
    )


def test_too_little_memory(error, monkeypatch):
    def refuse(*args, **kwargs):
        raise MemoryError("Unable to allocate 74.5 GiB")

    monkeypatch.setattr("nnaccel.tabular.problem.train", refuse)
    line = error("train", "iris")
    assert line == (
        "not enough memory (Unable to allocate 74.5 GiB); use fewer units (--hidden) or fewer rows"
    )


def test_a_batch_that_is_too_large_names_one_that_fits(here, capsys, monkeypatch):
    def refuse(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nAnd more.")

    monkeypatch.setattr(Definition, "compile_epoch", lambda *_: lambda seed: refuse)
    assert main(["train", "iris", "--device", "cpu", "--batch-size", "64"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "nnaccel: error: not enough memory on 'cpu' (RESOURCE_EXHAUSTED: Out of memory allocating"
    )
    assert line.endswith("; --batch-size 64 would fit")
    assert list(here.iterdir()) == []


def test_a_gpu_that_cannot_be_used_is_one_line(here, capsys, monkeypatch):
    class CompileException(Exception):
        pass

    def refuse(*args):
        raise CompileException("\nnvrtc: error: invalid value for --gpu-architecture (-arch)\n")

    monkeypatch.setattr(Definition, "compile_epoch", lambda *_: lambda seed: refuse)
    assert main(["train", "iris", "--device", "cpu"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "is a GPU that this build does not serve" in line


def test_a_model_is_replaced_where_that_is_wanted_and_nothing_else(run, error, here, monkeypatch):
    run("train", "iris", *QUICK)
    assert not run.err
    before = (here / "iris.safetensors").read_bytes()
    noon = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))
    os.utime("iris.safetensors", (noon, noon))
    monkeypatch.setattr(display, "follow", lambda *_: pytest.fail("training has started"))
    assert error("train", "iris", *QUICK) == (
        "iris.safetensors exists, a model of 2026-11-24 12:00; name another file with --output, "
        "or replace it with --force"
    )
    monkeypatch.undo()
    monkeypatch.chdir(here)
    for seed, *wanted in (("1", "--force"), ("2", "--output", "iris.safetensors")):
        run("train", "iris", *QUICK, "--seed", seed, *wanted)
        assert run.err == "nnaccel: the model of 2026-11-24 12:00 in iris.safetensors is replaced\n"
        assert (here / "iris.safetensors").read_bytes() != before
        before = (here / "iris.safetensors").read_bytes()
        os.utime("iris.safetensors", (noon, noon))
    (here / "notes.txt").write_text("mine")
    assert "is no model file" in error("train", "iris", "--output", "notes.txt")
    assert (here / "notes.txt").read_text() == "mine"


def test_debug_shows_where_an_error_came_from(run, here):
    run("train", "none.csv", "--debug", status=2)
    assert run.err.startswith("Traceback (most recent call last):")
    assert "FileNotFoundError: none.csv: no such file" in run.err


def test_without_its_packages_the_command_says_how_to_install_them(error, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert "python -m pip install 'nnaccel[cli]'" in error("train", "iris")


# ---------------------------------------------------------------------------- predict, evaluate


def test_predictions_on_standard_output(run, trained):
    lines = run("predict", trained / "label", trained / "d.csv").splitlines()
    assert lines[0] == '"label"'
    assert {*lines[1:]} == {'"yes"', '"no"'}
    assert len(lines) == 1 + N
    assert run.err == ""


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather"])
def test_predictions_in_a_file(run, trained, here, suffix):
    out = run("predict", trained / "price", trained / "d.csv", "--output", f"p{suffix}")
    assert out == ""
    assert run.err == f"{N} predictions written to p{suffix}\n"
    found = read_table(f"p{suffix}")[0]
    assert found.column_names == ["price"]
    expected = Model.load(trained / "price").predict(read_table(trained / "d.csv")[0].drop("price"))
    np.testing.assert_allclose(found["price"].cast("float64").to_numpy(), expected)


def test_predictions_are_written_whole_or_not_at_all(error, trained, here, monkeypatch):
    (here / "p.csv").write_text("old")

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    line = error("predict", trained / "label", trained / "d.csv", "--output", "p.csv")
    assert "p.csv (No space left on device)" in line
    assert (here / "p.csv").read_text() == "old"


def test_one_row(run, trained, here):
    write("one.csv", {k: v[:1] for k, v in columns().items() if k not in ("label", "price")},
          price=[50_000.0])  # fmt: skip
    assert len(run("predict", trained / "label", "one.csv").splitlines()) == 2
    write("one.csv", {k: v[:1] for k, v in columns().items()})
    assert "R²" not in run("evaluate", trained / "price", "one.csv")
    assert "RMSE" in run("evaluate", trained / "price", "one.csv")


def test_evaluate(run, trained):
    out = run("evaluate", trained / "label", trained / "d.csv")
    assert f"{trained / 'label'} on {N} rows of {trained / 'd.csv'}" in out
    for word in ("accuracy", "log loss", "ROC AUC", "confusion matrix"):
        assert word in out


def test_what_may_differ_in_a_new_file(run, trained, here):
    data = columns()
    backwards = dict(reversed(data.items()))
    once = run("predict", trained / "label", trained / "d.csv")
    assert run("predict", trained / "label", write("new.csv", backwards)) == once

    run("predict", trained / "label", write("new.csv", data, more=[1] * N, **{"c=c": ["odd"] * N}))
    assert run.err.splitlines() == [
        "nnaccel: warning: columns that the fit did not see, ignored: more",
        "nnaccel: warning: categories that the fit did not see, encoded as zeros: c=c (120 rows)",
    ]
    run("predict", trained / "label", write("new.csv", data, flag=[None] * N))
    assert "missing values where the fit saw none" in run.err
    write("new.csv", data, **{"x [m]": [str(value or "") for value in data["x [m]"]]})
    assert run("predict", trained / "label", "new.csv") == once  # numbers as text are numbers


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("predict", {"x [m]": None}, "the table lacks 1 of the 5 columns that the model uses: x"),
        ("predict", {"x [m]": ["tall"] * N}, "column 'x [m]' held numbers when the model was"),
        ("evaluate", {"label": None}, "new.csv: no column named 'label'"),
        ("evaluate", {"label": ["maybe"] * N}, "target 'label' has classes that the model does"),
    ],
)
def test_what_may_not_differ_in_a_new_file(error, trained, here, command, changes, message):
    write("new.csv", columns(), **changes)
    assert error(command, trained / "label", "new.csv").startswith(message)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("predict", "none", "new.csv"), "none: no such file"),
        (("predict", ".", "new.csv"), ". is a folder"),
        (("predict", "new.csv", "new.csv"), "new.csv: not a model that can be used: the file is"),
        (("inspect", "empty"), "empty: not a model that can be used: the file is empty"),
        (("evaluate", "new.csv", "new.csv"), "new.csv: not a model that can be used"),
        (("predict", "MODEL", "none.csv"), "none.csv: no such file"),
        (("predict", "MODEL", "MODEL"), "unknown kind of file"),
        (("predict", "MODEL", "header.csv"), "header.csv has column names but no rows"),
        (("predict", "MODEL", "iris"), "the model was fitted on a table with categories"),
        (("evaluate", "MODEL", "iris"), "'iris' has the target 'species', and no 'price'"),
        (("predict", "MODEL", "new.csv", "--proba"), "--proba is for classification"),
        (("predict", "MODEL", "new.csv", "--output", "p.xlsx"), "--output must end in .csv, .par"),
        (("predict", "MODEL", "new.csv", "--output", "no/p.csv"), "cannot write no/p.csv"),
        (("predict", "MODEL", "new.csv", "--output", "new.csv"), "new.csv is the file to predict"),
        (("predict", "MODEL", "new.csv", "--output", "link.csv"), "link.csv is the file to pre"),
    ],
)
def test_what_cannot_be_predicted(error, trained, here, argv, message):
    write("new.csv", columns())
    (here / "link.csv").symlink_to("new.csv")
    (here / "header.csv").write_text("a,b\n")
    (here / "empty").touch()
    model = str(trained / "price")
    line = error(*(model if word == "MODEL" else word for word in argv))
    assert line.removeprefix(f"{model}: ").startswith(message)


def test_a_damaged_model(error, trained, here):
    content = bytearray((trained / "label").read_bytes())
    content[-3] ^= 1
    (here / "m").write_bytes(content)
    assert error("inspect", "m").startswith("m: not a model that can be used: its content has been")
    (here / "m").write_bytes(content[:500])
    assert error("inspect", "m").startswith("m: not a model that can be used: the file is trunc")


# ---------------------------------------------------------------------------- the other commands


def test_inspect_shows_layers_columns_settings_and_history(run, trained):
    out = run("inspect", trained / "label")
    assert "classification of 'label' (2 classes), loss binary_cross_entropy" in out
    for title in ("layers", "columns", "settings", "training", "test"):
        assert f"\n{title}\n" in out
    rows = [
        [cell.strip() for cell in line.split("   ") if cell.strip()] for line in out.split("\n")
    ]
    assert ["dense", "32", "320", "activation tanh"] in rows
    assert ["dropout", "32", "0", "rate 0.1"] in rows
    assert ["c=c", "text", "one-hot: blau ü, green, red, (missing)"] in rows
    assert ["name", "not used: excluded"] in rows
    assert ["same", "not used: constant"] in rows
    assert any(row[:2] == ["[bold]ünï[/]", "numbers"] and row[2].startswith("(x ") for row in rows)
    assert ["hidden", "32"] in rows
    assert "epoch" in out
    assert any(row[:1] == ["12"] for row in rows)
    assert "\x1b" not in out


def test_inspect_of_a_regression_shows_the_scale(run, trained):
    out = run("inspect", trained / "price")
    assert "regression of 'price' (mean 51,930, scale 9880.0705)" in out
    assert ["epoch", "loss", "RMSE"] in [line.split() for line in out.splitlines()]


def test_inspect_keeps_wide_tables_short(run, here):
    rng = np.random.default_rng(0)
    wide = {f"x{i}": rng.normal(size=40).tolist() for i in range(60)}
    wide |= {f"k{i}": [1] * 40 for i in range(50)} | {"y": ["p", "q"] * 20}
    run("train", write("d.csv", wide), "--target", "y", *QUICK)
    out = run("inspect", "d.safetensors")
    assert "36 more numbers" in out
    assert "26 more not used" in out


def test_devices(run):
    out = run("devices")
    assert out.split("\n")[1].split() == ["devices"]
    assert any(line.split()[:2] == ["cpu", "NumPy"] for line in out.splitlines() if line)


def test_devices_says_why_not():
    from nnaccel.devices.available import DeviceInfo

    found = [DeviceInfo("cpu", "NumPy", "a chip", 2**31, None), DeviceInfo("cuda", "CuPy")]
    found[1] = found[1]._replace(problem="install it")
    screen = io.StringIO()
    display.Screen(file=screen, width=80).print(display.devices(found))
    assert "2.0 GiB" in screen.getvalue()
    assert "cuda: install it" in screen.getvalue()


def test_gradcheck(run):
    out = run("gradcheck")
    assert "FAILS" not in out
    for name in ("activation mish", "layer residual", "loss pinball"):
        assert any(
            line.startswith(name) and line.rstrip().endswith("ok") for line in out.split("\n")
        )


def test_gradcheck_that_fails_has_status_1(run, monkeypatch):
    from nnaccel.training import gradcheck

    def none_passes(*args):
        for name, found in catalogue(*args):
            errors = tuple(1.0 for _ in found.errors)
            yield gradcheck.Checked(name, found._replace(errors=errors))

    catalogue = gradcheck.catalogue
    monkeypatch.setattr(gradcheck, "catalogue", none_passes)
    assert "FAILS" in run("gradcheck", status=1)


def test_every_command_is_a_function_of_its_module():
    tree = ast.parse(inspect.getsource(commands))
    public = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name for name in public if not name.startswith("_")} == {*COMMANDS}


# ---------------------------------------------------------------------------- the process


def test_what_is_interrupted_before_it_trains_writes_nothing(run, here, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "training_examples", interrupted)
    run("train", "digits", "--checkpoint", "c", status=130)
    assert run.err == "nnaccel: interrupted; nothing was written\n"
    assert not list(here.iterdir())


def test_the_exit_status_of_the_process(here):
    with process("train", "none.csv") as train:
        out, err = train.communicate()
    assert (train.returncode, out) == (2, "")
    assert err == "nnaccel: error: none.csv: no such file\n"


def test_bench(run, monkeypatch):
    from nnaccel.training import benchmark

    monkeypatch.setattr(benchmark, "SHAPES", benchmark.SHAPES[:2])  # the two that take no time
    out = run("bench", "--device", "cpu", "--seconds", "0.2")
    assert "about 0.2 s" in out.splitlines()[0]  # or one would wait before an empty screen
    rows = [line.split() for line in out.splitlines() if line.startswith("cpu ")]
    assert [row[1] for row in rows] == ["2-4-2x400", "64-100-10x200"]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[2:])


def test_rows_of_bench_come_as_they_are_ready():
    from nnaccel.cli import display
    from nnaccel.training import benchmark

    asked = []

    def rows():
        for name in ("2-4-2x400", "64-100-10x200"):
            asked.append(name)
            yield benchmark.Row("cpu", name, 0.5, 0.4, 1.0, 1.0, 0.8)

    lines = display.speeds(rows())
    for n in (1, 2):
        line = next(line for line in lines if str(line).startswith("cpu "))
        assert len(asked) == n
        assert line.split() == ["cpu", asked[-1], "0.500", "1.00", "1.00", "1.25"]


def test_rows_of_bench_fit_a_terminal(capsys):
    """80 columns, for devices with names of up to nine letters; of a fast GPU, too."""
    from nnaccel.cli import display
    from nnaccel.training import benchmark

    shapes = [shape.name for shape in benchmark.SHAPES]
    rows = [benchmark.Row("torch:cpu", name, 152.457, 1.0, 6e4, 9.9e7, 0.75) for name in shapes]
    rows.append(benchmark.Row("torch:cpu", shapes[0], problem="not enough memory"))
    rows = [row._replace(kernels="one scan") for row in rows]
    console = display.Screen(width=80)
    for line in display.speeds(rows):
        console.print(line)
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("torch:cpu ")]
    assert [line.split()[2:] for line in table[:-1]] == [
        ["152", "60,000", "99,000,000", "1.33"]
    ] * 4
    assert table[-1].endswith("2-4-2x400               not enough memory")
    kernels = [line for line in lines if line.startswith("torch:cpu: one scan (2-4-2x400, 64-1")]
    assert len(kernels) == 1
    # An empty line, title, two of a header, a rule, the rows, an empty line, and what they mean.
    before = lines[: lines.index(kernels[0])]
    assert len(before) == 5 + 5 + 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01469, "0.0147"),
        (4.625, "4.62"),
        (9.996, "10.0"),
        (0.0999999, "0.100"),
        (187.4, "187"),
        (999.6, "1,000"),
        (1_234_567, "1,230,000"),
        (0.0, "0"),
    ],
)
def test_three_digits(value, text):
    from nnaccel.training.benchmark import significant

    assert significant(value) == text


def test_bench_keeps_to_its_time(monkeypatch):
    """Each row has its part of the time that is left, by a clock that only works advance."""
    from nnaccel.training import benchmark

    now = [0.0]
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])

    def works(seconds):
        def work():
            now[0] += seconds

        return work

    # Warming up takes 3 s, and so does a round: of 10 s, two rounds are left.
    assert benchmark.interleaved(works(1.0), works(2.0), seconds=10.0) == [1.0, 2.0]
    assert now[0] == 9.0
    now[0] = 0.0
    assert benchmark.interleaved(works(1.0), seconds=0.0) == [1.0]
    assert now[0] == 2.0
    given = []

    def measure(shape, device, seconds):
        given.append(seconds)
        now[0] += 9.0 if len(given) == 1 else seconds  # the first one compiles

    now[0] = 100.0
    monkeypatch.setattr(benchmark, "measure", measure)
    list(benchmark.run(["cpu"], seconds=24.0))
    assert given == [6.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "nope"), "device must be one of .*, got 'nope'"),
        (("--seconds", "0"), "--seconds must be above 0 and at most 3600, got 0.0"),
        (("--seconds", "nan"), "--seconds must be above 0"),
    ],
)
def test_bench_refuses(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
