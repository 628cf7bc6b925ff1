"""Learning-rate schedules: functions from the number of updates done to the rate of the next one.

A schedule maps `step`, an array of the dtype of the parameters, to an array that broadcasts with
it; it is called in every step, under `jit` and graph capture too, so it holds no Python branch
on `step`. A rate may be an array (K,) or (K, 1): one for each of K networks. Numbers out of the
range that `RANGES` has of their name are refused when a schedule is made.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, cast

from nnaccel.arguments import find
from nnaccel.maths.hyper_parameters import (
    AMOUNT,
    POSITIVE,
    STEPS,
    UP_TO_ONE,
    Range,
    beside,
    check_ranges,
    given,
    members_of,
    plain,
)
from nnaccel.typing import Array, Namespace

Rate: TypeAlias = float | Array
Schedule: TypeAlias = Callable[..., Array]


P = ParamSpec("P")
RANGES: dict[str, Range] = {
    "rate": AMOUNT,
    "every": STEPS,
    "steps": STEPS,
    "factor": POSITIVE,
    "power": AMOUNT,
    "rise": UP_TO_ONE,
    "start": AMOUNT,
    "final": AMOUNT,
}


def ranged(factory: Callable[P, Schedule]) -> Callable[P, Schedule]:
    """The factory, with arguments in their ranges.

    A schedule is proportional to its rate: that of K networks is one of rate 1 times their rates
    (K, 1), of whichever library, and has K as its `members`.
    """

    @wraps(factory)
    def make(*args: P.args, **options: P.kwargs) -> Schedule:
        values = given(factory, RANGES, args, options)
        members, schedule = members_of(values), cast(Any, factory)
        rates = values.get("rate")
        if getattr(rates, "ndim", 0):
            unit = schedule(**values | {"rate": 1.0})

            def made(step: Array, *, xp: Namespace) -> Array:
                return beside(rates, step, xp=xp) * unit(step, xp=xp)

        else:
            made = schedule(**values)
        if members is not None:
            made.members = members
        return made

    return make


@ranged
def constant(rate: Rate) -> Schedule:
    """rate, at every step."""
    return lambda step, *, xp: rate + 0.0 * step


@ranged
def step(rate: Rate, every: int, factor: float = 0.1) -> Schedule:
    """rate factor^floor(step / every)."""
    return lambda step, *, xp: rate * xp.exp(math.log(factor) * xp.floor(step / every))


@ranged
def exponential(rate: Rate, every: int, factor: float = 0.1) -> Schedule:
    """rate factor^(step / every): reaches `factor` times the rate after `every` steps."""
    return lambda step, *, xp: rate * xp.exp((math.log(factor) / every) * step)


@ranged
def inverse_scaling(rate: Rate, power: float = 0.5) -> Schedule:
    """rate / (step + 1)^power, scikit-learn's 'invscaling' with one step for an example."""
    return lambda step, *, xp: rate * xp.exp(-power * xp.log1p(step))


@ranged
def cosine(rate: Rate, steps: int, final: float = 0.0) -> Schedule:
    """From rate to final * rate along half a cosine over `steps` steps, then constant.

    Source: Loshchilov, Hutter, arXiv:1608.03983, eq. 5, without restarts.
    """

    def schedule(step: Array, *, xp: Namespace) -> Array:
        wave = 0.5 + 0.5 * xp.cos(math.pi * progress(step, steps, xp=xp))
        return rate * (final + (1.0 - final) * wave)

    return schedule


@ranged
def warm_up(schedule: Schedule, steps: int) -> Schedule:
    """Linear growth to the schedule's first rate over `steps` steps, then the schedule."""

    def warmed(step: Array, *, xp: Namespace) -> Array:
        later = xp.maximum(step - steps, xp.zeros_like(step))
        return schedule(later, xp=xp) * progress(step + 1.0, steps, xp=xp)

    return warmed


@ranged
def one_cycle(
    rate: Rate, steps: int, rise: float = 0.3, start: float = 0.04, final: float = 4e-6
) -> Schedule:
    """Up from start * rate to rate over a share `rise` of the steps, then down to final * rate.

    Both ways along half a cosine. Source: Smith, Topin, arXiv:1708.07120; with the default
    shares, the rates of torch.optim.lr_scheduler.OneCycleLR.
    """
    peak = max(rise * steps - 1.0, 1.0)

    def schedule(step: Array, *, xp: Namespace) -> Array:
        up = 0.5 - 0.5 * xp.cos(math.pi * progress(step, peak, xp=xp))
        after = xp.maximum(step - peak, xp.zeros_like(step))
        down = 0.5 + 0.5 * xp.cos(math.pi * progress(after, max(steps - 1.0 - peak, 1.0), xp=xp))
        # One factor is always 1: before the peak `down` is, after it `up` is.
        return rate * (start + (1.0 - start) * up) * (final + (1.0 - final) * down)

    return schedule


def progress(step: Array, steps: float, *, xp: Namespace) -> Array:
    """The share of `steps` that is done, from 0 to 1, and 1 ever after."""
    share = step / steps
    return xp.minimum(share, xp.ones_like(share))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": lambda rate, steps: constant(rate),
    "step": lambda rate, steps: step(rate, every=max(steps // 3, 1)),
    "exponential": lambda rate, steps: exponential(rate, every=max(steps // 2, 1)),
    "inverse_scaling": lambda rate, steps: inverse_scaling(rate),
    "cosine": lambda rate, steps: cosine(rate, steps),
    "one_cycle": lambda rate, steps: one_cycle(rate, steps),
    "warm_up": lambda rate, steps: warm_up(cosine(rate, steps - steps // 10), max(steps // 10, 1)),
}


def get(name: str, rate: Rate, steps: int) -> Schedule:
    """The schedule of that name over a run of `steps` steps, with its customary shape.

    "step" divides by ten twice, "exponential" by a hundred in all, "warm_up" grows for a tenth
    of the run and then follows a cosine. ValueError for an unknown name and for numbers out of
    range.
    """
    check_ranges(RANGES, {"steps": steps})  # before a share of them is taken
    return find("schedule", name, SCHEDULES)(plain(rate), steps)
