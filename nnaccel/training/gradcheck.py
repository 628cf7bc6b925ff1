"""Checking derivatives of networks, and of everything in the tables of activations and losses."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device, prepare, select
from nnaccel.kernels.backend import backend_of
from nnaccel.maths import gradient_check, losses
from nnaccel.maths.activations import ACTIVATIONS
from nnaccel.maths.gradient_check import GradientCheck
from nnaccel.maths.layers import Dense, Dropout, LayerNorm, Residual
from nnaccel.maths.losses import LOSSES, Loss
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
    rng = np.random.default_rng(seed)
    g, K = ACTIVATIONS["tanh"], 3
    cases = [
        (f"activation {activation.name}", (Dense(6, activation), Dense(K)), "squared_error")
        for activation in ACTIVATIONS.values()
    ]
    cases += [(f"loss {name}", (Dense(6, g), Dense(K)), name) for name in LOSSES]
    cases += [
        ("layer dropout", (Dense(6, g), Dropout(0.3), Dense(K)), "squared_error"),
        ("layer layer_norm", (Dense(6, g), LayerNorm(), Dense(K)), "squared_error"),
        ("layer residual", (Dense(6), Residual((LayerNorm(), Dense(6, g))), Dense(K)), "huber"),
    ]
    targets = {
        "softmax_cross_entropy": lambda: rng.integers(0, K, 20),
        "binary_cross_entropy": lambda: rng.integers(0, 2, (20, K)),
        "poisson": lambda: rng.poisson(2.0, (20, K)),
    }
    for name, layers, loss in cases:
        Y = targets.get(loss, lambda: rng.standard_normal((20, K)))()
        X, weights = rng.standard_normal((20, 5)), rng.uniform(0.5, 1.5, 20)
        network = Network(5, layers)
        yield Checked(
            name,
            check_gradients(
                network, X, Y, loss=loss, sample_weight=weights, l2=0.1, seed=seed, device=device
            ),
        )
