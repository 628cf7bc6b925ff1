"""Features: from a table or a matrix to a float matrix, by an encoding that is plain data.

The encoded columns come in three groups: the numbers, standardised; a 0/1 indicator for each
number that was missing somewhere; and the one-hot columns of each category. `fit_features`
decides, `Features.transform` applies; nothing is learnt from the table that is transformed.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from nnaccel import schema
from nnaccel.arguments import did_you_mean
from nnaccel.tabular.columns import Column, as_kind, open_column, type_changed, without_nan
from nnaccel.tabular.tables import TableWarning, as_table, counts, import_extra, listing

MAX_LEVELS = 100  # categories of one column that get a column of their own
IDENTIFIER_ROWS = 20  # text is judged to be an identifier only on more rows than this
IDENTIFIER_SHARE = 0.9  # and only where the share of different ones is larger than this
ROW_NUMBERS = frozenset(("", "id", "index", "row", "rowid", "row_id", "row_number", "unnamed: 0"))
OUTLIER = 8.0  # standard deviations from the mean, which no well-behaved column shows
SQUASH_LIMIT = 3.0
NORMAL_QUARTILES = 1.349  # between the quartiles of a normal variable, in standard deviations
LARGEST = 1e150  # its square is still finite in float64
BLOCK = 1 << 21  # numbers worked on at once: 16 MB in float64
EXCLUDED, EMPTY, CONSTANT = "excluded", "no values", "constant"  # why columns are dropped
REFUSED = {
    "date": "turn it into numbers (year, month, days since a date, ...)",
    "nested": "give each of its values a column of its own",
    "binary": "decode it to text or numbers",
    "other": "convert it to numbers or text",
}

# Column names -> their numbers, float64 (len(names), N), NaN where missing; ours to overwrite.
Read = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Numeric:
    """A column of numbers, encoded as z = (x - center) / scale; a missing one as 0.

    squash: z is then bent to z / sqrt(1 + (z/3)^2), which leaves the bulk of a column with
    outliers as it is and bounds them by 3.
    missing: a 0/1 column of its own says where the number was missing.
    """

    name: str
    center: float
    scale: float
    squash: bool = False
    missing: bool = False


@dataclass(frozen=True)
class Categorical:
    """A column of categories, encoded one-hot.

    kind: "string", "boolean" or "number", the type of its levels, which are in ascending order.
    missing, other: missing values, and levels that are not listed, have a column of their own.
    """

    name: str
    kind: str
    levels: tuple[str | bool | int | float, ...]
    missing: bool = False
    other: bool = False

    @property
    def base(self) -> int:
        """1 where the first level is written as the absence of the second, for a plain boolean."""
        return int(self.kind == "boolean" and len(self.levels) == 2 and not self.missing)

    @property
    def states(self) -> list[str]:
        """What each of its encoded columns stands for."""
        spelling = "{:.15g}" if self.kind == "number" else "{!s}"  # 5, not 5.0
        levels = [spelling.format(level) for level in self.levels[self.base :]]
        return levels + ["(missing)"] * self.missing + ["(other)"] * self.other


Spec = Numeric | Categorical | str  # how a column is encoded, or why it is not


@dataclass(frozen=True)
class Features:
    """How tables, or matrices, are encoded as float matrices; made by `fit_features`.

    Attributes
    ----------
    columns : tuple of str
        The columns that it was fitted on, in their order.
    numeric : tuple of Numeric
    categorical : tuple of Categorical
    dropped : dict of str
        The columns that are not used, each with the reason.
    """

    columns: tuple[str, ...]
    numeric: tuple[Numeric, ...] = ()
    categorical: tuple[Categorical, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """The encoded columns: `age`, `age missing`, `workclass=Private`, `workclass=(missing)`."""
        return [
            *(column.name for column in self.numeric),
            *(f"{column.name} missing" for column in self.numeric if column.missing),
            *(f"{column.name}={state}" for column in self.categorical for state in column.states),
        ]

    def transform(self, data: Any, dtype: Any = "float32") -> np.ndarray:
        """Encode a table, data frame or NumPy matrix as an array (N, D), D = len(names).

        In a table the order of the columns is free; a matrix has them in the order of the fit.

        TableWarning, one each, with the columns and the rows concerned: columns that the fit did
        not see; missing values where the fit saw none (a number becomes the mean, a category all
        zeros); categories that the fit did not see (all zeros; in `(other)` where there is one).
        ValueError: columns that are absent (all are listed), a type that changed and cannot be
        cast without loss, infinities, a matrix of another width or with NaN.
        """
        if isinstance(data, np.ndarray):
            columns = self._matrix_columns(data)
            out = np.zeros((len(data), len(self.names)), dtype)
            self._write_numbers(out, _matrix_reader(data, columns))
            return out
        table = as_table(data)
        self._compare_columns(table.column_names)
        out = np.zeros((table.num_rows, len(self.names)), dtype)

        def read(names: Sequence[str]) -> np.ndarray:  # no float64 copy of the whole table
            return _stack(as_kind(name, open_column(table[name]), "number") for name in names)

        filled, unseen = self._write_numbers(out, read), {}
        end = out.shape[1] - sum(len(column.states) for column in self.categorical)
        for column in self.categorical:
            start, end = end, end + len(column.states)
            missing, new = _write_one_hot(out[:, start:end], column, table[column.name])
            filled[column.name], unseen[column.name] = missing, new
        _warn("missing values where the fit saw none, encoded as the mean or as zeros", filled)
        _warn("categories that the fit did not see, encoded as zeros", unseen)
        return out

    def to_dict(self) -> dict[str, Any]:
        """The encoding as data for JSON: dictionaries, lists, strings, numbers, flags."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> "Features":
        """The encoding that `to_dict` gave, once every key and value has been checked.

        ValueError names the key that is unknown, absent or of a wrong type or value.
        """
        schema.check(data, FEATURES, "features")
        for numeric in data["numeric"]:
            schema.check(numeric, NUMERIC, "features: 'numeric'")
        for categorical in data["categorical"]:
            schema.check(categorical, CATEGORICAL, "features: 'categorical'")
            schema.check({"levels": categorical["levels"]}, LEVELS[categorical["kind"]], "features")
        used = [column["name"] for group in ("numeric", "categorical") for column in data[group]]
        if not used or sorted([*used, *data["dropped"]]) != sorted(data["columns"]):
            raise ValueError(
                "features: 'columns' must be the names in 'numeric', 'categorical' and 'dropped', "
                f"each once and one in use, got {listing(data['columns'])}"
            )
        return cls(
            tuple(data["columns"]),
            tuple(Numeric(**column) for column in data["numeric"]),
            tuple(
                Categorical(**{**column, "levels": tuple(column["levels"])})
                for column in data["categorical"]
            ),
            dict(data["dropped"]),
        )

    def _matrix_columns(self, X: np.ndarray) -> tuple[str, ...]:
        _check_matrix(X)
        if self.categorical:
            raise ValueError(
                "the model was fitted on a table with categories "
                f"({listing(column.name for column in self.categorical)}), got a matrix; "
                "pass a table with the same columns"
            )
        if X.shape[1] != len(self.columns):
            raise ValueError(
                f"X has {X.shape[1]:,} columns, the model was fitted on {len(self.columns):,}: "
                f"{listing(self.columns)}; pass the same columns in the same order"
            )
        return self.columns

    def _compare_columns(self, present: list[str]) -> None:
        used = [column.name for column in (*self.numeric, *self.categorical)]
        if absent := [name for name in used if name not in present]:
            guess = did_you_mean(absent[0], [name for name in present if name not in used])
            raise ValueError(
                f"the table lacks {len(absent)} of the {len(used)} columns that the model uses: "
                f"{listing(absent)}; it has: {listing(present)}{guess}"
            )
        if extra := [name for name in present if name not in self.columns]:
            message = f"columns that the fit did not see, ignored: {listing(extra)}"
            warnings.warn(message, TableWarning, stacklevel=3)

    def _write_numbers(self, out: np.ndarray, read: Read) -> dict[str, int]:
        """Fill the numbers and their indicators; how many others were missing, by column."""
        filled, indicator = {}, len(self.numeric)
        largest = np.finfo(out.dtype).max
        for part in _blocks(len(self.numeric), len(out)):
            columns = self.numeric[part]
            block = read([column.name for column in columns])
            with np.errstate(over="ignore"):
                block -= np.array([[column.center] for column in columns])
                block /= np.array([[column.scale] for column in columns])
            missing = np.isnan(block)
            np.copyto(block, 0, where=missing)
            _refuse_infinite([column.name for column in columns], np.abs(block) > largest)
            for i in (i for i, column in enumerate(columns) if column.squash):
                block[i] /= np.sqrt(1 + (block[i] / SQUASH_LIMIT) ** 2)
            out[:, part] = block.T
            for column, where in zip(columns, missing, strict=True):
                if column.missing:
                    out[:, indicator] = where
                    indicator += 1
                else:
                    filled[column.name] = np.count_nonzero(where)
        return filled


