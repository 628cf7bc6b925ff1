"""Logs of the scores of each epoch, for programs that plot or keep them.

Each function yields the epochs of a run unchanged and logs their scores:

    for epoch in logs.to_file(train(...), "run.jsonl"):
        ...
"""

import csv
import io
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnaccel.training.epoch import Epoch


def scalars(epoch: Epoch) -> dict[str, float]:
    """The scores and the speed of an epoch by name; `loss.0`, `loss.1` and so on for K networks."""
    found: dict[str, float] = {}
    for name, value in epoch.scores().items():
        if np.ndim(value):
            found |= {f"{name}.{k}": float(v) for k, v in enumerate(np.asarray(value))}
        else:
            found[name] = float(value)
    return found | {
        "seconds": epoch.seconds,
        "samples_per_second": epoch.samples_per_second,
    }


def to_file(
    epochs: Iterable[Epoch], path: str | os.PathLike[str], *, append: bool = False
) -> Iterator[Epoch]:
    """Writes a line after each epoch: objects of JSON into a .jsonl file, rows into a .csv file.

    append: continue the file of an interrupted run, and remove the lines of epochs that are run
    again. Raises, before the first epoch, ValueError for another kind of file and OSError for a
    file that cannot be written. If the disk fails later, it warns and the log ends.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".csv"):
        raise ValueError(f"a log is a .jsonl or a .csv file, got {path}")
    before = path.read_text().splitlines() if append and path.exists() else []
    with open(path, "a" if append else "w"):
        pass
    return _written(epochs, path, before)


def _written(epochs: Iterable[Epoch], path: Path, before: list[str]) -> Iterator[Epoch]:
    as_json, begun, works = path.suffix == ".jsonl", False, True
    for epoch in epochs:
        row = {"epoch": epoch.number, **scalars(epoch)}
        line = _json(row) if as_json else _csv(row.values())
        try:
            if works and not begun:
                kept = [text for text in before if _number_of(text, as_json) < epoch.number]
                header = [] if as_json else [_csv(row)]
                path.write_text("".join(f"{text}\n" for text in [*header, *kept]))
                begun = True
            if works:
                with open(path, "a") as file:
                    file.write(f"{line}\n")
        except OSError as error:
            works = False
            words = f"{path}: {error.strerror}; the log ends before epoch {epoch.number}"
            warnings.warn(words, RuntimeWarning, stacklevel=2)
        yield epoch


def _json(row: dict[str, float]) -> str:
    """A row as JSON. NaN and infinity become null, since JSON has no number for them."""
    return json.dumps({name: v if math.isfinite(v) else None for name, v in row.items()})


def _csv(cells: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _number_of(line: str, as_json: bool) -> float:
    """The number of the epoch of a line; infinity for a header, and for an incomplete line."""
    try:
        return int(json.loads(line)["epoch"]) if as_json else int(line.partition(",")[0])
    except (KeyError, TypeError, ValueError):
        return math.inf


def to_tensorboard(epochs: Iterable[Epoch], writer: Any) -> Iterator[Epoch]:
    """Adds the scores of each epoch to a TensorBoard writer.

    writer: `torch.utils.tensorboard.SummaryWriter(folder)`, or that of tensorboardX.
    """
    for epoch in epochs:
        for name, value in scalars(epoch).items():
            writer.add_scalar(name, value, epoch.number)
        yield epoch


def to_mlflow(epochs: Iterable[Epoch], client: Any = None) -> Iterator[Epoch]:
    """Logs the scores of each epoch as metrics of MLflow's active run.

    client: by default the module `mlflow`. Raises ImportError if it is not installed.
    """
    if client is None:
        import mlflow as client
    for epoch in epochs:
        client.log_metrics(scalars(epoch), step=epoch.number)
        yield epoch
