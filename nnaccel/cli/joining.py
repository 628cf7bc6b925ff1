"""Joins several processes to one run by JAX's distributed runtime, on one machine or on many.

Every process runs the same program with the same data on its own devices, and XLA divides the rows
of each minibatch among them. Only the first process prints and writes. A launcher, such as Slurm,
mpiexec or a shell, starts and restarts the processes.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any, NamedTuple

from nnaccel.devices.install_hints import load_library
from nnaccel.devices.processes import odd_process, of_all_processes
from nnaccel.files import reason

HEARTBEAT = 30  # seconds without a heartbeat after which a process is considered dead


class Process(NamedTuple):
    """One of the processes of a run."""

    index: int = 0
    n: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process prints and writes."""
        return self.index == 0

    @contextmanager
    def goes_first(self) -> Iterator[None]:
        """A block that the first process ends before any other begins it."""
        if not self.writes:
            of_all_processes([0])
        yield
        if self.writes and self.n > 1:
            of_all_processes([0])

    def check_same(self, text: str) -> None:
        """Raises ValueError unless all processes have the same text, such as a digest of the
        data."""
        if self.n == 1:
            return
        if (odd := odd_process([text.encode()])) is not None:
            raise ValueError(
                f"process {odd} has other data or options than process 0; all of them need "
                "the same command and the same files"
            )


ALONE = Process()


def check_options(options: Any) -> None:
    """Raises ValueError for options that contradict `--join`. Sets the device."""
    if options.process and not options.join:
        raise ValueError("--process is for --join HOST:PORT, which says where the others are")
    if not options.join:
        return
    if options.device == "auto":
        options.device = "jax:*"
    if not re.fullmatch(r"jax(:\w+)?:\*", options.device):
        raise ValueError(
            f"--join is for all devices of JAX, --device 'jax:gpu:*', got {options.device!r}"
        )
    if options.join != CLUSTER and not options.process:
        raise ValueError("--join HOST:PORT needs --process I/N, such as 0/4 for the first of four")


def heartbeat() -> int:
    """The seconds of `HEARTBEAT`, or of the environment variable NNACCEL_HEARTBEAT.

    Raises ValueError if the variable is not a number of seconds.
    """
    text = os.environ.get("NNACCEL_HEARTBEAT") or str(HEARTBEAT)
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise ValueError(f"NNACCEL_HEARTBEAT must be a number of seconds, got {text!r}")
    return int(text)


MPI = ("OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")  # by mpiexec of Open MPI, of MPICH and its kin
CLUSTER = "cluster"  # the value of --join without an address: found by the launcher's variables


def numbered(text: str) -> tuple[int, int]:
    """`I/N` as two numbers. Raises ValueError unless I is one of N."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise ValueError(f"--process must be I/N, from 0/N to N-1/N, got {text!r}")
    return int(found[1]), int(found[2])


def _launched() -> dict[str, str]:
    """By which way JAX finds the processes of a launcher: its own, or what MPI says.

    RuntimeError for MPI without mpi4py.
    """
    if not any(name in os.environ for name in MPI):
        return {}
    if find_spec("mpi4py") is None:
        raise RuntimeError(
            "--join: under mpiexec the processes find each other by mpi4py, which is not "
            "installed; run: python -m pip install mpi4py"
        )
    return {"cluster_detection_method": "mpi4py"}


def join(options: Any) -> Process:
    """Joins the other processes, with --join.

    Raises ValueError for wrong options, RuntimeError if the others cannot be found.
    """
    check_options(options)
    if not options.join:
        return ALONE
    index, n = numbered(options.process) if options.process else (None, None)
    jax = load_library("jax", "jax")
    where = {"coordinator_address": options.join, "num_processes": n, "process_id": index}
    known = where if options.join != CLUSTER else _launched()
    try:
        jax.distributed.initialize(**known, heartbeat_timeout_seconds=heartbeat())
    except (ValueError, RuntimeError) as error:
        remedy = "outside of Slurm and MPI say --join HOST:PORT --process I/N"
        why = reason(error) if known is where else f"{reason(error)}; {remedy}"
        raise RuntimeError(f"--join: cannot join the others: {why}") from None
    return Process(jax.process_index(), jax.process_count())


@contextmanager
def first_alone(process: Process) -> Iterator[None]:
    """A context in which only the first process prints. A process that fails in it exits at once:
    Python's usual exit would wait for the other processes, which wait for this one."""
    if process.n == 1:
        yield
        return
    try:
        if process.writes:
            yield
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield
    except BaseException as error:
        from nnaccel.cli.messages import report
        from nnaccel.cli.streams import say

        who = f"process {process.index} of {process.n}"
        say(f"nnaccel: {who} ends, and the others within {heartbeat()} s")
        status = report(error, debug=False) if isinstance(error, Exception) else 130
        sys.stdout.flush()
        os._exit(status)