# ---------------------------------------------------------------------------- fitting


def fit_features(
    data: Any, *, exclude: Iterable[str] = (), names: Sequence[str] | None = None
) -> Features:
    """Decide how a table, data frame or NumPy matrix (N, D) is encoded as a float matrix.

    exclude: columns to leave out.   names: those of a matrix's columns, by default x0, x1, ...

    Tables. Numbers (integers, floats, decimals) are standardised by the mean and the population
    standard deviation, in float64, of the values present; a column with values more than 8
    standard deviations out by its median and quartiles, and squashed (see `Numeric`). Where some
    are missing (null, NaN) there is an indicator. Text, dictionary-encoded and boolean columns
    are one-hot, and missing is one more category where it occurs; a boolean without it is one
    0/1 column. Of more than `MAX_LEVELS` (100) categories the most frequent have columns, the
    others share `(other)`.
    Dropped, and recorded in `dropped`: columns without values; constant ones (to rounding); with a
    TableWarning, text that is different on more than 0.9 of more than 20 rows (identifiers), and
    integers that all differ in a column with a name like id, index or row (`ROW_NUMBERS`).

    Matrices. uint8 are pixels: divided by the brightest, all columns kept. Other numbers are as in
    tables, and constant columns dropped. NaN and infinity are errors that name the row and column.

    ValueError: dates, nested and binary columns (all are listed, with advice); infinities and
    numbers beyond 1e150; no usable feature (says why each column was dropped); names or categories
    that a model file cannot hold.
    """
    if isinstance(data, np.ndarray):
        _check_matrix(data)
        given = [f"x{i}" for i in range(data.shape[1])] if names is None else names
        columns = [str(name) for name in given]  # also those that are NumPy's
        if len(set(columns)) != data.shape[1]:
            raise ValueError(
                f"names must be {data.shape[1]} different names, one for each column of X, "
                f"got {listing(columns)}"
            )
        fit = _fit_matrix
    else:
        data = as_table(data)
        columns = data.column_names
        fit = _fit_table
    specs: dict[str, Spec] = dict.fromkeys(exclude, EXCLUDED)
    if unknown := [name for name in specs if name not in columns]:
        guess = did_you_mean(unknown[0], columns)
        raise ValueError(f"no column named {listing(unknown)} to drop{guess}")
    specs |= fit(data, columns, [name for name in columns if name not in specs])
    return _collect(columns, specs)


