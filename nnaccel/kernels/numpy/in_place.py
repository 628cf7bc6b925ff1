"""Formulas as sequences of NumPy calls that write into given arrays.

Each is a generator of (function, arguments). `workspace.py` runs the calls; `call_list.py` lists
them once and runs the list in every step. The activations read and write arrays that have one
shape, whichever it is; `room` is scratch memory of that shape, `slope` the parameter of the
activation.

Two traps of NumPy: maximum and minimum of two arrays are five times faster than those of an array
and a number, and they take a third array for the output only as the keyword `out`.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np

from nnaccel.typing import Array

Call = tuple[Callable[..., Any], tuple[Any, ...]]
Calls = Iterator[Call]


def run(calls: Iterable[Call]) -> None:
    for function, args in calls:
        function(*args)


@lru_cache(maxsize=64)
def constant(value: float, shape: tuple[int, ...], dtype: Any) -> Array:
    """A read-only array filled with a value. NumPy calls take an array () faster than Python's
    number."""
    array = np.full(shape, value, dtype)
    array.flags.writeable = False
    return array


@lru_cache(maxsize=2)
def softmax_floor(dtype: Any) -> tuple[Array, Array]:
    """The smallest term in the sum of a softmax, and its logarithm. Smaller terms are raised to it.

    It is the square root of the smallest normal number. Without it the gradient of an example that
    the network is certain of, or its products with weights and inputs, would be denormal. Rounding
    removes terms of this size from the sum anyway.
    """
    log = np.full(1, 0.5 * np.log(np.finfo(dtype).tiny), dtype)
    return np.exp(log)[0], log[0]


# Activations: A := g(A), and dA := dA g'(Z) from A


def identity(A: Array, slope: float, room: Array) -> Calls:
    yield from ()


def identity_vjp(dA: Array, A: Array, slope: float, room: Array) -> Calls:
    yield from ()


def relu(A: Array, slope: float, room: Array) -> Calls:
    yield partial(np.maximum, out=A), (A, constant(0.0, A.shape, A.dtype))


def relu_vjp(dA: Array, A: Array, slope: float, room: Array) -> Calls:
    yield from positive(A, room)
    yield np.multiply, (dA, room, dA)


def leaky_relu(A: Array, slope: float, room: Array) -> Calls:
    yield np.multiply, (A, constant(slope, (), A.dtype), room)
    yield partial(np.maximum, out=A), (A, room)


def leaky_relu_vjp(dA: Array, A: Array, slope: float, room: Array) -> Calls:
    yield from positive(A, room)
    yield partial(np.maximum, out=room), (room, constant(slope, A.shape, A.dtype))
    yield np.multiply, (dA, room, dA)


def positive(A: Array, room: Array) -> Calls:
    """room := 1 where A > 0, else a number of at most 0. This is faster than the booleans A > 0."""
    yield np.ceil, (A, room)
    yield partial(np.minimum, out=room), (room, constant(1.0, A.shape, A.dtype))


def tanh(A: Array, slope: float, room: Array) -> Calls:
    yield np.tanh, (A, A)


def tanh_vjp(dA: Array, A: Array, slope: float, room: Array) -> Calls:
    yield np.multiply, (A, A, room)
    yield np.subtract, (constant(1.0, (), A.dtype), room, room)
    yield np.multiply, (dA, room, dA)


def sigmoid(A: Array, slope: float, room: Array) -> Calls:
    half = constant(0.5, (), A.dtype)
    yield np.multiply, (A, half, A)
    yield np.tanh, (A, A)
    yield np.multiply, (A, half, A)
    yield np.add, (A, half, A)


def sigmoid_vjp(dA: Array, A: Array, slope: float, room: Array) -> Calls:
    yield np.subtract, (constant(1.0, (), A.dtype), A, room)
    yield np.multiply, (room, A, room)
    yield np.multiply, (dA, room, dA)


ACTIVATIONS = {
    "identity": (identity, identity_vjp),
    "relu": (relu, relu_vjp),
    "leaky_relu": (leaky_relu, leaky_relu_vjp),
    "tanh": (tanh, tanh_vjp),
    "sigmoid": (sigmoid, sigmoid_vjp),
}


# Softmax cross-entropy of columns: Z, Y and dZ are (K, B), S is (1, B). NumPy is slow along rows of
# few classes, so both callers have one example per column.


def one_hot(Y: Array, classes: Array, out: Array) -> None:
    """out = 1 for the class Y of each example and 0 for others, plus `softmax_floor`.

    classes: (K, 1).   Y: (..., 1, B).   out: (..., K, B).
    """
    np.equal(Y, classes, out=out)
    out += softmax_floor(out.dtype)[0]


def softmax_cross_entropy(Z: Array, Y: Array, shifted: Array, S: Array, dZ: Array) -> Calls:
    """shifted = Z - max(Z), S = sum exp(shifted), dZ = exp(shifted) / S - Y."""
    (K, B), dtype, top = Z.shape, Z.dtype, S[0]
    floor = constant(float(softmax_floor(dtype)[1]), (K, B), dtype)
    yield np.maximum.reduce, (Z, 0, None, top)
    yield np.subtract, (Z, top, shifted)
    yield partial(np.maximum, out=dZ), (shifted, floor)
    yield np.exp, (dZ, dZ)
    yield constant(1.0, (1, K), dtype).dot, (dZ, S)  # several times faster than a sum
    yield np.divide, (dZ, S, dZ)
    yield np.subtract, (dZ, Y, dZ)


def cross_entropies(shifted: Array, S: Array, Y: Array) -> Array:
    """The losses Y (log S - shifted) in nats, (..., K, B), written over `shifted`. Overwrites S,
    and subtracts `softmax_floor` from Y."""
    np.subtract(np.log(S, out=S), shifted, out=shifted)
    Y -= softmax_floor(Y.dtype)[0]
    shifted *= Y
    return shifted


def adam_step(params: Array, m: Array, v: Array, rate: Any, epsilon: Any, room: Array) -> Calls:
    """W := W - rate m / (sqrt(v) + epsilon), vectors (P,). rate and epsilon include the bias
    corrections.

    The callers update the moments: `updates.py` in vectors, `call_list.py` as rows of one matrix.
    """
    yield np.sqrt, (v, room)
    yield np.add, (room, epsilon, room)
    yield np.divide, (m, room, room)
    yield np.multiply, (room, rate, room)
    yield np.subtract, (params, room, params)
