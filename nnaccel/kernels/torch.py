"""Kernels for PyTorch: its fused operations, which write gradients into one flat vector.

The gradients are the equations of `maths/`, so autograd, its graph and its saved tensors are not
used. The product that computes a gradient writes it into its place in the vector.
Shapes are those of the definitions: X (B, D), W (D, H), b (1, H), Z and A (B, H), params (P,).
Kernels call the definition for other shapes, such as those of several networks.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, ClassVar

import torch

from nnaccel.kernels.definition import Definition
from nnaccel.kernels.gradient_buffers import Buffers
from nnaccel.maths import activations, optimizers
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.losses import softmax_cross_entropy
from nnaccel.maths.minibatch import minibatch, of_networks
from nnaccel.maths.network import flatten, views
from nnaccel.maths.precision import PRECISIONS
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace

FUSED_ADAM: Any = getattr(torch, "_fused_adam_", None)
LARGE = 2**15  # parameters, from which on the fused Adam pays: it starts threads for any number


class TorchBackend(Definition):
    """PyTorch's backend. It runs steps one by one, on PyTorch's threads."""

    overwrites: ClassVar[bool] = True

    def ieee_products(self, precision: str = "float32") -> AbstractContextManager[None]:
        return products_in(precision)

    def operations(self, precision: str = "float32") -> Ops:
        Definition.operations(self, precision)  # which checks the precision
        return Ops(self.xp, kernels(self.xp, precision), "kernels of PyTorch")


def kernels(xp: Namespace, precision: str = "float32") -> dict[Callable, Callable]:
    """A new set of kernels, as the entries of an `Ops`; xp is for the definitions.

    On CUDA devices products are IEEE float32, or TF32 for the precision "tf32", only in the context
    of `products_in`.
    """
    space = Workspace(xp, precision)
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

    def __init__(self, xp: Namespace, precision: str = "float32") -> None:
        super().__init__(torch)
        self._xp, self._precision = xp, precision

    def dense(self, X: Array, W: Array, b: Array, activation: Activation) -> tuple[Any, Array]:
        """Twin of `layers.dense.dense`; Z is None where the activation does not read it."""
        if X.ndim != 2 or W.ndim != 2:
            return dense(X, W, b, activation, xp=self._xp, precision=self._precision)
        if self._precision == "float32":
            Z = torch.addmm(b, X, W)
        else:
            Z = self._product(*self._operands(X, W)).add_(b)
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
        """Twin of `layers.dense.dense_vjp`. dZ may overwrite dA; dW and db are views of the
        gradient vector."""
        if X.ndim != 2 or W.ndim != 2:
            return dense_vjp(
                dA,
                X,
                W,
                Z,
                A,
                activation,
                xp=self._xp,
                need_dX=need_dX,
                precision=self._precision,
            )
        if activation.vjp is activations.relu_vjp:
            dZ = torch.ops.aten.threshold_backward.grad_input(dA, A, 0, grad_input=dA)
        else:
            dZ = activation.vjp(dA, Z, A, xp=self._xp)
        dW, db = self._homes.get(id(W), (None, None))
        db = torch.sum(dZ, 0, True) if db is None else torch.sum(dZ, 0, True, out=db)
        X, dZ = self._operands(X, dZ)
        dW = self._product(X.T, dZ, dW)
        if not need_dX:
            return None, dW, db
        (W,) = self._operands(W)
        return self._product(dZ, W.T), dW, db

    def _operands(self, *arrays: Array) -> tuple[Array, ...]:
        """The arrays in the form that `_product` takes: unchanged, bfloat16, or float32 rounded."""
        device = arrays[0].device
        if self._precision == "float32" or (self._precision == "tf32" and device.type == "cuda"):
            return arrays
        if self._precision == "bf16" and multiplies_bf16(device):
            return tuple(x.bfloat16() for x in arrays)
        return tuple(rounded(x, self._precision) for x in arrays)

    def _product(self, X: Array, Y: Array, out: Array | None = None) -> Array:
        """X Y for matrices of `_operands`."""
        if X.dtype == torch.bfloat16:
            return torch.mm(X, Y, out_dtype=torch.float32, out=out)
        return torch.mm(X, Y, out=out)

    def softmax_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None = None, label_smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """Twin of `losses.softmax_cross_entropy`, for class numbers Y (B,) of one network."""
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
        """Twin of `optimizers.adam_update`, in place. It overwrites grads, too."""
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
            # It corrects the moments by the number of steps. Infinitely many mean no correction.
            FUSED_ADAM(
                [params], [grads], [mu], [nu], [], [torch.tensor(math.inf)],
                lr=float(rate * root / correction_1), beta1=float(beta_1), beta2=float(beta_2),
                weight_decay=0.0, eps=float(root * epsilon), amsgrad=False, maximize=False,
            )  # fmt: skip
            return params, flush_denormals(mu), nu
        flush_denormals(mu.lerp_(grads, 1.0 - beta_1))
        nu.mul_(beta_2).addcmul_(grads, grads, value=1.0 - beta_2)
        spread = torch.sqrt(nu, out=grads).add_(root * epsilon)
        step = torch.div(mu, spread, out=grads).mul_(rate * root / correction_1)
        return params.sub_(step), mu, nu


@cache
def multiplies_bf16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices on this device can return their sums in float32."""
    x = torch.ones((16, 16), dtype=torch.bfloat16, device=device)
    try:
        torch.mm(x, x, out_dtype=torch.float32)
    except (TypeError, RuntimeError):  # an older PyTorch, or no such kernel
        return False
    return True


