"""Streaming: data on the host reach the device a chunk at a time.

    chunks = stream(data, where, rows)
    for chunk in chunks(order):       # the rows order[:rows], then order[rows : 2 * rows], ...
        ...                           # launch everything that reads the chunk before the next one

A chunk is a small data set on the device, so an epoch runs on it as on resident data.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, cycle, pairwise
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np

from nnaccel.devices.copies import Copies, copies_to
from nnaccel.devices.device import Device
from nnaccel.maths.minibatch import bounds, is_sparse
from nnaccel.training.data import Data, HostData, nbytes

EVALUATION_ROWS = 8192  # examples in a chunk of an evaluation
ELEMENTS = 2**22  # of X in a chunk, and in a dense block of a sparse matrix

Chunks = Callable[..., Iterator[Data]]
Rows = slice | np.ndarray
T = TypeVar("T")


def stream(data: HostData, where: Device, rows: int) -> Chunks:
    """The function (order) -> chunks of `rows` rows on the device; the last one may be shorter.

    order: (N,) on the host; None: the order of the rows. A chunk is valid until the next one is
    requested. On CUDA devices three chunks are in flight at a time: see `Pipeline`.
    """
    if not is_sparse(data.X) or isinstance(data.X.indptr, np.ndarray):
        copies = copies_to(where)
        if copies is not None:
            return Pipeline(data, min(rows, data.X.shape[0]), copies)
    return partial(_one_by_one, data, where, rows)


def in_order(data: Data | HostData, where: Device) -> Chunks:
    """The function () -> the examples in their order, in blocks that bound the memory."""
    rows = evaluation_rows(data.X)
    if isinstance(data, HostData):
        return stream(data, where, rows)
    *networks, N, _ = data.X.shape  # a leading axis of K networks, if any
    rows = max(1, rows // prod(networks))

    def slices() -> Iterator[Data]:
        for start, stop in bounds(N, rows):
            part = (*(slice(None) for _ in networks), slice(start, stop), ...)
            yield Data(*(None if x is None else x[part] for x in data))

    return slices


def training_rows(data: HostData, batch_size: int) -> int:
    """The rows of a chunk to train on: whole batches, at least one."""
    return batch_size * max(1, ELEMENTS // data.X.shape[1] // batch_size)


def bytes_on_device(data: Data | HostData, batch_size: int, dtype: str) -> int:
    """The bytes that the examples take on a device while it trains on them."""
    if isinstance(data, Data):
        return sum(nbytes(x, dtype) for x in data if x is not None)
    rows = min(training_rows(data, batch_size), data.X.shape[0])
    return 3 * rows * data.X.shape[1] * data.X.dtype.itemsize


def evaluation_rows(X: Any) -> int:
    """The number of rows to evaluate at once."""
    return min(EVALUATION_ROWS, max(1, ELEMENTS // X.shape[1]) if is_sparse(X) else EVALUATION_ROWS)


def _one_by_one(
    data: HostData, where: Device, rows: int, order: np.ndarray | None = None
) -> Iterator[Data]:
    """Gathers chunks one by one and leaves the copy to the library."""
    for part in _parts(data, rows, order):
        yield Data(*(None if x is None else where.asarray(gather(x, part)) for x in data))


def _parts(data: HostData, rows: int, order: np.ndarray | None) -> Iterator[Rows]:
    """The numbers of the rows of each chunk, as a slice if they are consecutive."""
    for start, stop in bounds(data.X.shape[0], rows):
        yield slice(start, stop) if order is None else order[start:stop]


def gather(x: Any, rows: Rows, out: Any = None) -> Any:
    """Rows of an array or of a CSR matrix, dense, in `out` if it is given."""
    if is_sparse(x):
        return x[rows].toarray(out=out)
    if isinstance(rows, slice):
        return x[rows] if out is None else np.copyto(out, x[rows])
    return np.take(x, rows, axis=0, out=out, mode="clip")  # the default mode would copy `out`


class Slot(NamedTuple):
    """A buffer for a chunk on the host and one on the device, with the events that free them."""

    host: tuple[Any, ...]
    device: tuple[Any, ...]
    copied: Any  # event: `host` is copied to `device` and may be overwritten
    used: Any  # event: the steps have read `device`, which may be overwritten


class Pipeline:
    """Three chunks in flight: steps read one, one is being copied, and one is being gathered.

    A thread gathers rows into pinned memory, from where they are copied on a separate stream.
    Events order copies and steps on the device; the host waits for copies alone.
    """

    def __init__(self, data: HostData, rows: int, copies: Copies) -> None:
        def place(empty: Callable[..., Any]) -> tuple[Any, ...]:
            return tuple(
                None if x is None else empty((rows, *x.shape[1:]), x.dtype.newbyteorder("="))
                for x in data
            )

        self._data, self._rows, self._copies = data, rows, copies
        self._slots = [
            Slot(place(copies.pinned), place(copies.empty), copies.event(), copies.event())
            for _ in range(3)
        ]

    def __call__(self, order: np.ndarray | None = None) -> Iterator[Data]:
        from concurrent.futures import ThreadPoolExecutor  # takes 8 ms to load

        steps = self._copies.current()
        for slot in self._slots:  # earlier steps may still read the memory of a new buffer
            slot.used.record(steps)
        parts = _parts(self._data, self._rows, order)
        with ThreadPoolExecutor(1) as reader:
            gathered = (
                reader.submit(self._fill, slot, part)
                for slot, part in zip(cycle(self._slots), parts, strict=False)
            )
            sent = (self._send(*filled.result()) for filled in ahead(gathered))
            try:
                for slot, chunk in ahead(sent):
                    steps.wait_event(slot.copied)
                    try:
                        yield chunk
                    finally:
                        slot.used.record(steps)
            finally:
                # No copy may be running when the buffers are freed or filled again.
                self._copies.stream.synchronize()

    def _fill(self, slot: Slot, part: Rows) -> tuple[Slot, int]:
        """Gathers a part into a slot. It runs on the reader's thread, whose current stream is not
        that of the steps, so it launches nothing."""
        slot.copied.synchronize()
        N = part.stop - part.start if isinstance(part, slice) else len(part)
        for x, host in zip(self._data, slot.host, strict=True):
            if x is not None:
                gather(x, part, host[:N])
        return slot, N

    def _send(self, slot: Slot, N: int) -> tuple[Slot, Data]:
        self._copies.stream.wait_event(slot.used)
        chunk = Data(*(None if x is None else x[:N] for x in slot.device))
        for host, device in zip(slot.host, chunk, strict=True):
            if host is not None:
                self._copies.copy(host[:N], device)
        slot.copied.record(self._copies.stream)
        return slot, chunk


def made_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields the items, each of which a thread makes while the one before is in use."""
    from concurrent.futures import ThreadPoolExecutor  # takes 8 ms to load

    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item
            item = None  # which may be large: the next but one is to take its memory


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yields the items, each one after the next one has been computed."""
    return (item for item, _ in pairwise(chain(items, [None])))  # pyright: ignore
