"""The settings of a training run on a table, and their defaults, which follow from the data.

The defaults were chosen on data sets from 150 to 60,000 rows. `resolve` alone states them.
"""

from collections import ChainMap
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from math import log2
from numbers import Integral, Real
from typing import Any

import numpy as np

from nnaccel.arguments import at_least, find
from nnaccel.maths import activations, initializers, losses, optimizers, schedules
from nnaccel.maths.layers import Chain, PiecewiseLinear
from nnaccel.maths.losses import Loss
from nnaccel.maths.minibatch import n_steps
from nnaccel.maths.network import Network, mlp
from nnaccel.maths.optimizers import Optimizer
from nnaccel.maths.precision import PRECISIONS, check_precision
from nnaccel.tabular.estimates import check_estimates
from nnaccel.tabular.tables import import_extra
from nnaccel.tabular.targets import check_loss

SMALL = 2000  # rows below which a single network trains on all rows, without held-out rows
FEW = 500  # rows below which members have small minibatches, since large ones give too few steps
TASKS = ("auto", "classification", "regression")
NUMBERS = ("auto", "plain", "piecewise", "both")
MEMBERS = 5
MEMBERS_FROM, MEMBERS_TO = 50, 100_000  # rows between which a model has several networks


@dataclass(frozen=True)
class Settings:
    """Every choice about a training run. `resolve` decides those that are None or "auto".

    hidden: units of each hidden layer, () for a linear model.   activation: one, or one a layer.
    early_stopping: epochs without a better validation loss after which to stop; 0 for never.
    scoring: what the best epoch is told by: "loss", or a name of scikit-learn's scorers.
    validation_fraction: of the training rows, set aside to find the best epoch; 0 for none.
    numbers: the form of numbers in the network's input: "plain", one input each; "piecewise", with
    their piecewise linear encoding as further inputs; "both", the mean of networks of both kinds.
    members: the number of networks. Each trains without one of as many folds of the rows and is
    validated on that fold; the prediction is their mean.
    dropout_until: the share of the epochs, from the first one on, that have dropout. loss: a name
    of `nnaccel.losses.LOSSES`, or a loss of one's own.
    quantile: the level of the quantile that is predicted, or several, ascending.
    """

    task: str = "auto"
    hidden: tuple[int, ...] | None = None
    activation: tuple[str, ...] = ("auto",)
    numbers: str = "auto"
    members: int | None = None
    dropout: float | None = None
    dropout_until: float | None = None
    initializer: str = "auto"
    loss: str | Loss = "auto"
    quantile: float | tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    class_weight: str | None = None
    optimizer: str = "adamw"
    learning_rate: float | None = None
    schedule: str = "one_cycle"
    batch_size: int | None = None
    epochs: int | None = None
    early_stopping: int = 0
    scoring: str = "loss"
    validation_fraction: float | None = None
    weight_decay: float | None = None
    l2: float = 0.0
    clip_norm: float | None = None
    seed: int = 0
    dtype: str = "float32"
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError that names the first setting that is out of range or of a
        wrong type."""
        for name in ("hidden", "activation"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list | None):
                raise TypeError(
                    f"{name} must be a tuple, one for each hidden layer, got {value!r}; for one: "
                    f"({value!r},)"
                )
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        self._make_plain()
        for name, known in NAMES.items():
            if isinstance(self.loss, Loss) and name == "loss":
                continue
            for word in self.activation if name == "activation" else (getattr(self, name),):
                find(name, word, dict.fromkeys(known))
        object.__setattr__(self, "optimizer", optimizers.canonical(self.optimizer))
        check_precision(self.precision, self.dtype)
        several = (self.members or 1) > 1 or self.numbers == "both"
        if self.scoring != "loss":
            known = import_extra("sklearn.metrics").get_scorer_names()
            find("scoring", self.scoring, dict.fromkeys(["loss", *known]))
        if self.is_judged and self.validation_fraction == 0 and not several:
            raise ValueError(
                f"{'early_stopping' if self.early_stopping else 'scoring'} needs rows to tell by; "
                "leave validation_fraction out, or above 0"
            )
        if several and self.validation_fraction:
            raise ValueError(
                "members are validated on folds of the rows; leave validation_fraction out, or "
                "set members to 1"
            )
        if self.numbers == "both" and self.members == 1:
            raise ValueError("numbers 'both' is a mean of several networks; set members above 1")
        if self.class_weight not in (None, "balanced"):
            raise ValueError(f"class_weight must be 'balanced', got {self.class_weight!r}")

    @property
    def is_judged(self) -> bool:
        """Whether rows are needed by which the epochs are judged."""
        return self.early_stopping > 0 or self.scoring != "loss"

    def _make_plain(self) -> None:
        """Checks the ranges of numbers, and converts them to Python's types, which a model file
        needs."""
        if self.hidden:
            units = tuple(number for size in self.hidden for number in at_least(1, hidden=size))
            object.__setattr__(self, "hidden", units)
        for name, least in LEAST.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, *at_least(least, **{name: value}))
        if isinstance(self.quantile, tuple | list):
            levels = tuple(_in_range("quantile", level) for level in self.quantile)
            losses.check_levels("quantile", levels)
            object.__setattr__(self, "quantile", levels[0] if len(levels) == 1 else levels)
        for name in RANGES:
            value = getattr(self, name)
            if value is not None and not isinstance(value, tuple):
                object.__setattr__(self, name, _in_range(name, value))


def _in_range(name: str, value: Any) -> Any:
    """A number as Python's own; TypeError or ValueError where it is none, or out of its range."""
    expected, holds = RANGES[name]
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if not holds(value):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return value.item() if isinstance(value, np.generic) else value


