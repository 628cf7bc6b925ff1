"""Contributions of the columns of a row to its prediction, by integrated gradients.

On the straight path from the average row to this row, both encoded, the sum of gradient times step
over all inputs is the difference of the predictions. So every column has a share of the difference.
Source: Sundararajan, Taly, Yan (2017), arXiv:1703.01365, eq. 1.
"""

from collections.abc import Callable, Iterator
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnaccel.devices.device import to_host
from nnaccel.export.columns import inputs_of, kinds_of
from nnaccel.maths import losses
from nnaccel.maths.activations import identity, sigmoid, sigmoid_vjp
from nnaccel.maths.layers import Chain
from nnaccel.maths.layers.piecewise_linear import piecewise_linear
from nnaccel.maths.losses import Loss
from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import layout, views
from nnaccel.maths.uncertainty import (
    ascending,
    ascending_vjp,
    mean_and_variance,
    mean_and_variance_vjp,
)
from nnaccel.ops import Ops
from nnaccel.tabular.estimates import has_deviation, names_of
from nnaccel.tabular.several_targets import Targets, columns_of
from nnaccel.tabular.swaps import Front
from nnaccel.tabular.targets import Target

if TYPE_CHECKING:
    from nnaccel.tabular.model import Model

STEPS = 256  # on the path
BLOCK = 1000  # rows that are encoded at once
CERTAIN = 1e-12  # probabilities are clipped to this distance from 0 and 1 for log odds

# dZ of each link, from dA, Z and A (..., N, K), and the loss.
LINK_VJP: dict[Any, Callable[[np.ndarray, np.ndarray, np.ndarray, Loss], np.ndarray]] = {
    identity: lambda dA, Z, A, loss: dA,
    sigmoid: lambda dA, Z, A, loss: sigmoid_vjp(dA, Z, A, xp=np),
    losses.softmax: lambda dA, Z, A, loss: A * (dA - np.sum(dA * A, axis=-1, keepdims=True)),
    losses.exponential: lambda dA, Z, A, loss: dA * A,
    ascending: lambda dA, Z, A, loss: ascending_vjp(dA, Z, A, xp=np, quantile=loss.levels or 0.5),
    mean_and_variance: lambda dA, Z, A, loss: mean_and_variance_vjp(dA, Z, A, xp=np),
}


class Contributions(NamedTuple):
    """The contributions of the columns to one prediction of a row.

    target, label: the target and the predicted label; the label is None for a number.   prediction:
    the number, or the probability of the label.   value, average: the number, or the log odds of
    the label, for this row and for the average row.   columns, kinds, cells: the columns that the
    model uses, how they are read, and their values in this row, None where missing.   values:
    (n_columns,), which add up to value - average.
    """

    target: str
    label: Any
    prediction: float
    value: float
    average: float
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    cells: tuple[Any, ...]
    values: np.ndarray


def contributions(model: "Model", data: Any, row: int) -> list[Contributions]:
    """The contributions of the columns to the prediction of a row of a table, one entry for each
    target. They add up to the number in its units, or to the log odds of the predicted label, minus
    the average. Each of several quantiles has an entry; of a mean with its deviation the mean has
    one.

    data: a table, over whose rows the average is taken.   row: counted from 0. Raises ValueError
    for a table that does not fit the model, a row number out of range, and a loss whose link is not
    one of the library's.
    """
    if model.loss.link not in LINK_VJP:
        raise ValueError(
            f"the loss {model.loss.name!r} has a link without a known derivative; contributions "
            "are for the losses of nnaccel"
        )
    front = Front.of(model)
    if "BatchNorm" in repr(model.network):
        raise ValueError(
            "contributions need the gradient of a prediction, which the layer BatchNorm has none of"
        )
    X = model.features.transform(data, "float64")
    if not 0 <= index(row) < len(X):
        raise ValueError(f"row must be from 0 to {len(X) - 1:,}, got {row}")
    cells, kinds = inputs_of(model.features, data), kinds_of(model.features)
    known = (tuple(kinds), tuple(kinds.values()), tuple(_cell(cells[n][row]) for n in kinds))
    # The path goes through the encoded bins, since a path through the numbers would skip narrow
    # bins.
    blocks = (X[first:last] for first, last in bounds(len(X), BLOCK))
    sums = [piecewise_linear(block, front.bins, xp=np).sum(axis=0) for block in blocks]
    start = np.sum(sums, axis=0) / len(X)
    step = piecewise_linear(X[row], front.bins, xp=np) - start
    shares = (np.arange(STEPS) + 0.5) / STEPS
    way = Way(model, front.n, start + np.concatenate([[0.0, 1.0], shares])[:, None] * step)
    found = []
    for pick in _picks(model, way.mean[1]):
        values, dA = pick.values(way.mean)
        share = way.gradient(dA)[2:].mean(axis=0) * step
        each = np.array([share[front.places[name]].sum() for name in kinds])
        average, value = values[:2].tolist()
        said = (pick.target, pick.label, pick.prediction, value, average)
        found.append(Contributions(*said, *known, each))
    return found


