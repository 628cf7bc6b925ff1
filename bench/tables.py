"""Compares the accuracy of nnaccel on tables with boosted trees and other networks.

    python bench/tables.py --data FOLDER                      # NAME_train.csv and NAME_test.csv
    python bench/tables.py --csv FILE --target COLUMN [--test FILE] --seeds 1
    python bench/tables.py --data FOLDER --contestants XGBoost nnaccel

Each fit has its own process, with the same number of threads. Results are written after each fit,
and a fit that the file of the day already has is not run again: `--seeds 0` only makes the table
and the chart again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nnaccel as this
from bench.peers.tables import data
from bench.peers.tables.chart import draw
from bench.peers.tables.contestants import CONTESTANTS, TREES, installed
from bench.shared.errors import Errors, means, note, summary
from bench.shared.report import RESULTS, about, command, heading, write
from bench.shared.rounds import say
from bench.shared.script import environment, run

VERSIONS = (
    "numpy", "numba", "scikit-learn", "xgboost", "lightgbm", "catboost", "pytabkit", "torch",
)  # fmt: skip
LEGEND = """\
1 - AUC of classes and RMSE of numbers on the test rows, mean over the seeds; less is better. In
brackets the gap to the best of the three libraries of boosted trees; below zero, a contestant errs
less than they do. The trees have the tuned defaults of Holzmüller, Grinsztajn and Steinwart (2024,
arXiv:2407.04491) and stop early on a fifth of the training rows. nnaccel and scikit-learn get the
training rows whole.
"""


def main() -> None:
    args = arguments()
    if args.worker:
        print(json.dumps(work(json.loads(args.worker))))
        return
    tables = list(data.pairs(args.data)) if args.data else []
    if args.csv:
        tables.append(data.single(args.csv, args.target, args.test))
    path = args.out / f"tables-{datetime.now(UTC):%Y-%m-%d}.json"
    found: dict[str, Any] = about(args.threads, VERSIONS) | {"runs": []}
    found["machine"]["versions"]["nnaccel"] = this.__version__
    able, found["left out"] = installed(args.contestants)
    for line in found["left out"]:
        say(line)
    for seed in range(args.seeds):
        for name in able:
            for table in tables:
                key = {"contestant": name, "table": table.name, "seed": seed}
                if not known(load(path, found)["runs"], key):
                    job = key | {"where": list(table), "threads": args.threads}
                    append(path, found, key | fit(job, args.minutes))
    found = load(path, found)
    text = page(found, args.contestants)
    print(text)
    write(found, "tables", text, path)
    draw(found, chosen(found, args.contestants), path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of NAME_train.csv and NAME_test.csv")
    parser.add_argument("--csv", type=Path, help="one table more")
    parser.add_argument("--target", help="its column to predict")
    parser.add_argument("--test", type=Path, help="its test rows; without it a fifth of the rows")
    parser.add_argument(
        "--contestants", nargs="*", default=list(CONTESTANTS), choices=list(CONTESTANTS)
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0, help="for a fit; default 30")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.csv and not args.target:
        parser.error("--csv needs --target")
    return args


def fit(job: dict[str, Any], minutes: float) -> dict[str, Any]:
    """Runs a worker, and returns its result or its problem."""
    pools = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    where = environment(**{f"{pool}_NUM_THREADS": str(job["threads"]) for pool in pools})
    words = [sys.executable, __file__, "--worker", json.dumps(job)]
    label = f"{job['contestant']}, {job['table']}, seed {job['seed']}"
    try:
        done = subprocess.run(
            words, env=where, capture_output=True, text=True, timeout=60 * minutes
        )
    except subprocess.TimeoutExpired:
        say(f"{label}: no result in {minutes:g} minutes")
        return {"problem": f"no result in {minutes:g} minutes"}
    if done.returncode:
        problem = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
        say(f"{label}: {problem}")
        return {"problem": problem}
    result = json.loads(done.stdout.strip().rpartition("\n")[2])
    say(f"{label}: {result['error']:.4f}, {result['cpu_seconds']:.1f} s of CPU")
    return result


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Fits once, and measures the error on the test rows and the seconds of the fit alone."""
    rows = data.read(data.Table(*job["where"]))
    prepared = CONTESTANTS[job["contestant"]](rows, job["seed"], job["threads"])
    started, cpu = time.perf_counter(), time.process_time()
    predict = prepared()
    seconds = {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - started,
    }
    size = {"rows": len(rows.y), "columns": rows.X.shape[1], "classes": rows.classes}
    return {"error": data.error(rows, predict())} | seconds | size


def load(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the file, or `new` without a file."""
    return json.loads(path.read_text()) if path.exists() else new


def known(runs: list[dict[str, Any]], key: dict[str, Any]) -> bool:
    """Tells whether a fit has a result. One that had a problem is run again."""
    return any("error" in one and key.items() <= one.items() for one in runs)


def append(path: Path, new: dict[str, Any], result: dict[str, Any]) -> None:
    """Adds a result to the file. Another process may have added to it in the meantime."""
    found = load(path, new)
    same = {name: result[name] for name in ("contestant", "table", "seed")}
    found["runs"] = [one for one in found["runs"] if not same.items() <= one.items()] + [result]
    words = found.setdefault("command", command())
    if command() not in words:
        found["command"] = f"{words}; {command()}"
    found["machine"]["versions"] |= new["machine"]["versions"]
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(path)


def chosen(found: dict[str, Any], names: list[str]) -> Errors:
    """Returns the mean errors of some contestants, in their common order."""
    runs = [one for one in found["runs"] if one["contestant"] in names]
    return means(runs, "error", [name for name in CONTESTANTS if name in names])


def page(found: dict[str, Any], names: list[str]) -> str:
    """Writes the results in Markdown."""
    errors = chosen(found, names)
    runs = [one for one in found["runs"] if one["contestant"] in errors]
    seconds = means(runs, "cpu_seconds", list(errors))
    sizes = {one["table"]: one["rows"] for one in runs if "rows" in one}
    lines = [*found["left out"], *note(runs)]
    parts = [heading(found), LEGEND, summary(errors, seconds, TREES, sizes)]
    return "\n".join(parts) + "".join(f"\n{line}\n" for line in lines)


if __name__ == "__main__":
    run(main)
