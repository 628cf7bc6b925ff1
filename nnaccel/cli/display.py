"""The display of the command line: live progress on a terminal, plain lines in a pipe, and
tables."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
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
from nnaccel.training.benchmark import significant
from nnaccel.training.epoch import Epoch

PIPE_WIDTH = 200


def console() -> "Screen":
    """The console on standard output. In a pipe its width is large."""
    return Screen(width=None if sys.stdout.isatty() else PIPE_WIDTH)


class Screen(Console):
    """A console that interprets text from files neither as markup nor as control characters.

    `render_str` converts every string that is printed, or is in a table, to a Text. No other code
    makes a Text of unknown strings.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, self.encoding), **options)

    def on_broken_pipe(self) -> None:
        raise  # rich would end the program with its own exit status


# ---------------------------------------------------------------------------- training


def follow(
    epochs: Iterable[Epoch],
    total: int,
    metric: str,
    console: Console,
    best: Callable[[], list[int]] = list,
) -> Iterator[Epoch]:
    """Yield the epochs, and show the progress and the scores.

    best: a function that returns the numbers of the best epochs so far."""
    started, first = time.perf_counter(), 0

    def left(epoch: Epoch) -> float:
        done = epoch.number - first + 1
        return (time.perf_counter() - started) * (total - epoch.number) / done

    def words(epoch: Epoch) -> str:
        return f"{_success(epoch, metric)}{_best(best())}"

    if not console.is_terminal:
        for epoch in epochs:
            first = first or epoch.number
            parts = (_count_of(epoch, total), words(epoch), _speed(epoch, left(epoch)))
            console.print("   ".join(parts), soft_wrap=True)
            yield epoch
        return
    with Live(console=console, refresh_per_second=8) as live:
        for epoch in epochs:
            first = first or epoch.number
            grid = Table.grid(padding=(0, 2))
            bar = ProgressBar(total=total, completed=epoch.number, width=24)
            grid.add_row(bar, _count_of(epoch, total), _speed(epoch, left(epoch)))
            live.update(Group(grid, words(epoch)))
            yield epoch


class Passes:
    """Shows the progress of passes over a table: live on a terminal, else in a line from time to
    time."""

    def __init__(self, console: Console) -> None:
        self._console, self._what = console, ""
        self._started = self._shown = time.perf_counter()

    def __call__(self, what: str, share: float | None) -> None:
        """what: the pass.   share: the finished share; None: unknown."""
        now = time.perf_counter()
        if what != self._what:
            self._what, self._started, self._shown = what, now, now
        live = self._console.is_terminal
        if now - self._shown < (0.2 if live else 10.0):
            return
        self._shown, seconds = now, now - self._started
        words = f"{what}: {seconds:.0f} s"
        if share:
            left = seconds * (1 - share) / share
            words = f"{what}: {share:4.0%}   {clock(left)} left"
        self._console.print(words, end="\r" if live else "\n", soft_wrap=True)


def clock(seconds: float) -> str:
    """`1:05`, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def _best(numbers: list[int]) -> str:
    """`   best: epoch 7`, or `   best: epochs 5 to 9` for several networks."""
    if not numbers:
        return ""
    first, last = min(numbers), max(numbers)
    return f"   best: epoch {first}" if first == last else f"   best: epochs {first} to {last}"


def _count_of(epoch: Epoch, total: int) -> str:
    return f"epoch {epoch.number:{len(str(total))}d}/{total}"


def _speed(epoch: Epoch, left: float) -> str:
    return f"{epoch.samples_per_second:,.0f} samples/s   {clock(left)} left"


def _success(epoch: Epoch, metric: str) -> str:
    """`loss 0.1234  accuracy 0.9876   validation loss 0.2345  accuracy 0.9765`"""
    text = f"loss {number(epoch.loss)}  {metric} {number(epoch.metric)}"
    if epoch.validation_loss is not None:
        text += (
            f"   validation loss {number(epoch.validation_loss)}  "
            f"{metric} {number(epoch.validation_metric)}"
        )
    return text


# ---------------------------------------------------------------------------- devices


def devices(found: Iterable[DeviceInfo]) -> Group:
    """The usable devices as a table, and the reasons why others are not usable."""
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
    """A number with four decimals; without decimals if it is large, with four digits if it is
    tiny."""
    if 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"


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
    """Print a line for each row of `nnaccel.training.benchmark.run` when it is ready, and explain
    the columns."""
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
