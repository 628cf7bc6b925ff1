"""The survey of a table: decides once, at fit, how to read its columns and which to drop.

It looks at the whole table in the order of the file, before test rows are split off. Its decisions
are data in the model file, and new tables are read by them.
"""

from typing import Any, NamedTuple

import numpy as np

from nnaccel.arguments import did_you_mean
from nnaccel.tabular.columns import Column, numbers_of, read_as_arrow
from nnaccel.tabular.identifiers import ROWS, is_row_number, names_identifier, tells_apart
from nnaccel.tabular.kinds import Reading, decimal_mark, have_fractions
from nnaccel.tabular.missing_codes import find_codes
from nnaccel.tabular.tables import import_extra, listing, spelled, warn

EXCLUDED, EMPTY = "excluded", "no values"
LEVELS = 0.1  # more different texts than this share of the rows are names, which say little
REFUSED = {
    "nested": "give each of its values a separate column",
    "binary": "decode it to text or numbers",
    "other": "convert it to numbers or text",
}


class Survey(NamedTuple):
    """The result of a survey: the columns, the readings of used columns, the reasons why others are
    dropped, and the decimal mark."""

    columns: tuple[str, ...]
    readings: dict[str, Reading]
    dropped: dict[str, str]
    decimal: str


class Rules(NamedTuple):
    """The user's decisions about the columns of a table.

    drop, keep: columns to leave out, and columns to use in any case.   decimal: the decimal mark of
    numbers in text.   codes: numbers that stand for no value; None: search for them.
    """

    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    decimal: str | None = None
    codes: tuple[float, ...] | None = None


NO_RULES = Rules()


def survey(table: Any, rules: Rules = NO_RULES) -> tuple[Survey, Any]:
    """The survey of a pyarrow table, and the table converted to numbers, times and text.

    Columns of text are judged by their cells (`kinds.decide`), others by their type. It drops whole
    numbers that count the rows, and columns with the name of an identifier whose values differ in
    nearly every row, with a TableWarning unless the user named them. It also gives a TableWarning
    for words and codes that are taken as missing, with their counts; for dates whose order of day
    and month is a guess; and for text with more different values than a tenth of the rows. Raises
    ValueError for an absent column in `drop` or `keep`, and for columns that cannot be used.
    """
    _check_names(table.column_names, rules)
    columns = {n: Column(table[n]) for n in table.column_names if n not in rules.drop}
    _refuse(columns)
    texts = [column.text for column in columns.values() if column.text is not None]
    decimal = rules.decimal or decimal_mark(texts)
    readings = {name: _decided(name, column, decimal) for name, column in columns.items()}
    numbers = {
        name: numbers_of(name, columns[name], reading)[0]
        for name, reading in readings.items()
        if reading.kind == "number" and not columns[name].coded
    }
    for name, codes in _codes(numbers, rules.codes).items():
        readings[name] = readings[name]._replace(codes=codes)
    dropped = dict.fromkeys(rules.drop, EXCLUDED)
    dropped |= {name: EMPTY for name, reading in readings.items() if reading.kind == "null"}
    guesses = {
        name: why
        for name, column in columns.items()
        if name not in (*dropped, *rules.keep)
        and (why := _useless(name, column, readings[name], numbers.get(name)))
    }
    if len(dropped) + len(guesses) == table.num_columns:  # no other column is left
        guesses = {name: why for name, why in guesses.items() if name not in numbers}
    for name, why in guesses.items():
        warn(f"column {name!r} is dropped: {why}; --keep {name!r} uses it")
    dropped |= guesses
    typed: dict[str, Any] = {}
    for name in [name for name in columns if name not in dropped]:
        column, reading = columns.pop(name), readings[name]  # frees its memory early
        typed[name] = column.source if column.coded else read_as_arrow(name, column, reading)
    found = Survey(tuple(table.column_names), {n: readings[n] for n in typed}, dropped, decimal)
    return found, import_extra("pyarrow").table(typed)


def _decided(name: str, column: Column, decimal: str) -> Reading:
    """The reading of a column. Warns of ignored cells and of doubtful decisions."""
    reading, ignored, ambiguous = column.decide(decimal)
    if ignored:
        warn(f"column {name!r}: taken as missing: {spelled(ignored)}")
    if ambiguous:
        order = "day first" if reading.form == "dmy" else "month first"
        warn(f"column {name!r}: its dates are read {order}, which they do not show for certain")
    return reading


def _codes(
    numbers: dict[str, np.ndarray], given: tuple[float, ...] | None
) -> dict[str, tuple[float, ...]]:
    """The codes for missing values, by column. Warns of codes that it finds."""
    if given is not None:
        return {name: given for name, v in numbers.items() if given and np.isin(v, given).any()}
    codes = {}
    for name, found in find_codes(numbers).items():
        codes[name] = tuple(found)
        shown = listing(f"{code:g} ({n:,} times)" for code, n in found.items())
        warn(
            f"column {name!r}: taken as missing: {shown}, far outside of all other values; "
            "--missing none keeps them as numbers"
        )
    return codes


def _useless(name: str, column: Column, reading: Reading, values: np.ndarray | None) -> str | None:
    """Says why a column only tells rows apart, or None. Warns of texts that nearly do.

    values: of a column of numbers.
    """
    if values is not None:
        rows = len(values)
        if is_row_number(values):
            return f"it counts the rows, from {values[0]:.15g} to {values[-1]:.15g}"
        if names_identifier(name) and not have_fractions(values):
            different = len(np.unique(values))
            if different == rows > 1 or tells_apart(different, rows):
                return f"{different:,} different whole numbers in {rows:,} rows, and its name"
        return None
    if column.coded or reading.kind != "string":
        return None
    rows, different = len(column.data), column.data.drop_null().unique()
    if tells_apart(len(different), rows - column.data.null_count):
        return f"{len(different):,} different texts in {rows:,} rows, like an identifier"
    if rows > ROWS and len(different) > max(LEVELS * rows, ROWS):
        warn(
            f"column {name!r} has {len(different):,} different texts in {rows:,} rows, which say "
            f"little of other rows; --drop {name!r} leaves it out"
        )
    return None


def _check_names(present: list[str], rules: Rules) -> None:
    for option, names in (("drop", rules.drop), ("keep", rules.keep)):
        if unknown := [name for name in names if name not in present]:
            guess = did_you_mean(unknown[0], present)
            raise ValueError(f"no column named {listing(unknown)} to {option}{guess}")
    if both := [name for name in rules.drop if name in rules.keep]:
        raise ValueError(f"column {both[0]!r} is both to drop and to keep; say one of them")


def _refuse(columns: dict[str, Column]) -> None:
    if refused := {name: c for name, c in columns.items() if c.kind in REFUSED}:
        raise ValueError(
            "columns of types that cannot be used: "
            + "; ".join(f"{n!r} ({c.data.type}): {REFUSED[c.kind]}" for n, c in refused.items())
            + f"; or drop with --drop {' '.join(refused)}"
        )
