"""The layer protocol: what a layer has to say for a network to train it.

A layer is a frozen dataclass of plain data. Its arrays are not in it: they are views of one flat
parameter vector, handed over as a tuple in the order in which `params` describes them. Forward
and backward are written as functions of arrays, and called through `ops`, where a kernel may
replace them. To add a layer, write one file like `dense.py` and a row in `LAYERS` of
`layers/__init__.py`; the tests then check its gradient, its leading axes, every array library and
its model file. The file holds the fields of the dataclass. A field's type says what it may be, an
`Annotated` one within a range: see `nnaccel.training.architecture`.
"""

from typing import Any, NamedTuple, Protocol

from nnaccel.maths.initializers import Initializer
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array


class Param(NamedTuple):
    """One parameter array: its shape without leading axes, its first values, and whether weight
    decay and the L2 penalty apply to it, as they do to weights but not to biases and gains.

    What is not `trained` is state of the layer, such as a running mean: each step of training
    replaces it by what `backward` gives in the place of its gradient.
    """

    shape: tuple[int, int]
    initializer: Initializer
    decays: bool
    trained: bool = True


class Layer(Protocol):
    """A differentiable function of its input and its parameters.

    A layer may also have `is_random`, whether it draws random numbers in training, which is assumed
    without it; and a static method `example(D)`, the layer that is checked and tested on D inputs,
    without which that is the one with its default fields.
    """

    def width(self, D: int) -> int:
        """The number of outputs for D inputs; ValueError where D is not possible."""
        ...

    def params(self, D: int) -> tuple[Any, ...]:
        """The `Param` of each of its arrays for D inputs, in nested tuples for nested layers."""
        ...

    def forward(
        self, params: Any, X: Array, *, ops: Ops, key: Key | None, training: bool = False
    ) -> tuple[Array, Any]:
        """The output for X (..., N, D), and what `backward` will need.

        `key` makes the random draws of this step; without one there are none. `training` says
        whether the network trains, and `backward` follows, or predicts.
        """
        ...

    def backward(
        self, params: Any, saved: Any, dA: Array, *, ops: Ops, need_dX: bool
    ) -> tuple[Array | None, Any]:
        """The gradient in X and, shaped like `params`, in each parameter, for dA in the output.

        A parameter that is not trained has its next value in the place of a gradient.
        May destroy dA, nothing else. The gradient in X may be None unless `need_dX`.
        """
        ...
