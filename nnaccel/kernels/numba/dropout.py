"""Dropout in compiled code: the draws of `random.bernoulli`, one element at a time.

A mask is never stored. Backpropagation draws the same numbers again.
"""

from typing import Any

import numpy as np

from nnaccel.kernels.dense_plan import Plan
from nnaccel.kernels.numba.jit import compiled
from nnaccel.maths.random import BITS, FACTORS, GOLDEN, Key, mixed
from nnaccel.typing import Array

ALL = 2**BITS  # a threshold above every draw: no dropout


def keys_of(plan: Plan, seed: int, step: Array, n_steps: int) -> Array:
    """The hashed keys of the next steps, `random.mixed`: uint32 (n_steps, L + 1).

    Column l is the key of the dropout before layer l. It is 0 where there is none, and in the last
    column.   step: the step counter before them, ().
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

    element: its number in the draw.   key, threshold: uint32. All arithmetic is cast to 32 bits,
    since Numba would widen it and a vector would hold half as many numbers.
    """
    number = np.uint32
    x = number((number(element) ^ key) * number(GOLDEN % 2**32))
    x = number((x ^ (x >> number(16))) * number(FACTORS[0]))
    x = number((x ^ (x >> number(15))) * number(FACTORS[1] % 2**32))
    x = number(x ^ (x >> number(16))) & number(ALL - 1)
    return np.float32(x < threshold)


@compiled
def drop(values: Array, key: Any, threshold: Any, first: int) -> None:
    """values (n,) *= mask, where the numbers of the elements in the draw are first, first + 1,
    ..."""
    for i in range(values.shape[0]):
        values[i] *= kept(first + i, key, threshold)


@compiled
def drop_unit(
    values: Array, key: Any, threshold: Any, places: Array, width: int, unit: int
) -> None:
    """values (n,) *= mask, the values of one unit of a layer with `width` units.

    places: (n,), the numbers of the examples in the minibatch. The draw has width elements for
    each.
    """
    for i in range(values.shape[0]):
        values[i] *= kept(places[i] * width + unit, key, threshold)
