"""Compares the times of predictions and `partial_fit` of the estimators with scikit-learn's.

    python bench/peers/predictions.py                      # everything, about six minutes
    python bench/peers/predictions.py --rows 1 100 --methods predict --dtypes float32

Both libraries run in one process and take turns: both multiply with NumPy's OpenBLAS, so they share
one thread pool, and other programs slow both down. Several processes are started one after the
other, since the layout of memory differs from process to process. A ratio divides our time by
scikit-learn's in two consecutive turns: below 1 nnaccel is faster. The table shows the median over
all rounds of all processes, and the median of the worst process.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from bench.shared.script import environment, run

SHAPES = {"20-100-10": (20, (100,), 10), "784-100-100-10": (784, (100, 100), 10)}
METHODS = ("predict", "predict_proba", "regress", "partial_fit")
PREDICTED = (1, 100, 10_000, 100_000)
LEARNED = (1, 200, 500)  # rows of a partial_fit
TURN = 0.01  # seconds a turn lasts at least


class Case(NamedTuple):
    """One row of the table."""

    shape: str
    dtype: str
    method: str
    rows: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float64"])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument(
        "--rows",
        type=int,
        nargs="*",
        help=f"default: {PREDICTED} for predictions, {LEARNED} for partial_fit",
    )
    parser.add_argument("--rounds", type=int, default=9, help="in each process; default 9")
    parser.add_argument("--processes", type=int, default=3, help="default 3")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        shape, dtype, method, rows = args.case
        print(json.dumps(measure(Case(shape, dtype, method, int(rows)), args.rounds)))
        return
    print(f"{'shape':15} {'dtype':8} {'method':14} {'rows':>7} {'scikit-learn':>13} "
          f"{'nnaccel':>11} {'ratio':>6} {'worst':>6}")  # fmt: skip
    for case in cases(args):
        found = [in_a_process(case, args.rounds) for _ in range(args.processes)]
        ratios = [[a / b for a, b in zip(f["ours"], f["theirs"], strict=True)] for f in found]
        ours, theirs = (
            1e3 * median(t for f in found for t in f[name]) for name in ("ours", "theirs")
        )
        ratio = median(ratio for some in ratios for ratio in some)
        print(f"{case.shape:15} {case.dtype:8} {case.method:14} {case.rows:7,} {theirs:10.3f} ms "
              f"{ours:8.3f} ms {ratio:6.2f} {max(map(median, ratios)):6.2f}",
              flush=True)  # fmt: skip


def cases(args: argparse.Namespace) -> Iterator[Case]:
    for shape in args.shapes:
        for dtype in args.dtypes:
            for method in args.methods:
                sizes = LEARNED if method == "partial_fit" else PREDICTED
                for rows in args.rows or sizes:
                    yield Case(shape, dtype, method, rows)


def in_a_process(case: Case, rounds: int) -> dict[str, list[float]]:
    """The seconds of a call of both, round by round, measured in a new process."""
    command = [sys.executable, __file__, "--rounds", str(rounds), "--case", *map(str, case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment())
    return json.loads(done.stdout)


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    contestants = dict(zip(("ours", "theirs"), calls(case), strict=True))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    n_calls = {name: int(TURN / seconds(call, 3)) + 1 for name, call in contestants.items()}
    for number in range(rounds):
        for name in sorted(contestants, reverse=bool(number % 2)):
            times[name].append(seconds(contestants[name], n_calls[name]))
    return times


def seconds(call: Callable[[], Any], n: int) -> float:
    """The seconds of a call, as the mean over n calls."""
    started = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - started) / n


def calls(case: Case) -> Iterator[Callable[[], Any]]:
    """The call to time, of nnaccel and of scikit-learn, on a network that has learned a little."""
    from sklearn import neural_network

    import nnaccel

    n_inputs, hidden, n_outputs = SHAPES[case.shape]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((max(case.rows, 500), n_inputs)).astype(case.dtype)
    classes = np.arange(n_outputs)
    y = np.resize(classes, len(X))
    for library in (nnaccel, neural_network):
        if case.method == "regress":
            model = library.MLPRegressor(hidden_layer_sizes=hidden, random_state=0, max_iter=1)
            y = rng.standard_normal((len(X), n_outputs)).astype(case.dtype)
        else:
            model = library.MLPClassifier(hidden, random_state=0, max_iter=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X[:500], y[:500])
        if case.method == "partial_fit":
            yield partial(model.partial_fit, X[: case.rows], y[: case.rows])
        else:
            method = getattr(model, "predict" if case.method == "regress" else case.method)
            yield partial(method, X[: case.rows])


if __name__ == "__main__":
    run(main)
