"""The backend of CuPy: an epoch in one launch, CUDA graphs, or one launch per kernel."""

from dataclasses import dataclass
from typing import ClassVar

from nnaccel.kernels import epoch
from nnaccel.kernels.definition import (
    BareProduct,
    Definition,
    FusedEpoch,
    NotSupported,
    Refused,
    Run,
    offer,
)
from nnaccel.kernels.optimizer_trace import Count
from nnaccel.ops import Ops


@dataclass(frozen=True)
class CuPyBackend(Definition):
    """The backend of CuPy, which its methods import when they are called.

    graphs: whether to replay CUDA graphs rather than launch each kernel.
    """

    overwrites: ClassVar[bool] = True

    graphs: bool = True

    def operations(self, precision: str = "float32") -> Ops:
        from nnaccel.kernels.cuda.workspace import kernels

        Definition.operations(self, precision)  # checks the precision
        return Ops(self.xp, kernels(self.xp, precision), "kernels of CUDA")

    def bare_product(self, precision: str = "float32") -> BareProduct:
        from nnaccel.kernels.cuda.capture import replayed
        from nnaccel.kernels.cuda.workspace import Workspace

        space = Workspace(self.xp, precision)
        return BareProduct(space.products.matmul, space.copies.factor, replayed)

    def fused_epochs(self, run: Run, ops: Ops) -> list[FusedEpoch | Refused]:
        from nnaccel.kernels.cuda import small_network

        count = Count()  # shared, so that the host has the step count whichever epoch ran last
        return [
            offer("one launch an epoch", small_network.one_launch_epoch, run, self.xp),
            offer("CUDA graphs", self._graph_epoch, run, count),
            offer("steps", epoch.traced_epoch, run, ops, self.xp.stack, count),
        ]

    def _graph_epoch(self, run: Run, count: Count) -> FusedEpoch:
        if not self.graphs:
            raise NotSupported("they are left out")
        from nnaccel.kernels.cuda.graphs import graph_epoch

        return graph_epoch(run, self.xp, count)
