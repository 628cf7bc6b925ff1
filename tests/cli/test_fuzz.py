"""Command lines at random: whatever is asked, the answer is a status and lines that are safe.

python -m tests.cli.test_fuzz 5000      # the long form; a number after it is the first seed
"""

import io
import os
import random
import sys
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from itertools import islice
from unittest.mock import patch

import pytest

pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")

from nnaccel.cli import display
from nnaccel.cli.main import build_parser, main
from nnaccel.cli.streams import visible
from nnaccel.training import benchmark, gradcheck
from tests.cli.examples import columns, write

NUMBERS = (
    *("0", "1", "3", "-1", "-0", "0.5", "1e-3", "1.0", "1e400", "-1e400", "nan", "inf", "-inf"),
    *("2147483648", "9223372036854775807", "9223372036854775808", "18446744073709551616"),
    *("1" + "0" * 400, "9" * 5000, "1_0", "0x10", "٣", "½", " 7 ", "1e-320", "1e300", "true"),
)
WORDS = (
    *("", " ", "x", "-", "--", "---", "=", "a=b", "None", "null", "iris", "moons", "cpu", "cuda"),
    *("cuda:99999999999999999999", "torch:", ":", "auto", "label", "price", "x [m]", "[bold]"),
    *("d.csv", "d.csv/", "none.csv", "none/none.csv", "empty.csv", "model", "run.yaml", ".", "/"),
    *("/dev/null/x", "out.csv", "out.safetensors", "out.parquet", "x" * 300, "x/" * 3000),
    *("a\0b", "a\nb", "\x1b]0;x\x07", "\x9b31m", "\u202eabc", "\ud800", "\udcff.csv", "%s%n", "~"),
)


def command_line(rng):
    """A command with options that it has, and values that they may or may not take."""
    _, parsers = build_parser()
    name = rng.choice([*parsers, *["train"] * 6, *["predict"] * 2])
    argv = [name]
    for action in parsers[name].actions:
        if not action.option_strings:
            usual = {"source": "d.csv", "model": "model", "file": "d.csv"}[action.dest]
            argv += [usual] if rng.random() < 0.8 else rng.choices(WORDS, k=rng.randrange(3))
        elif rng.random() < 0.12:
            argv += option(action, rng)
    if name == "train" and rng.random() < 0.7:
        argv += ["--target", "label"]
    if rng.random() < 0.1:
        argv.insert(rng.randrange(len(argv)), rng.choice(WORDS))
    return argv


def option(action, rng):
    word = action.option_strings[0]
    if rng.random() < 0.03:
        word = word[:-1] + rng.choice("=xé\x1b")
    known = [*action.choices] if action.choices else [*NUMBERS] if action.type else [*WORDS]
    pool = known * 4 + [*NUMBERS, *WORDS]
    if action.dest == "output":  # what others read is left alone
        pool = [word for word in pool if word not in ("d.csv", "run.yaml")]
    most = {0: 0, None: 1}.get(action.nargs, 3)
    return [word, *rng.choices(pool, k=most if rng.random() < 0.9 else rng.randrange(4))]


def first_epoch(epochs, total, metric, console, best=list):
    yield from islice(epochs, 1)


@pytest.fixture
def quick():
    """Commands that take no time: an epoch, a network, two checks."""
    yield from shortened()


def shortened():
    catalogue, timed = gradcheck.catalogue, benchmark.run
    with (
        patch.object(display, "follow", first_epoch),
        patch.object(benchmark, "SHAPES", benchmark.SHAPES[:1]),
        patch.object(benchmark, "run", lambda names, seconds: timed(names, seconds=0.01)),
        patch.object(gradcheck, "catalogue", lambda *a: islice(catalogue(*a), 2)),
    ):
        yield


def files():
    """The files that the words name, in the current folder."""
    write("d.csv", columns(), name=None)
    open("empty.csv", "w").close()
    with open("run.yaml", "w") as file:
        file.write("epochs: 1\nhidden: [3]\ntarget: price\n")
    assert main(["train", "d.csv", "--target", "label", "--output", "model", "--epochs", "1"]) == 0


def outcome(seed):
    """(status, what was printed), after a check that it is what may be printed."""
    argv = command_line(random.Random(seed))
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(argv)
    out.seek(0)
    out, err = out.read(), err.getvalue()
    printed = (seed, argv, status, err[-2000:])
    assert status in (0, 2), printed
    failed = "Traceback" if "--debug" in argv else "nnaccel: error: "
    assert (status == 0) == (failed not in err), printed
    assert "Traceback" not in err or "--debug" in argv, printed
    assert visible(err) == err, printed
    assert argv[0] == "predict" or visible(out) == out, printed
    return status


def test_whatever_is_asked(here, quick, capsys):
    files()
    statuses = [outcome(seed) for seed in range(200)]
    assert statuses.count(0) > 20
    assert statuses.count(2) > 100


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for _ in shortened():
            files()
            first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
            faults = 0
            for seed in range(first, first + int(sys.argv[1])):
                try:
                    outcome(seed)
                except AssertionError as error:
                    faults += 1
                    print(os.fsencode(str(error)).decode("utf-8", "backslashreplace"), "\n")
            print(f"{sys.argv[1]} command lines, {faults} faults")
