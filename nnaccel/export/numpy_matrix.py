"""The parts of an exported NumPy file for a network of a matrix instead of a table: its input is
rows X (N, D), and its predictions are those of the estimator."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nnaccel import __version__
from nnaccel.export.sources import assigned
from nnaccel.tabular.estimates import has_deviation
from nnaccel.tabular.several_targets import Targets

if TYPE_CHECKING:
    from nnaccel.tabular.model import Model

HEADING = '''"""Predicts with NumPy alone.

    from {name} import predict

    predict(X)

X (N, {D}) has numbers in {D} columns{order}. Written by nnaccel {version}.
"""'''

NUMBER = '''def predict(X):
    """The number of each row (N,)."""
    return outputs(X)[:, 0]'''

NUMBERS = '''def predict(X):
    """The numbers of each row (N, {n})."""
    return outputs(X)'''

QUANTILES = '''def predict(X):
    """The quantiles {levels} of each row (N, {P})."""
    return outputs(X)'''

QUANTILES_OF_SEVERAL = '''def predict(X):
    """The quantiles {levels} of each number of each row (N, {n}, {P})."""
    return outputs(X).reshape(-1, {P}, {n}).swapaxes(1, 2)'''

DEVIATION = '''def predict(X):
    """The mean of each row (N,)."""
    return outputs(X)[:, 0]


def predict_std(X):
    """The standard deviation of each row (N,)."""
    return np.sqrt(outputs(X)[:, 1])'''

DEVIATION_OF_SEVERAL = '''def predict(X):
    """The means of each row (N, {n})."""
    return outputs(X)[:, :{n}]


def predict_std(X):
    """The standard deviations of each row (N, {n})."""
    return np.sqrt(outputs(X)[:, {n}:])'''

CLASS = '''def predict(X):
    """The most probable class of each row (N,)."""
    return np.array(CLASSES)[predict_proba(X).argmax(axis=1)]'''

PROBA_OF_TWO = '''def predict_proba(X):
    """The probability of each class (N, 2), in the order of CLASSES."""
    P = outputs(X)
    return np.hstack([1.0 - P, P])'''

PROBA = '''def predict_proba(X):
    """The probability of each class (N, {n}), in the order of CLASSES."""
    return outputs(X)'''

LABELS = '''def predict(X):
    """Whether each row has each label (N, {n}), 0 or 1."""
    return (predict_proba(X) > 0.5).astype(int)'''

PROBA_OF_LABELS = '''def predict_proba(X):
    """The probability of each label (N, {n})."""
    return outputs(X)'''


def heading(model: "Model", name: str) -> str:
    """The docstring of the file, which shows its use.   name: of the module."""
    names = model.features.columns
    plain = names == tuple(f"x{i}" for i in range(len(names)))
    order = "" if plain else ", in the order of COLUMNS"
    return HEADING.format(name=name, D=len(names), order=order, version=__version__)


def data(model: "Model") -> Iterator[str]:
    """The assignments of column and class names, if they are known."""
    names = model.features.columns
    if names != tuple(f"x{i}" for i in range(len(names))):
        yield assigned("COLUMNS", [*names])
    if model.target.classes:
        yield assigned("CLASSES", [*model.target.classes])


def predictions(model: "Model") -> list[str]:
    """The source text of the prediction functions."""
    target, n, P = model.target, model.network.n_outputs, model.loss.n_outputs
    if target.task == "labels":
        return [text.format(n=n) for text in (LABELS, PROBA_OF_LABELS)]
    if target.task == "regression":
        one, several = (NUMBER, NUMBERS)
        if P > 1:
            deviation = has_deviation(model.loss)
            one = DEVIATION if deviation else QUANTILES
            several = DEVIATION_OF_SEVERAL if deviation else QUANTILES_OF_SEVERAL
        text = several if isinstance(target, Targets) else one
        return [text.format(n=n // P, P=P, levels=", ".join(map(str, model.loss.levels)))]
    return [CLASS, PROBA_OF_TWO if n == 1 else PROBA.format(n=n)]
