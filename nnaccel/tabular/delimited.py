"""Delimited text, such as CSV: DuckDB finds the structure, Arrow reads the cells as text.

Nothing is converted here: a cell is the text in the file, and an empty cell is null.
"""

import codecs
import csv
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

from nnaccel.tabular.kinds import Text
from nnaccel.tabular.tables import TableWarning, import_extra

SEPARATORS = (",", ";", "\t", "|", " ")
SPELLED = {"\t": "tab", " ": "space"}
SAMPLE = 1 << 20  # bytes at the start of a file that show its structure


class Malformed(ValueError):
    """Text whose structure cannot be read. The message says why, without the name of the file."""


class Layout(NamedTuple):
    """The user's description of a delimited file; None: as its content suggests.

    delimiter: the character between cells.   header: whether the first line has the names.
    encoding: a name for `codecs.lookup`.   names: expected columns, which tell a header from a row.
    """

    delimiter: str | None = None
    header: bool | None = None
    encoding: str | None = None
    names: tuple[str, ...] = ()


AS_IT_IS = Layout()


class Structure(NamedTuple):
    """How a delimited file is laid out.

    names: of its columns; "" for a column without a name.   start: the byte where the first row
    begins.   header: whether the file has names.   line: the line of the header, counted from 1.
    quoted: for each expected column, the words for no value that occur in quotes; in quotes they
    are values.
    """

    delimiter: str
    quote: str
    escape: str
    comment: str
    names: tuple[str, ...]
    start: int
    header: bool
    line: int
    quoted: Mapping[str, frozenset[str]] = MappingProxyType({})

    def __str__(self) -> str:
        delimiter = SPELLED.get(self.delimiter, repr(self.delimiter))
        header = f"line {self.line} as header" if self.header else "no header"
        return f"read with separator {delimiter} and {header}"


def read_text(content: Any, layout: Layout = AS_IT_IS) -> tuple[Any, Structure]:
    """The rows of a delimited text as a pyarrow table of strings, and the structure found.

    content: bytes, or a pyarrow Buffer, which is not copied.   A column without a name is dropped
    where it is empty; else it is "column3", as all are where there is no header. Raises Malformed
    for lines with different numbers of cells, an unknown encoding, no header.
    """
    pa = import_extra("pyarrow")
    content = _as_utf8(pa.py_buffer(content), layout.encoding)
    if layout.encoding is None and (latin := _from_latin_1(content)) is not None:
        content = latin
    structure = structure_of(content, layout)
    if structure.comment:
        content = _without_comments(content, structure.comment)
        structure = structure_of(content, layout)
    if structure.delimiter == " " and (packed := _single_spaces(content)) is not None:
        content = packed
        structure = structure_of(content, layout._replace(delimiter=" "))
    rows = _rows(content, structure)
    quoted = {
        name: _quoted_words(content, structure, structure.names.index(name), rows)
        for name in layout.names
        if structure.quote and name in structure.names
    }
    return _named(rows, structure), structure._replace(quoted=quoted)


# ---------------------------------------------------------------------------- structure


def structure_of(content: Any, layout: Layout = AS_IT_IS) -> Structure:
    """The structure of UTF-8 text (bytes or Buffer), found by DuckDB's sniffer except where
    `layout` states it.

    Raises Malformed where no lines with equal numbers of cells can be found.
    """
    sample = bytes(memoryview(content)[:SAMPLE])
    if len(content) > SAMPLE:
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    with TemporaryDirectory() as folder:  # the sniffer reads files only
        path = Path(folder, "sample.csv")
        path.write_bytes(sample)
        first = _sniff(path, layout.delimiter, layout.header)
        found = [first]
        if layout.delimiter is None and (first is None or len(first["Columns"]) == 1):
            found += [_sniff(path, s, layout.header, pad=True) for s in _separators(sample)]
        best = max(filter(None, found), key=lambda s: len(s["Columns"]), default=None)
        if best is not None and layout.header is None and not _has(layout.names, sample, best):
            other = _sniff(path, best["Delimiter"], not best["HasHeader"])
            if other is not None and _has(layout.names, sample, other):
                best = other
    if best is None:
        raise Malformed(
            "its lines have no structure in common; name the separator with --delimiter, and say "
            "with --header yes or no whether the first line has the names"
        )
    return _located(sample, best)


def _has(names: tuple[str, ...], sample: bytes, found: dict[str, Any]) -> bool:
    """Whether a structure gives the table most of the expected names."""
    there = {*names} & {*_located(sample, found).names}
    return 2 * len(there) > len({*names}) or not names


