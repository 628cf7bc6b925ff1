"""The second pass over a stream: encodes the rows and writes them to one file in random order.

The training rows are scattered over R regions. Of every R consecutive rows of the table, each
region gets one, chosen at random. So a region is a random sample of the table. It is as large as a
window, the rows that training reads at once.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from nnaccel.files import whole_file, writing
from nnaccel.tabular.streamed.file import Plane, planes_of, told
from nnaccel.tabular.streamed.first_pass import Learnt
from nnaccel.tabular.streamed.sample import SCATTER, Progress, followed, row_keys
from nnaccel.tabular.streamed.sources import Batch, Stream
from nnaccel.tabular.streamed.targets import PARTS, Reader
from nnaccel.tabular.surprises import Surprises
from nnaccel.tabular.tables import quiet

WINDOW = 2**26  # bytes of X in a region, about; training keeps two windows of this size in memory
WORKERS = 2  # threads that encode

A = TypeVar("A")
B = TypeVar("B")


def write_matrix(
    path: Path, stream: Stream, learnt: Learnt, reader: Reader, dtype: str, progress: Progress
) -> None:
    """Encode the rows of a stream and write them to a file. The file is complete or does not exist.

    Raises OSError at the beginning if the disk lacks the space, ValueError for a source that has
    changed and for cells that the encoding cannot read.
    """
    planes = planes_of(learnt, dtype, weighted=reader.has_weights)
    n_train = learnt.n_rows["train"]
    regions = max(1, min(n_train, -(-n_train * planes["X"].row_size // WINDOW)))
    encoder = Encoder(planes, learnt, reader)
    with whole_file(path, max(plane.end for plane in planes.values())) as file:
        scatter = Scatter(file, planes, learnt.n_rows, regions, reader.seed)
        batches = followed(stream, "encoding", progress, sum(learnt.n_rows.values()))
        pieces = (piece for batch in batches for piece in batch.pieces(len(learnt.features.names)))
        surprises = Surprises(many=True)
        with quiet():  # here, for all threads: the warning filters are global to the process
            for encoded in mapped(encoder.encoded, pieces):
                with writing(path):
                    scatter.write(encoded)
                surprises.add(encoded.surprises)
        scatter.check_complete(stream.source)
        stream.check_unchanged()
        with writing(path):
            put(file, told(learnt, planes, regions, scatter.digest.hexdigest()), 0)
    surprises.say()


def mapped(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Map a function over the items in order. Two threads compute a few results in advance."""
    with ThreadPoolExecutor(WORKERS) as pool:
        coming: deque[Future[B]] = deque()
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > WORKERS:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


class Encoded(NamedTuple):
    """Encoded rows to write: their parts (n,) as indices into `PARTS`, their arrays (n, ...) by
    plane, and the surprises: values that the training rows do not contain."""

    part: np.ndarray
    arrays: dict[str, np.ndarray]
    surprises: Surprises


class Encoder:
    """Encodes those rows of batches that have a target."""

    def __init__(self, planes: dict[str, Plane], learnt: Learnt, reader: Reader) -> None:
        self._planes, self._learnt, self._reader = planes, learnt, reader
        used = (*learnt.features.numeric, *learnt.features.categorical)
        self._columns = [*dict.fromkeys(column.name for column in used)]

    def encoded(self, batch: Batch) -> Encoded:
        """The encoded rows of a batch. Raises ValueError, which names the file, for cells that the
        encoding cannot read."""
        part, y, weights = self._reader.rows_of(batch)
        rows, surprises = np.flatnonzero(part >= 0), Surprises(many=True)
        if not len(rows):
            return Encoded(part[rows], {}, surprises)
        features, dtype = self._learnt.features, self._planes["X"].dtype
        table = batch.table.select(self._columns)
        if len(rows) < table.num_rows:
            table = table.take(rows)
        try:
            X = features.transform(table, dtype, surprises)
            Y = self._reader.encoded(y, rows)
        except ValueError as error:
            raise ValueError(f"{batch.where}, rows from {batch.first:,} on: {error}") from None
        part = part[rows]
        arrays = {"X": X, "Y": Y}
        if "weights" in self._planes:
            own = np.ones(len(rows)) if weights is None else weights[rows]
            arrays["weights"] = self._weights_of(own, Y, part)
        kinds = {name: plane.dtype for name, plane in self._planes.items()}
        arrays = {name: a.astype(kinds[name], copy=False) for name, a in arrays.items()}
        return Encoded(part, arrays, surprises)

    def _weights_of(self, own: np.ndarray, Y: np.ndarray, part: np.ndarray) -> np.ndarray:
        """The weights (n,): with class weights and mean 1 for training rows, unchanged for
        others."""
        training = own / self._learnt.mean_weight
        if self._learnt.class_weights:
            training = training * np.array(self._learnt.class_weights)[Y]
        return np.where(part == PARTS.index("train"), training, own)


