"""What a command prints, and where: nothing steers a terminal, and no failure is silent."""

import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")
yaml = pytest.importorskip("yaml", reason="the command line needs the extra [cli]")

from nnaccel.cli import display, score_tables
from nnaccel.cli.main import COMMANDS, main
from nnaccel.cli.streams import in_line, visible
from nnaccel.tabular.model import Model
from nnaccel.tabular.targets import Target
from tests.cli.examples import QUICK, columns, process, write

posix = pytest.mark.skipif(os.name != "posix", reason="needs pipes and signals of POSIX")

# ---------------------------------------------------------------------------- text

CONTROLS = [*range(9), *range(11, 32), *range(127, 160)]
DIRECTIONS = [0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]


def test_what_steers_a_terminal_is_an_escape():
    for code in CONTROLS:
        assert visible(f"a{chr(code)}b") == (r"a\rb" if code == 13 else f"a\\x{code:02x}b")
    for code in (*DIRECTIONS, 0xD800, 0xDCFF, 0xDFFF):
        assert visible(f"a{chr(code)}b") == f"a\\u{code:04x}b"


def test_other_text_is_as_it_is():
    text = "ä ß R² €\n\t漢字 العربية 👩\u200d🔬 \\x1b é"
    assert visible(text) == visible(text, "utf-8") == text
    assert in_line(text) == text.replace("\n", "\\n").replace("\t", "\\t")
    assert visible("ä € 漢\n", "latin-1") == "ä \\u20ac \\u6f22\n"
    assert visible("ä €\n", "ascii") == "\\xe4 \\u20ac\n"


STEER = "\x1b]0;owned\x07\x9b31m\u202e\r\n\t\x7f"
SHOWN = r"\x1b]0;owned\x07\x9b31m\u202e\r\n\t\x7f"


