"""What `tune` gains: trials side by side beside separate runs, and the best beside the default.

    python bench/tuning.py speed
    python bench/tuning.py scores --data FOLDER    # of Adult (train and test) and California

`speed`: four trials of the default network on 20,000 rows of 8 numbers, side by side and one after
the other, an epoch each, in processes that take turns; then a search of eight trials to its end
beside whole runs of the same eight settings.

`scores`: default fits with seeds 0 to 4, and a search with the fit of its best in the processor
time of five of them, each in a process of its own with one thread; time is that of the processor,
from the start of Python on. All have the same test rows, which nobody sees before the end. With
--seeds 1 the time of five defaults is five times that of one.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

import nnaccel as nn
from bench.shared.report import RESULTS, about, heading, load, write
from bench.shared.rounds import Worker, answer, say
from bench.shared.script import environment, run
from nnaccel.tabular import space
from nnaccel.tabular.contest import Contest
from nnaccel.tabular.datasets import split
from nnaccel.tabular.preparation import prepared
from nnaccel.tabular.sources import Examples
from nnaccel.tabular.space import draws
from nnaccel.tabular.survey import NO_RULES
from nnaccel.tabular.tuning import SIDE, Clock, tune

N, K, EPOCHS = 20_000, 8, 20
SPACE = {name: space.SPACE[name] for name in ("learning_rate", "weight_decay")}
TABLES = ("adult", "california", "digits", "breast_cancer", "diabetes")
DEFAULTS = 5  # whose time a search has


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "scores"), nargs="?")
    parser.add_argument("--data", type=Path, help="the folder of Adult and California")
    parser.add_argument("--tables", nargs="*", default=[*TABLES], choices=TABLES)
    parser.add_argument("--seeds", type=int, default=DEFAULTS, help="of the default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="default: a .json in bench/results, by date")
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        WORKERS[args.worker[0]](*args.worker[1:])
        return
    {"speed": speed, "scores": scores}[args.what or "speed"](args)


# ---------------------------------------------------------------------------- speed


def table() -> Examples:
    """A regression on 20,000 rows of 8 numbers."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 8)).astype("float32")
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.3 * rng.standard_normal(N)
    return Examples("20,000 rows", X, y, "y", None, "regression", None)


def speed(args: argparse.Namespace) -> None:
    found: dict[str, Any] = about(args.threads) | {"busy": load(), "times": {}}
    for pair in (("together", "apart"), ("search", "runs")):
        workers = {name: Worker([name], args.threads) for name in pair}
        for worker in workers.values():
            worker.ask(1)  # compiles, or reads what is compiled
        times: dict[str, list[list[float]]] = {name: [] for name in pair}
        for _ in range(args.rounds if pair[0] == "together" else 2):
            for name, worker in workers.items():
                times[name].append(worker.ask(1))
                say(f"{name}: {times[name][-1][0]:.2f} s")
        for worker in workers.values():
            worker.close()
        found["times"] |= times
    text = speed_page(found)
    print(text)
    write(found, "tuning-speed", text, args.output)


def speed_worker(name: str) -> None:
    """Answers with the seconds of the wall clock and of the processors."""
    settings, examples = nn.Settings(epochs=EPOCHS), table()
    made = prepared(examples, settings, NO_RULES, 0.2)
    contest = Contest(made, settings, False, nn.select("cpu"), True)
    groups = draws(SPACE, settings, contest.defaults, K, SIDE)
    if name in ("together", "apart"):
        sets = groups[:1] if name == "together" else [[each] for each in groups[0]]
        runs = [iter(b) for each in sets for b in contest.branches(each, [None, None])]
        answer(lambda _: timed(lambda: [next(each) for each in runs]))
        return

    def whole(is_first: bool) -> None:
        if name == "search":
            for _ in tune(examples, settings, space=SPACE, trials=K, seconds=None):
                if is_first:
                    return
        for each in (trial for group in groups for trial in group if name == "runs"):
            for branch in contest.branches([each], [None, None]):
                for _ in branch:
                    if is_first:
                        return

    rounds = count()
    answer(lambda _: timed(lambda: whole(next(rounds) == 0)))


def timed(function: Callable[[], Any]) -> list[float]:
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return [time.perf_counter() - wall, time.process_time() - cpu]


def speed_page(found: dict[str, Any]) -> str:
    lines = ["| | wall, s | processors, s | separate / together, wall | processors |",
             "|---|---|---|---|---|"]  # fmt: skip
    words = {
        "together": f"an epoch of {SIDE} trials, both kinds of networks, side by side",
        "apart": "the same, one after the other",
        "search": f"a search of {K} trials, {EPOCHS} epochs",
        "runs": f"{K} whole runs, one after the other",
    }
    for pair in (("together", "apart"), ("search", "runs")):
        ours, theirs = (found["times"][name] for name in pair)
        for name, each in zip(pair, (ours, theirs), strict=True):
            best = [f"{min(t[i] for t in each):.2f}" for i in (0, 1)]
            ratio = ["", ""]
            if name == pair[1]:
                ratio = [ratio_of(ours, theirs, i) for i in (0, 1)]
            lines.append(f"| {words[name]} | {' | '.join(best)} | {' | '.join(ratio)} |")
    said = " ".join(["Ratios are medians over the rounds.", found["busy"]]).strip()
    return "\n".join([heading(found), *lines, "", said]) + "\n"


def ratio_of(ours: list[list[float]], theirs: list[list[float]], i: int) -> str:
    """The median over the rounds."""
    return f"{statistics.median(b[i] / a[i] for a, b in zip(ours, theirs, strict=True)):.2f}"


