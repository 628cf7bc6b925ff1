"""Members: networks on folds of the rows, their out-of-fold predictions, and the choice between
kinds of networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import to_host
from nnaccel.maths import losses
from nnaccel.maths.activations import identity, sigmoid
from nnaccel.maths.layers import PiecewiseLinear
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network
from nnaccel.maths.uncertainty import (
    LEAST_VARIANCE,
    ascending,
    blocks_of,
    mean_and_variance,
    middle,
)
from nnaccel.training.prediction import predict
from nnaccel.typing import Array

Edges = tuple[tuple[float, ...], ...]  # one tuple per column of numbers, see `PiecewiseLinear`

MOST_BINS = 64  # of a column
ALL_BINS = 2048  # of all columns together, unless that leaves a column fewer than
LEAST_BINS = 8
NARROWEST = 1e-6  # bins, in standard deviations: narrower ones would divide by rounding errors


def bin_edges(X: np.ndarray, n_numbers: int, present: np.ndarray | None = None) -> Edges:
    """The edges of the piecewise linear encoding of the first n_numbers columns of X (N, D), one
    tuple each.

    They are quantiles, half of them over the rows and half over the distinct values. So there is
    resolution both where rows are dense and where they are sparse. present: (N, n_numbers), which
    values are not missing; None: all. A column of two values has no edges, since it is linear
    already.
    Source: Gorishniy, Rubachev, Babenko (2022), arXiv:2203.05556, section 3.2.1.
    """
    n_bins = min(MOST_BINS, max(LEAST_BINS, ALL_BINS // max(1, n_numbers)))
    places = np.linspace(0, 1, n_bins // 2 + 1)
    edges = []
    for j in range(n_numbers):
        x = X[:, j] if present is None else X[present[:, j], j]
        values = np.unique(x)
        if len(values) < 3:
            edges.append(())
            continue
        found = [np.quantile(v, places, method="nearest") for v in (x, values)]
        row = np.unique(np.concatenate(found).astype(np.float32)).astype(np.float64)
        row = row[np.diff(row, prepend=-np.inf) > NARROWEST]
        edges.append(tuple(row.tolist()) if len(row) > 2 else ())
    return tuple(edges)


class Folds(NamedTuple):
    """The rows of each fold: index (K, n), and real (K, n), which is 0 for entries that only pad a
    fold.

    The sizes of folds differ by one row at most. A shorter fold repeats a row, with weight 0.
    """

    number: np.ndarray  # (N,), the fold of each row
    index: np.ndarray
    real: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, K: int, seed: int, stratify: bool) -> "Folds":
        """K random folds of the rows.   codes: (N,), the classes of the rows; with `stratify` each
        fold has its share of every class."""
        N = len(codes)
        if 2 * K > N:
            raise ValueError(f"members must be at most half of the {N:,} training rows, got {K}")
        order = np.random.Generator(np.random.Philox(seed)).permutation(N)
        if stratify:
            order = order[np.argsort(codes[order], kind="stable")]
        number = np.empty(N, np.int64)
        number[order] = np.arange(N) % K
        rows = [np.flatnonzero(number == k) for k in range(K)]
        n = max(map(len, rows))
        index = np.stack([np.resize(own, n) for own in rows])
        real = np.stack([(np.arange(n) < len(own)).astype(np.float64) for own in rows])
        return cls(number, index, real)

    def training_weights(self, weights: np.ndarray | None) -> np.ndarray:
        """Weights (K, N): network k is not trained on the rows of fold k."""
        others = self.number != np.arange(len(self.index))[:, None]
        return others * (1.0 if weights is None else weights)

    def held_out(
        self, X: np.ndarray, Y: np.ndarray, weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows (X, Y, weights) of each fold, (K, n, ...), by which its network is validated."""
        each = self.real if weights is None else self.real * weights[self.index]
        return X[self.index], Y[self.index], each

    def scattered(self, values: np.ndarray) -> np.ndarray:
        """Values of the rows of each fold (K, n, ...) in the order of the rows (N, ...)."""
        out = np.empty((len(self.number), *values.shape[2:]), values.dtype)
        here = self.real > 0
        out[self.index[here]] = values[here]
        return out


