"""Kinds: decides the meaning of the texts of a column, once, over the whole column.

A file is read as text. `decimal_mark` looks at all of its columns, `decide` at one. The resulting
`Reading` is data in the model file; `read` applies it to the columns of other tables, and infers
nothing.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from nnaccel.tabular import dates, numbers
from nnaccel.tabular.tables import MISSING, chunked, import_extra

# Words and marks that stand for no value, in lower case: first among categories, then among numbers
# and labels.
NO_VALUE = (
    *map(str.lower, MISSING),
    "?", "-", "--", "---", "–", "—", ".", "..", "...", "*", "_", "n.a.", "n.a", "+nan", "#null!",
    "(null)", "\\n", "nil", "(none)", "missing", "(missing)", "unknown", "undefined",
    "not available", "not applicable", "no data", "#value!", "#div/0!", "#ref!", "#num!", "#name?",
    "tbd", "nat",
)  # fmt: skip
STRAY = 0.1  # the largest share of other words in a column of numbers
FEW = 20  # with at most this many different numbers, words among them make all of them categories
VERSIONS = 50  # with at most this many different numbers, "1.1" and "1.10" may be different names
CODED = 0.005  # the share of numbers with a leading zero that makes the whole column codes
EXACT = 2.0**53  # above it float64 does not hold every integer


class Reading(NamedTuple):
    """How the cells of a column are read.

    kind: "number", "date", "time", "duration", "boolean", "string", or "null" (no value at all).
    form: the decimal mark of numbers, or the form of dates (see `dates.FORMS`).
    codes: numbers that stand for no value, such as -9999.
    """

    kind: str
    form: str = ""
    codes: tuple[float, ...] = ()


class Decision(NamedTuple):
    """A reading, and facts about it for a warning.

    ignored: the words that are taken as missing, with their counts, most frequent first.
    ambiguous: whether day and month could be told apart only by the order of the rows.
    """

    reading: Reading
    ignored: tuple[tuple[str, int], ...] = ()
    ambiguous: bool = False


class Text:
    """A column of text, from any library that supports Arrow, with cached results about it.

    Each result costs time and memory, so it is computed once, and only when it is needed.
    """

    def __init__(self, column: Any) -> None:
        self.column = chunked(column)
        self._values: dict[tuple[str, str], np.ndarray] = {}

    @cached_property
    def floats(self) -> np.ndarray | None:
        """The cells as float64 (N,), null as NaN, if all are plain numbers; else None."""
        pa = import_extra("pyarrow")
        try:
            return self.column.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            return None

    @cached_property
    def cells(self) -> "Cells":
        """The different texts."""
        pa, pc = import_extra("pyarrow"), import_extra("pyarrow.compute")
        encoded = pc.utf8_trim_whitespace(self.column).combine_chunks().dictionary_encode()
        texts, codes = encoded.dictionary, encoded.indices.fill_null(-1).to_numpy()
        counts = np.bincount(codes[codes >= 0], minlength=len(texts))
        lower = pc.utf8_lower(texts)
        blank = pc.is_in(lower, value_set=pa.array(NO_VALUE, lower.type)).to_numpy(False)
        return Cells(texts, counts, codes, blank)

    def values(self, kind: str, form: str) -> np.ndarray:
        """The different texts read as a kind, (n,); NaN where they are not of that kind."""
        if (kind, form) not in self._values:
            self._values[kind, form] = _VALUES[kind](self.cells.texts, form)
        return self._values[kind, form]

    def decimal_evidence(self) -> tuple[int, int, int]:
        """How many of the different texts are numbers only with a decimal point, only with a
        decimal comma, and at all.

        "1,234" may have either mark, "1,5", "0,123" and "1.234,5" only a decimal comma.
        """
        point, comma = (~np.isnan(self.values("number", mark)) for mark in numbers.MARKS)
        return (
            int(np.count_nonzero(point & ~comma)),
            int(np.count_nonzero(comma & ~point)),
            int(np.count_nonzero(point | comma)),
        )


class Cells(NamedTuple):
    """The different texts of a column, trimmed (n,); the count of each; for each row the index of
    its text (-1 for null); and which of the texts stand for no value (n,)."""

    texts: Any  # pyarrow Array of strings
    counts: np.ndarray
    codes: np.ndarray
    blank: np.ndarray

    def listed(self, which: np.ndarray) -> tuple[tuple[str, int], ...]:
        """The selected texts with their counts, most frequent first."""
        texts, counts = self.texts.to_numpy(False)[which].tolist(), self.counts[which].tolist()
        return tuple(sorted(zip(texts, counts, strict=True), key=lambda pair: -pair[1]))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of the texts (n,) as values of the rows (N,), NaN for null."""
        return np.append(values, np.nan)[self.codes]


def decimal_mark(columns: Iterable[Text]) -> str:
    """The decimal mark of a file: "," if its numbers can be read in no other way, else ".".

    "1,234" can be read either way, so it is no evidence.
    """
    point = comma = 0
    for column in columns:
        if column.floats is not None:
            continue
        only_point, only_comma, all_numbers = column.decimal_evidence()
        if 2 * all_numbers >= np.count_nonzero(~column.cells.blank):  # otherwise it is prose
            point, comma = point + only_point, comma + only_comma
    return "," if comma > point else "."


