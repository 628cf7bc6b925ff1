"""The parts of a file of NumPy that differ where a network takes a matrix, and no table: what it
is given are rows X (N, D), and what it predicts is what the estimator does."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nnaccel import __version__
from nnaccel.export.sources import assigned
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
    """The docstring of the file, and how it is used.   name: of the module."""
    names = model.features.columns
    plain = names == tuple(f"x{i}" for i in range(len(names)))
    order = "" if plain else ", in the order of COLUMNS"
    return HEADING.format(name=name, D=len(names), order=order, version=__version__)


def data(model: "Model") -> Iterator[str]:
    """The assignments of the names that are known."""
    names = model.features.columns
    if names != tuple(f"x{i}" for i in range(len(names))):
        yield assigned("COLUMNS", [*names])
    if model.target.classes:
        yield assigned("CLASSES", [*model.target.classes])


def predictions(model: "Model") -> list[str]:
    """The functions of what is predicted."""
    target, n = model.target, model.network.n_outputs
    if target.task == "labels":
        return [text.format(n=n) for text in (LABELS, PROBA_OF_LABELS)]
    if target.task == "regression":
        return [NUMBERS.format(n=n) if isinstance(target, Targets) else NUMBER]
    return [CLASS, PROBA_OF_TWO if n == 1 else PROBA.format(n=n)]
