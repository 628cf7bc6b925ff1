"""NumPy's backend: the kernels of Numba where it is installed, NumPy's own, and a limit on BLAS
threads."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

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
from nnaccel.kernels.numpy import blas_threads, call_list, workspace
from nnaccel.maths.layers import PiecewiseLinear
from nnaccel.maths.network import Network, layout
from nnaccel.ops import Ops

PRODUCT = 4e-11  # seconds of the first layer's products, per row, bin and unit
LOADING = 0.5  # seconds to load Numba and its compiled code from the disk, with a margin


@cache
def has_numba() -> bool:
    """Whether Numba is installed. Cached, since it searches the whole path."""
    return find_spec("numba") is not None


@dataclass(frozen=True)
class NumPyBackend(Definition):
    """The backend of NumPy's arrays.   numba: whether to use Numba's kernels where it is
    installed."""

    # Temporaries of a block stay in the cache, and its products keep all threads of the BLAS busy.
    prediction_rows: ClassVar[int] = 4096
    overwrites: ClassVar[bool] = True

    numba: bool = True

    def operations(self, precision: str = "float32") -> Ops:
        Definition.operations(self, precision)  # which checks the precision
        if self._has_numba():
            try:
                from nnaccel.kernels.numba.elementwise import kernels

                return Ops(self.xp, kernels(precision), "kernels of Numba")
            except ImportError:  # raised by a Numba that does not support this NumPy
                pass
        return Ops(self.xp, workspace.kernels(precision), "kernels of NumPy")

    def bare_product(self, precision: str = "float32") -> BareProduct:
        return BareProduct(np.matmul, lambda x: x)

    def fused_epochs(self, run: Run, ops: Ops) -> list[FusedEpoch | Refused]:
        of_one_network = [
            offer("a list of calls", call_list.call_list_epoch, run),
            offer("steps", epoch.traced_epoch, run, ops, np.array),
        ]
        return [
            offer("Numba", self._compiled_epoch, run),
            *(
                FusedEpoch(fused.name, epoch.network_by_network(fused.run, run.network))
                if isinstance(fused, FusedEpoch)
                else fused
                for fused in of_one_network
            ),
        ]

    def context(
        self, network: Network, batch_size: int, precision: str = "float32"
    ) -> AbstractContextManager[Any]:
        """One BLAS thread where all products are small."""
        small = blas_threads.one_is_enough(network, batch_size)
        return blas_threads.one_thread() if small else nullcontext()

    @contextmanager
    def team(self) -> Iterator[int]:
        """As many threads as the BLAS has, each with a BLAS of one thread."""
        with blas_threads.one_thread() as threads:
            yield max(1, threads)

    def repays_loading(self, run: Run, n_steps: int) -> bool:
        """Whether n_steps steps save more time with Numba than loading it takes.

        Per step it saves about 40 microseconds of calls, or 6 compared with the list of calls. It
        also saves passes through memory, 0.7 nanoseconds for each parameter and for each unit of an
        example. After a piecewise linear encoding it saves the products with bins.
        """
        few_calls = isinstance(offer("", call_list.call_list_epoch, run), FusedEpoch)
        widths = [run.network.n_inputs]
        for layer in run.network.layers:
            widths.append(layer.width(widths[-1]))
        elements = layout(run.network).size + run.batch_size * sum(widths[1:])
        first, seconds = run.network.layers[0], 6e-6 if few_calls else 40e-6
        if isinstance(first, PiecewiseLinear) and len(widths) > 2:
            seconds += PRODUCT * run.batch_size * first.n_bins * widths[2]
        return n_steps * (seconds + 0.7e-9 * elements) > LOADING

    def _has_numba(self) -> bool:
        return self.numba and has_numba()

    def _compiled_epoch(self, run: Run) -> FusedEpoch:
        if not self.numba:
            raise NotSupported("left out, since a short run does not repay loading it")
        if not has_numba():
            raise NotSupported("it is not installed")
        from nnaccel.kernels.numba.epoch import compiled_epoch

        return compiled_epoch(run)
