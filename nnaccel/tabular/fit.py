"""The training run of a table: its rows split, encoded and weighed, and the epochs."""

from collections.abc import Iterator, Mapping
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
from nnaccel.tabular.labels import read_labels
from nnaccel.tabular.model import Model, labelled
from nnaccel.tabular.scores import scores_of
from nnaccel.tabular.settings import Settings, build, resolve, to_dict
from nnaccel.tabular.several_targets import Targets, fit_targets
from nnaccel.tabular.sources import Examples, Rows
from nnaccel.tabular.survey import NO_RULES, Rules, Survey, survey
from nnaccel.tabular.tables import as_table, by_name, import_extra
from nnaccel.tabular.targets import Target, explain_task, fit_target, is_text_column
from nnaccel.training.data import class_weights
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train

Forms = dict[str, str]  # of the targets by name, see `Target.form`


class Parts(NamedTuple):
    """What the rows are for; None where there are none for it."""

    train: Rows
    validation: Rows | None
    test: Rows | None


def surveyed(examples: Examples, rules: Rules) -> tuple[Examples, Survey | None, Forms]:
    """The examples with all cells read, how the columns were read, and the form of each target.

    A matrix is as it is.
    """
    if isinstance(examples.data, np.ndarray):
        return examples, None, {}
    found, table = survey(as_table(examples.data), rules)
    y, forms = examples.y, {}
    if examples.written:
        quoted = examples.structure.quoted if examples.structure else {}
        y, forms = _read_targets(examples.target, y, found.decimal, quoted)
    return examples._replace(data=table, y=y), found, forms


def _read_targets(
    name: str, y: Any, decimal: str, quoted: Mapping[str, frozenset[str]]
) -> tuple[Any, Forms]:
    """The columns of a target as what their text means.   quoted: see `delimited.Structure`."""
    forms: Forms = {}
    columns = by_name(y, name)
    for column, cells in columns.items():
        if is_text_column(cells):
            words = quoted.get(column, frozenset())
            columns[column], reading = read_labels(column, cells, decimal, words)
            forms[column] = reading.form
    several = hasattr(y, "column_names")
    return (import_extra("pyarrow").table(columns) if several else columns[name]), forms


def split_examples(
    examples: Examples, settings: Settings, test_fraction: float, forms: Forms
) -> tuple[Parts, Target | Targets, Settings]:
    """The parts of the examples, the target as it is trained on, and the settings resolved.

    forms: how the numbers of a target are written, see `Target.form`.
    """
    task = examples.task if settings.task == "auto" else settings.task
    rows, test = labelled(examples.rows, examples.target), None
    target = fit_target_of(rows.y, task, examples.target, forms)
    if examples.test is not None:
        test = examples.test._replace(y=target.parse(examples.test.y))
        test = labelled(test, examples.target)
    elif test_fraction:
        rows, test = split_rows(rows, "test", target, test_fraction, settings.seed)
    n_classes = 2 if target.task == "labels" else len(target.classes)
    settings = resolve(settings, rows.n_rows, n_classes, pixels=examples.pixels)
    if target.task == "regression":
        target = fit_target_of(rows.y, "regression", examples.target, forms)
        if losses.get(settings.loss).targets.bounded:
            target = in_own_units(target)
    held, fraction = None, settings.validation_fraction
    if fraction:
        rows, held = split_rows(rows, "validation", target, fraction, settings.seed)
    parts = Parts(rows, held, test)
    for name, part in parts._asdict().items():
        if part is not None and part.weights is not None and not part.weights.any():
            raise ValueError(f"all rows of the {name} part have weight 0; another --seed may help")
    return parts, target, settings


def split_rows(
    rows: Rows, part: str, target: Target | Targets, fraction: float, seed: int
) -> tuple[Rows, Rows]:
    """The rows that stay, and that fraction of them which becomes the part of this name."""
    stratify = isinstance(target, Target) and target.task == "classification"
    codes = np.arange(rows.n_rows)
    if isinstance(target, Target) and stratify:
        codes = target.encode(rows.y)
        target.check_split(codes)
    try:
        kept, held = split(codes, fraction, seed, stratify)
    except ValueError as error:
        raise ValueError(f"{part}_fraction: {error}") from None
    return rows.take(kept), rows.take(held)


def fit_target_of(y: Any, task: str, name: str, forms: Forms) -> Target | Targets:
    """The target of a column, or the targets of a table of several."""
    if hasattr(y, "column_names"):
        several = fit_targets(y, task)
        return Targets(tuple(_in_form(target, forms) for target in several.columns))
    return _in_form(fit_target(y, task, name), forms)


def _in_form(target: Target, forms: Forms) -> Target:
    return replace(target, form=forms.get(target.name) or target.form)


def in_own_units(target: Target | Targets) -> Target | Targets:
    """A regression target that is not standardised, for a loss that has a range."""
    if isinstance(target, Targets):
        return Targets(tuple(replace(t, mean=0.0, scale=1.0) for t in target.columns))
    return replace(target, mean=0.0, scale=1.0)


def weights_of(
    Y: np.ndarray, target: Target | Targets, settings: Settings, weights: np.ndarray | None
) -> np.ndarray | None:
    """How much each training row counts; ValueError for a target that the settings do not fit."""
    if settings.loss == "poisson" and (Y < 0).any():
        raise ValueError(f"target {target.name!r} has negative values; loss 'poisson' counts")
    if settings.class_weight is None:
        return weights
    if target.task != "classification":
        raise ValueError(
            f"class_weight is for classification of one target, and this is {target.task}"
        )
    balanced = class_weights(Y, settings.class_weight)
    return balanced if weights is None else balanced * weights


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
    hint : str
        Why whole numbers are classes or quantities where that was guessed, and what changes it.
    """

    def __init__(
        self,
        examples: Examples,
        settings: Settings,
        *,
        device: Device | None = None,
        rules: Rules = NO_RULES,
        test_fraction: float = 0.2,
        kernels: bool | str = True,
    ) -> None:
        """Split and encode the examples and build the network; ValueError for data or settings
        from which nothing can be learned, and for test data that do not fit."""
        self.device = device or select("cpu")
        examples, found, forms = surveyed(examples, rules)
        parts, self.target, self.settings = split_examples(examples, settings, test_fraction, forms)
        guessed = "auto" == examples.task == settings.task
        one = self.target if isinstance(self.target, Target) else None
        self.hint = explain_task(examples.y, one) if one and guessed else ""
        self.rows = {name: part.n_rows if part else 0 for name, part in parts._asdict().items()}
        rows, held, test = parts
        self.features = fit_features(
            rows.data, exclude=rules.drop, names=examples.names, surveyed=found
        )
        X, Y = self._encode(rows)
        self._test = None if test is None else test._replace(data=self._encode(test)[0])
        settings = self.settings
        weights = weights_of(Y, self.target, settings, rows.weights)
        n_outputs = self.target.n_outputs(losses.get(settings.loss).targets.kind)
        self.network, self.loss, optimizer = build(settings, X.shape[1], n_outputs, rows.n_rows)
        self.metric: Metric = for_loss(self.loss)
        # The metric of several targets is in standard deviations.
        self.unit = one.scale if one and one.task == "regression" else 1.0
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
            validation_data=(*self._encode(held), held.weights) if held else None,
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
        outputs = model.outputs_of(self._test.data, self.device)
        options = {"weights": self._test.weights, **model.scoring()}
        return scores_of(self.target, outputs, self._test.y, **options)
