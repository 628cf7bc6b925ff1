"""Reads and writes files of tables, by their extension."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnaccel.files import Unreadable, check_expansion, existing_file, reading
from nnaccel.tabular.delimited import AS_IT_IS, Layout, Malformed, Structure, read_text
from nnaccel.tabular.tables import checked, import_extra

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1 << 16  # rows of a Parquet file read at once
BLANK = b"\xef\xbb\xbf\r\n\t "  # bytes of an empty file: a byte order mark, blanks, line ends
CHUNK = 1 << 20  # bytes read, or decompressed, at once
DELIMITED = (".csv", ".tsv", ".txt")  # also compressed: ".csv.gz", ".csv.zst"
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


def read_table(path: str | Path, layout: Layout = AS_IT_IS) -> tuple["pa.Table", Structure | None]:
    """The table in a .csv, .tsv, .txt (also .gz, .zst), .parquet, .feather or .arrow file, and the
    structure of delimited text, or None for the others.

    Delimited text: its structure is found, except what `layout` states; cells stay text, and empty
    cells are null; see `delimited`. The index that pandas stores in Parquet is no column. Content
    is checked to its last byte. `files.check_expansion` limits its size after decompression.

    Raises FileNotFoundError (with the closest name in the folder), IsADirectoryError, OSError for a
    pipe or a device, MemoryError, and ValueError for an unknown extension, unreadable content, a
    table without rows, or a column name that occurs twice.
    """
    path = existing_file(path)
    suffix = suffix_of(path)
    if not is_delimited(path) and suffix not in READERS:
        known = (*DELIMITED, *(d + c for d in DELIMITED[:1] for c in COMPRESSED), *READERS)
        raise ValueError(
            f"{path}: unknown kind of file {suffix!r}; known are {', '.join(known)}; "
            "convert it or give it the extension of its format"
        )
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; expected a table with column names and rows")
    structure = None
    if is_delimited(path):
        table, structure = _read_delimited(path, suffix[1:], layout)
    else:
        table = READERS[suffix](path, suffix[1:])
    with reading(path, suffix[1:]):  # decodes the names and metadata of its columns, too
        return checked(table, str(path)), structure


def read_stream(file: Any, name: str, layout: Layout = AS_IT_IS) -> tuple["pa.Table", Structure]:
    """The table of delimited text in a binary stream, and its structure.

    name: of the stream in errors.   Raises the ValueErrors of `read_table`.
    """
    content = file.read()
    with reading(name, "text"):
        table, structure = _from_text(content, name, layout)
        return checked(table, name), structure


def is_delimited(path: str | Path) -> bool:
    """Whether a file's name says that it is delimited text."""
    suffix = suffix_of(Path(path))
    return suffix.removesuffix(".gz").removesuffix(".zst") in DELIMITED


def suffix_of(path: Path) -> str:
    """The extension in lower case; both extensions of a compressed file, such as ".csv.gz"."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + suffix if suffix in COMPRESSED else suffix


# ---------------------------------------------------------------------------- reading


def _read_delimited(path: Path, kind: str, layout: Layout) -> tuple["pa.Table", Structure]:
    content = _content(path, kind)
    with reading(path, kind):
        return _from_text(content, str(path), layout)


def _from_text(content: bytes, name: str, layout: Layout) -> tuple["pa.Table", Structure]:
    if not content[:CHUNK].strip(BLANK) and not content.strip(BLANK):
        raise Unreadable(f"{name} is empty; expected a table with column names and rows")
    try:
        return read_text(content, layout)
    except Malformed as error:
        raise Unreadable(f"{name}: {error}") from None


def _content(path: Path, kind: str) -> bytes:
    """The bytes of a file, decompressed."""
    compression = COMPRESSED.get(path.suffix.lower())
    if compression is None:
        with reading(path, kind):
            return path.read_bytes()
    parts, size = [], 0
    opened = import_extra("pyarrow").input_stream(str(path), compression=compression)
    with reading(path, kind), opened as file:
        for part in iter(partial(file.read, CHUNK), b""):
            size += len(part)
            check_expansion(path, size)
            parts.append(part)
        return b"".join(parts)


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
    """The table of the batches. Each is validated, since the use of an invalid batch may crash."""
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


READERS = {".parquet": _read_parquet, ".feather": _read_arrow, ".arrow": _read_arrow}


# ---------------------------------------------------------------------------- writing


def csv_of(table: "pa.Table", *, header: bool) -> bytes:
    """A table as CSV.   header: whether the names come first."""
    reader, content = import_extra("pyarrow.csv"), import_extra("pyarrow").BufferOutputStream()
    reader.write_csv(table, content, reader.WriteOptions(include_header=header))
    return content.getvalue().to_pybytes()


def _csv_writer(file: Any, schema: "pa.Schema") -> Any:
    return import_extra("pyarrow.csv").CSVWriter(file, schema)


def _parquet_writer(file: Any, schema: "pa.Schema") -> Any:
    return import_extra("pyarrow.parquet").ParquetWriter(file, schema)


def _feather_writer(file: Any, schema: "pa.Schema") -> Any:
    ipc = import_extra("pyarrow.ipc")
    return ipc.new_file(file, schema, options=ipc.IpcWriteOptions(compression="lz4"))


# Extension -> writer of tables with a schema to an open file, with `write_table` and `close`.
WRITERS = {".csv": _csv_writer, ".parquet": _parquet_writer, ".feather": _feather_writer}
