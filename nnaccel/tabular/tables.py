"""Tables: from a file or a data frame to a pyarrow Table, and what its columns hold.

Whatever is wrong with a file is said in one line with the path, what was found and the remedy.
"""

import gzip
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnaccel.arguments import did_you_mean
from nnaccel.files import Unreadable, check_expansion, existing_file, printable, reading

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 1 << 24  # bytes decompressed at once
BATCH = 1 << 16  # rows of Parquet decoded at once
# pyarrow's own list, and the two that pandas and Python write.
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


class TableWarning(UserWarning):
    """Something in a table was left out or filled in; the message has the columns and counts."""


# ---------------------------------------------------------------------------- files


def read_table(path: str | Path) -> "pa.Table":
    """The table in a .csv, .tsv (also .gz), .parquet, .feather or .arrow file.

    CSV: UTF-8, with or without byte order mark; the first line holds the column names; a .csv
    without a comma in that line is split at semicolons or tabs. Empty cells and the usual
    spellings of missing (`MISSING`) are null in text columns too. A column's type is the
    narrowest that holds all of its rows. The index that pandas stores in Parquet is no column.
    Content is checked to its last byte, and may become as large as `files.check_expansion` says.

    FileNotFoundError (with the closest name there), IsADirectoryError, OSError for a pipe or a
    device, MemoryError, and ValueError for an extension that is not known, content that cannot be
    read, no rows, or a column name used twice.
    """
    path = existing_file(path)
    suffix = path.suffix.lower()
    if suffix == ".gz":
        suffix = Path(path.stem).suffix.lower() + suffix
    if suffix not in READERS:
        raise ValueError(
            f"{path}: unknown kind of file {suffix!r}; known are {', '.join(READERS)}; "
            "convert it or give it the extension that says what it is"
        )
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; expected a table with column names and rows")
    table = READERS[suffix](path, suffix[1:])
    with reading(path, suffix[1:]):  # the names and notes of its columns, which are decoded here
        return _checked(table, str(path))


def as_table(data: Any) -> "pa.Table":
    """A data frame of any library that speaks Arrow (pandas >= 2.2, polars, ...) as a table.

    Zero-copy where that library allows it. The index of a pandas frame is no column.
    TypeError for anything else, ValueError for columns of mixed types or a name used twice.
    """
    pa = import_extra("pyarrow")
    kind = type(data).__name__
    if not hasattr(data, "__arrow_c_stream__"):
        raise TypeError(
            f"expected a table (pyarrow, pandas >= 2.2, polars, ...), got {kind}; "
            "for a matrix pass a NumPy array"
        )
    try:
        table = data if isinstance(data, pa.Table) else pa.table(data)
    except UnicodeEncodeError as error:
        raise ValueError(f"{kind} has text that is no Unicode: {error}; correct it") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = "; ".join(map(str, error.args))
        raise ValueError(
            f"{kind} has a column of mixed types: {reason}; make it one type"
        ) from error
    return _checked(table, kind)


def _checked(table: "pa.Table", source: str) -> "pa.Table":
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


def _read_text(path: Path, kind: str) -> "pa.Table":
    pa, csv = import_extra("pyarrow"), import_extra("pyarrow.csv")
    content = _content(path, kind)
    if content.removeprefix(b"\xef\xbb\xbf").isspace():
        raise ValueError(f"{path} is empty; expected a table with column names and rows")
    advice = f"convert the file, for example: iconv -f latin1 -t utf-8 {path.name}"
    try:
        header = content[: content.index(b"\n")].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the first line is not UTF-8 text; {advice}") from error
    delimiter = "\t" if kind.startswith("tsv") else ","
    if delimiter not in header and delimiter == ",":
        delimiter = max(";\t,", key=header.count)
    with reading(path, kind):
        table = csv.read_csv(
            pa.BufferReader(content),
            # One block: types are inferred from all rows, not from those that come first.
            read_options=csv.ReadOptions(block_size=min(len(content), 2**31 - 1)),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(strings_can_be_null=True, null_values=MISSING),
        )
    if binary := [field.name for field in table.schema if pa.types.is_binary(field.type)]:
        raise ValueError(f"{path}: column {binary[0]!r} is not UTF-8 text; {advice}")
    return table


