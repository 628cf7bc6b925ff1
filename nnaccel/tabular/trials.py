"""Trials of settings, and the state of a search after a rung, which can be saved to a file."""

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
    """A configuration of settings and its results so far.

    number: from 0.   drawn: its drawn settings by name, without those common to all trials; {} for
    the first trial, which has the default settings.   losses: validation losses, one after each
    rung; infinite after divergence.   numbers: the kind of networks with the last loss, as in
    `Settings.numbers`.   metric: of these networks, in units of the target.   seconds: the
    approximate time to fit a model with these settings.
    """

    number: int
    drawn: dict[str, Any]
    losses: tuple[float, ...] = ()
    numbers: str = ""
    metric: float = math.nan
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """The validation loss after the last rung; infinite before the first."""
        return self.losses[-1] if self.losses else math.inf


class Rung(NamedTuple):
    """The state of a search after a rung.

    number: from 1.   trials: those that have begun.   alive: the numbers of those that continue.
    settings: of the best trial, for the fit of a model.   seconds: since the search began.   runs:
    of the trials that continue, one for each kind of networks; if none continues, of a trial that
    has ended.   metric: the name of the trials' metric.   identity: the properties that must be
    equal to continue the search.
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
        """The trials, best first: a trial that has passed more rungs is better."""
        return ranking(self.trials)

    @property
    def best(self) -> Trial:
        """The trial with the lowest loss among those that have passed the most rungs."""
        return self.ranking[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the search so far, completely or not at all. Raises OSError if that fails."""
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
        """Read a file of `save`. Raises OSError, MemoryError, or ValueError that names the problem
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
    """The trials, best first: a trial that has passed more rungs is better, and diverged trials are
    last."""
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
