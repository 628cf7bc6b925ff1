"""Bfloat16 copies of the factors of matrix products.

NumPy has no bfloat16: an array of 16-bit unsigned integers, of dtype BF16, holds the bits.
"""

from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.launch import kernel, vector_grid
from nnaccel.kernels.cuda.signatures import TYPES
from nnaccel.kernels.gradient_buffers import gradient_homes
from nnaccel.maths.layers import Dense
from nnaccel.maths.network import Layout, Network, views
from nnaccel.typing import Array

BF16 = np.dtype(np.uint16)


class Bfloat16Copies:
    """The bfloat16 copies of a run with "bf16" products; other precisions have no copies.

    The copy of the parameters lives as long as the parameters, and the update writes both. The
    copy of a minibatch lives until the next minibatch. The copies of activations and gradients
    live for one pass through the network. Between two dense layers A is stored in bfloat16, and in
    float32 too only where the derivative reads more than the sign of A. The minibatch is stored in
    bfloat16 alone if the first layer is known to be dense.
    enabled: whether products have bfloat16 factors.   network: of the run, if it is known.
    """

    def __init__(
        self, buffers: DeviceBuffers, *, enabled: bool, network: Network | None = None
    ) -> None:
        self._buffers, self.enabled = buffers, enabled
        self._dense_first = network is not None and type(network.layers[0]) is Dense
        # id(x) -> (x, its copy), for the arrays of this pass. Keeping x alive here prevents a new
        # array from reusing its id. An array that exists in bfloat16 alone is its own copy.
        self._copies: dict[int, tuple[Array, Array]] = {}
        self._minibatch: tuple[Array, Array] | None = None
        self._params: Array | None = None  # the copy of the parameters
        self._weights: dict[int, Array] = {}  # id(W) -> the part of that copy for W
        self._up_to_date = False  # whether that copy equals the parameters, rounded

    def begin_epoch(self, params: Array) -> None:
        """Rounds the parameters again, since the caller may have changed them in place."""
        self._up_to_date = self._params is not None and self._buffers.has_views_of(params)
        if self._up_to_date:
            self.round(params, self._params)

    def begin_pass(self, params: Array, places: Layout, tree: Any, *, known: bool) -> None:
        """Starts a pass through the network; rounds the parameters if the copy is out of date.

        params: (P,), or (K, P) for K networks.   tree: the views of params, by `places`.
        known: whether the last pass had the same parameters.
        """
        if not self.enabled:
            return
        kept = self._minibatch
        self._copies = {} if kept is None else {id(kept[0]): kept}
        if not known:
            self._params, self._weights = None, {}
            if params.dtype == np.float32:
                self._params = self._buffers.named("copy", params.shape, BF16)
                parts = views(self._params, places, xp=cupy)
                self._weights = {W: part[0] for W, part in gradient_homes(tree, parts)}
        if self._params is not None and not (known and self._up_to_date):
            self.round(params, self._params)
        self._up_to_date = False  # until an update writes the copy too

    def begin_update(self, params: Array, *, whole: bool) -> Array | None:
        """The bfloat16 copy that an update of params must also write, or None.

        whole: whether the update can write the copy. Otherwise the copy is out of date afterwards.
        """
        copy = self._params if whole and self._buffers.has_views_of(params) else None
        self._up_to_date = copy is not None
        return copy

    def round(self, X: Array, copy: Array) -> None:
        """copy = X, rounded to bfloat16.   copy: an array of X's shape, of dtype BF16."""
        X = cupy.ascontiguousarray(X)
        launch = kernel("to_bf16", TYPES[X.dtype.name])
        launch(*vector_grid(X.size, X.itemsize), (X, copy, X.size))

    def rounds(self, x: Array) -> bool:
        """Whether products read the floating-point array x as bfloat16."""
        return self.enabled and x.dtype == np.float32

    def are_factors(self, X: Array, W: Array) -> bool:
        """Whether the kernels can multiply X with W: X has W's dtype, or is a bfloat16 array that
        this object has made. Other arrays of 16-bit integers hold integers."""
        if X.dtype == W.dtype:
            return W.dtype.name in TYPES
        return X.dtype == BF16 and id(X) in self._copies and self.rounds(W)

    def factor(self, x: Array) -> Array:
        """The array that products read for x: x itself, or its bfloat16 copy, made here if new."""
        if not self.enabled or x.dtype == np.float64:
            return x
        if id(x) in self._weights:
            return self._weights[id(x)]
        if id(x) not in self._copies:
            self.round(x, self.beside(x))
        return self._copies[id(x)][1]

    def beside(self, x: Array) -> Array | None:
        """The bfloat16 array into which the kernel that computes the factor x also writes x; None
        where products read x itself."""
        if not self.rounds(x):
            return None
        copy = self._buffers.empty(x.shape, BF16)
        self._copies[id(x)] = x, copy
        return copy

    def minibatch(self, shape: tuple[int, ...], dtype: Any) -> tuple[Array | None, Array | None]:
        """The two arrays for the examples of a minibatch: one in dtype, one in bfloat16. An array
        that no operation reads is None."""
        if not (self.enabled and dtype == np.float32):
            return self._buffers.named("X", shape, dtype), None
        copy = self._buffers.named("X in bfloat16", shape, BF16)
        X = None if self._dense_first else self._buffers.named("X", shape, dtype)
        self._minibatch = copy if X is None else X, copy
        return X, copy

    def alone(self, like: Array) -> Array | None:
        """A new bfloat16 array of the shape of `like`, for values that only products read; None
        where products read float32 or float64."""
        if not self.rounds(like):
            return None
        copy = self._buffers.empty(like.shape, BF16)
        self._copies[id(copy)] = copy, copy
        return copy


def widened(x: Array) -> Array:
    """x in float32 if it holds bfloat16, else x itself."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == BF16 else x