def _separators(sample: bytes) -> list[str]:
    """The separators that occur in most lines as often as in the first line."""
    lines = [line for line in sample.decode("utf-8", "replace").splitlines() if line.strip()][:100]
    found = []
    for separator in SEPARATORS:
        counts = [line.count(separator) for line in lines]
        if counts and counts[0] and 2 * counts.count(counts[0]) > len(counts):
            found.append(separator)
    return found


def _sniff(
    path: Path, delimiter: str | None, header: bool | None, *, pad: bool = False
) -> dict[str, Any] | None:
    """The result of DuckDB's sniffer for a file; None where it finds no structure.

    pad: whether lines may have too few cells. Reading the rows then names these lines.
    """
    duckdb = import_extra("duckdb")
    given = {"delim": delimiter, "header": header, "null_padding": pad or None}
    given = {name: value for name, value in given.items() if value is not None}
    options = "".join(f", {name}=${name}" for name in given)
    query = f"FROM sniff_csv($path, all_varchar=true{options})"
    with duckdb.connect() as connection:
        try:
            cursor = connection.execute(query, {"path": str(path), **given})
        except duckdb.Error:
            return None
        names = [column[0] for column in cursor.description]
        return dict(zip(names, cursor.fetchone(), strict=True))


def _located(sample: bytes, found: dict[str, Any]) -> Structure:
    """The structure, with the names as written and the byte where the first row begins."""
    signs = {name: "" if found[name] == "(empty)" else found[name] for name in SIGNS}
    delimiter, quote, escape, comment = signs.values()
    text = io.StringIO(sample.decode("utf-8", "replace"), newline="")
    for _ in range(found["SkipRows"]):
        text.readline()
    names = tuple(f"column{i}" for i in range(len(found["Columns"])))
    if found["HasHeader"]:
        quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
        lines = csv.reader(text, delimiter=delimiter, quotechar=quote or '"', quoting=quoting)
        names = tuple(map(str.strip, next(lines)))
    position = text.tell()
    start = len(text.getvalue()[:position].encode())
    line = found["SkipRows"] + 1
    return Structure(delimiter, quote, escape, comment, names, start, found["HasHeader"], line)


SIGNS = ("Delimiter", "Quote", "Escape", "Comment")


# ---------------------------------------------------------------------------- rows


def _rows(content: Any, structure: Structure, **convert: Any) -> Any:
    """The rows as a table of strings, whose columns are called "0", "1", ...

    convert: Arrow's conversion options that differ from the default.
    """
    pa, reader = import_extra("pyarrow"), import_extra("pyarrow.csv")
    rows, uneven = content.slice(structure.start), []
    if not len(rows) or (len(structure.names) > 1 and not bytes(memoryview(rows)[:SAMPLE]).strip()):
        return pa.table({str(i): pa.array([], pa.string()) for i in range(len(structure.names))})
    table = reader.read_csv(pa.BufferReader(rows), **_options(structure, uneven, **convert))
    if uneven:
        raise uneven_rows(uneven, structure)
    return table


def open_rows(text: Any, structure: Structure, uneven: list[Any], block: int) -> Any:
    """A reader of the rows of an open text, in blocks of `block` bytes; None if there are no rows.

    uneven: a list to which rows with another number of cells are appended, see `uneven_rows`.
    """
    pa, reader = import_extra("pyarrow"), import_extra("pyarrow.csv")
    options = _options(structure, uneven)
    options["read_options"].block_size = block
    try:
        return reader.open_csv(text, **options)
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            return None
        raise


def _options(structure: Structure, uneven: list[Any], **convert: Any) -> dict[str, Any]:
    """The options by which Arrow reads cells as text."""
    pa, reader = import_extra("pyarrow"), import_extra("pyarrow.csv")
    names = [str(i) for i in range(len(structure.names))]

    def note(row: Any) -> str:
        uneven.append(row)
        return "skip"

    return {
        "read_options": reader.ReadOptions(column_names=names),
        "parse_options": reader.ParseOptions(
            delimiter=structure.delimiter,
            quote_char=structure.quote or False,
            escape_char=(structure.escape != structure.quote and structure.escape) or False,
            newlines_in_values=bool(structure.quote),
            ignore_empty_lines=len(names) > 1,  # in a table of one column they are empty cells
            invalid_row_handler=note,
        ),
        "convert_options": reader.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            **{"null_values": [""], **convert},
        ),
    }


