"""The definition as a backend: the maths as it stands, one step after the other.

Every library has it, `kernels=False` asks for it, and the backends of `backend.py` replace what
they do faster. So a breakpoint in `dense` or `adam_update` stops in a training run, and every
kernel has an oracle.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.losses import Loss
from nnaccel.maths.metrics import Metric
from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import Layout, Network
from nnaccel.maths.optimizers import Optimizer, State
from nnaccel.maths.precision import check_precision
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace

R = TypeVar("R")
log = logging.getLogger("nnaccel")

# (params, state, data, order) -> (params, state, records): records (n_steps, ...) are the losses of
# the steps, or with a metric the two stacked. It may overwrite params and state.
Epoch = Callable[[Any, State, Any, Array], tuple[Any, State, Array]]


class Run(NamedTuple):
    """What a training run computes. It is hashable: a compiled run is kept under it."""

    network: Network
    loss: Loss
    optimizer: Optimizer
    batch_size: int
    dtype: Any
    l2: float | tuple[float, ...] = 0.0  # a tuple: one for each of K networks
    metric: Metric | None = None
    seed: Any = 0  # an int, or its words as a traced array (2,)
    precision: str = "float32"
    short_batch: str = "weighted"  # or "full"

    def share(self, size: int) -> float:
        """How much the gradient of a minibatch of that size counts: its share of a full one."""
        if size >= self.batch_size or self.short_batch == "full":
            return 1.0
        return size / self.batch_size


class NotSupported(Exception):  # an answer, not an error
    """Why a fused epoch cannot run a network or arrays. It has done nothing by then."""


def one_l2(l2: float | tuple[float, ...]) -> float:
    """The L2 penalty of all networks; NotSupported where each has its own."""
    if isinstance(l2, tuple):
        raise NotSupported("its l2 differs from network to network")
    return l2


class FusedEpoch(NamedTuple):
    """An epoch that does more at once than a step; `run` may raise NotSupported."""

    name: str
    run: Epoch


class Refused(NamedTuple):
    """A fused epoch that cannot run, and why."""

    name: str
    reason: str


def plain_loop(step: Callable[[], R]) -> Callable[[int], R | None]:
    """A function that takes so many steps and returns what the last one gives."""

    def run(n: int) -> R | None:
        result = None
        for _ in range(n):
            result = step()
        return result

    return run


class BareProduct(NamedTuple):
    """A matrix product as the kernels of a library make it."""

    multiply: Callable[[Array, Array, Array], Array]  # (X, Y, out) -> X Y, in `out` where possible
    factor: Callable[[Array], Array]  # an array as `multiply` takes it
    # As `plain_loop`: a step of products, always with the same arrays, as fast as may be.
    loop: Callable[[Callable[[], Array]], Callable[[int], Array | None]] = plain_loop


def offer(name: str, build: Callable[..., FusedEpoch], *args: Any) -> FusedEpoch | Refused:
    """The fused epoch build(*args), or why there is none."""
    try:
        return build(*args)
    except NotSupported as refusal:
        return Refused(name, str(refusal))
    except ImportError as error:  # a library that is absent, or does not fit this NumPy
        return Refused(name, str(error).partition("\n")[0])


@dataclass(frozen=True)
class Definition:
    """The definition on one array library, and what a backend may replace.

    library: the backend of the library, for settings that its products need.
    """

    # Rows of a block in predictions, where less than memory bounds is faster.
    prediction_rows: ClassVar[int] = sys.maxsize
    # Whether X may be (R, n, D), of R devices that have their own rows, as `train` gives it then.
    takes_slices: ClassVar[bool] = False
    # Whether epochs may write over the parameters and the state that they are given.
    overwrites: ClassVar[bool] = False

    xp: Namespace
    library: "Definition | None" = None

    def operations(self, precision: str = "float32") -> Ops:
        """The operations of the library. Kernels among them own a workspace: take a new set for
        every run and thread.

        precision: that of the products in dense layers of float32 arrays, see `maths/precision.py`.
        """
        check_precision(precision, "float32")
        if precision == "float32":
            return Ops(self.xp)
        rounded = {f: partial(f, xp=self.xp, precision=precision) for f in (dense, dense_vjp)}
        return Ops(self.xp, rounded)

    def bare_product(self, precision: str = "float32") -> BareProduct:
        """The product that a step is measured against."""
        return BareProduct(lambda X, Y, out: self.xp.matmul(X, Y), lambda x: x)

    def fused_epochs(self, run: Run, ops: Ops) -> list[FusedEpoch | Refused]:
        """The fused epochs for a run, best first."""
        return []

    def explain(self, run: Run) -> str:
        """Which kernels a run takes, and why not faster ones: "Numba, 2 threads, products by
        OpenBLAS". The debug line of the run says the same, unless its arrays are of rare types."""
        ops = self.operations(run.precision)
        return describe(self.fused_epochs(run, ops), f"step by step, {ops.name}")

    def compile_epoch(
        self, make_step: Callable[[Run], Callable[..., Any]], run: Run, ops: Ops
    ) -> Callable[[int], Epoch]:
        """The function seed -> epoch of a run.

        make_step: run -> step (params, state, data, index) -> (params, state, record). params and
        state are as `split_params` leaves them. The epoch visits the examples in `order` (N,),
        batch_size a step and the rest in a last one.
        """

        def epoch_of(seed: int) -> Epoch:
            seeded = run._replace(seed=seed)
            steps = step_by_step(make_step(seeded), run.batch_size, ops)
            return first_supported([*self.fused_epochs(seeded, ops), steps])

        return epoch_of

    def compile(self, function: Callable[..., R]) -> Callable[..., R]:
        """A pure function, compiled where the library compiles."""
        return function

    def once(self, build: Callable[..., R], *key: Any) -> R:
        """build(*key); the same object again for an equal key where compiling takes long."""
        return build(*key)

    def split_params(self, layout: Layout) -> Callable[[Any], Any]:
        """The function that prepares a vector, or the vectors of a `State`, for the epochs."""
        return lambda kept: kept

    def ieee_products(self, precision: str = "float32") -> AbstractContextManager[Any]:
        """The context in which float32 products are IEEE, where a library has a setting for that,
        or have the precision "tf32" on a GPU."""
        return nullcontext() if self.library is None else self.library.ieee_products(precision)

    def context(
        self, network: Network, batch_size: int, precision: str = "float32"
    ) -> AbstractContextManager[Any]:
        """The context that steps run in: how many threads, which arithmetic."""
        return self.ieee_products(precision)

    def wait(self, records: Array) -> None:
        """Waits for the records of an epoch that takes long, in Python where the library would wait
        in its own code: there no signal reaches the process, so nobody could interrupt a run."""

    def team(self) -> AbstractContextManager[int]:
        """How many Python threads may compute at once, each with operations of its own, while this
        lasts."""
        return nullcontext(1)

    def repays_loading(self, run: Run, n_steps: int) -> bool:
        """Whether a run of n_steps steps is worth loading all kernels for."""
        return True


