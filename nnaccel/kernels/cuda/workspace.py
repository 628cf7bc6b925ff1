"""Kernels for CuPy: all operations but the matrix products, in as few launches as possible.

On a GPU a launch costs more than the arithmetic of most elementwise operations, and each temporary
array is written to memory and read again. A kernel of the `.cuh` files does the work of five or ten
launches in one. cuBLASLt computes the matrix products and writes them directly into their output
arrays. These kernels never make the host wait for the device, except for the first product of each
kind, whose algorithms may be timed; see `algorithm_choice.py`.
"""

from collections.abc import Callable
from typing import Any

from nnaccel.kernels.cuda.ahead import Ahead
from nnaccel.kernels.cuda.bfloat16 import Bfloat16Copies
from nnaccel.kernels.cuda.dense import DenseKernels
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.elementwise import ElementwiseKernels
from nnaccel.kernels.cuda.loss import LossKernels
from nnaccel.kernels.cuda.optimizers import OptimizerKernels
from nnaccel.kernels.cuda.products import Products
from nnaccel.kernels.epoch import on_epoch_start
from nnaccel.maths.network import Layout, Network, flatten, views
from nnaccel.typing import Array, Namespace


def kernels(xp: Namespace, precision: str = "float32") -> dict[Callable, Callable]:
    """A new set of kernels, as the entries of an `Ops`.

    xp: the namespace of the definitions.   precision: of the products of float32 matrices,
    "float32", "tf32" or "bf16".
    """
    return Workspace(xp, precision).kernels()


class Workspace:
    """The device memory of one training run, and the kernels that use it.

    precision: of the products of float32 matrices, "float32", "tf32" or "bf16".   network: the only
    network that this workspace trains; None for any network.
    """

    def __init__(
        self, xp: Namespace, precision: str = "float32", network: Network | None = None
    ) -> None:
        self.buffers = buffers = DeviceBuffers()
        self.products = Products(buffers, tf32=precision == "tf32")
        self.copies = Bfloat16Copies(buffers, enabled=precision == "bf16", network=network)
        self.ahead = Ahead()
        self.losses = LossKernels(xp, precision, buffers, self.copies, self.ahead)
        self.optimizers = OptimizerKernels(xp, buffers, self.copies)
        self.dense = DenseKernels(
            xp, precision, buffers, self.products, self.copies,
            self.ahead, self.losses, self.optimizers.early,
        )  # fmt: skip
        self.elementwise = ElementwiseKernels(xp, buffers, self.copies, self.ahead)

    def kernels(self) -> dict[Callable, Callable]:
        """Operation -> kernel, for all operations with a kernel."""
        return {
            on_epoch_start: self.on_epoch_start,
            views: self.views,
            flatten: self.buffers.flatten,
            **self.elementwise.kernels(),
            **self.losses.kernels(),
            **self.dense.kernels(),
            **self.optimizers.kernels(),
        }

    def memory(self) -> list[Array]:
        """All memory that is allocated so far, for CUDA graphs, which refer to it by address."""
        return self.buffers.memory()

    def on_epoch_start(self, params: Array) -> None:
        """Twin of `epoch.on_epoch_start`."""
        self.copies.begin_epoch(params)

    def views(self, params: Array, places: Layout) -> Any:
        """Twin of `network.views`, which starts a pass through the network."""
        known = self.buffers.has_views_of(params)
        tree = self.buffers.views(params, places)
        self.ahead.begin_pass(places.layers, tree, known=known)
        self.copies.begin_pass(params, places, tree, known=known)
        return tree
