"""The file of encoded rows: its contents and their positions.

A JSON header comes first. The arrays X (N, D), Y (N,) or (N, K), and the weights (N,) follow. Each
has first the training rows, then the validation rows, then the test rows.
"""

import json
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnaccel import schema
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.members import Edges
from nnaccel.tabular.several_targets import Targets, target_of
from nnaccel.tabular.streamed.first_pass import Learnt
from nnaccel.tabular.streamed.targets import PARTS, Shares
from nnaccel.tabular.targets import Target
from nnaccel.training.on_disk import DiskArray

MAGIC = b"nnaccel rows 1\n"
DTYPES = ("float32", "float64", "int32")
PAGE = 4096  # bytes: arrays begin at multiples of this


class Plane(NamedTuple):
    """An array in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_size(self) -> int:
        """The size of a row in bytes."""
        return prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def end(self) -> int:
        """The position after the last byte."""
        return self.offset + self.shape[0] * self.row_size


class Matrix(NamedTuple):
    """The contents of a file of rows.   X, Y, weights: of all rows.   digest: SHA-256 of the
    rows in the order of the table."""

    path: Path
    learnt: Learnt
    X: DiskArray
    Y: DiskArray
    weights: DiskArray | None
    digest: str

    def part(self, name: str) -> tuple[DiskArray, DiskArray, DiskArray | None]:
        """X, Y and weights of the rows of a part: training, validation or test."""
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


def planes_of(learnt: Learnt, dtype: str, *, weighted: bool) -> dict[str, Plane]:
    """The positions of the arrays in a file.   weighted: whether rows have weights."""
    N, D = sum(learnt.n_rows.values()), len(learnt.features.names)
    target = learnt.target
    is_classes = target.task == "classification"
    y = (N,) if isinstance(target, Target) else (N, len(target.columns))
    wanted = [("X", (N, D), dtype), ("Y", y, "int32" if is_classes else dtype)]
    if weighted or learnt.class_weights:
        wanted.append(("weights", (N,), dtype))
    empty = {name: Plane(2**62, shape, kind) for name, shape, kind in wanted}
    offset = _whole_pages(len(told(learnt, empty, 2**62, "0" * 64)))
    planes = {}
    for name, shape, kind in wanted:
        planes[name] = Plane(offset, shape, kind)
        offset = _whole_pages(planes[name].end)
    return planes


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def told(learnt: Learnt, planes: dict[str, Plane], regions: int, digest: str) -> np.ndarray:
    """The header of the file."""
    content = {
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
    text = json.dumps(content).encode()
    return np.frombuffer(MAGIC + len(text).to_bytes(8, "little") + text, np.uint8)


def find_matrix(path: Path) -> Matrix | None:
    """The rows in a file that `write_matrix` wrote; None if no such file exists."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                return None
            content = json.loads(file.read(length))
        learnt = _learnt_of(content)
        planes = {name: _plane_of(*plane) for name, plane in content["planes"].items()}
        if max(plane.end for plane in planes.values()) > size:
            return None
        arrays = {
            name: DiskArray(str(path), plane.offset, plane.shape, plane.dtype, content["regions"])
            for name, plane in planes.items()
        }
        X, Y, weights = arrays["X"], arrays["Y"], arrays.get("weights")
        return Matrix(path, learnt, X, Y, weights, content["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plane_of(offset: Any, shape: Any, dtype: Any) -> Plane:
    """An array described by a header. Raises ValueError unless it contains numbers."""
    counts = [offset, *shape]
    if dtype not in DTYPES or not all(type(n) is int and n >= 0 for n in counts):
        raise ValueError(f"no array of numbers is at {offset!r}, {shape!r}, {dtype!r}")
    return Plane(offset, tuple(shape), dtype)


def _learnt_of(content: dict[str, Any]) -> Learnt:
    edges: Edges = tuple(tuple(map(float, row)) for row in content["edges"])
    features = Features.from_dict(content["features"])
    target: Target | Targets = target_of(content["target"])
    if [*content["rows"]] != [*PARTS] or not all(
        schema.INT64.holds(n) and n >= 0 for n in content["rows"].values()
    ):
        raise ValueError("its rows are not those of three parts")
    return Learnt(
        features,
        target,
        edges,
        Shares(*content["shares"]),
        content["rows"],
        tuple(content["class_weights"]),
        float(content["mean_weight"]),
        str(content["decimal"]),
        str(content["hint"]),
    )
