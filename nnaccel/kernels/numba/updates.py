"""The update of the parameters in compiled code: the L2 penalty and Adam, each in one pass."""

from typing import Any

import numpy as np

from nnaccel.kernels.numba.jit import compiled
from nnaccel.typing import Array


@compiled
def add_penalty(dW: Array, W: Array, l2: Any) -> Any:
    """dW += l2 W; returns |W|^2."""
    square = l2 - l2
    for i in range(W.shape[0]):
        square += W[i] * W[i]
        dW[i] += l2 * W[i]
    return square


@compiled
def adam(
    params: Array, grads: Array, mu: Array, nu: Array,
    rate: Any, beta_1: Any, beta_2: Any, epsilon: Any, tiny: Any,
) -> None:  # fmt: skip
    """W := W - rate m / (sqrt(v) + epsilon), with m and v of `optimizers.adam_update`.

    rate, epsilon: with the bias corrections in them; see `dense_plan.scalars_of`.
    Moments below `tiny`, the smallest normal number, become 0: arithmetic on denormal numbers is a
    hundred times slower on many processors.
    """
    number = params.dtype.type
    one, zero = number(1), number(0)
    for i in range(params.shape[0]):
        g = grads[i]
        m = beta_1 * mu[i] + (one - beta_1) * g
        v = beta_2 * nu[i] + (one - beta_2) * (g * g)
        m = zero if abs(m) < tiny else m
        v = zero if v < tiny else v
        mu[i] = m
        nu[i] = v
        params[i] -= rate * m / (np.sqrt(v) + epsilon)
