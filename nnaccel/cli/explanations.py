"""The output of `nnaccel explain`: explanations of a model by columns, as tables, data for JSON and
a picture."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnaccel.cli import pictures
from nnaccel.cli.display import number
from nnaccel.tabular.contributions import Contributions, contributions
from nnaccel.tabular.importance import (
    Dependence,
    Importance,
    partial_dependence,
    permutation_importance,
)

if TYPE_CHECKING:
    from nnaccel.devices.device import Device
    from nnaccel.tabular.model import Model
    from nnaccel.tabular.sources import Rows

SHOWN = 30  # columns of a table
SHOWN_VALUES = 10  # of a column of numbers


class Explanation(NamedTuple):
    """Tables (title, header, rows), data for JSON, and the function that draws the picture into a
    figure."""

    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]
    data: dict[str, Any]
    draw: Callable[[Any], None]


def of_columns(model: "Model", rows: "Rows", options: Any, device: "Device") -> Explanation:
    """Permutation importance of all columns, and partial dependence for the first of them."""
    how = {"score": options.score, "repeats": options.repeats, "seed": options.seed}
    found = permutation_importance(
        model, rows.data, rows.y, weights=rows.weights, device=device, **how
    )
    best = [found.columns[i] for i in found.ranking[: options.top]]
    curves = partial_dependence(model, rows.data, best, device=device)
    tables = [_importances(found, rows.n_rows, options.file), *map(_curve, curves)]
    data = {
        "rows": rows.n_rows,
        "score": found.score,
        "baseline": found.baseline,
        "importance": [
            {
                "column": found.columns[i],
                "mean": found.mean[i],
                "std": found.std[i],
                "values": found.values[i],
            }
            for i in found.ranking
        ],
        "partial dependence": [
            {"column": c.column, "read as": c.kind, "values": c.grid}
            | {"means": dict(zip(c.of, c.mean.T, strict=True))}
            for c in curves
        ],
    }
    return Explanation(tables, data, partial(pictures.columns, found, curves))


def of_row(model: "Model", data: Any, row: int) -> Explanation:
    """The contributions of the columns to the prediction of one row."""
    found = contributions(model, data, row)
    said = [
        {
            "target": one.target,
            "prediction": one.prediction if one.label is None else one.label,
            "probability": None if one.label is None else one.prediction,
            "value": one.value,
            "average": one.average,
            "contributions": [
                {"column": one.columns[i], "value": one.cells[i], "contribution": one.values[i]}
                for i in _by_size(one)
            ],
        }
        for one in found
    ]
    tables = [_contributions(one, row) for one in found]
    return Explanation(tables, {"row": row, "targets": said}, partial(pictures.row, found))


# ---------------------------------------------------------------------------- tables


def _importances(found: Importance, n: int, file: str) -> Any:
    rows = [
        (found.columns[i], number(float(found.mean[i])), number(float(found.std[i])))
        for i in found.ranking[:SHOWN]
    ]
    if len(found.columns) > SHOWN:
        rows.append((f"{len(found.columns) - SHOWN} more", "", ""))
    title = (
        f"permutation importance on {n:,} rows of {file}: the harm to the {found.score}, "
        f"{number(found.baseline)}, once a column is shuffled"
    )
    return title, ("column", "importance", "spread"), rows


def _curve(curve: Dependence) -> Any:
    """Some of the values of a column, with the mean prediction for each."""
    stride = 1 if curve.kind == "string" else -(-len(curve.grid) // SHOWN_VALUES)
    picked = sorted({*range(0, len(curve.grid), stride), len(curve.grid) - 1})
    rows = [(cell(curve.grid[i], curve.kind), *map(number, curve.mean[i])) for i in picked]
    title = f"partial dependence on {curve.column}: the mean prediction if all rows had that value"
    return title, (curve.column, *curve.of), rows


def _contributions(one: Contributions, row: int) -> Any:
    rows = [
        (one.columns[i], cell(one.cells[i], one.kinds[i]), number(one.values[i]))
        for i in _by_size(one)[:SHOWN]
    ]
    if one.label is None:
        said = f"{one.target} = {number(one.prediction)}"
        what = f"{number(one.value)}, of the average row {number(one.average)}"
    else:
        said = f"{one.target} = {one.label}, of probability {number(one.prediction)}"
        what = f"log odds {number(one.value)}, of the average row {number(one.average)}"
    title = f"row {row}: {said}; {what}; the contributions are the difference"
    return title, ("column", "value", "contribution"), rows


def _by_size(one: Contributions) -> list[int]:
    return np.argsort(-np.abs(one.values), kind="stable").tolist()


def cell(value: Any, kind: str) -> str:
    """A value of a column in the form of a table's cell."""
    if value is None:
        return "(missing)"
    if kind == "string":
        return value
    if kind == "boolean":
        return "true" if value else "false"
    if kind == "date":
        text = str(np.datetime64(round(value), "s")).replace("T", " ")
        return text.removesuffix(" 00:00:00")
    if kind == "time":
        return str(np.datetime64(round(value), "s")).partition("T")[2]
    if kind == "duration":
        days, seconds = divmod(round(value), 86_400)
        return f"{days} days {str(np.datetime64(seconds, 's')).partition('T')[2]}"
    return f"{value:.6g}"
