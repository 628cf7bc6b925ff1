"""Minibatches of arrays that stay where they are."""

from typing import Any

from nnaccel.typing import Array, Namespace


def minibatch(
    X: Array, Y: Array, weights: Array | None, index: Array, dtype: Any, *, xp: Namespace
) -> tuple[Array, Array, Array | None]:
    """The examples with the numbers in index (B,): X and weights as `dtype`, Y in its own type.

    X: (N, D).   Y: (N,) or (N, K).   weights: (N,) or None; of M networks (N, M), which a minibatch
    has as (M, B), as losses take them.
    Integers are kept as integers in the data set and become floating here, a batch at a time.
    """
    rows = xp.take(X, index, axis=0)
    return (
        rows if rows.dtype == dtype else xp.astype(rows, dtype),
        xp.take(Y, index, axis=0),
        None if weights is None else of_networks(xp.take(weights, index, axis=0)),
    )


def of_networks(weights: Array) -> Array:
    """Weights of examples (B,) as they are; those of M networks (B, M) as (M, B)."""
    return weights.T if weights.ndim == 2 else weights


def is_sparse(X: Any) -> bool:
    """Whether X is a matrix of SciPy's or CuPy's in compressed sparse row format."""
    return hasattr(X, "indptr") and getattr(X, "format", None) == "csr"


def bounds(N: int, batch_size: int) -> list[tuple[int, int]]:
    """(start, stop) of each minibatch of N examples; the last one may be shorter."""
    return [(start, min(start + batch_size, N)) for start in range(0, N, batch_size)]


def n_steps(N: int, batch_size: int, epochs: int) -> int:
    """The number of updates in a run, which a learning-rate schedule needs to know."""
    return epochs * -(-N // batch_size)
