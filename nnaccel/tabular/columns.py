"""Columns: what a column of a table holds, and its cast to another kind where nothing is lost."""

import contextlib
from typing import Any, NamedTuple

from nnaccel.tabular.tables import import_extra

KINDS = {"number": "numbers", "string": "text", "boolean": "true or false"}  # those we can use


class Column(NamedTuple):
    """A column as numbers (float64, or int64), booleans or text (large_string), or as it came.

    kind: "number", "boolean", "string", "null" (no value at all), or what cannot be used:
    "date", "binary", "nested", "other".   coded: it was dictionary-encoded, a list of categories.
    integer: the numbers are of an integer type.   data: pyarrow ChunkedArray.
    """

    kind: str
    coded: bool
    integer: bool
    data: Any


def open_column(data: Any, *, exact: bool = False) -> Column:
    """What a pyarrow Array or ChunkedArray holds, with dictionaries decoded.

    Decimals and integers beyond 2^53 are rounded to float64, unless integers are to stay `exact`,
    as int64; `pyarrow.ArrowInvalid` for those beyond it.
    """
    pa = import_extra("pyarrow")
    data = data if isinstance(data, pa.ChunkedArray) else pa.chunked_array([data])
    coded = pa.types.is_dictionary(data.type)
    source = data.type.value_type if coded else data.type
    kind = next((kind for kind, holds in _kinds(pa.types) if holds(source)), "other")
    plain = {"number": pa.float64(), "string": pa.large_string()}.get(kind, source)
    integer = pa.types.is_integer(source)
    plain, safe = (pa.int64(), True) if integer and exact else (plain, False)
    if coded:  # chunk by chunk: their dictionaries may differ, and string views cannot be taken
        parts = [part.dictionary.cast(plain, safe=safe).take(part.indices) for part in data.chunks]
        data = pa.chunked_array(parts, type=plain)
    elif kind in ("number", "string"):
        data = data.cast(plain, safe=safe)
    return Column(kind, coded, integer, data)


def _kinds(types: Any) -> tuple[tuple[str, Any], ...]:
    return (
        ("number", lambda t: types.is_integer(t) or types.is_floating(t) or types.is_decimal(t)),
        ("boolean", types.is_boolean),
        (
            "string",
            lambda t: types.is_string(t) or types.is_large_string(t) or types.is_string_view(t),
        ),
        ("null", types.is_null),
        ("date", types.is_temporal),
        ("nested", types.is_nested),
        ("binary", lambda t: "binary" in str(t)),
    )


def without_nan(data: Any) -> Any:
    """NaN as null: in a column of categories both are missing."""
    pa, pc = import_extra("pyarrow"), import_extra("pyarrow.compute")
    if not pa.types.is_floating(data.type):
        return data
    return pc.if_else(pc.is_nan(data), pa.scalar(None, data.type), data)


def as_kind(name: str, column: Column, kind: str) -> Any:
    """The column's data as numbers, text or booleans, if that loses nothing.

    Text that is all numbers becomes numbers, whole numbers become text without a point, and 0, 1,
    "true", "false" become booleans. ValueError gives a value for which it is not so.
    """
    if column.kind == kind:
        return column.data
    if column.kind not in (*KINDS, "null"):
        raise type_changed(name, kind, column, next(iter(column.data.drop_null()), None))
    pa, convert = import_extra("pyarrow"), CASTS[kind]
    try:
        return convert(column.data)
    except pa.ArrowInvalid:
        raise type_changed(name, kind, column, _culprit(column.data, convert)) from None


def type_changed(name: str, kind: str, column: Column, example: Any) -> ValueError:
    """The error for a column that was of a kind when the model was fitted and now is not."""
    now = KINDS.get(column.kind, column.data.type)
    found = str(example).removesuffix(".0")[:60]
    return ValueError(
        f"column {name!r} held {KINDS[kind]} when the model was fitted, now it holds {now}, "
        f"for example {found!r}; "
        "convert the column, or train the model on such data"
    )


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
        # Whether a column of whole numbers has a gap, and so is read as floats, changes nothing.
        with contextlib.suppress(pa.ArrowInvalid):
            data = data.cast(pa.int64())
    return data.cast(pa.large_string())


def _as_boolean(data: Any) -> Any:
    return _as_text(data).cast(import_extra("pyarrow").bool_())


CASTS = {"number": _as_number, "string": _as_text, "boolean": _as_boolean}
