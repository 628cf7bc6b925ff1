"""Measures how much of a step is not matrix products, and which part of that more threads do not
shorten.

    python bench/peers/serial.py                                  # the two large shapes

The step and its bare products are timed with one thread and with all threads, each in its own
process, in turns. The rest is the time of the step without its products. By Amdahl's law, rest(n) =
serial + parallel / n, two numbers of threads give its serial part. The target is a serial part of
at most a tenth of the step. The last column is the number of threads at which it would exceed a
tenth if everything else shrank in proportion.
"""

import math
import time
from typing import Any

from bench.peers.contestants import CONTESTANTS
from bench.shared.measures import rest
from bench.shared.report import FLOOR, about, heading, write
from bench.shared.rounds import Worker, answer, arguments, deadline, say, take_turns, timed
from bench.shared.script import run
from bench.shared.shapes import SHAPES, problem

TARGET = 0.1
TURN = 0.4  # seconds


def main() -> None:
    parser = arguments(__doc__ or "", ["nnaccel", "nnaccel[fast]"], rounds=11)
    parser.add_argument("--shapes", type=int, nargs="*", default=[2, 3], help="0 to 3")
    args = parser.parse_args()
    if args.worker:
        run = CONTESTANTS[args.worker[0]](problem(SHAPES[int(args.worker[1])]))
        answer(lambda epochs: timed(run, epochs))
        return
    if args.threads < 2:
        parser.error("--threads must be 2 or more: one thread is compared with so many")
    found = about(args.threads)
    names = [FLOOR, *args.contestants]
    end, found["steps"] = time.monotonic() + 60 * args.minutes, {}
    for left, n in zip(range(len(args.shapes), 0, -1), args.shapes, strict=True):
        found["steps"][SHAPES[n].name] = measure(n, names, args, deadline(end, left))
    text = table(found)
    print(text)
    write(found, "serial", text, args.output)


def measure(
    number: int, names: list[str], args: Any, stop: float
) -> dict[str, dict[str, list[float]]]:
    """Seconds a step in each round, by contestant and number of threads."""
    shape, workers, found, turns = SHAPES[number], [], {}, {}
    say(shape.name)
    for name in names:
        for threads in (1, args.threads):
            worker = Worker([name, number], threads)
            workers.append(worker)
            worker.ask(1)
            epochs = max(1, round(TURN / worker.ask(1)[0]))

            def turn(worker: Worker = worker, epochs: int = epochs) -> float:
                return worker.ask(epochs)[0] / epochs / shape.steps

            found[f"{name} {threads}"], turns[f"{name} {threads}"] = {}, turn
    take_turns(found, turns, args, stop=stop)
    for worker in workers:
        worker.close()
    return {
        name: {str(n): found[f"{name} {n}"]["times"] for n in (1, args.threads)} for name in names
    }


def table(found: dict[str, Any]) -> str:
    """The best step of each, its rest, and the serial part of the rest."""
    n = found["machine"]["threads"]
    head = [
        "step ms, 1 thread",
        f"{n} threads",
        "products ms, 1 thread",
        f"{n} threads",
        "rest of the step, 1 thread",
        f"{n} threads",
        f"serial part of the rest, of the step at {n} threads",
        "a tenth is passed at",
    ]
    parts = [
        heading(found),
        "Best of the rounds. Rest: the share of the step that is not matrix products. Serial: by\n"
        "Amdahl's law from both.\n",
    ]
    for shape, times in found["steps"].items():
        best = {name: (min(t["1"]), min(t[str(n)])) for name, t in times.items()}
        products = best.pop(FLOOR)
        lines = [f"### {shape}\n", f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
        for name, steps in best.items():
            left = rest(steps, products, n)
            cells = [f"{1e3 * s:.4g}" for s in (*steps, *products)]
            cells += [f"{left.share_1:.3f}", f"{left.share_n:.3f}", f"{left.serial_share:.3f}"]
            cells.append(threads_to(TARGET, steps[1], left.serial, n))
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def threads_to(share: float, step: float, serial: float, n: int) -> str:
    """The number of threads at which `serial` is the given share of a step whose other parts
    shrink."""
    if serial <= 0.0:
        return "never"
    parallel = n * (step - serial)  # seconds at one thread
    number = math.ceil(parallel * share / (serial * (1 - share)))
    return f"{number} thread{'s' * (number > 1)}"


if __name__ == "__main__":
    run(main)
