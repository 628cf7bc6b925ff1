"""The short forms: some runs are killed, and every call of a write to the system fails once.

`python -m tests.survival 1000` is the long form of the first.
"""

import errno
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from nnaccel.training import checkpoint
from tests.survival.kills import survive, work

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes and libraries of Linux")
COMPILER = shutil.which("gcc") or shutil.which("cc")
SOURCE = Path(__file__).with_name("failing_calls.c")


@LINUX
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")
def test_runs_survive_kills():
    """About a quarter of the kills are in a write: twelve runs nearly always have one, and there
    are more where they have none."""
    counts, first = Counter(), 0
    while first < 60 and not counts["in_writes"]:
        found, faults = survive(12, first)
        assert faults == []
        counts, first = counts + found, first + 12
    assert counts["kills"] >= 10
    assert counts["in_writes"] >= 1


# ---------------------------------------------------------------------------- calls that fail

WRITES = """
import sys
from nnaccel.training import checkpoint
saved = checkpoint.load(sys.argv[1])
checkpoint.save_runs(sys.argv[2], saved.runs, {"new": True})
"""
KINDS = [errno.ENOSPC, errno.EIO, -1]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("needs a C compiler")
    path = tmp_path_factory.mktemp("library") / "failing_calls.so"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-Wall", "-Werror", "-o", path, SOURCE], check=True
    )
    return path


def write_with(library, folder, source, at, how, trace=None):
    environment = os.environ | {
        "LD_PRELOAD": str(library), "FAIL_FOLDER": str(folder), "FAIL_AT": str(at),
        "FAIL_HOW": str(how), **({} if trace is None else {"FAIL_TRACE": str(trace)}),
    }  # fmt: skip
    command = [sys.executable, "-c", WRITES, source, folder / "run"]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


@LINUX
def test_each_call_that_fails_leaves_the_old_file_or_the_new_one(tmp_path, library):
    source, folder = tmp_path / "source", tmp_path / "folder"
    folder.mkdir()
    work(source)
    shutil.copy(source, folder / "run")
    write_with(library, folder, source, 0, 0, tmp_path / "trace")
    calls = (tmp_path / "trace").read_text().split()
    assert checkpoint.load(folder / "run").extra == {"new": True}
    assert {"open", "write", "fsync", "rename", "close", "chmod"} <= {*calls}
    believed = set()
    for at, call in enumerate(calls, start=1):
        for how in KINDS if call == "write" else KINDS[:2]:
            for left in folder.iterdir():
                left.unlink()
            shutil.copy(source, folder / "run")
            done = write_with(library, folder, source, at, how)
            found = checkpoint.load(folder / "run")
            new = found.extra == {"new": True}
            assert found.epoch.number == 12
            if done.returncode == 0:
                assert new, f"call {at}, {call}, {how}: said to be written"
                believed.add(call)
            else:
                assert "OSError: [Errno" in done.stderr, done.stderr
                assert f"cannot write {folder / 'run'} (" in done.stderr
    # A folder that cannot be synchronised or listed costs nothing, nor does a file that cannot be
    # closed once it has its name, nor one that is not there any more.
    assert believed <= {"open", "fsync", "close", "unlink"}
