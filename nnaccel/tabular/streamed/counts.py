"""Counts over all rows of a table, in bounded memory: the facts that a sample cannot show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnaccel.tabular.columns import Column, categories_of, numbers_of
from nnaccel.tabular.encoding import Numeric, parts_of
from nnaccel.tabular.features import (
    LARGEST,
    Spec,
    by_column,
    category_names,
    fit_categories,
    numbers_in,
)
from nnaccel.tabular.identifiers import ROWS
from nnaccel.tabular.kinds import Reading
from nnaccel.tabular.scaling import OUTLIER, ROUNDING, Scale, by_quartiles
from nnaccel.tabular.streamed.sources import Batch
from nnaccel.tabular.tables import import_extra, listing, warn

MOST_LEVELS = 100_000  # most different values of a column that are counted


class Moments:
    """Mean, standard deviation, minimum and maximum of n columns of numbers, without NaN.

    The sums are of x - `center` of each column. A center near the mean avoids cancellation, and a
    constant column whose center is that constant has a standard deviation of exactly 0.
    """

    def __init__(self, centers: np.ndarray) -> None:
        self.centers = centers
        self.sums, self.squares = np.zeros((2, len(centers)))
        self.present = np.zeros(len(centers), np.int64)
        self.least, self.most = np.full(len(centers), np.inf), np.full(len(centers), -np.inf)

    def add(self, i: int, values: np.ndarray) -> None:
        """Add values (N,) of column i."""
        values = values[~np.isnan(values)]
        if not len(values):
            return
        shifted = values - self.centers[i]
        self.sums[i] += shifted.sum()
        self.squares[i] += shifted @ shifted
        self.present[i] += len(values)
        self.least[i] = min(self.least[i], values.min())
        self.most[i] = max(self.most[i], values.max())

    def scale_of(self, i: int, sample: np.ndarray) -> Scale:
        """The scale as in `scaling.scales`; if it needs quartiles, they are those of a sample."""
        n = max(int(self.present[i]), 1)
        shift = self.sums[i] / n
        center = float(self.centers[i] + shift)
        scale = float(np.sqrt(max(self.squares[i] / n - shift**2, 0.0)))
        varies = scale > ROUNDING * abs(center) and bool(self.least[i] < self.most[i])
        measured = Scale(center, scale, False, int(self.present[i]), varies)
        far = max(self.most[i] - center, center - self.least[i]) > OUTLIER * scale
        known = bool(np.isfinite(sample).any())
        return by_quartiles(sample, measured) if varies and far and known else measured


class ColumnCounts:
    """Counts of the columns of a table over the training rows, read as `readings` say."""

    def __init__(self, table: Any, sample: Any, readings: Mapping[str, Reading]) -> None:
        """table: in the types of the source.   sample: some rows, in the types of the survey."""
        self.readings = readings
        coded = {name for name in readings if Column(table[name]).coded}
        self._categories: dict[str, Counter[Any] | None] = {}
        self._kinds: dict[str, Reading] = {}
        self._fallback: dict[str, Counter[Any]] = {}
        self._n_missing: Counter[str] = Counter()
        for name in category_names(readings, coded):
            column = Column(sample[name])
            kind = column.kind if name in coded else readings[name].kind
            self._kinds[name] = Reading(kind) if name in coded else readings[name]
            self._categories[name] = Counter()
            self._fallback[name] = _counted(categories_of(name, column, Reading(kind))[0])
        self.numbers = numbers_in(readings, coded)
        self._sample = [
            parts_of(numbers_of(n.name, Column(sample[n.name]), readings[n.name])[0], n.part)
            for n in self.numbers
        ]
        self._moments = Moments(np.array([_center(values) for values in self._sample]))
        self._unread: dict[str, Counter[str]] = {}
        self._starts: dict[str, float | None] = {n.name: None for n in self.numbers}
        self.n_rows = 0

    def add(self, batch: Batch, training: np.ndarray) -> None:
        """Count a batch.   training: a mask (n,) of its training rows.

        Raises ValueError, which names file, column and row, for an infinite or too large number.
        """
        self.n_rows += int(np.count_nonzero(training))
        mask = import_extra("pyarrow").array(training)
        for name, counts in self._categories.items():
            column = Column(batch.table[name])
            data, words = categories_of(name, column, self._kinds[name])
            self._note(name, words)
            data = data.filter(mask)
            self._n_missing[name] += data.null_count
            if counts is not None:
                counts.update(_counted(data))
                if len(counts) > MOST_LEVELS:
                    self._categories[name] = None
        before, values = "", np.zeros(0)
        for i, number in enumerate(self.numbers):
            if number.name != before:
                before = number.name
                values = self._numbers(batch, number)
            self._moments.add(i, parts_of(values, number.part)[training])

    def _numbers(self, batch: Batch, number: Numeric) -> np.ndarray:
        name = number.name
        values, words = numbers_of(name, Column(batch.table[name]), self.readings[name])
        self._note(name, words)
        if (bad := np.abs(values) > LARGEST).any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{batch.where}: column {name!r} is infinite or too large in row "
                f"{batch.first + row:,} (from 0): {values[row]:g}; correct or remove it"
            )
        if name in self._starts:
            start = values[0] - batch.number if batch.number == 0 else self._starts[name]
            counting = batch.number + np.arange(len(values))
            if start is not None and (values - counting == start).all():
                self._starts[name] = start
            else:
                del self._starts[name]
        return values

    def _note(self, name: str, words: Sequence[tuple[str, int]]) -> None:
        if words:
            self._unread.setdefault(name, Counter()).update(dict(words))

    def row_numbers(self, n_rows: int) -> dict[str, str]:
        """The columns that number the rows of the table, each with the reason to drop it."""
        starts = {name: start for name, start in self._starts.items() if start is not None}
        return {
            name: f"it counts the rows, from {start:.15g} to {start + n_rows - 1:.15g}"
            for name, start in starts.items()
            if n_rows > ROWS and self.readings[name].kind == "number"
        }

    def warn_unread(self) -> None:
        """Issue a TableWarning for each column with cells that cannot be read."""
        for name, counts in self._unread.items():
            shown = listing((repr(word) for word, _ in counts.most_common()), 3)
            n = counts.total()
            warn(f"column {name!r}: {n:,} cells that cannot be read are missing: {shown}")

    def specs(self) -> dict[str, Spec]:
        """The encoding of each column, or the reason to drop it."""
        found = [self._moments.scale_of(i, sample) for i, sample in enumerate(self._sample)]
        specs: dict[str, Spec] = {}
        for name, counts in self._categories.items():
            if counts is None:  # too many to count: take the most frequent of the sample
                counts = self._fallback[name] | Counter({None: self._n_missing[name]})
            specs[name] = fit_categories(name, counts, self._kinds[name].kind)
        return specs | by_column(self.numbers, found, self.n_rows)


def _counted(data: Any) -> Counter[Any]:
    counts = data.value_counts()
    return Counter(dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)))


def _center(values: np.ndarray) -> float:
    """A number near the mean of values (N,); if they are all equal, exactly that value."""
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0
    return float(known[0] if (known == known[0]).all() else known.mean())
