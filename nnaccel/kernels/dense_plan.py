"""Shared by the fused epochs of dense networks: which networks they support, Adam's scalars, the
metric.

These epochs are Numba's (`numba/epoch.py`), NumPy's list of calls (`numpy/call_list.py`) and the
CUDA kernel of small networks (`cuda/small_network.py`).
"""

from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from nnaccel.kernels.definition import NotSupported, Run, one_l2
from nnaccel.kernels.optimizer_trace import Rules
from nnaccel.maths import activations, losses
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers import Dense, Dropout, PiecewiseLinear
from nnaccel.maths.layers.piecewise_linear import Bins
from nnaccel.maths.metrics import Metric
from nnaccel.typing import Array, Namespace

CROSS_ENTROPY, BINARY_CROSS_ENTROPY, SQUARED_ERROR = range(3)
LOSSES = {
    losses.softmax_cross_entropy: CROSS_ENTROPY,
    losses.binary_cross_entropy: BINARY_CROSS_ENTROPY,
    losses.squared_error: SQUARED_ERROR,
}


class Plan(NamedTuple):
    """A sequence of dense layers, perhaps with dropout before some of them, and a loss.

    A piecewise linear encoding may come first: the input of the first dense layer is then encoded.
    """

    sizes: list[int]  # widths: of the input of the first dense layer, and of each layer
    activations: list[str]
    parameters: list[float]  # of the activations: slopes and the like
    loss: int
    rates: list[float]  # of the dropout before each layer; 0: there is none
    places: list[int]  # the index of that dropout in the network, on which its draws depend
    l2: float  # the L2 penalty
    bins: Bins | None = None  # of the encoding, if any


def plan_of(
    run: Run, known: Container[str], *, dropout: bool = False, encoding: bool = False
) -> Plan:
    """The plan of a run. Raises NotSupported for a run that has none, with the reason.

    known: the names of the activations that may occur.
    dropout: whether dropout may precede a dense layer. Two in a row, or one after the last layer,
    have no plan.
    encoding: whether a plan may begin with the piecewise linear encoding.
    """
    if run.precision != "float32":
        raise NotSupported(f"its products are float32, not {run.precision}")
    l2 = one_l2(run.l2)
    if run.loss.function not in LOSSES or run.loss.options:
        raise NotSupported(f"it has no loss {run.loss.name} of these options")
    sizes = [run.network.n_inputs]
    names, parameters, rates, places = [], [], [], []
    rate, place, bins = 0.0, 0, None
    for i, layer in enumerate(run.network.layers):
        if type(layer) is Dropout and layer.rate == 0.0:
            continue
        if encoding and type(layer) is PiecewiseLinear and i == 0:
            bins, sizes[0] = layer.bins, layer.width(sizes[0])
            continue
        if dropout and type(layer) is Dropout and not rate:
            rate, place = layer.rate, i
            continue
        if type(layer) is not Dense:  # a subclass may do something else
            raise NotSupported(f"it has no layer {type(layer).__name__} at this place")
        found = activation_of(layer.activation)
        if found is None or found[0] not in known:
            raise NotSupported(f"it has no activation {layer.activation.name}")
        sizes.append(layer.units)
        names.append(found[0])
        parameters.append(found[1])
        rates.append(rate)
        places.append(place)
        rate = 0.0
    if not names or rate:
        raise NotSupported("the network does not end with a dense layer")
    return Plan(sizes, names, parameters, LOSSES[run.loss.function], rates, places, l2, bins)


def activation_of(activation: Activation) -> tuple[str, float] | None:
    """The name of an activation of the library, and its parameter, such as a slope (0 for none).

    None for any other activation. Its functions decide, not its name.
    """
    name, plain = activation.name, activation.plain()
    own = getattr(activations, name, None), getattr(activations, f"{name}_vjp", None)
    if own != (plain.forward, plain.vjp):
        return None
    parameters: dict[str, Any] = plain.forward.__kwdefaults__ or {}
    parameters = parameters | dict(activation.options)
    return name, float(next(iter(parameters.values()), 0.0))


def scalars_of(rules: Rules, n_steps: int, dtype: Any) -> np.ndarray:
    """The numbers (n_steps, 3) of Adam's steps: rate, epsilon and keep, the corrections in them;
    of K networks whose numbers differ (K, n_steps, 3).

    W := keep W - rate m / (sqrt(v) + epsilon), with the uncorrected moments m and v. rate has the
    units of W, epsilon those of the gradient.
    """
    root = np.sqrt(rules.correction_2)
    rate = rules.rate * root / rules.correction_1
    keep = 1.0 if rules.shrink is None else 1.0 - rules.shrink
    several = max((rate, keep), key=np.ndim)
    scalars = np.empty((*np.shape(several)[:-1], n_steps, 3), dtype)
    scalars[..., 0] = rate
    scalars[..., 1] = root * rules.epsilon
    scalars[..., 2] = keep
    return scalars


def compact(Y: Array, n_classes: int) -> Array:
    """Class numbers (N,) in a small type, so that more of them fit into a cache when an epoch reads
    them in random order. Other targets are returned unchanged."""
    if Y.ndim > 1:
        return Y
    return np.asarray(Y).astype(np.uint8 if n_classes <= 256 else np.int32, copy=False)


def by_batch(
    metric: Metric, Z: Array, Y: Array, weights: Array | None, batch_size: int, *, xp: Namespace
) -> Array:
    """The metric of each minibatch, (..., n_steps). Full minibatches are computed at once, as
    leading axes.

    Z: (..., N, K).   Y: (N,) or (N, K).   weights: (N,) or None.
    """
    lead, (N, K) = Z.shape[:-2], Z.shape[-2:]
    n_full = N // batch_size
    split = n_full * batch_size

    def full(x: Array | None) -> Array | None:
        return None if x is None else xp.reshape(x[:split], (n_full, batch_size, *x.shape[1:]))

    means = []
    if n_full:
        logits = xp.reshape(Z[..., :split, :], (*lead, n_full, batch_size, K))
        means.append(metric.function(logits, full(Y), full(weights), xp=xp))
    if split < N:
        rest = None if weights is None else weights[split:]
        means.append(metric.function(Z[..., split:, :], Y[split:], rest, xp=xp)[..., None])
    return xp.concat(means, axis=-1)
