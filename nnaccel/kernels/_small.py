"""An epoch of a small network in one call of compiled code.

Where the products of a step take microseconds, as much again goes into the Python and NumPy calls
around them. Here there are none: gather, forward, loss, backward and update are one loop over the
minibatches. The products are SciPy's BLAS, which compiled code can call. Arrays are in the layout
of the notes, one column an example, so that every other inner loop runs over the examples of a
batch without a gap; a network may have fewer units than a processor's vector has numbers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  # loaded here, so that its threads can be limited

from nnaccel.batches import bounds
from nnaccel.kernels._epochs import rules_of
from nnaccel.kernels._numba import adam, add_penalty, compiled, exp, log
from nnaccel.kernels._plans import (
    BINARY_CROSS_ENTROPY,
    CROSS_ENTROPY,
    by_batch,
    plan_of,
    scalars_of,
)
from nnaccel.losses import Loss
from nnaccel.metrics import Metric
from nnaccel.network import Network, layout
from nnaccel.optimizers import Optimizer, State
from nnaccel.typing import Array, Namespace

TINY = np.finfo(np.float32).tiny

IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)
ACTIVATIONS = {
    "identity": IDENTITY,
    "relu": RELU,
    "leaky_relu": LEAKY_RELU,
    "tanh": TANH,
    "sigmoid": SIGMOID,
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

    None where there is no such code: for other layers, activations and losses. The epoch itself
    returns None, having done nothing, for other optimizers and types.
    """
    known = plan_of(network, loss, ACTIVATIONS)
    if known is None:
        return None
    sizes, codes = known.sizes, [ACTIVATIONS[name] for name in known.activations]
    n_weights = layout(network).n_weights
    plan = np.array(sizes), np.array(codes), np.array(known.parameters, np.float32)
    space = np.empty(2 * batch_size * sum(sizes), np.float32)
    grads = np.empty(layout(network).size, np.float32)

    def epoch(params: Array, state: State, data: Any, order: Array) -> Any:
        X, Y, weights = data
        if not (params.dtype == X.dtype == np.float32):
            return None
        if known.loss == CROSS_ENTROPY and Y.ndim != 1:
            return None
        n_steps = len(bounds(order.shape[0], batch_size))
        rules = rules_of(optimizer, params, state, n_steps, n_weights, xp=xp)
        if rules is None:
            return None
        scalars = scalars_of(rules, n_steps, np.float32)
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
        Z = np.empty((0 if metric is None else order.shape[0], sizes[-1]), np.float32)
        small_epoch(
            params, *state.slots, grads, *inputs, batch_size, *plan, known.loss, scalars, betas,
            n_weights, np.float32(l2), space, values, Z,
        )  # fmt: skip
        state = State(state.step + n_steps, state.slots)
        if metric is None:
            return params, state, values
        weights = None if weights is None else weights[order]
        means = by_batch(metric, Z, Y[order], weights, batch_size, xp=xp)
        return params, state, np.stack([values, means], axis=1)

    return epoch


