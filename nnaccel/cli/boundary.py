"""`nnaccel train --plot FILE`: where a model draws the line between classes, in the plane of its
two columns of numbers.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel.cli.outputs import check_apart
from nnaccel.cli.streams import in_line, say
from nnaccel.files import write
from nnaccel.tabular.columns import Column, numbers_of
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.scaling import bend
from nnaccel.tabular.tables import as_table, import_extra, listing
from nnaccel.tabular.targets import Target, rows_with_target

if TYPE_CHECKING:
    from nnaccel.tabular.fit import Fit
    from nnaccel.tabular.model import Model
    from nnaccel.tabular.sources import Examples

SUFFIXES = (".png", ".pdf", ".svg")
MOST_CLASSES = 10  # the colours of a palette that an eye can tell apart
MOST_POINTS = 2000
CELLS = 300  # of the grid along each axis
MARKERS = "o^svDPX*<>"


def plot_writer(
    path: str, fit: "Fit", examples: "Examples", sources: list[str]
) -> Callable[["Model"], None]:
    """What draws the boundary of a model of this fit into a file, once it is trained.

    ValueError for a model that has no such picture, and for a file of another kind; OSError for a
    file that cannot be written; ModuleNotFoundError without matplotlib.
    """
    if (suffix := Path(path).suffix.lower()) not in SUFFIXES:
        raise ValueError(f"--plot must end in {', '.join(SUFFIXES)}, got {path}")
    check_apart(path, sources, "read by this command; choose another --plot")
    import_extra("matplotlib", "plot")
    features, target = fit.features, fit.target
    if target.task != "classification" or not isinstance(target, Target):
        raise ValueError(
            "--plot draws the boundary between the classes of one target; leave it out"
        )
    if len(target.classes) > MOST_CLASSES:
        raise ValueError(
            f"--plot draws up to {MOST_CLASSES} classes, and {target.name!r} has "
            f"{len(target.classes)}; leave it out"
        )
    if len(features.numeric) != 2 or len(features.names) != 2:
        raise ValueError(
            "--plot draws two columns of numbers without missing values, and the network is given "
            f"{len(features.names)}: {listing(features.names)}; --drop the others, or leave --plot "
            "out"
        )
    points = values_of(features, examples.data)
    labels = target.parse(examples.y)
    present = np.flatnonzero(rows_with_target(labels, target.name))
    present = np.random.default_rng(0).permutation(present)[:MOST_POINTS]
    codes = target.encode(labels.take(present))

    def draw(model: "Model") -> None:
        figure = boundary(model, points[present], codes, fit.device)
        content = BytesIO()
        figure.savefig(content, format=suffix[1:], dpi=150)
        write(path, content.getvalue())
        say(f"the decision boundary is drawn in {in_line(path)}")

    return draw


def values_of(features: Features, data: Any) -> np.ndarray:
    """The numbers (N, 2) of a table or matrix in their own units, as the model reads them."""
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
        encoded.append(bend(z) if number.bend else z)
    X = np.stack(encoded, axis=1).astype(model.params.dtype)
    return model.outputs_of(X, device).argmax(axis=1)


def boundary(model: "Model", points: np.ndarray, codes: np.ndarray, device: Any) -> Any:
    """The figure: the predicted class of each place as its colour, and the examples.

    points: (N, 2).   codes: (N,), the numbers of their classes.
    """
    Figure = import_extra("matplotlib.figure").Figure
    colours = import_extra("matplotlib").colormaps["tab10"].colors
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.05 * (high - low)
    axes = np.linspace(low - margin, high + margin, CELLS)
    grid = np.stack(np.meshgrid(*axes.T), axis=-1)
    regions = class_numbers_on(model, grid.reshape(-1, 2), device).reshape(grid.shape[:2])
    right = np.mean(class_numbers_on(model, points, device) == codes)

    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    ax = figure.add_subplot()
    classes = [shown(name) for name in model.target.classes]
    levels = np.arange(len(classes) + 1) - 0.5
    ax.contourf(*axes.T, regions, levels, colors=colours[: len(classes)], alpha=0.2)
    ax.contour(*axes.T, regions, levels[1:-1], colors="black", linewidths=1)
    for k, name in enumerate(classes):
        x, y = points[codes == k].T
        style = {"marker": MARKERS[k], "edgecolors": "white", "linewidths": 0.4}
        ax.scatter(x, y, s=22, color=colours[k], label=name, **style)
    names = [shown(number.name) for number in model.features.numeric]
    ax.set(xlabel=names[0], ylabel=names[1], title=f"{right:.1%} of {len(points):,} rows are right")
    ax.legend(title=shown(model.target.name), loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def shown(name: object) -> str:
    """A name as matplotlib shows it: a dollar would begin a formula, and a first underscore hide
    the name from the legend."""
    text = in_line(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
