"""The early update of weights whose gradient is ready, during the products of the layers below.

In a captured graph the early update is a second branch. An update is memory-bound and large
products are compute-bound, so a device may do both in the time of the longer one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from nnaccel.kernels.cuda import fusions
from nnaccel.kernels.cuda.bfloat16 import Bfloat16Copies
from nnaccel.kernels.cuda.capture import Branch
from nnaccel.kernels.cuda.cublaslt import address
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.typing import Array

LEAST = 2**16  # fewest weights of an early update; fewer are not worth a node of a graph
ALIGNED = 8  # a part begins at a multiple of this number of elements: 16 bytes in bfloat16


class EarlyUpdate:
    """Updates weights before the end of the step, from the last layer to the first.

    `expect` announces the update that ends the step. A dense layer calls `weights_done` when
    nothing reads its weights any more. The update at the end of the step skips the updated weights,
    which are one slice of the vector since the layers come in backward order.
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
        """Drops the announced update: nothing is updated before the step ends."""
        self.expected: tuple[Callable, Array, Sequence[Array], tuple] | None = None
        # Weights from _ready on may be updated; weights from _done on have been updated.
        self._ready = self._done = self._n_weights = 0
        self._branch.forget()

    def expect(
        self,
        rule: Callable,
        params: Array,
        slots: Sequence[Array],
        numbers: tuple,
        n_weights: int,
    ) -> None:
        """Announces that the step ends with one update by `rule`, of an unchanged gradient.

        params, slots: (P,) vectors.   numbers: the rule's numbers.   n_weights: the leading entries
        of params that are weights. Several networks are updated at the end of the step only, since
        the weights of a layer are not one slice of their vectors.
        """
        self.forget()
        if fusions.UPDATE_BESIDE and params.ndim == 1 and n_weights % ALIGNED == 0:
            self.expected = rule, params, slots, numbers
            self._ready = self._done = self._n_weights = n_weights

    def weights_done(self, W: Array) -> None:
        """Updates W, now or in a later call: its gradient is in the gradient vector, and nothing
        reads W again in this step."""
        if self.expected is None:
            return
        rule, params, slots, numbers = self.expected
        begin = (address(W) - address(params)) // params.itemsize
        if begin + W.size != self._ready:
            return  # the weights in between are updated at the end of the step, and so is W
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
        """Ends the early updates: returns the index of the first updated weight and the number of
        updated weights. Later launches wait for these updates."""
        done = self._done, self._n_weights - self._done
        self._branch.join()
        self.forget()
        return done
