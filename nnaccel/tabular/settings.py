"""How to train on a table when nobody says otherwise: every setting, and defaults by the data.

The defaults were chosen on data sets from 150 to 60,000 rows and are stated in `resolve`, the one
place that knows them.
"""

from collections import ChainMap
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from math import log2
from numbers import Integral, Real
from typing import Any

import numpy as np

from nnaccel.arguments import at_least, find
from nnaccel.maths import activations, initializers, losses, optimizers, schedules
from nnaccel.maths.losses import Loss
from nnaccel.maths.minibatch import n_steps
from nnaccel.maths.network import Network, mlp
from nnaccel.maths.optimizers import Optimizer
from nnaccel.maths.precision import PRECISIONS, check_precision
from nnaccel.tabular.targets import check_loss

SMALL = 2000  # rows below which none is set aside for validation: all are needed for training
TASKS = ("auto", "classification", "regression")


@dataclass(frozen=True)
class Settings:
    """Every choice about a training run; None, or "auto", leaves it to `resolve`.

    hidden: units of each hidden layer, () for a linear model.   activation: one, or one a layer.
    early_stopping: epochs without a better validation loss after which to stop; 0 for never.
    validation_fraction: of the training rows, set aside to find the best epoch; 0 for none.
    """

    task: str = "auto"
    hidden: tuple[int, ...] | None = None
    activation: tuple[str, ...] = ("auto",)
    dropout: float | None = None
    initializer: str = "auto"
    loss: str = "auto"
    quantile: float | None = None
    label_smoothing: float = 0.0
    class_weight: str | None = None
    optimizer: str = "adamw"
    learning_rate: float | None = None
    schedule: str = "one_cycle"
    batch_size: int | None = None
    epochs: int | None = None
    early_stopping: int = 0
    validation_fraction: float | None = None
    weight_decay: float | None = None
    l2: float = 0.0
    clip_norm: float | None = None
    seed: int = 0
    dtype: str = "float32"
    precision: str = "float32"

    def __post_init__(self) -> None:
        """ValueError or TypeError that names the first setting out of range or of another kind."""
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
            for word in self.activation if name == "activation" else (getattr(self, name),):
                find(name, word, dict.fromkeys(known))
        object.__setattr__(self, "optimizer", optimizers.canonical(self.optimizer))
        check_precision(self.precision, self.dtype)
        if self.early_stopping and self.validation_fraction == 0:
            raise ValueError(
                "early_stopping needs rows to tell by; leave validation_fraction out, or above 0"
            )
        if self.class_weight not in (None, "balanced"):
            raise ValueError(f"class_weight must be 'balanced', got {self.class_weight!r}")

    def _make_plain(self) -> None:
        """Numbers in their range, and Python's own, since a model file holds no others."""
        if self.hidden:
            units = tuple(number for size in self.hidden for number in at_least(1, hidden=size))
            object.__setattr__(self, "hidden", units)
        for name, least in LEAST.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, *at_least(least, **{name: value}))
        for name, (expected, holds) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, Real | None) or isinstance(value, bool):
                raise TypeError(f"{name} must be {expected}, got {value!r}")
            if value is not None and not holds(value):
                raise ValueError(f"{name} must be {expected}, got {value}")
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())


