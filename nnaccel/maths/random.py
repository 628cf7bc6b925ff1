"""Counter-based random numbers in pure Array API: the same bits on every library and device.

A draw is a hash of (seed, step, layer, element), so there is no generator whose state would have
to be kept, copied to a device or threaded through a traced function. The arithmetic is 32-bit
signed and wraps, which every array library does alike.
Source of the hash: Chris Wellons, "Prospecting for hash functions" (2018), `lowbias32`.
"""

import math
from typing import NamedTuple

from nnaccel.typing import Array, Namespace, handle_of

GOLDEN = -0x61C88647  # 2^32 / golden ratio, odd, as a signed 32-bit number
FACTORS = 0x7FEB352D, -0x7B935975
BITS = 24  # of each hash that make a number: all that float32 holds


class Key(NamedTuple):
    """What makes a draw different from every other one: the seed, the step, and the place.

    `seed` is a number, or an int32 array () in a program that serves all seeds; `step` the int32
    array () that counts updates; `path` the position in the network. Nothing is computed from them
    until a draw is made.
    """

    seed: int | Array
    step: Array
    path: int = 0

    def child(self, index: int) -> "Key":
        """The key of the part with that index, so that each part draws numbers of its own."""
        return Key(self.seed, self.step, (1_000_003 * self.path + index + 1) % 2**31)


def mix(x: Array) -> Array:
    """A bijection of 32-bit integers: each input bit flips each output bit half the time."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * FACTORS[0]
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * FACTORS[1]
    return x ^ ((x >> 16) & 0xFFFF)


def mixed(key: Key) -> Array:
    """The key as one int32 number: an array (n,) for the steps (n,) of the key."""
    # Seeds are spread far apart, or the next one would draw what this one draws a step later.
    seed = key.seed * GOLDEN & (2**31 - 1)
    return mix(mix((key.step + seed) * GOLDEN) + key.path)


def bernoulli(key: Key, probability: float, shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """Boolean array of that shape, each element true with `probability`, to 2^-24.

    Element i depends on the key and on i alone.
    """
    # The step as an array of one element: a scalar would warn when it wraps.
    number = mixed(key._replace(step=xp.reshape(key.step, (1,))))
    index = xp.arange(math.prod(shape), dtype=xp.int32, device=handle_of(key.step))
    bits = mix((index ^ number) * GOLDEN) & (2**BITS - 1)
    return xp.reshape(bits < round(probability * 2**BITS), shape)
