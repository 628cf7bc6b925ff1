"""What the command line shows: live progress on a terminal, plain lines in a pipe, and tables."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nnaccel.training import Epoch

SHOWN_CLASSES = 20  # a larger confusion matrix does not fit on a screen


def follow(epochs: Iterable[Epoch], total: int, metric: str, console: Console) -> Iterator[Epoch]:
    """Yield the epochs while showing how far training is and how well it goes."""
    if not console.is_terminal:
        for epoch in epochs:
            console.print(_line(epoch, total, metric), soft_wrap=True)
            yield epoch
        return
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        for epoch in epochs:
            bar = ProgressBar(total=total, completed=epoch.number, width=40)
            live.update(Group(bar, Text(_line(epoch, total, metric))))
            yield epoch


def _line(epoch: Epoch, total: int, metric: str) -> str:
    """One epoch: its number, losses, metrics, speed, and the time that is left at that speed."""
    parts = [f"epoch {epoch.number:{len(str(total))}d}/{total}"]
    parts.append(f"loss {epoch.loss:.4f}  {metric} {number(epoch.metric)}")
    if epoch.validation_loss is not None:
        parts.append(
            f"validation loss {epoch.validation_loss:.4f}  "
            f"{metric} {number(epoch.validation_metric)}"
        )
    parts.append(f"{epoch.samples_per_second:,.0f} samples/s")
    left = round((total - epoch.number) * epoch.seconds)
    parts.append(f"{left // 60}:{left % 60:02d} left")
    return "   ".join(parts)


def number(value: float) -> str:
    """Four decimals, or as many significant digits where that would say nothing."""
    return f"{value:.4f}" if 1e-2 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"


def scores(scores: dict[str, Any], title: str, classes: tuple[Any, ...]) -> Group:
    """The scores as a table, and the confusion matrix as another."""
    plain = [(name, number(v)) for name, v in scores.items() if name != "confusion matrix"]
    shown = table(title, ("score", "value"), plain)
    if "confusion matrix" not in scores:
        return shown
    title = "confusion matrix: true classes in rows, predicted ones in columns"
    if len(classes) > SHOWN_CLASSES:
        return Group(shown, Text(f"{title}: {len(classes)} are too many to show"))
    rows = []
    for i, (name, counts) in enumerate(zip(classes, scores["confusion matrix"], strict=True)):
        cells = (Text(str(n), style="bold green" if i == j else "") for j, n in enumerate(counts))
        rows.append((str(name), *cells))
    return Group(shown, table(title, ("", *map(str, classes)), rows))


def table(title: str, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> Group:
    """A table under its title; columns of numbers are aligned to the right."""
    cells = [[cell if isinstance(cell, Text) else str(cell) for cell in row] for row in rows]
    body = Table()
    for i, name in enumerate(header):
        numbers = all(_is_number(str(row[i])) for row in cells)
        body.add_column(name, overflow="fold", justify="right" if numbers else "left")
    for row in cells:
        body.add_row(*row)
    return Group(Text(title, style="bold"), body)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
