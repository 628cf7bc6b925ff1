"""Prepares the rows for training: splits, encodes and weights them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nnaccel.maths import losses
from nnaccel.tabular.datasets import split
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.features import fit_features
from nnaccel.tabular.labels import read_labels
from nnaccel.tabular.members import Edges, bin_edges
from nnaccel.tabular.model import labelled
from nnaccel.tabular.settings import Settings, variants
from nnaccel.tabular.several_targets import Targets, fit_targets
from nnaccel.tabular.sources import Examples, Rows
from nnaccel.tabular.survey import Rules, Survey, survey
from nnaccel.tabular.tables import as_table, by_name, import_extra
from nnaccel.tabular.targets import Target, explain_task, fit_target, is_text_column
from nnaccel.training.data import class_weights

Forms = dict[str, str]  # name of a target -> its form, see `Target.form`


class Prepared(NamedTuple):
    """The data and settings of a run.

    kinds: the resolved settings of each kind of networks.   X, Y, weights: the training rows, in
    memory or on the disk.   y: their unencoded target, None on the disk.   held: held-out rows (X,
    Y, weights) that show the best epoch, or None.   test: test rows with encoded data (`Rows`), or
    None; on the disk their y is encoded, too.   edges: of the piecewise linear encoding, if a kind
    uses it.   digest: of all rows, if it is known.
    """

    features: Features
    target: Target | Targets
    kinds: list[Settings]
    X: Any
    Y: Any
    y: Any
    weights: Any
    held: tuple[Any, ...] | None
    test: Rows | None
    edges: Edges
    n_rows: dict[str, int]
    hint: str = ""
    digest: str | None = None


def prepared(
    examples: Examples, settings: Settings, rules: Rules, test_fraction: float
) -> Prepared:
    """The examples, split, encoded and weighted. Raises ValueError for data or settings from which
    nothing can be learned, and for test data that do not fit."""
    examples, found, forms = surveyed(examples, rules)
    parts, target, kinds = split_examples(examples, settings, test_fraction, forms)
    guessed = "auto" == examples.task == settings.task
    one = target if isinstance(target, Target) else None
    hint = explain_task(examples.y, one) if one and guessed else ""
    n_rows = {name: part.n_rows if part else 0 for name, part in parts._asdict().items()}
    rows, held, test = parts
    features = fit_features(rows.data, exclude=rules.drop, names=examples.names, surveyed=found)
    settings = kinds[-1]

    def encoded(part: Rows) -> tuple[np.ndarray, np.ndarray]:
        return features.transform(part.data, settings.dtype), target.encode(part.y)

    X, Y = encoded(rows)
    if test is not None:
        test = test._replace(data=encoded(test)[0])
    weights = weights_of(Y, target, settings, rows.weights)
    held_out = None if held is None else (*encoded(held), held.weights)
    edges = ()
    if any(kind.numbers == "piecewise" for kind in kinds):
        edges = bin_edges(X, len(features.numeric), features.present(X))
    return Prepared(
        features, target, kinds, X, Y, rows.y, weights, held_out, test, edges, n_rows, hint
    )


class Parts(NamedTuple):
    """The rows for each purpose; None for a purpose without rows."""

    train: Rows
    validation: Rows | None
    test: Rows | None


def surveyed(examples: Examples, rules: Rules) -> tuple[Examples, Survey | None, Forms]:
    """The examples with all cells read, the survey of the columns, and the form of each target.

    A matrix is returned unchanged, without a survey.
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
    """The columns of a target with their text converted.   quoted: see `delimited.Structure`."""
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
) -> tuple[Parts, Target | Targets, list[Settings]]:
    """The parts of the examples, the fitted target, and the resolved settings of each kind of
    networks.

    forms: of the numbers of each target in text, see `Target.form`.
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
    kinds = variants(settings, rows.n_rows, n_classes, pixels=examples.pixels)
    settings = kinds[-1]
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
    return parts, target, kinds


def split_rows(
    rows: Rows, part: str, target: Target | Targets, fraction: float, seed: int
) -> tuple[Rows, Rows]:
    """The remaining rows, and the given fraction of the rows, which becomes the part of this
    name."""
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
    """The fitted target of a column, or the targets of a table of several columns."""
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
    """How much each training row counts (N,). Raises ValueError for settings that do not fit the
    target."""
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