def _fit_table(table: Any, columns: list[str], used: list[str]) -> dict[str, Spec]:
    opened = {name: open_column(table[name]) for name in used}
    if refused := {name: column for name, column in opened.items() if column.kind in REFUSED}:
        raise ValueError(
            "columns of types that cannot be used: "
            + "; ".join(
                f"{name!r} ({column.data.type}): {REFUSED[column.kind]}"
                for name, column in refused.items()
            )
            + f"; or drop with --drop {' '.join(refused)}"
        )
    specs: dict[str, Spec] = {}
    for name, column in opened.items():
        if column.coded or column.kind != "number":
            specs[name] = _fit_categories(name, column)
        elif _is_row_number(name, column):
            specs[name] = f"{table.num_rows:,} different integers, a row number by its name"
    numbers = [name for name in used if name not in specs]

    def read(names: Sequence[str]) -> np.ndarray:
        return _stack(opened[name].data for name in names)

    return specs | _fit_numbers(numbers, table.num_rows, read)


def _fit_matrix(X: np.ndarray, columns: list[str], used: list[str]) -> dict[str, Spec]:
    if not len(X):
        raise ValueError(f"X must have rows, got shape {X.shape}")
    if X.dtype == np.uint8:
        brightest = float(max(X.max(), 1))
        return {name: Numeric(name, 0.0, brightest) for name in used}
    return _fit_numbers(used, len(X), _matrix_reader(X, columns))


