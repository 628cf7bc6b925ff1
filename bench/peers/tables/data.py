"""Tables for contestants: finds and reads them, decides their task, and divides their rows."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TARGET = "target"  # the column's name in the pairs of a folder
CLASSES = 20  # integers with at most this many different values are classes
MISSING = ["", "NA", "NaN", "nan"]  # without "None", a category of ames


class Table(NamedTuple):
    """The files of a table.   test: "": hold out a fifth of the rows."""

    name: str
    train: str
    test: str
    target: str


class Rows(NamedTuple):
    """Columns as a data frame, and the target as numbers, or class numbers from 0."""

    X: Any
    y: np.ndarray
    X_test: Any
    y_test: np.ndarray
    classes: int  # 0 for a regression


def pairs(folder: Path) -> Iterator[Table]:
    """Finds NAME_train.csv and NAME_test.csv in a folder."""
    for train in sorted(folder.glob("*_train.csv")):
        name = train.name.removesuffix("_train.csv")
        test = folder / f"{name}_test.csv"
        if test.exists():
            yield Table(name, str(train), str(test), TARGET)


def single(csv: Path, target: str, test: Path | None) -> Table:
    """Names a table after its file."""
    return Table(csv.stem.removesuffix("_train"), str(csv), str(test or ""), target)


def are_classes(values: Any) -> bool:
    """Tells classes from numbers: text, or a few distinct integers written without a point."""
    kind = np.asarray(values).dtype.kind
    return kind not in "iuf" or (kind in "iu" and len(np.unique(values)) <= CLASSES)


def divide(y: np.ndarray, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides row numbers into four fifths and one, with the same share of each class in both."""
    from sklearn.model_selection import train_test_split

    numbers = np.arange(len(y))
    kept, held_out = train_test_split(
        numbers, test_size=0.2, random_state=seed, stratify=y if classes else None
    )
    return kept, held_out


def read(table: Table) -> Rows:
    """Reads a table. Text becomes a category; categories that are not in the training rows are
    missing."""
    import pandas as pd

    X, X_test = _frame(table.train), _frame(table.test) if table.test else None
    y = X.pop(table.target).to_numpy()
    y_test = X_test.pop(table.target).to_numpy() if X_test is not None else y[:0]
    classes = len(np.unique(y.astype(str))) if are_classes(y) else 0
    if classes:
        names, y = np.unique(y.astype(str), return_inverse=True)
        y_test = np.searchsorted(names, y_test.astype(str))
    if X_test is None:
        kept, held_out = divide(y, classes, seed=0)
        X, X_test, y, y_test = X.iloc[kept].copy(), X.iloc[held_out].copy(), y[kept], y[held_out]
    for column in X.columns:
        if not pd.api.types.is_numeric_dtype(X[column]) or X[column].dtype == bool:
            known = sorted(X[column].dropna().astype(str).unique())
            for frame in (X, X_test):
                text = frame[column].astype(object).map(str, na_action="ignore")
                frame[column] = text.where(text.isin(known)).astype(pd.CategoricalDtype(known))
    return Rows(X, y, X_test, y_test, classes)


def _frame(path: str) -> Any:
    import pandas as pd

    return pd.read_csv(path, na_values=MISSING, keep_default_na=False, skipinitialspace=True)


def error(rows: Rows, predicted: np.ndarray) -> float:
    """Scores predictions of the test rows: 1 - AUC of probabilities, or the RMSE of numbers."""
    from sklearn.metrics import roc_auc_score

    if not rows.classes:
        return math.sqrt(float(np.mean((np.ravel(predicted) - rows.y_test) ** 2)))
    chances = predicted[:, 1] if rows.classes == 2 else predicted
    return 1 - float(roc_auc_score(rows.y_test, chances, multi_class="ovr"))