Range = tuple[str, Callable[[Any], bool]]
SHARE: Range = ("at least 0 and below 1", lambda v: 0 <= v < 1)
AMOUNT: Range = ("a finite number of at least 0", lambda v: 0 <= v < 1e300)
POSITIVE: Range = ("a positive finite number", lambda v: 0 < v < 1e300)
LEAST = {"batch_size": 1, "epochs": 1, "early_stopping": 0, "members": 1}  # whole numbers
RANGES: dict[str, Range] = {
    "seed": (
        "a whole number from 0 to 2^64 - 1",
        lambda v: isinstance(v, Integral) and 0 <= int(v) < 2**64,
    ),
    "dropout": SHARE,
    "dropout_until": ("from 0 to 1", lambda v: 0 <= v <= 1),
    "validation_fraction": SHARE,
    "label_smoothing": SHARE,
    "quantile": ("between 0 and 1", lambda v: 0 < v < 1),
    "learning_rate": POSITIVE,
    "clip_norm": POSITIVE,
    "weight_decay": AMOUNT,
    "l2": AMOUNT,
}
# The tables themselves, so that rows added to them are accepted here, too.
AUTO: dict[str, Any] = {"auto": None}
NAMES: dict[str, Collection[str]] = {
    "task": TASKS,
    "numbers": NUMBERS,
    "activation": ChainMap(activations.ACTIVATIONS, AUTO),
    "initializer": ChainMap(initializers.INITIALIZERS, AUTO),
    "loss": ChainMap(losses.LOSSES, AUTO),
    "optimizer": ChainMap[str, Any](optimizers.ALIASES, optimizers.OPTIMIZERS),
    "schedule": schedules.SCHEDULES,
    "dtype": ("float32", "float64"),
    "precision": tuple(PRECISIONS),
}
LINEAR_RATE = 20  # times the rate for a network without hidden layers, whose loss is convex