class Trained(NamedTuple):
    """A kind of networks after training, with the best parameters of each, (K, P) or (P,)."""

    kind: str  # as in `Settings.numbers`
    network: Network
    params: np.ndarray


def out_of_fold(
    trained: Trained, X: np.ndarray, folds: Folds, put: Callable[[Any], Array]
) -> np.ndarray:
    """The logits of each network on the rows of its fold, (N, n_outputs) in the order of X."""
    parts = [
        to_host(predict(trained.network, put(params), X[index])).astype(np.float64)
        for params, index in zip(trained.params, folds.index, strict=True)
    ]
    return folds.scattered(np.stack(parts))


BOTH = "both"


def with_both(logits: dict[str, np.ndarray], loss: Loss) -> dict[str, np.ndarray]:
    """The logits of each kind and, where there are two kinds, of their mean prediction.

    A link whose inverse is not in `LOGITS` has no logits of the mean.
    """
    if len(logits) == 1 or loss.link not in LOGITS:
        return logits
    mean = loss.pool(np.stack([loss.predict(Z, xp=np) for Z in logits.values()]), xp=np)
    return logits | {BOTH: LOGITS[loss.link](mean, loss)}


def best_of(
    logits: dict[str, np.ndarray], Y: np.ndarray, weights: np.ndarray | None, loss: Loss
) -> str:
    """The kind with the lowest out-of-fold loss.   logits: (N, n_outputs) of each kind."""

    def value(kind: str) -> float:
        return float(loss.function(logits[kind], Y, weights, xp=np, **dict(loss.options))[0])

    return min(logits, key=value)


TINY = 1e-12  # mean predictions are clipped to this distance from 0 and 1


def _before_softplus(A: np.ndarray) -> np.ndarray:
    """The Z of A = softplus(Z)."""
    A = np.clip(A, TINY, None)
    return A + np.log(-np.expm1(-A))


def _before_ascending(A: np.ndarray, loss: Loss) -> np.ndarray:
    P = loss.n_outputs
    blocks, c = blocks_of(A, P), middle(loss.levels or (0.5,))
    steps = [blocks[p] - blocks[p - 1] for p in range(1, P)]
    before = [_before_softplus(step) for step in steps]
    return np.concatenate([*before[:c], blocks[c], *before[c:]], axis=-1)


def _before_variance(A: np.ndarray, loss: Loss) -> np.ndarray:
    mean, variance = blocks_of(A, 2)
    return np.concatenate([mean, _before_softplus(variance - LEAST_VARIANCE)], axis=-1)


# The inverse of each link.
LOGITS: dict[Any, Callable[[np.ndarray, Loss], np.ndarray]] = {
    identity: lambda A, _: A,
    sigmoid: lambda A, _: np.log(np.clip(A, TINY, 1)) - np.log(np.clip(1 - A, TINY, 1)),
    losses.softmax: lambda A, _: np.log(np.clip(A, TINY, 1)),
    losses.exponential: lambda A, _: np.log(np.clip(A, TINY, None)),
    ascending: _before_ascending,
    mean_and_variance: _before_variance,
}


def joined(plain: Trained, piecewise: Trained) -> Trained:
    """Both kinds as networks of one architecture, in which the bins of plain networks have weight
    0."""
    network, D = piecewise.network, piecewise.network.n_inputs
    encoding = network.layers[0]
    assert isinstance(encoding, PiecewiseLinear)
    (K, P), after = plain.params.shape, piecewise.params.shape[1]
    units = (after - P) // encoding.n_bins
    # The weights of the first layer come first, one row per input; the rows of bins are the last.
    first, rest = plain.params[:, : D * units], plain.params[:, D * units :]
    zeros = np.zeros((K, after - P), plain.params.dtype)
    same = np.concatenate([first, zeros, rest], axis=1)
    return Trained(BOTH, network, np.concatenate([same, piecewise.params]))
