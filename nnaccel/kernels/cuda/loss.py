"""The loss and the L2 penalty on a device, each in one launch."""

from collections.abc import Callable
from math import prod
from typing import Any

import cupy

from nnaccel.kernels.cuda import fusions
from nnaccel.kernels.cuda.ahead import Ahead
from nnaccel.kernels.cuda.bfloat16 import BF16, Bfloat16Copies
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.launch import (
    BLOCKS,
    are_contiguous,
    gap,
    kernel,
    pointer,
    vector_grid,
)
from nnaccel.kernels.cuda.signatures import BFLOAT16, HELD, INTEGERS, LANES, THREADS, TYPES
from nnaccel.maths.losses import softmax_cross_entropy
from nnaccel.maths.network import l2_penalty
from nnaccel.typing import Array, Namespace

FEW_BLOCKS = 128  # most blocks of a launch whose partial sums one block adds up one by one


class LossKernels:
    """Softmax cross-entropy of class numbers, alone or with the output layer, and the L2 penalty.

    The definition computes other losses, and arrays that a kernel does not support.
    """

    def __init__(
        self,
        xp: Namespace,
        precision: str,
        buffers: DeviceBuffers,
        copies: Bfloat16Copies,
        ahead: Ahead,
    ) -> None:
        self._xp, self._tf32 = xp, precision == "tf32"
        self._buffers, self._copies, self._ahead = buffers, copies, ahead

    def kernels(self) -> dict[Callable, Callable]:
        return {
            softmax_cross_entropy: self.softmax_cross_entropy,
            l2_penalty: self.l2_penalty,
        }

    def softmax_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None = None, label_smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """Twin of `losses.softmax_cross_entropy`, for class numbers that all networks share.

        Z: (..., N, K).   Y: (N,).   weights: (N,) or (..., N).
        Returns loss (...) in nats and dZ (..., N, K), already divided by N.
        With at most LANES classes the kernel also writes db of the output layer, if that layer has
        announced it. If the output layer has computed the loss of Z already, nothing is launched;
        see `Ahead`.
        """
        if label_smoothing or not takes(Z, Y, weights):
            return softmax_cross_entropy(
                Z, Y, weights, xp=self._xp, label_smoothing=label_smoothing
            )
        if (known := self._ahead.loss_of(Z, Y, weights)) is not None:
            return known
        (*lead, N, K), dtype = Z.shape, Z.dtype
        value, dZ, copy = cupy.empty(tuple(lead), dtype), self._buffers.empty(Z.shape, dtype), None
        networks = prod(lead)
        if LANES < K <= THREADS * HELD // dtype.itemsize:
            self._wide_cross_entropy(Z, Y, weights, value, dZ)
            return value, dZ
        db = self._ahead.db_for(Z) if K <= LANES else None
        if db is not None:
            self._ahead.found(dZ, db)
            copy = self._copies.beside(dZ)
        lanes = min(LANES, 1 << (K - 1).bit_length())
        blocks = min(FEW_BLOCKS if K <= LANES else BLOCKS, -(-N * lanes // THREADS))
        n_sums = networks * blocks * (LANES + 1)
        partials, counter = self._buffers.partial_sums(n_sums, dtype, networks)
        args = (
            Z, Y, INTEGERS[Y.dtype.name], *weights_of(weights), value, dZ, pointer(copy),
            pointer(db), gap(db), N, K, lanes, partials, counter,
        )  # fmt: skip
        launch = kernel("softmax_cross_entropy", TYPES[dtype.name])
        launch((blocks, 1, networks), (THREADS,), args)
        return value, dZ

    def _wide_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None, value: Array, dZ: Array
    ) -> None:
        """Writes the loss into value (...) and the gradient into dZ (..., N, K), for more than
        LANES classes: one or more warps share a row."""
        *lead, N, K = Z.shape
        networks = prod(lead)
        width = max(LANES, 1 << (-(-K * Z.itemsize // HELD) - 1).bit_length())
        blocks = min(BLOCKS, -(-N * width // THREADS))
        partials, counter = self._buffers.partial_sums(networks * blocks, Z.dtype, networks)
        args = (
            Z, Y, INTEGERS[Y.dtype.name], *weights_of(weights), value, dZ, N, K, width,
            partials, counter,
        )  # fmt: skip
        launch = kernel("wide_cross_entropy", TYPES[Z.dtype.name])
        launch((blocks, 1, networks), (THREADS,), args)

    def with_output_layer(self, x: Array, w: Array, b: Array, Z: Array, W: Array) -> bool:
        """Computes Z = x w + b of the output layer, the loss of Z, dZ and db in one launch.

        x: (..., N, D) and w: (..., D, K), the factors of the product, K <= LANES.   b: (..., 1, K).
        Z: (..., N, K), overwritten.   W: the weights as a view of the parameters.
        Returns False, without a launch, if W is not the output layer's or the targets of the pass
        are not known or not supported.
        """
        targets = self._ahead.targets_for(W) if fusions.NARROW_LOSS else None
        if targets is None or not takes(Z, *targets) or targets[0].shape[0] != Z.shape[-2]:
            return False
        (Y, weights), (*lead, N, K), dtype = targets, Z.shape, Z.dtype
        value, dZ = cupy.empty(tuple(lead), dtype), self._buffers.empty(Z.shape, dtype)
        db, copy, networks = self._buffers.gradients_of(W)[1], self._copies.beside(dZ), prod(lead)
        rows = THREADS // LANES
        blocks = min(FEW_BLOCKS, -(-N // rows))
        partials, counter = self._buffers.partial_sums(
            2 * LANES * networks * blocks, dtype, networks
        )
        args = (
            x, gap(x), w, gap(w), b, gap(b), int(self._tf32), Y, INTEGERS[Y.dtype.name],
            *weights_of(weights), Z, value, dZ, pointer(copy), pointer(db), gap(db),
            N, x.shape[-1], K, partials, counter,
        )  # fmt: skip
        types = TYPES[dtype.name], BFLOAT16 if x.dtype == BF16 else TYPES[dtype.name]
        launch = kernel("dense_cross_entropy", *types)
        launch((blocks, 1, networks), (LANES, rows), args)
        self._ahead.announce_loss((Z, Y, weights), (value, dZ))
        if db is not None:
            self._ahead.found(dZ, db)
        return True

    def l2_penalty(
        self, value: Array, grads: Array, params: Array, l2: Any, n_weights: int
    ) -> tuple[Array, Array]:
        """Twin of `network.l2_penalty`: adds the penalty to value (...), and its gradient to grads
        (P,) or (K, P), in place."""
        value = cupy.asarray(value)
        fits = params.ndim in (1, 2) and params.size and are_contiguous(params, grads, value)
        if isinstance(l2, tuple) or not fits:
            return l2_penalty(value, grads, params, l2, n_weights, xp=self._xp)
        (*lead, P), (grid, block) = params.shape, vector_grid(n_weights, params.itemsize)
        networks = prod(lead)
        partials, counter = self._buffers.partial_sums(networks * grid[0], params.dtype, networks)
        args = (value, grads, params, n_weights, P, float(l2), partials, counter)
        kernel("l2_penalty", TYPES[params.dtype.name])((*grid, 1, networks), block, args)
        return value, grads


def takes(Z: Array, Y: Array, weights: Array | None) -> bool:
    """Whether the kernels support these logits, class numbers and weights."""
    return (
        Z.ndim in (2, 3)
        and Z.size > 0
        and Y.ndim == 1
        and Y.dtype.name in INTEGERS
        and Y.flags.c_contiguous
        and are_contiguous(Z)
        and (weights is None or (weights.ndim < Z.ndim and weights.dtype == Z.dtype))
    )


def weights_of(weights: Array | None) -> tuple[Any, int, int]:
    """The example weights (N,) or (networks, N) as kernel arguments: the array, its stride from
    example to example, and its stride from network to network, in elements."""
    if weights is None:
        return 0, 0, 0
    *network, example = (step // weights.itemsize for step in weights.strides)
    return weights, example, network[0] if network else 0