class Scatter:
    """Writes encoded rows to their positions in an open file.

    digest: of the rows so far, in the order of the table.
    """

    def __init__(
        self, file: Any, planes: dict[str, Plane], n_rows: dict[str, int], regions: int, seed: int
    ) -> None:
        self._file, self._planes, self._total = file, planes, n_rows
        self._regions, self._seed = regions, seed
        self._n: dict[str, int] = dict.fromkeys(PARTS, 0)  # written so far
        self.digest = hashlib.sha256()

    def write(self, rows: Encoded) -> None:
        """Write the next rows of the table."""
        for array in rows.arrays.values():
            self.digest.update(np.ascontiguousarray(array).data)
        for i, name in enumerate(PARTS):
            chosen = np.flatnonzero(rows.part == i)
            if not len(chosen):
                continue
            places = self._places(name, len(chosen))
            order = np.argsort(places, kind="stable")
            for plane, array in rows.arrays.items():
                self._put_rows(self._planes[plane], places[order], array[chosen[order]])

    def _places(self, name: str, n: int) -> np.ndarray:
        """The row numbers in the file (n,) of the next n rows of a part."""
        before, self._n[name] = self._n[name], self._n[name] + n
        total = self._total
        start = sum(total[other] for other in PARTS[: PARTS.index(name)])
        if self._n[name] > total[name]:
            self.check_complete("the source")
        rows = np.arange(before, before + n)
        if name != "train" or self._regions == 1:
            return start + rows
        return scattered(rows, total[name], self._regions, self._seed)

    def check_complete(self, source: str) -> None:
        """Raise ValueError unless all counted rows have been written."""
        if self._n != self._total:
            raise ValueError(
                f"{source} gave other rows in the second pass than in the first; a query must give "
                "the same rows in the same order: add an ORDER BY, or save its result as a file"
            )

    def _put_rows(self, plane: Plane, places: np.ndarray, rows: np.ndarray) -> None:
        """Write rows (n, ...) to ascending row numbers (n,); one write for each consecutive run."""
        cuts = np.flatnonzero(np.diff(places) != 1) + 1
        starts = [0, *cuts.tolist()]
        for a, b in zip(starts, [*starts[1:], len(places)], strict=True):
            put(self._file, rows[a:b], plane.offset + int(places[a]) * plane.row_size)


def scattered(rows: np.ndarray, total: int, regions: int, seed: int) -> np.ndarray:
    """The row numbers (n,) in the file of consecutive training rows.

    rows: (n,), row numbers in the table.   total: of training rows.   Of the rows r * regions, ...,
    (r + 1) * regions - 1 each region gets one, as its row r. The last total % regions rows keep
    their positions at the end.
    """
    each = total // regions
    first, last = int(rows[0]) // regions, int(rows[-1]) // regions
    numbers = np.arange(first * regions, (last + 1) * regions)
    keys = row_keys(numbers, seed, SCATTER).reshape(-1, regions)
    region = np.argsort(keys, axis=1).reshape(-1)[rows - first * regions]
    places = region * each + rows // regions
    return np.where(rows >= each * regions, rows, places)


def put(file: Any, content: np.ndarray, position: int) -> None:
    """Write an array at a position in a file, in bytes."""
    file.seek(position)
    file.write(np.ascontiguousarray(content).reshape(-1).view(np.uint8).data)