def _collect(columns: list[str], specs: dict[str, Spec]) -> Features:
    ordered = [(name, specs[name]) for name in columns]
    numeric = tuple(spec for _, spec in ordered if isinstance(spec, Numeric))
    categorical = tuple(spec for _, spec in ordered if isinstance(spec, Categorical))
    dropped = {name: spec for name, spec in ordered if isinstance(spec, str)}
    for name, reason in dropped.items():
        if reason not in (EXCLUDED, EMPTY, CONSTANT):  # a guess, which may be wrong
            message = f"column {name!r} is dropped: {reason}"
            warnings.warn(message, TableWarning, stacklevel=3)
    if not numeric and not categorical:
        reasons = listing(f"{name}: {reason}" for name, reason in dropped.items())
        raise ValueError(f"no usable feature; {reasons}; add a column that varies")
    _check_text(columns, categorical)
    return Features(tuple(columns), numeric, categorical, dropped)


def _check_text(columns: list[str], categorical: Iterable[Categorical]) -> None:
    """ValueError for names and categories that a model file cannot hold, found before training.

    They are of whoever made the table, unlike all the rest of an encoding.
    """
    try:
        schema.check({"columns": columns}, {"columns": FEATURES["columns"]}, "features")
        for spec in categorical:
            schema.check({"levels": spec.levels}, LEVELS[spec.kind], f"column {spec.name!r}")
    except ValueError as error:
        raise ValueError(f"a model file cannot hold this encoding: {error}; change it") from None


def _fit_numbers(names: list[str], rows: int, read: Read) -> dict[str, Spec]:
    """Means and standard deviations by two passes over data shifted by its first value.

    So a constant column has a spread of exactly 0, and a large common offset costs no digits.
    A column with outliers is measured by its median and quartiles, which they do not move.
    """
    specs: dict[str, Spec] = {}
    for part in _blocks(len(names), rows):
        block = read(names[part])
        missing = np.isnan(block)
        _refuse_infinite(names[part], np.abs(block) > LARGEST)
        present = rows - np.count_nonzero(missing, axis=1)
        first = block[np.arange(len(block)), np.argmin(missing, axis=1)]
        divisor = np.maximum(present, 1)
        block -= first[:, None]
        np.copyto(block, 0, where=missing)
        shift = np.sum(block, axis=1) / divisor
        block -= shift[:, None]
        np.copyto(block, 0, where=missing)
        scale = np.sqrt(np.vecdot(block, block) / divisor)
        center = first + shift
        varies = scale > 8 * np.finfo(float).eps * np.abs(center)
        squash = np.max(np.abs(block), axis=1, initial=0) > OUTLIER * scale
        for i in np.flatnonzero(squash & varies):
            quartiles = np.quantile(block[i][~missing[i]], [0.25, 0.5, 0.75])
            spread = quartiles[2] - quartiles[0]
            squash[i] = spread > 8 * np.finfo(float).eps * abs(center[i])
            if squash[i]:
                center[i] += quartiles[1]
                scale[i] = spread / NORMAL_QUARTILES
        found = (values.tolist() for values in (center, scale, squash, present, varies))
        for name, *column in zip(names[part], *found, strict=True):
            specs[name] = _numeric_spec(name, rows, *column)
    return specs


def _numeric_spec(
    name: str, rows: int, center: float, scale: float, squash: bool, present: int, varies: bool
) -> Spec:
    if varies:
        return Numeric(name, center, scale, squash, present < rows)
    if not present:
        return EMPTY
    # Of one value or none, only the indicator says something. Should another value turn up, it
    # is measured in units of this one.
    return CONSTANT if present == rows else Numeric(name, center, abs(center) or 1.0, missing=True)