Range = tuple[str, Callable[[Any], bool]]
SHARE: Range = ("at least 0 and below 1", lambda v: 0 <= v < 1)
AMOUNT: Range = ("a finite number of at least 0", lambda v: 0 <= v < 1e300)
POSITIVE: Range = ("a positive finite number", lambda v: 0 < v < 1e300)
LEAST = {"batch_size": 1, "epochs": 1, "early_stopping": 0}  # whole numbers
RANGES: dict[str, Range] = {
    "seed": (
        "a whole number from 0 to 2^64 - 1",
        lambda v: isinstance(v, Integral) and 0 <= int(v) < 2**64,
    ),
    "dropout": SHARE,
    "validation_fraction": SHARE,
    "label_smoothing": SHARE,
    "quantile": ("between 0 and 1", lambda v: 0 < v < 1),
    "learning_rate": POSITIVE,
    "clip_norm": POSITIVE,
    "weight_decay": AMOUNT,
    "l2": AMOUNT,
}
# The tables themselves, so that what is added to one is known here too.
AUTO: dict[str, Any] = {"auto": None}
NAMES: dict[str, Collection[str]] = {
    "task": TASKS,
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

    Below 2,000 rows: two hidden layers (128, 64), 60 epochs in batches of about N/25, and all rows
    train. Above: (256, 128, 64), so many epochs that about 800,000 examples are seen, batches of
    about N/200 from 128 to 1024, and 15 % of the rows, at most 5,000, tell the best epoch.
    tanh, which is ahead on tables, or ReLU, which is on pixels. Dropout 0.1, but none for
    regression on many rows. Decoupled weight decay 0.05 with adam and adamw, else none. Two
    classes: one logit and binary cross-entropy; more: softmax; numbers: squared error.
    """
    small = N < SMALL
    task = "classification" if n_classes else "regression"
    loss = settings.loss
    if loss == "auto":
        default = "binary_cross_entropy" if n_classes == 2 else "softmax_cross_entropy"
        loss = default if n_classes else "squared_error"
    check_loss(loss, n_classes)
    hidden = settings.hidden
    if hidden is None:
        hidden = (128, 64) if small else (256, 128, 64)
    activation = settings.activation
    if activation == ("auto",):
        activation = ("relu" if pixels else "tanh",)
    optimizer = optimizers.OPTIMIZERS[settings.optimizer]
    rate = optimizer.table_rates[not small] * (1 if hidden else LINEAR_RATE)
    batch_size = 2 ** round(log2(max(N, 1) / (25 if small else 200)))
    lowest, highest = (16, 64) if small else (128, 1024)
    defaults = {
        "dropout": 0.0 if task == "regression" and not small else 0.1,
        "learning_rate": rate,
        "batch_size": min(max(batch_size, lowest), highest),
        "epochs": 60 if small else min(max(round(800_000 / N), 10), 60),
        "weight_decay": optimizer.table_decay,
        "validation_fraction": validation_fraction(settings, N),
    }
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    return replace(settings, task=task, loss=loss, hidden=hidden, activation=activation, **missing)


def validation_fraction(settings: Settings, N: int) -> float:
    """The share of N rows to set aside: as it is set, else none of few rows, else 15 %, at most
    5,000 rows. Early stopping asks for some in any case."""
    if settings.validation_fraction is not None:
        return settings.validation_fraction
    if N < SMALL and not settings.early_stopping:
        return 0.0
    return min(0.15, 5000 / N)


def build(
    settings: Settings, n_inputs: int, n_outputs: int, N: int
) -> tuple[Network, Loss, Optimizer]:
    """The network, loss and optimizer of resolved settings, for N training rows."""
    assert settings.hidden is not None
    assert settings.batch_size
    assert settings.epochs
    assert settings.learning_rate is not None
    assert settings.weight_decay is not None
    first, *others = settings.activation
    network = mlp(
        n_inputs,
        settings.hidden,
        n_outputs,
        activation=(first, *others) if others else first,
        dropout=settings.dropout or 0.0,
        initializer=settings.initializer,
    )
    options = {}
    if settings.quantile is not None:
        options["quantile"] = settings.quantile
    if settings.label_smoothing:
        options["label_smoothing"] = settings.label_smoothing
    try:
        loss = losses.get(settings.loss, **options)
    except TypeError as error:
        raise ValueError(str(error)) from None
    steps = n_steps(N, settings.batch_size, settings.epochs)
    schedule = schedules.get(settings.schedule, settings.learning_rate, steps)
    optimizer = optimizers.get(settings.optimizer, schedule, weight_decay=settings.weight_decay)
    if settings.clip_norm is not None:
        optimizer = optimizers.clipped(optimizer, settings.clip_norm)
    return network, loss, optimizer


def to_dict(settings: Settings) -> dict[str, Any]:
    """The settings as data for JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
