"""Functions whose source text becomes a part of an exported Python file."""

import itertools

import numpy as np

from nnaccel.tabular.tables import MISSING


def numbers(column, codes):
    """A column as float64 (N,), NaN where it is missing. NumPy's dates become seconds."""
    values = np.asarray(column)
    if values.dtype.kind == "M":
        values = values - np.datetime64(0, "s")
    if values.dtype.kind == "m":
        values = values / np.timedelta64(1, "s")
    values = values.astype(np.float64)
    return np.where(np.isin(values, codes), np.nan, values)


def texts(column, levels):
    """A column as trimmed text (N,), "" where it is missing."""
    words = [str(cell).strip() for cell in np.asarray(column, dtype=object)]
    return np.array(["" if w in MISSING and w not in levels else w for w in words])


def one_hot(values, levels, missing, other):
    """Zeros and ones (N, n) that say whether the values (N,) are each level, missing, or another
    value."""
    found = values[:, None] == np.array(levels)
    gone = values == "" if values.dtype.kind == "U" else np.isnan(values)
    gone = gone[:, None] & ~found.any(axis=1, keepdims=True)
    states = [found]
    if missing:
        states.append(gone)
    if other:
        states.append(~gone & ~found.any(axis=1, keepdims=True))
    return np.hstack(states)


def piecewise_linear(X, edges):
    """X, followed by the share of each number in each bin between its edges, from 0 to 1."""
    bins = [(j, *e) for j, row in enumerate(edges) for e in itertools.pairwise(row)]
    of = [j for j, _, _ in bins]
    low = np.array([low for _, low, _ in bins], X.dtype)
    slope = np.array([1.0 / (high - low) for _, low, high in bins], X.dtype)
    return np.concatenate([X, np.clip((X[..., of] - low) * slope, 0, 1)], axis=-1)
