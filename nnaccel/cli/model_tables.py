"""The output of `nnaccel inspect` for a model file."""

from collections.abc import Iterator
from math import prod
from typing import Any

from rich.console import Group

from nnaccel.cli.display import number, table
from nnaccel.cli.plan import task_of
from nnaccel.cli.score_tables import by_prefix, out_of_fold, scores
from nnaccel.cli.streams import in_line
from nnaccel.maths.layers import Param
from nnaccel.maths.metrics import for_loss
from nnaccel.maths.network import Network, leaves
from nnaccel.tabular.columns import KINDS
from nnaccel.tabular.encoding import Features, Numeric
from nnaccel.tabular.kinds import Reading
from nnaccel.tabular.model import Model
from nnaccel.tabular.several_targets import Targets, columns_of
from nnaccel.tabular.targets import Target
from nnaccel.training.architecture import describe

SHOWN_COLUMNS = 24  # of each kind
SHOWN_LEVELS = 8
SHOWN_EPOCHS = 10


def model(model: Model, name: str) -> Group:
    """The content of a model file, without its parameters."""
    target = model.target
    parts: list[Any] = [
        f"{in_line(name)}: {task_of(target)} ({_known_of(target)}), loss {model.loss.name}, "
        f"{_networks(model)}{model.params.shape[-1]:,} parameters of {model.params.dtype}",
        table("layers", ("layer", "outputs", "parameters", "details"), _layers(model.network)),
        table("columns", ("column", "read as", "encoded as"), _columns(model.features)),
        table("settings", ("setting", "value"), _settings(model.settings)),
    ]
    if model.history:
        names = (name.replace("_", " ") for name in model.history[0])
        header = (name.replace("metric", for_loss(model.loss).name) for name in names)
        parts.append(table("training", ("epoch", *header), _epochs(model.history)))
    tested, unseen = by_prefix(model.scores)
    if unseen:
        parts.append(out_of_fold(model.scores, "out of fold"))
    if tested:
        parts.append(scores(tested, "test", target))
    return Group(*parts)


def _networks(model: Model) -> str:
    """`10 networks, each of `, if there are several networks."""
    return "" if model.members == 1 else f"{model.members} networks, each of "


def _known_of(target: Target | Targets) -> str:
    """The facts about each target column: its classes, or its mean and scale."""
    known = (
        f"{len(one.classes)} classes"
        if one.classes
        else f"mean {number(one.mean)}, scale {number(one.scale)}"
        for one in columns_of(target)
    )
    return "; ".join(known)


def _layers(network: Network) -> Iterator[tuple[Any, ...]]:
    D = network.n_inputs
    yield "input", D, 0, ""
    for layer, data in zip(network.layers, describe(network)["layers"], strict=True):
        size = sum(prod(param.shape) for param in leaves(layer.params(D), Param))
        D = layer.width(D)
        yield data["type"], D, f"{size:,}", _details(data)


def _details(layer: dict[str, Any]) -> str:
    """The fields of a layer in words: `activation relu`, `rate 0.1`, `dense, dropout`."""
    if "layers" in layer:
        return ", ".join(inner["type"] for inner in layer["layers"])
    values = {name: value for name, value in layer.items() if name not in ("type", "units")}
    if "edges" in values:
        bins = (str(max(0, len(row) - 1)) for row in values.pop("edges"))
        values["bins"] = f"of each number: {' '.join(bins)}"
    if "activation" in values:
        named = values["activation"]
        options = "".join(f" {name}={value:g}" for name, value in named["options"].items())
        values["activation"] = named["name"] + options
    return ", ".join(f"{name} {value}" for name, value in values.items() if value != "auto")


def _columns(features: Features) -> Iterator[tuple[str, str, str]]:
    for kind, rows in encodings(features).items():
        yield from rows[:SHOWN_COLUMNS]
        if len(rows) > SHOWN_COLUMNS:
            yield "...", "", f"{len(rows) - SHOWN_COLUMNS:,} more {kind}"


def encodings(features: Features) -> dict[str, list[tuple[str, str, str]]]:
    """How each column is read, and how it is encoded: (column, read as, encoded as), of numbers, of
    categories and of columns that are not used."""
    readings = {
        column.name: spelled_out(features.reading(column))
        for column in (*features.numeric, *features.categorical)
    }
    return {
        "numbers": [(n.label, readings[n.name], _scaled(n)) for n in features.numeric],
        "categories": [
            (c.name, readings[c.name], _one_hot(c.states)) for c in features.categorical
        ],
        "not used": [(name, "", f"not used: {why}") for name, why in features.dropped.items()],
    }


def spelled_out(reading: Reading) -> str:
    """A reading in words: `numbers, decimal comma, missing: -200`."""
    words = [KINDS[reading.kind], SPELLED.get(reading.form, reading.form)]
    if reading.codes:
        words.append("missing: " + " ".join(f"{code:.15g}" for code in reading.codes))
    return ", ".join(filter(None, words))


# Forms of numbers and dates -> their names in words.
SPELLED = {
    ".": "",
    ",": "decimal comma",
    "ymd": "year-month-day",
    "dmy": "day first",
    "mdy": "month first",
    "ym": "year-month",
}


def _scaled(column: Numeric) -> str:
    sign = "-" if column.center >= 0 else "+"
    bent = ", bent" * column.bend
    missing = ", missing indicator" * column.missing
    return f"(x {sign} {abs(column.center):.4g}) / {column.scale:.4g}{bent}{missing}"


def _one_hot(states: list[str]) -> str:
    more = len(states) - SHOWN_LEVELS
    return "one-hot: " + ", ".join(states[:SHOWN_LEVELS]) + f" and {more} more" * (more > 0)


def _settings(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of the run."""
    for name, value in settings.items():
        if value not in (None, [], "auto"):
            yield name, " ".join(map(str, value)) if isinstance(value, list) else value


def _epochs(history: list[dict[str, float]]) -> Iterator[tuple[Any, ...]]:
    """The first epoch, the last one, and some in between."""
    stride, last = -(-len(history) // SHOWN_EPOCHS), len(history) - 1
    for i in sorted({*range(0, last, stride), last}):
        yield i + 1, *(number(history[i][name]) for name in history[0])
