"""Checking backpropagation against central differences."""

import math
from typing import Any, NamedTuple

from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, Slot, layout, leaves, value_and_grad
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array, handle_of

TRIES = 3  # before an error counts, each with a tenth of the spacing


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
    l2: float | tuple[float, ...] = 0.0,
    key: Key | None = None,
    tolerance: float = 1e-6,
    spacing: float = 1e-5,
) -> GradientCheck:
    """Compare each gradient with (L(p + h d) - L(p - h d)) / 2h in a random direction d.

    One inner product <dW, d> a parameter array, with d a normal draw from `rng` over that array:
    a wrong entry shows with probability one, at the price of two evaluations. The error is
    relative to the larger of the two numbers and |dW| |d| / 100, so that a direction that
    happens to be orthogonal to the gradient is no false alarm. Nor is a gap that is no more than
    the rounding of the two losses: a bias before a normalisation has no gradient at all. Between
    the two points may lie a kink, as that of ReLU: so an error is one only if it is there in other
    directions and between closer points too.
    params: (P,) float64; with float32 the differences are mostly rounding.
    Raises ValueError when params is not one float64 vector.
    """
    if params.ndim != 1 or params.dtype != ops.xp.float64:
        raise ValueError(
            f"params must be one float64 vector, got shape {tuple(params.shape)} of "
            f"{params.dtype}; central differences in float32 are mostly rounding error"
        )

    def evaluate(point: Array) -> tuple[Array, Array, Array]:
        return value_and_grad(network, loss, point, X, Y, weights, ops=ops, l2=l2, key=key)

    xp, slots = ops.xp, sorted(leaves(layout(network).slots, Slot))
    slots = [slot for slot in slots if slot.param.trained]
    value, grads, _ = evaluate(params)
    grads = grads + 0.0  # kernels may write the next gradient over this one
    rounding = 4.0 * float(xp.finfo(params.dtype).eps) * abs(float(value))

    def error_of(slot: Slot, h: float) -> float:
        d = _direction(params, slot, rng, xp=xp)
        predicted = float(xp.sum(grads * d))
        rise = float(evaluate(params + h * d)[0]) - float(evaluate(params - h * d)[0])
        measured = rise / (2.0 * h)
        size = float(xp.sqrt(xp.sum(grads[slot.start : slot.stop] ** 2) * xp.sum(d * d)))
        scale = max(abs(predicted), abs(measured), 1e-2 * size, 1e-12)
        gap = abs(predicted - measured)
        error = gap / scale
        return 0.0 if error > tolerance and gap <= rounding / h else error

    errors = []
    for slot in slots:
        error = math.inf
        for n in range(TRIES):
            if not error <= tolerance:
                error = error_of(slot, spacing / 10.0**n)
        errors.append(error)
    return GradientCheck(tuple(errors), tuple(slot.param.shape for slot in slots), tolerance)


def _direction(params: Array, slot: Slot, rng: Any, *, xp: Any) -> Array:
    """A normal draw over one parameter array, 0 elsewhere, of length 1."""
    d = rng.standard_normal(params.shape[0])
    d[: slot.start] = 0.0
    d[slot.stop :] = 0.0
    d /= (d @ d) ** 0.5
    return xp.asarray(d, dtype=params.dtype, device=handle_of(params))
