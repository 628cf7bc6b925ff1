"""Dates, times and durations: conversion of text or Arrow's types to seconds, and their features.

A moment is a number of seconds (float64) since 1970-01-01 00:00: in UTC where the text gives an
offset, else in the local time of the text. A time of day and a duration are in seconds, too.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nnaccel.tabular.tables import import_extra
from nnaccel.typing import Array, Namespace

DAY, YEAR = 86_400.0, 365.2425
BEFORE_1970 = 719_528  # days from the beginning of the year 0 in the Gregorian calendar
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d+)?))?"
    r"(?:\s?(?P<half>[AaPp])\.?[Mm]\.?)?"
)
BEHIND = rf"(?:[T\s]\s*{CLOCK})?\s*(?P<offset>Z|UTC|GMT|[+-]\d{{2}}:?\d{{2}})?$"
MONTH = r"(?P<word>[A-Za-z]{3})[A-Za-z]*\.?"
# The forms of a date. Only the whole column can tell which number is the day and which the month.
FORMS: dict[str, str] = {
    "ymd": rf"^(?P<year>\d{{4}})[-/.](?P<month>\d{{1,2}})[-/.](?P<day>\d{{1,2}}){BEHIND}",
    "dmy": rf"^(?P<day>\d{{1,2}})[-/.](?P<month>\d{{1,2}})[-/.](?P<year>\d{{4}}|\d{{2}}){BEHIND}",
    "mdy": rf"^(?P<month>\d{{1,2}})[-/.](?P<day>\d{{1,2}})[-/.](?P<year>\d{{4}}|\d{{2}}){BEHIND}",
    "d month y": rf"^(?P<day>\d{{1,2}})[\s-]*{MONTH}[\s,-]*(?P<year>\d{{4}}|\d{{2}}){BEHIND}",
    "month d y": rf"^{MONTH}[\s-]*(?P<day>\d{{1,2}})[\s,-]+(?P<year>\d{{4}}){BEHIND}",
    "ym": r"^(?P<year>\d{4})[-/](?P<month>\d{1,2})$",
}
TIME = rf"^{CLOCK}$"
DURATION = (
    r"^(?P<sign>-)?(?:(?P<days>\d+)\s*(?:days?|d)\s*,?\s*)?\+?"
    r"(?P<hour>\d+):(?P<minute>\d{2}):(?P<second>\d{2}(?:\.\d+)?)$|^(?P<only>-?\d+)\s*(?:days?|d)$"
)


def to_moments(text: Any, form: str) -> np.ndarray:
    """Seconds (N,) of texts in one of `FORMS`; NaN for null and for texts that are no date of that
    form."""
    found = _groups(text, FORMS[form])
    year, day = _number(found, "year"), _number(found, "day", 1.0)
    month = _number(found, "month", 1.0)
    if "word" in found:
        word = np.char.lower(found["word"])
        month = np.select([word == name for name in MONTHS], range(1, 13), np.nan)
    year = np.where(year < 100, np.where(year < 69, 2000 + year, 1900 + year), year)  # as POSIX
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    months = np.where(valid, 12 * (year - 1970) + month - 1, 0).astype("M8[M]")
    first, next_first = (m.astype("M8[D]").astype(np.float64) for m in (months, months + 1))
    valid &= day <= next_first - first
    offset = _offset(found["offset"]) if "offset" in found else 0.0
    seconds = (first + day - 1) * DAY + _clock(found, 0.0) - offset
    return np.where(valid, seconds, np.nan)


def to_times(text: Any) -> np.ndarray:
    """Seconds since midnight (N,) of texts such as "13:05" and "1:05:07 pm"; else NaN."""
    return _clock(_groups(text, TIME), np.nan)


def to_durations(text: Any) -> np.ndarray:
    """Seconds (N,) of texts such as "2 days 02:02:00" and "-1 day"; else NaN."""
    found = _groups(text, DURATION)
    clock = 60 * (60 * _number(found, "hour") + _number(found, "minute")) + _number(found, "second")
    days = DAY * _number(found, "days", 0.0)
    sign = np.where(found["sign"] == "-", -1.0, 1.0)
    return np.where(found["only"] != "", DAY * _number(found, "only"), sign * (days + clock))


def form_of(texts: Any) -> tuple[str | None, bool]:
    """The date form of most texts, or None if they are no dates, and whether another form fits as
    many.

    Day first and month first are told apart by the whole column: a number above 12 is a day. If
    there is none, the order is chosen that puts neighbouring dates closer together, as in "03/01,
    04/01, 05/01".
    """
    seconds = {form: to_moments(texts, form) for form in FORMS}
    fitting = {form: int(np.count_nonzero(~np.isnan(s))) for form, s in seconds.items()}
    most = max(fitting.values())
    best = [form for form, n in fitting.items() if n == most]
    if not most or len(best) == 1:
        return best[0] if most else None, False

    def jumps(form: str) -> float:
        steps = np.diff(seconds[form][~np.isnan(seconds[form])])
        return float(np.abs(steps).sum())

    return min(best, key=jumps), True


# ---------------------------------------------------------------------------- features


class Part(NamedTuple):
    """A feature of a date or time: a position in time, or the sine or cosine of a position in a
    cycle.

    Like the functions below it maps seconds (N,), NaN where missing, to numbers (N,), for arrays of
    any library. Positions in a cycle are fractions of it.
    """

    place: Callable[..., Array]
    turn: str = ""  # "sin", "cos", or "" for the position itself

    def __call__(self, seconds: Array, *, xp: Namespace) -> Array:
        found = self.place(seconds, xp=xp)
        return getattr(xp, self.turn)(2 * math.pi * found) if self.turn else found


def days_of(seconds: Array, *, xp: Namespace) -> Array:
    """Days."""
    return seconds / DAY


def seconds_of(seconds: Array, *, xp: Namespace) -> Array:
    """The seconds as they are."""
    return seconds


def share_of_year(seconds: Array, *, xp: Namespace) -> Array:
    """The fraction of the year that has passed."""
    return (seconds / DAY - first_day(xp.floor(seconds / DAY), xp=xp)) / YEAR


def share_of_week(seconds: Array, *, xp: Namespace) -> Array:
    """The fraction of the week that had passed when the day began; weeks begin on Thursday."""
    day = xp.floor(seconds / DAY)
    return (day - 7 * xp.floor(day / 7)) / 7


def share_of_day(seconds: Array, *, xp: Namespace) -> Array:
    """The fraction of the day that has passed."""
    return seconds / DAY - xp.floor(seconds / DAY)


def first_day(day: Array, *, xp: Namespace) -> Array:
    """The first day of the year that contains a day, both counted from 1970-01-01.

    The year is estimated from the mean length of years; the estimate is off by one year at most,
    and corrected.
    """
    day = day + BEFORE_1970
    year = xp.floor(day / YEAR)
    early, late = day >= days_before(year + 1, xp=xp), day < days_before(year, xp=xp)
    year = year + xp.astype(early, day.dtype) - xp.astype(late, day.dtype)
    return days_before(year, xp=xp) - BEFORE_1970


def days_before(year: Array, *, xp: Namespace) -> Array:
    """The days from the beginning of the year 0 to the beginning of `year`, in the Gregorian
    calendar."""
    leap = xp.floor((year + 3) / 4) - xp.floor((year + 99) / 100) + xp.floor((year + 399) / 400)
    return 365 * year + leap


PARTS: dict[str, Part] = {
    "days": Part(days_of),
    "seconds": Part(seconds_of),
    "sin year": Part(share_of_year, "sin"),
    "cos year": Part(share_of_year, "cos"),
    "sin week": Part(share_of_week, "sin"),
    "cos week": Part(share_of_week, "cos"),
    "sin day": Part(share_of_day, "sin"),
    "cos day": Part(share_of_day, "cos"),
}
# The features of each kind of column; those that do not vary are dropped.
OF = {
    "date": ("days", "sin year", "cos year", "sin week", "cos week", "sin day", "cos day"),
    "time": ("seconds", "sin day", "cos day"),
    "duration": ("seconds",),
}


# ---------------------------------------------------------------------------- reading


def _groups(text: Any, pattern: str) -> dict[str, np.ndarray]:
    """The named groups of a pattern as arrays of text (N,), "" where there is none."""
    pc = import_extra("pyarrow.compute")
    found = pc.extract_regex(pc.utf8_trim_whitespace(text), pattern)
    found = found.combine_chunks() if hasattr(found, "chunks") else found
    return {
        field.name: pc.fill_null(pc.struct_field(found, field.name), "")
        .to_numpy(zero_copy_only=False)
        .astype(str)
        for field in found.type
    }


def _number(found: dict[str, np.ndarray], name: str, absent: float = np.nan) -> np.ndarray:
    """A group as float64; `absent` where the group is empty, NaN where the whole pattern did not
    match."""
    if name not in found:
        size = len(next(iter(found.values())))
        return np.full(size, absent)
    text = found[name]
    return np.where(text == "", str(absent), np.char.replace(text, ",", ".")).astype(np.float64)


def _clock(found: dict[str, np.ndarray], absent: float) -> np.ndarray:
    """Seconds since midnight; `absent` where the text has no time, NaN for an impossible time."""
    if "hour" not in found:
        return np.full(len(next(iter(found.values()))), absent)
    hour, minute = _number(found, "hour", absent), _number(found, "minute", 0.0)
    second, half = _number(found, "second", 0.0), np.char.lower(found["half"])
    hour = np.where(half == "", hour, np.where(hour <= 12, hour % 12, np.nan) + 12 * (half == "p"))
    valid = (hour <= 24) & (minute < 60) & (second < 61)
    return np.where(valid | (found["hour"] == ""), 60 * (60 * hour + minute) + second, np.nan)


def _offset(text: np.ndarray) -> np.ndarray:
    """The offset from UTC in seconds, of "+01:00" or "-0530"; 0 for "Z", "UTC" and no offset."""
    digits = np.char.replace(text, ":", "")
    numeric = np.char.isdigit(np.char.lstrip(digits, "+-"))
    value = np.where(numeric, digits, "0").astype(np.int64)
    size = np.abs(value)
    return np.sign(value) * (60.0 * (60 * (size // 100) + size % 100))
