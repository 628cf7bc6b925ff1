"""Converts data frames to pyarrow tables, splits off the target, and words messages about
tables."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnaccel.arguments import did_you_mean
from nnaccel.files import Unreadable, printable

if TYPE_CHECKING:
    import pyarrow as pa

# pyarrow's own list, and the two spellings of pandas and Python.
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


class TableWarning(UserWarning):
    """A part of a table was left out or filled in. The message names the columns and counts."""


def is_table(data: Any) -> bool:
    """Whether `as_table` accepts the data: a data frame, a dict of columns or a list of rows."""
    return isinstance(data, dict) or hasattr(data, "__arrow_c_stream__") or _are_rows(data)


def _are_rows(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and all(isinstance(row, dict) for row in data)


def as_table(data: Any) -> "pa.Table":
    """A data frame of any library that supports Arrow (pandas >= 2.2, polars, ...) as a pyarrow
    table; also a dict of columns, and a list of rows that are dicts.

    Without a copy where the library allows it. The index of a pandas frame is no column. Raises
    TypeError for other data, ValueError for columns of mixed types and for a name that occurs
    twice.
    """
    pa = import_extra("pyarrow")
    kind = type(data).__name__
    if not is_table(data):
        raise TypeError(
            "expected a table (pyarrow, pandas >= 2.2, polars, ...), a dict of columns or a list "
            f"of dicts, got {kind}; for a matrix pass a NumPy array"
        )
    try:
        make = pa.Table.from_pylist if _are_rows(data) else pa.table
        table = data if isinstance(data, pa.Table) else make(data)
    except UnicodeEncodeError as error:
        raise ValueError(f"{kind} has text that is no Unicode: {error}; correct it") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = "; ".join(map(str, error.args))
        raise ValueError(
            f"{kind} has a column of mixed types: {reason}; make it one type"
        ) from error
    return checked(table, kind)


def checked(table: "pa.Table", source: str) -> "pa.Table":
    notes = table.schema.pandas_metadata
    index = notes.get("index_columns") if isinstance(notes, dict) else None
    index = [name for name in index or () if isinstance(name, str) and name in table.column_names]
    table = table.drop_columns(index)
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise Unreadable(
            f"{source} has more than one column named {listing(twice)}; rename all but one"
        )
    if not table.num_columns:
        raise Unreadable(f"{source} has no columns")
    if not table.num_rows:
        raise Unreadable(f"{source} has column names but no rows: {listing(table.column_names)}")
    return table


def chunked(column: Any) -> Any:
    """A column of any library that supports Arrow as a pyarrow ChunkedArray."""
    pa = import_extra("pyarrow")
    if isinstance(column, pa.ChunkedArray):
        return column
    return pa.chunked_array([column] if isinstance(column, pa.Array) else column)


def by_name(columns: Any, name: str) -> dict[str, Any]:
    """The columns of a table by their names. A single column gets the given name."""
    if hasattr(columns, "column_names"):
        return {column: columns[column] for column in columns.column_names}
    return {name: columns}


def pop_target(table: "pa.Table", targets: Sequence[str]) -> tuple["pa.Table", Any, str]:
    """Split a table into its features and its target: (table without it, column, name).

    For several targets the second is a table of them, and the third the list of their names in
    words. Raises ValueError if no target is named, or no column has that name; it lists the columns
    and suggests one.
    """
    columns = table.column_names
    if not targets:
        likely = [name for name in columns if name.lower() in ("target", "label", "class", "y")]
        hint = f", for example --target {likely[0]}" if likely else ""
        raise ValueError(
            f"no target column named; pass --target NAME{hint}; columns: {listing(columns)}"
        )
    for target in targets:
        if target not in columns:
            guess = did_you_mean(target, columns)
            raise ValueError(f"no column named {target!r}; columns: {listing(columns)}{guess}")
    if len({*targets}) < len(targets):
        raise ValueError(f"a target is named twice: {listing(targets)}; name each once")
    name = ", ".join(targets)
    if len(columns) == len(targets):
        only = f"{name!r} is the only column" if len(columns) == 1 else "all columns are targets"
        raise ValueError(f"{only}; nothing is left to predict it from")
    rest = table.drop_columns([*targets])
    return rest, table[name] if len(targets) == 1 else table.select([*targets]), name


# ---------------------------------------------------------------------------- in words


def listing(names: Iterable[object], limit: int = 12) -> str:
    """Names for a message: the first `limit` names, and how many more there are."""
    names = [printable(str(name)) for name in names]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names):,} in all)"


def counts(rows: dict[str, int]) -> str:
    """`a (3 rows), b (1 row)`: how many rows of each column a message is about."""
    return listing(f"{name} ({n:,} {'row' if n == 1 else 'rows'})" for name, n in rows.items())


def spelled(words: Iterable[tuple[str, int]]) -> str:
    """Words with their counts: `'?' (6 times), a blank (2 times)`."""
    return listing(
        f"{repr(word) if word.strip() else 'a blank'} ({n:,} time{'s' * (n != 1)})"
        for word, n in words
    )


@contextmanager
def quiet() -> Iterator[None]:
    """A context without warnings about tables, for a part of a table, when the whole is warned
    of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        yield


def warn(message: str) -> None:
    """Gives a TableWarning."""
    warnings.warn(message, TableWarning, stacklevel=5)


CLI = "'nnaccel[cli]'"
# Package -> the extra that installs it, where it is not [cli].
BRINGS = {"onnx": "'nnaccel[onnx]'", "matplotlib": "'nnaccel[plot]'", "torch": "torch"}


def import_extra(module: str) -> Any:
    """A module of an optional dependency. If it is absent, the error has the command that installs
    it."""
    if (loaded := sys.modules.get(module)) is not None:  # which is asked for often
        return loaded
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        package = "scikit-learn" if name == "sklearn" else name
        raise ModuleNotFoundError(
            f"{package} is needed here and is not installed; "
            f"install it with: python -m pip install {BRINGS.get(name, CLI)}",
            name=name,
        ) from error
