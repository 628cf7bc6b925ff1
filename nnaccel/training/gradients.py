"""The loss and its gradient on arrays of any library, for your own training loops."""

from typing import Any

from nnaccel.devices.device import device_of, dtype_name
from nnaccel.kernels.backend import backend_of
from nnaccel.maths import losses
from nnaccel.maths import network as maths
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, layout, take_state
from nnaccel.ops import Ops
from nnaccel.training.data import put, rows_of
from nnaccel.training.members import check_members, l2_of
from nnaccel.training.prediction import check_params
from nnaccel.typing import Array


def value_and_grad(
    network: Network,
    loss: str | Loss,
    params: Array,
    X: Any,
    Y: Any,
    sample_weight: Any = None,
    *,
    l2: Any = 0.0,
) -> tuple[Array, Array, Array]:
    """The loss (...), its gradient (..., P) in the parameters, and the logits Z (..., N, K).

    It computes `nnaccel.maths.network.value_and_grad` on the device of params and in their dtype. X
    and Y may be arrays of any library. sample_weight (N,) is divided by its mean. Layers are in
    training mode, without dropout; parameters that no optimizer trains have gradient 0. Nothing
    overwrites the returned arrays. l2 may be (K,) with params (K, P). Raises ValueError for arrays
    that do not fit together.

    Examples
    --------
    >>> import numpy as np, nnaccel as nn
    >>> net = nn.mlp(2, [4], 1, activation="tanh")
    >>> params, X, Y = nn.initialize(net), np.ones((3, 2)), np.ones((3, 1))
    >>> for _ in range(100):
    ...     value, grads, _ = nn.value_and_grad(net, "squared_error", params, X, Y)
    ...     params = params - 0.1 * grads
    >>> bool(value < 1e-6)
    True
    """
    check_params(network, params)
    l2 = l2_of(l2)
    check_members(params, l2=l2)
    loss, where = losses.get(loss), device_of(params)
    with where.context(), backend_of(where.xp).ieee_products("float32"):
        data = put(network, loss, where, dtype_name(params), X, Y, sample_weight)
        rows = rows_of(data.X, slice(None), where, params.dtype)
        Y, weights = (None if x is None else where.asarray(x) for x in data[1:])
        ops = Ops(where.xp)
        value, grads, Z = maths.value_and_grad(
            network, loss, params, rows, Y, weights, ops=ops, l2=l2
        )
        grads, _ = ops[take_state](grads, layout(network).n_trained)
    return value, grads, Z
