"""Reads a target column of text: numbers, true and false, or labels.

Unlike features, targets keep their exact values: whole numbers of any size stay whole numbers, and
a label is the text in the file.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from nnaccel.tabular import kinds
from nnaccel.tabular.columns import AS_NUMBERS, KINDS, Column
from nnaccel.tabular.kinds import Reading, Text
from nnaccel.tabular.tables import import_extra, listing, spelled, warn

FEW = 0.02  # of the rows: fewer "NA" or "?" among labels are no class


def read_labels(
    name: str, column: Any, decimal: str, quoted: frozenset[str] = frozenset()
) -> tuple[Any, Reading]:
    """A column of text converted to int64, uint64, float64, booleans or text, and its reading.

    quoted: words for no value that are in quotes in the file, which makes them labels.

    Raises ValueError for dates, times and durations, which cannot be predicted. Warns
    (TableWarning) of words among numbers, and of a few marks among labels, that are taken as
    missing, with their counts; and of labels that differ in case or blanks only.
    """
    text = _text_of(column)
    reading, ignored, _ = kinds.decide(text, decimal)
    if reading.kind == "number":
        _warn_missing(name, ignored)
        return _typed(text, kinds.read(text, reading)[0], reading), reading
    if reading.kind in AS_NUMBERS:
        raise ValueError(
            f"target {name!r} holds {KINDS[reading.kind]}, and a target is numbers or classes; "
            "turn it into numbers, such as days since a date"
        )
    if reading.kind == "boolean":
        return _typed(text, kinds.read(text, reading)[0], reading), reading
    return _labels(name, text, quoted), Reading("string")


def read_as(name: str, column: Any, reading: Reading) -> Any:
    """A column of text read as at the fit: numbers, or true and false.

    Warns (TableWarning) of words that cannot be read, which become missing, with their counts.
    Raises ValueError if no cell can be read.
    """
    text = _text_of(column)
    values, unread = kinds.read(text, reading)
    if unread and np.isnan(values).all():
        raise ValueError(
            f"target {name!r} held {KINDS[reading.kind]} when the model was fitted, now it holds "
            f"text ({listing(repr(word) for word, _ in unread)}); convert it, or train on such data"
        )
    _warn_missing(name, unread)
    return _typed(text, values, reading)


def _text_of(column: Any) -> Text:
    """The column as a `Text`, for any of Arrow's types of text."""
    return Column(column).text or Text(column)


def _typed(text: Text, values: np.ndarray, reading: Reading) -> Any:
    """The values (N,) of a text in their own type: booleans for true and false; int64 for whole
    numbers, uint64 if they exceed int64, else float64."""
    pa = import_extra("pyarrow")
    if reading.kind == "boolean":
        return pa.array(values, from_pandas=True).cast(pa.bool_())
    for whole in (pa.int64(), pa.uint64()):
        try:
            return text.column.cast(whole)
        except pa.ArrowInvalid:
            continue
    known = values[~np.isnan(values)]
    if len(known) and np.abs(known).max() < kinds.EXACT and not (known % 1).any():
        return pa.array(values, from_pandas=True).cast(pa.int64())
    return pa.array(values, from_pandas=True)


def without_marks(name: str, column: Any, classes: tuple[str, ...]) -> Any:
    """The labels unchanged, except that marks for no value that are no class of the model become
    missing.

    Warns (TableWarning) of these marks, with their counts.
    """
    text = _text_of(column)
    marks = text.cells.blank & ~np.isin(np.array(text.cells.texts), classes)
    return _without(name, text, marks)


def _labels(name: str, text: Text, quoted: frozenset[str]) -> Any:
    """The labels unchanged, except that a few marks for no value become missing."""
    cells = text.cells
    stray = cells.blank & (cells.counts < FEW * max(cells.counts.sum(), 1))
    stray &= ~np.isin(np.array(cells.texts), [*quoted])
    stray |= np.array(cells.texts) == ""
    _warn_alike(name, text.column)
    return _without(name, text, stray)


def _without(name: str, text: Text, which: np.ndarray) -> Any:
    """The column with these of its different texts as null; warns of them."""
    pa, pc = import_extra("pyarrow"), import_extra("pyarrow.compute")
    cells = text.cells
    if not which.any():
        return text.column
    _warn_missing(name, cells.listed(which))
    words = cells.texts.filter(pa.array(which))
    missing = pc.is_in(pc.utf8_trim_whitespace(text.column), value_set=words)
    return pc.if_else(missing, pa.scalar(None, text.column.type), text.column)


def _warn_missing(name: str, words: tuple[tuple[str, int], ...]) -> None:
    if words:
        rows = sum(n for _, n in words)
        warn(f"target {name!r}: {spelled(words)} taken as missing: {rows:,} rows without a target")


def _warn_alike(name: str, column: Any) -> None:
    alike = defaultdict(list)
    for label in column.drop_null().unique().to_pylist():
        alike[" ".join(label.split()).casefold()].append(label)
    if same := [labels for labels in alike.values() if len(labels) > 1]:
        shown = listing((" and ".join(map(repr, labels)) for labels in same), 4)
        warn(
            f"target {name!r} has labels that differ in blanks or case only, and are different "
            f"classes: {shown}; make them one if they mean the same"
        )
