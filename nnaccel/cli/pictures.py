"""Draws pictures of explanations into matplotlib figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnaccel.cli.streams import in_line
from nnaccel.tabular.contributions import Contributions
from nnaccel.tabular.importance import Dependence, Importance

SHOWN = 20  # columns
LINES = 6  # outputs in one plot
LONGEST = 24  # characters of a name

# Okabe and Ito's colours, which colour-blind readers can tell apart, too.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#555555"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
STYLE = {
    "text.parse_math": False,  # a name may contain dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 9,
}


def columns(found: Importance, curves: Sequence[Dependence], figure: Any) -> None:
    """Draw the importance of columns with their spread, and the curves next to it."""
    chosen = found.ranking[:SHOWN]
    heights = [max(2.3, 0.2 * len(c.grid) + 0.8) if _by_name(c) else 2.3 for c in curves]
    size = max(0.28 * len(chosen) + 1.2, sum(heights), 2.4)
    figure.set_size_inches(10 if curves else 6, size)
    grid = figure.add_gridspec(
        max(1, len(curves)), 2 if curves else 1, height_ratios=heights or None
    )
    axes = figure.add_subplot(grid[:, 0])
    names = [found.columns[i] for i in chosen]
    _bars(axes, names, found.mean[chosen], found.std[chosen])
    axes.set_title(f"permutation importance, {found.score} {found.baseline:.3g}")
    for place, curve in enumerate(curves):
        _curve(figure.add_subplot(grid[place, 1]), curve)


def row(found: Sequence[Contributions], figure: Any) -> None:
    """Draw the contributions of the columns to the predictions of a row, one plot for each
    target."""
    shown = min(SHOWN, len(found[0].columns))
    figure.set_size_inches(6, len(found) * max(0.28 * shown + 1.2, 2.4))
    for place, one in enumerate(found):
        axes = figure.add_subplot(len(found), 1, place + 1)
        chosen = np.argsort(-np.abs(one.values), kind="stable")[:SHOWN]
        _bars(axes, [one.columns[i] for i in chosen], one.values[chosen])
        what = "" if one.label is None else f" = {_short(one.label)}: log odds"
        axes.set_title(f"{one.target}{what} {one.value:.3g}, average row {one.average:.3g}")


def _bars(axes: Any, names: Sequence[str], values: np.ndarray, spread: Any = None) -> None:
    """Draw a bar for each name, the first on top."""
    places = np.arange(len(names))
    colours = [BLUE if value >= 0 else ORANGE for value in values]
    axes.barh(places, values, xerr=spread, color=colours, error_kw={"ecolor": GREY, "lw": 1})
    axes.set_yticks(places, [_short(name) for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, lw=0.8)


def _by_name(curve: Dependence) -> bool:
    return curve.kind in ("string", "boolean")


def _curve(axes: Any, curve: Dependence) -> None:
    """Draw the mean prediction over the values of a column: a line, or a dot for each category."""
    there = [i for i, value in enumerate(curve.grid) if value is not None]
    grid, missing = [curve.grid[i] for i in there], len(there) < len(curve.grid)
    outputs = list(zip(curve.of, curve.mean.T, COLOURS, strict=False))[:LINES]
    for name, mean, colour in outputs:
        if _by_name(curve):
            axes.plot(mean[there], range(len(grid)), "o", color=colour, label=name)
        else:
            x = np.array(grid).astype("M8[s]") if curve.kind == "date" else grid
            axes.plot(x, mean[there], ".-", color=colour, label=name)
        if missing:
            line = axes.axvline if _by_name(curve) else axes.axhline
            line(mean[-1], color=colour, ls=":", lw=1)
    if _by_name(curve):
        words = {1.0: "true", 0.0: "false"} if curve.kind == "boolean" else {}
        axes.set_yticks(range(len(grid)), [_short(words.get(value, value)) for value in grid])
        axes.set_ylim(len(grid) - 0.5, -0.5)
    said = f"{outputs[0][0]} by {_short(curve.column)}" if len(outputs) == 1 else curve.column
    axes.set_title(f"{said}{', dotted where missing' * missing}")
    if len(outputs) > 1:
        axes.legend(frameon=False)


def _short(name: Any) -> str:
    text = in_line(name)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
