"""Results as JSON, as Markdown and as a chart, with the machine, the date and the command."""

import contextlib
import json
import os
import platform
import shlex
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.shared.measures import Entry
from bench.shared.script import ROOT as ROOT

RESULTS = ROOT / "bench" / "results"
LIBRARIES = ("nnaccel", "numpy", "numba", "torch", "jax", "scikit-learn")
OURS = ("nnaccel", "nnaccel[fast]", "nnaccel jax", "nnaccel torch")
FLOOR = "products"


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """The versions of the installed libraries."""
    found = {"python": platform.python_version()}
    for library in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


def hardware(device: str = "cpu") -> str:
    """The name of the device's hardware."""
    from nnaccel.devices.available import (
        available,  # imported here, so that a page can be written without nnaccel
    )

    known = {found.name: found.hardware for found in available()}
    return known.get(device) or known.get("cpu") or platform.processor()


def threads() -> int:
    """The number of threads that a BLAS uses by default."""
    return int(os.environ.get("OPENBLAS_NUM_THREADS") or len(os.sched_getaffinity(0)))


def about(threads: int, libraries: Sequence[str] = LIBRARIES) -> dict[str, Any]:
    """The origin of the numbers, for readers: machine, versions, threads."""
    return {
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": hardware(),
            "threads": threads,
            "system": f"{platform.system()} {platform.machine()}",
            "versions": versions(libraries),
        },
    }


def load() -> str:
    """A sentence if other programs are running before the measurement; else ""."""
    try:
        running = os.getloadavg()[0]
    except OSError:
        return ""
    if running <= 0.5:
        return ""
    return f"Other programs are at work: the load average is {running:.1f} before the start."


def command() -> str:
    """The command line, with the names of files without their folders."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    script = Path(sys.argv[0]).absolute().as_posix().rpartition("/bench/")[2]
    return shlex.join(["python", f"bench/{script}", *words])


def heading(found: Mapping[str, Any]) -> str:
    """The line above a table: machine, date, versions, command."""
    machine = found["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['threads']} threads, {found['date'][:10]}; {libraries}."
        f"\nCommand: `{found['command']}`\n"
    )


def write(found: Mapping[str, Any], kind: str, text: str, output: Path | None = None) -> Path:
    """Writes JSON and Markdown, and returns the path of the JSON file."""
    path = output or RESULTS / f"{kind}-{found['date'][:10]}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    print(f"written: {path} and {path.with_suffix('.md').name}", file=sys.stderr)
    return path


def chart(found: Mapping[str, Any], unit: str, title: str, path: Path) -> None:
    """A panel of bars for each problem, as .png beside path, if matplotlib is installed."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt
        from matplotlib.patches import Patch
    except ImportError:
        print("no chart: matplotlib is not installed", file=sys.stderr)
        return
    problems = found["problems"]
    columns = min(2, len(problems))
    rows = -(-len(problems) // columns)
    width = 10.0 if columns == 2 else 7.5
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, 3.2 * rows + 1.3), squeeze=False, layout="constrained"
    )
    height = figure.get_figheight()  # in inches, in which the texts have their places
    for ax in axes.flat[len(problems) :]:
        ax.remove()
    for ax, (name, problem) in zip(axes.flat, problems.items(), strict=False):
        bars(ax, problem["contestants"])
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(unit, fontsize=9)
    kinds = {"nnaccel": OURS[0], "peers": "", "matrix products alone": FLOOR}
    figure.legend(
        handles=[Patch(**style(name), label=label) for label, name in kinds.items()],
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - 0.3 / height),
        ncols=3,
        fontsize=9,
        frameon=False,
    )
    machine = found["machine"]
    dtype = found.get("dtype", "float32")
    source = f"{machine['processor']}, {machine['threads']} threads, {dtype}, {found['date'][:10]}."
    source += f"  {found['command']}"
    figure.text(0.5, 1 - 0.12 / height, title, fontsize=11, ha="center", va="top")
    figure.text(0.01, 0.012, textwrap.fill(source, int(15 * width)), fontsize=7.5, color="#555555")
    inside = (0, 0.45 / height, 1, 1 - 1.05 / height)
    figure.set_layout_engine("constrained", h_pad=0.12, rect=inside)
    figure.savefig(path.with_suffix(".png"), dpi=150)


def style(name: str) -> dict[str, Any]:
    if name == FLOOR:
        return {"facecolor": "white", "edgecolor": "#8d99ae", "hatch": "////"}
    return {"facecolor": "#2a6f97" if name in OURS else "#b4bccb"}


def bars(ax: Any, contestants: Mapping[str, Entry]) -> None:
    """The best time of each, the fastest on top, and a dot and brackets for its median."""
    times = {name: entry["times"] for name, entry in contestants.items() if entry.get("times")}
    names = sorted(times, key=lambda name: min(times[name]), reverse=True)
    # A disturbed median would squeeze the bars, so its dot is drawn inside.
    limit = 1.2 * max(map(min, times.values()))
    for i, name in enumerate(names):
        least, middle = min(times[name]), statistics.median(times[name])
        ax.barh(i, least, **style(name))
        ax.plot(min(middle, limit), i, marker=".", color="black", clip_on=False, markersize=5)
        ax.annotate(
            f"{least:.3g} ({middle:.3g})",
            (max(least, min(middle, limit)), i),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.set_yticks(range(len(names)), names, fontsize=8.5)
    ax.set_xlim(0, limit)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