def resolve(settings: Settings, N: int, n_classes: int, *, pixels: bool = False) -> Settings:
    """The settings with every None and "auto" decided, for N rows of training data.

    n_classes: 0 for regression.   pixels: whether the columns are the pixels of an image.

    A table of 50 to 100,000 rows, whose network is not laid out by `hidden`, has five members, and
    its numbers go in as the out-of-fold loss decides: plain, piecewise or both. Other networks are
    one: with the piecewise linear encoding of numbers, unless the columns are pixels or `hidden` is
    set; then, from 2,000 rows on, 15 % of the rows, at most 5,000, tell the best epoch.

    Hidden layers (256, 128, 64), for one network below 2,000 rows (128, 64), and as many epochs, 10
    to 60, as visit about 800,000 examples. Batches of about N/200 from 128 to 1024, for one network
    below 2,000 rows, and for members below 500, about N/25 from 16 to 64, as even as can be. tanh,
    which is ahead on tables, or ReLU,
    which is on pixels. With the encoding dropout 0.1, but none in the last quarter of the
    epochs, and decoupled weight decay 0.2 with adam and adamw, else none; without it, dropout 0.1,
    but none for regression on many rows, and decay 0.05. Two classes: one logit and binary
    cross-entropy; more: softmax; numbers: squared error, or with a quantile the pinball loss.
    """
    members = settings.members
    if members is None:
        members = default_members(settings, N, pixels=pixels)
    numbers = settings.numbers
    if numbers == "auto" and (pixels or settings.hidden is not None):
        numbers = "plain"
    elif numbers == "auto" and members == 1:
        numbers = "piecewise"
    small = N < SMALL and members == 1
    task = "classification" if n_classes else "regression"
    loss = settings.loss
    if loss == "auto":
        default = "binary_cross_entropy" if n_classes == 2 else "softmax_cross_entropy"
        of_numbers = "squared_error" if settings.quantile is None else "pinball"
        loss = default if n_classes else of_numbers
    check_loss(loss, n_classes)
    if settings.quantile is not None and n_classes:
        raise ValueError(
            f"quantile is for numbers, and the target has {n_classes} classes; leave it out, or "
            "set task to regression"
        )
    if isinstance(settings.quantile, tuple) and settings.scoring != "loss":
        raise ValueError(
            f"scoring {settings.scoring!r} is of one prediction for each target, and there are "
            f"{len(settings.quantile)} quantiles; leave it out"
        )
    hidden = settings.hidden
    if hidden is None:
        hidden = (128, 64) if small else (256, 128, 64)
    activation = settings.activation
    if activation == ("auto",):
        activation = ("relu" if pixels else "tanh",)
    optimizer = optimizers.OPTIMIZERS[settings.optimizer]
    rate = optimizer.table_rates[not small] * (1 if hidden else LINEAR_RATE)
    few = small or N < FEW
    batch_size = 2 ** round(log2(max(N, 1) / (25 if few else 200)))
    lowest, highest = (16, 64) if few else (128, 1024)
    encoded = numbers != "plain"
    dropout = 0.0 if task == "regression" and not small else 0.1
    defaults = {
        "dropout": 0.1 if encoded else dropout,
        "dropout_until": 0.75 if encoded else 1.0,
        "learning_rate": rate,
        "batch_size": min(max(batch_size, lowest), highest),
        "epochs": 60 if small else min(max(round(800_000 / N), 10), 60),
        "weight_decay": 4 * optimizer.table_decay if encoded else optimizer.table_decay,
        "validation_fraction": 0.0 if members > 1 else validation_fraction(settings, N),
    }
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    found = {"task": task, "loss": loss, "hidden": hidden, "activation": activation}
    return replace(settings, numbers=numbers, members=members, **found, **missing)


def default_members(settings: Settings, N: int, *, pixels: bool) -> int:
    """The default number of networks."""
    if settings.numbers == "both":
        return MEMBERS
    laid_out = settings.hidden is not None or settings.validation_fraction is not None
    several = MEMBERS_FROM <= N <= MEMBERS_TO and not pixels and not laid_out
    return MEMBERS if several else 1


def variants(settings: Settings, N: int, n_classes: int, *, pixels: bool = False) -> list[Settings]:
    """The resolved settings of each kind of networks to train: both kinds if `numbers` is "auto" or
    "both" after `resolve`, else one."""
    resolved = resolve(settings, N, n_classes, pixels=pixels)
    kinds = [resolved.numbers]
    if resolved.numbers in ("auto", "both"):
        kinds = ["plain", "piecewise"]
    chosen = (replace(settings, numbers=kind, members=resolved.members) for kind in kinds)
    return [resolve(each, N, n_classes, pixels=pixels) for each in chosen]


