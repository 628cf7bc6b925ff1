"""Checking derivatives of networks, and of everything in the tables of activations and losses."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device, prepare, select
from nnaccel.kernels.backend import backend_of
from nnaccel.maths import gradient_check, losses
from nnaccel.maths.activations import ACTIVATIONS
from nnaccel.maths.gradient_check import GradientCheck
from nnaccel.maths.layers import LAYERS, Dense, example
from nnaccel.maths.losses import LOSSES, Loss, Targets
from nnaccel.maths.network import Network
from nnaccel.maths.random import Key
from nnaccel.training.data import put
from nnaccel.training.step import initialize


def check_gradients(
    network: Network,
    X: Any,
    Y: Any,
    *,
    loss: str | Loss,
    sample_weight: Any = None,
    l2: float = 0.0,
    params: Any = None,
    seed: int = 0,
    device: str | Device | None = None,
    tolerance: float = 1e-6,
) -> GradientCheck:
    """Compare the gradient of a network, as it is trained, with central differences.

    Parameters
    ----------
    network, X, Y, loss, sample_weight, l2, device
        As for `nnaccel.train`; everything is computed in float64.
    params : array (P,), optional
        Where to check; None is a draw by `initialize`.
    seed : int
        Of that draw, of the dropout masks, which are held fixed, and of the directions.
    tolerance : float
        The largest relative error that passes.

    Returns
    -------
    GradientCheck
        `passed`, and the relative error of each parameter array; see
        `nnaccel.maths.gradient_check.check_gradients`.

    Examples
    --------
    >>> import nnaccel as nn
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((20, 5)), rng.integers(0, 3, 20)
    >>> nn.check_gradients(nn.mlp(5, [8], 3), X, y, loss="softmax_cross_entropy").passed
    True
    """
    where = select(device, X, Y) if device is None else select(device)
    prepare(where, "float64")
    loss = losses.get(loss)
    with where.context():
        data = put(network, loss, where, "float64", where.asarray(X), Y, sample_weight)
        start = initialize(network, seed) if params is None else params
        return gradient_check.check_gradients(
            network,
            loss,
            where.asarray(start, "float64"),
            where.xp.astype(data.X, where.xp.float64),
            data.Y,
            data.weights,
            ops=backend_of(where.xp).operations(),
            rng=np.random.default_rng(seed),
            l2=l2,
            key=Key(seed, where.asarray(0, "int32")),
            tolerance=tolerance,
        )


class Checked(NamedTuple):
    """One line of `catalogue`: what was checked, and the outcome."""

    name: str
    check: GradientCheck


def catalogue(device: Device, seed: int = 0) -> Iterator[Checked]:
    """Check every activation, loss and layer on small random networks."""
    g, K = ACTIVATIONS["tanh"], 3
    cases = [
        (f"activation {activation.name}", (Dense(6, activation), Dense(K)), "squared_error")
        for activation in ACTIVATIONS.values()
    ]
    cases += [(f"loss {name}", (Dense(6, g), Dense(K)), name) for name in LOSSES]
    cases += [
        (f"layer {name}", (Dense(6, g), example(name, 6), Dense(K)), "huber") for name in LAYERS
    ]
    rng = np.random.default_rng(seed)
    for name, layers, loss in cases:
        Y = _random_targets(losses.get(loss).targets, 20, K, rng)
        X, weights = rng.standard_normal((20, 5)), rng.uniform(0.5, 1.5, 20)
        options = {"loss": loss, "sample_weight": weights, "l2": 0.1, "seed": seed}
        network = Network(5, layers)
        yield Checked(name, check_gradients(network, X, Y, **options, device=device))


def _random_targets(targets: Targets, N: int, K: int, rng: np.random.Generator) -> np.ndarray:
    """Targets of that kind within their range: (N,) classes, else (N, K)."""
    if targets.kind == "classes":
        return rng.integers(0, K, N)
    Y = rng.standard_normal((N, K))
    if targets.low > -np.inf and targets.high < np.inf:
        return targets.low + (targets.high - targets.low) / (1.0 + np.exp(-Y))
    if targets.low > -np.inf:
        return targets.low + np.abs(Y)
    return targets.high - np.abs(Y) if targets.high < np.inf else Y
