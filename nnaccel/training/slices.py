"""Minibatches divided among devices: each device gets its slice of every minibatch.

Each of R devices has ceil(B / R) consecutive places in a minibatch of B rows; the last devices have
fewer or none. A device needs only the rows at its places, so a process reads only the rows of its
own devices.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from nnaccel.devices.device import Device
from nnaccel.maths.minibatch import bounds
from nnaccel.training.data import Data, HostData
from nnaccel.training.streaming import gather, made_ahead
from nnaccel.typing import Array


class Minibatches(Protocol):
    """Several minibatches of equal size B, with rows on the host or on the disk."""

    @property
    def shape(self) -> tuple[int, int]:
        """(steps, B)."""
        ...

    def rows(self, start: int, stop: int) -> HostData:
        """The rows at the places start:stop of all minibatches."""
        ...

    def index(self, start: int, stop: int) -> np.ndarray:
        """Indices (steps, stop - start) into these rows, for each minibatch."""
        ...


class HostBatches(NamedTuple):
    """Minibatches of rows on the host, given by their row numbers (steps, B)."""

    data: HostData
    order: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(steps, B)."""
        steps, B = self.order.shape
        return steps, B

    def rows(self, start: int, stop: int) -> HostData:
        """The rows at the places start:stop, one minibatch after another."""
        rows, (X, Y, weights) = self.order[:, start:stop].reshape(-1), self.data
        own = None if weights is None else gather(weights, rows)
        return HostData(gather(X, rows), gather(Y, rows), own)

    def index(self, start: int, stop: int) -> np.ndarray:
        """Indices (steps, stop - start) into these rows."""
        steps, width = len(self.order), stop - start
        return np.arange(steps * width).reshape(steps, width)


def host_batches(
    data: HostData, order: np.ndarray, batch_size: int, rows: int
) -> Iterator[HostBatches]:
    """The minibatches of an epoch, in groups of about `rows` rows; a short one is a group alone.

    order: (N,), the row numbers in the order of the epoch.
    """
    whole = len(order) - len(order) % batch_size
    for start, stop in bounds(whole, rows):
        yield HostBatches(data, order[start:stop].reshape(-1, batch_size))
    if whole < len(order):
        yield HostBatches(data, order[whole:][None])


class Slices(NamedTuple):
    """The rows of several minibatches for the devices of this process, on the host.

    rows: by device number.   n_rows: the capacity of a device.   index: (steps B,), for each place
    of the minibatches an index into the rows of its device.
    """

    rows: dict[int, HostData]
    n_rows: int
    index: np.ndarray


def slices_of(batches: Minibatches, n_devices: int, own: Sequence[int]) -> Slices:
    """The slices of several minibatches.   own: the numbers of the devices of this process."""
    steps, B = batches.shape
    each = -(-B // n_devices)
    places = [*pairwise(min(d * each, B) for d in range(n_devices + 1))]
    index = np.concatenate([batches.index(*part) for part in places], axis=1)
    # A device without places gets a row too, so that its array has the common shape.
    rows = {d: batches.rows(*places[d] if d * each < B else (0, 1)) for d in own}
    return Slices(rows, steps * each, index.reshape(-1))


def _in_slices(slices: Slices, where: Device) -> Data:
    """The rows on R devices, X (R, n, D), Y and weights likewise; slice r is on device r."""
    each = slices.rows

    def put(i: int) -> Array:
        return where.in_slices({d: _filled(own[i], slices.n_rows) for d, own in each.items()})

    weighted = all(own.weights is not None for own in each.values())
    return Data(put(0), put(1), put(2) if weighted else None)


def _filled(rows: Any, n: int) -> np.ndarray:
    """The rows, padded to n rows with copies of the first row, or cut to n rows."""
    if len(rows) == n:
        return rows
    return np.concatenate([rows[:n], np.repeat(rows[:1], max(n - len(rows), 0), axis=0)])


def each_on_device(
    batches: Iterator[Minibatches], where: Device, *, sliced: bool
) -> Iterator[tuple[Data, Array]]:
    """Groups of minibatches as data sets on the device, each with the order of its rows. A thread
    reads the next group while this one is in use.   sliced: whether each of several devices gets
    only its slices (see `Definition.takes_slices`), not all rows."""
    n, own = (where.n_slices, where.own_slices) if sliced else (1, [0])
    for slices in made_ahead(slices_of(some, n, own) for some in batches):
        if sliced:
            data = _in_slices(slices, where)
        else:
            data = Data(*(None if x is None else where.asarray(x) for x in slices.rows[0]))
        yield data, where.asarray(slices.index)
        del slices, data  # free the memory before the thread reads another group
