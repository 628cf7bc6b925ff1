"""The piecewise linear encoding of numbers: how far each one has come in every bin of its range."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, ClassVar, NamedTuple

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
    if not bins.of:
        return X
    share, _ = _shares(X, bins, xp=xp)
    zero, one = xp.zeros_like(share[..., :1]), xp.ones_like(share[..., :1])
    return xp.concat([X, xp.minimum(xp.maximum(share, zero), one)], axis=-1)


def piecewise_linear_vjp(dA: Array, X: Array, bins: "Bins", *, xp: Namespace) -> Array:
    """dX = dA, and from each bin that x_j is in, dA / (e_(t+1) - e_t)."""
    D = X.shape[-1]
    if not bins.of:
        return dA
    share, slope = _shares(X, bins, xp=xp)
    inside = xp.astype((share > 0) & (share < 1), dA.dtype)
    home = handle_of(X)
    of = xp.asarray(bins.of, dtype=xp.int32, device=home)
    column_of = xp.astype(of[:, None] == xp.arange(D, dtype=xp.int32, device=home), dA.dtype)
    return dA[..., :D] + xp.matmul(dA[..., D:] * inside * slope, column_of)


def _shares(X: Array, bins: "Bins", *, xp: Namespace) -> tuple[Array, Array]:
    """(x_j - e_t) / (e_(t+1) - e_t) (..., N, n_bins), and the slopes (n_bins,)."""
    home = handle_of(X)
    of = xp.asarray(bins.of, dtype=xp.int32, device=home)
    low, slope = (xp.asarray(x, dtype=X.dtype, device=home) for x in (bins.low, bins.slope))
    return (xp.take(X, of, axis=-1) - low) * slope, slope


class Bins(NamedTuple):
    """The bins of a layer side by side, as an operation takes them."""

    of: tuple[int, ...]  # the input of each
    low: tuple[float, ...]  # its lower edge
    slope: tuple[float, ...]  # 1 / its width

    @classmethod
    def between(cls, edges: tuple[tuple[float, ...], ...]) -> "Bins":
        """The bins between the edges of each input."""
        found = [(j, *pair) for j, row in enumerate(edges) for pair in pairwise(row)]
        of, low, high = zip(*found, strict=True) if found else ((), (), ())
        return cls(of, low, tuple(1.0 / (e - d) for d, e in zip(low, high, strict=True)))


@dataclass(frozen=True)
class PiecewiseLinear:
    """Appends to its inputs the piecewise linear encoding of the first ones; it has no parameters.

    edges: of each input e_0 < ... < e_T, which make T columns, or () for none. Inputs beyond the
    last entry have none. It is meant as the first layer of a network.
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
        """The bins between the edges."""
        return Bins.between(self.edges)

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
