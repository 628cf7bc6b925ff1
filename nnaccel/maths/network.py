"""A network as plain data, its parameters as one flat vector, and backpropagation through it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from math import prod
from numbers import Integral
from typing import Any, NamedTuple

from nnaccel.arguments import at_least
from nnaccel.maths import activations
from nnaccel.maths.activations import Activation
from nnaccel.maths.hyper_parameters import plain
from nnaccel.maths.layers import Chain, Dense, Dropout, Layer, Param, check_layers
from nnaccel.maths.losses import Loss
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace, handle_of


class _Parts(NamedTuple):
    n_inputs: int
    layers: tuple[Layer, ...]


class Network(_Parts):
    """Layers applied to `n_inputs` numbers; the last one gives the logits Z that a loss takes.

    TypeError or ValueError for n_inputs that is no whole number of at least 1, for no layers, and
    for what `check_layers` refuses.
    """

    __slots__ = ()

    def __new__(cls, n_inputs: int, layers: Iterable[Layer]) -> "Network":
        [n_inputs] = at_least(1, n_inputs=n_inputs)
        return super().__new__(cls, n_inputs, check_layers(layers))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> "Network":
        return cls(*iterable)  # so that `_replace` checks too

    def __repr__(self) -> str:
        """`Network(64-128-64-10, relu, dropout 0.1, 17,226 parameters)`."""
        parts = ["-".join([str(self.n_inputs), *_sizes(self.layers)]), *_traits(self.layers)]
        with suppress(ValueError):  # layers that do not fit together: said where they are used
            parts.append(f"{layout(self).n_trained:,} parameters")
        return f"Network({', '.join(parts)})"

    @property
    def n_outputs(self) -> int:
        """The width of the logits."""
        return Chain(self.layers).width(self.n_inputs)


def _sizes(layers: Iterable[Layer]) -> Iterator[str]:
    """The units of each dense layer, those of a residual block in parentheses."""
    for layer in layers:
        if isinstance(layer, Dense):
            yield str(layer.units)
        elif inner := getattr(layer, "layers", ()):
            yield f"({'-'.join(_sizes(inner))})"


def _traits(layers: Iterable[Layer]) -> list[str]:
    """What there is beside the sizes, each once: activations, dropout rates, other layers."""
    names, dropout, others = [], [], []
    for layer in _leaf_layers(layers):
        if isinstance(layer, Dense):
            name = layer.activation.name
            names += [name] if name != "identity" else []
        elif isinstance(layer, Dropout):
            dropout.append(f"{layer.rate:g}")
        else:
            others.append(type(layer).__name__)
    found = ["/".join(dict.fromkeys(names)) or "linear"]
    found += [f"dropout {'/'.join(dict.fromkeys(dropout))}"] if dropout else []
    return [*found, *dict.fromkeys(others)]


def _leaf_layers(layers: Iterable[Layer]) -> Iterator[Layer]:
    """The layers, and those inside of others in their place."""
    for layer in layers:
        if inner := getattr(layer, "layers", ()):
            yield from _leaf_layers(inner)
        else:
            yield layer


def mlp(
    n_inputs: int,
    hidden: Sequence[int],
    n_outputs: int,
    *,
    activation: str | Activation | Sequence[str | Activation] = "relu",
    dropout: float = 0.0,
    initializer: str = "auto",
) -> Network:
    """A multi-layer perceptron: dense layers of the `hidden` sizes, then one that gives logits.

    `activation` is one for all hidden layers or one for each; `dropout` follows every hidden
    layer. With no hidden layer it is a linear model, with the right loss a logistic regression.
    Raises ValueError for sizes below 1 and for another number of activations than layers, TypeError
    for sizes that are no whole numbers.
    """
    if isinstance(hidden, Integral):
        raise TypeError(
            f"hidden must list the units of each hidden layer, got {hidden}; for one layer: "
            f"[{hidden}]"
        )
    at_least(1, n_inputs=n_inputs, n_outputs=n_outputs)
    for units in hidden:
        at_least(1, hidden=units)
    if isinstance(activation, str | Activation):
        activation = [activation] * len(hidden)
    if len(activation) != len(hidden):
        raise ValueError(
            f"activation must be one name or one for each of the {len(hidden)} hidden layers, "
            f"got {len(activation)} names"
        )
    layers: list[Layer] = []
    for units, g in zip(hidden, activation, strict=True):
        layers.append(Dense(units, activations.get(g), initializer))
        if dropout:
            layers.append(Dropout(dropout))
    return Network(n_inputs, (*layers, Dense(n_outputs, initializer=initializer)))


def has_random_layers(network: Network) -> bool:
    """Whether a layer may draw random numbers in training."""
    return Chain(network.layers).is_random


def draws_alike(network: Network) -> bool:
    """Whether networks that train together draw the random numbers that each would draw alone.

    Dropout does; of a layer that nobody knows it is not known.
    """
    return all(
        isinstance(layer, Dropout) or not getattr(layer, "is_random", True)
        for layer in _leaf_layers(network.layers)
    )


def without_dropout(network: Network) -> Network:
    """The same network, of the same parameters, in which no unit is dropped."""
    return Network(network.n_inputs, _without_dropout(network.layers))


def _without_dropout(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    kept: list[Any] = []
    for layer in layers:
        if isinstance(layer, Dropout):
            kept.append(Dropout(0.0))
        elif inner := getattr(layer, "layers", ()):
            kept.append(replace(layer, layers=_without_dropout(inner)))  # pyright: ignore
        else:
            kept.append(layer)
    return tuple(kept)


class Slot(NamedTuple):
    """Where one parameter array lies in the flat vector."""

    start: int
    stop: int
    param: Param


class Layout(NamedTuple):
    """Where every parameter array lies in the flat vector."""

    slots: Any  # nested tuples of Slot, as the layers nest
    n_weights: int  # the length of the first part, to which decay and penalty apply
    n_trained: int  # the length of the part that optimizers change; layers change the rest
    size: int  # P
    layers: tuple[Layer, ...]  # whose arrays they are


@lru_cache(maxsize=64)
def layout(network: Network) -> Layout:
    """The layout of the flat parameter vector: all W first, then all b, then what is not trained.

    So weight decay is one slice, and an optimizer a handful of calls at any depth.
    """
    tree = Chain(network.layers).params(network.n_inputs)
    slots: dict[int, Slot] = {}
    params, position, n_weights, n_trained = list(leaves(tree, Param)), 0, 0, 0
    for i in sorted(
        range(len(params)), key=lambda i: (not params[i].trained, not params[i].decays)
    ):
        slots[i] = Slot(position, position + prod(params[i].shape), params[i])
        position = slots[i].stop
        if params[i].trained:
            n_trained = position
            n_weights = position if params[i].decays else n_weights
    in_order = iter(range(len(params)))
    nested = transform(lambda _: slots[next(in_order)], tree, Param)
    return Layout(nested, n_weights, n_trained, position, network.layers)


def views(params: Array, places: Layout, *, xp: Namespace) -> Any:
    """The flat vector (..., P) as the arrays of the layers, (..., rows, columns), nested alike."""
    lead = params.shape[:-1]

    def view(slot: Slot) -> Array:
        return xp.reshape(params[..., slot.start : slot.stop], (*lead, *slot.param.shape))

    return transform(view, places.slots, Slot)


def flatten(arrays: Any, places: Layout, *, xp: Namespace) -> Array:
    """The inverse of `views`: nested arrays (..., rows, columns) as one flat vector (..., P)."""
    pairs = zip(leaves(places.slots, Slot), leaves(arrays), strict=True)
    pieces = [array for _, array in sorted(pairs, key=lambda pair: pair[0].start)]
    return xp.concat([xp.reshape(p, (*p.shape[:-2], -1)) for p in pieces], axis=-1)


def leaves(tree: Any, leaf: type | None = None) -> Iterator[Any]:
    """The leaves of nested tuples from left to right; one may be a tuple of the type `leaf`."""
    if isinstance(tree, tuple) and not (leaf and isinstance(tree, leaf)):
        for branch in tree:
            yield from leaves(branch, leaf)
    else:
        yield tree


def transform(function: Any, tree: Any, leaf: type) -> Any:
    """The same nested tuples with `function` applied to each leaf, from left to right."""
    if isinstance(tree, leaf):
        return function(tree)
    return tuple(transform(function, branch, leaf) for branch in tree)


def initial_params(network: Network, rng: Any, *, xp: Namespace) -> Array:
    """The initial flat vector (P,), float64, drawn from a `numpy.random.Generator`.

    Drawn on the host, layer by layer, so that every device starts from the same numbers.
    xp: NumPy's namespace.
    """
    places = layout(network)
    draw = transform(lambda s: s.param.initializer(s.param.shape, rng), places.slots, Slot)
    return flatten(draw, places, xp=xp)


def forward(
    network: Network,
    params: Array,
    X: Array,
    *,
    ops: Ops,
    key: Key | None = None,
    training: bool = False,
) -> Array:
    """The logits Z (..., N, n_outputs) for X (..., N, n_inputs).

    The network predicts, unless it is `training`; with a `key` it draws the random numbers of a
    training step.
    """
    tree = ops[views](params, layout(network))
    return Chain(network.layers).forward(tree, X, ops=ops, key=key, training=training)[0]


def value_and_grad(
    network: Network,
    loss: Loss,
    params: Array,
    X: Array,
    Y: Array,
    weights: Array | None = None,
    *,
    ops: Ops,
    l2: float | tuple[float, ...] = 0.0,
    key: Key | None = None,
) -> tuple[Array, Array, Array]:
    """The loss (...) on a batch, its gradient (..., P) in the flat parameters, and the logits Z.

    With `l2`, the objective is `loss + l2/2 |W|^2` over the weights, biases and gains left out; for
    params (K, P) it may be K numbers.
    Backpropagation: the loss gives dZ of the last layer, and each layer turns the gradient in its
    output into those in its parameters and its input. Parameters that are not trained have their
    next values in the place of gradients: see `take_state`.
    """
    places, chain = layout(network), Chain(network.layers)
    tree = ops[views](params, places)
    Z, saved = chain.forward(tree, X, ops=ops, key=key, training=True)
    value, dZ = ops[loss.function](Z, Y, weights, **dict(loss.options))
    _, grads = chain.backward(tree, saved, dZ, ops=ops, need_dX=False)
    grads = ops[flatten](grads, places)
    if l2:
        value, grads = ops[l2_penalty](value, grads, params, l2, places.n_weights)
    return value, grads, Z


def l2_penalty(
    value: Array,
    grads: Array,
    params: Array,
    l2: float | tuple[float, ...],
    n_weights: int,
    *,
    xp: Namespace,
) -> tuple[Array, Array]:
    """`value + l2/2 |W|^2`, and `grads + l2 W` for the first n_weights parameters.

    l2: one for each of K networks where it is a tuple.
    """
    W = params[..., :n_weights]
    each: Any = l2
    if isinstance(l2, tuple):
        each = xp.asarray(l2, dtype=params.dtype, device=handle_of(params))
    value = value + (0.5 * each) * xp.sum(W * W, axis=-1)
    dW = grads[..., :n_weights] + plain(each) * W
    return value, xp.concat([dW, grads[..., n_weights:]], axis=-1)


def weigh(grads: Array, share: float, *, xp: Namespace) -> Array:
    """The gradient (..., P) of a minibatch that counts for that share of a full one."""
    return grads * share


def take_state(grads: Array, n_trained: int, *, xp: Namespace) -> tuple[Array, Array]:
    """The gradient with 0 for what is not trained, and the next values that have stood there.

    grads: (..., P) of `value_and_grad`.   An optimizer leaves alone what has gradient 0.
    """
    state = grads[..., n_trained:]
    return xp.concat([grads[..., :n_trained], xp.zeros_like(state)], axis=-1), state


def set_state(params: Array, state: Array, n_trained: int, *, xp: Namespace) -> Array:
    """The parameters (..., P) with those values for what is not trained."""
    return xp.concat([params[..., :n_trained], state], axis=-1)
