"""The columns that a model of a table uses, and what a file of it is given of each."""

from nnaccel.tabular.encoding import Features

# By how the column is read.
HOLDS = {
    "number": "numbers, NaN where missing",
    "boolean": "1 for true and 0 for false, NaN where missing",
    "date": "seconds since 1970-01-01 00:00, NaN where missing",
    "time": "seconds since midnight, NaN where missing",
    "duration": "seconds, NaN where missing",
    "string": "text without blanks around it, empty where missing",
}


def kinds_of(features: Features) -> dict[str, str]:
    """How each column that is used is read, a key of `HOLDS`, in the order of the fit."""
    used = {column.name: column for column in (*features.numeric, *features.categorical)}
    return {n: features.reading(used[n]).kind for n in features.columns if n in used}
