"""Runs the phases of `gpu.py` one after the other, each in a separate process with a time limit.

This module imports nothing of nnaccel before it writes `gpu.json`, so that this file can report a
missing package.
"""

import argparse
import importlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu import report
from bench.shared.precisions import PRECISIONS
from bench.shared.report import RESULTS, command
from bench.shared.rounds import answer
from bench.shared.script import environment

Results = Iterator[tuple[str, Any]]  # of a phase: names, and values for the JSON file


class Phase(NamedTuple):
    """A function of a module, `run(args) -> Results`, and its time limit in seconds."""

    module: str
    seconds: float

    def run(self, name: str, args: argparse.Namespace) -> Results:
        return getattr(importlib.import_module(f"bench.gpu.{self.module}"), name)(args)


SHOWN = 600  # characters shown of a result
SCRIPT = Path(__file__).with_name("gpu.py")

# Short and informative phases come first; the last phase has the remaining time.
PHASES = {
    "kernels": Phase("first_minutes", 60),
    "runs": Phase("first_minutes", 75),
    "steps": Phase("step_details", 110),
    "fusions": Phase("both_ways", 100),
    "machine": Phase("phases", 60),
    "sources": Phase("phases", 60),
    "tests": Phase("phases", 120),
    "products": Phase("step_details", 60),
    "profile": Phase("step_details", 60),
    "launches": Phase("launches", 60),
    "parity": Phase("phases", 120),
    "fit": Phase("phases", 90),
    "throughput": Phase("throughput", 130),
    "peers": Phase("peers", 600),
}
FIRST = ("kernels", "runs", "steps", "tests", "fusions", "products", "profile")
REST = tuple(name for name in PHASES if name == "tests" or name not in FIRST)
WITHOUT_GPU = ("sources",)
VITAL = "kernels"  # if no kernel compiles, no other phase can work

# The modules that nnaccel always imports, and their packages.
REQUIRED = {"array_api_compat": "array-api-compat"}

# The names in `bench.peers.contestants`, which cannot be imported here since it imports nnaccel.
CONTESTANTS = (
    *("products", "nnaccel", "nnaccel eager"),
    *("torch eager", "torch compiled", "torch graphs", "jax jit", "jax scan"),
)


def main(description: str | None) -> int:
    args = arguments(description)
    # Fallbacks are reported in debug lines: in the log, or in the last output of a worker.
    logging.basicConfig(stream=sys.stderr)
    logging.getLogger("nnaccel").setLevel(logging.DEBUG)
    if args.worker:
        kind, *words = args.worker
        module = {"peer": "peers", "product": "throughput"}[kind]
        answer(importlib.import_module(f"bench.gpu.{module}").worker(*words))
        return 0
    args.device = "cpu" if args.rehearse else "cuda"
    if args.rehearse:
        args.threads = 1  # threads of several processes would wait for each other for seconds
    if args.phase:
        args.stop = time.monotonic() + args.budget
        tell(PHASES[args.phase].run(args.phase, args))
        return 0
    # JAX would allocate three quarters of the GPU's memory, which all processes share.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ["CUPY_TF32"] = "0"  # set to 1 where TF32 is measured
    found = {
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rehearsal": args.rehearse,
        "missing": missing_packages(),
        "phases": {},
    }
    if found["missing"]:
        write(found, args.out)
        print(f"nothing can run: {found['missing']}")
        return 1
    found["missing"] = "" if args.rehearse else missing_gpu()
    write(found, args.out)
    names = args.phases or (FIRST if args.first else REST)
    if found["missing"]:
        print(f"no GPU: {found['missing']}")
        names = [name for name in names if name in WITHOUT_GPU]
    hurry = not (found["missing"] or args.rehearse)
    take_all(names, found, args, 60 * args.minutes if hurry else math.inf)
    print(report.markdown_of(found))
    return int(any(entry["problem"] for entry in found["phases"].values()))


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: bench/results")
    parser.add_argument("--mnist", type=Path, help="an .npz file; without it there is no such row")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--first", action="store_true", help=f"the phases {', '.join(FIRST)}")
    which.add_argument("--phases", nargs="*", choices=PHASES, help=f"default: {', '.join(REST)}")
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--contestants", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--shapes", type=int, nargs="*", help="of the peers; 0 to 5, default all")
    parser.add_argument("--rounds", type=int, default=7, help="of the peers")
    parser.add_argument("--minutes", type=float, default=8.7, help="for all; default 8.7")
    parser.add_argument("--arch", default="sm_90", help="that CUDA sources are compiled for")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny networks")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def missing_packages() -> str:
    """One line with the missing packages that nnaccel requires, and the remedy; empty if none is
    missing."""
    packages = [name for module, name in REQUIRED.items() if not find_spec(module)]
    if not packages:
        return ""
    names = " ".join(packages)
    return (
        f"nnaccel needs {names}: python -m pip install {names}; where there is no network, carry "
        'the wheels as under "A bare machine" in bench/README.md'
    )


