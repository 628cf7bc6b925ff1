"""The encoding of a table or a matrix as a float matrix, which is plain data.

The encoded columns come in three groups: the numbers, standardised; a 0/1 indicator for each column
of numbers that was missing somewhere; and the one-hot columns of each category.
`features.fit_features` decides the encoding and `Features.transform` applies it. The transform
learns nothing from the table that it encodes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from nnaccel import schema
from nnaccel.arguments import did_you_mean
from nnaccel.tabular.columns import (
    AS_NUMBERS,
    Column,
    categories_of,
    numbers_of,
    type_changed,
)
from nnaccel.tabular.dates import FORMS, OF, PARTS
from nnaccel.tabular.kinds import Reading
from nnaccel.tabular.numbers import MARKS
from nnaccel.tabular.scaling import bend, blocks
from nnaccel.tabular.surprises import Surprises
from nnaccel.tabular.tables import as_table, counts, import_extra, listing

NUMBERS = Reading("number", ".")  # the default reading of a column of numbers

# Encoded numbers -> their values before scaling, float64 (n, N), NaN where missing. The caller may
# overwrite them.
Read = Callable[[Sequence["Numeric"]], np.ndarray]


@dataclass(frozen=True)
class Numeric:
    """A number, encoded as z = (x - center) / scale; a missing one as 0.

    name: of the table's column.   part: the feature of a date or time, see `dates.PARTS`; "": none.
    bend: whether z is bent far from 0, see `scaling.bend`.   missing: whether a separate 0/1 column
    indicates missing values.
    """

    name: str
    center: float
    scale: float
    bend: bool = False
    missing: bool = False
    part: str = ""

    @property
    def label(self) -> str:
        """The name of the encoded column."""
        return f"{self.name} {self.part}" if self.part else self.name


@dataclass(frozen=True)
class Categorical:
    """A column of categories, encoded one-hot.

    kind: "string", "boolean" or "number", the type of its levels, which are in ascending order.
    missing, other: whether missing values, and levels that are not listed, have a separate column.
    """

    name: str
    kind: str
    levels: tuple[str | bool | int | float, ...]
    missing: bool = False
    other: bool = False

    @property
    def base(self) -> int:
        """1 for a boolean without missing values, whose single column is 1 for true; else 0."""
        return int(self.kind == "boolean" and len(self.levels) == 2 and not self.missing)

    @property
    def states(self) -> list[str]:
        """The level, "(missing)" or "(other)" of each encoded column."""
        spelling = "{:.15g}" if self.kind == "number" else "{!s}"  # 5, not 5.0
        levels = [spelling.format(level) for level in self.levels[self.base :]]
        return levels + ["(missing)"] * self.missing + ["(other)"] * self.other


@dataclass(frozen=True)
class Features:
    """The encoding of tables, or matrices, as float matrices; made by `fit_features`.

    Attributes
    ----------
    columns : tuple of str
        The columns of the fit, in their order.
    numeric : tuple of Numeric
    categorical : tuple of Categorical
    dropped : dict of str
        The unused columns, each with the reason.
    readings : dict of Reading
        The readings of the columns whose cells are not plain numbers, text or booleans.
    """

    columns: tuple[str, ...]
    numeric: tuple[Numeric, ...] = ()
    categorical: tuple[Categorical, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """The encoded columns: `age`, `age missing`, `workclass=Private`, `workclass=(missing)`."""
        return [
            *(number.label for number in self.numeric),
            *(f"{number.name} missing" for number in self.numeric if number.missing),
            *(f"{column.name}={state}" for column in self.categorical for state in column.states),
        ]

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """The positions of the encoded columns of each column of the table, by its name."""
        names = [
            *(number.name for number in self.numeric),
            *(number.name for number in self.numeric if number.missing),
            *(column.name for column in self.categorical for _ in column.states),
        ]
        used = {*names}
        found = {name: [] for name in self.columns if name in used}
        for i, name in enumerate(names):
            found[name].append(i)
        return found

    @cached_property
    def indicators(self) -> dict[str, int]:
        """Which encoded column is 1 where a column of the table has no value, by the name of the
        latter; only of columns that lacked some at the fit."""
        marked = [number.name for number in self.numeric if number.missing]
        found = {name: len(self.numeric) + i for i, name in enumerate(marked)}
        end = len(self.numeric) + len(marked)
        for column in self.categorical:
            end += len(column.states)
            if column.missing:
                found[column.name] = end - 1 - column.other
        return found

    def transform(
        self, data: Any, dtype: Any = "float32", surprises: Surprises | None = None
    ) -> np.ndarray:
        """Encode a table, data frame or NumPy matrix as an array (N, D), D = len(names).

        The columns of a table may come in any order; those of a matrix in the order of the fit.
        Cells are read as at the fit.

        Gives one TableWarning for each of these, with the columns and the numbers of rows: columns
        that the fit did not see; cells that cannot be read, which become missing; missing values
        where the fit saw none (a number becomes the mean, a category all zeros); categories that
        the fit did not see (all zeros; `(other)` if that column exists). With `surprises` they are
        counted there instead, to warn of several batches at once.
        Raises ValueError for absent columns (all are listed), a column without a single readable
        cell, a changed type that cannot be cast without loss, infinities, and a matrix with another
        width or with NaN.
        """
        if isinstance(data, np.ndarray):
            self.check_matrix(data)
            out = np.zeros((len(data), len(self.names)), dtype)
            self._write_numbers(out, matrix_reader(data, self.columns))
            return out
        table = as_table(data)
        found = Surprises() if surprises is None else surprises
        self.check_columns(table.column_names, found)
        out = np.zeros((table.num_rows, len(self.names)), dtype)

        def read(numbers: Sequence[Numeric]) -> np.ndarray:  # no float64 copy of the whole table
            return np.concatenate([*self._parts(table, numbers, found)])

        found.filled.update(self._write_numbers(out, read))
        end = out.shape[1] - sum(len(column.states) for column in self.categorical)
        for column in self.categorical:
            start, end = end, end + len(column.states)
            self._write_categories(out[:, start:end], column, Column(table[column.name]), found)
        if surprises is None:
            found.say()
        return out

    def _write_categories(
        self, out: np.ndarray, column: Categorical, cells: Column, found: Surprises
    ) -> None:
        """Fill the columns (N, len(column.states)) of a category."""
        name, reading = column.name, self.reading(column)
        data, words = categories_of(name, cells, reading)
        missing, new = _write_one_hot(out, column, data)
        if words:
            found.note_unread(name, words)
            if missing == len(data):
                found.note_refused(name, type_changed(name, reading.kind, cells, words[0][0]))
        if cells.kind not in (column.kind, "null") and 0 < new == len(data) - missing:
            example = cells.source.drop_null()[0]
            found.note_refused(name, type_changed(name, column.kind, cells, example))
        elif found.many and missing < len(data):
            found.note_readable(name)
        if missing and not column.missing:
            found.filled[name] += missing
        if new and not column.other:
            found.unseen[name] += new

    def present(self, X: np.ndarray) -> np.ndarray:
        """Which numbers were present in the table that X (N, D) encodes: booleans (N,
        n_numbers)."""
        marked = [number.name for number in self.numeric if number.missing]
        present = np.ones((len(X), len(self.numeric)), bool)
        for j, number in enumerate(self.numeric):
            if number.name in marked:
                present[:, j] = X[:, len(self.numeric) + marked.index(number.name)] == 0
        return present

    def reading(self, column: Numeric | Categorical) -> Reading:
        """The reading of a column's cells."""
        plain = NUMBERS if isinstance(column, Numeric) else Reading(column.kind)
        return self.readings.get(column.name, plain)

    def to_dict(self) -> dict[str, Any]:
        """The encoding as data for JSON: dictionaries, lists, strings, numbers, flags."""
        data = asdict(self)
        data["readings"] = {
            name: {**reading._asdict(), "codes": list(reading.codes)}
            for name, reading in self.readings.items()
        }
        return data

    @classmethod
    def from_dict(cls, data: Any) -> "Features":
        """The encoding that `to_dict` returned, after a check of every key and value.

        Raises ValueError that names a key that is unknown, absent, or has a wrong type or value.
        """
        schema.check(data, FEATURES, "features")
        for numeric in data["numeric"]:
            schema.check(numeric, NUMERIC, "features: 'numeric'")
        for categorical in data["categorical"]:
            schema.check(categorical, CATEGORICAL, "features: 'categorical'")
            schema.check({"levels": categorical["levels"]}, LEVELS[categorical["kind"]], "features")
        used = {column["name"] for group in ("numeric", "categorical") for column in data[group]}
        if not used or sorted([*used, *data["dropped"]]) != sorted(data["columns"]):
            raise ValueError(
                "features: 'columns' must be the names in 'numeric', 'categorical' and 'dropped', "
                f"each once and one in use, got {listing(data['columns'])}"
            )
        if unknown := [name for name in data["readings"] if name not in used]:
            raise ValueError(f"features: 'readings' has {unknown[0]!r}, which is no column in use")
        features = cls(
            tuple(data["columns"]),
            tuple(Numeric(**column) for column in data["numeric"]),
            tuple(
                Categorical(**{**column, "levels": tuple(column["levels"])})
                for column in data["categorical"]
            ),
            dict(data["dropped"]),
            {name: _reading_of(entry, name) for name, entry in data["readings"].items()},
        )
        features._check_parts()
        return features

    def _check_parts(self) -> None:
        """Raises ValueError for a column whose reading does not fit its encoding."""
        for column in (*self.numeric, *self.categorical):
            kind = self.reading(column).kind
            is_number = isinstance(column, Numeric)
            if is_number and column.part not in OF.get(kind, ("",)):
                raise ValueError(f"features: {column.name!r} is a {kind} without {column.part!r}")
            if not is_number and kind != column.kind:
                raise ValueError(
                    f"features: categories of {column.name!r} are {column.kind}, and read as {kind}"
                )

    def check_matrix(self, X: np.ndarray) -> None:
        """Raises ValueError unless X is a matrix of numbers with the columns of the fit."""
        check_matrix(X)
        if self.categorical or self.readings:
            other = [*(c.name for c in self.categorical), *self.readings]
            raise ValueError(
                f"the model was fitted on a table with categories or dates ({listing(other)}), got "
                "a matrix; pass a table with the same columns"
            )
        if X.shape[1] != len(self.columns):
            raise ValueError(
                f"X has {X.shape[1]:,} columns, the model was fitted on {len(self.columns):,}: "
                f"{listing(self.columns)}; pass the same columns in the same order"
            )

    def check_columns(self, present: Sequence[str], found: Surprises | None = None) -> None:
        """Raises ValueError where a used column is absent. New columns are noted in `found`, or
        warned of."""
        used = [*dict.fromkeys(column.name for column in (*self.numeric, *self.categorical))]
        if absent := [name for name in used if name not in present]:
            guess = did_you_mean(absent[0], [name for name in present if name not in used])
            raise ValueError(
                f"the table lacks {len(absent)} of the {len(used)} columns that the model uses: "
                f"{listing(absent)}; it has: {listing(present)}{guess}"
            )
        if extra := [name for name in present if name not in self.columns]:
            surprises = Surprises() if found is None else found
            surprises.note_extra(extra)
            if found is None:
                surprises.say()

    def _parts(
        self, table: Any, numbers: Sequence[Numeric], found: Surprises
    ) -> Iterable[np.ndarray]:
        """Yields, column by column, the values (n, N) of the numbers that the column becomes."""
        for name, parts in groupby(numbers, lambda number: number.name):
            parts = [*parts]
            column, reading = Column(table[name]), self.reading(parts[0])
            values, words = numbers_of(name, column, reading)
            if words or found.many:
                if not np.isnan(values).all():
                    found.note_readable(name)
                elif words:
                    error = type_changed(name, reading.kind, column, words[0][0])
                    found.note_refused(name, error)
                found.note_unread(name, words)
            yield np.stack([parts_of(values, number.part) for number in parts])

    def _write_numbers(self, out: np.ndarray, read: Read) -> dict[str, int]:
        """Fill the numbers and their indicators. Returns, by column, how many values are missing
        where there is no indicator."""
        filled, indicator = {}, len(self.numeric)
        largest = np.finfo(out.dtype).max
        for part in blocks(len(self.numeric), len(out)):
            numbers = self.numeric[part]
            block = read(numbers)
            with np.errstate(over="ignore"):
                block -= np.array([[number.center] for number in numbers])
                block /= np.array([[number.scale] for number in numbers])
            missing = np.isnan(block)
            np.copyto(block, 0, where=missing)
            refuse_infinite([number.name for number in numbers], np.abs(block) > largest)
            for i in (i for i, number in enumerate(numbers) if number.bend):
                block[i] = bend(block[i], xp=np)
            out[:, part] = block.T
            for number, where in zip(numbers, missing, strict=True):
                if number.missing:
                    out[:, indicator] = where
                    indicator += 1
                elif number.name not in self._indicated:
                    filled[number.name] = np.count_nonzero(where)
        return filled

    @cached_property
    def _indicated(self) -> set[str]:
        """The names of the columns of numbers that have an indicator of missing values."""
        return {number.name for number in self.numeric if number.missing}


