"""Kernels for PyTorch: its fused operations, and results written where they belong.

The gradients are the equations of the maths floor, so autograd, its graph and its temporaries are
never there; they land in one flat vector, and each is written by the product that makes it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from nnaccel import activations, optimizers
from nnaccel.activations import Activation
from nnaccel.batches import minibatch
from nnaccel.kernels._places import Buffers
from nnaccel.layers.dense import dense, dense_vjp
from nnaccel.losses import softmax_cross_entropy
from nnaccel.network import flatten, views
from nnaccel.typing import Array, Namespace

FUSED_ADAM: Any = getattr(torch, "_fused_adam_", None)
LARGE = 2**15  # parameters, from which on its threads pay: it starts them for any number


def kernels(xp: Namespace) -> dict[Callable, Callable]:
    """A new set of kernels, as the entries of an `Ops`; xp is for the definitions."""
    space = Workspace(xp)
    return {
        views: space.views,
        flatten: space.flatten,
        minibatch: take_minibatch,
        dense: space.dense,
        dense_vjp: space.dense_vjp,
        softmax_cross_entropy: space.softmax_cross_entropy,
        optimizers.adam_update: space.adam_update,
    }


class Workspace(Buffers):
    """The gradient vector of one training run, and the kernels that write into it."""

    def __init__(self, xp: Namespace) -> None:
        super().__init__(torch)
        self._xp = xp

    def dense(self, X: Array, W: Array, b: Array, activation: Activation) -> tuple[Any, Array]:
        """Twin of `layers.dense.dense`; Z is None where the activation does not read it."""
        if X.ndim != 2 or W.ndim != 2:
            return dense(X, W, b, activation, xp=self._xp)
        Z = torch.addmm(b, X, W)
        if activation.forward is activations.relu:
            return None, torch.relu_(Z)
        return Z, activation.forward(Z, xp=self._xp)

    def dense_vjp(
        self,
        dA: Array,
        X: Array,
        W: Array,
        Z: Array | None,
        A: Array,
        activation: Activation,
        need_dX: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        """Twin of `layers.dense.dense_vjp`: dZ may overwrite dA; dW and db are in the gradient."""
        if X.ndim != 2 or W.ndim != 2:
            return dense_vjp(dA, X, W, Z, A, activation, xp=self._xp, need_dX=need_dX)
        if activation.vjp is activations.relu_vjp:
            dZ = torch.ops.aten.threshold_backward.grad_input(dA, A, 0, grad_input=dA)
        else:
            dZ = activation.vjp(dA, Z, A, xp=self._xp)
        dW, db = self._homes.get(id(W), (None, None))
        dW = torch.mm(X.T, dZ) if dW is None else torch.mm(X.T, dZ, out=dW)
        db = torch.sum(dZ, 0, True) if db is None else torch.sum(dZ, 0, True, out=db)
        return (torch.mm(dZ, W.T) if need_dX else None), dW, db

    def softmax_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None = None, label_smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """Twin of `losses.softmax_cross_entropy`, for class numbers of one network."""
        if label_smoothing or Y.dtype != torch.int64 or Z.ndim != 2 or weights is not None:
            return softmax_cross_entropy(
                Z, Y, weights, xp=self._xp, label_smoothing=label_smoothing
            )
        log_P, at_Y = torch.log_softmax(Z, 1), Y.unsqueeze(1)
        loss = -log_P.gather(1, at_Y).mean()
        share = 1.0 / max(Z.shape[0], 1)
        dZ = log_P.exp_().mul_(share)
        return loss, dZ.scatter_add_(1, at_Y, dZ.new_full((), -share).expand(at_Y.shape))

    def adam_update(
        self,
        params: Array,
        grads: Array,
        mu: Array,
        nu: Array,
        rate: Array,
        beta_1: Any,
        beta_2: Any,
        correction_1: Array,
        correction_2: Array,
        epsilon: float,
    ) -> tuple[Array, Array, Array]:
        """Twin of `optimizers.adam_update`, in place."""
        if params.ndim > 1:
            return optimizers.adam_update(
                params,
                grads,
                mu,
                nu,
                rate,
                beta_1,
                beta_2,
                correction_1,
                correction_2,
                epsilon,
                xp=self._xp,
            )
        # m / c1 / (sqrt(v / c2) + epsilon) = (root / c1) m / (sqrt(v) + root epsilon)
        root = torch.sqrt(correction_2)
        if FUSED_ADAM is not None and params.device.type == "cpu" and params.shape[0] >= LARGE:
            # It corrects the moments by the number of steps: after endless ones, not at all.
            FUSED_ADAM(
                [params], [grads], [mu], [nu], [], [torch.tensor(math.inf)],
                lr=float(rate * root / correction_1), beta1=float(beta_1), beta2=float(beta_2),
                weight_decay=0.0, eps=float(root * epsilon), amsgrad=False, maximize=False,
            )  # fmt: skip
            return params, quiet(mu), nu
        quiet(mu.lerp_(grads, 1.0 - beta_1))
        nu.mul_(beta_2).addcmul_(grads, grads, value=1.0 - beta_2)
        spread = torch.sqrt(nu, out=grads).add_(root * epsilon)
        step = torch.div(mu, spread, out=grads).mul_(rate * root / correction_1)
        return params.sub_(step), mu, nu


def quiet(mu: Array) -> Array:
    """mu, in it 0 for what is below the smallest normal number: see `kernels._numpy.quiet_of`."""
    return torch.ops.aten.hardshrink.out(mu, torch.finfo(mu.dtype).tiny, out=mu)


def take_minibatch(
    X: Array, Y: Array, weights: Array | None, index: Array, dtype: Any
) -> tuple[Array, Array, Array | None]:
    """Twin of `batches.minibatch`."""
    return (
        X.index_select(0, index).to(dtype),
        Y.index_select(0, index),
        None if weights is None else weights.index_select(0, index),
    )
