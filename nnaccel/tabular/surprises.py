"""What a table holds that the fit of an encoding did not see: counted, and said of all rows."""

import warnings
from collections import Counter
from collections.abc import Iterable

from nnaccel.tabular.tables import TableWarning, counts, listing


class Surprises:
    """The surprises of one table, or of all its batches together.

    filled, unseen: rows with a missing value that has no column, with a category that has none.
    """

    def __init__(self, *, many: bool = False) -> None:
        """many: whether there are several batches, of which each may be like nothing before."""
        self.many = many
        self.filled: Counter[str] = Counter()
        self.unseen: Counter[str] = Counter()
        self._unread: dict[str, Counter[str]] = {}
        self._readable: set[str] = set()
        self._refused: dict[str, ValueError] = {}
        self._extra: list[str] = []

    def note_unread(self, name: str, words: Iterable[tuple[str, int]]) -> None:
        """Cells of a column that cannot be read, and are missing."""
        self._unread.setdefault(name, Counter()).update(dict(words))

    def note_extra(self, names: list[str]) -> None:
        """Columns that the fit did not see."""
        self._extra = names

    def note_readable(self, name: str) -> None:
        """That some cell of a column is what the column was."""
        self._readable.add(name)

    def note_refused(self, name: str, error: ValueError) -> None:
        """That a cell is not; the error is for a column without any that is."""
        self._refused.setdefault(name, error)

    def add(self, other: "Surprises") -> None:
        """Adds the missing values and the categories of other rows; of cells that cannot be read
        whoever has looked at all rows has said it."""
        self.filled.update(other.filled)
        self.unseen.update(other.unseen)

    def check(self) -> None:
        """ValueError for a column without a single cell that can be read."""
        for name, error in self._refused.items():
            if name not in self._readable:
                raise error

    def say(self, stacklevel: int = 3) -> None:
        """A TableWarning for each kind, with columns and counts; ValueError as `check`."""
        self.check()
        said = []
        if self._extra:
            said.append(f"columns that the fit did not see, ignored: {listing(self._extra)}")
        for name, words in self._unread.items():
            if words:
                shown = listing((repr(word) for word, _ in words.most_common()), 3)
                n = words.total()
                said.append(
                    f"column {name!r}: {n:,} cells that cannot be read are missing: {shown}"
                )
        for what, rows in (
            ("missing values where the fit saw none, encoded as the mean or as zeros", self.filled),
            ("categories that the fit did not see, encoded as zeros", self.unseen),
        ):
            if some := {name: n for name, n in rows.items() if n}:
                said.append(f"{what}: {counts(some)}")
        for message in said:
            warnings.warn(message, TableWarning, stacklevel=stacklevel)
