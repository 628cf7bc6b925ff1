"""Conversions between scikit-learn's `coefs_` and `intercepts_` and the flat parameter vector."""

from typing import Any

import numpy as np

from nnaccel.maths.layers import Dense
from nnaccel.maths.network import Network, flatten, layout, views
from nnaccel.typing import Array, Namespace


def coefs_and_intercepts(
    network: Network, params: Array, *, xp: Namespace
) -> tuple[list[Array], list[Array]]:
    """W (n_inputs, n_units) and b (n_units,) of each dense layer, views of the flat vector."""
    tree = [arrays for arrays in views(params, layout(network), xp=xp) if arrays]
    return [W for W, _ in tree], [xp.reshape(b, (-1,)) for _, b in tree]


def layer_arrays(network: Network, coefs: list[Array], intercepts: list[Array]) -> Any:
    """The same arrays as parameters of the layers, b (1, n_units)."""
    pairs = zip(coefs, intercepts, strict=True)
    dense = iter([(W, b[None, :]) for W, b in pairs])
    return tuple(next(dense) if isinstance(layer, Dense) else () for layer in network.layers)


def draw_as_sklearn(network: Network, activation: Any, rng: Any) -> np.ndarray:
    """Initial parameters (P,) on the host, drawn in the order and from the range of scikit-learn.

    W and b of a layer are uniform within +-sqrt(6 / (fan_in + fan_out)), Glorot and Bengio (2010),
    eq. 16; for the logistic function the 6 is a 2.
    """
    tree: list[Any] = []
    D, factor = network.n_inputs, 2.0 if activation in ("logistic", "sigmoid") else 6.0
    for layer in network.layers:
        if not isinstance(layer, Dense):
            tree.append(())
            continue
        bound = np.sqrt(factor / (D + layer.units))
        W = rng.uniform(-bound, bound, (D, layer.units))
        tree.append((W, rng.uniform(-bound, bound, (1, layer.units))))
        D = layer.units
    return flatten(tuple(tree), layout(network), xp=np)


def check_same_shape(network: Network, coefs: list[Array]) -> None:
    """Raises ValueError unless the fitted layers have the widths of the network's layers."""
    units = [layer.units for layer in network.layers if isinstance(layer, Dense)]
    if [W.shape[1] for W in coefs] != units:
        raise ValueError(
            f"hidden_layer_sizes and the outputs of y give layers of {units} units, but the "
            f"fitted network has {[W.shape[1] for W in coefs]}; set warm_start=False to "
            "begin with a new one"
        )
