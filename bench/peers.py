"""nnaccel beside its peers on the same training steps, each in a process of its own.

    python bench/peers.py                                   # the four shapes, every contestant
    python bench/peers.py --shapes 2 3 --contestants products "nnaccel[fast]" "torch eager"

The processes take turns, a few epochs each, round by round. Before that, each has trained the
same number of epochs from the same parameters, and their losses are compared: who computes
something else is not shown.
"""

import argparse
import sys
from typing import Any

from contestants import CONTESTANTS, OWN_ORDER
from measures import Entry, best, judge, markdown, median, ratio_to
from report import FLOOR, OURS, about, chart, heading, write
from rounds import Worker, answer, arguments, take_turns, timed
from script import run
from shapes import SHAPES, problem

EPOCHS = 3  # before the losses are compared
TOLERANCE = 0.02  # relative: sums in another order, and float32


def main() -> None:
    parser = arguments(__doc__ or "", CONTESTANTS, rounds=15)
    parser.add_argument("--shapes", type=int, nargs="*", default=range(len(SHAPES)), help="0 to 3")
    parser.add_argument("--turn", type=float, default=0.4, help="seconds")
    args = parser.parse_args()
    if args.worker:
        work(args.worker[0], int(args.worker[1]))
        return
    found = about(args.threads)
    found["problems"] = {}
    for number in args.shapes:
        name = SHAPES[number].name.replace("x", ", batch ")
        found["problems"][name] = compare(number, args)
    path = write(found, "peers", table(found), args.output)
    chart(found, "ms a step: best round (median)", "A training step", path)


def work(name: str, shape: int) -> None:
    """A worker answers a number of epochs with seconds and the mean loss of the last one."""
    run = CONTESTANTS[name](problem(SHAPES[shape]))
    answer(lambda epochs: timed(run, epochs))


def compare(number: int, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step of each contestant in each round, and its loss after the first epochs."""
    shape, workers, found, turns = SHAPES[number], [], {}, {}
    print(f"{shape.name}: {shape.flops / 1e9:.3g} GFLOP a step", file=sys.stderr)
    for name in args.contestants:
        worker = Worker([name, number], args.threads)
        workers.append(worker)
        try:
            _, loss = worker.ask(EPOCHS)
            worker.ask(1)
            seconds = min(worker.ask(1)[0] for _ in range(3))
        except RuntimeError as error:
            found[name] = {"problem": str(error)}
            continue
        epochs = max(1, round(args.turn / seconds))

        def turn(worker: Worker = worker, epochs: int = epochs) -> float:
            return 1e3 * worker.ask(epochs)[0] / epochs / shape.steps

        found[name] = {"loss": loss}
        turns[name] = turn
    judge(found, "loss", TOLERANCE, leave=(FLOOR, *OWN_ORDER))
    take_turns(found, turns, args)
    for worker in workers:
        worker.close()
    return {"gflop": shape.flops / 1e9, "batch": shape.batch, "contestants": found}


def table(found: dict[str, Any]) -> str:
    """The results in Markdown: times, ratios to ours, and shares of the bare products."""
    parts = [
        heading(found),
        "Milliseconds a step: the best and the median of the rounds. Ratios: time of the row over\n"
        "time of nnaccel in the same round, median and quartiles; above 1, nnaccel is faster.\n",
    ]
    for name, result in found["problems"].items():
        entries = result["contestants"]
        floor = min(entries.get(FLOOR, {}).get("times") or [float("nan")])

        def rate(entry: Entry, gflop: float = result["gflop"]) -> str:
            return f"{gflop / min(entry['times']) * 1e3:.3g}"

        def share(entry: Entry, floor: float = floor) -> str:
            return f"{floor / min(entry['times']):.2f}"

        columns = {
            "best ms": best,
            "median ms": median,
            "GFLOP/s": rate,
            "share of products": share,
        }
        for our in OURS[:2]:
            if entries.get(our, {}).get("times"):
                columns[f"to {our}"] = ratio_to(entries[our])
        parts.append(f"### {name}\n\n{markdown(entries, columns)}")
    return "\n".join(parts)


if __name__ == "__main__":
    run(main)
