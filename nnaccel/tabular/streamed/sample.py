"""A random sample of the rows of a stream, in table order; all rows of a small table."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nnaccel.files import Unreadable
from nnaccel.tabular.streamed.sources import Batch, Stream
from nnaccel.tabular.tables import import_extra
from nnaccel.training.streaming import made_ahead

ROWS = 100_000  # most rows of a sample
BYTES = 2**28  # most bytes of a sample
SAMPLE, SPLIT, SCATTER = 1, 2, 3  # purposes of random numbers, see `row_keys`

WEYL = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: its multiples modulo 2^64 are far apart
MULTIPLIERS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

# Called with the name of a pass and its finished share, or None if that is unknown.
Progress = Callable[[str, float | None], None]


class Sample(NamedTuple):
    """Rows of a table and their row numbers.

    n_rows: of the whole table.
    """

    table: Any
    numbers: np.ndarray
    n_rows: int

    @property
    def whole(self) -> bool:
        """Whether these are all rows."""
        return len(self.numbers) == self.n_rows

    def __str__(self) -> str:
        return f"a sample of {len(self.numbers):,} of {self.n_rows:,} rows"


def row_keys(numbers: np.ndarray, seed: int, purpose: int) -> np.ndarray:
    """A random number below 2^64 for each row number (n,), the same for the same seed and purpose.

    Source: the mixing of Steele, Lea, Flood (2014), "Fast splittable pseudorandom number
    generators", section 4 (SplitMix64).
    """
    base = np.uint64((seed * WEYL + purpose * MULTIPLIERS[1]) % 2**64)
    with np.errstate(over="ignore"):
        z = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(WEYL)
        return _mixed(_mixed(base + z) ^ base)


def _mixed(z: np.ndarray) -> np.ndarray:
    first, second = map(np.uint64, MULTIPLIERS)
    z = (z ^ (z >> np.uint64(30))) * first
    z = (z ^ (z >> np.uint64(27))) * second
    return z ^ (z >> np.uint64(31))


def shares_of(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A random number from 0 to 1 for each row number (n,), which assigns the row to a part."""
    return row_keys(numbers, seed, SPLIT) / 2.0**64


def followed(stream: Stream, what: str, progress: Progress, total: int | None) -> Iterator[Batch]:
    """Yield the batches of a pass and report its progress. A thread reads each batch while the
    previous one is in use.   total: the number of rows, if known."""
    for batch in made_ahead(stream.batches()):
        yield batch
        n = batch.number + batch.table.num_rows
        progress(what, n / total if total else batch.done)


def take_sample(batches: Iterable[Batch], seed: int, source: str) -> Sample:
    """The rows with the smallest random numbers, as many as `ROWS` and `BYTES` allow.   Raises
    Unreadable if the source has no rows."""
    pa = import_extra("pyarrow")
    pool = Pool(ROWS)
    for batch in batches:
        if not pool.n_rows:
            each = max(1, batch.table.nbytes // batch.table.num_rows)
            pool.size = max(1, min(ROWS, BYTES // each))
        pool.add(batch, row_keys(batch.numbers, seed, SAMPLE))
    if not pool.n_rows:
        raise Unreadable(f"{source} has no rows")
    pool.shrink()
    table = pa.concat_tables(pool.tables).combine_chunks()
    return Sample(table, np.concatenate(pool.numbers), pool.n_rows)


class Pool:
    """The rows with the smallest keys so far, in the order in which they were added."""

    def __init__(self, size: int) -> None:
        self.size, self.n_rows, self._limit = size, 0, None
        self.tables: list[Any] = []
        self.numbers: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []

    def add(self, batch: Batch, keys: np.ndarray) -> None:
        """Consider the rows of a batch.   keys: (n,)."""
        n = len(keys)
        self.n_rows += n
        chosen = np.arange(n) if self._limit is None else np.flatnonzero(keys < self._limit)
        self._append(batch.table, batch.numbers, keys, chosen)
        if sum(map(len, self._keys)) > 2 * self.size:
            self.shrink()

    def _append(self, table: Any, numbers: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> None:
        if not len(rows):
            return
        self.tables.append(table if len(rows) == len(keys) else table.take(rows))
        self.numbers.append(numbers[rows])
        self._keys.append(keys[rows])

    def shrink(self) -> None:
        """Keep only the `size` rows with the smallest keys."""
        keys = np.concatenate(self._keys)
        if len(keys) <= self.size:
            return
        self._limit = np.partition(keys, self.size)[self.size]
        for _ in range(len(self.tables)):  # one at a time, to avoid a second copy of all
            table, numbers, keys = (kept.pop(0) for kept in (self.tables, self.numbers, self._keys))
            self._append(table, numbers, keys, np.flatnonzero(keys < self._limit))