def _content(path: Path, kind: str) -> bytes:
    """The text, decompressed; it ends a line, so that a header alone is a table without rows."""
    parts, size = [], 0
    with reading(path, kind), (gzip.open if kind.endswith("gz") else open)(path, "rb") as file:
        for part in iter(partial(file.read, CHUNK), b""):
            size += len(part)
            check_expansion(path, size)
            parts.append(part)
        return b"".join(parts if parts and parts[-1].endswith(b"\n") else [*parts, b"\n"])


def _read_parquet(path: Path, kind: str) -> "pa.Table":
    parquet = import_extra("pyarrow.parquet")
    with reading(path, kind), parquet.ParquetFile(path) as file:
        groups = map(file.metadata.row_group, range(file.num_row_groups))
        check_expansion(path, sum(group.total_byte_size for group in groups))
        return _collected(file.iter_batches(BATCH), file.schema_arrow, path)


def _read_arrow(path: Path, kind: str) -> "pa.Table":
    """Feather is the Arrow file format; .arrow may also be the stream format."""
    pa, ipc = import_extra("pyarrow"), import_extra("pyarrow.ipc")
    with reading(path, kind), pa.OSFile(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if not is_file:
            stream = ipc.open_stream(source)
            return _collected(stream, stream.schema, path)
        file = ipc.open_file(source)
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
        return _collected(batches, file.schema, path)


def _collected(batches: Iterable[Any], schema: Any, path: Path) -> "pa.Table":
    """The table of those batches, each valid: of one that is not, a later use may crash."""
    pa = import_extra("pyarrow")
    found, sizes, size = [], {}, 0
    for batch in batches:
        batch.validate(full=True)
        for buffer in _buffers(batch, pa.types):
            if buffer is not None and buffer.address not in sizes:  # dictionaries are shared
                sizes[buffer.address] = buffer.size
                size += buffer.size
        check_expansion(path, size)
        found.append(batch)
    return pa.Table.from_batches(found, schema)


def _buffers(batch: Any, types: Any) -> Iterator[Any]:
    for column in batch.columns:
        yield from column.buffers()
        if types.is_dictionary(column.type):
            yield from column.dictionary.buffers()


READERS = {
    ".csv": _read_text,
    ".csv.gz": _read_text,
    ".tsv": _read_text,
    ".tsv.gz": _read_text,
    ".parquet": _read_parquet,
    ".feather": _read_arrow,
    ".arrow": _read_arrow,
}


def pop_target(table: "pa.Table", target: str | None) -> tuple["pa.Table", Any, str]:
    """Split a table into its features and its target: (table without it, column, name).

    ValueError when no target is named, or none has that name; it lists the columns and suggests.
    """
    columns = table.column_names
    if target is None:
        likely = [name for name in columns if name.lower() in ("target", "label", "class", "y")]
        hint = f", for example --target {likely[0]}" if likely else ""
        raise ValueError(
            f"no target column named; pass --target NAME{hint}; columns: {listing(columns)}"
        )
    if target not in columns:
        guess = did_you_mean(target, columns)
        raise ValueError(f"no column named {target!r}; columns: {listing(columns)}{guess}")
    if len(columns) == 1:
        raise ValueError(f"{target!r} is the only column; nothing is left to predict it from")
    return table.drop_columns([target]), table[target], target


# ---------------------------------------------------------------------------- writing


def _write_csv(table: "pa.Table", file: Any) -> None:
    import_extra("pyarrow.csv").write_csv(table, file)


def _write_parquet(table: "pa.Table", file: Any) -> None:
    import_extra("pyarrow.parquet").write_table(table, file)


def _write_feather(table: "pa.Table", file: Any) -> None:
    import_extra("pyarrow.feather").write_feather(table, file)


# Extension -> what writes a table to a path or an open file.
WRITERS = {".csv": _write_csv, ".parquet": _write_parquet, ".feather": _write_feather}


# ---------------------------------------------------------------------------- in words


def listing(names: Iterable[object], limit: int = 12) -> str:
    """Names for a message: the first `limit` of them, and how many there are."""
    names = [printable(str(name)) for name in names]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names):,} in all)"


def counts(rows: dict[str, int]) -> str:
    """`a (3 rows), b (1 row)`: how many rows of each column a message is about."""
    return listing(f"{name} ({n:,} {'row' if n == 1 else 'rows'})" for name, n in rows.items())


def import_extra(module: str) -> Any:
    """A module of an optional dependency; where it is absent, the command that installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        package = "scikit-learn" if name == "sklearn" else name
        raise ModuleNotFoundError(
            f"{package} is needed here and is not installed; "
            "install it with: python -m pip install 'nnaccel[cli]'",
            name=name,
        ) from error
