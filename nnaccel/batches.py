"""Minibatches of arrays that stay where they are."""

from typing import Any

from nnaccel.typing import Array, Namespace


def gather(X: Array, index: Array, dtype: Any, *, xp: Namespace) -> Array:
    """The rows of X (N, ...) with the numbers in index (B,), as `dtype`.

    Integers are kept as integers in the data set and become floating here, a batch at a time.
    """
    rows = xp.take(X, index, axis=0)
    return rows if rows.dtype == dtype else xp.astype(rows, dtype)


def is_sparse(X: Any) -> bool:
    """Whether X is a matrix of SciPy's or CuPy's in compressed sparse row format."""
    return hasattr(X, "indptr") and getattr(X, "format", None) == "csr"


def bounds(N: int, batch_size: int) -> list[tuple[int, int]]:
    """(start, stop) of each minibatch of N examples; the last one may be shorter."""
    return [(start, min(start + batch_size, N)) for start in range(0, N, batch_size)]


def n_steps(N: int, batch_size: int, epochs: int) -> int:
    """The number of updates in a run, which a learning-rate schedule needs to know."""
    return epochs * -(-N // batch_size)
