"""The second pass over a stream: its rows encoded, in random order, in one file.

The file begins with a header in JSON, which says what is in it and where; then come X (N, D), Y
(N,) or (N, K), and the weights (N,), of the rows that train, those that validate and those that
test, one after the other. The training rows are scattered over R regions: of every R that follow
each other in the table each region gets one, chosen at random, so that a region is a random sample
of the table, and as large as what training holds in memory.
"""

import hashlib
import json
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnaccel import schema
from nnaccel.files import FULL, whole_file
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.members import Edges
from nnaccel.tabular.several_targets import Targets, target_of
from nnaccel.tabular.streamed_sample import SCATTER, Progress, followed, row_keys
from nnaccel.tabular.streamed_sources import Batch, Stream
from nnaccel.tabular.streamed_survey import Learnt
from nnaccel.tabular.streamed_tally import PARTS, Reader, Shares
from nnaccel.tabular.surprises import Surprises
from nnaccel.tabular.tables import quiet
from nnaccel.tabular.targets import Target
from nnaccel.training.on_disk import DiskArray

MAGIC = b"nnaccel rows 1\n"
PAGE = 4096
WINDOW = 2**26  # bytes of X in a region, about: what training holds in memory, twice


class Plane(NamedTuple):
    """An array in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


class Matrix(NamedTuple):
    """What a file of rows holds.   X, Y, weights: of all rows.   digest: SHA-256 of the rows, in
    the order of the table."""

    path: Path
    learnt: Learnt
    X: DiskArray
    Y: DiskArray
    weights: DiskArray | None
    digest: str

    def part(self, name: str) -> tuple[DiskArray, DiskArray, DiskArray | None]:
        """X, Y and weights of the rows of a part."""
        n = self.learnt.n_rows
        start = sum(n[before] for before in PARTS[: PARTS.index(name)])
        arrays = (self.X, self.Y, self.weights)
        found = [a and a.part(start, start + n[name]) for a in arrays]
        if name == "train":
            for array in found:
                if array is not None:
                    array.regions = self.X.regions
        X, Y, weights = found
        assert X is not None
        assert Y is not None
        return X, Y, weights


def write_matrix(
    path: Path, stream: Stream, learnt: Learnt, reader: Reader, dtype: str, progress: Progress
) -> None:
    """Encode the rows of a stream, and write them to a file that is whole or not there.

    OSError where there is no room, found before; ValueError for a source that is not what it was,
    and for cells that the encoding cannot read.
    """
    planes = _planes(learnt, reader, dtype)
    regions = max(1, min(planes["X"].shape[0], _regions(learnt, planes["X"])))
    size = max(plane.offset + _size(plane) for plane in planes.values())
    rows = Rows(planes, learnt, regions, reader)
    with whole_file(path, size) as file:
        for batch in followed(stream, "encoding", progress, sum(learnt.n_rows.values())):
            for piece in batch.pieces(len(learnt.features.names)):
                rows.write(file, piece)
        rows.check_complete(stream.source)
        stream.check_unchanged()
        _put(file, _told(learnt, planes, regions, rows.digest.hexdigest()), 0)


def _regions(learnt: Learnt, X: Plane) -> int:
    return -(-learnt.n_rows["train"] * _row_size(X) // WINDOW)


def _planes(learnt: Learnt, reader: Reader, dtype: str) -> dict[str, Plane]:
    """Where the arrays are in the file."""
    N, D = sum(learnt.n_rows.values()), len(learnt.features.names)
    target = learnt.target
    is_classes = target.task == "classification"
    y = (N,) if isinstance(target, Target) else (N, len(target.columns))
    wanted = [("X", (N, D), dtype), ("Y", y, "int32" if is_classes else dtype)]
    if reader.has_weights or learnt.class_weights:
        wanted.append(("weights", (N,), dtype))
    empty = {name: Plane(2**62, shape, kind) for name, shape, kind in wanted}
    offset = _whole_pages(len(_told(learnt, empty, 2**62, "0" * 64)))
    planes = {}
    for name, shape, kind in wanted:
        planes[name] = Plane(offset, shape, kind)
        offset = _whole_pages(offset + _size(planes[name]))
    return planes


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _row_size(plane: Plane) -> int:
    return prod(plane.shape[1:]) * np.dtype(plane.dtype).itemsize


def _size(plane: Plane) -> int:
    return plane.shape[0] * _row_size(plane)


class Rows:
    """Writes batches to their places in a file."""

    def __init__(
        self, planes: dict[str, Plane], learnt: Learnt, regions: int, reader: Reader
    ) -> None:
        self._planes, self._learnt, self._reader = planes, learnt, reader
        self._regions = regions
        self._n: dict[str, int] = dict.fromkeys(PARTS, 0)  # written so far
        names = (*learnt.features.numeric, *learnt.features.categorical)
        self._columns = [*dict.fromkeys(column.name for column in names)]
        self.digest = hashlib.sha256()

    def write(self, file: Any, batch: Batch) -> None:
        """Encode a batch and write its rows."""
        part, y, weights = self._reader.rows_of(batch)
        rows = np.flatnonzero(part >= 0)
        try:
            arrays = self._encoded(batch, rows, y, weights, part)
        except ValueError as error:
            raise ValueError(f"{batch.where}, rows from {batch.first:,} on: {error}") from None
        for array in arrays.values():
            self.digest.update(np.ascontiguousarray(array).data)
        for i, name in enumerate(PARTS):
            chosen = np.flatnonzero(part[rows] == i)
            if not len(chosen):
                continue
            places = self._places(name, len(chosen))
            if len(chosen) < len(rows) or name == "train":
                order = np.argsort(places)
                places, chosen = places[order], chosen[order]
            for plane, array in arrays.items():
                self._scatter(file, self._planes[plane], places, array[chosen])

    def _encoded(
        self,
        batch: Batch,
        rows: np.ndarray,
        y: dict[str, Any],
        weights: np.ndarray | None,
        part: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """The rows with those places in the batch as the planes have them."""
        learnt, planes = self._learnt, self._planes
        table = batch.table.select(self._columns)
        table = table if len(rows) == table.num_rows else table.take(rows)
        with quiet():
            X = learnt.features.transform(table, planes["X"].dtype, Surprises(many=True))
            Y = self._reader.encoded(y, rows)
        found = {"X": X, "Y": Y.astype(planes["Y"].dtype)}
        if "weights" in planes:
            own = np.ones(len(rows)) if weights is None else weights[rows]
            training = part[rows] == 0
            if learnt.class_weights:
                table_of = np.array(learnt.class_weights)
                own = np.where(training, own * table_of[Y], own)
            own = np.where(training, own / learnt.mean_weight, own)
            found["weights"] = own.astype(planes["weights"].dtype)
        return found

    def _places(self, name: str, n: int) -> np.ndarray:
        """Where the next n rows of a part go, as numbers of rows in the file."""
        before, self._n[name] = self._n[name], self._n[name] + n
        total = self._learnt.n_rows
        start = sum(total[other] for other in PARTS[: PARTS.index(name)])
        if self._n[name] > total[name]:
            self.check_complete("the source")
        rows = np.arange(before, before + n)
        if name != "train" or self._regions == 1:
            return start + rows
        return scattered(rows, total[name], self._regions, self._reader.seed)

    def check_complete(self, source: str) -> None:
        """ValueError unless all rows that were counted have been written."""
        if self._n != self._learnt.n_rows:
            raise ValueError(
                f"{source} gave other rows in the second pass than in the first; a query must give "
                "the same rows in the same order: add an ORDER BY, or save its result as a file"
            )

    def _scatter(self, file: Any, plane: Plane, places: np.ndarray, rows: np.ndarray) -> None:
        """Write rows (n, ...) to ascending places: those that follow each other at once."""
        size = _row_size(plane)
        cuts = np.flatnonzero(np.diff(places) != 1) + 1
        starts = [0, *cuts.tolist()]
        for a, b in zip(starts, [*starts[1:], len(places)], strict=True):
            _put(file, rows[a:b], plane.offset + int(places[a]) * size)


def scattered(rows: np.ndarray, total: int, regions: int, seed: int) -> np.ndarray:
    """The places (n,) in the file of training rows that follow each other, of so many in all.

    Of the rows r regions, ..., r regions + regions - 1 each region gets one, as its row r; those
    that are too few for that come last.
    """
    each = total // regions
    first, last = int(rows[0]) // regions, int(rows[-1]) // regions
    numbers = np.arange(first * regions, (last + 1) * regions)
    keys = row_keys(numbers, seed, SCATTER).reshape(-1, regions)
    region = np.argsort(keys, axis=1).reshape(-1)[rows - first * regions]
    places = region * each + rows // regions
    return np.where(rows >= each * regions, rows, places)


def _put(file: Any, content: np.ndarray, position: int) -> None:
    """Write content at a place; OSError that names the disk's fault."""
    try:
        file.seek(position)
        file.write(np.ascontiguousarray(content).reshape(-1).view(np.uint8).data)
    except OSError as error:
        what = "the disk is full" if error.errno in FULL else error.strerror
        raise OSError(error.errno, f"cannot write the encoded rows ({what})") from None


