"""The space of settings in which `tune` looks for the best: a distribution for each of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from nnaccel.arguments import did_you_mean
from nnaccel.tabular.settings import LEAST, SIDE_BY_SIDE, Settings

TRIALS, SECONDS = 40, 600.0  # of a search, at most, where nothing else is said


@dataclass(frozen=True, repr=False)
class Choice:
    """One of some values, all as likely."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        if not values:
            raise ValueError("a Choice needs at least one value, such as Choice(0.0, 0.1)")
        object.__setattr__(self, "values", values)

    def __repr__(self) -> str:
        return f"Choice({', '.join(map(repr, self.values))})"

    def draw(self, rng: np.random.Generator, default: Any) -> Any:
        return self.values[rng.integers(len(self.values))]


@dataclass(frozen=True, repr=False)
class Between:
    """A number between two, its logarithm uniform."""

    low: float
    high: float

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.low}, {self.high})"

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(
                f"{type(self).__name__} must be from a number above 0 to a larger one, got "
                f"{self.low} and {self.high}; for other values: Choice(0.0, 0.1)"
            )

    def draw(self, rng: np.random.Generator, default: Any) -> float:
        return _short(self.low * (self.high / self.low) ** rng.random())


@dataclass(frozen=True, repr=False)
class Times(Between):
    """What the setting is by default, times a number between two whose logarithm is uniform."""

    def draw(self, rng: np.random.Generator, default: Any) -> float:
        return _short(default * super().draw(rng, default))


def _short(number: float) -> float:
    """Three digits: nobody has to copy more, and no run can tell."""
    return float(f"{number:.3g}")


Distribution: TypeAlias = Choice | Between | Times
Space: TypeAlias = Mapping[str, Distribution]
Drawn: TypeAlias = dict[str, Any]  # the values of some settings, by name

# What is drawn where nothing else is said.
SPACE: Space = {
    "hidden": Choice((32,), (128, 64), (256, 128, 64), (256, 256), (512, 256, 128)),
    "activation": Choice(("tanh",), ("silu",), ("relu",)),
    "dropout": Choice(0.0, 0.1, 0.2, 0.35),
    "learning_rate": Times(0.3, 3.0),
    "weight_decay": Between(0.01, 1.0),
}

# The settings that change neither what a validation loss means nor of which rows it is. How numbers
# go in is none of them: each trial trains every kind that a fit trains, and its loss decides.
TUNABLE = (
    *("hidden", "activation", "dropout", "dropout_until", "initializer", "label_smoothing"),
    *("optimizer", "learning_rate", "schedule", "batch_size", "epochs"),
    *("weight_decay", "l2", "clip_norm"),
)


def narrowed(space: Space, settings: Settings) -> Space:
    """The space without the settings that are given: those that are not as by default.

    ValueError or TypeError for a space that names what is no setting to tune or holds a value that
    its setting cannot have, and for one of which nothing is left.
    """
    for name, distribution in space.items():
        if name not in TUNABLE:
            raise ValueError(
                f"space: {name!r} is not a setting to tune; these are {', '.join(TUNABLE)}"
                f"{did_you_mean(name, TUNABLE)}"
            )
        if not isinstance(distribution, Choice | Between):
            raise TypeError(
                f"space: {name} must be a Choice, Between or Times, got {distribution!r}; for one "
                f"value: Settings({name}=...)"
            )
        for value in _extremes(distribution, name):
            replace(settings, **{name: value})
    default = Settings()
    left = {n: d for n, d in space.items() if getattr(settings, n) == getattr(default, n)}
    if not left:
        why = f"all of it is given ({', '.join(space)})" if space else "it is empty"
        raise ValueError(f"space has nothing to draw: {why}; leave a setting to the search")
    return left


def _extremes(distribution: Distribution, name: str) -> list[Any]:
    """The values that a setting can have at most, as far as they are known."""
    if isinstance(distribution, Choice):
        return [*distribution.values]
    ends = [] if isinstance(distribution, Times) else [distribution.low, distribution.high]
    return [max(LEAST[name], round(end)) if name in LEAST else end for end in ends]


def draws(
    space: Space, settings: Settings, defaults: Settings, trials: int, size: int
) -> list[list[Drawn]]:
    """What is drawn for each trial, in groups of one architecture.

    settings: that all trials have; their seed is that of the draws.   defaults: the same, resolved.
    size: of a group; the last one may be smaller. Nothing is drawn for the first trial, and the
    first group has the architecture of the settings. More trials are the same ones and others.
    ValueError or TypeError for a value that its setting cannot have.
    """
    beside = {name: d for name, d in space.items() if name in SIDE_BY_SIDE}
    apart = {name: d for name, d in space.items() if name not in SIDE_BY_SIDE}
    size = size if beside else 1
    groups: list[list[Drawn]] = []
    seen: list[Drawn] = [{}]
    for first in range(0, trials, size):
        architecture: Drawn = {}
        for attempt in range(MOST_ATTEMPTS if first else 0):
            rng = np.random.default_rng([settings.seed, first, attempt])
            architecture = _drawn(apart, settings, defaults, rng)
            if architecture not in seen:
                break
        seen.append(architecture)
        group = []
        for number in range(first, min(first + size, trials)):
            rng = np.random.default_rng([settings.seed, number])
            group.append(architecture | _drawn(beside, settings, defaults, rng))
        groups.append(group)
    groups[0][0] = {}
    return groups


MOST_ATTEMPTS = 20  # at an architecture that has not been drawn before


def _drawn(space: Space, settings: Settings, defaults: Settings, rng: np.random.Generator) -> Drawn:
    """A value for each setting, as `Settings` holds it."""
    found = {}
    for name, distribution in space.items():
        default = getattr(defaults, name)
        if isinstance(distribution, Times) and not isinstance(default, float | int):
            raise TypeError(f"space: {name} has no default to multiply; give it Between or Choice")
        value = distribution.draw(rng, default)
        found[name] = max(LEAST[name], round(value)) if name in LEAST else value
    made = replace(settings, **found)
    return {name: getattr(made, name) for name in found}
