"""The space of settings in which `tune` looks for the best: a distribution for each of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from nnaccel.arguments import did_you_mean
from nnaccel.tabular.settings import LEAST, SIDE_BY_SIDE, Settings


@dataclass(frozen=True)
class Choice:
    """One of some values, all as likely."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        if not values:
            raise ValueError("a Choice needs at least one value, such as Choice(0.0, 0.1)")
        object.__setattr__(self, "values", values)

    def draw(self, rng: np.random.Generator, default: Any) -> Any:
        return self.values[rng.integers(len(self.values))]


@dataclass(frozen=True)
class Between:
    """A number between two, its logarithm uniform."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(
                f"{type(self).__name__} must be from a number above 0 to a larger one, got "
                f"{self.low} and {self.high}; for other values: Choice(0.0, 0.1)"
            )

    def draw(self, rng: np.random.Generator, default: Any) -> float:
        return _short(self.low * (self.high / self.low) ** rng.random())


@dataclass(frozen=True)
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
    "hidden": Choice((128, 64), (256, 128, 64), (256, 256), (512, 256, 128)),
    "activation": Choice(("tanh",), ("silu",), ("relu",)),
    "dropout": Choice(0.0, 0.1, 0.2, 0.35),
    "learning_rate": Times(0.3, 3.0),
    "weight_decay": Between(0.01, 1.0),
}

# The settings that do not change what a validation loss means, nor of which rows it is.
TUNABLE = (
    *("hidden", "activation", "numbers", "dropout", "dropout_until", "initializer"),
    *("label_smoothing", "optimizer", "learning_rate", "schedule", "batch_size", "epochs"),
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
        for value in _extremes(distribution):
            Settings(**{name: value})
    default = Settings()
    left = {n: d for n, d in space.items() if getattr(settings, n) == getattr(default, n)}
    if not left:
        raise ValueError(
            f"space has nothing to draw: {', '.join(space) or 'it is empty'}"
            f"{' are all given' if space else ''}; leave one of the settings to the search"
        )
    return left


def _extremes(distribution: Distribution) -> tuple[Any, ...]:
    if isinstance(distribution, Choice):
        return distribution.values
    return () if isinstance(distribution, Times) else (distribution.low, distribution.high)


def draws(space: Space, defaults: Settings, trials: int, size: int, seed: int) -> list[list[Drawn]]:
    """What is drawn for each trial, in groups of one architecture: lists of the settings by name.

    defaults: resolved.   size: of a group, the last of which may be smaller.   The first trial has
    nothing drawn, and the first group its architecture. The same seed gives the same draws, however
    many trials there are.
    """
    beside = {name: d for name, d in space.items() if name in SIDE_BY_SIDE}
    apart = {name: d for name, d in space.items() if name not in SIDE_BY_SIDE}
    size = size if beside else 1
    groups: list[list[Drawn]] = []
    seen: list[Drawn] = [{}]
    for first in range(0, trials, size):
        architecture: Drawn = {}
        for attempt in range(MOST_ATTEMPTS if first else 0):
            rng = _generator(seed, first, attempt)
            architecture = _drawn(apart, defaults, rng)
            if architecture not in seen:
                break
        seen.append(architecture)
        numbers = range(first, min(first + size, trials))
        groups.append(
            [architecture | _drawn(beside, defaults, _generator(seed, n, -1)) for n in numbers]
        )
    groups[0][0] = {}
    return groups


MOST_ATTEMPTS = 20  # at an architecture that has not been drawn before


def _generator(seed: int, trial: int, attempt: int) -> np.random.Generator:
    return np.random.default_rng([seed, trial, attempt + 1])


def _drawn(space: Space, defaults: Settings, rng: np.random.Generator) -> dict[str, Any]:
    found = {}
    for name, distribution in space.items():
        value = distribution.draw(rng, getattr(defaults, name))
        found[name] = max(LEAST[name], round(value)) if name in LEAST else value
    return found
