"""The fully connected layer: the equations of the notes, forward and backward."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nnaccel import schema
from nnaccel.arguments import at_least, find
from nnaccel.maths import activations, initializers
from nnaccel.maths.activations import ACTIVATIONS, Activation
from nnaccel.maths.layers.layer import Param, check_numbers
from nnaccel.maths.precision import rounded
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace


def dense(
    X: Array,
    W: Array,
    b: Array,
    activation: Activation,
    *,
    xp: Namespace,
    precision: str = "float32",
) -> tuple[Array, Array]:
    """Z = X W + b and A = g(Z).

    X: (..., N, D).   W: (..., D, H).   b: (..., 1, H).   Returns Z and A, (..., N, H).
    Leading axes broadcast: X (N, D) with W (K, D, H) is K layers on the same data.
    precision: that of X and W in the product; see `nnaccel.maths.precision`.
    Source: Bishop, PRML (2006), eq. 5.48-5.49.
    """
    X, W = (rounded(x, precision, xp=xp) for x in (X, W))
    Z = X @ W + b
    return Z, activation.forward(Z, xp=xp)


def dense_vjp(
    dA: Array,
    X: Array,
    W: Array,
    Z: Array,
    A: Array,
    activation: Activation,
    *,
    xp: Namespace,
    need_dX: bool = True,
    precision: str = "float32",
) -> tuple[Array | None, Array, Array]:
    """dZ = dA g'(Z), dW = X^T dZ, db = sum of dZ over examples, dX = dZ W^T.

    dA, Z, A: (..., N, H) and X, W as in `dense`.   Returns dX (..., N, D), or None where it is
    not needed, dW (..., D, H) and db (..., 1, H). The 1/N of the notes is already in dA.
    precision: that of X, W and dZ in the products; the sum db is of dZ as it is.
    Source: Bishop, PRML (2006), eq. 5.53-5.56.
    """
    dZ = activation.vjp(dA, Z, A, xp=xp)
    db = xp.sum(dZ, axis=-2, keepdims=True)
    X, W, dZ = (rounded(x, precision, xp=xp) for x in (X, W, dZ))
    dW = xp.matrix_transpose(X) @ dZ
    dX = dZ @ xp.matrix_transpose(W) if need_dX else None
    return dX, dW, db


# In a model file: its name and its options.
ACTIVATION = schema.Field("an activation", lambda v: type(v) is dict)
INITIALIZER = schema.Field(
    "the name of an initializer, or 'auto'",
    lambda v: type(v) is str and (v == "auto" or v in initializers.INITIALIZERS),
)


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer of `units` neurons, A = g(X W + b).   activation: an Activation, or its name."""

    is_random: ClassVar[bool] = False
    units: Annotated[int, schema.COUNT]
    activation: Annotated[Any, ACTIVATION] = ACTIVATIONS["identity"]
    initializer: Annotated[str, INITIALIZER] = "auto"

    @staticmethod
    def example(D: int) -> "Dense":
        return Dense(D + 1, ACTIVATIONS["tanh"])

    def __post_init__(self) -> None:
        [units] = at_least(1, units=self.units)
        object.__setattr__(self, "units", units)
        check_numbers(self)
        if self.initializer != "auto":
            find("initializer", self.initializer, initializers.INITIALIZERS)
        object.__setattr__(self, "activation", activations.get(self.activation))

    def width(self, D: int) -> int:
        return self.units

    def params(self, D: int) -> tuple[Param, ...]:
        draw = initializers.get(self.initializer, self.activation)
        return (
            Param((D, self.units), draw, decays=True),
            Param((1, self.units), initializers.zeros, decays=False),
        )

    def forward(
        self, params: Any, X: Array, *, ops: Ops, key: Key | None, training: bool = False
    ) -> tuple[Array, Any]:
        W, b = params
        Z, A = ops[dense](X, W, b, self.activation)
        return A, (X, Z, A)

    def backward(
        self, params: Any, saved: Any, dA: Array, *, ops: Ops, need_dX: bool
    ) -> tuple[Array | None, Any]:
        W, _ = params
        dX, *grads = ops[dense_vjp](dA, saved[0], W, *saved[1:], self.activation, need_dX=need_dX)
        return dX, tuple(grads)
