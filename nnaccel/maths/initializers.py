"""Initial weights: draws scaled by the numbers of inputs and outputs of a layer.

An initializer maps (shape, rng) to a float64 array, shape (fan_in, fan_out), rng a
`numpy.random.Generator`. Draws are made on the host, so every device starts from the same numbers.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from nnaccel.arguments import find
from nnaccel.maths import activations
from nnaccel.maths.activations import Activation
from nnaccel.typing import Array

Initializer: TypeAlias = Callable[[tuple[int, ...], Any], Array]


def zeros(shape: tuple[int, ...], rng: Any) -> Array:
    """0 everywhere: right for biases; as weights it keeps hidden units identical for ever."""
    return rng.random(shape) * 0.0


def ones(shape: tuple[int, ...], rng: Any) -> Array:
    """1 everywhere: the initial gain of a normalisation."""
    return rng.random(shape) * 0.0 + 1.0


def small_normal(shape: tuple[int, ...], rng: Any) -> Array:
    """Normal with standard deviation 0.01, the ``randn * 0.01`` of the course notes."""
    return 0.01 * rng.standard_normal(shape)


def _normal(shape: tuple[int, ...], rng: Any, variance: float) -> Array:
    return math.sqrt(variance) * rng.standard_normal(shape)


def _uniform(shape: tuple[int, ...], rng: Any, variance: float) -> Array:
    bound = math.sqrt(3.0 * variance)
    return rng.uniform(-bound, bound, shape)


def glorot_normal(shape: tuple[int, ...], rng: Any) -> Array:
    """Normal with variance 2 / (fan_in + fan_out). Source: Glorot, Bengio (2010), eq. 12."""
    return _normal(shape, rng, 2.0 / (shape[0] + shape[1]))


def glorot_uniform(shape: tuple[int, ...], rng: Any) -> Array:
    """Uniform within sqrt(6 / (fan_in + fan_out)). Source: Glorot, Bengio (2010), eq. 16."""
    return _uniform(shape, rng, 2.0 / (shape[0] + shape[1]))


def he_normal(shape: tuple[int, ...], rng: Any) -> Array:
    """Normal with variance 2 / fan_in. Source: He et al., arXiv:1502.01852, eq. 10."""
    return _normal(shape, rng, 2.0 / shape[0])


def he_uniform(shape: tuple[int, ...], rng: Any) -> Array:
    """Uniform with variance 2 / fan_in. Source: He et al., arXiv:1502.01852, eq. 10."""
    return _uniform(shape, rng, 2.0 / shape[0])


def lecun_normal(shape: tuple[int, ...], rng: Any) -> Array:
    """Normal with variance 1 / fan_in. Source: LeCun et al., Efficient BackProp (1998), eq. 16."""
    return _normal(shape, rng, 1.0 / shape[0])


def lecun_uniform(shape: tuple[int, ...], rng: Any) -> Array:
    """Uniform with variance 1 / fan_in. Source: LeCun et al., Efficient BackProp (1998), eq. 16."""
    return _uniform(shape, rng, 1.0 / shape[0])


INITIALIZERS: dict[str, Initializer] = {
    function.__name__: function
    for function in (
        zeros,
        ones,
        small_normal,
        glorot_normal,
        glorot_uniform,
        he_normal,
        he_uniform,
        lecun_normal,
        lecun_uniform,
    )
}


def get(initializer: str, activation: str | Activation = "identity") -> Initializer:
    """The initializer of that name; "auto" takes the customary one for the activation.

    ValueError for an unknown name.
    """
    if initializer == "auto":
        initializer = activations.get(activation).initializer
    return find("initializer", initializer, INITIALIZERS)