def decide(column: Text, decimal: str = ".") -> Decision:
    """Decides the reading of a column of text.

    Numbers: nearly all cells are numbers; the others are then missing. Digits may also be names:
    with leading zeros ("007"), with more digits than float64 holds, or with decimals like versions
    ("1.1" and "1.10"). Dates, times of day and durations: nearly all cells have their form.
    Booleans: "true" and "false" in upper or lower case. Every other column is text.
    """
    plain = column.floats if decimal == "." else None
    if plain is not None and np.isfinite(plain).any():
        names = _are_names(column.column, plain)
        return Decision(Reading("string") if names else Reading("number", decimal))
    cells = column.cells
    present = ~cells.blank
    if not present.any():
        return Decision(Reading("null"))
    for reading, ambiguous in _candidates(cells, present, decimal):
        values = column.values(reading.kind, reading.form)
        fits = present & ~np.isnan(values)
        n, others = (int(cells.counts[which].sum()) for which in (fits, present & ~fits))
        few = reading.kind == "number" and np.count_nonzero(fits) <= FEW
        if not n or others > STRAY * (n + others) or (others and few):
            continue
        if reading.kind == "boolean" and cells.listed(~fits):
            continue  # "true", "false", "unknown": three categories
        if reading.kind == "number" and _are_names(
            cells.texts.filter(_mask(fits)), values[fits], cells.counts[fits]
        ):
            break
        return Decision(reading, cells.listed(~fits), ambiguous)
    return Decision(Reading("string"))


def read(column: Text, reading: Reading) -> tuple[np.ndarray, tuple[tuple[str, int], ...]]:
    """The cells as float64 (N,), NaN where missing, and the words that could not be read.

    Numbers keep their values, true and false become 1 and 0, dates, times and durations are in
    seconds. The words that could not be read come with their counts, without the usual spellings of
    no value (`NO_VALUE`).
    """
    if reading[:2] == ("number", ".") and column.floats is not None:
        return column.floats, ()
    cells = column.cells
    if not len(cells.texts):
        return np.full(len(cells.codes), np.nan), ()
    values = column.values(reading.kind, reading.form)
    return cells.spread(values), cells.listed(np.isnan(values) & ~cells.blank)


def _truth(texts: Any, form: str) -> np.ndarray:
    lower = np.array([text.lower() for text in texts.to_pylist()], dtype=object)
    return np.where(lower == "true", 1.0, np.where(lower == "false", 0.0, np.nan))


_VALUES = {
    "number": numbers.to_float64,
    "boolean": _truth,
    "date": dates.to_moments,
    "time": lambda texts, form: dates.to_times(texts),
    "duration": lambda texts, form: dates.to_durations(texts),
}


def _candidates(cells: Cells, present: np.ndarray, decimal: str) -> Iterator[tuple[Reading, bool]]:
    """The possible readings of the cells, in order of preference, and whether each is ambiguous."""
    for kind, form in (("number", decimal), ("boolean", ""), ("time", ""), ("duration", "")):
        yield Reading(kind, form), False
    form, ambiguous = dates.form_of(cells.texts.filter(_mask(present)))
    if form is not None:
        yield Reading("date", form), ambiguous


def _are_names(texts: Any, values: np.ndarray, counts: np.ndarray | None = None) -> bool:
    """Whether these texts, which can be read as numbers, are names made of digits.

    texts, values: (n,), of the rows, or of the different texts with their counts (n,).
    """
    pc = import_extra("pyarrow.compute")
    known = ~np.isnan(values)
    if not have_fractions(values[known]):
        counts = known.astype(int) if counts is None else counts
        coded = _matches(texts, r"^\s*[+-]?0\d+\s*$")
        long = np.abs(values) >= EXACT
        long &= _matches(texts, r"^\s*[+-]?\d{16,}\s*$") if long.any() else False
        total = counts.sum()
        return counts[coded].sum() > CODED * total or 2 * counts[long].sum() > total
    # Different numbers of decimals, some of which end in a zero that programs do not write ("1.10";
    # Python writes "1.0", which does not count).
    head = texts.slice(0, 20 * VERSIONS).unique()
    if len(head) > VERSIONS or len(different := pc.utf8_trim_whitespace(texts.unique())) > VERSIONS:
        return False
    decimals = {len(t.partition(".")[2]) for t in different.to_pylist() if t and "." in t}
    zeros = _matches(different, r"^\d+\.\d+0$")
    return len(decimals) > 1 and bool(zeros.any())


def have_fractions(values: np.ndarray) -> bool:
    """Whether any of the numbers (N,) has a fractional part."""
    return any((np.trunc(part) != part).any() for part in (values[:1000], values[1000:]))


def _matches(texts: Any, pattern: str) -> np.ndarray:
    pc = import_extra("pyarrow.compute")
    found = pc.match_substring_regex(texts, pattern).fill_null(False)
    return found.to_numpy() if hasattr(found, "chunks") else found.to_numpy(False)


def _mask(which: np.ndarray) -> Any:
    return import_extra("pyarrow").array(which)
