"""The identity of a table's run in a checkpoint: its settings, and a digest of its data."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from nnaccel import schema
from nnaccel.tabular.preparation import Prepared
from nnaccel.training.checkpoint import Checkpoint

GROWS = "epochs"
FIELDS = {
    "kinds": schema.NAMES,
    "settings": schema.OBJECT,
    "epochs": schema.COUNT,
    "rows": schema.OBJECT,
    "columns": schema.NAMES,
    "data": schema.TEXT,
}


def digest_of(texts: Iterable[str], arrays: Iterable[np.ndarray | None]) -> str:
    """SHA-256 of texts and of the dtypes, shapes and numbers of arrays."""
    content = hashlib.sha256()
    for text in texts:
        content.update(f"{len(text)} {text}\n".encode())
    for array in arrays:
        if array is None:
            content.update(b"none\n")
            continue
        content.update(f"{array.dtype.str} {array.shape}\n".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def identity_of(made: Prepared, asked: dict[str, Any], kinds: Iterable[str]) -> dict[str, Any]:
    """The description of a run that a checkpoint keeps, as `FIELDS`.

    made: what it trains on.   asked: its settings as they were given.   kinds: of its networks.
    """
    test = None if made.test is None else made.test.data
    texts = [schema.to_json(part.to_dict(), "it") for part in (made.features, made.target)]
    arrays = [made.X, made.Y, made.weights, test, *(made.held or ())]
    if made.digest is not None:
        texts, arrays = [*texts, made.digest], []
    return {
        "kinds": [*kinds],
        "settings": schema.from_json(schema.to_json(asked, "settings"), "settings"),
        "epochs": made.kinds[-1].epochs,
        "rows": dict(made.n_rows),
        "columns": list(made.features.columns),
        "data": digest_of(texts, arrays),
    }


def check_same(saved: Checkpoint, now: dict[str, Any], *, grows: bool = True) -> None:
    """Raises ValueError that names the first difference between the run of a checkpoint and this
    run.

    now: as `FIELDS`.   grows: whether it may have more epochs than before.
    """
    before = schema.check(saved.extra, FIELDS, "the checkpoint of a table")
    if len(saved.runs) > len(now["kinds"]):
        raise _other("it has more kinds of networks")
    for name in now["settings"].keys() | before["settings"].keys():
        ours, theirs = now["settings"].get(name), before["settings"].get(name)
        if ours != theirs and not (grows and name == GROWS):
            raise _other(f"its {name} is {theirs!r}, and now it is {ours!r}")
    if now["epochs"] < before["epochs"]:
        words = "; epochs may grow, but not shrink"
        raise _other(f"it has {before['epochs']} epochs, and now there are {now['epochs']}", words)
    if now["columns"] != before["columns"]:
        odd = sorted({*now["columns"]} ^ {*before["columns"]})
        which = f", such as {odd[0]!r}" if odd else ", in another order"
        raise _other(f"its table has other columns{which}")
    for name, rows in now["rows"].items():
        if rows != before["rows"].get(name):
            raise _other(f"it has {before['rows'].get(name)} {name} rows, and now there are {rows}")
    if now["data"] != before["data"]:
        raise _other("its data are others, though they have the same rows and columns")
    if now["kinds"] != before["kinds"]:
        raise _other("it has other kinds of networks")


def _other(difference: str, remedy: str = "") -> ValueError:
    remedy = remedy or "; give it the same, or begin a new run"
    return ValueError(f"the checkpoint is of another run: {difference}{remedy}")