@dataclass(frozen=True)
class Matrix(Features):
    """The columns of a matrix that a network takes as they are: each is a `Numeric` with center 0
    and scale 1, and none may lack a value."""

    def transform(
        self, data: Any, dtype: Any = "float32", surprises: Surprises | None = None
    ) -> np.ndarray:
        """As of `Features`; ValueError for missing values too."""
        found = Surprises() if surprises is None else surprises
        X = super().transform(data, dtype, found)
        if gone := {name: n for name, n in found.filled.items() if n}:
            raise ValueError(
                f"the network takes no missing values, and there are some: {counts(gone)}; fill "
                "them in, or leave out their rows"
            )
        if surprises is None:
            found.say()
        return X


def _write_one_hot(out: np.ndarray, spec: Categorical, data: Any) -> tuple[int, int]:
    """Set the ones in zeros (N, len(spec.states)). Returns how many rows are missing, and how many
    unseen.

    These rows stay zero, unless they have a separate state.
    """
    pa, pc = import_extra("pyarrow"), import_extra("pyarrow.compute")
    levels = pa.array(spec.levels, type=data.type)
    found = pc.index_in(data, value_set=levels, skip_nulls=True)
    codes = found.fill_null(-1).to_numpy() - spec.base
    missing = data.is_null().to_numpy()
    unseen = found.is_null().to_numpy() & ~missing
    if spec.missing:
        codes[missing] = len(levels)
    if spec.other:
        codes[unseen] = len(levels) + spec.missing
    rows = np.flatnonzero(codes >= 0)
    out[rows, codes[rows]] = 1
    return int(np.count_nonzero(missing)), int(np.count_nonzero(unseen))


