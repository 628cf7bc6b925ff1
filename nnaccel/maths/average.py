"""The mean over examples, of a loss and of its gradient."""

from nnaccel.typing import Array, Namespace


def average(
    losses: Array, dZ: Array, weights: Array | None, *, xp: Namespace
) -> tuple[Array, Array]:
    """Weighted mean sum(weights * losses) / N, with its gradient weights * dZ / N.

    losses: (..., N).   dZ: (..., N, K), the gradient of each loss.   weights: (..., N), meant to
    have mean 1; None: all 1.
    """
    if weights is not None:
        losses = losses * weights
        dZ = dZ * weights[..., None]
    return xp.mean(losses, axis=-1), dZ / dZ.shape[-2]
