"""Explains errors of devices in one line: the cause and the remedy.

    with in_words(where, network, "float32", batch_size=4096):
        ...                     # MemoryError: not enough memory on 'cuda:0' (...): ... would fit

All errors of array libraries about exhausted memory become MemoryError here, and only here.
"""

import gc
import re
import traceback
from typing import Any

from nnaccel.devices.available import host_memory, unusable
from nnaccel.devices.device import Device
from nnaccel.devices.install_hints import first_line
from nnaccel.maths.network import Network, layout
from nnaccel.training.data import RESIDENT, itemsize

# Words in the RuntimeErrors of CuPy, cuBLAS, the driver, JAX and PyTorch.
EXHAUSTED = re.compile(
    "cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED|CUDA_ERROR_OUT_OF_MEMORY"
    "|RESOURCE_EXHAUSTED|DefaultCPUAllocator|CUDA error: out of memory|MPS backend out of memory"
)
OURS = "not enough memory"
SPARE = 0.9  # the share of the free memory that the advice uses


class explain_device_errors:
    """A context that turns errors of a device into MemoryError or RuntimeError with a remedy.

    batch_size, data, members: of a training run, its data in bytes; they determine which batch size
    would fit. The error keeps no array alive that was computed in the context, and memory that the
    library keeps for reuse is freed. So a smaller run may follow at once.
    """

    def __init__(
        self,
        where: Device,
        network: Network,
        dtype: str,
        *,
        batch_size: int | None = None,
        data: int = 0,
        members: int = 1,
    ) -> None:
        self.where = where
        self.network, self.dtype, self.members = network, dtype, members
        self.batch_size, self.data = batch_size, data

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception):
            return
        if is_out_of_memory(error) and not str(error).startswith(OURS):
            # The frames of the traceback hold arrays, so only its text is kept.
            error.add_note("".join(traceback.format_tb(trace)))
            del trace
            error = error.with_traceback(None)
            gc.collect()
            with self.where.context():
                self.where.give_back()
            free = self.where.memory_free()
            free = host_memory()[1] if free is None else free
            said = f"{OURS} on {self.where.name!r} ({first_line(error)})"
            need = needs(self.network, self.dtype, self.members)
            known, remedy = _advice(free, need, self.batch_size, self.data)
            raise MemoryError(f"{said}: {known}; {remedy}") from error
        if message := unusable(self.where, error):
            raise RuntimeError(message) from error


def _advice(
    free: int | None, need: tuple[int, int], batch_size: int | None, data: int
) -> tuple[str, str]:
    """The message about memory: the free memory, the need, and the remedy."""
    params, example = need
    known = [f"the parameters with gradient and moments take {size(params)}"]
    remedy = "use fewer units, fewer rows at a time, or another device"
    if free is not None:
        known.insert(0, f"{size(free)} are free")
    if batch_size is not None:
        known += [f"the data {size(data)}", f"each example of a batch {size(example)}"]
        if free is not None:
            room = SPARE * free - params - min(data, RESIDENT * free)
            if fits := batch_that_fits(room, example, batch_size):
                remedy = f"batch_size={fits} would fit"
    return ", ".join(known), remedy


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of NumPy, CuPy, PyTorch or JAX says that memory has run out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and EXHAUSTED.search(str(error)) is not None


def needs(network: Network, dtype: str, members: int = 1) -> tuple[int, int]:
    """The bytes that training needs: for the parameters, and for each example of a minibatch.

    Parameters: values, gradient and the two moments of Adam. An example: its inputs, and for each
    unit Z and A, which are kept for the backward pass, with dA and dZ.
    """
    number = itemsize(dtype) * members
    units = _units(network.layers, network.n_inputs)
    return 4 * number * layout(network).size, number * (network.n_inputs + 4 * units)


def batch_that_fits(room: float, example: int, batch_size: int) -> int:
    """The largest power of two below `batch_size` that fits into memory; 0 if none does."""
    most = min(int(room // example), batch_size - 1)
    return 1 << (most.bit_length() - 1) if most > 0 else 0


def size(n_bytes: float) -> str:
    """A number of bytes in words, such as "1.5 GiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes / 2**10:.1f} KiB"


def _units(layers: Any, D: int) -> int:
    """The number of outputs of all layers for one example, inner layers included."""
    units = 0
    for layer in layers:
        units += _units(getattr(layer, "layers", ()), D)
        D = layer.width(D)
        units += D
    return units