def _cell(value: Any) -> Any:
    return None if value == "" or value != value else value


class Pick(NamedTuple):
    """One output of a network: its target and label, and for a number its scale and mean.

    sign: -1 where the label is the first of two classes, since the output belongs to the second.
    """

    target: str
    label: Any
    prediction: float
    output: int
    sign: float = 1.0
    scale: float = 1.0
    mean: float = 0.0

    def values(self, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number, or the log odds of the label, from predictions A (M, K), and the gradient."""
        a, dA = A[:, self.output], np.zeros_like(A)
        if self.label is None:
            dA[:, self.output] = self.scale
            return a * self.scale + self.mean, dA
        a = np.clip(a, CERTAIN, 1 - CERTAIN)
        dA[:, self.output] = self.sign / (a * (1 - a))
        return self.sign * (np.log(a) - np.log1p(-a)), dA


def _picks(model: "Model", A: np.ndarray) -> Iterator[Pick]:
    """The predicted target and label of a row, from the predictions A (n_outputs,) of the
    network."""
    target: Target | Targets = model.target
    if target.task == "classification" and len(A) > 1:
        best = int(A.argmax())
        yield Pick(target.name, target.classes[best], float(A[best]), best)
        return
    for k, one in enumerate(columns_of(target)):
        if not one.classes:
            names = names_of(one.name, model.loss)
            T = len(A) // len(names)
            for p, name in enumerate(names[:1] if has_deviation(model.loss) else names):
                at = p * T + k
                yield Pick(name, None, float(one.in_units(A[at])), at, 1.0, one.scale, one.mean)
            continue
        second = bool(A[k] > 0.5 or (A[k] == 0.5 and target.task == "labels"))
        p = A[k] if second else 1.0 - A[k]
        yield Pick(one.name, one.classes[second], float(p), k, 1.0 if second else -1.0)


class Way:
    """Rows X (M, E) on the path, and the predictions of all networks of a model for them.

    n: how many layers have been applied already.   mean: their mean predictions (M, n_outputs).
    """

    def __init__(self, model: "Model", n: int, X: np.ndarray) -> None:
        self.model, self.ops = model, Ops(np)
        params = np.atleast_2d(to_host(model.params).astype(np.float64))
        self.trees = [views(own, layout(model.network), xp=np)[n:] for own in params]
        self.chain = Chain(model.network.layers[n:])
        runs = [self.chain.forward(tree, X, ops=self.ops, key=None) for tree in self.trees]
        self.saved, self.Z = [saved for _, saved in runs], [Z for Z, _ in runs]
        self.A = [model.loss.predict(Z, xp=np) for Z in self.Z]
        self.mean = np.mean(self.A, axis=0)

    def gradient(self, dA: np.ndarray) -> np.ndarray:
        """The gradient in X (M, E), given the gradient dA (M, n_outputs) in the mean
        predictions."""
        loss, parts = self.model.loss, []
        vjp = LINK_VJP[loss.link]
        for tree, saved, Z, A in zip(self.trees, self.saved, self.Z, self.A, strict=True):
            dZ = vjp(dA / len(self.trees), Z, A, loss)
            parts.append(self.chain.backward(tree, saved, dZ, ops=self.ops, need_dX=True)[0])
        return np.sum(parts, axis=0)
