"""Charts as SVG: an area with axes, lines, dots and whiskers.

The style of the page sets the colours by CSS class. Labels are text, so screen readers can read
them.
"""

from collections.abc import Iterator
from math import ceil, floor, isfinite, log10
from typing import Any

import numpy as np

from nnaccel.reporting.html import Markup, join, tag

WIDTH, HEIGHT = 440, 270  # in SVG units; the page scales the picture
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 10, 44  # margins
BAND = 5  # the least width of a band
MOST_POINTS = 500  # most points of a line; more are indistinguishable
MARGIN = 0.04  # of the axes beyond the data, as a share of the range
LONG_RANGE = 30.0  # least ratio of largest to smallest value for a logarithmic axis

Span = tuple[float, float]


class Chart:
    """A chart, built by adding marks.

    x, y: the lowest and the highest value on each axis.   log: whether y is logarithmic.
    whole: whether x values are whole numbers.
    """

    def __init__(
        self,
        x: Span,
        y: Span,
        labels: tuple[str, str],
        *,
        log: bool = False,
        whole: bool = False,
    ) -> None:
        self._log, self._whole = log, whole
        self._x, self._y = x, (log10(y[0]), log10(y[1])) if log else y
        self._labels = labels
        self._marks: list[Markup] = []

    def line(self, x: Any, y: Any, css: str) -> "Chart":
        """A line through points, with gaps at points that are not finite."""
        stride = -(-len(x) // MOST_POINTS)
        kept = sorted({*range(0, len(x), stride), len(x) - 1})
        words, pen = [], "M"
        for i in kept:
            if isfinite(y[i]) and (y[i] > 0 or not self._log):
                words.append(f"{pen}{self._at(x[i], y[i])}")
                pen = "L"
            else:
                pen = "M"
        return self._add(tag("path", d="".join(words), class_=f"line {css}"))

    def dots(self, x: Any, y: Any, css: str) -> "Chart":
        """A dot for each point."""
        d = "".join(f"M{self._at(*at)}h0" for at in zip(x, y, strict=True))
        return self._add(tag("path", d=d, class_=f"dots {css}"))

    def whiskers(self, x: Any, low: Any, high: Any, css: str) -> "Chart":
        """A vertical line from low to high at each x."""
        ends = zip(x, low, high, strict=True)
        d = "".join(f"M{self._at(at, a)}L{self._at(at, b)}" for at, a, b in ends)
        return self._add(tag("path", d=d, class_=f"whiskers {css}"))

    def band(self, first: float, last: float, css: str) -> "Chart":
        """The area between two x values, over the whole height."""
        a, b = self._across(first) - BAND / 2, self._across(last) + BAND / 2
        return self._add(
            tag("rect", x=f"{a:.1f}", y=TOP, width=f"{b - a:.1f}", class_=css,
                height=HEIGHT - TOP - BOTTOM)
        )  # fmt: skip

    def svg(self, title: str, description: str) -> Markup:
        """The picture, with a title and a description for screen readers."""
        content = join([*self._axes(), *self._marks], "\n")
        box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}"}
        return tag("svg", content, **box, role="img", aria_label=f"{title}: {description}")

    def _add(self, mark: Markup) -> "Chart":
        self._marks.append(mark)
        return self

    def _axes(self) -> Iterator[Markup]:
        bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
        marks = log_ticks(*self._y) if self._log else ticks(*self._y)
        for value in marks:
            y = f"{self._up(value):.1f}"
            yield tag("path", d=f"M{LEFT} {y}H{WIDTH - RIGHT}", class_="grid")
            yield tag("text", tick(value), x=LEFT - 6, y=y, dy="0.32em", text_anchor="end")
        places = ticks(*self._x)
        for value in (place for place in places if not self._whole or place.is_integer()):
            x = f"{self._across(value):.1f}"
            yield tag("path", d=f"M{x} {bottom}v4", class_="axis")
            yield tag("text", tick(value), x=x, y=bottom + 16, text_anchor="middle")
        yield tag("path", d=f"M{LEFT} {bottom}H{WIDTH - RIGHT}", class_="axis")
        across, up = self._labels
        at = (LEFT + WIDTH - RIGHT) / 2
        yield tag("text", across, x=at, y=HEIGHT - 7, text_anchor="middle", class_="label")
        turned = f"translate(12 {middle}) rotate(-90)"
        yield tag("text", up, transform=turned, text_anchor="middle", class_="label")

    def _at(self, x: float, y: float) -> str:
        return f"{self._across(x):.1f} {self._up(y):.1f}"

    def _across(self, x: float) -> float:
        low, high = self._x
        return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def _up(self, y: float) -> float:
        (low, high), y = self._y, log10(y) if self._log else y
        share = min(max((y - low) / (high - low), 0.0), 1.0)  # clipped to the edges
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def span(*arrays: Any, margin: float = MARGIN) -> Span:
    """The range of the finite numbers in the arrays, widened by a margin on both sides."""
    values = np.concatenate([np.ravel(np.asarray(a, dtype=np.float64)) for a in arrays])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    extra = (high - low) * margin or abs(low) * 0.1 or 1.0
    return (low, high) if high > low and not margin else (low - extra, high + extra)


def log_span(*arrays: Any) -> Span:
    """The range of arrays of positive numbers, widened by a margin, for a logarithmic axis."""
    low, high = span(*arrays, margin=0.0)
    extra = (high / low) ** MARGIN
    return low / extra, high * extra


def is_long(*arrays: Any) -> bool:
    """Whether the ratio of the positive numbers is large enough for a logarithmic axis."""
    values = np.concatenate([np.asarray(a, dtype=np.float64) for a in arrays])
    values = values[np.isfinite(values)]
    return bool(values.size) and values.min() > 0 and values.max() / values.min() > LONG_RANGE


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high."""
    rough = (high - low) / 5
    power = 10.0 ** floor(log10(rough))
    step = power * next(n for n in (1, 2, 5, 10) if n * power >= rough * 0.999)
    return [n * step for n in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from 10^low to 10^high: powers of ten; if these are few, also 2 and 5 times
    them."""
    powers = range(floor(low), ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 3 else (1,)
    found = [n * 10.0**power for power in powers for n in factors]
    return [value for value in found if low <= log10(value) <= high]


def tick(value: float) -> str:
    """The label of a tick."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:,.6g}" if abs(value) >= 1e4 else f"{value:.4g}"
