"""Assigns the rows of a stream to training, validation or test, and counts the target's values."""

from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nnaccel.tabular.several_targets import Targets, columns_of, together
from nnaccel.tabular.sources import weights_in
from nnaccel.tabular.streamed.counts import Moments
from nnaccel.tabular.streamed.sample import shares_of
from nnaccel.tabular.streamed.sources import Batch
from nnaccel.tabular.tables import quiet, warn
from nnaccel.tabular.targets import (
    LARGEST,
    Counted,
    Target,
    distinct_values,
    explain_levels,
    fit_counted,
    rows_with_target,
    storable,
)

MOST_VALUES = 10_000  # most different values of a target that are counted
PARTS = ("train", "validation", "test")


class Shares(NamedTuple):
    """The share of the test rows, and the share of the validation rows among the others."""

    test: float
    validation: float

    def part_of(self, shares: np.ndarray) -> np.ndarray:
        """The part of each row (n,), an index into `PARTS`.   shares: (n,), from 0 to 1."""
        held = self.test + (1 - self.test) * self.validation
        return np.where(shares < self.test, 2, np.where(shares < held, 1, 0))


class RowsOf(NamedTuple):
    """The part of each row of a batch (n,), an index into `PARTS` or -1 without a target; the
    values of each target by name; the weights (n,) or None."""

    part: np.ndarray
    y: dict[str, Any]
    weights: np.ndarray | None


class Reader:
    """Selects the rows of batches with a target and assigns each to a part."""

    def __init__(
        self,
        target: Target | Targets,
        shares: Shares,
        seed: int,
        weights: str | None,
        decimal: str | None,
    ) -> None:
        """target: the kinds of its columns.   weights: the column with the weight of each row.
        decimal: the decimal mark of its text; None: detected in each batch."""
        self.target, self.columns, self.shares = target, columns_of(target), shares
        self.seed, self._weights, self._decimal = seed, weights, decimal

    @property
    def has_weights(self) -> bool:
        """Whether rows have weights."""
        return self._weights is not None

    def rows_of(self, batch: Batch) -> RowsOf:
        """The parts, targets and weights of a batch. Raises ValueError, which names the file, for
        an unreadable target or weights. Warnings concern this batch only: callers silence them."""
        y = {}
        for one in self.columns:
            try:
                y[one.name] = one.parse(batch.table[one.name])
            except ValueError as error:
                raise ValueError(f"{batch.where}: {error}") from None
        present = np.all([rows_with_target(v, name) for name, v in y.items()], axis=0)
        part = self.shares.part_of(shares_of(batch.numbers, self.seed))
        return RowsOf(np.where(present, part, -1), y, self._weights_of(batch))

    def encoded(self, y: dict[str, Any], rows: np.ndarray) -> np.ndarray:
        """The encoded targets (n,) or (n, K) of the given rows of a batch, for the loss."""
        each = [one.encode(y[one.name].take(rows)) for one in self.columns]
        return each[0] if isinstance(self.target, Target) else np.stack(each, axis=1)

    def _weights_of(self, batch: Batch) -> np.ndarray | None:
        if self._weights is None:
            return None
        cells = batch.table[self._weights]
        try:
            return weights_in(self._weights, cells, self._decimal)
        except ValueError as error:
            raise ValueError(f"{batch.where}, from row {batch.first:,} on: {error}") from None


