"""Checking backpropagation against central differences."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from nnaccel.activations import ACTIVATIONS
from nnaccel.layers import Dense, Dropout, LayerNorm, Residual
from nnaccel.losses import LOSSES, Loss
from nnaccel.network import Network, Slot, initial_params, layout, leaves, value_and_grad
from nnaccel.random import Key
from nnaccel.typing import Array, Ops, handle_of


class GradientCheck(NamedTuple):
    """The outcome of a gradient check: the relative error of each parameter array, in order."""

    errors: tuple[float, ...]
    shapes: tuple[tuple[int, int], ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance; an error that is not a number is not."""
        return all(error <= self.tolerance for error in self.errors)


def check_gradients(
    network: Network,
    loss: Loss,
    params: Array,
    X: Array,
    Y: Array,
    weights: Array | None = None,
    *,
    ops: Ops,
    rng: Any,
    l2: float = 0.0,
    key: Key | None = None,
    tolerance: float = 1e-6,
    spacing: float = 1e-5,
) -> GradientCheck:
    """Compare each parameter's gradient with (L(p + h d) - L(p - h d)) / 2h in a random direction d.

    One inner product <dW, d> a parameter array, with d a normal draw from `rng` over that array:
    a wrong entry shows with probability one, at the price of two evaluations. The error is
    relative to the larger of the two numbers and |dW| |d| / 100, so that a direction that
    happens to be orthogonal to the gradient is no false alarm.
    params: (P,) float64; with float32 the differences are mostly rounding.
    Raises ValueError when params is not one float64 vector.
    """
    if params.ndim != 1 or params.dtype != ops.xp.float64:
        raise ValueError(
            f"params must be one float64 vector, got shape {tuple(params.shape)} of {params.dtype}; "
            "central differences in float32 are mostly rounding error"
        )

    def evaluate(point: Array) -> tuple[Array, Array, Array]:
        return value_and_grad(network, loss, point, X, Y, weights, ops=ops, l2=l2, key=key)

    xp, slots = ops.xp, sorted(leaves(layout(network).slots, Slot))
    grads = evaluate(params)[1] + 0.0  # kernels may write the next gradient over this one
    errors = []
    for slot in slots:
        d = _direction(params, slot, rng, xp=xp)
        predicted = float(xp.sum(grads * d))
        rise = float(evaluate(params + spacing * d)[0]) - float(evaluate(params - spacing * d)[0])
        measured = rise / (2.0 * spacing)
        size = float(xp.sqrt(xp.sum(grads[slot.start : slot.stop] ** 2) * xp.sum(d * d)))
        scale = max(abs(predicted), abs(measured), 1e-2 * size, 1e-12)
        errors.append(abs(predicted - measured) / scale)
    return GradientCheck(tuple(errors), tuple(slot.param.shape for slot in slots), tolerance)


def _direction(params: Array, slot: Slot, rng: Any, *, xp: Any) -> Array:
    """A normal draw over one parameter array, 0 elsewhere, of length 1."""
    d = rng.standard_normal(params.shape[0])
    d[: slot.start] = 0.0
    d[slot.stop :] = 0.0
    d /= (d @ d) ** 0.5
    return xp.asarray(d, dtype=params.dtype, device=handle_of(params))


class Checked(NamedTuple):
    """One line of `catalogue`: what was checked, and its largest relative error."""

    name: str
    error: float
    tolerance: float


def catalogue(
    xp: Any, asarray: Callable[..., Array], rng: Any, *, host: Any, tolerance: float = 1e-6
) -> Iterator[Checked]:
    """Check every activation, layer and loss of the tables on small random networks, in float64.

    asarray: from a NumPy array to one of `xp`.   rng: a `numpy.random.Generator`.
    host: NumPy's namespace, in which the initial weights are drawn.
    """
    g, K = ACTIVATIONS["tanh"], 3
    squared = LOSSES["squared_error"]
    cases = [
        (f"activation {activation.name}", (Dense(6, activation), Dense(K)), squared)
        for activation in ACTIVATIONS.values()
    ]
    cases += [
        ("layer dropout", (Dense(6, g), Dropout(0.3), Dense(K)), squared),
        ("layer layer_norm", (Dense(6, g), LayerNorm(), Dense(K)), squared),
        ("layer residual", (Dense(6, g), Residual((LayerNorm(), Dense(6, g))), Dense(K)), squared),
    ]
    cases += [(f"loss {loss.name}", (Dense(6, g), Dense(K)), loss) for loss in LOSSES.values()]
    for name, layers, loss in cases:
        network = Network(5, layers)
        Y = {
            "softmax_cross_entropy": lambda: rng.integers(0, K, 20),
            "binary_cross_entropy": lambda: rng.integers(0, 2, (20, K)),
            "poisson": lambda: rng.poisson(2.0, (20, K)),
        }.get(loss.name, lambda: rng.standard_normal((20, K)))()
        check = check_gradients(
            network,
            loss,
            asarray(initial_params(network, rng, xp=host)),
            asarray(rng.standard_normal((20, 5))),
            asarray(Y),
            asarray(rng.random(20)),
            ops=Ops(xp),
            rng=rng,
            key=Key(0, xp.asarray(0, dtype=xp.int32)),
            tolerance=tolerance,
        )
        yield Checked(name, max(check.errors), tolerance)
