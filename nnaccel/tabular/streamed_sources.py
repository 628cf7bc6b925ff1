"""Tables of any size, a batch of rows at a time: files, patterns, folders, tables and queries.

pyarrow reads the files and DuckDB answers the queries; here are only the order of the files, and
what must agree between them.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnaccel.files import Unreadable, existing_file, reading
from nnaccel.tabular.datasets import DATASETS
from nnaccel.tabular.delimited import AS_IT_IS, Layout, Malformed, Structure
from nnaccel.tabular.queries import batches_of_database, batches_of_query, database_of, is_query
from nnaccel.tabular.streamed_text import Delimited
from nnaccel.tabular.table_files import BATCH, READERS, is_delimited, suffix_of
from nnaccel.tabular.tables import checked, import_extra, listing, warn

PATTERN = re.compile(r"[*?\[]")
NUMBERS = 2**22  # that a piece of a batch may become: 16 MB in float32
FITS = "it is read whole; leave out --stream"


class Batch(NamedTuple):
    """Some rows: the table, where they are from, the number of the first of them there and in the
    whole source, and which share of the source has been read by now (None: nobody knows)."""

    table: Any
    where: str
    first: int
    number: int
    done: float | None

    @property
    def numbers(self) -> np.ndarray:
        """The numbers of its rows in the whole source (n,)."""
        return self.number + np.arange(self.table.num_rows)

    def pieces(self, width: int) -> Iterator["Batch"]:
        """The same rows, so many at a time as bounds the memory of `width` numbers for each."""
        rows = max(1, NUMBERS // width)
        for start in range(0, self.table.num_rows, rows):
            yield self._replace(
                table=self.table.slice(start, rows),
                first=self.first + start,
                number=self.number + start,
            )


class Part(NamedTuple):
    """A file, or a query: what it is called, what opens it (tables and the share that is read), its
    file if it is one."""

    name: str
    open: Callable[[], Iterable[tuple[Any, float | None]]]
    path: Path | None = None


class Stream:
    """A table that is read a batch at a time, as often as wanted, always in the same order.

    name: for the model.   source: what the user calls it.   columns: by name, as in its first file.
    n_rows: None where the files do not say.   n_bytes: of its files.
    """

    def __init__(self, source: str, layout: Layout = AS_IT_IS, targets: tuple[str, ...] = ()):
        """layout: of delimited text, where it is not as its content suggests.   targets: columns
        that must be there.

        ValueError, FileNotFoundError or OSError for what cannot be streamed, and for files that
        are not of one table: the message names them.
        """
        self.source, self.targets = source, targets
        self._layout = layout._replace(names=layout.names or targets)
        self.structure: Structure | None = None
        self._texts: dict[Path, Delimited] = {}
        self.name, self.parts = _parts_of(source, self._delimited)
        self.n_bytes = sum(part.path.stat().st_size for part in self.parts if part.path)
        self.state = self._state()

    def _state(self) -> list[tuple[str, int, int]] | None:
        """Paths, sizes and times of the files; None for a source that has none."""
        if any(part.path is None for part in self.parts):
            return None
        stats = [(str(part.path), os.stat(str(part.path))) for part in self.parts]
        return [(os.path.abspath(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]

    def check_unchanged(self) -> None:
        """ValueError if a file is no longer what it was when the stream was made."""
        for before, now in zip(self.state or (), self._state() or (), strict=True):
            if before != now:
                raise ValueError(
                    f"{before[0]} changed while it was read; begin anew when nobody writes to it"
                )

    def _delimited(self, path: Path) -> Delimited:
        """A file of text, whose structure is found once."""
        if path not in self._texts:
            names = self.structure.names if self.structure else self._layout.names
            self._texts[path] = Delimited(path, self._layout._replace(names=names))
            self.structure = self.structure or self._texts[path].structure
        return self._texts[path]

    @cached_property
    def schema(self) -> Any:
        """The columns, with types that hold the values of all files."""
        pa = import_extra("pyarrow")
        found: list[tuple[str, Any]] = []
        for part in self.parts:
            table = next((table for table, _ in part.open()), None)
            if table is not None:
                found.append((part.name, table.schema.remove_metadata()))
        if not found:
            raise Unreadable(f"{self.source} has no rows")
        first, schema = found[0]
        for name, other in found[1:]:
            self._compare(first, schema.names, name, other.names)
            try:
                options = {"promote_options": "permissive"}
                schema = pa.unify_schemas([schema, other], **options)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(
                    f"{name} has columns of other types than {first}: {error}; convert them"
                ) from None
        return pa.schema([(field.name, _for_all(field.type)) for field in schema])

    def _compare(self, first: str, names: list[str], other: str, found: list[str]) -> None:
        """ValueError unless a file has the columns of the first one."""
        if absent := [name for name in names if name not in found]:
            target = next((name for name in absent if name in self.targets), None)
            what = f"the target {target!r}" if target else f"column {listing(absent)}"
            raise ValueError(f"{other} lacks {what}, which {first} has; all files must have it")
        if extra := [name for name in found if name not in names]:
            raise ValueError(
                f"{other} has column {listing(extra)}, which {first} lacks; all files must have "
                "the same columns"
            )

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self.schema.names

    def batches(self) -> Iterator[Batch]:
        """The rows from the first to the last, at most `BATCH` at a time.

        Unreadable, a ValueError, for content that cannot be read, with the name of the file.
        """
        schema, number = self.schema, 0
        sizes = [part.path.stat().st_size if part.path else 0 for part in self.parts]
        before, total = 0, sum(sizes)
        for part, size in zip(self.parts, sizes, strict=True):
            first = 0
            for table, share in part.open():
                done = None if share is None or not total else (before + share * size) / total
                yield Batch(_cast(table, schema, part.name), part.name, first, number, done)
                first, number = first + table.num_rows, number + table.num_rows
            before += size

    @cached_property
    def n_rows(self) -> int | None:
        """How many there are, where the files say it."""
        counts = [_rows_of(part.path) for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)


def _for_all(kind: Any) -> Any:
    """The type that columns of a type are read as: Arrow cannot take rows of views."""
    pa = import_extra("pyarrow")
    return pa.large_string() if pa.types.is_string_view(kind) else kind


def _cast(table: Any, schema: Any, where: str) -> Any:
    """The columns of a schema; ValueError, with file and column, for what its type cannot hold."""
    pa = import_extra("pyarrow")
    if table.schema.names != schema.names:
        table = table.select(schema.names)
    for i, field in enumerate(schema):
        if table.schema.field(i).type == field.type:
            continue
        try:
            table = table.set_column(i, field.name, table[i].cast(field.type))
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{where}: column {field.name!r} is {table[i].type} there and with the other files "
                f"{field.type}, which does not hold it: {error}; convert it"
            ) from None
    return table


def is_streamable(source: str) -> bool:
    """Whether a source can be read a batch at a time."""
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


def _parts_of(source: str, delimited: Callable[[Path], Any]) -> tuple[str, list[Part]]:
    """The name of a source, and its parts."""
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
    """The files below a folder, but what programs hide: `_SUCCESS`, `.part`. Links are followed,
    and what they lead to again is there once."""
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
    """A TableWarning for folders such as `year=2024`, whose names hold a column."""
    below = (path.parent.parts[len(Path(source).parts) :] for path in paths)
    names = {part.partition("=")[0] for parts in below for part in parts if "=" in part}
    if names and os.path.isdir(source):
        warn(
            f"{source}: the names of its folders say {listing(sorted(names))}, and are not read; "
            f"a query reads them: \"from read_parquet('{source}/**/*.parquet', "
            'hive_partitioning=true)"'
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
    """The tables of a file; what a library raises names the file."""
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
    with parquet.ParquetFile(path, buffer_size=1 << 20) as file:
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


def _rows_of(path: Path | None) -> int | None:
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