def missing_gpu() -> str:
    """One line with the reason why no GPU can be used, and the remedy; empty if one can be used."""
    from nnaccel.devices.device import select

    try:
        select("cuda")
    except (ImportError, RuntimeError) as error:
        return " ".join(str(error).split())
    return ""


def take_all(
    names: Iterable[str], found: dict[str, Any], args: argparse.Namespace, seconds: float
) -> None:
    """Runs the phases one after the other, until the time runs out."""
    stop = time.monotonic() + seconds
    hurry = math.isfinite(seconds)
    for name in names:
        if is_hopeless(found["phases"].get(VITAL, ended())):
            found["phases"][name] = ended("not begun: no kernel compiles")
            continue
        left = min(PHASES[name].seconds, stop - time.monotonic()) if hurry else math.inf
        take(name, found, args, left)
    write(found, args.out)


def is_hopeless(entry: dict[str, Any]) -> bool:
    """Whether the phase of the kernels failed and no kernel compiled."""
    compiled = sum(result.get("compiled", 0) for result in entry["results"].values())
    return bool(entry["problem"]) and not compiled


def ended(problem: str = "") -> dict[str, Any]:
    """The entry of a phase without results."""
    return {"seconds": 0.0, "problem": problem, "results": {}}


def take(name: str, found: dict[str, Any], args: argparse.Namespace, seconds: float) -> None:
    """Runs a phase in a separate process. Stores its results, problem and seconds in `found`, and
    writes the files after each result."""
    entry = found["phases"][name] = ended()
    if seconds <= 1:
        entry["problem"] = "not begun: no time was left"
        write(found, args.out)
        return
    limit = f"at most {seconds:.0f} s" if math.isfinite(seconds) else "no time limit"
    print(f"{name}: {limit}", file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    words = [
        sys.executable,
        str(SCRIPT),
        *sys.argv[1:],
        "--phase",
        name,
        "--budget",
        f"{seconds:.0f}",
    ]
    started = time.monotonic()
    with (args.out / "gpu.log").open("a+") as log:
        print(f"--- {name}", file=log, flush=True)
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=environment(),
        )
        listener = threading.Thread(target=listen, args=(process, entry, found, args), daemon=True)
        listener.start()
        status = status_of(process, seconds)
        with suppress(ProcessLookupError):  # ends the processes that the phase has started, too
            os.killpg(process.pid, signal.SIGKILL)
        status_of(process, 5)  # a process that hangs in the driver cannot be killed or waited for
        listener.join(10)  # with a limit: a stray process may hold the pipe open
        if process.stdout and not listener.is_alive():
            process.stdout.close()
        if status is None:
            entry["problem"] = f"ended after {seconds:.0f} s: its time was up"
        elif status:
            log.seek(0)
            last = log.read().strip().rpartition("\n")[2]
            entry["problem"] = f"ended with status {status}: {last}"
    problems = [r["problem"] for r in entry["results"].values() if is_problem(r)]
    entry["problem"] = entry["problem"] or "; ".join(problems)
    entry["seconds"] = round(time.monotonic() - started, 1)
    write(found, args.out)


def status_of(process: Any, seconds: float) -> int | None:
    """The exit status of a process; None if it has not ended after `seconds` seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def is_problem(result: Any) -> bool:
    return isinstance(result, dict) and bool(result.get("problem"))


def listen(process: Any, entry: dict[str, Any], found: Any, args: argparse.Namespace) -> None:
    """Stores and prints the results of a phase as they arrive."""
    for line in process.stdout:
        name, result = json.loads(line)
        print(f"  {name}: {json.dumps(result)[:SHOWN]}", file=sys.stderr)
        entry["results"][name] = result
        write(found, args.out)


def tell(results: Iterable[tuple[str, Any]]) -> None:
    """Prints results as lines of JSON, for `listen` in the parent process. The output of libraries
    goes to the log instead."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for name, result in results:
            print(json.dumps([name, result]), file=out, flush=True)


def write(found: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"json": json.dumps(found, indent=1) + "\n", "md": report.markdown_of(found)}
    for kind, text in texts.items():
        unfinished = folder / f"gpu.{kind}.new"
        unfinished.write_text(text)
        unfinished.replace(folder / f"gpu.{kind}")
