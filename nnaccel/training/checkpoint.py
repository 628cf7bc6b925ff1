"""Checkpoints: the state of a training run in a file. Another process continues it bit for bit::

    stopping = EarlyStopping(patience=10)
    for epoch in stopping(train(network, X, Y, ...)):
        checkpoint.save("run.checkpoint", epoch, stopping=stopping)

    saved = checkpoint.load("run.checkpoint")
    stopping = EarlyStopping(patience=10, after=saved)
    for epoch in stopping(train(network, X, Y, ..., after=saved.epoch)):
        ...

Orders of examples and masks of dropout depend on (seed, epoch, step) alone. So a run needs only its
parameters, the state of the optimizer and the number of the epoch to continue, bit for bit on the
same machine. The files have the format of `safe_file.py`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnaccel import schema
from nnaccel.devices.device import to_host
from nnaccel.maths.network import Network, layout
from nnaccel.maths.optimizers import State
from nnaccel.schema import Field, check
from nnaccel.training import safe_file
from nnaccel.training.architecture import describe, describe_loss, rebuild, rebuild_loss
from nnaccel.training.early_stopping import Best, EarlyStopping
from nnaccel.training.epoch import SCORES, Epoch, Origin
from nnaccel.typing import Array

FORMAT = safe_file.Format(
    "nnaccel checkpoint",
    1,
    {"runs": schema.RECORDS, "extra": schema.OBJECT},
    "a checkpoint",
)
MOST_SLOTS = 4  # vectors in the state of an optimizer: Adam has two
History = list[dict[str, float]]


class Progress(NamedTuple):
    """The progress of a run.

    epoch: the last one.   best: the best one, if `EarlyStopping` watched the run.   history: the
    scores of all epochs that the user kept.
    """

    epoch: Epoch
    best: Best | None = None
    history: Sequence[Mapping[str, float]] = ()

    def take(self, networks: Sequence[int]) -> "Progress":
        """The run so far of some of its networks; see `Epoch.take`."""
        best = self.best and self.best.take(networks)
        return self._replace(epoch=self.epoch.take(networks), best=best)


class Checkpoint(NamedTuple):
    """The content of a checkpoint: one run, or several that belong together, and the user's data.

    The vectors are NumPy arrays.
    """

    runs: tuple[Progress, ...]
    extra: dict[str, Any]

    @property
    def epoch(self) -> Epoch:
        """The last epoch of the last run, after which `train(after=...)` continues."""
        return self.runs[-1].epoch

    @property
    def best(self) -> Best | None:
        """The best epoch of the last run."""
        return self.runs[-1].best

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        """The history of the last run."""
        return self.runs[-1].history


def save(
    path: str | os.PathLike[str],
    epoch: Epoch,
    *,
    stopping: EarlyStopping | None = None,
    history: Iterable[Mapping[str, float]] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint of a run after an epoch, whole or not at all.

    epoch: the epoch that `train` has yielded, before the next one begins.   stopping: the
    `EarlyStopping` that watches the run.   history: the scores of its epochs (see `Epoch.scores`).
    extra: JSON-like data of the user. Raises RuntimeError for an epoch whose vectors are
    overwritten; ValueError for a network or a loss that a file cannot describe, and for data that
    are not JSON; OSError. An older file then stays.
    """
    best = None if stopping is None else stopping.kept
    save_runs(path, [Progress(epoch, best, [*history])], extra)


