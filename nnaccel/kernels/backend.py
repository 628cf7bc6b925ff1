"""The speed floor: for each operation of the maths floor, what runs it fastest on a library.

A kernel has the name, the parameters and the meaning of a function of floor 1, is tested equal to
it, and is kept only while a benchmark shows that it pays.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

from nnaccel.kernels import optimizer_trace
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.losses import Loss
from nnaccel.maths.metrics import Metric
from nnaccel.maths.network import Network, layout
from nnaccel.maths.optimizers import Optimizer
from nnaccel.maths.precision import check_precision
from nnaccel.ops import Ops
from nnaccel.typing import Namespace

LOADING = 0.5  # seconds for Numba and its compiled code from the disk, with some to spare


def bind(xp: Namespace, *, fast: bool = True, precision: str = "float32") -> Ops:
    """The operations of a library, with the kernels that exist for it.

    They own a workspace that each step uses again: take a new set for every training run and
    thread. What one call of `forward` or `value_and_grad` returns may be overwritten by the next.
    fast: also the kernels that need Numba, if it is installed; `worth_loading` says for which
    runs the time to load it is well spent.
    precision: of the products in dense layers, "float32", "tf32" or "bf16", for float32 arrays; see
    `nnaccel.maths.precision`. ValueError for another.
    """
    check_precision(precision, "float32")
    if _is_numpy(xp):
        return Ops(xp, _numpy_kernels(fast, precision))
    if xp.__name__ == "array_api_compat.torch":
        from nnaccel.kernels.torch import kernels

        return Ops(xp, kernels(xp, precision))
    if _is_cupy(xp):
        from nnaccel.kernels.cuda.workspace import kernels

        return Ops(xp, kernels(xp, precision))
    if xp.__name__ == "jax.numpy":
        from nnaccel.kernels.jax import kernels

        return Ops(xp, kernels(xp, precision))
    return Ops(xp, _products(xp, precision))


def _products(xp: Namespace, precision: str) -> dict[Callable, Callable]:
    """The definitions that a precision changes, in that precision."""
    if precision == "float32":
        return {}
    return {f: partial(f, xp=xp, precision=precision) for f in (dense, dense_vjp)}


def _numpy_kernels(fast: bool, precision: str) -> dict[Callable, Callable]:
    if fast and find_spec("numba"):
        try:
            from nnaccel.kernels.numba.elementwise import kernels

            return kernels(precision)
        except ImportError:  # a Numba that does not fit this NumPy says so when it is imported
            pass
    from nnaccel.kernels.numpy.workspace import kernels

    return kernels(precision)


def worth_loading(network: Network, loss: Loss, batch_size: int, n_steps: int) -> bool:
    """Whether a run of that many steps on NumPy saves more time with Numba than loading it takes.

    It saves about 40 microseconds of calls a step, or 6 where NumPy has an epoch with fewer calls,
    and 0.7 nanoseconds for each parameter and each unit of an example: passes through memory.
    """
    from nnaccel.kernels.numpy import blas_threads, call_list

    few = blas_threads.one_is_enough(network, batch_size)
    few = few and call_list.plan_for(network, loss, batch_size)
    units, D = 0, network.n_inputs
    for layer in network.layers:
        D = layer.width(D)
        units += D
    elements = layout(network).size + batch_size * units
    return n_steps * ((6e-6 if few else 40e-6) + 0.7e-9 * elements) > LOADING


def fused_epoch(
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    ops: Ops,
    batch_size: int,
    *,
    l2: float = 0.0,
    metric: Metric | None = None,
    seed: int = 0,
    fast: bool = True,
    precision: str = "float32",
) -> Callable[..., Any] | None:
    """An epoch of that training with less between its steps, where there is such a kernel.

    A function (params, state, data, order) -> (params, state, records) with the meaning of the
    steps one after the other; it may return None, having done nothing. ops, precision: as of
    `bind`.   fast: also with Numba, and with CUDA graphs on CuPy.
    """
    if not (_is_numpy(ops.xp) or _is_cupy(ops.xp)):
        return None
    from nnaccel.kernels import epoch
    from nnaccel.kernels.numpy import blas_threads

    options = {"l2": l2, "metric": metric}
    steps = options | {"seed": seed, "count": optimizer_trace.Count()}
    ieee = precision == "float32"  # in which the epochs without steps multiply
    epochs = []  # what is fastest comes first
    if _is_cupy(ops.xp):
        if ieee:
            from nnaccel.kernels.cuda.small_network import epoch_of

            epochs = [epoch_of(network, loss, optimizer, batch_size, xp=ops.xp, **options)]
        if fast:
            from nnaccel.kernels.cuda.graphs import epoch_of
            from nnaccel.kernels.cuda.workspace import Workspace

            space = Workspace(ops.xp, precision)
            epochs.append(epoch_of(network, loss, optimizer, space, batch_size, xp=ops.xp, **steps))
    elif ieee:
        small = blas_threads.one_is_enough(network, batch_size)
        for epoch_of in _numpy_epochs(fast, small, seed):
            epochs.append(epoch_of(network, loss, optimizer, batch_size, xp=ops.xp, **options))
    epochs.append(epoch.epoch_of(network, loss, optimizer, ops, batch_size, **steps))
    whole = epoch.first_supported([epoch for epoch in epochs if epoch is not None])
    return whole if _is_cupy(ops.xp) else epoch.one_by_one(whole, network)


def _numpy_epochs(
    fast: bool, small: bool, seed: int
) -> list[Callable[..., Callable[..., Any] | None]]:
    """What makes epochs without steps on NumPy: with Numba, and, for small networks, without.

    seed: for those that draw.
    """
    found: list[Any] = []
    if fast and find_spec("numba"):
        try:
            from nnaccel.kernels.numba.epoch import epoch_of

            found.append(partial(epoch_of, seed=seed))
        except ImportError:  # of Numba or of SciPy, whose BLAS it needs
            pass
    if small:
        from nnaccel.kernels.numpy.call_list import epoch_of

        found.append(epoch_of)
    return found


def limit_threads(
    network: Network, batch_size: int, xp: Namespace
) -> Callable[[], AbstractContextManager[Any]]:
    """What gives the context to run an epoch in: NumPy's small products want a single thread."""
    if not _is_numpy(xp):
        return nullcontext
    from nnaccel.kernels.numpy.blas_threads import limit_of

    return limit_of(network, batch_size)


def arithmetic(
    xp: Namespace, precision: str = "float32"
) -> Callable[[], AbstractContextManager[Any]]:
    """What gives the context in which products are of that precision where a library leaves it to
    a setting of the process, and those that no kernel does are IEEE float32 products.

    PyTorch has such a setting, for all products on CUDA devices; JAX has one for each thread.
    """
    if xp.__name__ == "array_api_compat.torch":
        from nnaccel.kernels import torch

        return partial(torch.arithmetic, precision)
    if xp.__name__ == "jax.numpy":
        import jax

        return partial(jax.default_matmul_precision, "highest")
    return nullcontext


def _is_numpy(xp: Namespace) -> bool:
    return xp.__name__ in ("numpy", "array_api_compat.numpy")


def _is_cupy(xp: Namespace) -> bool:
    return xp.__name__ in ("cupy", "array_api_compat.cupy")