def rounded(x: Array, precision: str) -> Array:
    """Twin of `precision.rounded`, for float32."""
    if precision == "bf16":
        return x.bfloat16().float()
    n = PRECISIONS["float32"] - PRECISIONS[precision]
    bits = x.view(torch.int32)
    bits = bits + (((bits >> n) & 1) + (2 ** (n - 1) - 1)) & -(2**n)
    return torch.where(torch.isnan(x), x, bits.view(torch.float32))


_TURN = threading.Condition()
_INSIDE: set[int] = set()  # the threads in the context, all with the same setting
_SETTING: list[Any] = []  # that setting, and the function that restores the former one


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """The context in which products of float32 matrices are IEEE, or TF32 on CUDA devices for
    "tf32".

    PyTorch has one setting for the process. So threads that want another setting wait for their
    turn, and the last thread to leave restores the former one.
    """
    me, wanted = threading.get_ident(), "tf32" if precision == "tf32" else "ieee"
    if me in _INSIDE:
        yield
        return
    with _TURN:
        _TURN.wait_for(lambda: not _INSIDE or _SETTING[0] == wanted)
        if not _INSIDE:
            _SETTING[:] = wanted, _set(wanted)
        _INSIDE.add(me)
    try:
        yield
    finally:
        with _TURN:
            _INSIDE.remove(me)
            if not _INSIDE:
                _SETTING[1]()
                _TURN.notify_all()


def _set(wanted: str) -> Callable[[], None]:
    """Sets the arithmetic of products; returns the function that restores the former one."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):  # before PyTorch 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if wanted == "tf32" else "highest")
        return lambda: torch.set_float32_matmul_precision(before)
    places = [(matmul, wanted), (torch.backends.mkldnn.matmul, "ieee")]  # pyright: ignore
    found = [(place, place.fp32_precision) for place, _ in places]
    for place, value in places:
        place.fp32_precision = value

    def restore() -> None:
        for place, value in found:
            place.fp32_precision = "none"  # leaves the choice to the setting for all backends
            if place.fp32_precision != value:
                place.fp32_precision = value

    return restore


def flush_denormals(mu: Array) -> Array:
    """mu (P,), with denormal numbers replaced by 0, in place; `numpy/updates.py` says why."""
    return torch.ops.aten.hardshrink.out(mu, torch.finfo(mu.dtype).tiny, out=mu)


def take_minibatch(
    X: Array, Y: Array, weights: Array | None, index: Array, dtype: Any
) -> tuple[Array, Array, Array | None]:
    """Twin of `minibatch.minibatch`."""
    return (
        X.index_select(0, index).to(dtype),
        Y.index_select(0, index),
        None if weights is None else of_networks(weights.index_select(0, index)),
    )
