"""Random tables: training either refuses one in a line, or its model can be used.

    python -m tests.tabular.random_tables 2000          # this many, from seed 0
    python -m tests.tabular.random_tables 1 --from 17   # one of them again

A model that was written must load, predict the file that it was trained on, and predict the same
for a file with its columns in another order and for single rows.
"""

import argparse
import re
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from nnaccel.tabular.delimited import Layout
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.model import Model
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import read
from nnaccel.tabular.tables import TableWarning

NAMES = ["a", "b b", "ü", "ID", "x,y", 'q"q', "день", "a.b", "=1", "1", "target", "NULL", "l\nf"]
REASON = re.compile(r"'[^']*'|\d[\d,]*|^/\S+|\(.*?\)")  # what differs from table to table
WORDS = ["red", "Green ", "", "NA", "None", "?", "007", "1.10", "x,y", 'say "hi"', "ß", "n\nl", "0"]


def column(rng: np.random.Generator, n: int) -> list[Any]:
    """Cells as text or None, of a random kind."""
    numbers = rng.normal(0, 10 ** rng.uniform(-3, 6), n)
    days = np.datetime64("2020-01-01") + rng.integers(-9999, 9999, n).astype("m8[D]")
    kinds = {
        "numbers": lambda: [f"{v:.6g}" for v in numbers],
        "whole": lambda: list(map(str, rng.integers(-5, rng.integers(1, 1000), n))),
        "huge": lambda: list(map(str, rng.integers(2**53, 2**62, n))),
        "money": lambda: [f"${v:,.2f}" for v in numbers],
        "words": lambda: list(rng.choice(WORDS[: rng.integers(1, len(WORDS))], n)),
        "names": lambda: [f"name {v}" for v in rng.permutation(n)],
        "flags": lambda: list(rng.choice(["True", "False"], n)),
        "dates": lambda: list(map(str, days)),
        "times": lambda: [f"{v // 60:02}:{v % 60:02}" for v in rng.integers(0, 1440, n)],
        "rows": lambda: list(map(str, range(n))),
        "zeros": lambda: list(rng.choice(["-0.0", "0.0", "1.0"], n)),
        "constant": lambda: ["7"] * n,
        "empty": lambda: [None] * n,
        "code": lambda: [("-9999" if rng.random() < 0.1 else f"{v:.3f}") for v in numbers / 1e6],
        "infinite": lambda: list(rng.choice(["inf", "1", "2"], n)),
        "nul": lambda: list(rng.choice(["a\0", "b", "c\0d"], n)),
        "1e300": lambda: [f"{v}e300" for v in rng.integers(1, 9, n)],
    }
    cells = list(kinds[str(rng.choice([*kinds]))]())
    if rng.random() < 0.3:
        gaps = rng.choice(["", "?", "NA", "missing", "-"])
        cells = [gaps if rng.random() < rng.uniform(0, 0.5) else cell for cell in cells]
    return [None if cell is None else str(cell) for cell in cells]


def random_table(seed: int) -> tuple[dict[str, list[Any]], str]:
    """The columns of a table, as text, and the target."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 3, 5, 10, 30, 100, 300, 30, 100, 300, 100, 300]))
    names = list(rng.choice(NAMES, rng.integers(1, 8), replace=False))
    columns = {str(name): column(rng, n) for name in names}
    if rng.random() < 0.6:  # a target that can be learned
        columns["y"] = list(rng.choice(["yes", "no", "so"][: rng.integers(2, 4)], n))
        if rng.random() < 0.5:
            columns["y"] = [f"{v:.4f}" for v in rng.normal(size=n)]
    return columns, "y" if "y" in columns else str(rng.choice(names))


def write(columns: dict[str, list[Any]], path: Path) -> str:
    """The table as a file, whose form its name says; the path."""
    table = pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()})
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    elif path.suffix == ".feather":
        pa.feather.write_feather(table, path)
    else:
        lines = [",".join(map(_quoted, columns))]
        lines += [",".join(map(_quoted, row)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return str(path)


def _quoted(cell: Any) -> str:
    text = "" if cell is None else str(cell)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text


def outcome(seed: int, folder: Path) -> str:
    """What becomes of a table: "refused: ..." or "trained"; AssertionError for a fault."""
    columns, target = random_table(seed)
    suffix = (".csv", ".parquet", ".feather")[seed % 3]
    source = write(columns, folder / f"t{suffix}")
    try:
        fit = Fit(read(source, target), Settings(epochs=1, hidden=(4,)), kernels="numpy")
        for _ in fit:
            pass
        fit.evaluate(fit.model())
        fit.model().save(folder / "m.safetensors")
    except (ValueError, FloatingPointError) as error:
        if "\n" in str(error).replace("l\nf", ""):
            raise AssertionError("more than one line") from error
        return f"refused: {REASON.sub('...', str(error))[:60]}"
    model = Model.load(folder / "m.safetensors")
    layout = Layout(names=tuple(name for name in columns if name != target))
    data = read(source, target, need_target=False, layout=layout).data
    found = model.outputs(data)
    assert np.isfinite(found).all()
    turned = dict(reversed([(k, v) for k, v in columns.items() if k != target]))
    again = model.outputs(
        read(write(turned, folder / f"u{suffix}"), need_target=False, layout=layout).data
    )
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-5)
    for row in {0, len(found) // 2}:
        one = {name: cells[row : row + 1] for name, cells in turned.items()}
        alone = model.outputs(
            read(write(one, folder / f"o{suffix}"), need_target=False, layout=layout).data
        )
        np.testing.assert_allclose(alone, found[row : row + 1], rtol=1e-4, atol=1e-5)
    return "trained"


def main() -> int:
    """Go through the tables; the number of faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--from", dest="first", type=int, default=0)
    options = parser.parse_args()
    counts, faults = Counter(), 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning that is none of ours is a fault
        warnings.simplefilter("ignore", TableWarning)
        warnings.filterwarnings("ignore", module="sklearn")
        for seed in range(options.first, options.first + options.count):
            try:
                counts[outcome(seed, Path(folder))] += 1
            except Exception as error:
                faults += 1
                print(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    for what, n in counts.most_common():
        print(f"{n:6,}  {what}")
    print(f"{faults} faults")
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
