"""Copies in bfloat16 of the factors of products.

NumPy has no such type: an array of 16-bit integers, of type BF16, holds the bits.
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
    """The bfloat16 copies of a run with "bf16" products; in other precisions there are none.

    The copy of the parameters lives as long as they do: the update writes both. That of the
    minibatch lives until the next one, those of activations and gradients for a pass through the
    network. Between two dense layers A is in bfloat16 alone, and in float32 beside it where the
    derivative reads more than its sign; so is the minibatch before one.   enabled: whether the
    products are of bfloat16.   network: of the run, where that is known.
    """

    def __init__(
        self, buffers: DeviceBuffers, *, enabled: bool, network: Network | None = None
    ) -> None:
        self._buffers, self.enabled = buffers, enabled
        self._dense_first = network is not None and type(network.layers[0]) is Dense
        # Arrays of this pass and their copies, by the id of the array, which is kept here lest
        # another one gets that id. An array that is in bfloat16 alone is its own copy.
        self._copies: dict[int, tuple[Array, Array]] = {}
        self._minibatch: tuple[Array, Array] | None = None
        self._params: Array | None = None  # the copy of the parameters
        self._weights: dict[int, Array] = {}  # id(W) -> its part of that copy
        self._up_to_date = False  # whether it is what the parameters are now

    def begin_epoch(self, params: Array) -> None:
        """The parameters may have been changed in place since the last epoch."""
        self._up_to_date = self._params is not None and self._buffers.has_views_of(params)
        if self._up_to_date:
            self.round(params, self._params)

    def begin_pass(self, params: Array, places: Layout, tree: Any, *, known: bool) -> None:
        """A pass through the network with these parameters, and their views.   known: whether the
        last pass had the same ones."""
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
        """The copy that an update of these parameters must write too.   whole: whether it can: a
        partial update leaves the copy behind."""
        copy = self._params if whole and self._buffers.has_views_of(params) else None
        self._up_to_date = copy is not None
        return copy

    def round(self, X: Array, copy: Array) -> None:
        """copy = X in bfloat16."""
        X = cupy.ascontiguousarray(X)
        launch = kernel("to_bf16", TYPES[X.dtype.name])
        launch(*vector_grid(X.size, X.itemsize), (X, copy, X.size))

    def rounds(self, x: Array) -> bool:
        """Whether x, an array of floating numbers, is bfloat16 as a factor."""
        return self.enabled and x.dtype == np.float32

    def are_factors(self, X: Array, W: Array) -> bool:
        """Whether X can be multiplied with W as it is: of its type, or a copy that was made here.
        Other arrays of 16-bit integers hold integers."""
        if X.dtype == W.dtype:
            return W.dtype.name in TYPES
        return X.dtype == BF16 and id(X) in self._copies and self.rounds(W)

    def factor(self, x: Array) -> Array:
        """An array as products take it: itself, or its copy in bfloat16."""
        if not self.enabled or x.dtype == np.float64:
            return x
        if id(x) in self._weights:
            return self._weights[id(x)]
        if id(x) not in self._copies:
            self.round(x, self.beside(x))
        return self._copies[id(x)][1]

    def beside(self, x: Array) -> Array | None:
        """Where a kernel that makes x, a factor, writes its copy; None without one."""
        if not self.rounds(x):
            return None
        copy = self._buffers.empty(x.shape, BF16)
        self._copies[id(x)] = x, copy
        return copy

    def minibatch(self, shape: tuple[int, ...], dtype: Any) -> tuple[Array | None, Array | None]:
        """Where the examples of a minibatch are written: as they are, and in bfloat16; None where
        nobody reads them so."""
        if not (self.enabled and dtype == np.float32):
            return self._buffers.named("X", shape, dtype), None
        copy = self._buffers.named("X in bfloat16", shape, BF16)
        X = None if self._dense_first else self._buffers.named("X", shape, dtype)
        self._minibatch = copy if X is None else X, copy
        return X, copy

    def alone(self, like: Array) -> Array | None:
        """Where a kernel writes what only products read, in place of an array like this one; None
        where products read float32 or float64."""
        if not self.rounds(like):
            return None
        copy = self._buffers.empty(like.shape, BF16)
        self._copies[id(copy)] = copy, copy
        return copy


def widened(x: Array) -> Array:
    """An array of bfloat16 in float32."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == BF16 else x
