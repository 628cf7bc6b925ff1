"""nnaccel beside its peers on the same training steps, each in a process of its own.

    python bench/peers.py                                   # the four shapes, every contestant
    python bench/peers.py --shapes 2 3 --contestants products "nnaccel[fast]" "torch eager"

The processes take turns, a few epochs each, round by round, so that a machine that slows down
slows all of them alike; a ratio is formed within a round, and its median over the rounds is shown
with the quartiles. Before that, each has trained the same number of epochs from the same
parameters, and their losses are compared: who computes something else is not shown.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from contestants import CONTESTANTS, OWN_ORDER
from shapes import SHAPES, problem

from nnaccel.devices import available

RESULTS = Path(__file__).parent / "results"
OURS = ("nnaccel", "nnaccel[fast]", "nnaccel jax", "nnaccel torch")
EPOCHS = 3  # before the losses are compared
TOLERANCE = 0.02  # relative: sums in another order, and float32
PAUSE = 0.25  # seconds between turns: thread pools spin that long before they sleep
LIBRARIES = ("nnaccel", "numpy", "numba", "torch", "jax", "scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shapes", type=int, nargs="*", default=range(len(SHAPES)), help="0 to 3")
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turn", type=float, default=0.4, help="seconds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="default: bench/results/peers-DATE.json")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker[0], int(args.worker[1]))
        return
    found = {
        "command": shlex.join(["python", "bench/peers.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(args.threads),
        "shapes": {},
    }
    for number in args.shapes:
        found["shapes"][SHAPES[number].name] = compare(number, args)
    path = args.output or RESULTS / f"peers-{found['date'][:10]}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    text = table(found)
    path.with_suffix(".md").write_text(text)
    print(text)
    chart(found, path.with_suffix(".png"))


def machine(threads: int) -> dict[str, Any]:
    """What a reader needs to know about where the numbers come from."""
    versions = {}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    hardware = next((device.hardware for device in available() if device.name == "cpu"), "")
    return {
        "processor": hardware or platform.processor(),
        "threads": threads,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
    }


class Worker:
    """A contestant in a process of its own, which waits until it is asked."""

    def __init__(self, name: str, shape: int, threads: int) -> None:
        processors = sorted(os.sched_getaffinity(0))[:threads]
        count = {
            f"{pool}_NUM_THREADS": str(threads) for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA")
        }
        command = [sys.executable, __file__, "--worker", name, str(shape)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | count,
            # XLA takes its number of threads from the processors that it may run on.
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
        )

    def ask(self, epochs: int) -> tuple[float, float]:
        """Seconds for so many epochs, and the mean loss of the last one."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{epochs}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            assert self.process.stderr
            raise RuntimeError(self.process.stderr.read().strip().rpartition("\n")[2])
        seconds, loss = map(float, answer.split())
        return seconds, loss

    def close(self) -> None:
        self.process.communicate()


def work(name: str, shape: int) -> None:
    """The life of a worker: build, then answer each number of epochs with seconds and loss."""
    run = CONTESTANTS[name](problem(SHAPES[shape]))
    for line in sys.stdin:
        started = time.perf_counter()
        loss = run(int(line))
        print(time.perf_counter() - started, loss, flush=True)