def _fit_categories(name: str, column: Column) -> Spec:
    frequency = {
        entry["values"]: entry["counts"]
        for entry in without_nan(column.data).value_counts().to_pylist()
    }
    missing = frequency.pop(None, 0)
    rows = sum(frequency.values())
    if not rows:
        return EMPTY
    if len(frequency) == 1 and not missing:
        return CONSTANT
    differ = len(frequency) > IDENTIFIER_SHARE * rows and rows > IDENTIFIER_ROWS
    if differ and column.kind == "string":
        return f"{len(frequency):,} different texts in {rows:,} rows, like an identifier"
    levels = sorted(frequency)
    if other := len(levels) > MAX_LEVELS:  # sorting is stable: of equally frequent ones, the first
        levels = sorted(sorted(levels, key=frequency.__getitem__, reverse=True)[:MAX_LEVELS])
    return Categorical(name, column.kind, tuple(levels), bool(missing), other)


def _is_row_number(name: str, column: Column) -> bool:
    if not column.integer or name.strip().lower() not in ROW_NUMBERS:
        return False
    values = column.data.to_numpy()
    return len(values) > 1 and len(np.unique(values)) == len(values)


# ---------------------------------------------------------------------------- reading and writing


def _blocks(columns: int, rows: int) -> Iterator[slice]:
    width = max(1, BLOCK // max(rows, 1))
    return (slice(at, min(at + width, columns)) for at in range(0, columns, width))


def _stack(columns: Iterable[Any]) -> np.ndarray:
    return np.stack([column.to_numpy() for column in columns])  # a copy, null as NaN


def _check_matrix(X: np.ndarray) -> None:
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


def _matrix_reader(X: np.ndarray, columns: Sequence[str]) -> Read:
    position = {name: i for i, name in enumerate(columns)}

    def read(names: Sequence[str]) -> np.ndarray:
        block = np.array(X[:, [position[name] for name in names]].T, dtype=np.float64, order="C")
        if not (finite := np.isfinite(block)).all():
            row, column = np.argwhere(~finite.T)[0]
            raise ValueError(
                f"X must be finite, got {block[column, row]} in row {row} (from 0), "
                f"column {names[column]!r}; fill or remove such rows"
            )
        return block

    return read


def _write_one_hot(out: np.ndarray, spec: Categorical, data: Any) -> tuple[int, int]:
    """Set the ones in zeros (N, len(spec.states)); rows left zero: missing ones, unseen ones."""
    pa, pc = import_extra("pyarrow"), import_extra("pyarrow.compute")
    column = open_column(data)
    data = without_nan(as_kind(spec.name, column, spec.kind))
    levels = pa.array(spec.levels, type=data.type)
    found = pc.index_in(data, value_set=levels, skip_nulls=True)
    codes = found.fill_null(-1).to_numpy() - spec.base
    missing = data.is_null().to_numpy()
    unseen = found.is_null().to_numpy() & ~missing
    if column.kind not in (spec.kind, "null") and not found.null_count < len(found):
        raise type_changed(spec.name, spec.kind, column, column.data.drop_null()[0])
    if spec.missing:
        codes[missing] = len(levels)
    if spec.other:
        codes[unseen] = len(levels) + spec.missing
    rows = np.flatnonzero(codes >= 0)
    out[rows, codes[rows]] = 1
    return (
        0 if spec.missing else int(np.count_nonzero(missing)),
        0 if spec.other else int(np.count_nonzero(unseen)),
    )


def _refuse_infinite(names: Sequence[str], infinite: np.ndarray) -> None:
    if infinite.any():
        column = int(np.argmax(infinite.any(axis=1)))
        raise ValueError(
            f"column {names[column]!r} has values that are infinite or too large in "
            f"{np.count_nonzero(infinite[column]):,} of its rows, the first of them row "
            f"{np.argmax(infinite[column])} (from 0); correct or remove them"
        )


def _warn(what: str, rows: dict[str, int]) -> None:
    if rows := {name: n for name, n in rows.items() if n}:
        warnings.warn(f"{what}: {counts(rows)}", TableWarning, stacklevel=3)


# ---------------------------------------------------------------------------- the schema

FEATURES = {
    "columns": schema.NAMES,
    "numeric": schema.RECORDS,
    "categorical": schema.RECORDS,
    "dropped": schema.NOTES,
}
NUMERIC = {
    "name": schema.TEXT,
    "center": schema.FINITE,
    "scale": schema.POSITIVE,
    "squash": schema.FLAG,
    "missing": schema.FLAG,
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
