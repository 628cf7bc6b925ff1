"""Predictions for rows in which one column has the values of other rows, for many swaps at once.

In a dense first layer Z of a row is a sum over the columns, Z = b + sum of G_c. A swap of column c
takes G_c from another row, Z' = Z - G_c + G_c', and leaves the other terms unchanged. So the
encoding and the first product are computed once for all swaps. The other layers get the rows of
many swaps as one matrix, a block at a time.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nnaccel.devices.device import Device, device_of, to_host
from nnaccel.kernels.backend import Backend, backend_of
from nnaccel.maths.layers import Chain, Dense, PiecewiseLinear
from nnaccel.maths.layers.piecewise_linear import Bins, piecewise_linear
from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import layout, views
from nnaccel.maths.uncertainty import mean_of_networks
from nnaccel.ops import Ops
from nnaccel.tabular.estimates import outputs_of
from nnaccel.typing import Array

if TYPE_CHECKING:
    from nnaccel.tabular.model import Model

OUTPUTS = 1 << 24  # numbers that are predicted before they are yielded: 128 MB
ROWS = 1 << 16  # rows of a block, where the backend sets no limit


class Front(NamedTuple):
    """The part of a network before the layer that mixes its inputs: the encoding of numbers, if
    any.

    n: the number of its layers, 0 or 1.   bins: of the encoding, if any.   places: for each column
    of the table, its positions and those of its bins in the input (E,) of the mixing layer.
    """

    n: int
    bins: Bins
    places: dict[str, np.ndarray]

    @classmethod
    def of(cls, model: "Model") -> "Front":
        first, features = model.network.layers[0], model.features
        encodes = isinstance(first, PiecewiseLinear)
        bins = first.bins if encodes else Bins((), (), ())
        of, D = np.array(bins.of, dtype=np.int64), model.network.n_inputs
        places = {
            name: np.concatenate([own, D + np.flatnonzero(np.isin(of, own))]).astype(np.int64)
            for name, own in features.places.items()
        }
        return cls(int(encodes), bins, places)


class First(NamedTuple):
    """The parameters of a network, W (E, H) of the layer that mixes its inputs, and Z (N, H) of
    that layer for all rows."""

    params: Array
    W: Array
    Z: Array


class Swaps:
    """The rows of a table, encoded, and a model that predicts them with one column swapped.

    columns: those of the table that the model uses.   X: the encoded rows (N, D), on the host.
    """

    def __init__(self, model: "Model", X: np.ndarray, device: Device | None = None) -> None:
        self.model = model
        self.columns = [*model.features.places]
        self.X = X
        self._front = Front.of(model)
        mixing = model.network.layers[self._front.n]
        self._activation = mixing.activation if isinstance(mixing, Dense) else None
        params = model.params if device is None else device.asarray(model.params)
        self._where = device_of(params)
        several = params.ndim == 2
        with self._where.context():
            self._X = self._where.asarray(self.X)
            each = range(params.shape[0]) if several else ()
            self._members = [params[k, :] for k in each] or [params]
        # Of a mean and a variance the mean alone: the predictions of the networks are added up.
        loss, n = model.loss, model.network.n_outputs
        self._of_points = loss.pool is not mean_of_networks
        self._n_outputs = n // loss.n_outputs if self._of_points else n

    def _in_units(self, A: np.ndarray) -> np.ndarray:
        """Predictions (M, n) as `outputs` gives them."""
        if self._of_points:
            return self.model.target.outputs(A)
        return outputs_of(self.model.target, self.model.loss, A)

    def outputs(
        self, columns: Sequence[str], index: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Each column, and what is predicted where it has the values of other rows: as
        `Model.outputs` says, (S, N) or (S, N, K), but of a mean with its deviation the mean alone.

        index: (S, N), for each of S swaps and each row, the row whose value it gets. Raises
        ValueError where a prediction is not finite.
        """
        (S, N), n = index.shape, self._n_outputs
        width = max(1, OUTPUTS // (S * N * n))  # columns at a time
        for start in range(0, len(columns), width):
            names = columns[start : start + width]
            for name, own in zip(names, self._predictions(names, index), strict=True):
                if not np.isfinite(own).all():
                    raise ValueError(
                        f"rows give no finite prediction with other values of {name!r}: some are "
                        "far outside the range of the training rows; correct or remove them"
                    )
                found = self._in_units(own.reshape(S * N, n))
                yield name, found.reshape(S, N, *found.shape[1:])

    def _predictions(self, names: Sequence[str], index: np.ndarray) -> np.ndarray:
        """The mean predictions of the networks (columns, S, N, n_outputs)."""
        where, backend = self._where, backend_of(self._where.xp, "numpy")
        rows = max(1, min(ROWS, backend.prediction_rows) // len(index))
        out = np.zeros((len(names), *index.shape, self._n_outputs))
        guard = backend.ieee_products("float32")
        with where.context(), guard, backend.team() as n, ThreadPoolExecutor(n) as pool:
            to, run = where.asarray(index), pool.map if n > 1 else map
            for params in self._members:
                W, b = self._mixing(params)
                first = First(params, W, self._sums(W, b, rows))
                add = partial(self._add, first, to, rows, backend)
                _ = [*run(add, names, out)]
        return out / len(self._members)

    def _add(
        self, first: First, to: Array, rows: int, backend: Backend, name: str, out: np.ndarray
    ) -> None:
        """Add the predictions of a network with one column swapped to out (S, N, n_outputs)."""
        xp, ops = self._where.xp, backend.operations()
        with self._where.context(), np.errstate(all="ignore"):
            G = self._term(name, first.W)
            others = first.Z - G
            for start, stop in bounds(out.shape[1], rows):
                part = slice(start, stop)
                terms = xp.take(G, xp.reshape(to[:, part], (-1,)), axis=0)
                out[:, part] += self._finished(first.params, terms, others[part, :], ops)

    def _mixing(self, params: Array) -> tuple[Array, Array]:
        """W (E, H) and b (1, H) of the layer that mixes its inputs. For a layer that is not dense,
        the identity and zeros."""
        if self._activation:
            return views(params, layout(self.model.network), xp=self._where.xp)[self._front.n]
        same = np.eye(self.X.shape[1] + len(self._front.bins.of), dtype=self.X.dtype)
        return self._where.asarray(same), self._where.asarray(np.zeros_like(same[:1]))

    def _sums(self, W: Array, b: Array, rows: int) -> Array:
        """Z (N, H) of the mixing layer for all rows."""
        xp, bins = self._where.xp, self._front.bins
        blocks = (self._X[start:stop, :] for start, stop in bounds(len(self.X), rows))
        with np.errstate(all="ignore"):
            parts = [piecewise_linear(X, bins, xp=xp) @ W + b for X in blocks]
        return xp.concat(parts, axis=0)

    def _term(self, column: str, W: Array) -> Array:
        """The term (N, H) of a column in Z."""
        xp, (_, bins, places), D = self._where.xp, self._front, self.X.shape[1]
        own, mine = (places[column][in_X] for in_X in (places[column] < D, places[column] >= D))
        picked = [tuple(np.array(values)[mine - D].tolist()) for values in bins]
        of = tuple(np.searchsorted(own, picked[0]).tolist())
        X = xp.take(self._X, self._where.asarray(own), axis=1)
        E = piecewise_linear(X, Bins(of, *picked[1:]), xp=xp)
        W = xp.take(W, self._where.asarray(places[column]), axis=0)
        return E * W if W.shape[0] == 1 else E @ W  # NumPy is slow in a product with one column

    def _finished(self, params: Array, terms: Array, others: Array, ops: Ops) -> np.ndarray:
        """Predictions (S, rows, n), given the terms of the column (S rows, H) and all others."""
        xp, network = self._where.xp, self.model.network
        Z = xp.reshape(terms, (-1, *others.shape))
        Z += others
        A, tree = xp.reshape(Z, terms.shape), ops[views](params, layout(network))
        n = self._front.n
        if self._activation:
            A, n = self._activation.forward(A, xp=xp), n + 1
        A = Chain(network.layers[n:]).forward(tree[n:], A, ops=ops, key=None)[0]
        A = self.model.loss.predict(A, xp=xp)
        A = to_host(self.model.loss.points(A) if self._of_points else A)
        return A.reshape(-1, len(others), A.shape[1])
