"""What the command line shows: live progress on a terminal, plain lines in a pipe, and tables."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from nnaccel.cli.streams import in_line, visible
from nnaccel.devices.available import DeviceInfo
from nnaccel.maths.layers import Param
from nnaccel.maths.metrics import for_loss
from nnaccel.maths.minibatch import n_steps
from nnaccel.maths.network import Network, layout, leaves
from nnaccel.tabular.encoding import Features, Numeric
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.model import Model
from nnaccel.training.architecture import describe
from nnaccel.training.benchmark import significant
from nnaccel.training.epoch import Epoch

SHOWN_CLASSES = 20  # a larger confusion matrix does not fit on a screen
SHOWN_COLUMNS = 24  # of each kind
SHOWN_LEVELS = 8
SHOWN_EPOCHS = 10
PIPE_WIDTH = 200


def console() -> "Screen":
    """Standard output; a pipe is wide."""
    return Screen(width=None if sys.stdout.isatty() else PIPE_WIDTH)


class Screen(Console):
    """A console on which text from a file is neither markup nor control.

    Every string that is printed, or is in a table, becomes a Text by `render_str`. Nobody else
    makes a Text of what is not known beforehand.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, self.encoding), **options)

    def on_broken_pipe(self) -> None:
        raise  # what it is called for: rich would end the program with a status of its own


# ---------------------------------------------------------------------------- training


def plan(fit: Fit, device: str) -> str:
    """What is about to be trained, on what and how, in four lines."""
    chosen, network = fit.settings, fit.network
    assert chosen.hidden is not None
    assert chosen.batch_size
    assert chosen.epochs
    rows = ", ".join(f"{n:,} {name}" for name, n in fit.rows.items() if n)
    sizes = "-".join(map(str, (network.n_inputs, *chosen.hidden, network.n_outputs)))
    kind = f"{' '.join(chosen.activation)}, dropout {chosen.dropout:g}"
    steps = n_steps(fit.rows["train"], chosen.batch_size, chosen.epochs)
    precision = "" if chosen.precision == "float32" else f", products in {chosen.precision}"
    return (
        f"{fit.target.task} of {fit.target.name!r}, rows: {rows}\n"
        f"network {sizes}, {kind if chosen.hidden else 'linear'}, "
        f"{layout(network).size:,} parameters, on {device}{precision}\n"
        f"{chosen.optimizer}, {chosen.schedule} schedule up to {chosen.learning_rate:g}, weight "
        f"decay {chosen.weight_decay:g}, {_count(chosen.epochs, 'epoch')} in batches of "
        f"{chosen.batch_size}, {_count(steps, 'step')}\n"
        f"kernels: {fit.kernels}"
    )


def follow(epochs: Iterable[Epoch], total: int, metric: str, console: Console) -> Iterator[Epoch]:
    """Yield the epochs while showing how far training is and how well it goes."""
    started = time.perf_counter()

    def left(epoch: Epoch) -> float:
        return (time.perf_counter() - started) * (total / epoch.number - 1)

    if not console.is_terminal:
        for epoch in epochs:
            parts = (_count_of(epoch, total), _success(epoch, metric), _speed(epoch, left(epoch)))
            console.print("   ".join(parts), soft_wrap=True)
            yield epoch
        return
    with Live(console=console, refresh_per_second=8) as live:
        for epoch in epochs:
            grid = Table.grid(padding=(0, 2))
            bar = ProgressBar(total=total, completed=epoch.number, width=24)
            grid.add_row(bar, _count_of(epoch, total), _speed(epoch, left(epoch)))
            live.update(Group(grid, _success(epoch, metric)))
            yield epoch


def _count_of(epoch: Epoch, total: int) -> str:
    return f"epoch {epoch.number:{len(str(total))}d}/{total}"


def _speed(epoch: Epoch, left: float) -> str:
    minutes, seconds = divmod(round(left), 60)
    return f"{epoch.samples_per_second:,.0f} samples/s   {minutes}:{seconds:02d} left"


