"""Tables larger than memory: do they train within a limit, as fast and as well as in memory?

    python bench/streaming.py memory [--limit 1] [--times 10]  # a table so many times the limit
    python bench/streaming.py file [--limit 0.6] [--size 4]    # a large file of Parquet, likewise
    python bench/streaming.py speed [--rows 1500000]           # rows a second of passes and epochs
    python bench/streaming.py order [--seeds 5]                # rows sorted by class, or shuffled

Tables are made in a temporary folder, which is removed. Close other programs first, or read the
ratios alone.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

import nnaccel as nn
from bench.shared.script import run
from nnaccel.tabular.streamed import second_pass

PIECE = 250_000  # rows made at once
LEVELS = np.array([f"level {i:02}" for i in range(100)])
UNDER_A_LIMIT = """
import resource, sys
resource.setrlimit(resource.{kind}, ({limit}, {limit}))
from nnaccel.cli.main import main
status = main(sys.argv[1:])
for line in open("/proc/self/status"):
    if line.startswith(("VmPeak", "VmHWM")):
        print(line.strip())
sys.exit(status)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("memory", "file", "speed", "order"))
    parser.add_argument("--limit", type=float, help="of addresses, or of data, in GB (1, 0.6)")
    parser.add_argument("--size", type=float, default=4.0, help="of the file, in GB")
    parser.add_argument("--times", type=float, default=10, help="the limit: the encoded rows")
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", help="for the tables (default: the system's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = {"memory": memory, "file": file, "speed": speed, "order": order}
        made[args.what](Path(folder), args)


def narrow(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """16 numbers, 4 categories of 8 values, and two classes, of which 85 % can be predicted."""
    X = rng.standard_normal((n, 16)).astype(np.float32)
    c = rng.integers(0, 8, (n, 4))
    z = X[:, 0] + np.abs(X[:, 1]) * X[:, 2] + (c[:, 0] == 2) - 0.5 * (c[:, 1] > 5)
    y = np.where(z + 0.5 * rng.standard_normal(n) > 0.3, "yes", "no")
    numbers = {f"x{i}": X[:, i] for i in range(16)}
    return numbers | {f"c{i}": LEVELS[c[:, i]] for i in range(4)} | {"y": y}


def wide(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """10 categories of 100 values, which become 1,000 columns, and two classes."""
    c = rng.integers(0, 100, (n, 10))
    y = np.where((c[:, 0] % 7 > 2) ^ (c[:, 1] > 80), "yes", "no")
    return {f"c{i}": pa.array(LEVELS[c[:, i]]) for i in range(10)} | {"y": y}


def made(path: Path, kind: Any, rows: int, seed: int = 0, **how: Any) -> str:
    rng, writer = np.random.default_rng(seed), None
    for start in range(0, rows, PIECE):
        table = pa.table(kind(rng, min(PIECE, rows - start)))
        writer = writer or parquet.ParquetWriter(path, table.schema, **how)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return str(path)


def memory(folder: Path, args: argparse.Namespace) -> None:
    """One epoch, the test and predictions of a table of many times the limit, under the limit."""
    limit = int((args.limit or 1.0) * 1e9)
    rows = int(limit * args.times / (1000 * 4))
    path = made(folder / "wide.parquet", wide, rows)
    print(f"{rows:,} rows, {os.path.getsize(path) / 1e9:.2f} GB of Parquet, limit {limit / 1e9} GB")
    model, predicted = f"{folder}/model", f"{folder}/predicted.parquet"
    limited(
        "RLIMIT_AS",
        limit,
        ["train", path, *TRAIN, "--hidden", "16", "--output", model],
        ["predict", model, path, "--stream", "--output", predicted],
        ["evaluate", model, path, "--stream"],
    )


def file(folder: Path, args: argparse.Namespace) -> None:
    """The same of 16 numbers of float64 and 4 categories, whose data alone are limited."""
    limit, rows = int((args.limit or 0.6) * 1e9), int(args.size * 1e9 / 130)
    how = {"compression": "NONE", "use_dictionary": ["c0", "c1", "c2", "c3", "y"]}
    path = made(folder / "long.parquet", in_float64, rows, **how)
    test = made(folder / "test.parquet", in_float64, 200_000, seed=1, **how)
    print(f"{rows:,} rows, {os.path.getsize(path) / 1e9:.2f} GB of Parquet, limit {limit / 1e9} GB")
    train = ["train", path, *TRAIN, "--hidden", "64", "32", "--test-fraction", "0"]
    limited(
        "RLIMIT_DATA",
        limit,
        [*train, "--output", f"{folder}/model"],
        ["evaluate", f"{folder}/model", test, "--stream"],
    )


def in_float64(rng: np.random.Generator, n: int) -> dict[str, Any]:
    columns = narrow(rng, n)
    return {k: v.astype("f8") if k.startswith("x") else v for k, v in columns.items()}


# Libraries reserve memory that they do not use, which a limit counts: so they reserve less.
FRUGAL = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "1000000",
    "MIMALLOC_ARENA_EAGER_COMMIT": "0",
    "OPENBLAS_NUM_THREADS": "1",
}
TRAIN = ("--target", "y", "--stream", "--epochs", "1")


def limited(kind: str, limit: int, *commands: list[str]) -> None:
    """Commands of nnaccel, each in a process of its own under a limit of the system."""
    code = UNDER_A_LIMIT.format(kind=kind, limit=limit)
    for command in commands:
        started = time.perf_counter()
        whole = shlex.join([sys.executable, "-c", code, *command])
        small_stacks = ["bash", "-c", f"ulimit -s 1024; {whole}"]
        subprocess.run(small_stacks, env=os.environ | FRUGAL, check=True)
        print(f"{command[0]}: {time.perf_counter() - started:.0f} s\n", flush=True)


def speed(folder: Path, args: argparse.Namespace) -> None:
    """Rows a second of each pass, by the clock and by processor time; epochs compared with those in
    memory."""
    path = made(folder / "narrow.parquet", narrow, args.rows)
    examples = nn.stream(path, "y", cache=folder)
    marks: dict[str, list[tuple[float, float]]] = {}

    def mark(what: str, share: float | None) -> None:
        marks.setdefault(what, []).append((time.perf_counter(), time.process_time()))

    begun = time.perf_counter(), time.process_time()
    examples.progress = mark
    settings = nn.Settings(epochs=3, members=1)
    streamed = nn.Fit(examples, settings)
    total = 0.0
    for what, times in marks.items():
        seconds, core = (b - a for a, b in zip(begun, times[-1], strict=True))
        total, begun = total + seconds, times[-1]
        rates = (args.rows / seconds, args.rows / core)
        print("{}: {:,.0f} rows/s by the clock, {:,.0f} a second of a core".format(what, *rates))
    print(f"all passes: {args.rows / total:,.0f} rows/s")
    in_memory = nn.Fit(nn.read(path, "y"), settings)
    rates = {"streamed": [], "in memory": []}
    for one, other in zip(streamed, in_memory, strict=True):  # in turns
        rates["streamed"].append(one.samples_per_second)
        rates["in memory"].append(other.samples_per_second)
    best = {name: max(found) for name, found in rates.items()}
    print({name: f"{rate:,.0f} rows/s" for name, rate in best.items()})
    print(f"epochs, streamed to in memory: {best['streamed'] / best['in memory']:.2f}")


def order(folder: Path, args: argparse.Namespace) -> None:
    """The test accuracy over seeds for the same rows: sorted by class and shuffled, in about 25
    windows, and in memory, where each epoch shuffles all rows."""
    rows, second_pass.WINDOW = 150_000, 2**20
    table = pa.table(narrow(np.random.default_rng(0), rows))
    test = pa.table(narrow(np.random.default_rng(1), 100_000))
    orders = {
        "sorted by class": np.argsort(table["y"], kind="stable"),
        "shuffled": np.random.default_rng(2).permutation(rows),
        "shuffled, in memory": np.random.default_rng(2).permutation(rows),
    }
    for name, numbers in orders.items():
        path = str(folder / f"{name}.parquet")
        parquet.write_table(table.take(numbers), path)
        found = []
        for seed in range(args.seeds):
            in_memory = name.endswith("in memory")
            examples = nn.read(path, "y") if in_memory else nn.stream(path, "y", cache=folder)
            settings = nn.Settings(epochs=4, members=1, seed=seed, hidden=(64, 32))
            fit = nn.Fit(examples, settings, test_fraction=0.0)
            for _ in fit:
                pass
            found.append(fit.model().evaluate(test.drop_columns(["y"]), test["y"])["accuracy"])
        print(f"{name}: accuracy {np.mean(found):.4f} ± {np.std(found, ddof=1):.4f}", flush=True)


if __name__ == "__main__":
    run(main)
