"""Rows that stay on the disk: a thread reads a window of rows while training uses the previous one.

The rows of a file must be scattered, as by `tabular.streamed.second_pass`: its R regions are random
samples of the table, each in table order. Every region is divided into blocks, block i of each
region being from the same stretch of the table. A window has one block from each stretch, of a
randomly chosen region that differs in each epoch. So a window is a random sample too, as large as a
region.

A window of batches of B rows is divided into B lanes of consecutive rows. A minibatch takes one row
of each lane, and each lane has a separate random order. So a minibatch has rows from all stretches
of the table. If devices divide the minibatches, each needs only some adjacent lanes.

The file is read explicitly and not mapped: a damaged disk then raises an error instead of ending
the process.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import select
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network
from nnaccel.training.array_checks import check_width
from nnaccel.training.data import HostData
from nnaccel.training.step import generator
from nnaccel.training.targets import put_targets

BLOCKS = 64  # blocks in a region

Spans = list[tuple[int, int]]  # ranges start:stop of rows in a file, in order


class DiskArray:
    """An array in a file. Indexing with a slice of rows reads them. Only one thread at a time may
    read.

    shape: (N, ...).   dtype: NumPy's.   regions: the number of regions over which its rows are
    scattered.
    """

    def __init__(
        self, path: str, offset: int, shape: tuple[int, ...], dtype: Any, regions: int = 1
    ) -> None:
        """offset: of the first element, in bytes.   Raises OSError if the file cannot be read."""
        self.path, self.offset, self.shape = path, offset, shape
        self.dtype, self.regions = np.dtype(dtype), regions
        self.ndim = len(shape)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 -- closed with the array

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """The size of a row in bytes."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The rows start:stop as a new array in memory."""
        start, stop, _ = rows.indices(len(self))
        out = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        self.read_into(out, start)
        return out

    def part(self, start: int, stop: int) -> "DiskArray":
        """The rows start:stop as an array on the disk."""
        offset = self.offset + start * self.row_bytes
        return DiskArray(self.path, offset, (stop - start, *self.shape[1:]), self.dtype)

    def read_into(self, out: np.ndarray, start: int) -> None:
        """Fill `out` (n, ...), contiguous, with the n rows from row `start`.

        Raises OSError if the file ends too early, or cannot be read.
        """
        rest = out.reshape(-1).view(np.uint8).data
        self._file.seek(self.offset + start * self.row_bytes)
        while rest:
            n = self._file.readinto(rest)
            if not n:
                raise OSError(f"{self.path} is shorter than it was; remove it and start again")
            rest = rest[n:]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def read_rows(array: DiskArray, rows: np.ndarray) -> np.ndarray:
    """Rows of an array on the disk.   rows: (n,), row numbers; each row is one read."""
    return np.concatenate([array[i : i + 1] for i in rows.tolist()])


class DiskData(NamedTuple):
    """Examples on the disk: X (N, D), Y (N,) or (N, K), and weights (N,) of mean 1 or None."""

    X: DiskArray
    Y: DiskArray
    weights: DiskArray | None = None


def put_on_disk(network: Network, X: DiskArray, Y: Any, weights: Any) -> DiskData:
    """Examples on the disk, checked against a network.

    The writer of the file has checked that X is finite; Y is checked in each window. Raises
    ValueError for a wrong width, TypeError if only some of the arrays are on the disk.
    """
    for name, array in (("Y", Y), ("sample_weight", weights)):
        if not isinstance(array, DiskArray) and not (name != "Y" and array is None):
            raise TypeError(f"{name} must be a DiskArray where X is one, got {type(array)}")
        if array is not None and len(array) != len(X):
            raise ValueError(f"{name} must have as many rows as X, got {len(array)} for {len(X)}")
    check_width(network, X)
    if not len(X):
        raise ValueError("X has no rows; at least one example is needed")
    return DiskData(X, Y, weights)


def window_rows(data: DiskData) -> int:
    """The largest number of rows in a window."""
    N, regions = len(data.X), data.X.regions
    return N // regions + N % regions


