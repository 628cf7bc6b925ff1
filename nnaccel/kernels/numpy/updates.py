"""Update rules of the optimizers for NumPy, in blocks that stay in the cache.

Each is the twin of a function of `maths/optimizers.py`, with the same parameters: vectors (P,) or
(K, P), and rates that are numbers or (K, 1). All overwrite params, state and grads.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from nnaccel.kernels.gradient_buffers import Buffers
from nnaccel.kernels.numpy.in_place import adam_step, run
from nnaccel.maths import optimizers
from nnaccel.maths.network import l2_penalty
from nnaccel.typing import Array

BLOCK = 32_768  # elements: a few blocks of float32 fit into a second-level cache
SELDOM = 64  # updates between two passes that clear the smallest moments of a block


class Updates(Buffers):
    """The update rules of one training run, which count their calls."""

    def __init__(self) -> None:
        super().__init__(np)
        self._updates = 0

    def gradient_descent(self, params: Array, grads: Array, rate: Array) -> Array:
        """Twin of `optimizers.gradient_descent_update`."""
        for p, g in self._blocks(params, grads):
            g *= rate
            p -= g
        return params

    def momentum(
        self, params: Array, grads: Array, velocity: Array, rate: Array, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.momentum_update`."""
        for p, g, v in self._blocks(params, grads, velocity):
            g *= rate
            v *= beta
            v -= g
            p += v
        return params, velocity

    def nesterov(
        self, params: Array, grads: Array, velocity: Array, rate: Array, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.nesterov_update`."""
        for p, g, v in self._blocks(params, grads, velocity):
            g *= rate
            v *= beta
            v -= g
            p -= g
            p += np.multiply(v, beta, out=g)
        return params, velocity

    def rmsprop(
        self,
        params: Array,
        grads: Array,
        square: Array,
        rate: Array,
        beta: Any,
        epsilon: float,
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.rmsprop_update`."""
        for p, g, v in self._blocks(params, grads, square):
            s = np.multiply(g, g, out=self._buffer("update", g.shape, g.dtype))
            s *= 1.0 - beta
            v *= beta
            v += s
            np.sqrt(v, out=s)
            s += epsilon
            g *= rate
            g /= s
            p -= g
        return params, square

    def adam(
        self,
        params: Array,
        grads: Array,
        mu: Array,
        nu: Array,
        rate: Array,
        beta_1: Any,
        beta_2: Any,
        correction_1: Array,
        correction_2: Array,
        epsilon: float,
    ) -> tuple[Array, Array, Array]:
        """Twin of `optimizers.adam_update`."""
        # m / c1 / (sqrt(v / c2) + epsilon) = (root / c1) m / (sqrt(v) + root epsilon), root =
        # sqrt(c2): one pass less.
        root = correction_2**0.5
        step, epsilon = rate * root / correction_1, root * epsilon
        for p, g, m, v in self._blocks(params, grads, mu, nu):
            # m := g + beta_1 (m - g): as many passes as the definition, without scratch memory.
            m -= g
            m *= beta_1
            m += g
            g *= g
            g *= 1.0 - beta_2
            v *= beta_2
            v += g
            run(adam_step(p, m, v, step, epsilon, g))
        return params, mu, nu

    def _blocks(self, params: Array, grads: Array, *moments: Array) -> Iterator[tuple[Array, ...]]:
        """Yields the same block of each vector, one block after the other, for one update.

        Networks (K, P) are one block, since their hyper-parameters may be arrays (K, 1). Once in
        SELDOM updates the smallest moments of a block become 0. Otherwise the moment of a dead unit
        would shrink until it is denormal and stay so, and arithmetic on denormal numbers is a
        hundred times slower on many processors.
        """
        self._updates += 1
        least = least_of(params.dtype)
        parts = blocks(*params.shape) if params.ndim == 1 else (...,)
        for number, part in enumerate(parts, self._updates):
            g, of_block = grads[part], [moment[part] for moment in moments]
            yield params[part], g, *of_block
            if number % SELDOM == 0:
                for moment in of_block:
                    moment *= np.abs(moment, out=g) >= least


@lru_cache(maxsize=2)
def least_of(dtype: Any) -> float:
    """The smallest moment that is kept: a factor of 0.9 or more per update leaves it normal after
    SELDOM updates."""
    return 1024 * float(np.finfo(dtype).tiny)


@lru_cache(maxsize=64)
def blocks(length: int, width: int = 1) -> tuple[slice, ...]:
    """Slices of an array (length, width), or of a vector, of about BLOCK elements each."""
    rows = max(1, BLOCK // max(width, 1))
    return tuple(slice(start, start + rows) for start in range(0, length, rows))


def l2_penalty_in_place(
    value: Array, grads: Array, params: Array, l2: Any, n_weights: int
) -> tuple[Array, Array]:
    """Twin of `network.l2_penalty`. It adds the gradient of the penalty to grads (P,) in place."""
    if params.ndim > 1:
        return l2_penalty(value, grads, params, l2, n_weights, xp=np)
    W, dW = params[:n_weights], grads[:n_weights]
    for part in blocks(*W.shape):
        dW[part] += l2 * W[part]
    return value + (0.5 * l2) * (W @ W), grads


def shrink_weights_in_place(params: Array, amount: Array, n_weights: int) -> Array:
    """Twin of `optimizers.shrink_weights`, in place."""
    params[..., :n_weights] *= 1.0 - amount
    return params


def clip_in_place(grads: Array, max_norm: Any) -> Array:
    """Twin of `optimizers.clip_by_global_norm`, in place for grads (P,)."""
    if grads.ndim > 1:
        return optimizers.clip_by_global_norm(grads, max_norm, xp=np)
    norm = np.sqrt(grads @ grads)
    if not norm <= max_norm:
        grads *= max_norm / norm
    return grads
