"""Rows that stay on the disk: a thread reads one window of rows while the steps use the one before.

The rows of a file must have been scattered when they were written (`tabular.streamed_matrix`): its
R regions are random samples of the table, each in the order of the table. That order is divided
into stretches, and a window takes the block of one region from every stretch. The choice of regions
differs in each epoch, so a window is a random sample too. Within it the rows are permuted. A window
is as large as a region. The file is read explicitly and not mapped: a damaged disk then raises an
error instead of ending the process.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network
from nnaccel.training.array_checks import check_width
from nnaccel.training.data import Data
from nnaccel.training.step import generator
from nnaccel.training.streaming import ahead
from nnaccel.training.targets import put_targets

BLOCKS = 64  # blocks in a region: a window has one block of each stretch


class DiskArray:
    """An array in a file. Indexing with a slice of rows reads them. One thread at a time may read.

    shape: (N, ...).   dtype: NumPy's.   regions: the number of regions over which its rows were
    scattered.
    """

    def __init__(
        self, path: str, offset: int, shape: tuple[int, ...], dtype: Any, regions: int = 1
    ) -> None:
        """offset: of the first number, in bytes.   Raises OSError if the file cannot be read."""
        self.path, self.offset, self.shape = path, offset, shape
        self.dtype, self.regions = np.dtype(dtype), regions
        self.ndim = len(shape)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 -- closed with the array

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The rows start:stop, a new array."""
        start, stop, _ = rows.indices(len(self))
        out = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        self.read_into(out, start)
        return out

    def part(self, start: int, stop: int) -> "DiskArray":
        """The rows start:stop as an array on the disk."""
        offset = self.offset + start * self.row_bytes
        return DiskArray(self.path, offset, (stop - start, *self.shape[1:]), self.dtype)

    def read_into(self, out: np.ndarray, start: int) -> None:
        """Fill `out` (n, ...), contiguous, with the rows from `start` on.

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


class DiskData(NamedTuple):
    """Examples on the disk: X (N, D), Y (N,) or (N, K), and weights (N,) of mean 1 or None."""

    X: DiskArray
    Y: DiskArray
    weights: DiskArray | None = None


def put_on_disk(network: Network, X: DiskArray, Y: Any, weights: Any) -> DiskData:
    """Examples on the disk, checked against a network.

    The writer of the file has checked that X is finite; Y is checked in each window. Raises
    ValueError for another width, TypeError if only some of the arrays are on the disk.
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
    """The order in which an epoch visits rows on the disk; it depends on (seed, epoch) alone."""

    N: int
    regions: int
    seed: int
    shuffle: bool
    epoch: int

    def windows(self) -> Iterator[tuple[list[tuple[int, int]], Any]]:
        """Yields the blocks (start, stop) of each window, and the generator that permutes its rows,
        or None if they stay in order."""
        each, rest = divmod(self.N, self.regions)
        tail = [(self.N - rest, self.N)] * (rest > 0)
        if not self.shuffle:
            for r in range(self.regions):
                last = r == self.regions - 1
                yield [(r * each, (r + 1) * each), *(tail if last else ())], None
            return
        rng = generator(self.seed, self.epoch)
        cuts = np.linspace(0, each, min(BLOCKS, each) + 1).astype(np.int64).tolist()
        chosen = [rng.permutation(self.regions).tolist() for _ in cuts[1:]]
        for w in range(self.regions):
            starts = [regions[w] * each for regions in chosen]
            spans = zip(starts, cuts[:-1], cuts[1:], strict=True)
            blocks = [(start + a, start + b) for start, a, b in spans]
            yield [*blocks, *(tail if w == self.regions - 1 else ())], rng


class Window(NamedTuple):
    """Rows in memory, and the order (n,) in which they are visited: whole batches."""

    X: np.ndarray
    Y: np.ndarray
    weights: np.ndarray | None
    order: np.ndarray


def windows_of(data: DiskData, order: Order, batch_size: int) -> Iterator[Window]:
    """Yields the windows of an epoch. A thread reads each while the one before is in use.

    Rows that do not fill a minibatch go to the next window. The last window has the shorter
    minibatch.
    """
    with ThreadPoolExecutor(1) as reader:
        spans = order.windows()
        read = (reader.submit(_read, data, blocks, rng, batch_size) for blocks, rng in spans)
        left: Window | None = None
        for i, future in enumerate(ahead(read)):
            window = future.result()
            left_before, left = left, None
            window, left = _whole_batches(window, left_before, batch_size, i + 1 < order.regions)
            if len(window.order):
                yield window


def _read(data: DiskData, blocks: list[tuple[int, int]], rng: Any, spare: int) -> Window:
    """The rows of the blocks, after space for `spare` other rows."""
    n = sum(stop - start for start, stop in blocks)

    def filled(array: DiskArray | None) -> Any:
        if array is None:
            return None
        out, at = np.empty((spare + n, *array.shape[1:]), array.dtype), spare
        for start, stop in blocks:
            array.read_into(out[at : at + stop - start], start)
            at += stop - start
        out[:spare] = out[spare]  # a valid row as a placeholder
        return out

    order = np.arange(n) if rng is None else rng.permutation(n)
    return Window(filled(data.X), filled(data.Y), filled(data.weights), order + spare)


def _whole_batches(
    window: Window, left: Window | None, batch_size: int, more: bool
) -> tuple[Window, Window | None]:
    """The window, which begins with the rows left over from the one before, and the rows that do
    not fill a minibatch.   more: whether another window follows."""
    order = window.order
    if left is not None:
        n = len(left.X)
        for ours, theirs in zip(window[:3], left[:3], strict=True):
            if ours is not None:
                ours[:n] = theirs
        order = np.concatenate([np.arange(n), order])
    whole = len(order) - len(order) % batch_size if more else len(order)
    rest = order[whole:]
    X, Y, weights, _ = window
    kept = Window(X[rest], Y[rest], None if weights is None else weights[rest], rest)
    return window._replace(order=order[:whole]), kept if len(rest) else None


def on_device(window: Window, network: Network, loss: Loss, where: Device, dtype: str) -> Data:
    """The rows of a window on a device, as `train` takes them."""
    Y = where.in_rows(put_targets(network, loss, where, dtype, window.Y))
    weights = None if window.weights is None else where.asarray(window.weights, dtype)
    return Data(where.asarray(window.X, dtype), Y, weights)
