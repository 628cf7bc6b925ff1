"""The parts of a streamed source, which are its files in order or its query, and how to open them:
pyarrow reads the files, and DuckDB answers the queries."""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nnaccel.files import Unreadable, existing_file, reading
from nnaccel.tabular.datasets import DATASETS
from nnaccel.tabular.delimited import Malformed
from nnaccel.tabular.queries import batches_of_database, batches_of_query, database_of, is_query
from nnaccel.tabular.table_files import BATCH, READERS, is_delimited, suffix_of
from nnaccel.tabular.tables import checked, import_extra, listing, warn

PATTERN = re.compile(r"[*?\[]")
FITS = "it is read whole; leave out --stream"


class Part(NamedTuple):
    """A file or a query: its name, a function that yields its tables, each with the share read so
    far, and the path if it is a file."""

    name: str
    open: Callable[[], Iterable[tuple[Any, float | None]]]
    path: Path | None = None


def is_streamable(source: str) -> bool:
    """Whether a source can be read in batches."""
    if source in DATASETS or source == "-" or source.lower().endswith(".npz"):
        return False
    if is_query(source) or is_many(source):
        return True
    database = database_of(source)
    return database is None or not _is_sqlite(database[0])


def is_many(source: str) -> bool:
    """Whether a source is a folder, or a pattern for files."""
    if os.path.isdir(source):
        return True
    return PATTERN.search(source) is not None and not os.path.exists(source)


def parts_of(source: str, delimited: Callable[[Path], Any]) -> tuple[str, list[Part]]:
    """The name of a source and its parts."""
    if is_query(source):
        return "query", [Part("the query", partial(_tables, batches_of_query, source, "query"))]
    if not is_streamable(source):
        raise ValueError(f"{source!r} cannot be read a batch at a time; {FITS}")
    if (database := database_of(source)) is not None:
        path, table = existing_file(database[0]), database[1]
        name = table or path.stem
        opened = partial(_tables, partial(batches_of_database, path, table), None, source)
        return name, [Part(source, opened, path)]
    paths = _files_of(source)
    _warn_of_partitions(source, paths)
    name = Path(source).name or "table"
    if is_many(source):
        name = re.sub(r"[^\w.-]+", "", name.partition(".")[0]) or "table"
    else:
        name = paths[0].name[: -len(suffix_of(paths[0]))]
    return name, [Part(str(path), _opener(path, delimited), path) for path in paths]


def _files_of(source: str) -> list[Path]:
    """The files of a table, in the order of their names."""
    if os.path.isdir(source):
        paths = sorted(path for path in _shown_below(source) if _is_table(path))
        if not paths:
            raise FileNotFoundError(
                f"the folder {source} has no tables; expected {', '.join(READERS)} or text"
            )
    elif is_many(source):
        paths = sorted(map(Path, glob.glob(source, recursive=True)))
        if not paths:
            raise FileNotFoundError(f"no file matches {source!r}")
    else:
        paths = [Path(source)]
    for path in paths:
        if not existing_file(path).stat().st_size:
            raise Unreadable(f"{path} is empty; expected a table with column names and rows")
        if not _is_table(path):
            known = ".csv, .tsv, .txt, .csv.gz, .csv.zst"
            raise ValueError(
                f"{path}: cannot be read a batch at a time; known are {known}, {', '.join(READERS)}"
            )
    return paths


def _shown_below(folder: str) -> Iterator[Path]:
    """The files below a folder, except hidden ones such as `_SUCCESS` and `.part`. Links are
    followed; a file or folder that several links lead to is listed once."""
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] not in "_."]
        if os.path.realpath(here) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        for name in names:
            path = Path(here, name)
            if name[0] not in "_." and path.is_file() and os.path.realpath(path) not in seen:
                seen.add(os.path.realpath(path))
                yield path


def _warn_of_partitions(source: str, paths: list[Path]) -> None:
    """Issue a TableWarning for folders such as `year=2024`, whose names contain a column."""
    folders = {part for path in paths for part in path.parent.parts} - {*Path(source).parts}
    names = sorted({name.partition("=")[0] for name in folders if "=" in name})
    if names:
        files = f"{source}/**/*.parquet" if os.path.isdir(source) else source
        warn(
            f"{source}: the names of its folders say {listing(names)}, and are not read; a query "
            f"reads them: \"from read_parquet('{files}', hive_partitioning=true)\""
        )


def _is_table(path: Path) -> bool:
    return is_delimited(path) or suffix_of(path) in READERS


def _is_sqlite(path: Path) -> bool:
    with existing_file(path).open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


# ---------------------------------------------------------------------------- files


def _opener(path: Path, delimited: Callable[[Path], Any]) -> Callable[[], Iterator[Any]]:
    if is_delimited(path):
        return partial(_batches_of_text, path, delimited)
    return partial(_batches_of_arrow, path, suffix_of(path))


def _batches_of_text(path: Path, delimited: Callable[[Path], Any]) -> Iterator[Any]:
    with reading(path, suffix_of(path)[1:]):
        try:
            text = delimited(path)
        except Malformed as error:
            raise Unreadable(f"{path}: {error}") from None
    yield from _guarded(text.batches(), path, suffix_of(path)[1:])


def _batches_of_arrow(path: Path, suffix: str) -> Iterator[tuple[Any, float]]:
    opened = _of_parquet(path) if suffix == ".parquet" else _of_ipc(path)
    yield from _guarded(opened, path, suffix[1:])


def _guarded(batches: Iterator[Any], path: Path, kind: str) -> Iterator[Any]:
    """The tables of a file. Errors of the library are raised again with the file's name."""
    pa = import_extra("pyarrow")
    while True:
        with reading(path, kind):
            try:
                found, share = next(batches)
            except StopIteration:
                return
            except Malformed as error:
                raise Unreadable(f"{path}: {error}") from None
            if isinstance(found, pa.RecordBatch):
                found.validate(full=True)
                found = pa.Table.from_batches([found])
            found = checked(found, str(path)) if found.num_rows else None
        if found is not None:
            yield found, share


def _of_parquet(path: Path) -> Iterator[tuple[Any, float]]:
    parquet = import_extra("pyarrow.parquet")
    # A buffer for each column: by default Arrow reads a whole row group ahead, of any size.
    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        total, n = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(BATCH):
            n += batch.num_rows
            yield batch, n / total


def _of_ipc(path: Path) -> Iterator[tuple[Any, float]]:
    pa, ipc = import_extra("pyarrow"), import_extra("pyarrow.ipc")
    with pa.OSFile(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        opened = ipc.open_file(source) if is_file else ipc.open_stream(source)
        found = map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened
        for batch in found:
            share = source.tell() / path.stat().st_size
            for start in range(0, batch.num_rows, BATCH):
                yield batch.slice(start, BATCH), share


def rows_of(path: Path | None) -> int | None:
    if path is None or path.suffix.lower() != ".parquet":
        return None
    with reading(path, "parquet"):
        return import_extra("pyarrow.parquet").read_metadata(path).num_rows


def _tables(opened: Any, query: str | None, name: str) -> Iterator[tuple[Any, None]]:
    """The tables of a query or a database."""
    pa = import_extra("pyarrow")
    for batch in opened(query, BATCH) if query is not None else opened(BATCH):
        if batch.num_rows:
            yield checked(pa.Table.from_batches([batch]), name), None
