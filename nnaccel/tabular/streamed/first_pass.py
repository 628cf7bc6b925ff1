"""The first pass over a stream: decides how its rows are read, split and encoded.

Decisions that need whole columns use a random sample of the rows and the same functions as in
memory. Facts that a sample cannot show are counted over all rows. For a table no larger than the
sample the result is the same as in memory.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nnaccel.maths import losses
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.features import collect, fit_features
from nnaccel.tabular.members import Edges, bin_edges
from nnaccel.tabular.preparation import Forms, fit_target_of, in_own_units, surveyed
from nnaccel.tabular.settings import Settings, validation_fraction, variants
from nnaccel.tabular.several_targets import Targets
from nnaccel.tabular.sources import Examples, take
from nnaccel.tabular.streamed.counts import ColumnCounts
from nnaccel.tabular.streamed.sample import Progress, Sample, followed, shares_of, take_sample
from nnaccel.tabular.streamed.sources import Batch, Stream
from nnaccel.tabular.streamed.targets import PARTS, Reader, Shares, Tally
from nnaccel.tabular.survey import Rules, Survey
from nnaccel.tabular.tables import by_name, pop_target, quiet, warn
from nnaccel.tabular.targets import Target, distinct_values, rows_with_target

MOST_HELD = 100_000  # most validation rows, which are kept in memory


class Wanted(NamedTuple):
    """The user's choices for a stream.   weights: the column with the weight of each row."""

    settings: Settings
    rules: Rules
    test_fraction: float
    targets: tuple[str, ...]
    weights: str | None = None


class Learnt(NamedTuple):
    """The results of the first pass.

    edges: of the piecewise linear encoding.   n_rows: of each part.   class_weights: one for each
    class number, () if all are 1.   mean_weight: of the training rows, including class weights.
    """

    features: Features
    target: Target | Targets
    edges: Edges
    shares: Shares
    n_rows: dict[str, int]
    class_weights: tuple[float, ...]
    mean_weight: float
    decimal: str
    hint: str


class Look(NamedTuple):
    """The results of a sample.   training: its training rows, in the types of the survey.
    target: complete if the sample has all rows; else only its kind, which suffices to read it."""

    found: Survey
    training: Any
    target: Target | Targets
    shares: Shares


def learn(stream: Stream, wanted: Wanted, progress: Progress) -> Learnt:
    """Learn the encoding of a stream: reads all rows once, or twice if the sample lacks some rows.

    Raises ValueError for data from which nothing can be learned. The message names file, column and
    row if the problem is in a single cell.
    """
    settings = wanted.settings
    batches = followed(stream, "reading a sample", progress, stream.n_rows)
    sample = take_sample(batches, settings.seed, stream.source)
    with _said_of(sample):
        look = look_at(sample, stream, wanted)
    reader = Reader(look.target, look.shares, settings.seed, wanted.weights, look.found.decimal)
    tally = Tally(reader)
    if sample.whole:
        tally.add(Batch(sample.table, stream.source, 0, 0, 1.0))
        target = look.target
        features = fit_features(look.training, exclude=wanted.rules.drop, surveyed=look.found)
    else:
        counts = ColumnCounts(sample.table, look.training, look.found.readings)
        for batch in followed(stream, "counting", progress, sample.n_rows):
            counts.add(batch, tally.add(batch))
        stream.check_unchanged()
        counts.warn_unread()
        target = tally.target(settings.task)
        features = _encoding(look.found, counts, wanted.rules, sample.n_rows)
    tally.check(stream.source)
    target = _for_loss(target, settings, tally)
    weights = tally.class_weights(target) if settings.class_weight else ()
    return Learnt(
        features,
        target,
        _edges(features, look.training),
        look.shares,
        tally.n_rows,
        weights,
        tally.mean_weight(target, weights),
        look.found.decimal,
        tally.hint(target) if settings.task == "auto" else "",
    )


