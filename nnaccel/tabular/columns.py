"""Columns: finds the kind of a column by its type or, for text, by its cells, and converts its
values.

A column is opened once. Its `Decision` is made at fit. Afterwards its cells are read by the reading
in the model: as float64 (`numbers_of`), or as categories (`categories_of`).
"""

import contextlib
from functools import cached_property
from typing import Any

import numpy as np

from nnaccel.tabular import kinds
from nnaccel.tabular.kinds import Decision, Reading, Text
from nnaccel.tabular.tables import MISSING, chunked, import_extra

# The kinds that can be used, in words.
KINDS = {
    "number": "numbers",
    "string": "text",
    "boolean": "true or false",
    "date": "dates",
    "time": "times of day",
    "duration": "durations",
}
TIMES = ("date", "time", "duration")
AS_NUMBERS = ("number", *TIMES)  # the kinds that become columns of numbers
TYPED = {"number": ".", "date": "ymd"}  # the usual form of typed values in text
UNIT = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # units of Arrow's temporal types per second


class Column:
    """A column of a table, from any library that supports Arrow's PyCapsule interface.

    Attributes
    ----------
    kind : str
        A key of `KINDS`, by its Arrow type; "null" for a column without any value; "nested",
        "binary" or "other" for a column that cannot be used.
    coded : bool
        Whether it was dictionary-encoded: a list of categories.
    whole : ChunkedArray or None
        Its exact numbers, if its type is integer.
    source : ChunkedArray
        The column unchanged.
    data : ChunkedArray
        The values as float64, boolean or large_string; unchanged where the column cannot be used.
        Integers beyond 2^53 and decimals are rounded; dates, times and durations are in seconds
        (see `dates`).
    """

    def __init__(self, data: Any) -> None:
        pa = import_extra("pyarrow")
        self.source = data = chunked(data)
        self.coded = pa.types.is_dictionary(data.type)
        kind = data.type.value_type if self.coded else data.type
        self.kind = next((name for name, holds in _types(pa.types) if holds(kind)), "other")
        if self.coded:  # chunk by chunk: their dictionaries may differ
            kind = pa.large_string() if self.kind == "string" else kind  # no views: not to take
            parts = [part.dictionary.cast(kind).take(part.indices) for part in data.chunks]
            data = pa.chunked_array(parts, type=kind)
        self._plain = data
        self.whole = data if pa.types.is_integer(kind) else None

    @cached_property
    def data(self) -> Any:
        """Its values, see above."""
        pa = import_extra("pyarrow")
        if self.kind in ("number", "string"):
            plain = pa.float64() if self.kind == "number" else pa.large_string()
            return self._plain.cast(plain, safe=False)
        return _in_seconds(self._plain) if self.kind in TIMES else self._plain

    @cached_property
    def text(self) -> Text | None:
        """Its cells as text that has not been read yet; None for a list of categories."""
        if self.kind != "string" or self.coded:
            return None
        is_view = import_extra("pyarrow").types.is_string_view(self._plain.type)
        return Text(self.data if is_view else self._plain)

    def decide(self, decimal: str) -> Decision:
        """The kind of its cells; see `kinds.decide`."""
        if self.text is not None:
            return kinds.decide(self.text, decimal)
        form = TYPED.get(self.kind, "")
        empty = self.source.null_count == len(self.source)
        return Decision(Reading("null" if empty else self.kind, form))


def _types(types: Any) -> tuple[tuple[str, Any], ...]:
    return (
        ("number", lambda t: types.is_integer(t) or types.is_floating(t) or types.is_decimal(t)),
        ("boolean", types.is_boolean),
        (
            "string",
            lambda t: types.is_string(t) or types.is_large_string(t) or types.is_string_view(t),
        ),
        ("null", types.is_null),
        ("date", lambda t: types.is_date(t) or types.is_timestamp(t)),
        ("time", types.is_time),
        ("duration", types.is_duration),
        ("nested", types.is_nested),
        ("binary", lambda t: "binary" in str(t)),
    )


def _in_seconds(data: Any) -> Any:
    """Dates, times and durations as float64 seconds; days for `date32`."""
    pa = import_extra("pyarrow")
    kind = data.type
    if pa.types.is_date(kind):
        data, unit = data.cast(pa.timestamp("s")), 1
    else:
        unit = UNIT[kind.unit]
    width = pa.int32() if kind.bit_width == 32 and pa.types.is_time(kind) else pa.int64()
    pc = import_extra("pyarrow.compute")
    return pc.divide(data.cast(width).cast(pa.float64(), safe=False), float(unit))


# ---------------------------------------------------------------------------- values

Unread = tuple[tuple[str, int], ...]  # the texts that could not be read, with their counts