def uneven_rows(uneven: list[Any], structure: Structure) -> Malformed:
    """The error for rows with another number of cells."""
    row = uneven[0]
    return Malformed(
        f"{structure}, {len(uneven):,} of its rows have another number of cells than the "
        f"{row.expected_columns} columns; the first has {row.actual_columns}: "
        f"{row.text[:60]!r}; mend them, or name the separator with --delimiter"
    )


def _quoted_words(content: Any, structure: Structure, i: int, rows: Any) -> frozenset[str]:
    """The words for no value that occur in quotes in column i. To find them the column is read
    again; then such words are null only where they are not quoted."""
    pc = import_extra("pyarrow.compute")
    cells = Text(rows[i]).cells
    words = cells.texts.to_numpy(False)[cells.blank].tolist()
    if not any(words):
        return frozenset()
    options = {"null_values": words, "quoted_strings_can_be_null": False}
    again = _rows(content, structure, include_columns=[str(i)], **options)[0]
    kept = set(pc.utf8_trim_whitespace(again).unique().drop_null().to_pylist())
    return frozenset(kept.intersection(words))


def _named(table: Any, structure: Structure) -> Any:
    """The table with named columns. Empty columns without a name are dropped."""
    used = [
        i
        for i, name in enumerate(structure.names)
        if name or not structure.header or table[i].null_count < len(table)
    ]
    names = [structure.names[i] or f"column{i}" for i in used]
    return table.select(used).rename_columns(names)


def _without_comments(content: Any, sign: str) -> Any:
    pattern = rb"(?m)^" + re.escape(sign.encode()) + rb".*(?:\n|\Z)"
    return import_extra("pyarrow").py_buffer(re.sub(pattern, b"", memoryview(content)))


def _single_spaces(content: Any) -> Any:
    """The text with runs of spaces reduced to one space, or None if there are no such runs."""
    if b'"' in (text := bytes(memoryview(content))) or not re.search(rb"(?m)  |^ | $", text):
        return None
    lines = re.sub(rb"(?m)^ +| +$", b"", re.sub(rb" +", b" ", text))
    return import_extra("pyarrow").py_buffer(lines)


# ---------------------------------------------------------------------------- encodings


def encoding_of(head: bytes, given: str | None) -> str | None:
    """The encoding of a text, given or recognised by its first bytes; None for UTF-8.

    Warns (TableWarning) of text that is not UTF-8 and is read as Windows' Latin-1 (cp1252).
    """
    encoding = given or _recognise(head)
    if encoding is None and _from_latin_1(head) is not None:
        return "cp1252"
    return encoding


def _as_utf8(content: Any, encoding: str | None) -> Any:
    """A Buffer of the text in UTF-8 without byte order mark, decoded from the given or recognised
    encoding.

    encoding: None: recognise UTF-8 and UTF-16.
    """
    pa = import_extra("pyarrow")
    encoding = encoding or _recognise(bytes(memoryview(content)[:SAMPLE]))
    if encoding is None:
        return content
    try:
        text = codecs.decode(memoryview(content), encoding)
    except UnicodeDecodeError as error:
        raise Malformed(
            f"it is not text in {encoding} ({error.reason} at byte {error.start:,}); name its "
            "encoding with --encoding, for example latin-1 or utf-16"
        ) from None
    except LookupError:
        raise Malformed(
            f"unknown encoding {encoding!r}; known are utf-8, utf-16, latin-1, cp1252 "
            "and the others of Python's codecs"
        ) from None
    return pa.py_buffer(text.removeprefix("\ufeff").encode())


def _from_latin_1(content: Any) -> Any:
    """Text that is not UTF-8, read as Windows' Latin-1 (cp1252) with a TableWarning; None for
    UTF-8."""
    try:
        codecs.decode(memoryview(content), "utf-8")
        return None
    except UnicodeDecodeError as error:
        line = bytes(memoryview(content)[: error.start]).count(b"\n") + 1
    warnings.warn(
        f"line {line} is no UTF-8 text; read as Latin-1 (Windows-1252). If letters come out wrong, "
        "name the encoding with --encoding",
        TableWarning,
        stacklevel=5,
    )
    return _as_utf8(content, "cp1252")


def _recognise(head: bytes) -> str | None:
    """The encoding, recognised by a byte order mark or by zero bytes."""
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    even, odd = head[:4096:2].count(0), head[1:4096:2].count(0)
    if 4 * max(even, odd) > min(len(head), 4096):
        return "utf-16-be" if even > odd else "utf-16-le"
    return None


MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
