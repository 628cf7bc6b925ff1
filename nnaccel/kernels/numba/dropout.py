"""Dropout in compiled code: the draws of `random.bernoulli`, one element at a time.

A mask is never stored. Backpropagation draws the same numbers again.
"""

from typing import Any

import numpy as np

from nnaccel.kernels.dense_plan import Plan
from nnaccel.kernels.numba.jit import compiled
from nnaccel.maths.random import BITS, FACTORS, GOLDEN, Key, mixed
from nnaccel.typing import Array

ALL = 2**BITS  # a threshold that every draw is below: no dropout


def keys_of(plan: Plan, seed: int, step: Array, n_steps: int) -> Array:
    """The hashed keys of the next steps, `random.mixed`: uint32 (n_steps, L + 1).

    Column l is for the dropout before layer l. It is 0 where there is none, and in the last column.
    """
    keys = np.zeros((n_steps, len(plan.sizes)), np.uint32)
    for layer, (rate, place) in enumerate(zip(plan.rates, plan.places, strict=True)):
        if rate:
            key = Key(seed, step + np.arange(n_steps, dtype=np.int32)).child(place)
            keys[:, layer] = mixed(key).view(np.uint32)
    return keys


@compiled
def kept(element: int, key: Any, threshold: Any) -> Any:
    """1.0 where dropout keeps this element, else 0.0: twin of `random.bernoulli`.

    All arithmetic is 32-bit, which Numba would widen: a vector then holds twice as many numbers.
    """
    number = np.uint32
    x = number((number(element) ^ key) * number(GOLDEN % 2**32))
    x = number((x ^ (x >> number(16))) * number(FACTORS[0]))
    x = number((x ^ (x >> number(15))) * number(FACTORS[1] % 2**32))
    x = number(x ^ (x >> number(16))) & number(ALL - 1)
    return np.float32(x < threshold)


@compiled
def drop(values: Array, key: Any, threshold: Any, first: int) -> None:
    """values *= mask, values (n,), whose elements of the draw are first, first + 1, ..."""
    for i in range(values.shape[0]):
        values[i] *= kept(first + i, key, threshold)


@compiled
def drop_unit(
    values: Array, key: Any, threshold: Any, places: Array, width: int, unit: int
) -> None:
    """values *= mask, values (n,) of one unit of a layer of that width.

    places: (n,) of the examples in the minibatch, whose draw has an element for each unit of each.
    """
    for i in range(values.shape[0]):
        values[i] *= kept(places[i] * width + unit, key, threshold)
