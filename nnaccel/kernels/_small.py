"""An epoch of a small network in one call of compiled code.

In a step of a few thousand multiplications nearly all of the time goes into Python and NumPy
calls, so here there are none: gather, forward, loss, backward and update are one loop over the
minibatches. Arrays are in the layout of the notes, one column an example, so that each inner loop
runs over the examples of a batch without a gap. Above `LARGEST` the BLAS is faster.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from nnaccel import activations, losses
from nnaccel.batches import bounds
from nnaccel.kernels._epochs import rules_of
from nnaccel.kernels._numba import compiled, exp, log
from nnaccel.layers import Dense
from nnaccel.losses import Loss
from nnaccel.metrics import Metric
from nnaccel.network import Network, layout
from nnaccel.optimizers import Optimizer, State
from nnaccel.typing import Array, Namespace

LARGEST = 500_000  # multiplications in a step
TINY = np.finfo(np.float32).tiny

IDENTITY, RELU, TANH, SIGMOID = range(4)
ACTIVATIONS = {
    activations.identity: IDENTITY,
    activations.relu: RELU,
    activations.tanh: TANH,
    activations.sigmoid: SIGMOID,
}
CROSS_ENTROPY, BINARY_CROSS_ENTROPY = range(2)
LOSSES = {
    losses.softmax_cross_entropy: CROSS_ENTROPY,
    losses.binary_cross_entropy: BINARY_CROSS_ENTROPY,
}


def epoch_of(
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    batch_size: int,
    *,
    xp: Namespace,
    l2: float,
    metric: Metric | None,
) -> Callable[..., tuple[Array, State, Array] | None] | None:
    """The epoch (params, state, data, order) -> (params, state, records), as of `compile_epoch`.

    None where there is no such code: for large networks and for other layers, activations and
    losses. The epoch itself returns None, having done nothing, for other optimizers and types.
    """
    sizes, codes = [network.n_inputs], []
    for layer in network.layers:
        if not isinstance(layer, Dense) or layer.activation.forward not in ACTIVATIONS:
            return None
        sizes.append(layer.units)
        codes.append(ACTIVATIONS[layer.activation.forward])
    products = sum(D * H for D, H in pairwise(sizes))
    if loss.function not in LOSSES or loss.options or 3 * batch_size * products > LARGEST:
        return None
    n_weights = layout(network).n_weights
    shape, codes, loss_code = np.array(sizes), np.array(codes), LOSSES[loss.function]
    space = np.empty((2 * sum(sizes) + sizes[-1], batch_size), np.float32)
    grads = np.empty(layout(network).size, np.float32)

    def epoch(params: Array, state: State, data: Any, order: Array) -> Any:
        X, Y, weights = data
        if not (params.dtype == X.dtype == np.float32):
            return None
        if loss_code == CROSS_ENTROPY and Y.ndim != 1:
            return None
        n_steps = len(bounds(order.shape[0], batch_size))
        rules = rules_of(optimizer, params, state, n_steps, n_weights, xp=xp)
        if rules is None:
            return None
        # params := factor W - step m / (sqrt(v) + epsilon), as in `adam_in_place`
        root = np.sqrt(rules.correction_2)
        scalars = np.empty((n_steps, 3), np.float32)
        scalars[:, 0] = rules.rate * root / rules.correction_1
        scalars[:, 1] = root * rules.epsilon
        scalars[:, 2] = 1.0 if rules.shrink is None else 1.0 - rules.shrink
        betas = np.array([rules.beta_1, rules.beta_2], np.float32)
        # Compiling takes seconds for each combination of types, so there is one: what is not there
        # is an empty array.
        labels, targets = (Y, ()) if Y.ndim == 1 else ((), Y)
        inputs = (
            fixed(X, np.float32, 2),
            fixed(labels, np.int64, 1),
            fixed(targets, np.float32, 2),
            fixed(() if weights is None else weights, np.float32, 1),
            fixed(order, np.int64, 1),
        )
        values = np.empty(n_steps, np.float32)
        Z = np.empty((order.shape[0], sizes[-1]), np.float32)
        small_epoch(
            params, *state.slots, grads, *inputs, batch_size, shape, codes, loss_code, scalars,
            betas, n_weights, np.float32(l2), space, values, Z,
        )  # fmt: skip
        state = State(state.step + n_steps, state.slots)
        if metric is None:
            return params, state, values
        weights = None if weights is None else weights[order]
        means = by_batch(metric, Z, Y[order], weights, batch_size)
        return params, state, np.stack([values, means], axis=1)

    return epoch


def fixed(values: Any, dtype: Any, ndim: int) -> Array:
    """An array of that type without gaps and read-only, which an array of any user can be."""
    array = np.ascontiguousarray(values, dtype)
    array = array.view() if array.ndim == ndim else array.reshape((0,) * ndim)
    array.flags.writeable = False
    return array


def by_batch(metric: Metric, Z: Array, Y: Array, weights: Array | None, batch_size: int) -> Array:
    """The metric of each batch (n_steps,): of the full ones at once, as leading axes."""
    n_full = Z.shape[0] // batch_size
    split = n_full * batch_size

    def full(x: Array | None) -> Array | None:
        return None if x is None else x[:split].reshape(n_full, batch_size, *x.shape[1:])

    means = []
    if n_full:
        means.append(metric.function(full(Z), full(Y), full(weights), xp=np))
    if split < Z.shape[0]:
        rest = None if weights is None else weights[split:]
        means.append(metric.function(Z[split:], Y[split:], rest, xp=np)[None])
    return np.concatenate(means)


@compiled
def small_epoch(
    params: Array,
    mu: Array,
    nu: Array,
    grads: Array,
    X: Array,
    labels: Array,
    targets: Array,
    weights: Array,
    order: Array,
    batch_size: int,
    sizes: Array,
    codes: Array,
    loss: int,
    scalars: Array,
    betas: Array,
    n_weights: int,
    l2: Any,
    space: Array,
    record: Array,
    logits: Array,
) -> None:
    """Trains in place. space: a row for each unit: A of all layers, then dA, then the targets."""
    N, L = order.shape[0], codes.shape[0]
    K, total = sizes[L], sizes.sum()
    one, zero = np.float32(1), np.float32(0)
    beta_1, beta_2 = betas[0], betas[1]
    # Of each example: its share of the loss, and what is needed for a moment. Rows of `space` are
    # taken one at a time, since only then the compiler knows that they have no gaps.
    share, scratch = np.empty(batch_size, np.float32), np.empty(batch_size, np.float32)
    for step in range(record.shape[0]):
        start = step * batch_size
        B = min(batch_size, N - start)
        index = order[start : start + B]
        for d in range(sizes[0]):
            x = space[d]
            for i in range(B):
                x[i] = X[index[i], d]
        if loss == CROSS_ENTROPY:
            for i in range(B):
                scratch[i] = np.float32(labels[index[i]])
            for k in range(K):
                y, number = space[2 * total + k], np.float32(k)
                for i in range(B):
                    y[i] = one if scratch[i] == number else zero
        else:
            for k in range(K):
                y = space[2 * total + k]
                for i in range(B):
                    y[i] = targets[index[i], k]
        share[:B] = one / np.float32(B)
        if weights.shape[0]:
            for i in range(B):
                share[i] *= weights[index[i]]

        # Forward: A = g(W A + b)
        at_X, at_W, at_b = 0, 0, n_weights
        for layer in range(L):
            D, H, code = sizes[layer], sizes[layer + 1], codes[layer]
            for h in range(H):
                z = space[at_X + D + h]
                z[:B] = params[at_b + h]
                for d in range(D):
                    x, w = space[at_X + d], params[at_W + d * H + h]
                    for i in range(B):
                        z[i] += w * x[i]
                if code == RELU:
                    for i in range(B):
                        z[i] = zero if z[i] < zero else z[i]
                elif code == TANH:
                    for i in range(B):
                        e = exp(np.float32(-2) * abs(z[i]))
                        t = (one - e) / (one + e)
                        z[i] = -t if z[i] < zero else t
                elif code == SIGMOID:
                    for i in range(B):
                        e = exp(-abs(z[i]))
                        z[i] = (e if z[i] < zero else one) / (one + e)
            at_X, at_W, at_b = at_X + D, at_W + D * H, at_b + H

        # The loss, and dZ of the last layer
        value = zero
        for k in range(K):
            z = space[at_X + k]
            for i in range(B):
                logits[start + i, k] = z[i]
        if loss == CROSS_ENTROPY:
            scratch[:B] = space[at_X, :B]
            for k in range(1, K):
                z = space[at_X + k]
                for i in range(B):
                    scratch[i] = z[i] if z[i] > scratch[i] else scratch[i]
            for k in range(K):
                z, y, dz = space[at_X + k], space[2 * total + k], space[total + at_X + k]
                for i in range(B):
                    dz[i] = z[i] - scratch[i]
                for i in range(B):
                    value -= share[i] * y[i] * dz[i]
                for i in range(B):
                    dz[i] = exp(dz[i])
            scratch[:B] = zero
            for k in range(K):
                dz = space[total + at_X + k]
                for i in range(B):
                    scratch[i] += dz[i]
            for k in range(K):
                y, dz = space[2 * total + k], space[total + at_X + k]
                for i in range(B):
                    dz[i] = share[i] * (dz[i] / scratch[i] - y[i])
            for i in range(B):
                value += share[i] * log(scratch[i])
        else:
            for k in range(K):
                z, y, dz = space[at_X + k], space[2 * total + k], space[total + at_X + k]
                for i in range(B):
                    e = exp(-abs(z[i]))
                    dz[i] = share[i] * ((e if z[i] < zero else one) / (one + e) - y[i])
                    value += share[i] * ((zero if z[i] < zero else z[i]) - z[i] * y[i])
                    scratch[i] = one + e
                for i in range(B):
                    value += share[i] * log(scratch[i])

        # Backward: dZ = dA g'(Z), dW = dZ A^T, db, dX = W^T dZ
        for layer in range(L - 1, -1, -1):
            D, H, code = sizes[layer], sizes[layer + 1], codes[layer]
            at_X, at_W, at_b = at_X - D, at_W - D * H, at_b - H
            for h in range(H):
                a, dz = space[at_X + D + h], space[total + at_X + D + h]
                if code == RELU:
                    for i in range(B):
                        dz[i] *= np.float32(a[i] > zero)  # a branch costs four times the step
                elif code == TANH:
                    for i in range(B):
                        dz[i] *= one - a[i] * a[i]
                elif code == SIGMOID:
                    for i in range(B):
                        dz[i] *= a[i] * (one - a[i])
                db = zero
                for i in range(B):
                    db += dz[i]
                grads[at_b + h] = db
            for d in range(D):
                x, dx = space[at_X + d], space[total + at_X + d]
                if layer:
                    dx[:B] = zero
                for h in range(H):
                    dz, w, dW = space[total + at_X + D + h], params[at_W + d * H + h], zero
                    for i in range(B):
                        dW += x[i] * dz[i]
                    grads[at_W + d * H + h] = dW
                    if layer:
                        for i in range(B):
                            dx[i] += w * dz[i]

        if l2 != zero:
            for p in range(n_weights):
                grads[p] += l2 * params[p]
                value += np.float32(0.5) * l2 * params[p] * params[p]
        record[step] = value
        factor, epsilon, shrink = scalars[step, 0], scalars[step, 1], scalars[step, 2]
        if shrink != one:
            for p in range(n_weights):
                params[p] *= shrink
        for p in range(params.shape[0]):
            g = grads[p]
            m = beta_1 * mu[p] + (one - beta_1) * g
            v = beta_2 * nu[p] + (one - beta_2) * (g * g)
            m *= np.float32(abs(m) >= TINY)  # never denormal: see `kernels._numpy.QUIET`
            v *= np.float32(v >= TINY)
            mu[p] = m
            nu[p] = v
            params[p] -= factor * m / (np.sqrt(v) + epsilon)
