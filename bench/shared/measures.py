"""What is made of times: ratios, exponents, serial parts, and the tables that show them."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Entry = dict[str, Any]  # of a contestant: its `times` in each round, or the `problem` it has


def ratios(peer: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles of time_peer / time_ours over the rounds: lower, median, upper."""
    quotients = sorted(p / o for p, o in zip(peer, ours, strict=True))
    if len(quotients) < 4:
        return quotients[0], statistics.median(quotients), quotients[-1]
    lower, middle, upper = statistics.quantiles(quotients, n=4)
    return lower, middle, upper


BUSY = 0.15  # on a quiet machine the middle round is a few percent above the best one


def spread(times: Sequence[float]) -> float:
    """How far the middle one of some times is above the best one: 0.1 is a tenth."""
    return statistics.median(times) / min(times) - 1


def busy(series: Iterable[Sequence[float]]) -> str:
    """A sentence where times show that the machine had other work; else empty.

    series: the times of each contestant. One that is unsteady by itself does not count: half of
    them have to be.
    """
    spreads = [spread(times) for times in series if len(times) > 2]
    middle = statistics.median(spreads) if spreads else 0.0
    if middle <= BUSY:
        return ""
    return (
        f"The machine was busy: the middle round took {middle:.0%} longer than the best one. "
        "Ratios within a round hold; times do not."
    )


def judge(found: Mapping[str, Entry], what: str, tolerance: float, leave: Iterable[str]) -> None:
    """Marks as a problem whose `what` (a loss, an accuracy) is not that of the others.

    The others are their median, so that one that is wrong does not move it; those in `leave` are
    not judged. tolerance: relative. NaN is never right.
    """
    values = {n: e[what] for n, e in found.items() if what in e and n not in leave}
    finite = [value for value in values.values() if math.isfinite(value)]
    middle = statistics.median(finite) if finite else math.nan
    for name, value in values.items():
        if not abs(value - middle) <= tolerance * abs(middle):
            found[name]["problem"] = f"comes to {what} {value:.4g}, the others to {middle:.4g}"


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """a of cost = c size^a, by least squares in the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


class Rest(NamedTuple):
    """What a step does beside its matrix products, from its times at 1 and at n threads."""

    share_1: float  # of the step at one thread
    share_n: float  # of the step at n threads
    serial: float  # seconds of the rest that more threads do not shorten, by Amdahl's law
    serial_share: float  # of the step at n threads


def rest(steps: tuple[float, float], products: tuple[float, float], n: int) -> Rest:
    """steps, products: seconds at one thread and at n.

    Amdahl: rest(n) = serial + parallel / n. Noise can put the serial part a little below nothing
    or above the whole; it is kept between.
    """
    one, many = (step - product for step, product in zip(steps, products, strict=True))
    serial = min(max((n * many - one) / (n - 1), 0.0), max(many, 0.0))
    return Rest(one / steps[0], many / steps[1], serial, serial / steps[1])


def best(entry: Entry) -> str:
    return f"{min(entry['times']):.4g}"


def median(entry: Entry) -> str:
    return f"{statistics.median(entry['times']):.4g}"


def ratio_to(ours: Entry) -> Callable[[Entry], str]:
    """The column of the ratios to one of the contestants."""

    def cell(entry: Entry) -> str:
        if entry is ours:
            return ""
        lower, middle, upper = ratios(entry["times"], ours["times"])
        return f"{middle:.2f} ({lower:.2f} to {upper:.2f})"

    return cell


def markdown(found: Mapping[str, Entry], columns: Mapping[str, Callable[[Entry], str]]) -> str:
    """A row for each contestant; one without times has its problem instead."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, entry in found.items():
        if entry.get("times"):
            cells = [column(entry) for column in columns.values()]
        else:
            cells = [entry.get("problem", "not run")] + [""] * (len(columns) - 1)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
