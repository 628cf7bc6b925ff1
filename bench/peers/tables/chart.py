"""The gaps of contestants as a chart."""

import statistics
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.peers.tables.contestants import TREES
from bench.shared.errors import Errors, common, gaps

LIMIT = 0.6  # larger gaps are drawn at the edge
MARKERS = ("s", "D", "^", "v", "P", "X", "o", "*")
GREYS = ("#6c757d", "#9aa3b0", "#c3cad4")
COLOURS = {
    "scikit-learn MLP": "#e9a03b",
    "RealMLP-TD": "#8f5fa8",
    "TabM-D": "#4f9d69",
    "nnaccel single": "#7fb3d3",
    "nnaccel": "#1d5f8a",
}


def draw(found: Mapping[str, Any], errors: Errors, path: Path) -> None:
    """Draws a line for each table, as .png beside path, if matplotlib is installed."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt
        from matplotlib.ticker import PercentFormatter
    except ImportError:
        print("no chart: matplotlib is not installed", file=sys.stderr)
        return
    apart, shared = gaps(errors, TREES), common(errors)
    tables = sorted({table for own in apart.values() for table in own}, reverse=True)
    colours = dict(zip(TREES, GREYS, strict=True)) | COLOURS
    figure, ax = plt.subplots(figsize=(9.0, 0.5 * len(tables) + 2.2), layout="constrained")
    ax.axvline(0, color="black", linewidth=0.8)
    for marker, (name, own) in zip(MARKERS, apart.items(), strict=False):
        places = [min(LIMIT, own[table]) for table in tables if table in own]
        lines = [i for i, table in enumerate(tables) if table in own]
        middle = [own[table] for table in shared if table in own]
        label = f"{name} (median {statistics.median(middle):+.1%})" if middle else name
        ours = name.startswith("nnaccel")
        ax.scatter(
            places, lines, s=70 if ours else 40, marker=marker, color=colours[name], label=label,
            zorder=4 if ours else 3, clip_on=False,
        )  # fmt: skip
    ax.set_yticks(range(len(tables)), tables)
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    right = max((gap for own in apart.values() for gap in own.values()), default=0)
    ax.set_xlim(right=LIMIT if right > LIMIT else None)
    edge = "; at the edge: larger" if right > LIMIT else ""
    ax.set_xlabel(f"error over that of the best boosted trees{edge}", fontsize=9)
    ax.set_title("Errors on tables: 1 - AUC or RMSE. Left of the line is better", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    machine = found["machine"]
    source = f"{machine['processor']}, {machine['threads']} threads, {found['date'][:10]}."
    figure.supxlabel(textwrap.fill(source, 130), fontsize=7.5, color="#555555", x=0.02, ha="left")
    figure.savefig(path.with_suffix(".png"), dpi=150)
    plt.close(figure)