def even_batch(batch_size: int, N: int) -> int:
    """The size near batch_size that divides N rows into the most even minibatches.

    A last minibatch of a few rows ruins a run: its gradient is mostly noise and has the full
    learning rate, and its square inflates Adam's second moment.
    """
    return -(-N // max(1, N // batch_size))


def validation_fraction(settings: Settings, N: int) -> float:
    """The fraction of N rows to set aside: the given one; else 15 %, at most 5,000 rows, or none of
    fewer than 2,000 rows, unless the epochs are to be judged."""
    if settings.validation_fraction is not None:
        return settings.validation_fraction
    if N < SMALL and not settings.is_judged:
        return 0.0
    return min(0.15, 5000 / N)


def build(
    settings: Settings,
    n_inputs: int,
    n_outputs: int,
    N: int,
    edges: tuple[tuple[float, ...], ...] = (),
) -> tuple[Network, Loss, Optimizer]:
    """The network, loss and optimizer of resolved settings, for N training rows; see
    `network_for`."""
    network = network_for(settings, n_inputs, n_outputs, edges)
    return network, loss_for(settings), optimizer_for([settings], N)


def network_for(
    settings: Settings,
    n_inputs: int,
    n_outputs: int,
    edges: tuple[tuple[float, ...], ...] = (),
) -> Network:
    """The network of resolved settings.

    edges: of the piecewise linear encoding, which is the first layer if any column has edges.
    """
    assert settings.hidden is not None
    first, *others = settings.activation
    encoding = (PiecewiseLinear(edges),) if any(edges) else ()
    width = Chain(encoding).width(n_inputs)
    network = mlp(
        width,
        settings.hidden,
        n_outputs,
        activation=(first, *others) if others else first,
        dropout=settings.dropout or 0.0,
        initializer=settings.initializer,
    )
    return Network(n_inputs, (*encoding, *network.layers))


def optimizer_for(configurations: Sequence[Settings], N: int, members: int = 1) -> Optimizer:
    """The optimizer of resolved settings for N training rows; of several configurations, which
    differ in `SIDE_BY_SIDE` alone, that of all their networks, `members` for each."""
    settings = configurations[0]
    assert settings.batch_size
    assert settings.epochs
    steps = n_steps(N, settings.batch_size, settings.epochs)
    rate = of_networks(configurations, "learning_rate", members)
    schedule = schedules.get(settings.schedule, rate, steps)
    decay = of_networks(configurations, "weight_decay", members)
    optimizer = optimizers.get(settings.optimizer, schedule, weight_decay=decay)
    if settings.clip_norm is not None:
        optimizer = optimizers.clipped(optimizer, settings.clip_norm)
    return optimizer


# The settings that may differ between networks which train as one product.
SIDE_BY_SIDE = ("learning_rate", "weight_decay", "l2")


def of_networks(configurations: Sequence[Settings], name: str, members: int) -> Any:
    """A setting of resolved configurations: a number, or where they differ in it an array (K, 1),
    one for each of K networks, `members` of each configuration."""
    values = [getattr(each, name) for each in configurations]
    if len({*values}) == 1:
        return values[0]
    return np.repeat(np.array(values, np.float64), members)[:, None]


def loss_for(settings: Settings) -> Loss:
    """The loss of resolved settings, with its options."""
    options = {}
    if settings.quantile is not None:
        options["quantile"] = settings.quantile
    if settings.label_smoothing:
        options["label_smoothing"] = settings.label_smoothing
    try:
        loss = losses.get(settings.loss, **options)
    except TypeError as error:
        raise ValueError(str(error)) from None
    check_estimates(loss)
    return loss


def to_dict(settings: Settings) -> dict[str, Any]:
    """The settings as data for JSON, a loss by its name."""
    plain = replace(settings, loss="auto") if isinstance(settings.loss, Loss) else settings
    found = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(plain).items()}
    return found | {"loss": losses.get(settings.loss).name} if plain is not settings else found
