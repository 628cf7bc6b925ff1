"""Summaries of times: ratios, exponents, serial parts, and their tables."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Entry = dict[str, Any]  # of a contestant: its `times` in each round, or its `problem`


def ratios(peer: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles of time_peer / time_ours over the rounds: lower, median, upper."""
    quotients = sorted(p / o for p, o in zip(peer, ours, strict=True))
    if len(quotients) < 4:
        return quotients[0], statistics.median(quotients), quotients[-1]
    lower, middle, upper = statistics.quantiles(quotients, n=4)
    return lower, middle, upper


BUSY = 0.15  # on a quiet machine the middle round is a few percent above the best one


def spread(times: Sequence[float]) -> float:
    """The relative excess of the median time over the best one: 0.1 is a tenth."""
    return statistics.median(times) / min(times) - 1


def busy(series: Iterable[Sequence[float]]) -> str:
    """A sentence if the times show that the machine was busy; else "".

    series: the times of each contestant. The machine was busy if half of the contestants are
    unsteady, since a single one may be so by itself.
    """
    series = list(series)
    if series and max(map(len, series)) < 3:
        return "There was time for fewer than three rounds: these are no figures to keep."
    spreads = [spread(times) for times in series]
    middle = statistics.median(spreads) if spreads else 0.0
    if middle <= BUSY:
        return ""
    return (
        f"The machine was busy: the middle round took {middle:.0%} longer than the best one. "
        "Ratios within a round hold; times do not."
    )


def judge(found: Mapping[str, Entry], what: str, tolerance: float, leave: Iterable[str]) -> None:
    """Marks contestants whose value `what` (a loss, an accuracy) differs from that of the others.

    It compares with the median, which a single wrong value does not move. Those in `leave` are not
    judged. tolerance: relative. NaN is never right.
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
    """The part of a step besides its matrix products, from its times with 1 and n threads."""

    share_1: float  # of the step at one thread
    share_n: float  # of the step at n threads
    serial: float  # seconds of the rest that are serial, by Amdahl's law
    serial_share: float  # of the step at n threads


def rest(steps: tuple[float, float], products: tuple[float, float], n: int) -> Rest:
    """steps, products: seconds at one thread and at n.

    Amdahl: rest(n) = serial + parallel / n. Noise can move the serial part slightly below 0 or
    above the rest, so it is clipped.
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
    """A row for each contestant, with its times or its problem."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, entry in found.items():
        if entry.get("times"):
            cells = [column(entry) for column in columns.values()]
        else:
            cells = [entry.get("problem", "not run")] + [""] * (len(columns) - 1)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
