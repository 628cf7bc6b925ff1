"""Predictions of a trained network, a block of rows at a time."""

from typing import Any

import array_api_compat as compat
import numpy as np

from nnaccel.devices.device import device_of, dtype_name, to_host
from nnaccel.kernels.backend import backend_of
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss
from nnaccel.maths.minibatch import bounds, is_sparse
from nnaccel.maths.network import Network, forward, layout
from nnaccel.ops import Ops
from nnaccel.training.data import rows_of
from nnaccel.training.device_errors import explain_device_errors
from nnaccel.training.streaming import evaluation_rows
from nnaccel.typing import Array


def predict(network: Network, params: Array, X: Any, *, loss: str | Loss | None = None) -> Array:
    """Predictions (..., N, n_outputs) on the device of params; the logits when no loss is named.

    With a loss, its link makes them probabilities, means or values. X (N, n_inputs) may be an
    array of any library. The products are float32, or float64 with such params, in whatever
    precision the network was trained. ValueError when its width, or the number of params, is
    not that of the network, MemoryError where the device has no memory left.
    """
    where = device_of(params)
    ieee_products = backend_of(where.xp).ieee_products
    link = losses.get(loss).link if loss is not None else None
    check_params(network, params)
    X = X if is_sparse(X) or compat.is_array_api_obj(X) else to_host(X)
    if X.ndim != 2 or X.shape[1] != network.n_inputs:
        raise ValueError(
            f"X must be (n_samples, {network.n_inputs}) for this network, got shape "
            f"{tuple(X.shape)}"
        )
    guard = explain_device_errors(where, network, dtype_name(params))
    with guard, where.context(), ieee_products("float32"), np.errstate(all="ignore"):
        ops, parts = Ops(where.xp), []
        for start, stop in bounds(X.shape[0], evaluation_rows(X)):
            rows = rows_of(X, slice(start, stop), where, params.dtype)
            Z = forward(network, params, rows, ops=ops)
            parts.append(Z if link is None else link(Z, xp=where.xp))
        if not parts:
            shape = (*params.shape[:-1], 0, network.n_outputs)
            return where.xp.zeros(shape, dtype=params.dtype, device=where.handle)
        return where.xp.concat(parts, axis=-2)


def check_params(network: Network, params: Array) -> None:
    size = layout(network).size
    if params.ndim not in (1, 2) or params.shape[-1] != size:
        raise ValueError(
            f"params must be ({size},) for this network, or (K, {size}) for K of them, got shape "
            f"{tuple(params.shape)}"
        )
