"""Times permutation importance and scikit-learn's, on 10,000 rows of 20 columns, five shuffles
each.

    python bench/peers/importance.py

There are two tables: 20 numbers, and 12 numbers with 8 columns of text. "nnaccel" is
`Model.importance` of a `TableClassifier`; "scikit-learn" is scikit-learn's `permutation_importance`
of its own `MLPClassifier` after its own encoding; "scikit-learn of nnaccel" is that function of the
same `TableClassifier`, which finds the same values. Both networks have 100 hidden units with ReLU.
Each is timed in its own process; they take turns.
"""

import statistics
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.shared.measures import busy
from bench.shared.report import about, heading, write
from bench.shared.rounds import Worker, answer, arguments, take_turns, timed
from bench.shared.script import run

N, COLUMNS, TEXTS, REPEATS = 10_000, 20, 8, 5
TABLES = ("numbers", "numbers and text")
CONTESTANTS = ("nnaccel", "scikit-learn", "scikit-learn of nnaccel")


def main() -> None:
    args = arguments(__doc__ or "", CONTESTANTS, rounds=15).parse_args()
    if args.worker:
        name, table = args.worker
        call = calls(table)[name]()
        answer(lambda _: timed(call)[:1])
        return
    found = about(args.threads)
    found["tables"] = {}
    for table in TABLES:
        workers = {name: Worker([name, table], args.threads) for name in args.contestants}
        for worker in workers.values():
            worker.ask(1)  # the first call takes longer
        times: dict[str, Any] = {name: {} for name in workers}
        turns = {n: partial(_seconds, worker) for n, worker in workers.items()}
        take_turns(times, turns, args)
        for worker in workers.values():
            worker.close()
        found["tables"][table] = times
    text = summary(found)
    print(text)
    write(found, "importance", text, args.output)


def _seconds(worker: Worker) -> float:
    return worker.ask(1)[0]


def frame(table: str) -> tuple[Any, np.ndarray]:
    """A data frame of 20 columns, and its classes 0 and 1."""
    import pandas as pd

    rng = np.random.default_rng(0)
    n_texts = TEXTS if table == "numbers and text" else 0
    columns = {f"number {i}": rng.standard_normal(N) for i in range(COLUMNS - n_texts)}
    for i in range(n_texts):
        columns[f"text {i}"] = rng.choice([f"level {k}" for k in range(3 + 2 * i)], N)
    values = columns["number 0"] * columns["number 1"] + columns["number 2"]
    if n_texts:
        values = values + (columns["text 0"] == "level 1")
    return pd.DataFrame(columns), (values + rng.normal(0, 0.5, N) > 0.3).astype(int)


def calls(table: str) -> dict[str, Callable[[], Callable[[], np.ndarray]]]:
    """The functions that make the call of each contestant, which returns the importances (20,
    5)."""
    from sklearn.compose import make_column_transformer
    from sklearn.inspection import permutation_importance
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    from nnaccel import TableClassifier

    warnings.simplefilter("ignore")
    X, y = frame(table)

    def nnaccel_model() -> Any:
        how = {"hidden": (100,), "activation": "relu", "members": 1, "numbers": "plain"}
        return TableClassifier(**how, epochs=3, random_state=0).fit(X, y)

    def of_scikit_learn(model: Any) -> Callable[[], np.ndarray]:
        how = {"n_repeats": REPEATS, "random_state": 0}
        return lambda: permutation_importance(model, X, y, **how).importances

    def pipeline() -> Any:
        texts = [name for name in X if name.startswith("text")]
        numbers = [name for name in X if name not in texts]
        encoders = (StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore"), texts)
        network = MLPClassifier((100,), max_iter=3, random_state=0)
        return make_pipeline(make_column_transformer(*encoders), network).fit(X, y)

    def ours() -> Callable[[], np.ndarray]:
        model = nnaccel_model().model_
        return lambda: model.importance(X, y, repeats=REPEATS, seed=0).values

    return {
        "nnaccel": ours,
        "scikit-learn": lambda: of_scikit_learn(pipeline()),
        "scikit-learn of nnaccel": lambda: of_scikit_learn(nnaccel_model()),
    }


def summary(found: dict[str, Any]) -> str:
    """The best time of each, and its ratio to nnaccel's, round by round."""
    lines = ["| table | contestant | best, s | times as long as nnaccel |", "|---|---|---|---|"]
    for table, entries in found["tables"].items():
        ours = entries.get("nnaccel", {}).get("times")
        for name, entry in entries.items():
            ratio = ""
            if ours:
                each = (t / o for t, o in zip(entry["times"], ours, strict=True))
                ratio = f"{statistics.median(each):.1f}"
            lines.append(f"| {table} | {name} | {min(entry['times']):.2f} | {ratio} |")
    entries = (e["times"] for each in found["tables"].values() for e in each.values())
    said = busy(entries)
    return "\n".join([heading(found), *lines, *(["", said] if said else [])]) + "\n"


if __name__ == "__main__":
    run(main)