def fixed(values: Any, dtype: Any, ndim: int) -> Array:
    """An array of that type without gaps and read-only, which an array of any user can be."""
    array = np.ascontiguousarray(values, dtype)
    array = array.view() if array.ndim == ndim else array.reshape((0,) * ndim)
    array.flags.writeable = False
    return array


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
    slopes: Array,
    loss: int,
    scalars: Array,
    betas: Array,
    n_weights: int,
    l2: Any,
    space: Array,
    record: Array,
    logits: Array,
) -> None:
    """Trains in place. space: X (B, D), then A^T of each layer, and dA^T from the last one down."""
    N, L, K = order.shape[0], codes.shape[0], sizes[-1]
    one, zero = np.float32(1), np.float32(0)
    share, scratch = np.empty(batch_size, np.float32), np.empty(batch_size, np.float32)
    Y = np.empty((K, batch_size), np.float32)
    for step in range(record.shape[0]):
        start = step * batch_size
        B = min(batch_size, N - start)
        index = order[start : start + B]
        x = space[: B * sizes[0]].reshape(B, sizes[0])
        for i in range(B):
            copy(X[index[i]], x[i])
        share[:B] = one / np.float32(B)
        if weights.shape[0]:
            for i in range(B):
                share[i] *= weights[index[i]]

        # Forward: A = g(W^T A + b)
        A, at_A, at_W, at_b = x, B * sizes[0], 0, n_weights
        for layer in range(L):
            D, H = sizes[layer], sizes[layer + 1]
            W = params[at_W : at_W + D * H].reshape(D, H)
            Z = space[at_A : at_A + B * H].reshape(H, B)
            if layer:
                np.dot(W.T, A, Z)
            else:
                np.dot(W.T, x.T, Z)
            activate(Z, params[at_b : at_b + H], codes[layer], slopes[layer])
            A, at_A, at_W, at_b = Z, at_A + B * H, at_W + D * H, at_b + H
        for i in range(min(B, logits.shape[0] - start)):
            for k in range(K):
                logits[start + i, k] = A[k, i]

        # The loss, and dZ of the last layer
        at_dA = at_A
        dA = space[at_dA : at_dA + B * K].reshape(K, B)
        if loss == CROSS_ENTROPY:
            for i in range(B):
                scratch[i] = np.float32(labels[index[i]])
            for k in range(K):
                y, number = Y[k], np.float32(k)
                for i in range(B):
                    y[i] = one if scratch[i] == number else zero
            value = cross_entropy(A, Y, share, dA, scratch)
        else:
            for i in range(B):
                for k in range(K):
                    Y[k, i] = targets[index[i], k]
            if loss == BINARY_CROSS_ENTROPY:
                value = binary_cross_entropy(A, Y, share, dA, scratch)
            else:
                value = squared_error(A, Y, share, dA)

        # Backward: dZ = dA g'(Z), dW = A dZ^T, db, dA = W dZ
        for layer in range(L - 1, -1, -1):
            D, H = sizes[layer], sizes[layer + 1]
            at_A, at_W, at_b = at_A - B * H, at_W - D * H, at_b - H
            A = space[at_A : at_A + B * H].reshape(H, B)
            derive(dA, A, grads[at_b : at_b + H], codes[layer], slopes[layer])
            dW = grads[at_W : at_W + D * H].reshape(D, H)
            if layer:
                np.dot(space[at_A - B * D : at_A].reshape(D, B), dA.T, dW)
                at_dA += B * H
                dX = space[at_dA : at_dA + B * D].reshape(D, B)
                np.dot(params[at_W : at_W + D * H].reshape(D, H), dA, dX)
                dA = dX
            else:
                np.dot(x.T, dA.T, dW)

        if l2 != zero:
            square = add_penalty(grads[:n_weights], params[:n_weights], l2)
            value += np.float32(0.5) * l2 * square
        record[step] = value
        factor, epsilon, shrink = scalars[step, 0], scalars[step, 1], scalars[step, 2]
        if shrink != one:
            for p in range(n_weights):
                params[p] *= shrink
        adam(params, grads, mu, nu, factor, betas[0], betas[1], epsilon, TINY)


@compiled
def copy(values: Array, to: Array) -> None:
    """As a function of two arrays without gaps: an assignment of slices is for any strides."""
    for i in range(to.shape[0]):
        to[i] = values[i]


