"""The update of the parameters in compiled code: the L2 penalty and Adam, each in one pass."""

from typing import Any, NamedTuple

import numpy as np

from nnaccel.kernels.numba.jit import compiled
from nnaccel.typing import Array


class Adam(NamedTuple):
    """The parameters with their moments, (P,), and the constants of Adam."""

    params: Array
    mu: Array
    nu: Array
    beta_1: Any
    beta_2: Any
    tiny: Any  # the smallest normal number


class Numbers(NamedTuple):
    """The scalars of one step."""

    rate: Any  # of Adam; rate and epsilon include the bias corrections
    epsilon: Any
    keep: Any  # the factor of weight decay
    l2: Any


@compiled
def update_weights(state: Adam, start: int, dW: Array, numbers: Numbers) -> Any:
    """Updates n weights from `start` on with dW (n,). Returns their L2 penalty, l2 |W|^2 / 2.

    The gradient of the penalty is added to dW in place.
    """
    params, mu, nu, beta_1, beta_2, tiny = state
    rate, epsilon, keep, l2 = numbers
    number, part = params.dtype.type, slice(start, start + dW.shape[0])
    W, penalty = params[part], number(0)
    if l2 != number(0):
        penalty = number(0.5) * l2 * add_penalty(dW, W, l2)
    if keep != number(1):
        for i in range(W.shape[0]):
            W[i] *= keep
    adam(W, dW, mu[part], nu[part], rate, beta_1, beta_2, epsilon, tiny)
    return penalty


@compiled
def add_penalty(dW: Array, W: Array, l2: Any) -> Any:
    """dW += l2 W, vectors (n,); returns |W|^2."""
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
    """W := W - rate m / (sqrt(v) + epsilon), with m and v of `optimizers.adam_update`, vectors
    (n,).

    rate, epsilon: include the bias corrections, see `dense_plan.scalars_of`. Moments below `tiny`,
    the smallest normal number, become 0: arithmetic on denormal numbers is a hundred times slower
    on many processors.
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