# ---------------------------------------------------------------------------- reading


def parts_of(values: np.ndarray, part: str) -> np.ndarray:
    """A feature of a date or time, computed from a column's values (N,); the part "" is the
    values."""
    return PARTS[part](values, xp=np) if part else values


def check_matrix(X: np.ndarray) -> None:
    """Raises ValueError unless X is a matrix of numbers."""
    if X.ndim != 2:
        raise ValueError(
            f"X must be 2-D (n_samples, n_features), got shape {X.shape}; "
            "for one sample use X[None, :]"
        )
    if X.dtype.kind not in "biuf":
        raise ValueError(
            f"X must hold numbers, got dtype {X.dtype}; convert it with X.astype(float), "
            "or pass columns of text as a table"
        )


def matrix_reader(X: np.ndarray, columns: Sequence[str]) -> Read:
    """The function that reads the columns of a matrix (N, len(columns)). It raises ValueError for
    NaN and infinity."""
    position = {name: i for i, name in enumerate(columns)}

    def read(numbers: Sequence[Numeric]) -> np.ndarray:
        names = [number.name for number in numbers]
        block = np.array(X[:, [position[name] for name in names]].T, dtype=np.float64, order="C")
        if not (finite := np.isfinite(block)).all():
            row, column = np.argwhere(~finite.T)[0]
            raise ValueError(
                f"X must be finite, got {block[column, row]} in row {row} (from 0), "
                f"column {names[column]!r}; fill or remove such rows"
            )
        return block

    return read


