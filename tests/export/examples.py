"""A table of all kinds of columns, models of it, and what a file of a model is given of it."""

import warnings

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables need the extra [cli]")

from nnaccel.tabular.fit import Fit
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import Examples
from nnaccel.tabular.tables import TableWarning, as_table

N = 300


def gaps(values, every):
    """The values as a list that lacks some."""
    return [None if i % every == 1 else value for i, value in enumerate(values)]


def table(seed=0, n=N):
    """Every kind of column that an encoding knows, with and without missing values."""
    rng = np.random.default_rng(seed)
    days = np.datetime64("1958-03-01") + rng.integers(0, 25_000, n)
    hours, minutes = rng.integers(0, 24, n), rng.integers(0, 60, n)
    found = {
        "number": rng.normal(5e6, 10, n).tolist(),
        "gaps": gaps(rng.normal(size=n).tolist(), 7),
        "long tail": np.exp(4 * rng.normal(size=n)).tolist(),
        "codes": np.where(np.arange(n) % 11 == 3, -9999.0, rng.normal(size=n)).tolist(),
        "one value": gaps([3.0] * n, 5),
        "text": gaps(rng.choice(["red", "green", "blau ü", "no"], n).tolist(), 12),
        "text without gaps": rng.choice(["a", "b", "c"], n).tolist(),
        "many": [f"level {k % 120}" for k in rng.permutation(n)],
        "flag": (rng.random(n) < 0.5).tolist(),
        "flag with gaps": gaps((rng.random(n) < 0.5).tolist(), 9),
        "date": [str(day) for day in days],
        "date and time": gaps([f"{day} {h:02}:30" for day, h in zip(days, hours, strict=True)], 8),
        "time": [f"{h:02}:{m:02}" for h, m in zip(hours, minutes, strict=True)],
        "duration": [f"{d} days 0{d % 9}:00:00" for d in hours],
    }
    if n >= 120:
        return found
    return {**found, "text": ["purple", "NA", " red ", None] * (n // 4), "number": [None] * n}


def coded(seed=0, n=N):
    """Categories that are numbers, as a data frame has them, beside a column of numbers."""
    import pyarrow as pa

    rng = np.random.default_rng(seed)
    level = pa.array(gaps(rng.choice([1.5, 2.0, 40.0], n).tolist(), 6)).dictionary_encode()
    many = pa.array(rng.permutation(np.arange(n) % 130).astype(float)).dictionary_encode()
    return {"level": level, "many": many, "x": rng.normal(size=n).tolist()}


def target(columns, kind):
    """A target that has to do with the columns: "classes", "words", "numbers", ..."""
    x = np.array([0.0 if v is None else v for v in columns.get("gaps", columns.get("x"))])
    rank = np.argsort(np.argsort(x)) / len(x)
    return {
        "two words": np.where(x > 0, "yes", "no"),
        "three words": np.array(["low", "mid", "high"])[(3 * rank).astype(int)],
        "whole numbers": (4 * rank).astype(int) + 7,
        "flags": x > 0,
        "numbers": 1e6 * x + 5e6,
        "amounts": np.exp(np.minimum(x, 5)),
    }[kind]


def fitted(columns, y, name="y", task="auto", **settings):
    """The model of a table, trained for a moment."""
    settings = {"hidden": (6,), "epochs": 2, "members": 1, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        examples = Examples("table", as_table(columns), y, name, None, task, None)
        fit = Fit(examples, Settings(task=task, **settings), test_fraction=0)
        for _ in fit:
            pass
        return fit.model()


def outputs_of(model, columns):
    """What the library predicts, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        return model.outputs(columns)
