"""Targets: converts labels or numbers to the targets of a loss, and back, as plain data.

All checks of a target (missing values, rare classes, infinities, whether numbers are labels) need
only its distinct values and their counts, so these are computed first.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from nnaccel import schema
from nnaccel.arguments import find
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss
from nnaccel.tabular import labels
from nnaccel.tabular.columns import KINDS, Column, without_nan
from nnaccel.tabular.kinds import Reading
from nnaccel.tabular.numbers import MARKS
from nnaccel.tabular.tables import import_extra, listing
from nnaccel.typing import Array, Namespace

MAX_CLASSES = 20  # more different integers than this are quantities, not labels
MIN_ROWS = 5  # integers with fewer rows each, on average, are quantities, too
LARGEST = 1e150  # its square is still finite in float64
FEW_NUMBERS = 50  # with at most this many different whole numbers, classes may be meant


@dataclass(frozen=True)
class Target:
    """A target column: its classes, or the mean and scale that standardise it.

    Attributes
    ----------
    task : {"classification", "regression"}
    name : str
    classes : tuple
        The labels in ascending order, with their original type; empty for regression.
    mean, scale : float
        Of a regression target, in its own units.
    form : str
        The form of numbers and dates if the target is text (see `kinds.Reading`).
    """

    task: str
    name: str
    classes: tuple[Any, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    form: str = "."

    @property
    def names(self) -> tuple[str, ...]:
        """The column's name, alone."""
        return (self.name,)

    def parse(self, values: Any) -> Any:
        """Text converted to the numbers, booleans or labels of the target; other values are
        unchanged.

        Warns (TableWarning) of words that cannot be read, and of marks that are no class, with
        their counts. Both become missing.
        """
        kind = _kind(np.array(self.classes)) if self.classes else "number"
        if not is_text_column(values):
            return values
        if kind == "string":
            return labels.without_marks(self.name, values, self.classes)
        return labels.read_as(self.name, values, Reading(kind, self.form))

    def encode(self, values: Any) -> np.ndarray:
        """The targets of the loss (N,): int64 class indices, or float64 (y - mean) / scale.

        Raises ValueError for missing values, infinities, classes that the target does not have, and
        text instead of numbers.
        """
        levels, codes, _ = distinct_values(self.parse(values), self.name)
        _refuse_missing(codes, self.name)
        if self.task == "regression":
            levels = _as_kind(levels, "number", self.name)
            _refuse_infinite(levels, codes, self.name)
            return ((levels - self.mean) / self.scale)[codes]
        levels = _as_kind(levels, _kind(np.array(self.classes)), self.name).tolist()
        index = {label: i for i, label in enumerate(self.classes)}
        if unseen := [label for label in levels if label not in index]:
            raise ValueError(
                f"target {self.name!r} has classes that the model does not know: "
                f"{_labels(unseen)}; it knows {_labels(self.classes)}; "
                "leave such rows out or train the model on them"
            )
        return np.array([index[label] for label in levels], dtype=np.int64)[codes]

    def decode(self, values: Any) -> np.ndarray:
        """The inverse of `encode`: class indices as labels, standardised numbers in their own
        units.

        Not checked: that indices are in range.
        """
        if self.task == "classification":
            return np.array(self.classes)[np.asarray(values)]
        return self.in_units(np.asarray(values, dtype=np.float64))

    def in_units(self, values: Array) -> Array:
        """Standardised numbers, of any array library, in their own units."""
        return values * self.scale + self.mean

    def n_outputs(self, loss_kind: str) -> int:
        """The number of outputs of a network with a loss whose targets have that kind."""
        return 1 if self.task == "regression" or loss_kind == "labels" else len(self.classes)

    def outputs(self, A: Array, *, xp: Namespace = np) -> Array:
        """Predictions A (N, K) of the network as numbers (N,) in their own units, or as the
        probability of each class (N, K), whose rows add up to 1."""
        if self.task == "regression":
            return self.in_units(A[:, 0])
        if A.shape[1] == 1:
            return xp.concat([1.0 - A, A], axis=1)
        # The rows of a float32 softmax add up to 1 only to 1e-7.
        return A / xp.sum(A, axis=1, keepdims=True)

    def predicted(self, outputs: np.ndarray, threshold: float | None = None) -> np.ndarray:
        """The predicted number, or label, of each row (N,), from `outputs`.

        threshold: the probability from which the second of two classes is predicted; None: the more
        probable class.
        """
        self.check_threshold(threshold)
        if self.task == "regression":
            return outputs
        return self.decode(class_numbers(outputs, threshold))

    def check_threshold(self, threshold: float | None) -> None:
        """Raises ValueError for a threshold that is no share, or if there are not two classes."""
        if threshold is None:
            return
        if len(self.classes) != 2:
            holds = f"{len(self.classes)} classes" if self.classes else "numbers"
            raise ValueError(f"threshold is for two classes, and target {self.name!r} has {holds}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, got {threshold}")

    def check_split(self, codes: np.ndarray) -> None:
        """Raises ValueError for a class with a single row, which cannot be in both parts of a
        split.

        codes: the class numbers (N,).
        """
        rows = np.bincount(codes, minlength=len(self.classes))
        if single := [label for label, n in zip(self.classes, rows, strict=True) if n == 1]:
            number = _kind(np.array(self.classes)) == "number"
            raise ValueError(
                f"target {self.name!r} has {len(single):,} of {len(self.classes):,} classes with a "
                f"single row: {_labels(single)}; merge it with another class or drop its row"
                + (", or use --task regression" if number else "")
            )

    def to_dict(self) -> dict[str, Any]:
        """The target as data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> "Target":
        """The target that `to_dict` returned, after a check of every key and value.

        Raises ValueError that names a key that is unknown, absent, or has a wrong type or value.
        """
        schema.check(data, TARGET, "target")
        classes = data["classes"]
        if data["task"] == "regression" and classes:
            raise ValueError("target: 'classes' must be empty for regression")
        if data["task"] == "classification":
            # All labels have the type of the first one.
            member = LABELS.get(type(classes[0]) if classes else str, schema.TEXT)
            schema.check({"classes": classes}, {"classes": schema.ascending(member)}, "target")
            if len(classes) < 2:
                raise ValueError(f"target: 'classes' must be two or more, got {classes}")
            if np.array(classes).tolist() != [*classes]:  # NumPy cuts strings at a NUL character
                raise ValueError("target: no class may end in a null character")
        return cls(**{**data, "classes": tuple(classes)})


def class_numbers(P: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """The predicted class numbers (N,) from probabilities P (N, K).   threshold: the probability
    from which the second of two classes is predicted; None: the most probable class."""
    return P.argmax(axis=1) if threshold is None else (P[:, 1] >= threshold).astype(np.int64)


def fit_target(values: Any, task: str = "auto", name: str = "y") -> Target:
    """Decide how a target column is encoded.

    values: NumPy array (N,) or (N, 1), or a column of pyarrow, pandas or polars.

    task "auto": text, booleans and dictionary-encoded values are classes; so are whole numbers
    when at most two are different, or at most `MAX_CLASSES` (20) with `MIN_ROWS` (5) rows each on
    average. All other numbers are a regression target, standardised by the mean and the
    population standard deviation in float64.

    Raises ValueError, with the target, the fault and the remedy, for missing values
    (`rows_with_target` says where), infinities, a single class, a constant number, classification
    of numbers with fractions, regression on text or booleans, and classes that a model file cannot
    hold.
    """
    find("task", task, TASKS)
    distinct = distinct_values(values, name)
    _refuse_missing(distinct.codes, name)
    if _kind(distinct.levels) == "number":
        _refuse_infinite(distinct.levels, distinct.codes, name)
    return fit_counted(distinct.counted(), task, name)


def fit_counted(counted: "Counted", task: str = "auto", name: str = "y") -> Target:
    """Like `fit_target`, from the different values and their counts, without missing ones."""
    return storable(find("task", task, TASKS)(counted, name))


def storable(target: Target) -> Target:
    """The target itself. Raises ValueError for a target that a model file cannot hold."""
    try:
        return Target.from_dict(target.to_dict())
    except ValueError as error:
        raise ValueError(f"a model file cannot hold this target: {error}; change it") from None


def explain_task(values: Any, target: Target) -> str:
    """Says whether whole numbers are taken for classes or quantities, and how to change it; "" if
    that is no guess.

    values: of the fit.
    """
    if target.task == "classification":
        return explain_levels(np.array(target.classes), target)
    hint = ""
    for some in (values[:1000], values):  # the first 1000 settle most cases
        if not (hint := explain_levels(distinct_values(some, target.name).levels, target)):
            return ""
    return hint


def explain_levels(levels: np.ndarray, target: Target) -> str:
    """Like `explain_task`, from the different values."""
    if target.task == "classification":
        if _kind(levels) != "number":
            return ""
        return f"{len(target.classes)} whole numbers; --task regression for quantities"
    if len(levels) > FEW_NUMBERS or not _are_whole(levels):
        return ""
    return f"{len(levels)} different whole numbers; --task classification for classes"


def check_loss(loss: str | Loss, n_classes: int) -> None:
    """Raises ValueError for a loss that does not fit the number of classes (0: the target is a
    number)."""
    loss = losses.get(loss)
    kind = loss.targets.kind
    if (kind == "numbers") != (not n_classes) or (kind == "labels" and n_classes != 2):
        task = f"classification with {n_classes} classes" if n_classes else "regression"
        raise ValueError(f"loss {loss.name!r} is not for {task}; leave it out, or change the task")


def rows_with_target(values: Any, name: str = "y") -> np.ndarray:
    """Boolean mask (N,): the rows where the target is neither null nor NaN."""
    return distinct_values(values, name).codes >= 0


def _fit_auto(counted: "Counted", name: str) -> Target:
    levels, rows, coded = counted
    labels = coded or _kind(levels) != "number"
    few = len(levels) <= 2 or len(levels) <= min(MAX_CLASSES, rows.sum() / MIN_ROWS)
    return (_fit_classes if labels or (few and _are_whole(levels)) else _fit_number)(counted, name)


def _fit_classes(counted: "Counted", name: str) -> Target:
    levels = counted.levels
    number = _kind(levels) == "number"
    if number and not _are_whole(levels):
        fraction = levels[levels % 1 != 0][0]
        raise ValueError(
            f"target {name!r} holds numbers with fractions, such as {fraction}, and cannot be "
            "classes; use --task regression, or turn them into labels"
        )
    if len(levels) == 1:
        raise ValueError(
            f"target {name!r} has a single class, {_labels(levels.tolist())}; "
            "there is nothing to tell apart: add rows of another class or choose another target"
        )
    return Target("classification", name, tuple(levels.tolist()))


def _fit_number(counted: "Counted", name: str) -> Target:
    levels, rows, _ = counted
    if _kind(levels) != "number":
        raise ValueError(
            f"target {name!r} holds {KINDS[_kind(levels)]} ({_labels(levels.tolist())}), and "
            "regression needs numbers; use --task classification, or convert it"
        )
    # Shifted by one of the values, a constant has a spread of exactly 0, and an offset costs no
    # digits.
    shifted = levels.astype(np.float64) - float(levels[0])
    shift = float(np.average(shifted, weights=rows))
    mean = float(levels[0]) + shift
    scale = float(np.sqrt(np.average((shifted - shift) ** 2, weights=rows)))
    if not scale > 8 * np.finfo(float).eps * abs(mean):
        raise ValueError(
            f"target {name!r} is constant ({_labels(levels.tolist())}); "
            "there is nothing to predict: choose another target"
        )
    return Target("regression", name, (), mean, scale)


TASKS = {"auto": _fit_auto, "classification": _fit_classes, "regression": _fit_number}


def _are_whole(levels: np.ndarray) -> bool:
    return not (levels % 1).any()


def _labels(labels: Iterable[Any]) -> str:
    return listing(map(repr, labels))


def _refuse_missing(codes: np.ndarray, name: str) -> None:
    if missing := np.count_nonzero(codes < 0):
        if missing == len(codes):
            raise ValueError(f"target {name!r} has no values at all; choose another target")
        raise ValueError(
            f"target {name!r} is missing in {missing:,} of {len(codes):,} rows; leave them out "
            "(rows_with_target says which they are)"
        )
    if not len(codes):
        raise ValueError(f"target {name!r} has no rows")


def _refuse_infinite(levels: np.ndarray, codes: np.ndarray, name: str) -> None:
    infinite = np.abs(levels.astype(np.float64)) > LARGEST
    if infinite.any():
        raise ValueError(
            f"target {name!r} is infinite or too large in "
            f"{np.count_nonzero(infinite[codes]):,} of {len(codes):,} rows, the first is row "
            f"{np.argmax(infinite[codes])} (from 0); correct or remove them"
        )


# ---------------------------------------------------------------------------- distinct values


class Distinct(NamedTuple):
    """The distinct values in ascending order, and for each row the index of its value; -1:
    missing."""

    levels: np.ndarray
    codes: np.ndarray
    coded: bool = False  # whether the column was dictionary-encoded: a list of categories

    def counted(self) -> "Counted":
        """The values with their counts."""
        present = self.codes[self.codes >= 0]
        return Counted(self.levels, np.bincount(present, minlength=len(self.levels)), self.coded)


class Counted(NamedTuple):
    """The different values in ascending order, and their counts."""

    levels: np.ndarray
    rows: np.ndarray
    coded: bool = False


def _is_arrow(values: Any) -> bool:
    return hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__")


def distinct_values(values: Any, name: str) -> Distinct:
    """The different values of a column of Arrow or NumPy. Raises ValueError for mixed types."""
    if _is_arrow(values):
        return _distinct_arrow(values, name)
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(f"target {name!r} must be 1-D (n_samples,), got shape {values.shape}")
    if values.dtype.kind in "OT":
        present = np.array([value is not None and value == value for value in values], dtype=bool)
        values = _one_type(values, present, name)
    elif values.dtype.kind == "f":
        present = ~np.isnan(values)
    else:
        present = np.ones(len(values), dtype=bool)
    if values.dtype.kind not in KIND:
        raise _unusable(name, values.dtype)
    codes = np.full(len(values), -1)
    levels, codes[present] = np.unique(values[present], return_inverse=True)
    return Distinct(_one_zero(levels), codes)


def _one_zero(levels: np.ndarray) -> np.ndarray:
    """-0.0 becomes 0.0: they are equal, so they are one class."""
    return levels + 0.0 if levels.dtype.kind == "f" else levels


def _one_type(values: np.ndarray, present: np.ndarray, name: str) -> np.ndarray:
    """An array of objects converted to their common type. Missing ones get an arbitrary value."""
    given = values[present].tolist()
    kinds = {KIND.get(np.asarray(v).dtype.kind, type(v).__name__): v for v in given}
    if len(kinds) > 1:
        raise ValueError(f"target {name!r} mixes types: {_labels(kinds.values())}; make it one")
    _refuse_nul([value for value in given if isinstance(value, str)], name)
    plain = np.array(given) if given else np.zeros(0)
    filled = np.zeros(len(values), plain.dtype)
    filled[present] = plain
    return filled


def _distinct_arrow(values: Any, name: str) -> Distinct:
    pa = import_extra("pyarrow")
    column = Column(values)
    if column.kind == "null":
        return Distinct(np.zeros(0), np.full(len(values), -1))
    if column.kind not in TYPES:
        raise _unusable(name, column.source.type)
    data = column.data if column.whole is None else column.whole
    encoded = pa.chunked_array(without_nan(data)).combine_chunks().dictionary_encode()
    if column.kind == "string":
        _refuse_nul(encoded.dictionary.to_pylist(), name)
    levels = encoded.dictionary.to_numpy(zero_copy_only=False)
    levels = levels if column.whole is not None else levels.astype(TYPES[column.kind])
    codes = encoded.indices.fill_null(-1).to_numpy()
    different, rank = np.unique(levels, return_inverse=True)  # 0.0 and -0.0 are one
    rank = np.append(rank, -1)  # for the code -1
    return Distinct(_one_zero(different), rank[codes], column.coded)


def is_text_column(values: Any) -> bool:
    """Whether the values are text of a table, and not an Arrow dictionary of categories."""
    return _is_arrow(values) and Column(values).text is not None


def _refuse_nul(labels: Iterable[str], name: str) -> None:
    """Raises ValueError for a label that ends in a NUL character, which NumPy's arrays of text
    lose."""
    if bad := [label for label in labels if label.endswith("\0")]:
        raise ValueError(
            f"target {name!r} has labels that end in a NUL character, such as {bad[0]!r}; remove it"
        )


def _unusable(name: str, dtype: Any) -> ValueError:
    return ValueError(
        f"target {name!r} must hold numbers, text or booleans, got {dtype}; convert it"
    )


# ---------------------------------------------------------------------------- kinds

# NumPy's kinds of dtypes as the kinds of `columns`, and back.
KIND = {"b": "boolean", "i": "number", "u": "number", "f": "number", "U": "string"}
TYPES = {"boolean": np.bool_, "number": np.float64, "string": np.str_}
TRUTH = {"true": True, "false": False, "1": True, "0": False}


def _kind(levels: np.ndarray) -> str:
    return KIND[levels.dtype.kind]


def _as_kind(levels: np.ndarray, kind: str, name: str) -> np.ndarray:
    """The levels converted to that kind, in the same order, if the conversion is lossless."""
    if _kind(levels) == kind:
        return levels
    try:
        return CASTS[kind](levels)
    except (ValueError, KeyError):
        raise ValueError(
            f"target {name!r} held {KINDS[kind]} when the model was fitted, now it holds "
            f"{KINDS[_kind(levels)]} ({_labels(levels.tolist())}); "
            "convert it, or train on such data"
        ) from None


def _as_text(levels: np.ndarray) -> np.ndarray:
    return np.array([str(level).removesuffix(".0") for level in levels.tolist()])


def _as_boolean(levels: np.ndarray) -> np.ndarray:
    return np.array([TRUTH[level.lower()] for level in _as_text(levels)])


CASTS = {
    "number": lambda levels: levels.astype(np.float64),
    "string": _as_text,
    "boolean": _as_boolean,
}


# ---------------------------------------------------------------------------- the schema

TARGET = {
    "task": schema.one_of("classification", "regression"),
    "name": schema.TEXT,
    "classes": schema.LIST,
    "mean": schema.FINITE,
    "scale": schema.POSITIVE,
    "form": schema.one_of(*MARKS),
}
LABELS = {
    str: schema.TEXT,
    bool: schema.FLAG,
    int: schema.INT64,
    float: schema.FINITE,
}
