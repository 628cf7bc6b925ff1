"""Streamed tables: decides when to stream, and runs train, predict and evaluate on them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel.arguments import did_you_mean
from nnaccel.cli.reading import columns_of, layout_of
from nnaccel.cli.streams import in_line, say
from nnaccel.devices.device import dtype_name
from nnaccel.files import STREAM
from nnaccel.tabular.streamed.examples import is_large
from nnaccel.tabular.streamed.parts import is_many, is_streamable
from nnaccel.tabular.streamed.sources import Batch, Stream
from nnaccel.tabular.surprises import Surprises
from nnaccel.tabular.tables import listing, quiet, warn

if TYPE_CHECKING:
    from nnaccel.devices.device import Device
    from nnaccel.tabular.model import Model
    from nnaccel.tabular.streamed.examples import Streamed


def wants_stream(source: str, options: Any) -> bool:
    """Whether to stream a source: with --stream, or because it is too large, which is printed.

    Raises IsADirectoryError for a source that can only be streamed.
    """
    if options.stream:
        return True
    if is_many(source):
        raise IsADirectoryError(
            f"{source} is a folder, not a file; name one file inside it, or read all of its tables "
            "with --stream"
            if os.path.isdir(source)
            else f"{source} is a pattern for files; read them as one table with --stream"
        )
    if source == STREAM or not is_streamable(source):
        return False
    size = is_large(source, layout_of(options))
    if size is None:
        return False
    needed, free = size
    say(
        f"nnaccel: {in_line(source)} would take about {gigabytes(needed)} of the "
        f"{gigabytes(free)} of memory that are free: it is streamed, as with --stream"
    )
    return True


def gigabytes(size: int) -> str:
    """`12.3 GB`, `0.04 GB`."""
    return f"{size / 1e9:.3g} GB"


def streamed_examples(options: Any) -> "Streamed":
    """The training examples, whose encoded rows are written to a file in `--cache`."""
    from nnaccel.cli import display
    from nnaccel.tabular.streamed.examples import Streamed

    if options.test is not None:
        raise ValueError(
            "--test is not for a streamed table; score the model with nnaccel evaluate afterwards, "
            "and give --test-fraction 0 to train on all rows"
        )
    folder = Path(options.cache or Path(options.output or "").parent)
    if not folder.is_dir():
        raise FileNotFoundError(f"--cache: there is no folder {folder}; make it first")
    targets = tuple(options.target or ())
    how = {"layout": layout_of(options), "weights": options.weights, "cache": folder}
    examples = Streamed(options.source, targets, **how)
    examples.progress = display.Passes(display.console())
    return examples


def predictions(
    model: "Model", options: Any, device: "Device"
) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray | None]]:
    """Yields the columns to copy, the outputs and, with --spread, the spread for each batch of
    rows."""
    stream, surprises = _opened(model, options), Surprises(many=True)
    for batch in _pieces(model, stream):
        X = _encoded(model, batch, surprises, None)
        spread = None
        if options.spread:
            outputs, spread = model.outputs_and_spread_of(X, device)
        else:
            outputs = model.outputs_of(X, device)
        yield columns_of(batch.table, options.copied), outputs, spread
    surprises.say()


def scores(model: "Model", options: Any, device: "Device") -> tuple[dict[str, Any], int]:
    """The scores of a model on the rows of a file that have a target, and the number of these
    rows."""
    from nnaccel.tabular.model import scoring_of
    from nnaccel.tabular.streamed.scores import Scores
    from nnaccel.tabular.streamed.targets import Reader, Shares

    needed = [*model.target.names, *([options.weights] if options.weights else [])]
    stream, surprises = _opened(model, options, needed), Surprises(many=True)
    reader = Reader(model.target, Shares(0.0, 0.0), 0, options.weights, None)
    found = Scores(model.target, threshold=options.threshold, **scoring_of(model.loss))
    without = 0
    for batch in _pieces(model, stream):
        with quiet():
            part, y, weights = reader.rows_of(batch)
        rows = np.flatnonzero(part >= 0)
        without += len(part) - len(rows)
        if len(rows):
            X = _encoded(model, batch, surprises, options.weights)
            own = None if weights is None else weights[rows]
            found.add(model.outputs_of(X[rows], device), reader.encoded(y, rows), own)
    surprises.say()
    if not found.n_rows:
        raise ValueError(f"{options.file} has no rows with a {model.target.name!r}")
    if without:
        warn(f"{without:,} rows without a {model.target.name!r} are left out")
    return found.result(), found.n_rows


def _pieces(model: "Model", stream: Stream) -> Iterator[Batch]:
    """Yields the rows of a file in batches that bound the memory."""
    width = len(model.features.names)
    return (piece for batch in stream.batches() for piece in batch.pieces(width))


def _opened(model: "Model", options: Any, needed: Sequence[str] = ()) -> Stream:
    """The rows of a file.   needed: required columns besides those of the model."""
    used = [*dict.fromkeys(c.name for c in (*model.features.numeric, *model.features.categorical))]
    stream = Stream(options.file, layout_of(options, (*used,)), model.target.names)
    if absent := [name for name in needed if name not in stream.columns]:
        guess = did_you_mean(absent[0], stream.columns)
        raise ValueError(
            f"{options.file}: no column named {absent[0]!r}; columns: "
            f"{listing(stream.columns)}{guess}"
        )
    return stream


def _encoded(model: "Model", batch: Batch, surprises: Surprises, weights: str | None) -> np.ndarray:
    """The encoded rows of a batch. Errors name its file."""
    others = [n for n in (*model.target.names, weights) if n in batch.table.column_names]
    try:
        table = batch.table.drop_columns(others)
        return model.features.transform(table, dtype_name(model.params), surprises)
    except ValueError as error:
        raise ValueError(f"{batch.where}, rows from {batch.first:,} on: {error}") from None
