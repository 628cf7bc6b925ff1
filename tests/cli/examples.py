"""A table for the tests of the command line, and a process that runs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")
from pyarrow import csv, feather, parquet

QUICK = ("--hidden", "8", "--epochs", "2")
N = 120


def columns(seed=0):
    """All kinds of columns, and names that no format or terminal should trip over."""
    rng = np.random.default_rng(seed)
    x, c, b = rng.normal(50, 10, N), rng.choice(["red", "green", "blau ü"], N), rng.random(N) < 0.5
    price = 1000 * x + 5000 * (c == "red")
    return {
        "x [m]": [None if i % 10 == 3 else value for i, value in enumerate(x.tolist())],
        "c=c": [None if i % 12 == 5 else value for i, value in enumerate(c.tolist())],
        "flag": b.tolist(),
        "name": [f"person {i}" for i in range(N)],
        "same": [1] * N,
        "[bold]ünï[/]": rng.normal(size=N).tolist(),
        "price": price.tolist(),
        "label": np.where(price > 51_000, "yes", "no").tolist(),
    }


def write(path, table, **changes):
    """A table in a file, with columns replaced, or left out where they are None."""
    table = {k: v for k, v in {**table, **changes}.items() if v is not None}
    writers = {".csv": csv.write_csv, ".parquet": parquet.write_table}
    writers.get(Path(path).suffix, feather.write_feather)(pa.table(table), str(path))
    return str(path)


def process(*argv, **options):
    command = [sys.executable, "-m", "nnaccel", *map(str, argv)]
    return subprocess.Popen(
        command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    )
