"""Predictions of a trained network, a block of rows at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np

from nnaccel.devices.device import Device, device_of
from nnaccel.kernels.backend import Backend, backend_of
from nnaccel.maths import losses
from nnaccel.maths.layers import Chain
from nnaccel.maths.losses import Loss
from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import Network, flatten, forward, layout, leaves, views
from nnaccel.ops import Ops
from nnaccel.training.array_checks import check_width, real_array
from nnaccel.training.data import rows_of
from nnaccel.training.device_errors import explain_device_errors
from nnaccel.training.streaming import evaluation_rows
from nnaccel.typing import Array, Namespace


def predict(network: Network, params: Array, X: Any, *, loss: str | Loss | None = None) -> Array:
    """Predictions (..., N, n_outputs) on the device of params; without a loss, the logits.

    With a loss, its link converts logits to probabilities, means or values. X (N, n_inputs) may be
    an array of any library. The products are float32, or float64 with float64 params, whatever the
    precision of the training. Rows with a number that is not finite are predicted like others,
    usually as NaN. Raises ValueError if the width of X, or the number of params, is not that of the
    network, TypeError for X without real numbers, MemoryError if the device has no memory left.
    """
    where = device_of(params)
    link = losses.get(loss).predict if loss is not None else None
    check_params(network, params)
    X = real_array("X", X)
    check_width(network, X)
    with where.context():
        tree = views(params, layout(network), xp=where.xp)
    return outputs(network, tree, X, where, link)


def outputs(
    network: Network,
    tree: Any,
    X: Any,
    where: Device,
    link: Callable[..., Array] | None = None,
) -> Array:
    """link(Z, xp=xp) of the logits Z (..., N, n_outputs) of all rows of X; without a link, Z.

    tree: the arrays of the layers, on the device `where`.   X: (N, n_inputs), of any library, or a
    CSR matrix.   Rows are computed a block at a time, which bounds the memory. On NumPy, which
    spends its time on temporaries, a block stays in the cache. Raises MemoryError if the device has
    no memory left.
    """
    dtype, link = next(leaves(tree)).dtype, link or logits
    backend = backend_of(where.xp, "numpy")
    N, rows = X.shape[0], min(evaluation_rows(X), backend.prediction_rows)
    guard = explain_device_errors(where, network, str(dtype).rpartition(".")[2])
    with guard, where.context(), backend.ieee_products("float32"), np.errstate(all="ignore"):
        if rows >= N:
            X, ops = rows_of(X, slice(None), where, dtype), Ops(where.xp)
            return link(Chain(network.layers).forward(tree, X, ops=ops, key=None)[0], xp=where.xp)
        with backend.context(network, rows):
            return in_blocks(backend, network, tree, X, where, link, rows)


def in_blocks(
    backend: Backend,
    network: Network,
    tree: Any,
    X: Any,
    where: Device,
    link: Callable[..., Array],
    rows: int,
) -> Array:
    """`outputs` block by block, for more rows than fit into one block."""
    xp, ops = backend.xp, backend.operations()
    params, parts = flatten(tree, layout(network), xp=xp), []
    for start, stop in bounds(X.shape[0], rows):
        block = rows_of(X, slice(start, stop), where, params.dtype)
        Z = forward(network, params, block, ops=ops)
        # The next block may overwrite the result of this one.
        parts.append(xp.asarray(ops[link](Z), copy=True))
    return xp.concat(parts, axis=params.ndim - 1)


def logits(Z: Array, *, xp: Namespace) -> Array:
    """The link that leaves the logits as they are."""
    return Z


def check_params(network: Network, params: Array) -> None:
    """Raises ValueError unless params are (P,) or (K, P), P the number of parameters of the
    network."""
    size = layout(network).size
    if params.ndim not in (1, 2) or params.shape[-1] != size:
        raise ValueError(
            f"params must be ({size},) for this network, or (K, {size}) for K of them, got shape "
            f"{tuple(params.shape)}"
        )
