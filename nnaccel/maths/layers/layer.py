"""The layer protocol: what a layer has to say for a network to train it.

A layer is a frozen dataclass of plain data. Its arrays are not in it: they are views of one flat
parameter vector, handed over as a tuple in the order in which `params` describes them. Forward
and backward are written as functions of arrays, and called through `ops`, where a kernel may
replace them. To add a layer, write one file like `dense.py` and a row in `LAYERS` of
`layers/__init__.py`; the tests then check its gradient, its leading axes, every array library and
its model file. The file holds the fields of the dataclass. A field's type says what it may be, an
`Annotated` one within a range: see `nnaccel.training.architecture`. `check_numbers` checks the same
when a layer is made.
"""

from collections.abc import Iterable
from functools import cache
from numbers import Real
from typing import Any, NamedTuple, Protocol, get_args, get_type_hints

from nnaccel.maths.initializers import Initializer
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.schema import Field
from nnaccel.typing import Array

MAX_DEPTH = 32  # how deep layers may be nested: Python's stack ends somewhere beyond


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


@cache
def _numbers(kind: type) -> dict[str, tuple[type, Field]]:
    """The type and the range of each field of a layer that is a number in a range."""
    hints = get_type_hints(kind, include_extras=True)
    parts = {name: get_args(hint) for name, hint in hints.items()}
    return {
        name: (of[0], field)
        for name, of in parts.items()
        if of and of[0] in (int, float) and (field := _field(of)) is not None
    }


def _field(parts: tuple[Any, ...]) -> Field | None:
    return next((part for part in parts if isinstance(part, Field)), None)


def check_numbers(layer: Any) -> None:
    """TypeError or ValueError for a field of a new layer that is out of the range of its type.

    NumPy's numbers become Python's, which are what a model file holds and keep float32 arrays so.
    """
    for name, (of, field) in _numbers(type(layer)).items():
        value = given = getattr(layer, name)
        if getattr(value, "shape", None) == ():
            value = value.item()
        if not field.holds(value):
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            error = ValueError if is_number else TypeError
            raise error(f"{name} of {type(layer).__name__} must be {field.expected}, got {given!r}")
        object.__setattr__(layer, name, of(value))


def check_layers(layers: Any, level: int = 0) -> tuple[Layer, ...]:
    """The layers as a tuple.   level: of so many layers they are already inside.

    TypeError for what is no layer, ValueError for none and for layers nested beyond `MAX_DEPTH`.
    """
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise TypeError(
            f"layers must be a list or tuple of layers, got {layers!r}; for one: [layer]"
        )
    layers = tuple(layers)
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    for i, layer in enumerate(layers):
        _check_layer(f"layers[{i}]", layer)
    _check_depth(layers, level)
    for i, layer in enumerate(layers):
        try:
            hash(layer)
        except TypeError as error:
            raise TypeError(
                f"layers[{i}] must be hashable, a frozen dataclass with tuples for lists, got a "
                f"{type(layer).__name__}: {error}"
            ) from None
    return layers


def _check_layer(where: str, layer: Any) -> None:
    if isinstance(layer, type):
        raise TypeError(
            f"{where} must be a layer, got the class {layer.__name__}; make one: "
            f"{layer.__name__}(...)"
        )
    for method in ("width", "params", "forward", "backward"):
        if not callable(getattr(layer, method, None)):
            raise TypeError(
                f"{where} must be a layer, such as Dense(8, 'relu'), got {layer!r}, which has no "
                f"method {method!r}"
            )


def _check_depth(layers: Iterable[Any], level: int) -> None:
    """ValueError for layers that are inside of too many others."""
    if level > MAX_DEPTH:
        raise ValueError(f"layers may be nested at most {MAX_DEPTH} deep")
    for layer in layers:
        if inner := getattr(layer, "layers", ()):
            _check_depth(inner, level + 1)
