"""Buffers and gradient views, for libraries that can write results into a given array.

Gradients are written into views of one flat vector. The first parameter array of a layer identifies
its gradients, since both are views at the same place of their vectors. All other results go into
buffers that are allocated once.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from nnaccel.maths.network import Layout, views
from nnaccel.typing import Array


class Buffers:
    """The memory of one training run, in arrays of NumPy or CuPy. For PyTorch, the gradients alone.

    A step requests its buffers in the same order each time, so the n-th request gets the n-th
    buffer. `views` precedes every pass through the network and resets the count. The buffers of a
    minibatch have names instead.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._memory: dict[Any, Array] = {}  # place -> bytes
        self._shaped: dict[Any, Array] = {}  # (place, shape, dtype) -> a view of these bytes
        self._next = 0
        self._params: Array | None = None
        self._tree: Any = ()
        self._grads: Any = None
        self._grad_tree: Any = ()
        self._homes: dict[int, Any] = {}  # id(W) -> (dW, db), parts of the gradient vector

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array, valid until the same request of the next step."""
        place, self._next = self._next, self._next + 1
        return self._buffer(place, shape, dtype)

    def _buffer(self, place: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        """The array of a place. A last, shorter minibatch shares the memory of the others."""
        view = self._shaped.get((place, shape, dtype))
        if view is None:
            size = prod(shape) * np.dtype(dtype).itemsize
            if place not in self._memory or self._memory[place].size < size:
                self._memory[place] = self._library.empty(size, np.uint8)
                self._shaped = {k: v for k, v in self._shaped.items() if k[0] != place}
            view = self._memory[place][:size].view(dtype).reshape(shape)
            self._shaped[place, shape, dtype] = view
        return view

    def memory(self) -> list[Array]:
        """All memory that is allocated so far, for CUDA graphs, which refer to it by its addresses
        alone."""
        return [*self._memory.values(), *([] if self._grads is None else [self._grads])]

    def views(self, params: Array, places: Layout) -> Any:
        """Twin of `network.views`: params (P,) or (K, P) as a tree of arrays. It also allocates the
        gradient vector and maps each W to its dW."""
        self._next = 0
        if params is not self._params:
            self._params, self._tree = params, views(params, places, xp=self._library)
            grads = self._grads
            if grads is None or grads.shape != params.shape or grads.dtype != params.dtype:
                self._grads = self._library.empty_like(params)
            self._grad_tree = views(self._grads, places, xp=self._library)
            self._homes = dict(gradient_homes(self._tree, self._grad_tree))
        return self._tree

    def flatten(self, arrays: Any, places: Layout) -> Array:
        """Twin of `network.flatten` for gradients: the vector (P,) or (K, P). It copies only arrays
        that are not in their place yet."""
        copy_into_views(arrays, self._grad_tree)
        return self._grads


def gradient_homes(tree: Any, grads: Any) -> Iterator[tuple[int, Any]]:
    """Yields (id of the first array, gradients) for each layer in a tree of parameters."""
    if tree and not isinstance(tree[0], tuple):
        yield id(tree[0]), grads
    else:
        for branch, its_grads in zip(tree, grads, strict=True):
            yield from gradient_homes(branch, its_grads)


def copy_into_views(arrays: Any, gradient_homes: Any) -> None:
    """Copies the arrays of a tree into those of another tree, except arrays that are in both."""
    for array, home in zip(arrays, gradient_homes, strict=True):
        if isinstance(array, tuple):
            copy_into_views(array, home)
        elif array is not home:
            home[...] = array
