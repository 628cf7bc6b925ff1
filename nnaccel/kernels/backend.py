"""Finds the backend of an array library, which runs networks fastest on its arrays."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar, Protocol

from nnaccel.kernels.definition import BareProduct, Definition, Epoch, FusedEpoch, Refused, Run
from nnaccel.maths.network import Layout, Network
from nnaccel.ops import Ops
from nnaccel.typing import Namespace

# Library -> the module and the class of its backend. Other libraries run the definition.
BACKENDS = {
    "numpy": ("nnaccel.kernels.numpy.backend", "NumPyBackend"),
    "cupy": ("nnaccel.kernels.cuda.backend", "CuPyBackend"),
    "torch": ("nnaccel.kernels.torch", "TorchBackend"),
    "jax.numpy": ("nnaccel.kernels.jax", "JAXBackend"),
}


class Backend(Protocol):
    """How a library runs the maths. `Definition` documents each method."""

    prediction_rows: ClassVar[int]
    takes_slices: ClassVar[bool]
    overwrites: ClassVar[bool]

    @property
    def xp(self) -> Namespace: ...

    def ieee_products(self, precision: str = "float32") -> AbstractContextManager[Any]: ...

    def operations(self, precision: str = "float32") -> Ops: ...

    def bare_product(self, precision: str = "float32") -> BareProduct: ...

    def fused_epochs(self, run: Run, ops: Ops) -> list[FusedEpoch | Refused]: ...

    def explain(self, run: Run) -> str: ...

    def compile_epoch(
        self, make_step: Callable[[Run], Callable[..., Any]], run: Run, ops: Ops
    ) -> Callable[[int], Epoch]: ...

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]: ...

    def once(self, build: Callable[..., Any], *key: Any) -> Any: ...

    def split_params(self, layout: Layout) -> Callable[[Any], Any]: ...

    def context(
        self, network: Network, batch_size: int, precision: str = "float32"
    ) -> AbstractContextManager[Any]: ...

    def team(self) -> AbstractContextManager[int]: ...

    def wait(self, records: Any) -> None: ...

    def repays_loading(self, run: Run, n_steps: int) -> bool: ...


def backend_of(xp: Namespace, kernels: bool | str = True) -> Backend:
    """The backend of an array library.

    kernels: True for all installed kernels; "numpy" for NumPy's own, without Numba; False for the
    definition. The environment variable NNACCEL_KERNELS=0 means False for the whole process.
    ValueError for anything else.
    """
    if not isinstance(kernels, bool) and kernels != "numpy":
        raise ValueError(f'kernels must be True, False or "numpy", got {kernels!r}')
    library = xp.__name__.removeprefix("array_api_compat.")
    if library not in BACKENDS:
        return Definition(xp)
    module, name = BACKENDS[library]
    backend = getattr(import_module(module), name)(xp)
    if not kernels or os.environ.get("NNACCEL_KERNELS") == "0":
        return Definition(xp, backend)
    if kernels == "numpy" and library == "numpy":
        return replace(backend, numba=False)
    return backend