def _success(epoch: Epoch, metric: str) -> str:
    """`loss 0.1234  accuracy 0.9876   validation loss 0.2345  accuracy 0.9765`"""
    text = f"loss {number(epoch.loss)}  {metric} {number(epoch.metric)}"
    if epoch.validation_loss is not None:
        text += (
            f"   validation loss {number(epoch.validation_loss)}  "
            f"{metric} {number(epoch.validation_metric)}"
        )
    return text


def plain(scores: dict[str, Any]) -> dict[str, float]:
    """The scores that are one number each."""
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def scores(scores: dict[str, Any], title: str, classes: Sequence[Any]) -> Group:
    """The scores as a table, and the confusion matrix as another."""
    numbers = ((name, number(value)) for name, value in plain(scores).items())
    shown = table(title, ("score", "value"), numbers)
    if "confusion matrix" not in scores:
        return shown
    if len(classes) > SHOWN_CLASSES:
        return Group(shown, f"confusion matrix: not shown for {len(classes)} classes")
    rows = []
    for i, (name, counts) in enumerate(zip(classes, scores["confusion matrix"], strict=True)):
        styles = ("bold green" if i == j else "" if n else "dim" for j, n in enumerate(counts))
        rows.append((name, *map(Text, map(str, counts), styles)))
    title = "confusion matrix: true classes in rows, predicted ones in columns"
    return Group(shown, table(title, ("", *map(str, classes)), rows))


# ---------------------------------------------------------------------------- models


def model(model: Model, name: str) -> Group:
    """All that a model file holds but its parameters."""
    target = model.target
    of = (
        f"{len(target.classes)} classes"
        if target.classes
        else f"mean {number(target.mean)}, scale {number(target.scale)}"
    )
    parts: list[Any] = [
        f"{in_line(name)}: {target.task} of {target.name!r} ({of}), loss {model.loss.name}, "
        f"{model.params.shape[-1]:,} parameters of {model.params.dtype}",
        table("layers", ("layer", "outputs", "parameters", "details"), _layers(model.network)),
        table("columns", ("column", "encoded as"), _columns(model.features)),
        table("settings", ("setting", "value"), _settings(model.settings)),
    ]
    if model.history:
        names = (name.replace("_", " ") for name in model.history[0])
        header = (name.replace("metric", for_loss(model.loss).name) for name in names)
        parts.append(table("training", ("epoch", *header), _epochs(model.history)))
    if model.scores:
        parts.append(scores(model.scores, "test", target.classes))
    return Group(*parts)


def _layers(network: Network) -> Iterator[tuple[Any, ...]]:
    D = network.n_inputs
    yield "input", D, 0, ""
    for layer, data in zip(network.layers, describe(network)["layers"], strict=True):
        size = sum(prod(param.shape) for param in leaves(layer.params(D), Param))
        D = layer.width(D)
        yield data["type"], D, f"{size:,}", _details(data)


def _details(layer: dict[str, Any]) -> str:
    """What a layer says of itself: `activation relu`, `rate 0.1`, `dense, dropout`."""
    if "layers" in layer:
        return ", ".join(inner["type"] for inner in layer["layers"])
    values = {name: value for name, value in layer.items() if name not in ("type", "units")}
    if "activation" in values:
        named = values["activation"]
        options = "".join(f" {name}={value:g}" for name, value in named["options"].items())
        values["activation"] = named["name"] + options
    return ", ".join(f"{name} {value}" for name, value in values.items() if value != "auto")


def _columns(features: Features) -> Iterator[tuple[str, str]]:
    groups = (
        ("numbers", [(column.label, _scaled(column)) for column in features.numeric]),
        ("categories", [(column.name, _one_hot(column.states)) for column in features.categorical]),
        ("not used", [(name, f"not used: {why}") for name, why in features.dropped.items()]),
    )
    for kind, rows in groups:
        yield from rows[:SHOWN_COLUMNS]
        if len(rows) > SHOWN_COLUMNS:
            yield "...", f"{len(rows) - SHOWN_COLUMNS:,} more {kind}"


