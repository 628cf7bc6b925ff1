"""Sets of kernels, each switched on alone: what a set takes off a step is what it is worth.

Everything here that knows how kernels are chosen is in `compile_with`.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

from nnaccel.kernels import epoch as steps
from nnaccel.kernels.compile import compile_epoch, compile_step, split_params
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, layout
from nnaccel.maths.optimizers import Optimizer
from nnaccel.ops import Ops
from nnaccel.training.step import compile_run, make_step
from nnaccel.typing import Namespace

Kernels = Mapping[Callable, Callable]
Epoch = Callable[..., Any]


class KernelSet(NamedTuple):
    """Kernels of operations, and an epoch without steps."""

    library: str  # by the name of its device
    operations: Callable[[Namespace], Kernels] = lambda xp: {}
    # (network, loss, optimizer, ops, batch_size) -> the fused epoch, None where there is none
    epoch: Callable[..., Epoch | None] = lambda *run: None
    context: Callable[[], Any] = nullcontext  # in which its epochs are traced and run


def _numpy(xp: Namespace) -> Kernels:
    from nnaccel.kernels.numpy.workspace import kernels

    return kernels()


def _elementwise(xp: Namespace) -> Kernels:
    from nnaccel.kernels.numba.elementwise import kernels

    return kernels()


def _torch(xp: Namespace) -> Kernels:
    from nnaccel.kernels.torch import kernels

    return kernels(xp)


def _jax(xp: Namespace) -> Kernels:
    from nnaccel.kernels.jax import kernels

    return kernels(xp)


def _steps(
    network: Network, loss: Loss, optimizer: Optimizer, ops: Ops, batch_size: int
) -> Epoch | None:
    return steps.epoch_of(network, loss, optimizer, ops, batch_size, l2=0.0, metric=None, seed=0)


def _call_list(
    network: Network, loss: Loss, optimizer: Optimizer, ops: Ops, batch_size: int
) -> Epoch | None:
    from nnaccel.kernels.numpy.call_list import epoch_of

    return epoch_of(network, loss, optimizer, batch_size, xp=ops.xp, l2=0.0, metric=None)


def _compiled(
    network: Network, loss: Loss, optimizer: Optimizer, ops: Ops, batch_size: int
) -> Epoch | None:
    from nnaccel.kernels.numba.epoch import epoch_of

    return epoch_of(network, loss, optimizer, batch_size, xp=ops.xp, l2=0.0, metric=None, seed=0)


def _unscheduled() -> Any:
    """JAX's kernels without what tells XLA in which order to compute."""
    import jax.numpy as jnp

    from nnaccel.kernels import jax

    return mock.patch.object(jax, "never", lambda x: jnp.zeros_like(x, dtype=bool))


KERNEL_SETS = {
    "numpy definition": KernelSet("cpu"),
    "numpy workspace": KernelSet("cpu", _numpy, _steps),
    "numpy call list": KernelSet("cpu", _numpy, _call_list),
    "numba elementwise": KernelSet("cpu", _elementwise, _steps),
    "numba epoch": KernelSet("cpu", _elementwise, _compiled),
    "torch definition": KernelSet("torch:cpu"),
    "torch kernels": KernelSet("torch:cpu", _torch),
    "jax definition": KernelSet("jax:cpu"),
    "jax unscheduled": KernelSet("jax:cpu", _jax, context=_unscheduled),
    "jax kernels": KernelSet("jax:cpu", _jax),
    "cupy definition": KernelSet("cuda"),
    # Without CUDA graphs and with them: as `compile_run` does it.
    "cupy kernels": KernelSet("cuda"),
    "cupy graphs": KernelSet("cuda"),
}


def compile_with(
    name: str,
    xp: Namespace,
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    batch_size: int,
    dtype: Any,
    *rest: Any,
) -> Any:
    """Twin of `training.step.compile_run` with one set of kernels alone, in float32.

    NotImplementedError where the set cannot do that network.
    """
    kernels = KERNEL_SETS[name]
    if name in ("cupy kernels", "cupy graphs"):
        fast = name == "cupy graphs"
        return compile_run(xp, network, loss, optimizer, batch_size, dtype, 0.0, None, fast)
    ops, places = Ops(xp, dict(kernels.operations(xp))), layout(network)
    step = make_step(network, loss, optimizer, ops, dtype=dtype)
    fused = kernels.epoch(network, loss, optimizer, ops, batch_size)
    epoch = compile_epoch(step, xp, places, batch_size, partial(_done, fused) if fused else None)
    if kernels.epoch in (_call_list, _compiled) and fused is None:
        raise NotImplementedError(f"{name} cannot do {network}")

    def traced(*args: Any) -> Any:
        with kernels.context():
            return epoch(*args)

    return lambda seed: traced, None, compile_step(split_params(xp, places), xp)


def _done(epoch: Epoch, *args: Any) -> Any:
    """The epoch's result; NotImplementedError where it leaves the run to others."""
    result = epoch(*args)
    if result is None:
        raise NotImplementedError("the epoch leaves this run to others")
    return result


def options_of(kernels: str) -> dict[str, Any]:
    """What a `training.benchmark.Trainer` is told of a `race.Backend`'s kernels."""
    if kernels in ("all", "numpy"):
        return {"fast": kernels == "all"}
    return {"compile": partial(compile_with, kernels)}