# ---------------------------------------------------------------------------- the header


def _told(learnt: Learnt, planes: dict[str, Plane], regions: int, digest: str) -> Any:
    """The header of the file."""
    told = {
        "features": learnt.features.to_dict(),
        "target": learnt.target.to_dict(),
        "edges": [list(row) for row in learnt.edges],
        "shares": list(learnt.shares),
        "rows": learnt.n_rows,
        "class_weights": list(learnt.class_weights),
        "mean_weight": learnt.mean_weight,
        "decimal": learnt.decimal,
        "hint": learnt.hint,
        "planes": {name: [p.offset, list(p.shape), p.dtype] for name, p in planes.items()},
        "regions": regions,
        "digest": digest,
    }
    text = json.dumps(told).encode()
    return np.frombuffer(MAGIC + len(text).to_bytes(8, "little") + text, np.uint8)


def find_matrix(path: Path) -> Matrix | None:
    """The rows in a file that `write_matrix` has written; None where there is none, or another."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                return None
            told = json.loads(file.read(length))
        learnt = _learnt_of(told)
        planes = {name: Plane(a, tuple(b), c) for name, (a, b, c) in told["planes"].items()}
        if max(plane.offset + _size(plane) for plane in planes.values()) > size:
            return None
        arrays = {
            name: DiskArray(str(path), plane.offset, plane.shape, plane.dtype, told["regions"])
            for name, plane in planes.items()
        }
        return Matrix(path, learnt, arrays["X"], arrays["Y"], arrays.get("weights"), told["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _learnt_of(told: dict[str, Any]) -> Learnt:
    edges: Edges = tuple(tuple(map(float, row)) for row in told["edges"])
    features = Features.from_dict(told["features"])
    target: Target | Targets = target_of(told["target"])
    if [*told["rows"]] != [*PARTS] or not all(
        schema.INT64.holds(n) and n >= 0 for n in told["rows"].values()
    ):
        raise ValueError("its rows are not those of three parts")
    return Learnt(
        features,
        target,
        edges,
        Shares(*told["shares"]),
        told["rows"],
        tuple(told["class_weights"]),
        float(told["mean_weight"]),
        str(told["decimal"]),
        str(told["hint"]),
    )
