"""Several processes as one run: the model of one process, and what becomes of the others when one
of them is killed or fails."""

import os
import re
import signal
import socket
import sys
from argparse import Namespace

import numpy as np
import pytest

pytest.importorskip("jax", reason="several processes are JAX's")

from nnaccel.cli import joining, plan
from nnaccel.tabular.model import Model
from nnaccel.training import checkpoint

from .examples import columns, process, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes of Linux")
ARGUMENTS = (
    "train", "d.csv", "--target", "label", "--drop", "name", "--hidden", "8", "--epochs", "5",
    "--dtype", "float64", "--validation-fraction", "0.2", "--batch-size", "16",
)  # fmt: skip


@pytest.fixture
def table(here, monkeypatch):
    write("d.csv", columns())
    monkeypatch.setenv("NNACCEL_HEARTBEAT", "5")
    return here


def joined(n, *arguments, sources=None):
    """The processes of a run, which have begun."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    every = []
    for i in range(n):
        own = [*arguments]
        if sources is not None:
            own[1] = sources[i]
        own += ["--join", address, "--process", f"{i}/{n}"]
        every.append(process(*own, env=environment))
    return every


def ends(processes):
    """Exit status and streams of each."""
    found = []
    for child in processes:
        out, error = child.communicate(timeout=120)
        found.append((child.returncode, out, error))
    return found


def test_the_model_of_two_processes_is_that_of_one(table, run):
    (first, out, _), (second, silence, _) = ends(joined(2, *ARGUMENTS, "--output", "two"))
    assert (first, second) == (0, 0)
    assert "on jax:cpu:*" in out
    assert "data: on each of 2 devices" in out
    assert "model written to two" in out
    assert "epoch" not in silence
    run(*ARGUMENTS, "--output", "one", "--device", "jax:cpu")
    one, two = Model.load("one"), Model.load("two")
    np.testing.assert_allclose(two.params, one.params, rtol=0, atol=1e-13)
    for mine, theirs in zip(two.history, one.history, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-12)
    assert two.scores == pytest.approx(one.scores, abs=1e-12)


def test_each_of_two_processes_reads_its_share_of_a_streamed_table(table, run):
    """Minibatches of an odd number of rows, the last one of a few; one process encodes them."""
    arguments = (*ARGUMENTS[:-2], "--batch-size", "17", "--stream", "--epochs", "3")
    (first, out, said), (second, *_) = ends(joined(2, *arguments, "--output", "two"))
    assert (first, second) == (0, 0), said
    assert "rows: encoded, " in out
    assert ", by each of 2 devices its share; one network" in out
    assert len([*table.glob("*.rows")]) == 1
    out = run(*arguments, "--output", "one", "--device", "jax:cpu")
    assert "rows: as an earlier run has encoded them" in out
    one, two = Model.load("one"), Model.load("two")
    np.testing.assert_allclose(two.params, one.params, rtol=0, atol=1e-13)
    assert two.scores == pytest.approx(one.scores, abs=1e-12)


def test_the_plan_says_that_data_do_not_fit_on_each_device():
    device = Namespace(is_several=True, n_slices=4)
    [line] = plan._places(Namespace(device=device, on_disk=False, resident=False))
    assert line == (
        "data: more than 60% of the free memory of a device; each of 4 devices gets its share of "
        "each batch"
    )


def test_one_process_goes_first(monkeypatch):
    calls = []
    monkeypatch.setattr(joining, "of_all_processes", lambda numbers: calls.append("waits"))
    for i in range(2):
        with joining.Process(i, 2).goes_first():
            calls.append(f"process {i}")
    assert calls == ["process 0", "waits", "waits", "process 1"]
    with joining.ALONE.goes_first():
        assert len(calls) == 4


def test_a_process_is_killed_and_the_run_goes_on(table, run):
    """On two processes in the same bits, on one to rounding."""
    whole = [*ARGUMENTS[:-2], "--batch-size", "1"]
    assert [end[0] for end in ends(joined(2, *whole, "--output", "whole"))] == [0, 0]
    arguments = (*whole, "--output", "m", "--checkpoint", "c", "--every", "1")
    first, second = joined(2, *arguments)
    for line in first.stdout:
        if re.match("epoch 2/", line):
            break
    second.send_signal(signal.SIGKILL)
    (status, *_), _ = ends([first, second])
    assert status != 0
    done = checkpoint.load("c").epoch.number
    assert 2 <= done <= 5
    kept = (table / "c").read_bytes()
    assert [end[0] for end in ends(joined(2, *arguments, "--resume", "c"))] == [0, 0]
    assert (table / "m").read_bytes() == (table / "whole").read_bytes()
    (table / "c").write_bytes(kept)
    run(*arguments, "--resume", "c", "--device", "jax:cpu")
    found, expected = Model.load("m"), Model.load("whole")
    np.testing.assert_allclose(found.params, expected.params, rtol=0, atol=1e-12)


def test_an_error_in_one_process_ends_all(table):
    write("other.csv", columns(seed=1))
    found = ends(joined(2, *ARGUMENTS, sources=["d.csv", "other.csv"]))
    assert all(status != 0 for status, *_ in found)
    said = "".join(error for *_, error in found)
    expected = "X, Y and sample_weight must be the same in all processes, and process 1 has others"
    assert f"nnaccel: error: {expected} than process 0" in said
    assert "nnaccel: process 1 of 2 ends, and the others within 5 s" in said
    assert not (table / "d.safetensors").exists()


def test_options_that_do_not_go_together(table, error):
    assert error(*ARGUMENTS, "--process", "0/2") == (
        "--process is for --join HOST:PORT, which says where the others are"
    )
    assert error(*ARGUMENTS, "--join", "h:1") == (
        "--join HOST:PORT needs --process I/N, such as 0/4 for the first of four"
    )
    assert error(*ARGUMENTS, "--join", "h:1", "--process", "2/2") == (
        "--process must be I/N, from 0/N to N-1/N, got '2/2'"
    )
    assert error(*ARGUMENTS, "--join", "h:1", "--process", "0/2", "--device", "cpu") == (
        "--join is for all devices of JAX, --device 'jax:gpu:*', got 'cpu'"
    )


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"])
def test_processes_of_mpiexec_find_each_other_by_mpi4py(monkeypatch, name, table, error):
    import jax

    for other in joining.MPI:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "2")
    options = Namespace(join=joining.CLUSTER, process=None, device="jax:cpu:*")
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **how: asked.append(how))
    monkeypatch.setattr(joining, "find_spec", lambda name: name)
    joining.join(options)
    assert asked == [{"cluster_detection_method": "mpi4py", "heartbeat_timeout_seconds": 5}]
    monkeypatch.setattr(joining, "find_spec", lambda name: None)
    assert error(*ARGUMENTS, "--join") == (
        "--join: under mpiexec the processes find each other by mpi4py, which is not installed; "
        "run: python -m pip install mpi4py"
    )
    assert len(asked) == 1


def test_without_a_launcher_it_says_what_to_do(table):
    child = process(*ARGUMENTS, "--join")
    _, error = child.communicate(timeout=60)
    assert child.returncode == 2
    *_, line = error.splitlines()
    assert line.startswith("nnaccel: error: --join: cannot join the others: ")
    assert line.endswith("; outside of Slurm and MPI say --join HOST:PORT --process I/N")