# ---------------------------------------------------------------------------- scores


def examples_of(name: str, folder: str) -> Examples:
    """The examples, a fifth of them for the test where they have no test of their own."""
    if name == "adult":
        test = nn.read(f"{folder}/adult_test.csv", ["income"])
        return nn.read(f"{folder}/adult_train.csv", ["income"])._replace(test=test.rows)
    source = f"{folder}/california.csv" if name == "california" else name
    examples = nn.read(source, ["MedHouseVal"] if name == "california" else None)
    classes = examples.task == "classification"
    codes = np.asarray(examples.y) if classes else np.arange(len(examples.y))
    kept, held = split(codes, 0.2, 0, classes)
    rows, test = examples.rows.take(kept), examples.rows.take(held)
    return examples._replace(data=rows.data, y=rows.y, test=test)


def fitted(examples: Examples, settings: nn.Settings) -> dict[str, Any]:
    """The test scores of a fit, and those out of fold."""
    fit = nn.Fit(examples, settings)
    for _ in fit:
        pass
    model = fit.model()
    scores = {name: v for name, v in fit.evaluate(model).items() if isinstance(v, float)}
    return {"test": scores, "out of fold": model.scores, "numbers": fit.chosen}


def default_worker(name: str, folder: str, seed: str) -> None:
    found = fitted(examples_of(name, folder), nn.Settings(seed=int(seed)))
    print(json.dumps(found | {"seconds": time.process_time()}))


def tune_worker(name: str, folder: str, seconds: str) -> None:
    Clock.now = staticmethod(time.process_time)
    examples = examples_of(name, folder)
    budget = float(seconds) - time.process_time()
    *_, rung = tune(examples, trials=400, seconds=budget)
    trials = [trial._asdict() for trial in rung.ranking]
    found = {"trials": trials, "searched": time.process_time(), "metric": rung.metric}
    print(json.dumps(found | fitted(examples, rung.settings) | {"seconds": time.process_time()}))


WORKERS: dict[str, Callable[..., None]] = {
    **{name: partial(speed_worker, name) for name in ("together", "apart", "search", "runs")},
    "default": default_worker,
    "tune": tune_worker,
}


def scores(args: argparse.Namespace) -> None:
    path = args.output or RESULTS / f"tuning-{datetime.now(UTC):%Y-%m-%d}.json"
    found: dict[str, Any] = about(1) | {"tables": {}}
    if path.exists():
        found["tables"] = json.loads(path.read_text())["tables"]
    for name in args.tables:
        if name in found["tables"]:
            continue
        runs = [asked("default", name, args.data, seed) for seed in range(args.seeds)]
        seconds = DEFAULTS * statistics.fmean(each["seconds"] for each in runs)
        say(f"{name}: five defaults took {seconds:.0f} s of the processor")
        best = asked("tune", name, args.data, seconds)
        found["tables"][name] = {"defaults": runs, "tuned": best}
        write(found, "tuning", scores_page(found), path)
    print(scores_page(found))


def asked(*words: Any) -> dict[str, Any]:
    pools = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    one = environment(**{f"{pool}_NUM_THREADS": "1" for pool in pools})
    command = [sys.executable, __file__, "--worker", *map(str, words)]
    return json.loads(subprocess.check_output(command, env=one, text=True).splitlines()[-1])


def error_of(scores: dict[str, float], prefix: str = "") -> float:
    """Log loss of classes, RMSE of numbers; not a number where there is no such score."""
    return scores.get(f"{prefix}log loss", scores.get(f"{prefix}RMSE", math.nan))


def cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def scores_page(found: dict[str, Any]) -> str:
    """A row for each table; less is better in all columns but the last."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, table in found["tables"].items():
        lines.append(f"| {' | '.join([name, *row_of(table)])} |")
    return "\n".join([heading(found), *lines, "", LEGEND]) + "\n"


COLUMNS = (
    "table", "validation: default", "best trial", "out of fold: best default", "tuned",
    "test: mean of defaults", "best default by validation", "tuned", "accuracy: mean of defaults",
    "tuned", "trials", "s: 5 defaults", "search and fit",
)  # fmt: skip
LEGEND = """\
validation: the loss that the search looks for, of the default settings and of the best trial, on
the same rows. The others are log loss, or RMSE of numbers, of defaults of seeds 0 to 4 at most.
Digits are one network, which has no score out of fold; its best default is that of seed 0. Seconds
are those of the processor.
"""


def row_of(table: dict[str, Any]) -> Iterator[str]:
    runs, tuned = table["defaults"], table["tuned"]
    default = next(trial for trial in tuned["trials"] if not trial["drawn"])
    unseen = [error_of(each["out of fold"], "out-of-fold ") for each in runs]
    best = 0 if math.isnan(unseen[0]) else int(np.argmin(unseen))
    test = [error_of(each["test"]) for each in runs]
    accuracies = [each["test"].get("accuracy", math.nan) for each in runs]
    yield cell(default["losses"][-1])
    yield cell(tuned["trials"][0]["losses"][-1])
    yield cell(unseen[best])
    yield cell(error_of(tuned["out of fold"], "out-of-fold "))
    yield cell(statistics.fmean(test))
    yield cell(test[best])
    yield cell(error_of(tuned["test"]))
    yield cell(statistics.fmean(accuracies))
    yield cell(tuned["test"].get("accuracy", math.nan))
    yield str(len(tuned["trials"]))
    yield f"{DEFAULTS * statistics.fmean(each['seconds'] for each in runs):.0f}"
    yield f"{tuned['seconds']:.0f}"


if __name__ == "__main__":
    run(main)
