"""Tables: from a file or a data frame to a pyarrow Table, and what its columns hold.

Whatever is wrong with a file is said in one line with the path, what was found and the remedy.
"""

import gzip
import zlib
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnaccel.arguments import did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

COMPLETE = "check that the file is complete and is what its name says"
# pyarrow's own list, and the two that pandas and Python write.
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


class TableWarning(UserWarning):
    """Something in a table was left out or filled in; the message has the columns and counts."""


# ---------------------------------------------------------------------------- files


def read_table(path: str | Path, layout: Any = None) -> "pa.Table":
    """The table in a .csv, .tsv (also .gz), .parquet, .feather or .arrow file.

    CSV: UTF-8, with or without byte order mark; the first line holds the column names; a .csv
    without a comma in that line is split at semicolons or tabs. Empty cells and the usual
    spellings of missing (`MISSING`) are null in text columns too. A column's type is the
    narrowest that holds all of its rows. The index that pandas stores in Parquet is no column.

    FileNotFoundError (with the closest name there), IsADirectoryError, and ValueError for an
    extension that is not known, content that cannot be read, no rows, or a column name used twice.
    """
    path = existing_file(path)
    suffix = _suffix(path)
    if suffix not in READERS:
        raise ValueError(
            f"{path}: unknown kind of file {suffix!r}; known are {', '.join(READERS)}; "
            "convert it or give it the extension that says what it is"
        )
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; expected a table with column names and rows")
    pa = import_extra("pyarrow")
    try:
        table = READERS[suffix](path, layout)
    except PermissionError:
        raise  # says what and where already
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(f"{path} cannot be read as {suffix[1:]}: {reason}; {COMPLETE}") from error
    return _checked(table, str(path))


def is_delimited(path: str | Path) -> bool:
    """Whether a file's name says that it is delimited text."""
    return _suffix(Path(path)) in DELIMITED


def _suffix(path: Path) -> str:
    """The extension, with the one before where that is of a compressed file."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + suffix if suffix == ".gz" else suffix


def existing_file(path: str | Path) -> Path:
    """`path` if a file is there; else the error says whether it is a folder or what is close."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file; name one file inside it")
    if not path.exists():
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: no such file; there is no folder {path.parent}")
        names = [child.name for child in path.parent.iterdir()]
        raise FileNotFoundError(f"{path}: no such file{did_you_mean(path.name, names)}")
    return path


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
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = "; ".join(map(str, error.args))
        raise ValueError(
            f"{kind} has a column of mixed types: {reason}; make it one type"
        ) from error
    return _checked(table, kind)


def _checked(table: "pa.Table", source: str) -> "pa.Table":
    index = (table.schema.pandas_metadata or {}).get("index_columns", [])
    index = [name for name in index if isinstance(name, str) and name in table.column_names]
    table = table.drop_columns(index)
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise ValueError(
            f"{source} has more than one column named {listing(twice)}; rename all but one"
        )
    if not table.num_columns:
        raise ValueError(f"{source} has no columns")
    if not table.num_rows:
        raise ValueError(f"{source} has column names but no rows: {listing(table.column_names)}")
    return table


def _read_delimited(path: Path, layout: Any) -> "pa.Table":
    from nnaccel.tabular.delimited import AS_IT_IS, read_text  # which stands on this module

    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if not content.strip(b"\xef\xbb\xbf\r\n\t "):
        raise ValueError(f"{path} is empty; expected a table with column names and rows")
    try:
        return read_text(content, layout or AS_IT_IS)[0]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_parquet(path: Path, layout: Any) -> "pa.Table":
    return import_extra("pyarrow.parquet").ParquetFile(path).read()


def _read_arrow(path: Path, layout: Any) -> "pa.Table":
    """Feather is the Arrow file format; .arrow may also be the stream format."""
    pa, ipc = import_extra("pyarrow"), import_extra("pyarrow.ipc")
    with pa.OSFile(str(path)) as source:
        kind = ipc.open_file if source.read(6) == b"ARROW1" else ipc.open_stream
        source.seek(0)
        return kind(source).read_all()


DELIMITED = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
READERS = {
    **dict.fromkeys(DELIMITED, _read_delimited),
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
    names = [str(name) for name in names]
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
