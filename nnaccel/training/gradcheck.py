"""Checks the derivatives of networks, and of all rows in the tables of activations, losses and
layers."""

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device, prepare, select
from nnaccel.kernels.backend import backend_of
from nnaccel.maths import activations, gradient_check, losses
from nnaccel.maths.activations import ACTIVATIONS
from nnaccel.maths.gradient_check import GradientCheck
from nnaccel.maths.hyper_parameters import Range
from nnaccel.maths.layers import LAYERS, Dense, Layer, example
from nnaccel.maths.losses import LOSSES, Loss, Targets, softmax
from nnaccel.maths.network import Network, Slot, initial_params, layout, leaves
from nnaccel.maths.random import Key, check_seed
from nnaccel.training.data import put
from nnaccel.training.members import check_members, l2_of
from nnaccel.training.prediction import check_params


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
    """Compare the gradient that trains a network with central differences.

    Parameters
    ----------
    network, X, Y, loss, sample_weight, l2, device
        The same as for `nnaccel.train`; everything is computed in float64.
    params : array (P,), optional
        The point of the check; None: a random point. At the initial parameters, with gains of 1 and
        biases of 0, a derivative that forgets them would look right.
    seed : int
        The seed of that point, of the dropout masks, which are held fixed, and of the directions;
        from 0 to 2^64 - 1.
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
    loss, seed = losses.get(loss), check_seed(seed)
    rng = np.random.default_rng(seed)
    with where.context():
        data = put(network, loss, where, "float64", where.asarray(X), Y, sample_weight)
        start = where.asarray(random_point(network, rng) if params is None else params, "float64")
        check_params(network, start)
        penalty = l2_of(l2)
        check_members(start, l2=penalty)
        return gradient_check.check_gradients(
            network,
            loss,
            start,
            where.xp.astype(data.X, where.xp.float64),
            data.Y,
            data.weights,
            ops=backend_of(where.xp).operations(),
            rng=rng,
            l2=penalty,
            key=Key(seed, where.asarray(0, "int32")),
            tolerance=tolerance,
        )


def random_point(network: Network, rng: np.random.Generator) -> np.ndarray:
    """Parameters (P,) for a check, float64: the initial ones plus a normal draw.

    Initial gains are 1 and biases 0, which would hide derivatives that forget them.
    """
    params = initial_params(network, rng, xp=np)
    for start, stop, param in leaves(layout(network).slots, Slot):
        if param.trained:
            params[start:stop] += 0.5 / param.shape[0] ** 0.5 * rng.standard_normal(stop - start)
    return params


class Checked(NamedTuple):
    """One line of `catalogue`: the name of the checked row, and the result."""

    name: str
    check: GradientCheck


class Case(NamedTuple):
    """A network that contains a row of a table, with the loss and the targets of its check."""

    network: Network
    loss: Loss
    Y: np.ndarray
    weighted: bool = True  # with sample weights and an L2 penalty


N, D, H, K = 20, 5, 6, 3  # examples, inputs, hidden units and targets of a case
LEVELS = (0.2, 0.7, 0.9)  # of an option that has one value for each output


def catalogue(device: Device, seed: int = 0) -> Iterator[Checked]:
    """Check every activation, loss and layer on small random networks.

    Parameters of activations and losses are also checked away from their defaults. A default of 0,
    1 or one half may hide a wrong term.
    """
    seed = check_seed(seed)
    for name, cases in cases_of(np.random.default_rng(seed)):
        rng = np.random.default_rng(seed)
        checks = [_check(case, rng, seed, device) for case in cases]
        errors = tuple(error for check in checks for error in check.errors)
        shapes = tuple(shape for check in checks for shape in check.shapes)
        yield Checked(name, GradientCheck(errors, shapes, checks[0].tolerance))


def _check(case: Case, rng: np.random.Generator, seed: int, device: Device) -> GradientCheck:
    options = {"sample_weight": rng.uniform(0.5, 1.5, N), "l2": 0.1} if case.weighted else {}
    X = rng.standard_normal((N, D))
    return check_gradients(
        case.network, X, case.Y, loss=case.loss, seed=seed, device=device, **options
    )


def cases_of(rng: np.random.Generator) -> Iterator[tuple[str, list[Case]]]:
    """The cases of every row, by name."""

    def case(loss: Loss, *layers: Layer) -> Case:
        return Case(Network(D, (*layers, Dense(K))), loss, _random_targets(loss.targets, rng)[0])

    tanh, last = ACTIVATIONS["tanh"], LOSSES["squared_error"]
    for name, row in ACTIVATIONS.items():
        both = with_other_options(row, row.forward, activations.RANGES)
        yield f"activation {name}", [case(last, Dense(H, g), Dense(H, g)) for g in both]
    for name, row in LOSSES.items():
        options = with_other_options(row, row.function, losses.RANGES)
        if isinstance(row.outputs, str):
            options.append(row.with_options(**{row.outputs: LEVELS}))
        yield (
            f"loss {name}",
            [
                Case(Network(D, (Dense(H, tanh), Dense(K * loss.n_outputs))), loss, Y, weighted)
                for loss in options
                for Y in _random_targets(loss.targets, rng)
                for weighted in (False, True)
            ],
        )
    for name in LAYERS:
        first, inner = (example(name, width) for width in (D, H))
        yield f"layer {name}", [case(LOSSES["huber"], first, Dense(H, tanh), inner)]


def with_other_options(
    row: Any, function: Callable[..., Any], ranges: Mapping[str, Range]
) -> list[Any]:
    """The row of a table, and the same row with each parameter away from its default, if its range
    is known."""
    moved = {
        name: parameter.default + 0.3
        for name, parameter in signature(function).parameters.items()
        if name in ranges and ranges[name].holds(parameter.default + 0.3)
    }
    return [row, row.with_options(**moved)] if moved else [row]


def _random_targets(targets: Targets, rng: np.random.Generator) -> list[np.ndarray]:
    """Targets of each form that the loss takes, within their range: (N,) classes, else (N, K)."""
    Y = rng.standard_normal((N, K))
    if targets.kind == "classes":
        return [rng.integers(0, K, N), softmax(Y, xp=np)]
    if targets.low > -np.inf and targets.high < np.inf:
        Y = targets.low + (targets.high - targets.low) / (1.0 + np.exp(-Y))
    elif targets.low > -np.inf:
        Y = targets.low + np.abs(Y)
    elif targets.high < np.inf:
        Y = targets.high - np.abs(Y)
    return [Y]
