"""JAX as a contestant, written by hand: see `contestants.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.shared.precisions import jax_device, jax_precision
from bench.shared.shapes import LEARNING_RATE, Problem

Run = Callable[[int], float]


def jax_jit(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """JAX with a hand-written Adam, one jitted step a call, its memory donated."""
    return _jax(problem, device, precision, scan=False)


def jax_scan(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """The step of `jax_jit`, with an epoch in one call by `lax.scan`."""
    return _jax(problem, device, precision, scan=True)


def _jax(problem: Problem, device: str, precision: str | None, *, scan: bool) -> Run:
    import jax
    import jax.numpy as jnp

    def put(array: np.ndarray) -> Any:
        return jax.device_put(array, jax_device(device))

    start, step = jax_adam(jax_precision(precision))
    state = start(list(map(put, problem.weights)), list(map(put, problem.biases)))
    X, Y, order = map(put, (problem.X, problem.Y, problem.order))

    def epoch(state: Any, X: Any, Y: Any, order: Any) -> Any:
        return jax.lax.scan(lambda state, index: step(state, X, Y, index), state, order)

    compiled = jax.jit(epoch if scan else step, donate_argnums=0)
    indices = list(order)

    def run(epochs: int) -> float:
        nonlocal state
        losses: Any = []
        for _ in range(epochs):
            if scan:
                state, losses = compiled(state, X, Y, order)
            else:
                losses = []
                for index in indices:
                    state, loss = compiled(state, X, Y, index)
                    losses.append(loss)
                losses = jnp.stack(losses)
            losses.block_until_ready()
        jax.block_until_ready(state)
        return float(jnp.mean(losses))

    return run


def jax_adam(dtype: Any = None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """start(weights, biases) -> state and step(state, X, Y, index) -> (state, loss), by hand.

    dtype: of the layers, see `jax_logits`."""
    import jax
    import jax.numpy as jnp

    def start(weights: list[np.ndarray], biases: list[np.ndarray]) -> Any:
        tree = jax.tree.map(jnp.asarray, list(zip(weights, biases, strict=True)))
        zeros = jax.tree.map(jnp.zeros_like, tree)
        return tree, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.int32)

    def loss_of(tree: Any, x: Any, y: Any) -> Any:
        logits = jax_logits(tree, x, dtype)
        if logits.shape[1] == 1:
            return jnp.mean(jax.nn.softplus(logits[:, 0]) - y * logits[:, 0])
        log_probabilities = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(log_probabilities, y[:, None], axis=1))

    def step(state: Any, X: Any, Y: Any, index: Any) -> Any:
        tree, mu, nu, t = state
        loss, grads = jax.value_and_grad(loss_of)(tree, X[index], Y[index])
        t = t + 1
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mu, grads)
        nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, nu, grads)
        c1, c2 = 1 - 0.9**t, 1 - 0.999**t
        tree = jax.tree.map(
            lambda p, m, v: p - LEARNING_RATE * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), tree, mu, nu
        )
        return (tree, mu, nu, t), loss

    return start, step


def jax_logits(tree: Any, x: Any, dtype: Any = None) -> Any:
    """The logits.   dtype: to which inputs and weights are cast; None: no cast."""
    import jax

    if dtype is not None:
        tree, x = jax.tree.map(lambda p: p.astype(dtype), (tree, x))
    for W, b in tree[:-1]:
        x = jax.nn.relu(x @ W + b)
    W, b = tree[-1]
    logits = x @ W + b
    return logits if dtype is None else logits.astype("float32")
