"""Examples that may be larger than memory: a table is sampled, encoded into a file on the disk, and
trained on from that file."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from nnaccel import __version__
from nnaccel.devices.host_memory import memory_free
from nnaccel.tabular.delimited import AS_IT_IS, Layout, Structure
from nnaccel.tabular.features import fit_features
from nnaccel.tabular.preparation import Prepared
from nnaccel.tabular.queries import is_query
from nnaccel.tabular.settings import Settings, to_dict, variants
from nnaccel.tabular.sources import Rows
from nnaccel.tabular.streamed.file import Matrix, find_matrix
from nnaccel.tabular.streamed.first_pass import Wanted, learn
from nnaccel.tabular.streamed.sample import Progress
from nnaccel.tabular.streamed.second_pass import write_matrix
from nnaccel.tabular.streamed.sources import Stream
from nnaccel.tabular.streamed.targets import Reader
from nnaccel.tabular.survey import Rules
from nnaccel.tabular.tables import pop_target, quiet

HALF = 0.5  # the share of the free memory that an encoded table may take
LONGEST = 256  # about the most encoded bytes for one byte of a file
ITEM = 4  # bytes of an encoded number
# The settings that determine the rows on the disk.
DECISIVE = (
    "task",
    "loss",
    "seed",
    "dtype",
    "class_weight",
    "validation_fraction",
    "early_stopping",
    "scoring",
)


class Streamed:
    """Examples on the disk, for `Fit`: the result of `read(..., stream=True)`.

    Attributes
    ----------
    source : str
        The name of the table.
    stream : Stream
        Its rows.
    cache : Path
        The folder for the encoded rows.
    matrix : Matrix or None
        The encoded rows, once a run has been prepared.
    found : bool
        Whether an earlier run wrote the encoded rows.
    progress : callable
        Called with the name of a pass and its finished share, or None if that is unknown. You may
        replace it.
    """

    def __init__(
        self,
        source: str,
        target: tuple[str, ...],
        *,
        layout: Layout = AS_IT_IS,
        weights: str | None = None,
        cache: str | PathLike[str] = ".",
    ) -> None:
        """weights: the column with the weight of each row.   Raises ValueError or OSError for a
        source that cannot be streamed, or that lacks one of these columns."""
        self.stream = Stream(source, layout, target)
        self.source, self.weights, self.cache = self.stream.name, weights, Path(cache)
        self.targets, self._layout = target, layout
        self.matrix: Matrix | None = None
        self.found = False
        self.progress: Progress = lambda what, share: None
        empty = self.stream.schema.empty_table()
        names = [*target, weights] if weights is not None else [*target]
        try:
            pop_target(empty, names if target else ())
        except ValueError as error:
            how = f"; {self.structure}" if self.structure else ""
            raise ValueError(f"{source}: {error}{how}") from None

    @property
    def structure(self) -> Structure | None:
        """The detected structure of delimited text; None for other sources."""
        return self.stream.structure

    def prepared(self, settings: Settings, rules: Rules, test_fraction: float) -> Prepared:
        """The rows of a run, on the disk. They are encoded first unless the file exists.

        Raises ValueError for data or settings from which nothing can be learned, OSError if the
        disk has no room for the rows.
        """
        return _from_disk(self.encoded(settings, rules, test_fraction), settings)

    def encoded(self, settings: Settings, rules: Rules, test_fraction: float) -> Matrix:
        """The rows on the disk, encoded first unless the file exists. Errors as `prepared`."""
        if (settings.members or 1) > 1 or settings.numbers == "both":
            raise ValueError("a streamed table trains one network; leave members out, or set it 1")
        settings = replace(settings, members=1)
        wanted = Wanted(settings, rules, test_fraction, self.targets, self.weights)
        path = self.cache / f"{self.source}-{self._digest(wanted)[:16]}.rows"
        if self.matrix is not None and self.matrix.path == path:
            return self.matrix
        found = find_matrix(path) if self.stream.state is not None else None
        self.found = found is not None
        self.matrix = found or self._write(path, wanted)
        return self.matrix

    def _write(self, path: Path, wanted: Wanted) -> Matrix:
        learnt = learn(self.stream, wanted, self.progress)
        seed, dtype = wanted.settings.seed, wanted.settings.dtype
        reader = Reader(learnt.target, learnt.shares, seed, self.weights, learnt.decimal)
        write_matrix(path, self.stream, learnt, reader, dtype, self.progress)
        if (written := find_matrix(path)) is None:
            raise OSError(f"{path} cannot be read though it was written; check the disk")
        return written

    def _digest(self, wanted: Wanted) -> str:
        """A digest of the files' paths, sizes and times, and of everything that determines the
        encoding, including the version of nnaccel."""
        settings = to_dict(wanted.settings)
        told = [
            __version__,
            self.stream.state or self.stream.source,
            {name: settings[name] for name in DECISIVE},
            wanted.rules,
            wanted.test_fraction,
            wanted.targets,
            wanted.weights,
            self._layout,
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _from_disk(matrix: Matrix, settings: Settings) -> Prepared:
    """The rows of a file as `Prepared`, with the validation rows in memory."""
    learnt = matrix.learnt
    n_rows, target = learnt.n_rows, learnt.target
    settings = replace(settings, members=1, validation_fraction=learnt.shares.validation)
    n_classes = 2 if target.task == "labels" else len(target.classes)
    kinds = variants(settings, n_rows["train"], n_classes)
    X, Y, weights = matrix.part("train")
    held, test = None, None
    if n_rows["validation"]:
        held = tuple(part if part is None else part[:] for part in matrix.part("validation"))
    if n_rows["test"]:
        data, y, own = matrix.part("test")
        test = Rows(data, y, own)  # pyright: ignore[reportArgumentType] -- on the disk
    edges: Any = learnt.edges if any(kind.numbers == "piecewise" for kind in kinds) else ()
    return Prepared(
        learnt.features,
        target,
        kinds,
        X,
        Y,
        None,
        weights,
        held,
        test,
        edges,
        n_rows,
        learnt.hint,
        matrix.digest,
    )


def stream(
    source: str,
    target: str | Sequence[str],
    *,
    layout: Layout = AS_IT_IS,
    weights: str | None = None,
    cache: str | PathLike[str] = ".",
) -> Streamed:
    """The examples of a table that may be larger than memory, for `Fit`.

    source: a file (.csv, .tsv, .txt, also .gz and .zst, .parquet, .feather, .arrow), a pattern for
    files such as ``"sales/*.parquet"``, a folder, a table of a DuckDB file, "shop.duckdb:orders",
    or one SELECT that DuckDB answers.   target, layout: as in `read`.
    weights: the column with the weight of each row.
    cache: the folder for the file of encoded rows, which `Fit` writes and a second run reuses. The
    file has about as many bytes as X would have in memory.
    Raises ValueError, FileNotFoundError or OSError, whose message names the problem.
    """
    names = (target,) if isinstance(target, str) else tuple(target)
    return Streamed(source, names, layout=layout, weights=weights, cache=cache)


def is_large(source: str, layout: Layout = AS_IT_IS) -> tuple[int, int] | None:
    """The approximate size of the encoded rows of a file and the free memory, both in bytes, if the
    first is more than half of the second; else None.

    None also for a query, whose number of rows is unknown, and for a file that cannot be read: the
    error is raised when the file is read.
    """
    free = memory_free()
    if free is None or is_query(source):
        return None
    try:
        stream = Stream(source, layout)
        if stream.n_bytes * LONGEST < HALF * free:
            return None
        size = _encoded_size(stream)
    except (ValueError, OSError):
        return None
    return (size, free) if size is not None and size > HALF * free else None


def _encoded_size(stream: Stream) -> int | None:
    """The approximate size of the encoded rows in bytes."""
    first = next(stream.batches())
    n_rows = stream.n_rows
    if n_rows is None:
        if not first.done:
            return None
        n_rows = int(first.table.num_rows / first.done)
    with quiet():
        return ITEM * n_rows * len(fit_features(first.table).names)
