"""Delimited text of any size: detects the structure at the beginning, reads rows in blocks."""

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nnaccel.tabular.delimited import (
    SAMPLE,
    Layout,
    Malformed,
    Structure,
    encoding_of,
    open_rows,
    read_text,
    structure_of,
    uneven_rows,
)
from nnaccel.tabular.table_files import COMPRESSED
from nnaccel.tabular.tables import import_extra

BLOCK = 1 << 22  # bytes of text read at once; no row may be longer
LONGEST = 1 << 16  # most bytes of a quoted cell; a longer one counts as unquoted
# A part of Arrow's error message -> the cause and the remedy.
REMEDIES = {
    "invalid UTF8": "it is no UTF-8 text; name its encoding with --encoding, for example latin-1",
    "straddling": f"a row has more than {BLOCK:,} bytes; read it whole, without --stream",
}


class Delimited:
    """A file of delimited text that is read in blocks.

    The separator, the header, the comment sign and the encoding are detected at the beginning of
    the file. The rest must have the same structure.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        """Raises Malformed for a beginning without a structure."""
        self.path, self._clean = path, _as_it_is
        head = self._head()
        if not head.strip(b"\xef\xbb\xbf\r\n\t "):
            raise Malformed("it is empty; expected a table with column names and rows")
        self._encoding = encoding_of(_whole_lines(head, len(head) == SAMPLE), layout.encoding)
        text = codecs.getincrementaldecoder(self._encoding or "utf-8")("strict").decode(head)
        lines = _whole_lines(text.encode(), len(head) == SAMPLE)
        comment = structure_of(lines, layout).comment
        table, self.structure = read_text(lines, layout._replace(encoding=None))
        self.names = table.column_names
        self._used = _places(self.structure, self.names)
        if comment:
            self._clean = _without_comments(comment.encode())
        elif self.structure.delimiter == " ":
            self._clean = _single_spaces

    def batches(self) -> Iterator[tuple[Any, float]]:
        """Tables of text cells, each with the share of the file that has been read."""
        pa = import_extra("pyarrow")
        size = max(self.path.stat().st_size, 1)
        uneven: list[Any] = []
        with pa.OSFile(str(self.path)) as raw, self._opened(raw) as text:
            text.read(self.structure.start)
            for batch in self._blocks(text, uneven):
                if uneven:
                    raise uneven_rows(uneven, self.structure)
                yield self._named(batch), min(raw.tell() / size, 1.0)
            if uneven:
                raise uneven_rows(uneven, self.structure)

    def _blocks(self, text: Any, uneven: list[Any]) -> Iterator[Any]:
        """Tables that Arrow reads. Raises Malformed, with the remedy, if the structure is wrong."""
        pa = import_extra("pyarrow")
        try:
            yield from open_rows(text, self.structure, uneven, BLOCK) or ()
        except pa.ArrowInvalid as error:
            for sign, remedy in REMEDIES.items():
                if sign in str(error):
                    raise Malformed(remedy) from None
            raise

    def _named(self, batch: Any) -> Any:
        pa = import_extra("pyarrow")
        for i in range(batch.num_columns):
            if i not in self._used and batch.column(i).null_count < batch.num_rows:
                raise Malformed(f"column {i} has no name, but values; name it in the header")
        used = [batch.column(i) for i in self._used]
        return pa.RecordBatch.from_arrays(used, self.names)

    def _opened(self, raw: Any) -> Any:
        """The decompressed text in UTF-8, without comments and repeated spaces."""
        pa = import_extra("pyarrow")
        compression = COMPRESSED.get(self.path.suffix.lower())
        text = pa.CompressedInputStream(raw, compression) if compression else raw
        if self._encoding is not None:
            text = pa.transcoding_input_stream(text, self._encoding, "utf-8")
        if self._clean is not _as_it_is:
            text = pa.TransformInputStream(text, _by_lines(self._clean))
        return text

    def _head(self) -> bytes:
        pa = import_extra("pyarrow")
        compression = COMPRESSED.get(self.path.suffix.lower())
        with pa.input_stream(str(self.path), compression=compression) as file:
            return file.read(SAMPLE)


def _whole_lines(text: bytes, more: bool) -> bytes:
    """The text up to the end of its last complete row: the last line end outside a quoted cell.
    more: whether text follows; else the whole text."""
    if not more:
        return text
    last = end = text.rfind(b"\n") + 1
    quotes = text.count(b'"', 0, end)
    while quotes % 2 and last - end < LONGEST and (before := text.rfind(b"\n", 0, end - 1) + 1):
        quotes -= text.count(b'"', before, end)
        end = before
    return text[: last if quotes % 2 else end] or text  # no quoted cell is longer


def _places(structure: Structure, names: list[str]) -> list[int]:
    """The indices of the named columns among all columns of a structure."""
    spelled = [name or f"column{i}" for i, name in enumerate(structure.names)]
    return [spelled.index(name) for name in names]


# ---------------------------------------------------------------------------- lines

Clean = Callable[[bytes], bytes]


def _as_it_is(lines: bytes) -> bytes:
    return lines


def _by_lines(clean: Clean) -> Callable[[Any], bytes]:
    """A function that cleans blocks of bytes in whole lines; an empty block marks the end."""
    rest = b""

    def cleaned(block: Any) -> bytes:
        nonlocal rest
        lines = rest + bytes(memoryview(block))
        cut = lines.rfind(b"\n") + 1 if len(block) else len(lines)
        rest = lines[cut:]
        return clean(lines[:cut])

    return cleaned


def _without_comments(sign: bytes) -> Clean:
    pattern = re.compile(rb"(?m)^" + re.escape(sign) + rb".*(?:\n|\Z)")
    return lambda lines: pattern.sub(b"", lines)


def _single_spaces(lines: bytes) -> bytes:
    if b'"' in lines:
        return lines
    return re.sub(rb"(?m)^ +| +$", b"", re.sub(rb" +", b" ", lines))
