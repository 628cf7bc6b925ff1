"""Batch normalisation: each unit brought to mean 0 and variance 1 over the examples of a batch."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nnaccel import schema
from nnaccel.maths import initializers
from nnaccel.maths.layers.layer import Param, check_numbers
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace


def batch_norm(
    X: Array, gain: Array, bias: Array, epsilon: float, *, xp: Namespace
) -> tuple[Array, Array, Array, Array, Array]:
    """gain U + bias with U = (X - mean) / sqrt(variance + epsilon), both over the N examples.

    X: (..., N, D).   gain, bias: (..., 1, D).   Returns the result, U, and the scale
    1 / sqrt(variance + epsilon), the mean and the variance of the batch, (..., 1, D). This variance
    divides by N. Sample weights do not count in them.
    Source: Ioffe, Szegedy, arXiv:1502.03167, algorithm 1.
    """
    n = max(X.shape[-2], 1)
    mean = xp.sum(X, axis=-2, keepdims=True) / n
    C = X - mean
    variance = xp.sum(C * C, axis=-2, keepdims=True) / n
    scale = 1.0 / xp.sqrt(variance + epsilon)
    U = C * scale
    return gain * U + bias, U, scale, mean, variance


def batch_norm_vjp(
    dA: Array, U: Array, scale: Array, gain: Array, *, xp: Namespace
) -> tuple[Array, Array, Array]:
    """dX = scale (dU - mean(dU) - U mean(dU U)), dU = gain dA, means over the examples.

    Returns dX (..., N, D), and the gradients in gain and bias, (..., 1, D).
    Source: Ioffe, Szegedy, arXiv:1502.03167, section 3, in a form with fewer sums.
    """
    n = max(dA.shape[-2], 1)
    dgain = xp.sum(dA * U, axis=-2, keepdims=True)
    dbias = xp.sum(dA, axis=-2, keepdims=True)
    return scale * gain * (dA - dbias / n - U * (dgain / n)), dgain, dbias


def running(
    mean: Array, variance: Array, batch: tuple[Array, Array], N: int, momentum: float
) -> tuple[Array, Array]:
    """The running mean and variance after a batch of N examples with that mean and variance.

    Each moves by the share `momentum`, as in PyTorch. The running variance is of the population:
    its estimate divides by N - 1, but by N for a single example. No example moves nothing.
    """
    share = momentum if N else 0.0
    unbiased = N / (N - 1) if N > 1 else 1.0
    return (
        (1.0 - share) * mean + share * batch[0],
        (1.0 - share) * variance + (share * unbiased) * batch[1],
    )


MOMENTUM = schema.Field("a number from 0 to 1", lambda v: schema.FINITE.holds(v) and 0 <= v <= 1)


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Normalises each unit over the examples of a minibatch, then scales and shifts it.

    In prediction the mean and the variance are running means over the minibatches of training. They
    are parameters that no optimizer trains. `momentum` and `epsilon` mean what they do in PyTorch.
    """

    is_random: ClassVar[bool] = False
    epsilon: Annotated[float, schema.POSITIVE] = 1e-5
    momentum: Annotated[float, MOMENTUM] = 0.1

    def __post_init__(self) -> None:
        check_numbers(self)

    def width(self, D: int) -> int:
        return D

    def params(self, D: int) -> tuple[Param, ...]:
        return (
            Param((1, D), initializers.ones, decays=False),
            Param((1, D), initializers.zeros, decays=False),
            Param((1, D), initializers.zeros, decays=False, trained=False),
            Param((1, D), initializers.ones, decays=False, trained=False),
        )

    def forward(
        self, params: Any, X: Array, *, ops: Ops, key: Key | None, training: bool = False
    ) -> tuple[Array, Any]:
        gain, bias, mean, variance = params
        if not training:
            scale = gain / ops.xp.sqrt(variance + self.epsilon)
            return (X - mean) * scale + bias, None
        A, U, scale, *batch = ops[batch_norm](X, gain, bias, self.epsilon)
        return A, (U, scale, running(mean, variance, (*batch,), X.shape[-2], self.momentum))

    def backward(
        self, params: Any, saved: Any, dA: Array, *, ops: Ops, need_dX: bool
    ) -> tuple[Array | None, Any]:
        U, scale, following = saved
        dX, *grads = ops[batch_norm_vjp](dA, U, scale, params[0])
        return dX, (*grads, *following)
