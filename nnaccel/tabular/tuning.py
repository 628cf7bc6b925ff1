"""Tuning: random search for settings, with successive halving, as a generator of rungs::

    examples = read("data.csv", "y")
    for rung in tune(examples, trials=40, seconds=600):
        print(rung.number, rung.best.loss)
    fit = Fit(examples, rung.settings)

Trials with one architecture train together, in one batched product. A rung is a share of the
epochs. After each rung, a trial continues if its validation loss is in the lowest third of all
losses at that rung. Source: Jamieson, Talwalkar (2016), arXiv:1502.07943, algorithm 1. One
architecture is trained after another, so the losses are compared with those of earlier trials only,
as in Li et al. (2020), arXiv:1810.05934, algorithm 1.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from nnaccel.arguments import at_least
from nnaccel.devices.device import Device, select
from nnaccel.tabular.contest import Contest
from nnaccel.tabular.preparation import prepared
from nnaccel.tabular.resuming import check_same, identity_of
from nnaccel.tabular.settings import Settings, to_dict
from nnaccel.tabular.sources import Examples
from nnaccel.tabular.space import SECONDS, SPACE, TRIALS, Drawn, Space, draws, narrowed
from nnaccel.tabular.streamed.examples import Streamed
from nnaccel.tabular.survey import NO_RULES, Rules
from nnaccel.tabular.trials import Rung, Trial, ranking
from nnaccel.training.checkpoint import Checkpoint, Progress
from nnaccel.training.step import Diverged

SIDE = 4  # trials with one architecture, which train together
RUNGS = (0.4, 0.7, 1.0)  # shares of the epochs; earlier, high learning rates hide good trials
KEEPS = 1 / 3  # the share of the trials that continue after a rung


def tune(
    examples: Examples | Streamed,
    settings: Settings | None = None,
    *,
    space: Space = SPACE,
    trials: int = TRIALS,
    seconds: float | None = SECONDS,
    device: str | Device | None = None,
    rules: Rules = NO_RULES,
    test_fraction: float = 0.2,
    kernels: bool | str = True,
    after: Rung | None = None,
) -> Iterator[Rung]:
    """Search for settings of a table, yielding after every rung.

    Parameters
    ----------
    examples, rules, test_fraction, kernels
        As in `Fit`. No trial sees the test rows.
    settings : Settings, optional
        Settings common to all trials. Further settings are drawn for each trial except the first.
    space : mapping of str to Choice, Between or Times
        The distribution of each setting that is not given; see `nnaccel.tabular.space`.
    trials : int
        The largest number of trials, at least 2.
    seconds : float or None
        The time limit of the search and of the fit of the best settings, which the times of the
        trials predict. A rung that does not finish in time is discarded. None: no limit.
    device : str or Device, optional
        The device for training; None is the processor.
    after : Rung, optional
        Continue the search that yielded this rung, or the rung that `Rung.load` has read, with the
        same trials. `trials` and `seconds` may be larger; seconds count from the beginning of the
        search.

    Raises
    ------
    ValueError, TypeError
        At once for arguments that `Fit` rejects, a streamed table, a space or a number out of
        range, and a rung of another search; later if the time is too short for the first rung.
    FloatingPointError
        If all of the first trials diverge.
    """
    begun = Clock.now() - (after.seconds if after else 0.0)
    if isinstance(examples, Streamed):
        raise ValueError(
            "examples must be in memory, got a streamed table; tune on some of its rows, such as "
            "the query \"from 'big.parquet' using sample 100000 rows\", and train on all of them "
            "with the settings that are found"
        )
    [trials] = at_least(2, trials=trials)
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be above 0 and finite, or None, got {seconds}")
    settings = Settings() if settings is None else settings
    if settings.scoring != "loss":
        raise ValueError(
            "tune compares trials by their validation loss, so scoring must be 'loss', got "
            f"{settings.scoring!r}; train with it and the settings that are found"
        )
    space = narrowed(space, settings)
    made = prepared(examples, settings, rules, test_fraction)
    contest = Contest(made, settings, examples.pixels, select(device or "cpu"), kernels)
    groups = draws(space, settings, contest.defaults, trials, SIDE)
    identity = identity_of(made, to_dict(settings), contest.kinds)
    if after is not None:
        check_same(Checkpoint((), after.identity), identity, grows=False)
        _check_drawn(after, groups, len(contest.kinds))
    clock = Clock(begun, math.inf if seconds is None else seconds)
    return Search(contest, groups, clock, identity, after).rungs()


def _check_drawn(after: Rung, groups: Sequence[Sequence[Drawn]], n_runs: int) -> None:
    """Raise ValueError unless the trials of a previous rung are the first groups of this search."""
    planned: list[Drawn] = []
    so_far = [trial.drawn for trial in after.trials]
    for group in groups:
        planned += group
        if planned == so_far and len(after.runs) == n_runs:
            return
    raise ValueError(
        "the checkpoint is of another search: what was drawn for its trials is not what is drawn "
        "now; give it the same space, and as many trials or more by fours, or begin a new search"
    )


class Clock:
    """The elapsed time of a search, measured by `now`."""

    now = staticmethod(time.perf_counter)

    def __init__(self, begun: float, limit: float) -> None:
        """begun: the time at the beginning.   limit: the time limit in seconds."""
        self._begun, self.limit = begun, limit

    @property
    def seconds(self) -> float:
        """The seconds since the beginning."""
        return self.now() - self._begun


def pace(times: Sequence[float]) -> float:
    """Mean seconds per epoch.   times: of the beginning, and of the end of each epoch. If there are
    several epochs the first is left out, since it may include compilation."""
    n = len(times) - 1
    return (times[-1] - times[min(1, n - 1)]) / max(1, n - 1) if n else 0.0


class Search:
    """A search in progress."""

    def __init__(
        self,
        contest: Contest,
        groups: Sequence[Sequence[Drawn]],
        clock: Clock,
        identity: dict[str, Any],
        after: Rung | None,
    ) -> None:
        """groups: the drawn settings of the trials of each architecture."""
        self._contest, self._groups, self._clock = contest, groups, clock
        self._identity, self._after = identity, after
        self._trials: list[Trial] = [] if after is None else [*after.trials]
        self._number = 0 if after is None else after.number

    def rungs(self) -> Iterator[Rung]:
        """The rungs of all architectures, one after the other, until the time limit."""
        alive, runs = ([*self._after.alive], self._after.runs) if self._after else ([], ())
        yield from self._rungs_of(alive, runs)
        first = 0
        for group in self._groups:
            if first >= len(self._trials) and not self._is_over():
                numbers = [*range(first, first + len(group))]
                self._trials += map(Trial, numbers, group)
                yield from self._rungs_of(numbers, ())
            first += len(group)

    def _rungs_of(self, alive: list[int], runs: tuple[Progress, ...]) -> Iterator[Rung]:
        """The remaining rungs of trials with one architecture.   runs: their progress."""
        while alive and not self._is_over():
            step = len(self._trials[alive[0]].losses)
            alive, runs = self._without_diverged(alive, runs, step)
            if not runs:
                return
            stay = [k for k, number in enumerate(alive) if self._goes_on(number, step)]
            alive, runs = [alive[k] for k in stay], self._of_trials(runs, stay or [0])
            self._number += 1
            yield self._rung(alive, runs)

    def _rung(self, alive: list[int], runs: tuple[Progress, ...]) -> Rung:
        best = ranking(self._trials)[0]
        return Rung(
            self._number,
            tuple(self._trials),
            tuple(alive),
            self._contest.settings_of(best.drawn, best.numbers),
            self._clock.seconds,
            runs,
            self._contest.metric.name,
            self._identity,
        )

    def _goes_on(self, number: int, step: int) -> bool:
        """Whether a trial continues after rung `step`. The default always does, for comparison."""
        losses = sorted(t.losses[step] for t in self._trials if len(t.losses) > step)
        highest = losses[math.ceil(KEEPS * len(losses)) - 1]
        is_good = number == 0 or self._trials[number].losses[step] <= highest
        return is_good and step + 1 < len(RUNGS)

    def _without_diverged(
        self, alive: list[int], runs: tuple[Progress, ...], step: int
    ) -> tuple[list[int], tuple[Progress, ...]]:
        """The trials that have passed the rung, and their runs; no runs after the time limit.

        Trials that diverge are removed, and the others repeat the rung.
        """
        while alive:
            try:
                return alive, self._trained(alive, runs, step)
            except Diverged as error:
                lost = {int(k) // self._contest.problem.members for k in error.networks}
                if len(lost) == len(alive) and not self._number:
                    raise
                for k in lost:
                    trial = self._trials[alive[k]]
                    self._trials[alive[k]] = trial._replace(losses=(*trial.losses, math.inf))
                stay = [k for k in range(len(alive)) if k not in lost]
                alive, runs = [alive[k] for k in stay], self._of_trials(runs, stay)
        return alive, ()

    def _trained(
        self, alive: list[int], runs: tuple[Progress, ...], step: int
    ) -> tuple[Progress, ...]:
        """Train to the next rung, record the scores, and return the runs; () if the time limit
        comes first."""
        contest, drawn = self._contest, [self._trials[number].drawn for number in alive]
        branches = contest.branches(drawn, runs or [None] * len(contest.kinds))
        epochs = branches[0].settings.epochs or 1
        last = max(1, round(RUNGS[step] * epochs))
        first = runs[0].epoch.number if runs else 0
        times = [self._clock.seconds]
        for branch in branches:
            for epoch in branch:
                times.append(self._clock.seconds)
                done = len(times) - 1
                left = (last - first) * len(branches) - done
                if self._is_over(left * pace(times), done):
                    return ()
                if epoch.number >= last:
                    break
        scores = contest.scores([branch.trained() for branch in branches])
        spent = pace(times) / len(alive)
        for number, score in zip(alive, scores, strict=True):
            trial = self._trials[number]
            self._trials[number] = trial._replace(
                losses=(*trial.losses, score.loss),
                numbers=score.numbers,
                metric=score.metric,
                seconds=contest.seconds_of_fit(spent * epochs, drawn[0], score.numbers),
            )
        return tuple(branch.progress for branch in branches if branch.progress)

    def _of_trials(self, runs: tuple[Progress, ...], stay: Sequence[int]) -> tuple[Progress, ...]:
        """The runs of some of the trials.   stay: their indices."""
        members = self._contest.problem.members
        networks = [members * k + m for k in stay for m in range(members)]
        return tuple(run.take(networks) for run in runs) if networks else ()

    def _is_over(self, left: float = 0.0, done: int = 0) -> bool:
        """Whether the elapsed time and the fit of the best settings exceed the time limit.

        left: the seconds to the end of the rung, predicted from its `done` epochs. Raises
        ValueError if the limit is reached before the first rung ends, or if the prediction exceeds
        twice the limit after at least two epochs: the first may include compilation.
        """
        fit = ranking(self._trials)[0].seconds if self._trials else 0.0
        spent, limit = self._clock.seconds, self._clock.limit
        if not self._number and (spent > limit or (done > 1 and spent + left > 2 * limit)):
            about = f", which takes about {math.ceil(spent + left)}" if done > 1 else ""
            raise ValueError(
                f"seconds must be enough for the first rung{about}, got {limit:g}; give it more "
                "time, or fewer trials"
            )
        return spent + fit > limit
