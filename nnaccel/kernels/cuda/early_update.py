"""The update of weights whose gradient is done, beside the products of the layers below.

In a captured graph it is a branch of its own: an update is bound by memory and products by
arithmetic, so a device may do both in the time of the longer one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from nnaccel.kernels.cuda import fusions
from nnaccel.kernels.cuda.bfloat16 import Bfloat16Copies
from nnaccel.kernels.cuda.capture import Branch
from nnaccel.kernels.cuda.cublaslt import address
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.typing import Array

LEAST = 2**16  # weights of a part; fewer are not worth a node of a graph
ALIGNED = 8  # numbers of which a part has to be a multiple: 16 bytes in bfloat16


class EarlyUpdate:
    """A step says how it will end. A dense layer says when nothing reads its weights any more, and
    they may be updated. The update then leaves out what is done.

    Weights are updated from the last layer on, so that those are one part of the vector.
    launch_of: as `OptimizerKernels._launch_of`.   expected: the rule with its vectors and numbers,
    between `expect` and `join`; None where nothing is updated early.
    """

    def __init__(
        self, buffers: DeviceBuffers, copies: Bfloat16Copies, launch_of: Callable[..., Any]
    ) -> None:
        self._buffers, self._copies, self._launch_of = buffers, copies, launch_of
        self._branch = Branch()
        self.forget()

    def forget(self) -> None:
        """Nothing is updated before a step ends."""
        self.expected: tuple[Callable, Array, Sequence[Array], tuple] | None = None
        self._ready = self._done = self._n_weights = 0  # the first weight that may be, or has been
        self._branch.forget()

    def expect(
        self,
        rule: Callable,
        params: Array,
        slots: Sequence[Array],
        numbers: tuple,
        n_weights: int,
    ) -> None:
        """A step has begun that ends with this rule alone, for the gradient as the layers leave it.
        Several networks, whose weights are no one part of the vector, are left to its end."""
        self.forget()
        if fusions.UPDATE_BESIDE and params.ndim == 1 and n_weights % ALIGNED == 0:
            self.expected = rule, params, slots, numbers
            self._ready = self._done = self._n_weights = n_weights

    def weights_done(self, W: Array) -> None:
        """The gradient of these weights is in its place, and nothing reads them any more."""
        if self.expected is None:
            return
        rule, params, slots, numbers = self.expected
        begin = (address(W) - address(params)) // params.itemsize
        if begin + W.size != self._ready:
            return  # what is between them waits for the end of the step, and so do these
        self._ready, part = begin, slice(begin, self._done)
        if begin % ALIGNED or self._done - begin < LEAST:
            return
        copy = self._copies.begin_update(params, whole=True)
        vectors = [x[part] for x in (params, self._buffers.gradient, *slots)]
        launch = self._launch_of(rule, vectors, numbers, None if copy is None else copy[part])
        if launch is None:
            self.expected = None
            return
        with self._branch.fork():
            launch()
        self._done = begin

    def join(self) -> tuple[int, int]:
        """The update comes now: where the weights begin that have been updated, and how many they
        are. What follows waits for them."""
        done = self._done, self._n_weights - self._done
        self._branch.join()
        self.forget()
        return done
