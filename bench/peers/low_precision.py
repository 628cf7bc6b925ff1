"""Measures the effect of products in TF32 and bfloat16 on test scores, by whole trainings.

    python bench/peers/low_precision.py --mnist mnist.npz
        --adult-train adult_train.csv --adult-test adult_test.csv

Rows, settings and seeds are the same in every precision, so that differences are between pairs. The
arithmetic is that of the definition: NumPy rounds the operands. `--control jax:cpu` trains once
more in float32 with sums in another order, which shows how much runs differ by that alone.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.shared.report import about, heading, write
from bench.shared.script import run
from nnaccel.devices.device import select
from nnaccel.maths.precision import PRECISIONS
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import Examples, read

WHOLE = "float32"
SCORES = ("accuracy", "log loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--adult-train", type=Path)
    parser.add_argument("--adult-test", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--epochs", type=int, help="instead of each problem's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--control", metavar="DEVICE", help="for another run in float32")
    parser.add_argument("--output", type=Path, help="the JSON file, in place of bench/results/")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds must be 2 or more: one seed has no standard error")
    known = list(problems(args))
    if not known:
        parser.error("name at least one data set: --mnist, or --adult-train and --adult-test")
    runs = [(precision, args.device, precision) for precision in PRECISIONS]
    if args.control:
        runs.append((f"{WHOLE} on {args.control}", args.control, WHOLE))
    threads = int(os.environ.get("OPENBLAS_NUM_THREADS", len(os.sched_getaffinity(0))))
    found = about(threads, ("nnaccel", "numpy", "numba", "jax", "torch"))
    found["runs"] = {}
    for name, examples, options in known:
        if args.epochs:
            options = {**options, "epochs": args.epochs}
        kept = found["runs"][name] = {"settings": options}
        for label, device, precision in runs:
            tested = [
                scores(examples, Settings(seed=seed, precision=precision, **options), device)
                for seed in range(args.first, args.first + args.seeds)
            ]
            kept[label] = {score: [one[score] for one in tested] for score in SCORES}
            print(name, label, *kept[label][SCORES[0]], file=sys.stderr)
    text = table(found)
    print(text)
    write(found, "precision", text, args.output)


def problems(args: Any) -> Iterator[tuple[str, Examples, dict[str, Any]]]:
    """Names, examples with their test data, and settings besides the defaults."""
    if args.mnist:
        yield "MNIST", read(str(args.mnist)), {"hidden": (256, 128), "epochs": 8}
    if args.adult_train and args.adult_test:
        examples = read(str(args.adult_train), "income")
        test = read(str(args.adult_test), "income")
        yield "Adult", examples._replace(test=(test.data, test.y)), {}


def scores(examples: Examples, settings: Settings, device: str) -> dict[str, float]:
    """The scores on the test rows, of the model of a whole training."""
    fit = Fit(examples, settings, device=select(device))
    for _ in fit:
        pass
    return fit.evaluate(fit.model())


def difference(found: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """The mean of the differences of pairs, and its standard error."""
    pairs = [mine - theirs for mine, theirs in zip(found, reference, strict=True)]
    return statistics.fmean(pairs), statistics.stdev(pairs) / len(pairs) ** 0.5


def table(found: dict[str, Any]) -> str:
    """Means and standard deviations over the seeds, and differences to float32."""
    parts = [
        heading(found),
        "Mean over the seeds ± standard deviation; the difference to float32 with the same seeds\n"
        "± its standard error.\n",
    ]
    head = [f"{score}{what}" for score in SCORES for what in ("", ", difference")]
    for name, runs in found["runs"].items():
        lines = [f"### {name}\n", f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
        for label, tested in runs.items():
            if label == "settings":
                continue
            cells = []
            for score in SCORES:
                values = tested[score]
                cells.append(f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}")
                mean, error = difference(values, runs[WHOLE][score])
                cells.append("" if label == WHOLE else f"{mean:+.4f} ± {error:.4f}")
            lines.append(f"| {label} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    run(main)