def numbers_of(name: str, column: Column, reading: Reading) -> tuple[np.ndarray, Unread]:
    """The cells as float64 (N,), NaN where missing, and the words that could not be read.

    Raises ValueError where the type of the column does not fit the reading.
    """
    if column.text is not None:
        values, unread = kinds.read(column.text, reading)
    else:
        values, unread = _recast(name, column, reading.kind).to_numpy(), ()
        values = values.astype(np.float64, copy=False)
    if reading.codes:
        values = np.where(np.isin(values, reading.codes), np.nan, values)
    return values, unread


def categories_of(name: str, column: Column, reading: Reading) -> tuple[Any, Unread]:
    """The cells as text, booleans or numbers that name categories (ChunkedArray, null where
    missing), and the words that could not be read so.

    Text is trimmed, and the usual spellings of no value (`tables.MISSING`) are missing. Raises
    ValueError where the column has another type and cannot be cast without loss.
    """
    pa, pc = import_extra("pyarrow"), import_extra("pyarrow.compute")
    if reading.kind == "string":
        text = column.data if column.kind == "string" else _recast(name, column, "string")
        if column.text is None:
            return text, ()
        text = pc.utf8_trim_whitespace(text)
        missing = pc.is_in(text, value_set=pa.array(MISSING, text.type))
        return pc.if_else(missing, pa.scalar(None, text.type), text), ()
    if column.text is None:
        return without_nan(_recast(name, column, reading.kind)), ()
    values, unread = numbers_of(name, column, reading)
    found = pa.chunked_array([pa.array(values, from_pandas=True)])
    return (found.cast(pa.bool_()) if reading.kind == "boolean" else found), unread


def read_as_arrow(name: str, column: Column, reading: Reading) -> Any:
    """The cells as an Arrow column with the type of the reading. Reading it again gives the same
    values."""
    pa = import_extra("pyarrow")
    if reading.kind in ("string", "boolean"):
        return categories_of(name, column, reading)[0]
    values, _ = numbers_of(name, column, reading)
    if reading.kind == "number":
        return pa.array(values, from_pandas=True)
    units = np.round(values * UNIT["us"])
    found = pa.array(np.where(np.isnan(units), 0, units).astype(np.int64), mask=np.isnan(units))
    times = {"date": pa.timestamp("us"), "time": pa.time64("us"), "duration": pa.duration("us")}
    return found.cast(times[reading.kind])


def without_nan(data: Any) -> Any:
    """NaN as null: in a column of categories both are missing."""
    pa, pc = import_extra("pyarrow"), import_extra("pyarrow.compute")
    if not pa.types.is_floating(data.type):
        return data
    return pc.if_else(pc.is_nan(data), pa.scalar(None, data.type), data)


def type_changed(name: str, kind: str, column: Column, example: Any) -> ValueError:
    """The error for a column whose kind differs from its kind when the model was fitted."""
    now = KINDS.get(column.kind, column.source.type)
    found = str(example).removesuffix(".0")[:60]
    return ValueError(
        f"column {name!r} held {KINDS[kind]} when the model was fitted, now it holds {now}, "
        f"for example {found!r}; "
        "convert the column, or train the model on such data"
    )


# ---------------------------------------------------------------------------- casts


def _recast(name: str, column: Column, kind: str) -> Any:
    """The data of a typed column converted to another kind, if the conversion loses nothing.

    Whole numbers become text without a point; 0, 1, "true" and "false" booleans; booleans 0 and 1.
    Raises ValueError with an example of a value that would be lost.
    """
    if column.kind == kind:
        return column.data
    pa = import_extra("pyarrow")
    if column.kind == "null":
        types = {"string": pa.large_string(), "boolean": pa.bool_()}
        return column.data.cast(types.get(kind, pa.float64()))
    if kind not in CASTS or column.kind not in CASTS:
        raise type_changed(name, kind, column, next(iter(column.source.drop_null()), None))
    try:
        return CASTS[kind](column.data)
    except pa.ArrowInvalid:
        raise type_changed(name, kind, column, _culprit(column.data, CASTS[kind])) from None


def _culprit(data: Any, convert: Any) -> Any:
    pa = import_extra("pyarrow")
    for value in data.drop_null().unique():
        try:
            convert(pa.chunked_array([[value.as_py()]], type=data.type))
        except pa.ArrowInvalid:
            return value
    return None


def _as_number(data: Any) -> Any:
    pa, pc = import_extra("pyarrow"), import_extra("pyarrow.compute")
    data = pc.utf8_trim_whitespace(data) if pa.types.is_large_string(data.type) else data
    return data.cast(pa.float64())


def _as_text(data: Any) -> Any:
    pa = import_extra("pyarrow")
    data = without_nan(data)
    if pa.types.is_floating(data.type):
        # A gap in a column of whole numbers makes pandas read floats; 5.0 is still the text "5".
        with contextlib.suppress(pa.ArrowInvalid):
            data = data.cast(pa.int64())
    return data.cast(pa.large_string())


def _as_boolean(data: Any) -> Any:
    return _as_text(data).cast(import_extra("pyarrow").bool_())


CASTS = {"number": _as_number, "string": _as_text, "boolean": _as_boolean}
