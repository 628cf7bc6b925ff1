"""The mean over examples, for the value of a loss and for its gradient."""

from nnaccel.typing import Array, Namespace


def average(
    losses: Array, dZ: Array, weights: Array | None, *, xp: Namespace
) -> tuple[Array, Array]:
    """The weighted mean of per-example losses (..., N), and per-example dZ made its gradient."""
    if weights is not None:
        losses = losses * weights
        dZ = dZ * weights[..., None]
    return xp.mean(losses, axis=-1), dZ / dZ.shape[-2]
