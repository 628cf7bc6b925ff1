"""Times nnaccel and its peers on the same training steps, each in its own process.

    python bench/peers/steps.py                             # the four shapes, every contestant
    python bench/peers/steps.py --shapes 2 3 --contestants products "nnaccel[fast]" "torch eager"

The processes take turns, a few epochs each, round by round. Before that, each has trained the same
number of epochs from the same parameters, and their losses are compared: a contestant with another
loss is not shown.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from bench.peers.contestants import CONTESTANTS, OWN_ORDER
from bench.shared.measures import Entry, best, busy, judge, markdown, median, ratio_to
from bench.shared.report import FLOOR, OURS, about, chart, heading, load, write
from bench.shared.rounds import Worker, answer, arguments, deadline, say, take_turns, timed
from bench.shared.script import run
from bench.shared.shapes import SHAPES, Shape, problem

EPOCHS = 3  # before the losses are compared
TOLERANCE = 0.02  # relative: sums in another order, and float32
LEGEND = (
    "Milliseconds a step: the best and the median of the rounds. Products: the matrix products of\n"
    "the same step alone, by NumPy. Ratios: time of the row over nnaccel's in the same round,\n"
    "median and quartiles; above 1, nnaccel is faster.\n"
)


def main() -> None:
    parser = arguments(__doc__ or "", CONTESTANTS, rounds=15)
    parser.add_argument("--shapes", type=int, nargs="*", default=range(len(SHAPES)), help="0 to 3")
    parser.add_argument("--turn", type=float, default=0.4, help="seconds")
    args = parser.parse_args()
    if args.worker:
        work(args.worker[0], int(args.worker[1]))
        return
    end = time.monotonic() + 60 * args.minutes
    found = about(args.threads) | {"load": load()}
    print(opening(found), flush=True)
    problems = found["problems"] = {}
    for place, number in enumerate(args.shapes):
        left = sum(share_of(n) for n in args.shapes[place:]) / share_of(number)
        name = SHAPES[number].name.replace("x", ", batch ")
        problems[name] = compare(SHAPES[number], args, deadline(end, left), end)
        print(section(name, problems[name]), flush=True)
    path = write(found, "steps", table(found), args.output)
    chart(found, "ms a step: best round (median)", "A training step", path)


def share_of(number: int) -> int:
    """The share of the time for a network, since a round of the largest takes long."""
    return 3 if SHAPES[number].flops > 1e10 else 1


def work(name: str, shape: int) -> None:
    """A worker answers a number of epochs with seconds and the mean loss of the last one."""
    run = CONTESTANTS[name](problem(SHAPES[shape]))
    answer(lambda epochs: timed(run, epochs))


def compare(shape: Shape, args: argparse.Namespace, stop: float, end: float) -> dict[str, Any]:
    """Milliseconds a step of each contestant in each round, and its loss after the first epochs.

    stop: when rounds end.   end: when the benchmark waits for no contestant any more."""
    say(f"{shape.name}: {shape.flops / 1e9:.3g} GFLOP a step")
    number, found, turns = SHAPES.index(shape), {}, {}
    # All import their libraries at the same time, on all processors.
    workers = {name: Worker([name, number], args.threads) for name in args.contestants}
    for name, worker in workers.items():
        found[name] = first_epochs(name, worker, max(1.0, end - time.monotonic()))
    for name, worker in workers.items():  # when all have imported and compiled
        if "problem" not in found[name]:
            turns[name] = turn_of(worker, shape, args.turn, found[name]["seconds"])
    judge(found, "loss", TOLERANCE, leave=(FLOOR, *OWN_ORDER))
    take_turns(found, turns, args, stop=stop)
    for worker in workers.values():
        worker.close()
    return {"gflop": shape.flops / 1e9, "batch": shape.batch, "contestants": found}


def first_epochs(name: str, worker: Worker, limit: float) -> Entry:
    """The loss after the first epochs, or the problem, such as no answer in time."""
    try:
        seconds, loss = worker.ask(EPOCHS, limit=limit)
    except RuntimeError as error:
        say(f"  {name}: {error}")
        return {"problem": str(error)}
    say(f"  {name}: {EPOCHS} epochs, {seconds:.3g} s, loss {loss:.4g}")
    return {"loss": loss, "seconds": seconds / EPOCHS}


def turn_of(worker: Worker, shape: Shape, seconds: float, one_epoch: float) -> Callable[[], float]:
    """The milliseconds of a step, from a turn of about `seconds`.

    one_epoch: mean seconds of the first epochs, including compiling."""
    if one_epoch < 4 * seconds:
        one_epoch = min(worker.ask(1)[0] for _ in range(3))
    epochs = max(1, round(seconds / one_epoch))
    return lambda: 1e3 * worker.ask(epochs)[0] / epochs / shape.steps


def table(found: dict[str, Any]) -> str:
    """The results in Markdown: times, ratios to ours, and shares of the bare products."""
    sections = (section(name, result) for name, result in found["problems"].items())
    return "\n".join([opening(found), *sections])


def opening(found: dict[str, Any]) -> str:
    """The origin of the numbers, and how to read them."""
    return "\n".join([heading(found), *filter(None, [found.get("load")]), LEGEND])


def section(name: str, result: dict[str, Any]) -> str:
    """The table of one shape."""
    entries = result["contestants"]
    floor = min(entries.get(FLOOR, {}).get("times") or [float("nan")])
    columns: dict[str, Callable[[Entry], str]] = {
        "best ms": best,
        "median ms": median,
        "GFLOP/s": lambda entry: f"{result['gflop'] / min(entry['times']) * 1e3:.3g}",
        "share of products": lambda entry: f"{floor / min(entry['times']):.2f}",
    }
    for our in OURS[:2]:
        if entries.get(our, {}).get("times"):
            columns[f"to {our}"] = ratio_to(entries[our])
    note = busy(entry["times"] for entry in entries.values() if entry.get("times"))
    return f"### {name}\n\n{markdown(entries, columns)}" + (f"\n{note}\n" if note else "")


if __name__ == "__main__":
    run(main)
