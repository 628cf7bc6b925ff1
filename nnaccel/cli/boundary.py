"""`nnaccel train --plot FILE`: the boundary between classes in the plane of a model's two columns
of numbers.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel.cli.outputs import picture_writer
from nnaccel.cli.streams import in_line
from nnaccel.tabular.columns import Column, numbers_of
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.scaling import bend
from nnaccel.tabular.tables import as_table, import_extra, listing
from nnaccel.tabular.targets import Target, rows_with_target

if TYPE_CHECKING:
    from nnaccel.tabular.fit import Fit
    from nnaccel.tabular.model import Model
    from nnaccel.tabular.sources import Examples

MARKERS = "o^svDPX*<>"  # as many as there are distinguishable colours
MOST_POINTS = 2000
CELLS = 300  # of the grid along each axis


def boundary_writer(
    path: str, fit: "Fit", examples: "Examples", sources: list[str]
) -> Callable[["Model"], None]:
    """The function that draws the boundary of the trained model of this fit into a file.

    Raises ValueError for a model without such a picture, and the errors of `picture_writer`.
    """
    write_picture = picture_writer(path, sources=sources)
    features, target = fit.features, fit.target
    if target.task != "classification" or not isinstance(target, Target):
        raise ValueError(
            "--plot draws the boundary between the classes of one target; leave it out"
        )
    if len(target.classes) > len(MARKERS):
        raise ValueError(
            f"--plot draws up to {len(MARKERS)} classes, and {target.name!r} has "
            f"{len(target.classes)}; leave it out"
        )
    if len(features.numeric) != 2 or len(features.names) != 2:
        raise ValueError(
            "--plot draws two columns of numbers without missing values, and the network is given "
            f"{len(features.names)}: {listing(features.names)}; --drop the others, or leave --plot "
            "out"
        )
    labels = target.parse(examples.y)
    present = np.flatnonzero(rows_with_target(labels, target.name))
    present = np.random.default_rng(0).permutation(present)[:MOST_POINTS]
    points = values_of(features, examples.data)[present]
    codes = target.encode(labels.take(present))
    return lambda model: write_picture(lambda figure: draw(model, points, codes, fit, figure))


def values_of(features: Features, data: Any) -> np.ndarray:
    """The numbers (N, 2) that the model reads in a table or matrix, in their own units."""
    if isinstance(data, np.ndarray):
        return data[:, [features.columns.index(number.name) for number in features.numeric]]
    table = as_table(data)
    columns = [
        numbers_of(number.name, Column(table[number.name]), features.reading(number))[0]
        for number in features.numeric
    ]
    return np.stack(columns, axis=1)


def class_numbers_on(model: "Model", points: np.ndarray, device: Any) -> np.ndarray:
    """The number of the predicted class (N,) at points (N, 2) in their own units."""
    encoded = []
    for number, values in zip(model.features.numeric, points.T, strict=True):
        z = (values - number.center) / number.scale
        encoded.append(bend(z, xp=np) if number.bend else z)
    X = np.stack(encoded, axis=1).astype(model.params.dtype)
    return model.outputs_of(X, device).argmax(axis=1)


def draw(model: "Model", points: np.ndarray, codes: np.ndarray, fit: "Fit", figure: Any) -> None:
    """Draw the predicted class at each point of the plane as a colour, and the examples.

    points: (N, 2).   codes: (N,), the numbers of their classes.
    """
    colours = import_extra("matplotlib").colormaps["tab10"].colors
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.05 * (high - low)
    axes = np.linspace(low - margin, high + margin, CELLS)
    grid = np.stack(np.meshgrid(*axes.T), axis=-1)
    regions = class_numbers_on(model, grid.reshape(-1, 2), fit.device).reshape(grid.shape[:2])
    right = np.mean(class_numbers_on(model, points, fit.device) == codes)

    figure.set_size_inches(6.4, 5.2)
    ax = figure.add_subplot()
    classes = model.target.classes
    levels = np.arange(len(classes) + 1) - 0.5
    ax.contourf(*axes.T, regions, levels, colors=colours[: len(classes)], alpha=0.2)
    ax.contour(*axes.T, regions, levels[1:-1], colors="black", linewidths=1)
    for k, name in enumerate(classes):
        style = {"marker": MARKERS[k], "edgecolors": "white", "linewidths": 0.4}
        ax.scatter(*points[codes == k].T, s=22, color=colours[k], label=shown(name), **style)
    names = [shown(number.name) for number in model.features.numeric]
    ax.set(xlabel=names[0], ylabel=names[1], title=f"{right:.1%} of {len(points):,} rows are right")
    ax.legend(title=shown(model.target.name), loc="upper left", bbox_to_anchor=(1, 1))


def shown(name: object) -> str:
    """A name for matplotlib, which would hide a name with a leading underscore from the legend."""
    text = in_line(name)
    return f" {text}" if text.startswith("_") else text