def refuse_infinite(names: Sequence[str], infinite: np.ndarray) -> None:
    """Raises ValueError that names the first of the columns with an infinite value.   infinite:
    booleans (n, N)."""
    if infinite.any():
        column = int(np.argmax(infinite.any(axis=1)))
        raise ValueError(
            f"column {names[column]!r} has values that are infinite or too large in "
            f"{np.count_nonzero(infinite[column]):,} of its rows, the first of them row "
            f"{np.argmax(infinite[column])} (from 0); correct or remove them"
        )


# ---------------------------------------------------------------------------- the schema

FEATURES = {
    "columns": schema.NAMES,
    "numeric": schema.RECORDS,
    "categorical": schema.RECORDS,
    "dropped": schema.NOTES,
    "readings": schema.Field("an object", lambda v: type(v) is dict),
}
NUMERIC = {
    "name": schema.TEXT,
    "center": schema.FINITE,
    "scale": schema.POSITIVE,
    "bend": schema.FLAG,
    "missing": schema.FLAG,
    "part": schema.one_of("", *PARTS),
}
CATEGORICAL = {
    "name": schema.TEXT,
    "kind": schema.one_of("string", "boolean", "number"),
    "levels": schema.LIST,
    "missing": schema.FLAG,
    "other": schema.FLAG,
}
LEVELS = {
    kind: {"levels": schema.ascending(member)}
    for kind, member in (
        ("string", schema.TEXT),
        ("boolean", schema.FLAG),
        ("number", schema.FINITE),
    )
}
READING = {
    "kind": schema.one_of(*AS_NUMBERS),
    "form": schema.TEXT,
    "codes": schema.Field(
        "a list of finite numbers",
        lambda v: schema.LIST.holds(v) and all(map(schema.FINITE.holds, v)),
    ),
}
# The possible forms of each kind.
FORM = {
    "number": schema.one_of(*MARKS),
    "date": schema.one_of(*FORMS),
    "time": schema.one_of(""),
    "duration": schema.one_of(""),
}


def _reading_of(entry: Any, name: str) -> Reading:
    where = f"features: reading of {name!r}"
    schema.check(entry, READING, where)
    schema.check({"form": entry["form"]}, {"form": FORM[entry["kind"]]}, where)
    return Reading(entry["kind"], entry["form"], tuple(entry["codes"]))