@pytest.fixture
def hostile(here):
    """A folder with a table in which whatever has a name steers a terminal."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    table = {
        f"x{STEER}": x.tolist(),
        f"c{STEER}": [f"{level}{STEER}" for level in rng.choice([*"ab"], 80)],
        f"same{STEER}": [STEER] * 80,
        f"name{STEER}": [f"{i}{STEER}" for i in range(80)],
        f"y{STEER}": [("yes" if value > 0 else "no") + STEER for value in x],
    }
    write(here / "d.parquet", table)
    os.rename("d.parquet", f"d{STEER}.parquet")
    return here


def test_no_name_steers_the_terminal(hostile, capsys):
    target, source, model = f"y{STEER}", f"d{STEER}.parquet", f"m{STEER}"
    unseen = write(hostile / "new.parquet", {f"x{STEER}": [1.0], f"c{STEER}": [f"z{STEER}"]})
    commands = [
        (0, "train", source, "--target", target, "--output", model, *QUICK),
        (0, "train", source, "--target", target, "--output", model, *QUICK),
        (0, "inspect", model),
        (0, "evaluate", model, source),
        (0, "predict", model, unseen, "--output", f"p{STEER}.csv"),
        (0, "train", source, "--target", target, "--print-config"),
        (2, "train", source, "--target", f"z{STEER}"),
        (2, "train", source, "--target", target, "--drop", f"z{STEER}"),
        (2, "train", f"none{STEER}"),
        (2, "train", "iris", f"--z{STEER}"),
        (2, "train", "iris", "--activation", f"relu{STEER}"),
        (2, "train", "iris", "--epochs", f"1{STEER}"),
        (2, "train", "iris", "--device", f"cpu{STEER}"),
        (2, "train", "iris", "--config", f"none{STEER}"),
        (2, f"train{STEER}"),
        (2, "predict", source, source),
        (2, "predict", model, "iris", "--debug"),
    ]
    everything = ""
    for status, *argv in commands:
        assert main(argv) == status
        out, err = capsys.readouterr()
        assert visible(out + err) == out + err
        lines = err.splitlines()
        assert "--debug" in argv or all(re.match("nnaccel: |1 predictions", line) for line in lines)
        everything += out
    assert f"d{SHOWN}: classification of 'y" in everything
    assert f"nnaccel predict 'm{SHOWN}'" in everything
    assert re.search(
        rf"^c{re.escape(SHOWN)} +text +one-hot: a{re.escape(SHOWN)}, b", everything, re.M
    )


def test_colours_are_those_of_the_program():
    screen = io.StringIO()
    terminal = display.Screen(file=screen, force_terminal=True, width=100, color_system="standard")
    target = Target("classification", "y", (f"b{STEER}", "[red]c[/]"))
    scores = {"accuracy": 1.0, "confusion matrix": np.eye(2, dtype=int)}
    terminal.print(score_tables.scores(scores, f"a{STEER}", target))
    text = screen.getvalue()
    assert f"\x1b[1ma{SHOWN}\x1b[0m" in text
    assert re.search("\x1b\\[1;32m *1\x1b", text)
    text = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert visible(text) == text
    assert re.search(rf"^b{re.escape(SHOWN)} +1 +0 *$", text, re.M)
    assert re.search(r"^\[red\]c\[/\] +0 +1 *$", text, re.M)


@posix
def test_predictions_are_data_but_on_a_terminal(hostile):
    import pty

    source = f"d{STEER}.parquet"
    assert main(["train", source, f"--target=y{STEER}", "--output", "m", *QUICK]) == 0
    with process("predict", "m", source, text=False) as predict:
        data, _ = predict.communicate()
    assert f'"yes{STEER}"'.encode() in data
    terminal, shell_side = pty.openpty()
    with process("predict", "m", source, stdout=shell_side) as predict:
        os.close(shell_side)
        shown = b""
        try:
            while read := os.read(terminal, 1 << 16):
                shown += read
        except OSError:  # of Linux, when the other side is closed
            pass
    os.close(terminal)
    lines = shown.decode().replace("\r\n", "\n")
    assert visible(lines) == lines
    assert r'"yes\x1b]0;owned\x07\x9b31m\u202e\r' in lines


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_of_the_output_will_do(trained, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}

    def output(*argv, status=0):
        with process(*argv, env=environment, encoding=encoding) as done:
            out, err = done.communicate()
        assert done.returncode == status
        return out + err

    def shown(text):
        return text.encode(encoding, "backslashreplace").decode(encoding)

    assert shown("[bold]ünï[/] ") in output("inspect", trained / "label")
    assert shown("error: '€ ü' is neither a file") in output("train", "€ ü", status=2)
    if encoding == "ascii":  # can encode least
        assert "accuracy" in output("evaluate", trained / "label", trained / "d.csv")
        config = yaml.safe_load(output("train", "--target", "€ ü", "--print-config"))
        assert config["target"] == ["€ ü"]
        assert output("train", "--help").isascii()


# ---------------------------------------------------------------------------- pipes and disks


def printing(trained):
    """Commands whose product is what they print: as data, by rich, by `print`, by argparse."""
    return [
        ("predict", trained / "label", trained / "d.csv"),
        ("inspect", trained / "label"),
        ("train", "iris", "--print-config"),
        ("--version",),
    ]


def test_a_reader_that_has_seen_enough_costs_no_model(here):
    with process("train", "iris", *QUICK) as train:
        train.stdout.close()
        assert train.wait() == 0
        assert train.stderr.read() == ""
    assert Model.load(here / "iris.safetensors").settings["epochs"] == 2


@posix
def test_a_reader_that_left_early_shows_in_the_status(trained):
    for argv in printing(trained):
        with process(*argv) as command:
            command.stdout.close()
            assert command.wait() == 141
            assert command.stderr.read() == ""


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_predictions_into_a_closed_pipe(trained, here, unbuffered):
    data = {name: values * 500 for name, values in columns().items()}
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    file = write("big.csv", data)
    with process("predict", trained / "label", file, env=environment) as predict:
        assert predict.stdout.readline() == '"label"\n'
        predict.stdout.close()
        assert predict.wait() == 141
        assert predict.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_behind_standard_output(trained, here):
    for argv in (*printing(trained), ("train", "iris", *QUICK)):
        with open("/dev/full", "w") as full, process(*argv, stdout=full) as command:
            _, err = command.communicate()
        assert command.returncode == 2
        assert err == "nnaccel: error: standard output: No space left on device\n"
    assert Model.load(here / "iris.safetensors").settings["epochs"] == 2


def shell(redirection, *argv):
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "nnaccel"]
    return subprocess.run([*command, *map(str, argv)], capture_output=True, text=True)


@posix
def test_a_closed_standard_output_is_refused(trained, here):
    for argv in (*printing(trained), ("train", "iris", *QUICK)):
        done = shell(">&-", *argv)
        assert done.returncode == 2
        assert done.stderr == (
            "nnaccel: error: standard output is closed; send it to a file, or to /dev/null\n"
        )
    assert not list(here.iterdir())


@posix
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_an_error_that_cannot_be_said_is_a_status(here, redirection):
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("needs a disk that is always full")
    done = shell(redirection, "train", "none.csv")
    assert (done.returncode, done.stdout) == (2, "")


# ---------------------------------------------------------------------------- the last door


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("a\nb"), 2, "error: a b"),
        (FileNotFoundError(2, "No such file", "f\x1b"), 2, r"error: f\x1b: No such file"),
        (RuntimeError("no device"), 2, "error: no device"),
        (FloatingPointError("diverged"), 2, "error: diverged"),
        (ImportError("no rich"), 2, "error: no rich"),
        (pa.ArrowInvalid("no table"), 2, "error: no table"),
        (MemoryError(), 2, "error: not enough memory (MemoryError); use fewer units (--hidden) or"),
        (KeyError("x"), 70, "internal error: KeyError: 'x'; run again with --debug to see where"),
        (TypeError("int"), 70, "internal error: TypeError: int; run again with --debug to"),
        (ZeroDivisionError(), 70, "internal error: ZeroDivisionError: ZeroDivisionError; run"),
        (AssertionError(), 70, "internal error: AssertionError: AssertionError; run again"),
        (RecursionError("deep"), 70, "internal error: RecursionError: deep; run again"),
        (NotImplementedError("x"), 70, "internal error: NotImplementedError: x; run again"),
        (zipfile.BadZipFile("x"), 70, "internal error: BadZipFile: x; run again with --debug"),
        (pa.ArrowException("x"), 70, "internal error: ArrowException: x; run again with"),
        (UserWarning("x\x1b"), 70, r"internal error: UserWarning: x\x1b; run again with"),
        (ValueError("x" * 10**6 + "; do y"), 2, "error: " + "x" * 1000 + " … " + "x" * 994),
    ],
)
def test_whatever_is_raised_is_one_line(capsys, monkeypatch, error, status, line):
    def fail(options):
        raise error

    monkeypatch.setitem(COMMANDS, "devices", COMMANDS["devices"]._replace(run=fail))
    assert main(["devices"]) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"nnaccel: {line}")
    assert (status == 70) == err.endswith("to see where, and report it\n")
    assert main(["devices", "--debug"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Traceback (most recent call last):\n")
    assert "in fail\n    raise error\n" in err
    assert visible(err) == err


def test_a_warning_that_is_an_error():
    code = (
        "import warnings; from nnaccel.cli import main; warn = lambda _: warnings.warn('old');"
        "main.COMMANDS['devices'] = main.COMMANDS['devices']._replace(run=warn);"
        "raise SystemExit(main.main(['devices']))"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 70
    assert done.stderr.startswith("nnaccel: internal error: UserWarning: old; run again with ")
    assert done.stderr.count("\n") == 1
