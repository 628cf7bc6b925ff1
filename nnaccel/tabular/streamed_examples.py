"""Examples that need not fit into memory: a table that is looked at, encoded on the disk, and
trained on from there."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from nnaccel.tabular.delimited import AS_IT_IS, Layout, Structure
from nnaccel.tabular.preparation import Prepared
from nnaccel.tabular.settings import Settings, to_dict, variants
from nnaccel.tabular.sources import Rows
from nnaccel.tabular.streamed_file import Matrix, find_matrix
from nnaccel.tabular.streamed_matrix import write_matrix
from nnaccel.tabular.streamed_sample import Progress
from nnaccel.tabular.streamed_sources import Stream
from nnaccel.tabular.streamed_survey import Wanted, learn
from nnaccel.tabular.streamed_tally import Reader
from nnaccel.tabular.survey import Rules
from nnaccel.tabular.tables import pop_target

# The settings that decide what the rows on the disk are.
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
    """Examples on the disk, for `Fit`: what `read(..., stream=True)` gives.

    Attributes
    ----------
    source : str
        The name of the table.
    stream : Stream
        Its rows.
    cache : Path
        The folder for the encoded rows.
    matrix : Matrix or None
        The encoded rows, once a run has been prepared; `found`: whether an earlier run wrote them.
    progress : callable
        Called with what is done and the share of it, None where nobody knows; may be replaced.
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
        """weights: the column that says how much each row counts.   ValueError or OSError for a
        source that cannot be streamed, or lacks one of these columns."""
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
        """Of delimited text, as it was found."""
        return self.stream.structure

    def prepared(self, settings: Settings, rules: Rules, test_fraction: float) -> Prepared:
        """What a run trains on: rows on the disk, which are encoded first unless they are there.

        ValueError for data or settings from which nothing can be learned; OSError where there is no
        room for the rows.
        """
        if (settings.members or 1) > 1 or settings.numbers == "both":
            raise ValueError("a streamed table trains one network; leave members out, or set it 1")
        wanted = Wanted(
            replace(settings, members=1), rules, test_fraction, self.targets, self.weights
        )
        path = self.cache / f"{self.source}-{self._digest(wanted)[:16]}.rows"
        self.matrix = find_matrix(path) if self.stream.state is not None else None
        self.found = self.matrix is not None
        if self.matrix is None:
            self._write(path, wanted)
        assert self.matrix is not None
        return _from_disk(self.matrix, wanted.settings)

    def _write(self, path: Path, wanted: Wanted) -> None:
        learnt = learn(self.stream, wanted, self.progress)
        seed, dtype = wanted.settings.seed, wanted.settings.dtype
        reader = Reader(learnt.target, learnt.shares, seed, self.weights, learnt.decimal)
        write_matrix(path, self.stream, learnt, reader, dtype, self.progress)
        self.matrix = find_matrix(path)
        if self.matrix is None:
            raise OSError(f"{path} cannot be read though it was written; check the disk")

    def _digest(self, wanted: Wanted) -> str:
        """Of the files, with their sizes and times, and of all that decides the encoding."""
        settings = to_dict(wanted.settings)
        told = [
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
    """The rows of a file as a run takes them: those that validate are in memory."""
    learnt = matrix.learnt
    n_rows, target = learnt.n_rows, learnt.target
    settings = replace(settings, validation_fraction=learnt.shares.validation)
    n_classes = 2 if target.task == "labels" else len(target.classes)
    kinds = variants(settings, n_rows["train"], n_classes)
    X, Y, weights = matrix.part("train")
    held, test = None, None
    if n_rows["validation"]:
        held = tuple(part if part is None else part[:] for part in matrix.part("validation"))
    if n_rows["test"]:
        data, y, own = matrix.part("test")
        test = Rows(data, y, own)  # pyright: ignore[reportArgumentType] -- they are on the disk
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
    """The examples of a table that need not fit into memory, for `Fit`.

    source: a file (.csv, .tsv, .txt, also .gz and .zst, .parquet, .feather, .arrow), a pattern for
    files such as ``"sales/*.parquet"``, a folder, a table of a DuckDB file, "shop.duckdb:orders",
    or one SELECT that DuckDB answers.   target, layout: as `read` takes them.
    weights: the column that says how much each row counts.
    cache: the folder where `Fit` puts the encoded rows, of as many bytes as X would have in memory;
    a second run finds them.
    ValueError, FileNotFoundError or OSError that name what is wrong.
    """
    names = (target,) if isinstance(target, str) else tuple(target)
    return Streamed(source, names, layout=layout, weights=weights, cache=cache)
