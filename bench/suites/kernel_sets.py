"""Sets of kernels, each switched on alone, to measure the time that a set saves in a step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from nnaccel.kernels.backend import Backend, backend_of
from nnaccel.kernels.cuda.backend import CuPyBackend
from nnaccel.kernels.definition import Definition, Epoch, FusedEpoch, Run
from nnaccel.kernels.epoch import traced_epoch
from nnaccel.kernels.numpy.backend import NumPyBackend
from nnaccel.ops import Ops
from nnaccel.typing import Namespace

BuildEpoch = Callable[[Run, Ops], FusedEpoch]


def steps(run: Run, ops: Ops) -> FusedEpoch:
    return traced_epoch(run, ops, np.array)


def call_list(run: Run, ops: Ops) -> FusedEpoch:
    from nnaccel.kernels.numpy.call_list import call_list_epoch

    return call_list_epoch(run)


def compiled(run: Run, ops: Ops) -> FusedEpoch:
    from nnaccel.kernels.numba.epoch import compiled_epoch

    return compiled_epoch(run)


@dataclass(frozen=True)
class Alone(NumPyBackend):
    """The kernels of one module, and one fused epoch."""

    kernels: str = ""  # the module
    fused: BuildEpoch = steps

    def operations(self, precision: str = "float32") -> Ops:
        return Ops(self.xp, import_module(self.kernels).kernels(), self.kernels)

    def compile_epoch(
        self, make_step: Callable[[Run], Any], run: Run, ops: Ops
    ) -> Callable[[int], Epoch]:
        """Raises NotSupported if the fused epoch does not support the run."""
        fused = self.fused(run, ops)
        return lambda seed: fused.run


NUMPY, NUMBA = "nnaccel.kernels.numpy.workspace", "nnaccel.kernels.numba.elementwise"


def jax_with(
    operations: Callable[[Namespace], Ops], context: Callable[[], AbstractContextManager[Any]]
) -> Callable[[Namespace], Backend]:
    """JAX's backend with other operations, and a context in which its epochs are traced."""

    def build(xp: Namespace) -> Backend:
        from nnaccel.kernels.jax import JAXBackend

        class Changed(JAXBackend):
            def operations(self, precision: str = "float32") -> Ops:
                return operations(self.xp)

            def compile_epoch(
                self, make_step: Callable[[Run], Any], run: Run, ops: Ops
            ) -> Callable[[int], Epoch]:
                epoch_of = super().compile_epoch(make_step, run, ops)

                def traced(seed: int) -> Epoch:
                    epoch = epoch_of(seed)

                    def epoch_in_context(*args: Any) -> Any:
                        with context():
                            return epoch(*args)

                    return epoch_in_context

                return traced

            def once(self, build: Callable[..., Any], *key: Any) -> Any:
                return build(*key)

        return Changed(xp)

    return build


def unscheduled() -> AbstractContextManager[Any]:
    """JAX's kernels without the conditions that order XLA's operations."""
    import jax.numpy as jnp

    from nnaccel.kernels import jax

    return mock.patch.object(jax, "never", lambda x: jnp.zeros_like(x, dtype=bool))


class KernelSet(NamedTuple):
    """A set of kernels: the device that it is for, and its backend."""

    library: str
    backend: Callable[[Namespace], Backend]


def all_of(xp: Namespace) -> Ops:
    return backend_of(xp).operations()


KERNEL_SETS = {
    "numpy definition": KernelSet("cpu", Definition),
    "numpy workspace": KernelSet("cpu", lambda xp: Alone(xp, kernels=NUMPY, fused=steps)),
    "numpy call list": KernelSet("cpu", lambda xp: Alone(xp, kernels=NUMPY, fused=call_list)),
    "numba elementwise": KernelSet("cpu", lambda xp: Alone(xp, kernels=NUMBA, fused=steps)),
    "numba epoch": KernelSet("cpu", lambda xp: Alone(xp, kernels=NUMBA, fused=compiled)),
    "torch definition": KernelSet("torch:cpu", lambda xp: backend_of(xp, False)),
    "torch kernels": KernelSet("torch:cpu", backend_of),
    "jax definition": KernelSet("jax:cpu", jax_with(Ops, nullcontext)),
    "jax unscheduled": KernelSet("jax:cpu", jax_with(all_of, unscheduled)),
    "jax kernels": KernelSet("jax:cpu", backend_of),
    "cupy definition": KernelSet("cuda", lambda xp: backend_of(xp, False)),
    "cupy kernels": KernelSet("cuda", lambda xp: CuPyBackend(xp, graphs=False)),
    "cupy graphs": KernelSet("cuda", backend_of),
}


def backend_for(xp: Namespace, kernels: str) -> Backend:
    """The backend for the kernels of a `race.Backend`: "all", "numpy", or a set of KERNEL_SETS."""
    if kernels in ("all", "numpy"):
        return backend_of(xp, kernels == "all" or "numpy")
    return KERNEL_SETS[kernels].backend(xp)
