"""Counter-based random numbers in pure Array API: the same bits on every library and device.

A draw is a hash of (seed, step, layer, element), so there is no generator whose state would have
to be kept, copied to a device or threaded through a traced function. The arithmetic is 32-bit
signed and wraps, which every array library does alike.
Source of the hash: Chris Wellons, "Prospecting for hash functions" (2018), `lowbias32`.
"""

import math
from typing import Any, NamedTuple

from nnaccel.arguments import at_least
from nnaccel.typing import Array, Namespace, handle_of

GOLDEN = -0x61C88647  # 2^32 / golden ratio, odd, as a signed 32-bit number
FACTORS = 0x7FEB352D, -0x7B935975
BITS = 24  # of each hash that make a number: all that float32 holds


class Key(NamedTuple):
    """What makes a draw different from every other one: the seed, the step, and the place.

    `seed` is a Python int from 0 to 2^64 - 1, or its `words` as an int32 array (2,) in a program
    that serves all seeds; `step` the int32 array () that counts updates; `path` the position in the
    network. Nothing is computed from them until a draw is made.
    """

    seed: int | Array
    step: Array
    path: int = 0

    def child(self, index: int) -> "Key":
        """The key of the part with that index, so that each part draws numbers of its own."""
        return Key(self.seed, self.step, (1_000_003 * self.path + index + 1) % 2**31)


def check_seed(seed: int) -> int:
    """The seed as a Python int; TypeError or ValueError unless it is from 0 to 2^64 - 1."""
    [seed] = at_least(0, seed=seed)
    if seed >= 2**64:
        raise ValueError(f"seed must be from 0 to 2^64 - 1, got {seed}")
    return seed


def words(seed: int | Array) -> tuple[Any, Any]:
    """A seed as two int32 numbers, other ones for every seed; an array (2,) holds them already.

    The second one is 0 for seeds below 2^31.
    """
    if not isinstance(seed, int):
        return seed[0], seed[1]
    # Seeds are spread far apart, or the next one would draw what this one draws a step later.
    spread, high = seed * GOLDEN & (2**31 - 1), seed >> 31
    return _signed(spread | (high >> 32 << 31)), _signed(high * GOLDEN)


def _signed(x: int) -> int:
    """The lowest 32 bits as a signed number."""
    return (x + 2**31) % 2**32 - 2**31


def mix(x: Array) -> Array:
    """A bijection of 32-bit integers: each input bit flips each output bit half the time."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * FACTORS[0]
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * FACTORS[1]
    return x ^ ((x >> 16) & 0xFFFF)


def mixed(key: Key) -> Array:
    """The key as one int32 number: an array (n,) for the steps (n,) of the key."""
    spread, salt = words(key.seed)
    return mix(mix((key.step + spread) * GOLDEN) + key.path + salt)


def bernoulli(key: Key, probability: float, shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """Boolean array of that shape, each element true with `probability`, to 2^-24.

    Element i depends on the key and on i alone.
    """
    # The step as an array of one element: a scalar would warn when it wraps.
    number = mixed(key._replace(step=xp.reshape(key.step, (1,))))
    index = xp.arange(math.prod(shape), dtype=xp.int32, device=handle_of(key.step))
    bits = mix((index ^ number) * GOLDEN) & (2**BITS - 1)
    return xp.reshape(bits < round(probability * 2**BITS), shape)
