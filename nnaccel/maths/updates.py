"""The equations of the optimizers: what one step does to the flat parameter vector.

params, grads and what an optimizer remembers are (..., P); leading axes are independent networks,
and any number may be an array (K, 1), one value for each of K networks.
"""

from nnaccel.maths.schedules import Rate
from nnaccel.typing import Array, Namespace


def gradient_descent_update(params: Array, grads: Array, rate: Rate, *, xp: Namespace) -> Array:
    """W := W - rate dW: the update of the course notes."""
    return params - rate * grads


def momentum_update(
    params: Array, grads: Array, velocity: Array, rate: Rate, beta: Rate, *, xp: Namespace
) -> tuple[Array, Array]:
    """v := beta v - rate dW; W := W + v.

    Source: Sutskever et al. (2013), eq. 1-2: the rate is inside the velocity, as in scikit-learn.
    """
    velocity = beta * velocity - rate * grads
    return params + velocity, velocity


def nesterov_update(
    params: Array, grads: Array, velocity: Array, rate: Rate, beta: Rate, *, xp: Namespace
) -> tuple[Array, Array]:
    """v := beta v - rate dW; W := W + beta v - rate dW.

    Source: Sutskever et al. (2013), eq. 3-4, in the variables of the look-ahead point.
    """
    velocity = beta * velocity - rate * grads
    return params + beta * velocity - rate * grads, velocity


def rmsprop_update(
    params: Array,
    grads: Array,
    square: Array,
    rate: Rate,
    beta: Rate,
    epsilon: float,
    *,
    xp: Namespace,
) -> tuple[Array, Array]:
    """s := beta s + (1 - beta) dW^2; W := W - rate dW / (sqrt(s) + epsilon).

    Source: Tieleman, Hinton (2012), lecture 6.5; epsilon outside the root, as in PyTorch.
    """
    square = beta * square + (1.0 - beta) * (grads * grads)
    return params - rate * grads / (xp.sqrt(square) + epsilon), square


def adam_update(
    params: Array,
    grads: Array,
    mu: Array,
    nu: Array,
    rate: Rate,
    beta_1: Rate,
    beta_2: Rate,
    correction_1: Array,
    correction_2: Array,
    epsilon: float,
    *,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """W := W - rate m / (sqrt(v) + epsilon), with bias-corrected moments m and v of dW.

    correction_i is 1 - beta_i^t. Source: Kingma, Ba, arXiv:1412.6980, algorithm 1.
    """
    mu = beta_1 * mu + (1.0 - beta_1) * grads
    nu = beta_2 * nu + (1.0 - beta_2) * (grads * grads)
    m, v = mu / correction_1, nu / correction_2
    return params - rate * m / (xp.sqrt(v) + epsilon), mu, nu


def lion_update(
    params: Array,
    grads: Array,
    mu: Array,
    rate: Rate,
    beta_1: Rate,
    beta_2: Rate,
    *,
    xp: Namespace,
) -> tuple[Array, Array]:
    """W := W - rate sign(beta_1 m + (1 - beta_1) dW); m := beta_2 m + (1 - beta_2) dW.

    Source: Chen et al., arXiv:2302.06675, algorithm 2.
    """
    step = xp.sign(beta_1 * mu + (1.0 - beta_1) * grads)
    return params - rate * step, beta_2 * mu + (1.0 - beta_2) * grads


def shrink_weights(params: Array, amount: Rate, n_weights: int, *, xp: Namespace) -> Array:
    """(1 - amount) times the first n_weights parameters; the rest as they are."""
    weights = params[..., :n_weights]
    return xp.concat([weights - amount * weights, params[..., n_weights:]], axis=-1)


def clip_by_global_norm(grads: Array, max_norm: Rate, *, xp: Namespace) -> Array:
    """grads min(1, max_norm / |grads|), the Euclidean norm over all parameters of a network.

    Source: Pascanu, Mikolov, Bengio, arXiv:1211.5063, algorithm 1.
    """
    norm = xp.sqrt(xp.sum(grads * grads, axis=-1, keepdims=True))
    return grads * (max_norm / xp.maximum(norm, max_norm + xp.zeros_like(norm)))
