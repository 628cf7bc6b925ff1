"""The columns that a model of a table uses, and the input of an exported file for each."""

from typing import Any

import numpy as np

from nnaccel.tabular.columns import Column, categories_of, numbers_of
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.tables import as_table

# Kind of a column's reading -> the content of its input.
HOLDS = {
    "number": "numbers, NaN where missing",
    "boolean": "1 for true and 0 for false, NaN where missing",
    "date": "seconds since 1970-01-01 00:00, NaN where missing",
    "time": "seconds since midnight, NaN where missing",
    "duration": "seconds, NaN where missing",
    "string": "text without blanks around it, empty where missing",
}


def kinds_of(features: Features) -> dict[str, str]:
    """The kind of each used column, a key of `HOLDS`, in the order of the fit."""
    used = {column.name: column for column in (*features.numeric, *features.categorical)}
    return {n: features.reading(used[n]).kind for n in features.columns if n in used}


def inputs_of(features: Features, data: Any) -> dict[str, np.ndarray]:
    """The inputs of an exported file for a table: each column as float64 (N,), or as text (N,) in
    objects, see `HOLDS`.

    data: as for `Features.transform`, which also raises the errors.
    """
    if isinstance(data, np.ndarray):
        features.check_matrix(data)
        columns = dict(zip(features.columns, data.T.astype(np.float64), strict=True))
        return {name: columns[name] for name in kinds_of(features)}
    table, found = as_table(data), {}
    features.check_columns(table.column_names)
    used = {column.name: column for column in (*features.numeric, *features.categorical)}
    for name, kind in kinds_of(features).items():
        column, reading = Column(table[name]), features.reading(used[name])
        if kind == "string":
            cells = categories_of(name, column, reading)[0].to_pylist()
            found[name] = np.array(["" if cell is None else cell for cell in cells], dtype=object)
        else:
            found[name] = numbers_of(name, column, reading)[0]
    return found
