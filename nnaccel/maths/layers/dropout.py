"""Dropout: each unit is set to zero with a given probability while the network trains."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nnaccel import schema
from nnaccel.maths.layers.layer import check_numbers
from nnaccel.maths.random import Key, bernoulli
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace


def dropout(X: Array, key: Key, rate: float, *, xp: Namespace) -> tuple[Array, Array]:
    """X M with M = 0 with probability `rate`, else 1 / (1 - rate), so that its mean is X.

    X: (..., N, D).   Returns the product and M (N, D), the same for all leading axes, so that each
    of several networks trains as it would alone.   M depends on `key` alone, not on the library.
    Source: Srivastava et al. (2014), JMLR 15, section 10, in the form that scales while training.
    """
    keep = 1.0 - rate
    M = xp.astype(bernoulli(key, keep, X.shape[-2:], xp=xp), X.dtype) / keep
    return X * M, M


def dropout_vjp(dA: Array, M: Array, *, xp: Namespace) -> Array:
    """dX = dA M."""
    return dA * M


@dataclass(frozen=True, slots=True)
class Dropout:
    """Zeroes a share `rate` of its inputs, 0 <= rate < 1, in training and none in prediction."""

    is_random: ClassVar[bool] = True
    rate: Annotated[float, schema.SHARE]

    @staticmethod
    def example(D: int) -> "Dropout":
        return Dropout(0.4)

    def __post_init__(self) -> None:
        check_numbers(self)

    def width(self, D: int) -> int:
        return D

    def params(self, D: int) -> tuple[Any, ...]:
        return ()

    def forward(
        self, params: Any, X: Array, *, ops: Ops, key: Key | None, training: bool = False
    ) -> tuple[Array, Any]:
        if key is None or self.rate == 0.0:
            return X, None
        return ops[dropout](X, key, self.rate)

    def backward(
        self, params: Any, saved: Any, dA: Array, *, ops: Ops, need_dX: bool
    ) -> tuple[Array | None, Any]:
        return (dA if saved is None else ops[dropout_vjp](dA, saved)), ()