def compare(number: int, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step of each contestant in each round, and its loss after the first epochs."""
    shape, workers, found, epochs = SHAPES[number], {}, {}, {}
    print(f"{shape.name}: {shape.flops / 1e9:.3g} GFLOP a step", file=sys.stderr)
    for name in args.contestants:
        worker = Worker(name, number, args.threads)
        try:
            _, loss = worker.ask(EPOCHS)
            worker.ask(1)
            seconds = min(worker.ask(1)[0] for _ in range(3))
        except RuntimeError as error:
            found[name] = {"problem": str(error)}
            worker.close()
            continue
        found[name] = {"loss": loss, "step_ms": []}
        workers[name], epochs[name] = worker, max(1, round(args.turn / seconds))
    judge(found)
    names = [name for name in workers if "problem" not in found[name]]
    for turn in range(args.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            time.sleep(PAUSE)
            seconds, _ = workers[name].ask(epochs[name])
            found[name]["step_ms"].append(1e3 * seconds / epochs[name] / shape.steps)
    for worker in workers.values():
        worker.close()
    return {"gflop": shape.flops / 1e9, "batch": shape.batch, "contestants": found}


def judge(found: dict[str, Any]) -> None:
    """Marks who has not come to the same loss as the others."""
    losses = {
        name: entry["loss"]
        for name, entry in found.items()
        if "loss" in entry and name != "products" and name not in OWN_ORDER
    }
    middle = statistics.median(losses.values()) if losses else 0.0
    for name, loss in losses.items():
        if not abs(loss - middle) <= TOLERANCE * middle:
            found[name]["problem"] = f"comes to a loss of {loss:.4g}, the others to {middle:.4g}"


def ratios(peer: list[float], ours: list[float]) -> tuple[float, float, float]:
    """The quartiles of time_peer / time_ours over the rounds: lower, median, upper."""
    quotients = sorted(p / o for p, o in zip(peer, ours, strict=True))
    if len(quotients) < 4:
        return quotients[0], statistics.median(quotients), quotients[-1]
    lower, middle, upper = statistics.quantiles(quotients, n=4)
    return lower, middle, upper


def table(found: dict[str, Any]) -> str:
    """The results in Markdown: times, ratios to ours, and shares of the bare products."""
    about = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"{about['processor']}, {about['threads']} threads, {found['date'][:10]}; {versions}.",
        f"Command: `{found['command']}`",
        "",
        "Milliseconds a step: the best and the median of the rounds. Ratios: time of the row over",
        "time of nnaccel in the same round, median and quartiles; above 1, nnaccel is faster.",
    ]
    for shape, result in found["shapes"].items():
        entries = result["contestants"]
        ours = [n for n in OURS[:2] if entries.get(n, {}).get("step_ms")]
        head = ["best ms", "median ms", "GFLOP/s", "share of products", *(f"to {n}" for n in ours)]
        lines += [
            "",
            f"### {shape}",
            "",
            f"| | {' | '.join(head)} |",
            "|---" * (len(head) + 1) + "|",
        ]
        floor = min(entries.get("products", {}).get("step_ms") or [float("nan")])
        for name, entry in entries.items():
            times = entry.get("step_ms")
            if not times:
                lines.append(
                    f"| {name} | {entry.get('problem', 'not run')} |" + " |" * (len(head) - 1)
                )
                continue
            cells = [f"{min(times):.4g}", f"{statistics.median(times):.4g}"]
            cells += [f"{result['gflop'] / min(times) * 1e3:.3g}", f"{floor / min(times):.2f}"]
            for our in ours:
                lower, middle, upper = ratios(times, entries[our]["step_ms"])
                cells.append(f"{middle:.2f} ({lower:.2f} to {upper:.2f})" if name != our else "")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def chart(found: dict[str, Any], path: Path) -> None:
    """Speed of each contestant as a share of the bare products, if matplotlib is installed."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt
    except ImportError:
        print("no chart: matplotlib is not installed", file=sys.stderr)
        return
    shapes = found["shapes"]
    figure, axes = plt.subplots(1, len(shapes), figsize=(3.4 * len(shapes), 3.4), squeeze=False)
    for ax, (shape, result) in zip(axes[0], shapes.items(), strict=True):
        best = {
            name: min(entry["step_ms"])
            for name, entry in result["contestants"].items()
            if entry.get("step_ms")
        }
        names = sorted(best, key=best.__getitem__, reverse=True)
        colours = ["#2a6f97" if n in OURS else "#8d99ae" for n in names]
        bars = ax.barh(names, [best[n] for n in names], color=colours)
        ax.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
        ax.set_title(shape.replace("x", ", batch "), fontsize=9)
        ax.set_xlabel("ms a step (best)", fontsize=8)
        ax.set_xlim(0, 1.25 * max(best.values()))
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