def first_supported(offers: Sequence[FusedEpoch | Refused]) -> Epoch:
    """The epoch by the first offer that runs it. A debug line says which one, and why not another,
    at the first epoch and whenever that changes."""
    fused = [offer for offer in offers if isinstance(offer, FusedEpoch)]
    said = ""

    def epoch_of_first_supported(params: Any, state: State, data: Any, order: Array) -> Any:
        nonlocal said
        reasons = [offer for offer in offers if isinstance(offer, Refused)]
        for offer in fused:
            try:
                done = offer.run(params, state, data, order)
            except NotSupported as refusal:
                reasons.append(Refused(offer.name, str(refusal)))
                continue
            if said != offer.name:
                said = offer.name
                log.debug("epoch: %s", describe([*reasons, offer]))
            return done
        raise NotSupported(describe(reasons))

    return epoch_of_first_supported


def describe(offers: Sequence[FusedEpoch | Refused], otherwise: str = "") -> str:
    """The name of the first fused epoch, and why those before it are not it."""
    reasons = []
    for offer in offers:
        if isinstance(offer, FusedEpoch):
            return "; ".join([offer.name, *reasons])
        reasons.append(f"not {offer.name}: {offer.reason}")
    return "; ".join([otherwise, *reasons])


def step_by_step(step: Callable[..., Any], batch_size: int, ops: Ops) -> FusedEpoch:
    """The epoch as a loop over its steps, which runs everything."""

    def epoch_of_steps(params: Any, state: State, data: Any, order: Array) -> Any:
        records = []
        for start, stop in bounds(order.shape[0], batch_size):
            params, state, record = step(params, state, data, order[start:stop])
            records.append(record)
        return params, state, ops.xp.stack(records)

    return FusedEpoch(f"step by step, {ops.name}", epoch_of_steps)
