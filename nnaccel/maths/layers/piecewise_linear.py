"""The piecewise linear encoding of numbers: how far each one has come in every bin of its range."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np

from nnaccel import schema
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace, handle_of

ROWS = schema.Field(
    "a list of lists of finite numbers, each in ascending order and of two or more, or empty",
    lambda v: schema.LIST.holds(v) and all(map(_are_edges, v)),
)


def _are_edges(row: Any) -> bool:
    return schema.LIST.holds(row) and (not row or (len(row) > 1 and EDGES.holds(row)))


EDGES = schema.ascending(schema.FINITE)


def piecewise_linear(X: Array, bins: "Bins", *, xp: Namespace) -> Array:
    """[X, clip((x_j - e_t) / (e_(t+1) - e_t), 0, 1) for each input j and bin t].

    X: (..., N, D).   Returns (..., N, D + number of bins), the bins of one input side by side.
    Source: Gorishniy, Rubachev, Babenko (2022), arXiv:2203.05556, eq. 1; the outermost bins are
    clipped here too.
    """
    if not bins.of.size:
        return X
    share, _ = _shares(X, bins, xp=xp)
    zero, one = xp.zeros_like(share[..., :1]), xp.ones_like(share[..., :1])
    return xp.concat([X, xp.minimum(xp.maximum(share, zero), one)], axis=-1)


def piecewise_linear_vjp(dA: Array, X: Array, bins: "Bins", *, xp: Namespace) -> Array:
    """dX = dA, and from each bin that x_j is in, dA / (e_(t+1) - e_t)."""
    D = X.shape[-1]
    if not bins.of.size:
        return dA
    share, slope = _shares(X, bins, xp=xp)
    inside = xp.astype((share > 0) & (share < 1), dA.dtype)
    home = handle_of(X)
    of = np.equal.outer(bins.of, np.arange(D)).astype(str(dA.dtype).rpartition(".")[2])
    return dA[..., :D] + xp.matmul(dA[..., D:] * inside * slope, xp.asarray(of, device=home))


def _shares(X: Array, bins: "Bins", *, xp: Namespace) -> tuple[Array, Array]:
    """(x_j - e_t) / (e_(t+1) - e_t) (..., N, n_bins), and the slopes (n_bins,)."""
    home = handle_of(X)
    of, low, slope = (xp.asarray(x, device=home) for x in bins.arrays(X.dtype))
    return (xp.take(X, of, axis=-1) - low) * slope, slope


class Bins:
    """The bins of a layer as host arrays: the input of each, its lower edge and 1 / its width.

    Hashable, by identity: an operation is handed it in the place of tuples of numbers.
    """

    def __init__(self, edges: tuple[tuple[float, ...], ...]) -> None:
        self.of = np.repeat(np.arange(len(edges)), [max(0, len(row) - 1) for row in edges])
        self.low = np.array([e for row in edges for e in row[:-1]], np.float64)
        self.high = np.array([e for row in edges for e in row[1:]], np.float64)
        self._made: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def arrays(self, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(inputs, lower edges, slopes) with edges of that dtype, made once for each."""
        name = str(dtype).rpartition(".")[2]
        if name not in self._made:
            slope = (1.0 / (self.high - self.low)).astype(name)
            self._made[name] = (self.of.astype(np.int64), self.low.astype(name), slope)
        return self._made[name]


@dataclass(frozen=True)
class PiecewiseLinear:
    """Hands on its inputs, and beside them the piecewise linear encoding of the first ones.

    edges: of each input e_0 < ... < e_T, which make T columns, or () for none; inputs beyond the
    last entry are handed on alone. There is nothing to train in it. As the first layer of a network
    it is what tells a tabular perceptron from one that only sees numbers linearly.
    """

    is_random: ClassVar[bool] = False
    edges: Annotated[tuple[tuple[float, ...], ...], ROWS]

    @staticmethod
    def example(D: int) -> "PiecewiseLinear":
        return PiecewiseLinear(((-0.5, 0.0, 1.0), ())[:D] if D > 1 else ((-0.5, 0.0, 1.0),))

    def __post_init__(self) -> None:
        edges = self.edges
        if schema.LIST.holds(edges):
            edges = tuple(tuple(row) if schema.LIST.holds(row) else row for row in edges)
        if not ROWS.holds(edges):
            raise ValueError(f"edges of PiecewiseLinear must be {ROWS.expected}")
        object.__setattr__(self, "edges", edges)

    @cached_property
    def bins(self) -> Bins:
        """The edges as arrays."""
        return Bins(self.edges)

    @cached_property
    def _hash(self) -> int:
        return hash(self.edges)

    def __hash__(self) -> int:
        """Thousands of numbers, hashed once: a network is a key wherever something is compiled."""
        return self._hash

    @property
    def n_bins(self) -> int:
        """The columns that it adds."""
        return len(self.bins.of)

    def __repr__(self) -> str:
        return f"PiecewiseLinear({len(self.edges)} inputs, {self.n_bins} bins)"

    def width(self, D: int) -> int:
        if len(self.edges) > D:
            raise ValueError(f"PiecewiseLinear has edges of {len(self.edges)} inputs, and got {D}")
        return D + self.n_bins

    def params(self, D: int) -> tuple[Any, ...]:
        self.width(D)
        return ()

    def forward(
        self, params: Any, X: Array, *, ops: Ops, key: Key | None, training: bool = False
    ) -> tuple[Array, Any]:
        return ops[piecewise_linear](X, self.bins), X

    def backward(
        self, params: Any, saved: Any, dA: Array, *, ops: Ops, need_dX: bool
    ) -> tuple[Array | None, Any]:
        return (ops[piecewise_linear_vjp](dA, saved, self.bins) if need_dX else None), ()
