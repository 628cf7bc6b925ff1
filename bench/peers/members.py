"""Times the training of five networks on five folds: together, one by one, and without Numba.

    python bench/peers/members.py

A table of 5,000 rows of 8 numbers, each in 64 bins: 520-256-128-64-1, tanh, dropout 0.1, Adam,
batches of 128, float32. Network k does not see fold k. One epoch of all five is timed, in separate
processes that take turns, with one thread and with all. "whole runs" are five networks one after
the other that are trained on every row, like five single runs.
"""

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np

import nnaccel as nn
from bench.shared.measures import busy
from bench.shared.report import about, heading, write
from bench.shared.rounds import Worker, answer, arguments, take_turns, timed
from bench.shared.script import run

N, D, K, BINS = 5000, 8, 5, 64
CONTESTANTS = ("together", "one by one", "whole runs", "without Numba")
BASE = "whole runs"


def main() -> None:
    parser = arguments(__doc__ or "", CONTESTANTS, rounds=15)
    args = parser.parse_args()
    if args.worker:
        epochs = runs_of(args.worker[0])
        answer(lambda _: timed(lambda: [next(each) for each in epochs])[:1])
        return
    found = about(args.threads)
    workers, turns, times = [], {}, {}
    for threads in sorted({1, args.threads}):
        for name in args.contestants:
            worker = Worker([name], threads)
            workers.append(worker)
            worker.ask(1)  # compiles, or reads compiled code

            def turn(worker: Worker = worker) -> float:
                return worker.ask(1)[0]

            times[f"{name}, {threads}"], turns[f"{name}, {threads}"] = {}, turn
    take_turns(times, turns, args)
    for worker in workers:
        worker.close()
    found["epochs"] = times
    text = table(found)
    print(text)
    write(found, "members", text, args.output)


def runs_of(name: str) -> list[Iterator[Any]]:
    """The runs whose next epochs are timed: one for all networks, or one for each."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D)).astype("float32")
    Y = np.sin(2 * X[:, :1])
    places = np.linspace(0, 1, BINS + 1)
    edges = tuple(tuple(np.quantile(x, places).astype(float).tolist()) for x in X.T)
    dense = nn.mlp(D * (BINS + 1), [256, 128, 64], 1, activation="tanh", dropout=0.1)
    network = nn.Network(D, (nn.PiecewiseLinear(edges), *dense.layers))
    params = nn.initialize(network, 0, members=K)
    weights = (np.arange(N) % K != np.arange(K)[:, None]).astype("float32")

    def run_of(params: Any, weights: Any) -> Iterator[Any]:
        return nn.train(
            network, X, Y, loss="squared_error", params=params, sample_weight=weights,
            optimizer=nn.optimizers.adamw(1e-3, weight_decay=0.2), epochs=10**6, metric="RMSE",
            kernels="numpy" if name == "without Numba" else True,
        )  # fmt: skip

    if name in ("together", "without Numba"):
        return [run_of(params, weights)]
    alone = [None] * K if name == "whole runs" else list(weights)
    return [run_of(start, own) for start, own in zip(params, alone, strict=True)]


def table(found: dict[str, Any]) -> str:
    """The best epoch of each, and the median ratio to whole runs on one thread, round by round."""
    base = found["epochs"].get(f"{BASE}, 1", {}).get("times")
    lines = ["| networks, threads | best epoch of all, ms | over whole runs, 1 |", "|---|---|---|"]
    for name, entry in found["epochs"].items():
        times = entry["times"]
        ratio = ""
        if base:
            ratio = f"{statistics.median(t / b for t, b in zip(times, base, strict=True)):.2f}"
        lines.append(f"| {name} | {1e3 * min(times):.0f} | {ratio} |")
    said = busy(entry["times"] for entry in found["epochs"].values())
    return "\n".join([heading(found), *lines, *(["", said] if said else [])]) + "\n"


if __name__ == "__main__":
    run(main)