class Order(NamedTuple):
    """The order in which an epoch visits rows on the disk. It depends only on (seed, epoch) and the
    size of minibatches."""

    N: int
    regions: int
    seed: int
    shuffle: bool
    epoch: int

    def windows(self, batch_size: int) -> Iterator["Window"]:
        """The windows of an epoch, of complete minibatches. Remaining rows move to the next window;
        rows that remain at the end are a last window with one short minibatch."""
        rng = generator(self.seed, self.epoch) if self.shuffle else None
        left: Spans = []
        for blocks in self._blocks(rng):
            spans = [*left, *blocks]
            n = length_of(spans)
            if rng is not None:  # so that the remaining rows are not always the last ones
                first = int(rng.integers(n))
                spans = between(spans, first, n) + between(spans, 0, first)
            whole = n - n % batch_size
            if whole:
                yield window_of(between(spans, 0, whole), batch_size, rng)
            left = between(spans, whole, n)
        if left:
            yield window_of(left, length_of(left), rng)

    def _blocks(self, rng: Any) -> Iterator[Spans]:
        """The rows of each window: a region; if shuffled, one block from each stretch."""
        each, rest = divmod(self.N, self.regions)
        n_blocks = 1 if rng is None else min(BLOCKS, each)
        cuts = np.linspace(0, each, n_blocks + 1).astype(np.int64).tolist()
        order = range(self.regions)
        chosen = [order if rng is None else rng.permutation(order).tolist() for _ in cuts[1:]]
        for w in order:
            starts = [regions[w] * each for regions in chosen]
            blocks = zip(starts, cuts[:-1], cuts[1:], strict=True)
            tail = [(self.N - rest, self.N)] if rest and w == self.regions - 1 else []
            yield [(start + a, start + b) for start, a, b in blocks] + tail


class Window(NamedTuple):
    """Minibatches of rows on the disk.

    spans: the rows.   order: (steps, B), the rows of each minibatch, as indices into these rows.
    lanes: whether each place in the minibatches has consecutive rows; else each minibatch has
    consecutive rows.
    """

    spans: Spans
    order: np.ndarray
    lanes: bool

    def index(self, start: int, stop: int) -> np.ndarray:
        """The rows at the places start:stop of the minibatches: indices (steps, stop - start) into
        the rows of `spans_of`(start, stop)."""
        steps = len(self.order)
        if self.lanes:
            return self.order[:, start:stop] - start * steps
        return np.arange(steps * (stop - start)).reshape(steps, stop - start)

    def spans_of(self, start: int, stop: int) -> Spans:
        """The rows at the places start:stop of all minibatches."""
        steps, B = self.order.shape
        if self.lanes:
            return between(self.spans, start * steps, stop * steps)
        parts = (between(self.spans, t * B + start, t * B + stop) for t in range(steps))
        return [span for spans in parts for span in spans]


def window_of(spans: Spans, batch_size: int, rng: Any) -> Window:
    """A window of complete minibatches.   rng: for the order of the lanes; None: file order."""
    n = length_of(spans)
    steps = n // batch_size
    if rng is None:
        return Window(spans, np.arange(n).reshape(steps, batch_size), False)
    lanes = np.arange(n).reshape(batch_size, steps)
    return Window(spans, rng.permuted(lanes, axis=1, out=lanes).T, True)


def length_of(spans: Spans) -> int:
    """The number of rows."""
    return sum(stop - start for start, stop in spans)


def between(spans: Spans, start: int, stop: int) -> Spans:
    """The rows start:stop of `spans`, counted within these."""
    found, before = [], 0
    for first, last in spans:
        a, b = max(first, first + start - before), min(last, first + stop - before)
        if a < b:
            found.append((a, b))
        before += last - first
    return found


class DiskBatches(NamedTuple):
    """The minibatches of a window, as `Minibatches`; `rows` reads the rows from the disk."""

    data: DiskData
    window: Window
    network: Network
    loss: Loss
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """(steps, B)."""
        steps, B = self.window.order.shape
        return steps, B

    def index(self, start: int, stop: int) -> np.ndarray:
        """See `Window.index`."""
        return self.window.index(start, stop)

    def rows(self, start: int, stop: int) -> HostData:
        """The rows at the places start:stop of all minibatches, in the form of `put`.

        Raises OSError if they cannot be read, ValueError for targets that the loss cannot take.
        """
        spans, (X, Y, weights) = self.window.spans_of(start, stop), self.data
        return HostData(
            _read(X, spans).astype(self.dtype, copy=False),
            put_targets(self.network, self.loss, select("cpu"), self.dtype, _read(Y, spans)),
            None if weights is None else _read(weights, spans).astype(self.dtype, copy=False),
        )


def _read(array: DiskArray, spans: Spans) -> np.ndarray:
    out, at = np.empty((length_of(spans), *array.shape[1:]), array.dtype), 0
    for start, stop in spans:
        array.read_into(out[at : at + stop - start], start)
        at += stop - start
    return out