@compiled
def activate(Z: Array, b: Array, code: int, slope: Any) -> None:
    """Z := g(Z + b), Z (H, B)."""
    one, zero = np.float32(1), np.float32(0)
    for h in range(Z.shape[0]):
        z, bias = Z[h], b[h]
        if code == RELU:
            for i in range(z.shape[0]):
                a = z[i] + bias
                z[i] = zero if a < zero else a
        elif code == LEAKY_RELU:
            for i in range(z.shape[0]):
                a = z[i] + bias
                z[i] = slope * a if a < zero else a
        elif code == TANH:
            for i in range(z.shape[0]):
                a = z[i] + bias
                e = exp(np.float32(-2) * abs(a))
                t = (one - e) / (one + e)
                z[i] = -t if a < zero else t
        elif code == SIGMOID:
            for i in range(z.shape[0]):
                a = z[i] + bias
                e = exp(-abs(a))
                z[i] = (e if a < zero else one) / (one + e)
        else:
            for i in range(z.shape[0]):
                z[i] += bias


@compiled
def derive(dA: Array, A: Array, db: Array, code: int, slope: Any) -> None:
    """dA := dA g'(Z), dA (H, B), and db, its sum over examples."""
    one, zero = np.float32(1), np.float32(0)
    for h in range(dA.shape[0]):
        d, a = dA[h], A[h]
        if code == RELU:
            for i in range(d.shape[0]):
                d[i] *= np.float32(a[i] > zero)  # a branch costs four times the step
        elif code == LEAKY_RELU:
            for i in range(d.shape[0]):
                d[i] *= slope + (one - slope) * np.float32(a[i] > zero)
        elif code == TANH:
            for i in range(d.shape[0]):
                d[i] *= one - a[i] * a[i]
        elif code == SIGMOID:
            for i in range(d.shape[0]):
                d[i] *= a[i] * (one - a[i])
        total = zero
        for i in range(d.shape[0]):
            total += d[i]
        db[h] = total


# The losses: Z, Y and dZ (K, B); share (B,), the weight of each example over B.


@compiled
def cross_entropy(Z: Array, Y: Array, share: Array, dZ: Array, scratch: Array) -> Any:
    K, B = Z.shape
    value, one = np.float32(0), np.float32(1)
    copy(Z[0], scratch[:B])
    for k in range(1, K):
        z = Z[k]
        for i in range(B):
            scratch[i] = z[i] if z[i] > scratch[i] else scratch[i]
    for k in range(K):
        z, y, dz = Z[k], Y[k], dZ[k]
        for i in range(B):
            dz[i] = z[i] - scratch[i]
        for i in range(B):
            value -= share[i] * y[i] * dz[i]
        for i in range(B):
            dz[i] = exp(dz[i])
    copy(dZ[0], scratch[:B])
    for k in range(1, K):
        dz = dZ[k]
        for i in range(B):
            scratch[i] += dz[i]
    for i in range(B):
        value += share[i] * log(scratch[i])
    for i in range(B):
        scratch[i] = one / scratch[i]
    for k in range(K):
        y, dz = Y[k], dZ[k]
        for i in range(B):
            dz[i] = share[i] * (dz[i] * scratch[i] - y[i])
    return value


@compiled
def binary_cross_entropy(Z: Array, Y: Array, share: Array, dZ: Array, scratch: Array) -> Any:
    """log(1 + exp(-|Z|)) + max(Z, 0) - Y Z."""
    value, one, zero = np.float32(0), np.float32(1), np.float32(0)
    for k in range(Z.shape[0]):
        z, y, dz = Z[k], Y[k], dZ[k]
        for i in range(z.shape[0]):
            e = exp(-abs(z[i]))
            dz[i] = share[i] * ((e if z[i] < zero else one) / (one + e) - y[i])
            value += share[i] * ((zero if z[i] < zero else z[i]) - z[i] * y[i])
            scratch[i] = one + e
        for i in range(z.shape[0]):
            value += share[i] * log(scratch[i])
    return value


@compiled
def squared_error(Z: Array, Y: Array, share: Array, dZ: Array) -> Any:
    value, half = np.float32(0), np.float32(0.5)
    for k in range(Z.shape[0]):
        z, y, dz = Z[k], Y[k], dZ[k]
        for i in range(z.shape[0]):
            R = z[i] - y[i]
            value += half * share[i] * R * R
            dz[i] = share[i] * R
    return value
