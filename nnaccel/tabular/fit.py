"""The training run of a table: its rows split, encoded and weighed, and the epochs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device, select, to_host
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.definition import Run
from nnaccel.maths import losses
from nnaccel.maths.metrics import Metric, for_loss
from nnaccel.maths.minibatch import n_steps
from nnaccel.maths.optimizers import Optimizer
from nnaccel.tabular.datasets import split
from nnaccel.tabular.features import fit_features
from nnaccel.tabular.model import Model, labelled, n_outputs_of, scores_of
from nnaccel.tabular.settings import Settings, build, resolve, to_dict
from nnaccel.tabular.sources import Examples, take
from nnaccel.tabular.targets import Target, fit_target
from nnaccel.training.data import class_weights
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train


class Rows(NamedTuple):
    """Rows that are not yet encoded: a table or a matrix, and the target of each."""

    data: Any
    y: Any

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return len(self.y)

    def split(self, part: str, target: Target, fraction: float, seed: int) -> tuple["Rows", "Rows"]:
        """The rows that stay, and that fraction of them which becomes the part of this name."""
        stratify = target.task == "classification"
        try:
            numbers = split(target.encode(self.y), fraction, seed, stratify)
        except ValueError as error:
            raise ValueError(f"{part}_fraction: {error}") from None
        kept, held = (Rows(take(self.data, n), take(self.y, n)) for n in numbers)
        return kept, held


class Parts(NamedTuple):
    """What the rows are for; None where there are none for it."""

    train: Rows
    validation: Rows | None
    test: Rows | None


def split_examples(
    examples: Examples, settings: Settings, test_fraction: float
) -> tuple[Parts, Target, Settings]:
    """The parts of the examples, the target as it is trained on, and the settings resolved."""
    rows, test = Rows(*labelled(examples.data, examples.y, examples.target)), None
    task = examples.task if settings.task == "auto" else settings.task
    target = fit_target(rows.y, task, examples.target)
    if examples.test is not None:
        test = Rows(*labelled(*examples.test, examples.target))
    elif test_fraction:
        rows, test = rows.split("test", target, test_fraction, settings.seed)
    n_classes, pixels = len(target.classes), examples.pixels
    settings = resolve(settings, rows.n_rows, n_classes, pixels=pixels)
    target = target_in_training(target, rows.y, settings)
    held, fraction = None, settings.validation_fraction
    if fraction:
        rows, held = rows.split("validation", target, fraction, settings.seed)
    return Parts(rows, held, test), target, settings


def target_in_training(target: Target, y: Any, settings: Settings) -> Target:
    """The target with the scale of the rows that are left to train and validate."""
    if target.task == "regression":
        target = fit_target(y, "regression", target.name)
    if target.task == "regression" and losses.get(settings.loss).targets.bounded:
        return replace(target, mean=0.0, scale=1.0)  # in their own units
    return target


def weights_of(Y: np.ndarray, target: Target, settings: Settings) -> np.ndarray | None:
    """How much each training row counts; ValueError for a target that the settings do not fit."""
    if settings.loss == "poisson" and (Y < 0).any():
        raise ValueError(f"target {target.name!r} has negative values; loss 'poisson' counts")
    if settings.class_weight is None:
        return None
    if target.task == "regression":
        raise ValueError("class_weight is for classification, and this is regression")
    return class_weights(Y, settings.class_weight)


def kernels_for(
    run: Run, device: Device, kernels: bool | str, n_rows: int, n_epochs: int
) -> bool | str:
    """`kernels`, but "numpy" for all of them where the run is too short to repay loading them."""
    steps = n_steps(n_rows, run.batch_size, n_epochs)
    repaid = kernels is not True or backend_of(device.xp).repays_loading(run, steps)
    return kernels if repaid else "numpy"


class Fit:
    """A training run on examples: iterate over it for its epochs, then ask for the `model`.

    Attributes
    ----------
    settings : Settings
        With every default decided.
    features, target, network, loss, metric
        What it trains.
    rows : dict of int
        How many rows train, validate and test.
    """

    def __init__(
        self,
        examples: Examples,
        settings: Settings,
        *,
        device: Device | None = None,
        exclude: tuple[str, ...] = (),
        test_fraction: float = 0.2,
        kernels: bool | str = True,
    ) -> None:
        """Split and encode the examples and build the network; ValueError for data or settings
        from which nothing can be learned, and for test data that do not fit."""
        self.device = device or select("cpu")
        parts, self.target, self.settings = split_examples(examples, settings, test_fraction)
        self.rows = {name: part.n_rows if part else 0 for name, part in parts._asdict().items()}
        rows, held, test = parts
        self.features = fit_features(rows.data, exclude=exclude, names=examples.names)
        X, Y = self._encode(rows)
        self._test = None if test is None else (self._encode(test)[0], test.y)
        settings = self.settings
        weights = weights_of(Y, self.target, settings)
        self.network, self.loss, optimizer = build(
            settings, X.shape[1], n_outputs_of(self.target, settings.loss), rows.n_rows
        )
        self.metric: Metric = for_loss(self.loss)
        self.unit = self.target.scale if self.target.task == "regression" else 1.0
        self.history: list[dict[str, float]] = []
        self._last: Epoch | None = None
        self._stopping = EarlyStopping(
            settings.early_stopping or None, monitor="validation_loss" if held else "loss"
        )
        run = self._run(optimizer)
        kernels = kernels_for(run, self.device, kernels, rows.n_rows, settings.epochs or 1)
        self.kernels = backend_of(self.device.xp, kernels).explain(run)
        self._epochs = train(
            run.network,
            X,
            Y,
            loss=run.loss,
            optimizer=run.optimizer,
            epochs=settings.epochs or 1,
            batch_size=run.batch_size,
            l2=run.l2,
            sample_weight=weights,
            validation_data=self._encode(held) if held else None,
            metric=run.metric,
            seed=settings.seed,
            device=self.device,
            dtype=run.dtype,
            precision=run.precision,
            kernels=kernels,
        )

    def _encode(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """X and Y as the network and its loss take them."""
        X = self.features.transform(rows.data, self.settings.dtype)
        return X, self.target.encode(rows.y)

    def _run(self, optimizer: Optimizer) -> Run:
        """What the training loop computes."""
        settings = self.settings
        return Run(
            self.network,
            self.loss,
            optimizer,
            min(settings.batch_size or 1, self.rows["train"]),
            settings.dtype,
            settings.l2,
            self.metric,
            precision=settings.precision,
        )

    def __iter__(self) -> Iterator[Epoch]:
        """The epochs, their metric in the units of the target."""
        epochs = self._stopping(self._epochs) if self.rows["validation"] else self._epochs
        for epoch in epochs:
            self._last = replace(
                epoch,
                metric=epoch.metric * self.unit,
                validation_metric=epoch.validation_metric and epoch.validation_metric * self.unit,
            )
            self.history.append(self._last.scores())
            yield self._last

    @property
    def best(self) -> int:
        """The number of the epoch whose weights the model has."""
        chosen = self._stopping.best or self._last
        return chosen.number if chosen else 0

    def model(self) -> Model:
        """The model with the weights of the best epoch, or of the last one where nothing was set
        aside to tell. RuntimeError before the first epoch."""
        chosen = self._stopping.best or self._last
        if chosen is None:
            raise RuntimeError("the model has not been trained; iterate over the fit first")
        return Model(
            self.network,
            np.array(to_host(chosen.params)),
            self.loss,
            self.features,
            self.target,
            self.history,
            to_dict(self.settings),
            {},
        )

    def evaluate(self, model: Model) -> dict[str, Any]:
        """Scores of the model on the rows held out for the test; none where there are none."""
        if self._test is None:
            return {}
        X, y = self._test
        return scores_of(self.target, model.outputs_of(X, self.device), y)
