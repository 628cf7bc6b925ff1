"""The search space of `tune`: a distribution for each setting."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from nnaccel.arguments import did_you_mean
from nnaccel.tabular.settings import LEAST, SIDE_BY_SIDE, Settings

TRIALS, SECONDS = 40, 600.0  # default limits of a search


@dataclass(frozen=True, repr=False)
class Choice:
    """One of several values, with equal probabilities."""

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
    """A number between two limits, log-uniform."""

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
    """The default of the setting times a log-uniform number between two limits."""

    def draw(self, rng: np.random.Generator, default: Any) -> float:
        return _short(default * super().draw(rng, default))


def _short(number: float) -> float:
    """The number rounded to three digits: easy to copy, and precise enough."""
    return float(f"{number:.3g}")


Distribution: TypeAlias = Choice | Between | Times
Space: TypeAlias = Mapping[str, Distribution]
Drawn: TypeAlias = dict[str, Any]  # the values of some settings, by name

# The default search space.
SPACE: Space = {
    "hidden": Choice((32,), (128, 64), (256, 128, 64), (256, 256), (512, 256, 128)),
    "activation": Choice(("tanh",), ("silu",), ("relu",)),
    "dropout": Choice(0.0, 0.1, 0.2, 0.35),
    "learning_rate": Times(0.3, 3.0),
    "weight_decay": Between(0.01, 1.0),
}

# Settings that change neither the meaning of the validation loss nor its rows. The encoding of
# numbers is not among them: each trial trains all kinds of networks that a fit trains, and the
# lowest loss selects one.
TUNABLE = (
    *("hidden", "activation", "dropout", "dropout_until", "initializer", "label_smoothing"),
    *("optimizer", "learning_rate", "schedule", "batch_size", "epochs"),
    *("weight_decay", "l2", "clip_norm"),
)


def narrowed(space: Space, settings: Settings) -> Space:
    """The space without the settings that the user has given, which differ from their defaults.

    Raises ValueError or TypeError for a space with a name that cannot be tuned or a value that its
    setting cannot have, and for an empty result.
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
    """All values of a Choice, or the limits of a Between; [] for Times."""
    if isinstance(distribution, Choice):
        return [*distribution.values]
    ends = [] if isinstance(distribution, Times) else [distribution.low, distribution.high]
    return [max(LEAST[name], round(end)) if name in LEAST else end for end in ends]


def draws(
    space: Space, settings: Settings, defaults: Settings, trials: int, size: int
) -> list[list[Drawn]]:
    """The drawn settings of each trial, in groups with the same architecture.

    settings: common to all trials; their seed is the seed of the draws.   defaults: the same,
    resolved.   size: of a group; the last group may be smaller. Nothing is drawn for the first
    trial, and the first group has the architecture of `settings`. A larger number of trials begins
    with the same trials.
    Raises ValueError or TypeError for a value that its setting cannot have.
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


MOST_ATTEMPTS = 20  # to draw an architecture that differs from all earlier ones


def _drawn(space: Space, settings: Settings, defaults: Settings, rng: np.random.Generator) -> Drawn:
    """A drawn value for each setting, in the form of `Settings`."""
    found = {}
    for name, distribution in space.items():
        default = getattr(defaults, name)
        if isinstance(distribution, Times) and not isinstance(default, float | int):
            raise TypeError(f"space: {name} has no default to multiply; give it Between or Choice")
        value = distribution.draw(rng, default)
        found[name] = max(LEAST[name], round(value)) if name in LEAST else value
    made = replace(settings, **found)
    return {name: getattr(made, name) for name in found}
