"""Plain data with a closed schema: the content of a file is checked key by key.

A field has a description in words, which is part of error messages, and a function that checks a
value. Nothing is imported, evaluated or converted. Text is checked equally when it is read and
written, so data that were read can be written again.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

HUGE = 1e300  # larger statistics are damage, not data
DEEPEST = 100  # nested lists and objects
SURROGATE = re.compile("[\ud800-\udfff]")


class Field(NamedTuple):
    """The description of a valid value in words, and the function that checks a value."""

    expected: str
    holds: Callable[[Any], bool]


# `type(v) is`, not isinstance: True is an int to isinstance, and a flag is not a number here. Half
# of a surrogate pair is no character, so no file can hold it.
TEXT = Field("a string", lambda v: type(v) is str and not SURROGATE.search(v))
FLAG = Field("a flag", lambda v: type(v) is bool)
# Only integers that floats hold exactly, since arrays of larger ones have dtype object.
FINITE = Field(
    "a finite number",
    lambda v: -HUGE < v < HUGE if type(v) is float else type(v) is int and abs(v) <= 2**53,
)
# JSON has no NaN and infinity: they are written as text.
NOT_FINITE = Field(
    "an object of the key 'number'",
    lambda v: type(v) is dict and [*v] == ["number"] and v["number"] in ("inf", "-inf", "nan"),
)
NUMBER = Field("a number", lambda v: FINITE.holds(v) or NOT_FINITE.holds(v))
SHARE = Field("a number from 0 to below 1", lambda v: FINITE.holds(v) and 0 <= v < 1)
COUNT = Field("a positive integer below 2^31", lambda v: type(v) is int and 0 < v < 2**31)
WHOLE = Field("an integer below 2^31", lambda v: type(v) is int and -(2**31) < v < 2**31)
STEP = Field("an integer below 2^31, not negative", lambda v: WHOLE.holds(v) and v >= 0)
INT64 = Field("a 64-bit integer", lambda v: type(v) is int and -(2**63) <= v < 2**63)
POSITIVE = Field("a positive finite number", lambda v: FINITE.holds(v) and v > 0)
RECORDS = Field("a list of objects", lambda v: list_of(dict, v))
OBJECT = Field("an object", lambda v: type(v) is dict)
LIST = Field("a list", lambda v: type(v) in (list, tuple))
NAMES = Field("a list of different strings", lambda v: _are_texts(v) and len({*v}) == len(v))
NOTES = Field("an object of strings", lambda v: type(v) is dict and _are_texts([*v, *v.values()]))


def list_of(kind: type, value: Any) -> bool:
    """Whether value is a list or tuple whose members are exactly of that type."""
    return type(value) in (list, tuple) and all(type(member) is kind for member in value)


def _are_texts(value: Any) -> bool:
    return LIST.holds(value) and all(map(TEXT.holds, value))


def ascending(member: Field) -> Field:
    """A field for a list, not empty, of different values of `member` in ascending order."""
    return Field(
        f"a list of {member.expected.partition(' ')[2]}s in ascending order",
        lambda v: LIST.holds(v) and v and all(map(member.holds, v)) and [*v] == sorted({*v}),
    )


def optional(member: Field) -> Field:
    """A field for a value of `member`, or None."""
    return Field(f"{member.expected}, or nothing", lambda v: v is None or member.holds(v))


def one_of(*words: str) -> Field:
    """A field for one of the given words."""
    return Field(" or ".join(map(repr, words)), lambda v: type(v) is str and v in words)


def check(data: Any, fields: Mapping[str, Field], where: str) -> dict[str, Any]:
    """`data` itself, after a check that it has exactly these fields with valid values.

    Raises ValueError that names `where`, the key, the expected and the given value.
    """
    if type(data) is not dict:
        raise ValueError(f"{where} must be an object, got {type(data).__name__}")
    if absent := [key for key in fields if key not in data]:
        raise ValueError(f"{where} has no key {absent[0]!r}")
    if unknown := [key for key in data if key not in fields]:
        raise ValueError(
            f"{where} has an unknown key {str(unknown[0])[:60]!r}; known: "
            f"{', '.join(fields) or 'none'}"
        )
    for key, (expected, holds) in fields.items():
        if not holds(data[key]):
            found = repr(data[key])
            found = found if len(found) <= 60 else found[:60] + "…"
            raise ValueError(f"{where}: {key!r} must be {expected}, got {found}")
    return data


def to_json(data: Any, what: str) -> str:
    """Data as JSON in one line of Unicode. Raises ValueError for data that JSON cannot hold.

    These are Python objects, NaN and infinity, half of a surrogate pair, and data nested deeper
    than `DEEPEST`.
    """
    try:
        text = json.dumps(data, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be JSON-like data: {error}") from None
    except RecursionError:
        raise _too_deep(what) from None
    level = [[data]]
    for _ in range(DEEPEST + 1):
        parts = (part.values() if type(part) is dict else part for part in level)
        level = [value for part in parts for value in part if type(value) in (dict, list, tuple)]
    if level:
        raise _too_deep(what)
    return text


def from_json(text: str, what: str) -> Any:
    """The data of a JSON text. Raises ValueError for other text, and for an object with a key
    twice."""
    try:
        data = json.loads(text, object_pairs_hook=distinct)
    except ValueError as error:
        raise ValueError(f"{what} is no valid JSON: {error}") from None
    except RecursionError:
        raise _too_deep(what) from None
    to_json(data, what)
    return data


def plain(value: Any) -> Any:
    """NumPy's scalars as Python's, sequences as lists, NaN and infinity as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value


def number(value: Any) -> Any:
    """The number, or the list of numbers, that `plain` wrote."""
    if type(value) is list:
        return [number(member) for member in value]
    return float(value["number"]) if NOT_FINITE.holds(value) else value


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its members. Raises ValueError for a key that occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:60]!r} occurs twice")
    return found


def _too_deep(what: str) -> ValueError:
    return ValueError(f"{what} has more than {DEEPEST} lists and objects inside of each other")