class Tally:
    """Counts of rows and of target values over all added batches."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._n_rows, self._n_without = np.zeros(len(PARTS), np.int64), 0
        self._values = [Values(one) for one in reader.columns]
        self._weight = 0.0

    def add(self, batch: Batch) -> np.ndarray:
        """Count a batch. Returns the mask (n,) of its training rows."""
        with quiet():
            part, y, weights = self._reader.rows_of(batch)
        self._n_without += int(np.count_nonzero(part < 0))
        self._n_rows += np.bincount(part[part >= 0], minlength=len(PARTS))
        training = part == 0
        each = training.astype(np.float64) if weights is None else training * weights
        self._weight += float(each.sum())
        for values in self._values:
            try:
                values.add(y[values.target.name], part, each)
            except ValueError as error:
                raise ValueError(f"{batch.where}, from row {batch.first:,} on: {error}") from None
        return training

    @property
    def n_rows(self) -> dict[str, int]:
        """The number of rows of each part."""
        return dict(zip(PARTS, self._n_rows.tolist(), strict=True))

    @property
    def has_negative(self) -> bool:
        """Whether the target has a negative number."""
        return any(values.moments.least[0] < 0 for values in self._values)

    def target(self, task: str) -> Target | Targets:
        """The target, with the values of all rows."""
        found = [values.decided(task) for values in self._values]
        return together(found) if len(found) > 1 else found[0]

    def check(self, source: str) -> None:
        """Raise ValueError for a part without rows; warn of rows without a target."""
        wanted = (1.0, self._reader.shares.validation, self._reader.shares.test)
        for name, share in zip(PARTS, wanted, strict=True):
            if share and not self.n_rows[name]:
                raise ValueError(f"{source} has no row left for the {name} part; add rows")
        if not self._weight > 0:
            raise ValueError("all rows of the train part have weight 0; another --seed may help")
        if self._n_without:
            name = self._reader.target.name
            warn(f"{self._n_without:,} rows without a {name!r} are left out")

    def class_weights(self, target: Target | Targets) -> tuple[float, ...]:
        """Balanced class weights, inversely proportional to frequency, as in `class_weights`."""
        rows = [self._values[0].training.get(label, (0, 0.0))[0] for label in target.classes]
        present = sum(n > 0 for n in rows)
        return tuple(sum(rows) / (present * n) if n else 1.0 for n in rows)

    def mean_weight(self, target: Target | Targets, weights: tuple[float, ...]) -> float:
        """The mean weight of the training rows, times class weights unless these are ()."""
        total = self._weight
        if weights:
            own = (self._values[0].training.get(label, (0, 0.0))[1] for label in target.classes)
            total = sum(w * each for w, each in zip(weights, own, strict=True))
        return total / self.n_rows["train"]

    def hint(self, target: Target | Targets) -> str:
        """See `targets.explain_task`."""
        if isinstance(target, Targets) or self._values[0].counts is None:
            return ""
        return explain_levels(self._values[0].counted().levels, target)


class Values:
    """The values of one target: the count of each value while they are few; for numbers also the
    mean and standard deviation."""

    def __init__(self, target: Target) -> None:
        """target: the kind of the column; its values are not all known yet."""
        self.target, self.coded = target, False
        self.counts: Counter[Any] | None = Counter()
        self.training: dict[Any, tuple[int, float]] = {}  # number and weight of training rows
        self.moments = Moments(np.array([target.mean]))

    def add(self, values: Any, part: np.ndarray, weights: np.ndarray) -> None:
        """Add values (n,).   part: (n,), indices into `PARTS`, -1: unused.   weights: (n,)."""
        levels, codes, self.coded = distinct_values(values, self.target.name)
        use = (part >= 0) & (codes >= 0)
        if levels.dtype.kind in "iuf":
            numbers = levels.astype(np.float64)
            if (np.abs(numbers) > LARGEST).any():
                row = int(np.argmax(np.abs(np.append(numbers, 0.0)[codes]) > LARGEST))
                raise ValueError(
                    f"target {self.target.name!r} is infinite or too large in row {row:,} after "
                    "that; correct or remove it"
                )
            self.moments.add(0, numbers[codes[use & (part != PARTS.index("test"))]])
        elif len(levels) > MOST_VALUES:
            self._refuse()
        if self.counts is None:
            return
        n = np.bincount(codes[use], minlength=len(levels)).tolist()
        labels = levels.tolist()
        self.counts.update({label: k for label, k in zip(labels, n, strict=True) if k})
        train = use & (part == 0)
        own = np.bincount(codes[train], minlength=len(levels)).tolist()
        mass = np.bincount(codes[train], weights[train], minlength=len(levels)).tolist()
        for label, k, w in zip(labels, own, mass, strict=True):
            before = self.training.get(label, (0, 0.0))
            self.training[label] = before[0] + k, before[1] + w
        if len(self.counts) > MOST_VALUES:
            self.counts, self.training = None, {}
            if levels.dtype.kind not in "iuf":
                self._refuse()

    def _refuse(self) -> None:
        raise ValueError(
            f"target {self.target.name!r} has more than {MOST_VALUES:,} different labels, which "
            "are too many classes; choose another target"
        )

    def counted(self) -> Counted:
        """The counts of the different values, if they are few enough."""
        found = sorted((self.counts or Counter()).items())
        levels = np.array([label for label, _ in found])
        return Counted(levels, np.array([n for _, n in found]), self.coded)

    def decided(self, task: str) -> Target:
        """The target, with the values of all rows."""
        name, form = self.target.name, self.target.form
        if self.counts is not None:
            target = replace(fit_counted(self.counted(), task, name), form=form)
            if target.task == "classification":
                return target
        elif task == "classification":
            self._refuse()
        found = self.moments.scale_of(0, np.zeros(0))
        return storable(Target("regression", name, (), found.center, found.scale or 1.0, form))