def _scaled(column: Numeric) -> str:
    sign = "-" if column.center >= 0 else "+"
    bent = ", bent" * column.bend
    missing = ", missing indicator" * column.missing
    return f"(x {sign} {abs(column.center):.4g}) / {column.scale:.4g}{bent}{missing}"


def _one_hot(states: list[str]) -> str:
    more = len(states) - SHOWN_LEVELS
    return "one-hot: " + ", ".join(states[:SHOWN_LEVELS]) + f" and {more} more" * (more > 0)


def _settings(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings that were chosen."""
    for name, value in settings.items():
        if value not in (None, [], "auto"):
            yield name, " ".join(map(str, value)) if isinstance(value, list) else value


def _epochs(history: list[dict[str, float]]) -> Iterator[tuple[Any, ...]]:
    """The first epoch, the last one, and some between."""
    stride, last = -(-len(history) // SHOWN_EPOCHS), len(history) - 1
    for i in sorted({*range(0, last, stride), last}):
        yield i + 1, *(number(history[i][name]) for name in history[0])


# ---------------------------------------------------------------------------- devices


def devices(found: Iterable[DeviceInfo]) -> Group:
    """The devices that can be used as a table, and why the others cannot."""
    found = list(found)
    usable = table(
        "devices",
        ("device", "library", "hardware", "memory", "free"),
        (
            (d.name, d.library, d.hardware, _size(d.memory_total), _size(d.memory_free))
            for d in found
            if not d.problem
        ),
    )
    return Group(usable, *(f"{d.name}: {d.problem}" for d in found if d.problem))


def _size(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / 2**30:.1f} GiB"


# ---------------------------------------------------------------------------- numbers and tables


def number(value: float) -> str:
    """Four decimals, or as many significant digits where that would say nothing."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def table(title: str, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> Group:
    """A table under its title; columns of numbers are aligned to the right."""
    cells = [[cell if isinstance(cell, Text) else in_line(cell) for cell in row] for row in rows]
    body = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, name in enumerate(header):
        numbers = all(_is_number(str(row[i])) for row in cells)
        body.add_column(in_line(name), overflow="fold", justify="right" if numbers else "left")
    for row in cells:
        body.add_row(*row)
    return Group("", Styled(in_line(title), "bold"), body)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return True


SPEEDS = "{:<9} {:<23} {:>8} {:>8} {:>11} {:>10}"


def speeds(rows: Iterable[Any]) -> Iterator[Any]:
    """Lines for the rows of `nnaccel.training.benchmark.run`, as they come, and their meaning."""
    yield Styled("\ntraining, Adam, softmax cross-entropy, float32", "bold")
    yield SPEEDS.format("", "", "", "", "", "times its")
    head = ("device", "network x batch", "ms/step", "GFLOP/s", "samples/s", "products")
    yield SPEEDS.format(*head)
    yield "-" * len(SPEEDS.format(*head))
    kernels: dict[str, list[str]] = {}
    for row in rows:
        if row.problem:
            yield f"{row.device:<9} {row.shape:<23} {row.problem}"
            continue
        numbers = (row.step_ms, row.gflops, row.samples_per_second, 1 / row.share)
        yield SPEEDS.format(row.device, row.shape, *map(significant, numbers))
        if row.kernels:
            kernels.setdefault(f"{row.device}: {row.kernels}", []).append(row.shape)
    yield (
        "\ntimes its products: a step takes that many times as long as its matrix\n"
        "products alone, called one by one. At 1.00 all the rest costs nothing. A small\n"
        "network can be below: each call costs time, and fused kernels make fewer."
    )
    for name, shapes in kernels.items():
        yield f"{name} ({', '.join(shapes)})"
