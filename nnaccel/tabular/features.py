"""Features: decides how a table or a matrix becomes a float matrix; `encoding` applies the
decision."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnaccel import schema
from nnaccel.arguments import did_you_mean
from nnaccel.tabular.columns import AS_NUMBERS, Column, categories_of, numbers_of
from nnaccel.tabular.dates import OF
from nnaccel.tabular.encoding import (
    FEATURES,
    LEVELS,
    Categorical,
    Features,
    Numeric,
    check_matrix,
    matrix_reader,
    parts_of,
    refuse_infinite,
)
from nnaccel.tabular.kinds import Reading
from nnaccel.tabular.scaling import Scale, scales
from nnaccel.tabular.survey import EMPTY, EXCLUDED, Rules, Survey, survey
from nnaccel.tabular.tables import as_table, listing

MAX_LEVELS = 100  # categories of one column that get a separate column
LARGEST = 1e150  # its square is still finite in float64
CONSTANT = "constant"  # the reason for a dropped column

Spec = tuple[Numeric, ...] | Categorical | str  # the encoding of a column, or why it has none


def fit_features(
    data: Any,
    *,
    exclude: Iterable[str] = (),
    names: Sequence[str] | None = None,
    surveyed: Survey | None = None,
) -> Features:
    """Decide how a table, data frame or NumPy matrix (N, D) is encoded as a float matrix.

    exclude: columns to leave out.   names: of a matrix's columns, by default x0, x1, ...
    surveyed: the readings of a table's columns, if they are decided already; `data` is then the
    table that `survey` returned.

    Tables. `survey` decides how columns are read and which are dropped. Numbers are standardised by
    the mean and the population standard deviation of the present values. A column with values more
    than 8 standard deviations from the mean is scaled by its median and quartiles instead, and bent
    there (see `scaling`). A column with missing values gets an indicator. A date becomes the days
    since 1970, and the sine and cosine of its positions in the year, the week and the day; a time
    of day becomes its seconds with the sine and cosine in the day; a duration its seconds. Text,
    dictionary-encoded and boolean columns are one-hot, with one more category for missing values
    where they occur; a boolean without missing values is one 0/1 column. Of more than `MAX_LEVELS`
    (100) categories the most frequent have columns, and the others share `(other)`. Columns that
    are constant to rounding are dropped.

    Matrices. uint8 are pixels: they are divided by the brightest, and all columns are kept. Other
    numbers are encoded as in tables, and constant columns are dropped. NaN and infinity are errors
    that name the row and column.

    Raises ValueError for columns that cannot be used (all are listed, with advice), infinities and
    numbers beyond 1e150, a table without usable features (with the reason for each column), and
    names or categories that a model file cannot hold.
    """
    if isinstance(data, np.ndarray):
        return _fit_matrix(data, tuple(exclude), names)
    table = as_table(data)
    columns = table.column_names
    if surveyed is None:
        surveyed, table = survey(table, Rules(drop=tuple(exclude)))
    else:
        columns = [*surveyed.columns]
    specs: dict[str, Spec] = dict(surveyed.dropped)
    return collect(columns, specs | _fit_table(table, surveyed.readings), surveyed.readings)


def _fit_table(table: Any, readings: dict[str, Reading]) -> dict[str, Spec]:
    specs: dict[str, Spec] = {}
    coded = {name for name in readings if Column(table[name]).coded}
    for name in category_names(readings, coded):
        column = Column(table[name])
        kind = column.kind if column.coded else readings[name].kind
        data, _ = categories_of(name, column, Reading(kind))
        counts = {entry["values"]: entry["counts"] for entry in data.value_counts().to_pylist()}
        specs[name] = fit_categories(name, counts, kind)
    numbers = numbers_in(readings, coded)

    def read(part: slice) -> np.ndarray:
        block = np.stack(
            [parts_of(_values(table, n.name, readings), n.part) for n in numbers[part]]
        )
        refuse_infinite([n.name for n in numbers[part]], np.abs(block) > LARGEST)
        return block

    return specs | by_column(numbers, scales(read, len(numbers), table.num_rows), table.num_rows)


def category_names(readings: Mapping[str, Reading], coded: Collection[str]) -> list[str]:
    """The columns that are encoded as categories.   coded: the dictionary-encoded columns."""
    return [n for n, reading in readings.items() if n in coded or reading.kind not in AS_NUMBERS]


def numbers_in(readings: Mapping[str, Reading], coded: Collection[str]) -> list[Numeric]:
    """The encoded numbers of the other columns, before their scale is known."""
    others = {*readings} - {*category_names(readings, coded)}
    return [
        Numeric(name, 0.0, 1.0, part=part)
        for name, reading in readings.items()
        if name in others
        for part in OF.get(reading.kind, ("",))
    ]


def _values(table: Any, name: str, readings: dict[str, Reading]) -> np.ndarray:
    return numbers_of(name, Column(table[name]), readings[name])[0]


def by_column(numbers: Sequence[Numeric], found: Sequence[Scale], rows: int) -> dict[str, Spec]:
    """The encoded numbers of each column, or the reason why it has none."""
    specs: dict[str, Spec] = {}
    for number, scale in zip(numbers, found, strict=True):
        made, before = _encoded(number, scale, rows), specs.get(number.name)
        if isinstance(made, Numeric) and isinstance(before, tuple):
            specs[number.name] = (*before, replace(made, missing=False))
        elif isinstance(made, Numeric):
            specs[number.name] = (made,)
        else:
            specs.setdefault(number.name, made)
    return specs


def _encoded(number: Numeric, scale: Scale, rows: int) -> Numeric | str:
    missing = scale.present < rows
    if scale.varies:
        return Numeric(number.name, scale.center, scale.scale, scale.bend, missing, number.part)
    if not scale.present:
        return EMPTY
    # With one value or none, only the indicator carries information. A later, different value is
    # measured in units of this one.
    if missing and not number.part:
        return Numeric(number.name, scale.center, abs(scale.center) or 1.0, missing=True)
    return CONSTANT


def _fit_matrix(X: np.ndarray, exclude: tuple[str, ...], names: Sequence[str] | None) -> Features:
    check_matrix(X)
    given = [f"x{i}" for i in range(X.shape[1])] if names is None else names
    columns = [str(name) for name in given]  # NumPy's strings, too
    if len(set(columns)) != X.shape[1]:
        raise ValueError(
            f"names must be {X.shape[1]} different names, one for each column of X, "
            f"got {listing(columns)}"
        )
    if unknown := [name for name in exclude if name not in columns]:
        guess = did_you_mean(unknown[0], columns)
        raise ValueError(f"no column named {listing(unknown)} to drop{guess}")
    if not len(X):
        raise ValueError(f"X must have rows, got shape {X.shape}")
    specs: dict[str, Spec] = dict.fromkeys(exclude, EXCLUDED)
    used = [Numeric(name, 0.0, 1.0) for name in columns if name not in specs]
    if X.dtype == np.uint8:
        brightest = float(max(X.max(), 1))
        specs |= {n.name: (Numeric(n.name, 0.0, brightest),) for n in used}
    else:
        reader = matrix_reader(X, columns)

        def read(part: slice) -> np.ndarray:
            block = reader(used[part])
            refuse_infinite([n.name for n in used[part]], np.abs(block) > LARGEST)
            return block

        specs |= by_column(used, scales(read, len(used), len(X)), len(X))
    return collect(columns, specs, {})


def collect(
    columns: Sequence[str], specs: Mapping[str, Spec], readings: Mapping[str, Reading]
) -> Features:
    """The encoding of these columns. Raises ValueError where no feature is left, like
    `fit_features`."""
    ordered = [(name, specs[name]) for name in columns]
    numeric = tuple(n for _, spec in ordered if isinstance(spec, tuple) for n in spec)
    categorical = tuple(spec for _, spec in ordered if isinstance(spec, Categorical))
    dropped = {name: spec for name, spec in ordered if isinstance(spec, str)}
    if not numeric and not categorical:
        reasons = listing(f"{name}: {reason}" for name, reason in dropped.items())
        raise ValueError(f"no usable feature; {reasons}; add a column that varies")
    _check_text(columns, categorical)
    features = Features(tuple(columns), numeric, categorical, dropped)
    said = {
        column.name: readings[column.name]
        for column in (*numeric, *categorical)
        if column.name in readings and readings[column.name] != features.reading(column)
    }
    return Features(tuple(columns), numeric, categorical, dropped, said)


def _check_text(columns: Sequence[str], categorical: Iterable[Categorical]) -> None:
    """Raises ValueError, before training, for names and categories that a model file cannot hold.

    They are the only parts of an encoding that come from the author of the table.
    """
    try:
        schema.check({"columns": [*columns]}, {"columns": FEATURES["columns"]}, "features")
        for spec in categorical:
            schema.check({"levels": spec.levels}, LEVELS[spec.kind], f"column {spec.name!r}")
    except ValueError as error:
        raise ValueError(f"a model file cannot hold this encoding: {error}; change it") from None


def fit_categories(name: str, counts: Mapping[Any, int], kind: str) -> Spec:
    """The categories of a column, or the reason why it has none.   counts: value -> its count; the
    key None counts missing values."""
    frequency = {value: n for value, n in counts.items() if value is not None}
    if not frequency:
        return EMPTY
    missing = None in counts
    if len(frequency) == 1 and not missing:
        return CONSTANT
    levels = sorted(frequency)
    if other := len(levels) > MAX_LEVELS:  # the sort is stable: of equals the first stay
        levels = sorted(sorted(levels, key=frequency.__getitem__, reverse=True)[:MAX_LEVELS])
    return Categorical(name, kind, tuple(levels), missing, other)
