"""The search of `nnaccel tune`, before the fit of the best settings: checkpoint and output."""

import argparse
import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from nnaccel.cli import checkpoints, display
from nnaccel.cli.checkpoints import NO_CHECKPOINT, Period
from nnaccel.cli.interruption import Interruption
from nnaccel.cli.streams import in_line, say
from nnaccel.files import writable
from nnaccel.tabular.settings import Settings, to_dict
from nnaccel.tabular.trials import Rung, Trial
from nnaccel.tabular.tuning import RUNGS, tune

if TYPE_CHECKING:
    from nnaccel.tabular.sources import Examples

SHOWN = 20  # most trials in the table
OWN = ("--trials", "--time", "--checkpoint", "--resume")  # the options of a search
ARGUMENTS = {"seconds": "--time", "trials": "--trials"}  # arguments of `tune` and their options


class Found(NamedTuple):
    """The result of a search.

    rung: the last one; None if the search was interrupted before the first.   status: 0, or the
    exit status of an interruption.   again: a text on how to resume.   data: for JSON.
    """

    rung: Rung | None
    status: int
    again: str
    data: dict[str, Any]


def to_go_on_from(options: Any) -> Rung | None:
    """The rung in the file of `--resume`. Raises errors of files and of conflicting options."""
    checkpoints.check_options(options)
    return checkpoints.to_go_on_from(options, Rung.load)


def of_fit(options: Any) -> argparse.Namespace:
    """The options of the run that fits the best settings."""
    return argparse.Namespace(**{**vars(options), "checkpoint": None, "resume": None})


def search(
    options: Any, examples: "Examples", settings: Settings, how: dict[str, Any], after: Rung | None
) -> Found:
    """Search, and show each rung, the trials, and the command that trains with the best settings.

    how: the arguments of `Fit` except the settings.
    """
    console, seconds = display.console(), Period.of(options.time).seconds
    last, keeper = after, Keeper(options)
    with _options_named():
        rungs = tune(examples, settings, trials=options.trials, seconds=seconds, after=after, **how)
    with Interruption() as interruption, interruption.gives_up(), _options_named():
        for last in rungs:
            console.print(line_of(last, seconds), soft_wrap=True)
            keeper.write(last)
    if last is None:
        say(f"nnaccel: interrupted by {interruption.name} before the first rung: nothing to keep")
        return Found(None, interruption.status, NO_CHECKPOINT, {})
    console.print(table_of(last))
    command = command_of(options, settings, last.settings)
    console.print(f"\nthe best settings: {in_line(command)}", soft_wrap=True)
    again = keeper.how_to_go_on(options.arguments)
    if interruption.signal is not None:
        say(f"nnaccel: interrupted by {interruption.name} after rung {last.number}; {again}")
    data = {"command": command, "trials": data_of(last)}
    return Found(last, interruption.status, again, data)


class Keeper:
    """Writes the checkpoint of a search after each rung. A failure is only a warning: the search
    continues, and the older file remains."""

    def __init__(self, options: Any) -> None:
        """Raises OSError if the file cannot be written."""
        self._path = options.checkpoint or options.resume
        if self._path:
            writable(self._path)

    def write(self, rung: Rung) -> None:
        """Write the checkpoint, if the options name a file."""
        if not self._path:
            return
        try:
            rung.save(self._path)
        except OSError as error:
            failure = in_line(error.strerror or str(error))
            say(f"nnaccel: warning: no checkpoint: {failure}; the search goes on")

    def how_to_go_on(self, arguments: Sequence[str]) -> str:
        """The text with the command that resumes a search with these arguments."""
        if not self._path:
            return NO_CHECKPOINT
        resume = [] if "--resume" in arguments else ["--resume", str(self._path)]
        return f"resume with: {in_line(shlex.join(['nnaccel', *arguments, *resume]))}"


@contextmanager
def _options_named() -> Iterator[None]:
    """A context in which errors name the option instead of the argument of `tune`."""
    try:
        yield
    except ValueError as error:
        name, _, problem = str(error).partition(" ")
        if name not in ARGUMENTS:
            raise
        raise ValueError(f"{ARGUMENTS[name]} {problem}") from None


def line_of(rung: Rung, seconds: float) -> str:
    """The progress of a search, and the best trial so far."""
    best, left = rung.best, len(rung.alive)
    score = f"validation loss {display.number(best.loss)}, {rung.metric} "
    return "   ".join(
        (
            f"rung {rung.number}: {len(rung.trials)} trials, {left} go on",
            f"best: trial {best.number}, {score}{display.number(best.metric)}",
            f"{display.clock(rung.seconds)} of {display.clock(seconds)}",
        )
    )


def table_of(rung: Rung) -> Any:
    """A table of the best trials with their drawn settings."""
    shown = rung.ranking[:SHOWN]
    names = [*dict.fromkeys(name for trial in rung.trials for name in trial.drawn)]
    rows = [
        (
            f"{trial.number}" + " (default)" * (not trial.drawn),
            display.number(trial.loss),
            display.number(trial.metric),
            f"{len(trial.losses)} of {len(RUNGS)}",
            trial.numbers,
            *(" ".join(_words(trial.drawn.get(name, ""))) for name in names),
        )
        for trial in shown
    ]
    head = ("trial", "validation loss", rung.metric, "rungs", "numbers")
    title = f"{len(rung.trials)} trials"
    title += f", the best {SHOWN}" * (len(rung.trials) > SHOWN)
    return display.table(title, (*head, *(name.replace("_", " ") for name in names)), rows)


def command_of(options: Any, given: Settings, best: Settings) -> str:
    """The command that trains with the best settings."""
    words, arguments = ["nnaccel", "train"], iter(options.arguments[1:])
    for word in arguments:
        if word in OWN:
            next(arguments, None)
        elif word.partition("=")[0] not in OWN:
            words.append(word)
    if options.output is None and "--force" not in words:
        words.append("--force")  # `tune` has written the model
    before, after = to_dict(given), to_dict(best)
    for name, value in after.items():
        if value != before[name]:
            words += [f"--{name.replace('_', '-')}", *_words(value)]
    return shlex.join(words)


def data_of(rung: Rung) -> list[dict[str, Any]]:
    """The trials for JSON, best first."""
    return [_data(trial, rung.metric) for trial in rung.ranking]


def _data(trial: Trial, metric: str) -> dict[str, Any]:
    scores = {"validation loss": trial.loss, metric: trial.metric}
    finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    rungs = {"rungs": len(trial.losses), "numbers": trial.numbers}
    return {"trial": trial.number, **finite, **rungs, "settings": trial.drawn}


def _words(value: Any) -> list[str]:
    """A setting as the words of its option."""
    return [str(each) for each in (value if isinstance(value, list | tuple) else [value])]