def save_runs(
    path: str | os.PathLike[str],
    runs: Sequence[Progress],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint of several runs that belong together; see `save`."""
    header: dict[str, Any] = {"runs": [], "extra": dict(extra or {})}
    tensors: dict[str, np.ndarray] = {}
    for i, run in enumerate(runs):
        described, vectors = _describe(run)
        _rebuild(described, "", dict(vectors))  # checks that the file can be read
        header["runs"].append(described)
        tensors |= {f"{i}.{name}": vector for name, vector in vectors.items()}
    safe_file.write(path, FORMAT, header, tensors)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint.

    Raises FileNotFoundError or another OSError, MemoryError, and ValueError, in one line, for a
    file that is truncated, altered, of another kind or of a later version.
    """
    return safe_file.load(path, FORMAT, _rebuild_runs)


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether the header of a file calls it a checkpoint. Not checked: the rest of the file."""
    return safe_file.is_file_of(FORMAT, path)


# ---------------------------------------------------------------------------- a run as data


SEED = Field("an integer from 0 to 2^64 - 1", lambda v: type(v) is int and 0 <= v < 2**64)
VALUES = Field(
    "a number or a list of them",
    lambda v: all(map(schema.NUMBER.holds, v if type(v) is list else [v])),
)
NUMBERS = Field(
    "a positive integer or a list of them",
    lambda v: v != [] and all(map(schema.COUNT.holds, v if type(v) is list else [v])),
)
EPOCH = {
    "number": schema.COUNT,
    "step": schema.optional(schema.STEP),  # None: its vectors come from several epochs
    "slots": Field("a small number", lambda v: type(v) is int and 0 <= v <= MOST_SLOTS),
    "scores": schema.OBJECT,
    "greater_is_better": schema.optional(schema.FLAG),
}
RUN = {
    "network": schema.OBJECT,
    "loss": schema.OBJECT,
    "settings": schema.OBJECT,
    "last": schema.OBJECT,
    "best": schema.optional(schema.OBJECT),
    "history": schema.RECORDS,
}
SETTINGS = {
    "optimizer": schema.TEXT,
    "batch_size": schema.COUNT,
    "short_batch": schema.one_of("weighted", "full"),
    "seed": SEED,
    "shuffle": schema.FLAG,
    "dtype": schema.one_of("float32", "float64"),
    "n_samples": schema.COUNT,
    "dropout_until": schema.optional(schema.STEP),
}


def _describe(run: Progress) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A run as plain data, and its vectors by name."""
    epoch, best, history = run
    if epoch._origin is None:
        raise ValueError("an epoch made by hand belongs to no run; give one that train yielded")
    settings = dict(epoch._origin.settings)
    last, tensors = _describe_epoch(epoch, "last")
    described = {
        "network": describe(settings.pop("network")),
        "loss": describe_loss(settings.pop("loss")),
        "settings": settings,
        "last": last,
        "best": None,
        "history": [{n: schema.plain(v) for n, v in row.items()} for row in history],
    }
    if best is not None:
        data, vectors = _describe_epoch(best.epoch, "best")
        described["best"] = {"epoch": data, "numbers": schema.plain(best.numbers)}
        tensors |= vectors
    return described, tensors


def _describe_epoch(epoch: Epoch, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    state = None if epoch._state is None else epoch.state
    slots = () if state is None else state.slots
    data = {
        "number": epoch.number,
        "step": None if state is None else int(to_host(state.step)),
        "slots": len(slots),
        "scores": {n: schema.plain(value) for n, value in epoch.scores().items()},
        "greater_is_better": epoch.greater_is_better,
    }
    vectors = {f"{name}.params": _vector(epoch.params)}
    return data, vectors | {f"{name}.slot{i}": _vector(slot) for i, slot in enumerate(slots)}


def _vector(array: Array) -> np.ndarray:
    return np.ascontiguousarray(to_host(array))


def _rebuild_runs(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> Checkpoint:
    """The runs that `save_runs` wrote."""
    if not header["runs"]:
        raise ValueError("it holds no run")
    runs = tuple(_rebuild(data, f"{i}.", tensors) for i, data in enumerate(header["runs"]))
    if tensors:
        raise ValueError(f"unknown tensors: {', '.join(sorted(tensors))}")
    return Checkpoint(runs, header["extra"])


def _rebuild(data: dict[str, Any], prefix: str, tensors: dict[str, np.ndarray]) -> Progress:
    """The run that `_describe` described. It removes the run's vectors from `tensors`."""
    check(data, RUN, "a run")
    check(data["settings"], SETTINGS, "the settings of a run")
    network, loss = rebuild(data["network"]), rebuild_loss(data["loss"])
    origin = Origin({"network": network, "loss": loss, **data["settings"]})
    last = _rebuild_epoch(data["last"], f"{prefix}last.", tensors, origin)
    if last._state is None:
        raise ValueError("the last epoch of a run needs the memory of its optimizer")
    best = None
    if data["best"] is not None:
        check(data["best"], {"epoch": schema.OBJECT, "numbers": NUMBERS}, "the best epoch")
        kept = _rebuild_epoch(data["best"]["epoch"], f"{prefix}best.", tensors, origin)
        numbers = np.array(data["best"]["numbers"])
        if kept.params.shape != last.params.shape or numbers.shape != last.params.shape[:-1]:
            raise ValueError("the best epoch has other shapes than the last one")
        if kept.number > last.number or numbers.max() != kept.number:
            raise ValueError("the best epoch has a number that does not fit")
        best = Best(kept, numbers)
    for row in data["history"]:
        check(row, dict.fromkeys(row, schema.NUMBER), "the history")
    history = [{n: schema.number(value) for n, value in row.items()} for row in data["history"]]
    return Progress(last, best, history)


def _rebuild_epoch(
    data: dict[str, Any], prefix: str, tensors: dict[str, np.ndarray], origin: Origin
) -> Epoch:
    check(data, EPOCH, "an epoch")
    names = [f"{prefix}params", *(f"{prefix}slot{i}" for i in range(data["slots"]))]
    if absent := [name for name in names if name not in tensors]:
        raise ValueError(f"the tensor {absent[0]!r} is missing")
    params, *slots = (tensors.pop(name) for name in names)
    _check_vectors(origin.settings["network"], params, slots, origin.settings["dtype"])
    check(data["scores"], dict.fromkeys(data["scores"], VALUES), "scores")
    if unknown := data["scores"].keys() - {*SCORES}:
        raise ValueError(f"unknown scores: {', '.join(sorted(unknown))}")
    scores = {name: _score(value) for name, value in data["scores"].items()}
    if any(np.shape(value) != params.shape[:-1] for value in scores.values()):
        raise ValueError("an epoch needs a score for each of its networks")
    state = None
    if data["step"] is not None:
        state = State(np.array(data["step"], np.int32), tuple(slots))
    elif slots:
        raise ValueError("an epoch without a step has no memory of an optimizer")
    greater = data["greater_is_better"]
    return Epoch(data["number"], params, state, **scores, greater_is_better=greater, _origin=origin)


def _score(value: Any) -> Any:
    found = schema.number(value)
    return np.array(found, np.float64) if type(found) is list else found


def _check_vectors(
    network: Network, params: np.ndarray, slots: list[np.ndarray], dtype: str
) -> None:
    size = layout(network).size
    fits = params.ndim in (1, 2) and params.shape[-1] == size > 0 and params.size > 0
    for vector in (params, *slots):
        if not fits or vector.dtype != dtype or vector.shape != params.shape:
            raise ValueError(
                f"vectors must be {dtype} of shape ({size},) or (K, {size}) for this network, all "
                f"alike, got {vector.dtype} of shape {vector.shape}"
            )
    if not np.isfinite(params).all():
        raise ValueError("parameters must be finite")