def look_at(sample: Sample, stream: Stream, wanted: Wanted) -> Look:
    """Decide how the rows are read, select the training rows, and find the kind of the target."""
    table, settings = sample.table, wanted.settings
    if wanted.weights is not None:
        table = table.drop_columns([wanted.weights])
    data, y, name = pop_target(table, wanted.targets)
    examples = Examples(stream.name, data, y, name, None, "auto", None, written=True)
    examples, found, forms = surveyed(examples._replace(structure=stream.structure), wanted.rules)
    assert found is not None
    y = examples.y
    present = np.all([rows_with_target(v, n) for n, v in by_name(y, name).items()], axis=0)
    if not present.any():
        where = "at all" if sample.whole else f"in {sample}"
        raise ValueError(f"target {name!r} has no values {where}; choose another target")
    shares = _shares(settings, wanted.test_fraction, sample.n_rows * float(present.mean()))
    part = shares.part_of(shares_of(sample.numbers, settings.seed))
    rows = np.flatnonzero(present)
    if sample.whole:
        target = fit_target_of(take(y, rows), settings.task, name, forms)
        if target.task == "regression":
            rows = np.flatnonzero(present & (part != PARTS.index("test")))
            target = fit_target_of(take(y, rows), "regression", name, forms)
    else:
        each = [_kind_of(take(v, rows), n, forms) for n, v in by_name(y, name).items()]
        target = Targets(tuple(each)) if len(each) > 1 else each[0]
    training = take(examples.data, np.flatnonzero(present & (part == PARTS.index("train"))))
    if not training.num_rows:
        raise ValueError(f"{stream.source} has no row left to train on; add rows")
    return Look(found, training, target, shares)


def _kind_of(values: Any, name: str, forms: Forms) -> Target:
    """The kind of a target and the form of its values: labels, or numbers for either task. A sample
    may lack some of the values."""
    levels, form = distinct_values(values, name).levels, forms.get(name) or "."
    if levels.dtype.kind in "iuf":
        return Target("regression", name, (), float(levels.astype(np.float64).mean()), form=form)
    return Target("classification", name, tuple(levels.tolist()), form=form)


def _shares(settings: Settings, test: float, n_rows: float) -> Shares:
    """The shares of the parts.   n_rows: about how many rows have a target."""
    n = max(n_rows * (1 - test), 1.0)
    return Shares(test, min(validation_fraction(settings, int(n)), MOST_HELD / n))


def _encoding(found: Survey, counts: ColumnCounts, rules: Rules, n_rows: int) -> Features:
    """The encoding from the counts, without columns that number the rows."""
    specs = dict(found.dropped) | counts.specs()
    useless = {n: why for n, why in counts.row_numbers(n_rows).items() if n not in rules.keep}
    left = [n for n, spec in specs.items() if not isinstance(spec, str) and n not in useless]
    if left:  # else no column is left to predict from
        for name, why in useless.items():
            warn(f"column {name!r} is dropped: {why}; --keep {name!r} uses it")
        specs |= useless
    return collect(found.columns, specs, found.readings)


def _edges(features: Features, training: Any) -> Edges:
    """The edges of the piecewise linear encoding, from the sample's training rows."""
    if not features.numeric:
        return ()
    numbers = replace(features, categorical=())
    with quiet():
        X = numbers.transform(training)
    return bin_edges(X, len(features.numeric), numbers.present(X))


def _for_loss(target: Target | Targets, settings: Settings, tally: Tally) -> Target | Targets:
    """The target in the units that the loss needs. Raises ValueError for a class weight without
    classes, or for numbers that the loss cannot take."""
    n_classes = 2 if target.task == "labels" else len(target.classes)
    loss = variants(settings, tally.n_rows["train"], n_classes)[-1].loss
    if settings.class_weight is not None and target.task != "classification":
        raise ValueError(
            f"class_weight is for classification of one target, and this is {target.task}"
        )
    if loss == "poisson" and tally.has_negative:
        raise ValueError(f"target {target.name!r} has negative values; loss 'poisson' counts")
    bounded = target.task == "regression" and losses.get(loss).targets.bounded
    return in_own_units(target) if bounded else target


@contextmanager
def _said_of(sample: Sample) -> Iterator[None]:
    """A context in which warnings say that they count a sample, unless it has all rows."""
    if sample.whole:
        yield
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for said in caught:
        warnings.warn(f"{said.message} (in {sample})", said.category, stacklevel=4)
