"""Layer normalisation: each example's units brought to mean 0 and variance 1."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nnaccel import schema
from nnaccel.maths import initializers
from nnaccel.maths.layers.layer import Param, check_numbers
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace


def layer_norm(
    X: Array, gain: Array, bias: Array, epsilon: float, *, xp: Namespace
) -> tuple[Array, Array, Array]:
    """gain U + bias with U = (X - mean) / sqrt(variance + epsilon) over the last axis.

    X: (..., N, D).   gain, bias: (..., 1, D).   Returns the result, U, and the scale
    1 / sqrt(variance + epsilon), (..., N, 1).   The variance divides by D.
    Source: Ba, Kiros, Hinton, arXiv:1607.06450, eq. 4.
    """
    C = X - xp.mean(X, axis=-1, keepdims=True)
    scale = 1.0 / xp.sqrt(xp.mean(C * C, axis=-1, keepdims=True) + epsilon)
    U = C * scale
    return gain * U + bias, U, scale


def layer_norm_vjp(
    dA: Array, U: Array, scale: Array, gain: Array, *, xp: Namespace
) -> tuple[Array, Array, Array]:
    """dX = scale (dU - mean(dU) - U mean(dU U)), dU = gain dA, means over the last axis.

    The subtracted terms are the parts of dU along the directions that normalisation removes.
    Returns dX (..., N, D), and the gradients in gain and bias, (..., 1, D).
    """
    dgain = xp.sum(dA * U, axis=-2, keepdims=True)
    dbias = xp.sum(dA, axis=-2, keepdims=True)
    dU = dA * gain
    along_U = U * xp.mean(dU * U, axis=-1, keepdims=True)
    return scale * (dU - xp.mean(dU, axis=-1, keepdims=True) - along_U), dgain, dbias


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Normalises the units of each example, then scales and shifts each unit."""

    is_random: ClassVar[bool] = False
    epsilon: Annotated[float, schema.POSITIVE] = 1e-5

    def __post_init__(self) -> None:
        check_numbers(self)

    def width(self, D: int) -> int:
        return D

    def params(self, D: int) -> tuple[Param, ...]:
        return (
            Param((1, D), initializers.ones, decays=False),
            Param((1, D), initializers.zeros, decays=False),
        )

    def forward(
        self, params: Any, X: Array, *, ops: Ops, key: Key | None, training: bool = False
    ) -> tuple[Array, Any]:
        A, *saved = ops[layer_norm](X, *params, self.epsilon)
        return A, saved

    def backward(
        self, params: Any, saved: Any, dA: Array, *, ops: Ops, need_dX: bool
    ) -> tuple[Array | None, Any]:
        dX, *grads = ops[layer_norm_vjp](dA, *saved, params[0])
        return dX, tuple(grads)
