"""Trials of settings, and a search after one of its rungs, which a file can hold."""

import math
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from nnaccel import schema
from nnaccel.files import reason
from nnaccel.tabular.resuming import FIELDS
from nnaccel.tabular.settings import Settings, to_dict
from nnaccel.training import checkpoint
from nnaccel.training.checkpoint import Progress


class Trial(NamedTuple):
    """A configuration of settings, and how far it has come.

    number: the first one is 0.   drawn: its settings by name, beside those that all trials have;
    {} for the first trial, which is the default.   losses: on the validation rows, one after each
    rung; infinite where it has diverged.   numbers: the kind of networks that has the last one, as
    in `Settings.numbers`.   metric: of the same, in units of the target.   seconds: that the fit of
    a model would take, about.
    """

    number: int
    drawn: dict[str, Any]
    losses: tuple[float, ...] = ()
    numbers: str = ""
    metric: float = math.nan
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """The validation loss after its last rung; infinite before the first."""
        return self.losses[-1] if self.losses else math.inf


class Rung(NamedTuple):
    """A search after one of its rungs.

    number: the first one is 1.   trials: that have begun.   alive: the numbers of those that go on.
    settings: of the best trial, for the fit of a model.   seconds: since the search began.   runs:
    of those that go on, of each kind of networks; where none does, of one that has ended.
    metric: its name, as of the trials.   identity: what has to be the same to continue.
    """

    number: int
    trials: tuple[Trial, ...]
    alive: tuple[int, ...]
    settings: Settings
    seconds: float
    runs: tuple[Progress, ...]
    metric: str
    identity: dict[str, Any]

    @property
    def ranking(self) -> list[Trial]:
        """The trials, the best first: those that have passed more rungs are better."""
        return ranking(self.trials)

    @property
    def best(self) -> Trial:
        """The trial of the lowest loss among those that have passed most rungs."""
        return self.ranking[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the search so far, whole or not at all; OSError where it cannot be written."""
        search = {
            "number": self.number,
            "trials": [
                {name: schema.plain(value) for name, value in trial._asdict().items()}
                for trial in self.trials
            ],
            "alive": [*self.alive],
            "settings": to_dict(self.settings),
            "seconds": self.seconds,
            "metric": self.metric,
        }
        checkpoint.save_runs(path, self.runs, {"run": self.identity, "search": search})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Rung":
        """Read what `save` has written. OSError, MemoryError, or ValueError that says what is wrong
        with the file."""
        saved = checkpoint.load(path)
        try:
            schema.check(saved.extra, EXTRA, "it")
            schema.check(saved.extra["run"], FIELDS, "its run")
            search = schema.check(saved.extra["search"], SEARCH, "its search")
            trials = tuple(_trial(number, row) for number, row in enumerate(search["trials"]))
            known = {trial.number for trial in trials if trial.losses}
            if not known or not {*search["alive"]} <= known:
                raise ValueError("its trials do not fit together")
            settings = Settings(**search["settings"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: not the checkpoint of a search: {reason(error)}") from None
        alive, seconds = tuple(search["alive"]), float(search["seconds"])
        number, metric, run = search["number"], search["metric"], saved.extra["run"]
        return cls(number, trials, alive, settings, seconds, saved.runs, metric, run)


def ranking(trials: Iterable[Trial]) -> list[Trial]:
    """The trials, the best first: those that have passed more rungs are better, and those that have
    diverged the worst."""
    return sorted(trials, key=lambda t: (math.isinf(t.loss), -len(t.losses), t.loss))


def _are_numbers(value: Any) -> bool:
    return schema.LIST.holds(value) and all(map(schema.NUMBER.holds, value))


EXTRA = {"run": schema.OBJECT, "search": schema.OBJECT}
SEARCH = {
    "number": schema.COUNT,
    "trials": schema.RECORDS,
    "alive": schema.Field("a list of integers", lambda v: schema.list_of(int, v)),
    "settings": schema.OBJECT,
    "seconds": schema.FINITE,
    "metric": schema.TEXT,
}
TRIAL = {
    "number": schema.STEP,
    "drawn": schema.OBJECT,
    "losses": schema.Field("a list of numbers", _are_numbers),
    "numbers": schema.TEXT,
    "metric": schema.NUMBER,
    "seconds": schema.FINITE,
}


def _trial(number: int, row: dict[str, Any]) -> Trial:
    schema.check(row, TRIAL, "a trial")
    if row["number"] != number:
        raise ValueError(f"trial {number} has the number {row['number']}")
    drawn = {n: tuple(v) if type(v) is list else v for n, v in row["drawn"].items()}
    losses = tuple(float(schema.number(loss)) for loss in row["losses"])
    metric = float(schema.number(row["metric"]))
    return Trial(number, drawn, losses, row["numbers"], metric, row["seconds"])
