"""Times nnaccel and its peers from arrays to a trained classifier, each in its own process.

    python bench/peers/fits.py                     # generated data of MNIST's size
    python bench/peers/fits.py --data FILE.npz     # with X_train, y_train, X_test, y_test
    python bench/peers/fits.py --dtype float64 --rows 2000 --inputs 20 --hidden 100 --epochs 50

All train the same network on the same rows: Adam, mean cross-entropy, relu, one dtype, no penalty,
a new order in every epoch. They take turns, one fit each, round by round. A time is that of a fit
after the first one in its process. The column "first" has the first fit, with loading and
compiling; imports are in neither. A contestant with another test accuracy than the others is not
shown.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.fit_contestants import CONTESTANTS, Task
from bench.shared.measures import Entry, best, busy, judge, markdown, median, ratio_to
from bench.shared.report import FLOOR, LIBRARIES, OURS, about, chart, heading, load, write
from bench.shared.rounds import Worker, answer, arguments, say, take_turns, timed
from bench.shared.script import run
from bench.shared.shapes import Shape

TOLERANCE = 0.015  # relative, of accuracies: each draws its own weights and orders
LEGEND = (
    "Seconds a fit: the best and the median of the rounds, and the first one in its process.\n"
    "Ratios: time of the row over time of nnaccel in the same round, median and quartiles;\n"
    "above 1, nnaccel is faster. Accuracy: on the test rows, mean of all fits.\n"
)
NAMES = ("X_train", "y_train", "X_test", "y_test")


def main() -> None:
    parser = arguments(__doc__ or "", CONTESTANTS, rounds=7)
    parser.add_argument("--data", type=Path, help="an .npz file; default: generated data")
    parser.add_argument("--rows", type=int, default=60_000, help="of the generated data")
    parser.add_argument("--inputs", type=int, default=784, help="of the generated data")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--hidden", type=int, nargs="*", default=[100, 100])
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    if args.worker:
        work(args.worker[0], args.worker[1], args)
        return
    stop = time.monotonic() + 60 * args.minutes
    libraries = (*LIBRARIES, "skorch", "keras", "pytabkit")
    found = about(args.threads, libraries) | {"dtype": args.dtype, "load": load()}
    print(opening(found), flush=True)
    arrays = read(args.data) if args.data else generated(args.rows, args.inputs)
    arrays = [x.astype(args.dtype) if x.dtype == np.float32 else x for x in arrays]
    shape = Task(arrays[0], arrays[1], tuple(args.hidden), args.batch, args.epochs).shape
    name = f"{args.data.stem if args.data else 'generated data'}, {len(arrays[0]):,} rows, "
    name += shape.name.replace("x", ", batch ") + f", {args.epochs} epochs, {args.dtype}"
    with tempfile.TemporaryDirectory() as folder:
        for array_name, array in zip(NAMES, arrays, strict=True):
            np.save(Path(folder) / f"{array_name}.npy", array)
        result = compare(folder, args, shape, len(arrays[0]), stop)
    found["problems"] = {name: result}
    print(section(name, result), flush=True)
    path = write(found, "fits", table(found), args.output)
    chart(found, "s a fit: best round (median)", "From arrays to a classifier", path)


def generated(rows: int, inputs: int) -> list[np.ndarray]:
    """Ten classes that overlap slightly: `rows` training rows, and 10,000 test rows."""
    rng = np.random.default_rng(0)
    spread = np.float32(0.13 * (784 / inputs) ** 0.5)  # of as many inputs as MNIST has, 0.13
    centres = spread * rng.standard_normal((10, inputs), dtype=np.float32)
    arrays = []
    for N in (rows, 10_000):
        y = rng.integers(10, size=N)
        X = rng.standard_normal((N, inputs), dtype=np.float32)
        X += centres[y]
        arrays += [X, y]
    return arrays


def read(path: Path) -> list[np.ndarray]:
    """X as float32, bytes as 0 to 1; y as int64, of classes from 0."""
    with np.load(path) as file:
        X, y, X_test, y_test = (file[name] for name in NAMES)
    scale = np.float32(255 if X.dtype == np.uint8 else 1)
    rows = [X.astype(np.float32) / scale, y.astype(np.int64)]
    return [*rows, X_test.astype(np.float32) / scale, y_test.astype(np.int64)]


def work(name: str, folder: str, args: argparse.Namespace) -> None:
    """A worker answers any number with the seconds of a fit and its accuracy on the test rows."""
    # Mapped, so that the processes share the memory; "c" allows writes, which some libraries
    # require.
    X, y, X_test, y_test = (np.load(Path(folder) / f"{n}.npy", mmap_mode="c") for n in NAMES)
    X, X_test = np.asarray(X), np.asarray(X_test)
    fit = CONTESTANTS[name](Task(X, np.asarray(y), tuple(args.hidden), args.batch, args.epochs))

    def once(_: int) -> tuple[float, float]:
        seconds, predict = timed(fit)
        return seconds, float(np.mean(predict(X_test) == y_test))

    answer(once)


def compare(
    folder: str, args: argparse.Namespace, shape: Shape, N: int, stop: float
) -> dict[str, Any]:
    """Seconds of a fit of each contestant in each round, and the mean of the test accuracies."""
    workers, found, turns = [], {}, {}
    options = ["--hidden", *args.hidden, "--batch", args.batch, "--epochs", args.epochs]
    for name in args.contestants:
        worker = Worker([name, folder, *options], args.threads)
        workers.append(worker)
        try:
            first, accuracy = worker.ask(0, limit=max(1.0, stop - time.monotonic()))
        except RuntimeError as error:
            found[name] = {"problem": str(error)}
            say(f"  {name}: {error}")
            continue
        say(f"  {name}: first fit {first:.3g} s, accuracy {accuracy:.4f}")
        found[name] = {"first": first, "accuracies": [accuracy], "accuracy": accuracy}

        def turn(worker: Worker = worker, entry: Entry = found[name]) -> float:
            seconds, accuracy = worker.ask(0)
            entry["accuracies"].append(accuracy)
            entry["accuracy"] = float(np.mean(entry["accuracies"]))
            return seconds

        turns[name] = turn
    judge(found, "accuracy", TOLERANCE, leave=[FLOOR])
    take_turns(found, turns, args, stop=stop)
    for key in ("accuracy", "accuracies"):
        found.get(FLOOR, {}).pop(key, None)  # it predicts nothing
    for worker in workers:
        worker.close()
    gflop = shape.flops * args.epochs * N / shape.batch / 1e9
    return {"gflop": gflop, "contestants": found}


def table(found: dict[str, Any]) -> str:
    """The results in Markdown: times, accuracy, ratios to ours."""
    sections = (section(name, result) for name, result in found["problems"].items())
    return "\n".join([opening(found), *sections])


def opening(found: dict[str, Any]) -> str:
    """The origin of the numbers, and how to read them."""
    return "\n".join([heading(found), *filter(None, [found.get("load")]), LEGEND])


def section(name: str, result: dict[str, Any]) -> str:
    """The table of one task."""
    entries = result["contestants"]
    columns = {
        "best s": best,
        "median s": median,
        "first s": lambda entry: f"{entry['first']:.4g}",
        "accuracy": lambda entry: f"{entry['accuracy']:.4f}" if "accuracy" in entry else "",
    }
    for our in OURS[:2]:
        if entries.get(our, {}).get("times"):
            columns[f"to {our}"] = ratio_to(entries[our])
    note = busy(entry["times"] for entry in entries.values() if entry.get("times"))
    return f"### {name}\n\n{markdown(entries, columns)}" + (f"\n{note}\n" if note else "")


if __name__ == "__main__":
    run(main)
