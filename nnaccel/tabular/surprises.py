"""Counts the values of a table that the fit of an encoding did not see, and warns of them."""

import warnings
from collections import Counter
from collections.abc import Iterable

from nnaccel.tabular.tables import TableWarning, counts, listing


class Surprises:
    """The unseen values of one table, or of all its batches together.

    filled, unseen: the numbers of rows with a missing value, or a category, that has no encoded
    column.
    """

    def __init__(self, *, many: bool = False) -> None:
        """many: whether there are several batches, where a single batch may have no readable
        cell."""
        self.many = many
        self.filled: Counter[str] = Counter()
        self.unseen: Counter[str] = Counter()
        self._unread: dict[str, Counter[str]] = {}
        self._readable: set[str] = set()
        self._refused: dict[str, ValueError] = {}
        self._extra: list[str] = []

    def note_unread(self, name: str, words: Iterable[tuple[str, int]]) -> None:
        """Count cells of a column that cannot be read, and are taken as missing."""
        self._unread.setdefault(name, Counter()).update(dict(words))

    def note_extra(self, names: list[str]) -> None:
        """Record columns that the fit did not see."""
        self._extra = names

    def note_readable(self, name: str) -> None:
        """Record that some cell of a column can be read."""
        self._readable.add(name)

    def note_refused(self, name: str, error: ValueError) -> None:
        """Record that a cell cannot be read. The error is raised for a column without any readable
        cell."""
        self._refused.setdefault(name, error)

    def add(self, other: "Surprises") -> None:
        """Adds the missing values and the categories of other rows; of cells that cannot be read
        whoever has looked at all rows has said it."""
        self.filled.update(other.filled)
        self.unseen.update(other.unseen)

    def check(self) -> None:
        """Raises ValueError for a column without a single readable cell."""
        for name, error in self._refused.items():
            if name not in self._readable:
                raise error

    def say(self, stacklevel: int = 3) -> None:
        """Give a TableWarning for each kind, with columns and counts. Raises ValueError like
        `check`."""
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
