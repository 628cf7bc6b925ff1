"""Tables of any size, read in batches of rows; checks that the parts of a source agree."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnaccel.files import Unreadable
from nnaccel.tabular.delimited import AS_IT_IS, Layout, Structure
from nnaccel.tabular.streamed.parts import parts_of, rows_of
from nnaccel.tabular.streamed.text import Delimited
from nnaccel.tabular.tables import import_extra, listing

NUMBERS = 2**22  # most encoded numbers of a piece of a batch: 16 MB in float32


class Batch(NamedTuple):
    """Some rows: the table, the name of the part that they are from, the number of the first row in
    that part and in the whole source, and the share of the source read so far (None: unknown)."""

    table: Any
    where: str
    first: int
    number: int
    done: float | None

    @property
    def numbers(self) -> np.ndarray:
        """The row numbers (n,) in the whole source."""
        return self.number + np.arange(self.table.num_rows)

    def pieces(self, width: int) -> Iterator["Batch"]:
        """The same rows in pieces of at most `NUMBERS` numbers, `width` numbers a row."""
        rows = max(1, NUMBERS // width)
        for start in range(0, self.table.num_rows, rows):
            yield self._replace(
                table=self.table.slice(start, rows),
                first=self.first + start,
                number=self.number + start,
            )


class Stream:
    """A table that is read in batches, any number of times, always in the same order.

    name: for the model.   source: as the user wrote it.   columns: their names, in the order of the
    first file.   n_rows: None if the files do not state it.   n_bytes: the size of its files.
    """

    def __init__(self, source: str, layout: Layout = AS_IT_IS, targets: tuple[str, ...] = ()):
        """layout: of delimited text, to override detection.   targets: required columns.

        Raises ValueError, FileNotFoundError or OSError for a source that cannot be streamed, and
        for files of different tables. The message names the files.
        """
        self.source, self.targets = source, targets
        self._layout = layout._replace(names=layout.names or targets)
        self.structure: Structure | None = None
        self._texts: dict[Path, Delimited] = {}
        self.name, self.parts = parts_of(source, self._delimited)
        self.n_bytes = sum(part.path.stat().st_size for part in self.parts if part.path)
        self.state = self._state()

    def _state(self) -> list[tuple[str, int, int]] | None:
        """Paths, sizes and times of the files; None for a source without files."""
        if any(part.path is None for part in self.parts):
            return None
        stats = [(str(part.path), os.stat(str(part.path))) for part in self.parts]
        return [(os.path.abspath(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]

    def check_unchanged(self) -> None:
        """Raise ValueError if a file has changed since the stream was made."""
        for before, now in zip(self.state or (), self._state() or (), strict=True):
            if before != now:
                raise ValueError(
                    f"{before[0]} changed while it was read; begin anew when nobody writes to it"
                )

    def _delimited(self, path: Path) -> Delimited:
        """A text file; its structure is detected once."""
        if path not in self._texts:
            names = self.structure.names if self.structure else self._layout.names
            self._texts[path] = Delimited(path, self._layout._replace(names=names))
            self.structure = self.structure or self._texts[path].structure
        return self._texts[path]

    @cached_property
    def schema(self) -> Any:
        """The columns, with types that can represent the values of all files."""
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
        """Raise ValueError unless a file has the same columns as the first file."""
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
        """The rows in order, at most `BATCH` at a time.

        Raises Unreadable, a ValueError with the name of the file, for unreadable content.
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
        """The number of rows, if the files state it; else None."""
        counts = [rows_of(part.path) for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)


def _for_all(kind: Any) -> Any:
    """The type used to read columns of a type: Arrow cannot `take` rows of view types."""
    pa = import_extra("pyarrow")
    return pa.large_string() if pa.types.is_string_view(kind) else kind


def _cast(table: Any, schema: Any, where: str) -> Any:
    """Cast a table to a schema. Raises ValueError, with file and column, for unsuitable values."""
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
