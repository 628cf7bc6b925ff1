"""The definition as a backend: the functions of the maths, one training step after the other.

It runs on every library, and `kernels=False` selects it. The backends of `backend.py` are
subclasses that replace the methods they do faster. So a breakpoint in `dense` or `adam_update`
stops in a training run, and tests compare every kernel with its definition.
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

# (params, state, data, order) -> (params, state, records). params: (P,) or (K, P). data: (X, Y,
# weights). order: (N,) row numbers. records: the losses of the steps (n_steps, ...) in the units of
# the loss, or with a metric the two stacked (n_steps, 2, ...). An epoch may overwrite params and
# state.
Epoch = Callable[[Any, State, Any, Array], tuple[Any, State, Array]]


class Run(NamedTuple):
    """Everything that a training run computes. It is hashable, so a compiled run can be kept under
    it."""

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
        """The factor of the gradient of a minibatch of `size` examples: its share of a full one, at
        most 1."""
        if size >= self.batch_size or self.short_batch == "full":
            return 1.0
        return size / self.batch_size


class NotSupported(Exception):  # an answer, not an error
    """Says why a fused epoch cannot run a network or arrays. The epoch raises it before it changes
    anything."""


def one_l2(l2: float | tuple[float, ...]) -> float:
    """The L2 penalty of all networks; NotSupported where each has its own."""
    if isinstance(l2, tuple):
        raise NotSupported("its l2 differs from network to network")
    return l2


class FusedEpoch(NamedTuple):
    """An epoch that fuses several steps or layers; `run` may raise NotSupported."""

    name: str
    run: Epoch


class Refused(NamedTuple):
    """A fused epoch that cannot run, and why."""

    name: str
    reason: str


def plain_loop(step: Callable[[], R]) -> Callable[[int], R | None]:
    """A function n -> result that calls `step` n times and returns the last result."""

    def run(n: int) -> R | None:
        result = None
        for _ in range(n):
            result = step()
        return result

    return run


class BareProduct(NamedTuple):
    """The matrix product that the kernels of a library use, to measure steps against."""

    multiply: Callable[[Array, Array, Array], Array]  # (X, Y, out) -> X Y, in out if possible
    factor: Callable[[Array], Array]  # converts an array to the form that `multiply` takes
    # Like `plain_loop`, as fast as the library can repeat a step with the same arrays.
    loop: Callable[[Callable[[], Array]], Callable[[int], Array | None]] = plain_loop


def offer(name: str, build: Callable[..., FusedEpoch], *args: Any) -> FusedEpoch | Refused:
    """The fused epoch build(*args), or `Refused` with the reason why there is none."""
    try:
        return build(*args)
    except NotSupported as refusal:
        return Refused(name, str(refusal))
    except ImportError as error:  # a library that is absent, or does not fit this NumPy
        return Refused(name, str(error).partition("\n")[0])


@dataclass(frozen=True)
class Definition:
    """The definition on one array library, whose methods a backend may replace.

    library: the backend of the library, whose settings its products need; None: it needs none.
    """

    # Rows of a block in predictions, where smaller blocks than the memory allows are faster.
    prediction_rows: ClassVar[int] = sys.maxsize
    # Whether X may be (R, n, D), of R devices that have their own rows, as `train` gives it then.
    takes_slices: ClassVar[bool] = False
    # Whether epochs may write over the parameters and the state that they are given.
    overwrites: ClassVar[bool] = False

    xp: Namespace
    library: "Definition | None" = None

    def operations(self, precision: str = "float32") -> Ops:
        """The operations of the library. Kernels own a workspace, so each run and each thread needs
        its own set.

        precision: of the products of float32 arrays in dense layers, see `maths/precision.py`.
        """
        check_precision(precision, "float32")
        if precision == "float32":
            return Ops(self.xp)
        rounded = {f: partial(f, xp=self.xp, precision=precision) for f in (dense, dense_vjp)}
        return Ops(self.xp, rounded)

    def bare_product(self, precision: str = "float32") -> BareProduct:
        """The matrix product that benchmarks compare a step with."""
        return BareProduct(lambda X, Y, out: self.xp.matmul(X, Y), lambda x: x)

    def fused_epochs(self, run: Run, ops: Ops) -> list[FusedEpoch | Refused]:
        """The fused epochs for a run, best first."""
        return []

    def explain(self, run: Run) -> str:
        """Which kernels run, and why faster ones do not: "Numba, 2 threads, products by OpenBLAS".
        The debug line of the run says the same, unless its arrays have rare types."""
        ops = self.operations(run.precision)
        return describe(self.fused_epochs(run, ops), f"step by step, {ops.name}")

    def compile_epoch(
        self, make_step: Callable[[Run], Callable[..., Any]], run: Run, ops: Ops
    ) -> Callable[[int], Epoch]:
        """The function seed -> epoch of a run.

        make_step: run -> step (params, state, data, index) -> (params, state, record). params and
        state are those that `split_params` returns. The epoch visits the examples in `order` (N,),
        batch_size per step, and the remaining ones in a last, shorter step.
        """

        def epoch_of(seed: int) -> Epoch:
            seeded = run._replace(seed=seed)
            steps = step_by_step(make_step(seeded), run.batch_size, ops)
            return first_supported([*self.fused_epochs(seeded, ops), steps])

        return epoch_of

    def compile(self, function: Callable[..., R]) -> Callable[..., R]:
        """A pure function, compiled if the library has a compiler."""
        return function

    def once(self, build: Callable[..., R], *key: Any) -> R:
        """build(*key). Where compiling takes long, an equal key returns the same object again."""
        return build(*key)

    def split_params(self, layout: Layout) -> Callable[[Any], Any]:
        """The function that prepares a vector (P,) or (K, P), or the vectors of a `State`, for the
        epochs."""
        return lambda kept: kept

    def ieee_products(self, precision: str = "float32") -> AbstractContextManager[Any]:
        """The context in which float32 products are IEEE, or TF32 on a GPU for the precision
        "tf32". It does something only where the library has such a setting."""
        return nullcontext() if self.library is None else self.library.ieee_products(precision)

    def context(
        self, network: Network, batch_size: int, precision: str = "float32"
    ) -> AbstractContextManager[Any]:
        """The context that steps run in: the number of BLAS threads and the arithmetic of
        products."""
        return self.ieee_products(precision)

    def wait(self, records: Array) -> None:
        """Waits in Python for the records of an epoch. A library that waits in its own code would
        delay signals, so Ctrl-C could not interrupt a run."""

    def team(self) -> AbstractContextManager[int]:
        """A context whose value says how many Python threads may compute at once, each with its own
        operations."""
        return nullcontext(1)

    def repays_loading(self, run: Run, n_steps: int) -> bool:
        """Whether a run of n_steps steps saves more time than loading all kernels takes."""
        return True


def first_supported(offers: Sequence[FusedEpoch | Refused]) -> Epoch:
    """The epoch of the first offer that supports its arguments. A debug line names it, and says why
    earlier ones were refused, at the first epoch and whenever that changes."""
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
    """The name of the first fused epoch, and why those before it were refused.   otherwise: the
    name if all were refused."""
    reasons = []
    for offer in offers:
        if isinstance(offer, FusedEpoch):
            return "; ".join([offer.name, *reasons])
        reasons.append(f"not {offer.name}: {offer.reason}")
    return "; ".join([otherwise, *reasons])


def step_by_step(step: Callable[..., Any], batch_size: int, ops: Ops) -> FusedEpoch:
    """The epoch as a loop over its steps, which supports every run."""

    def epoch_of_steps(params: Any, state: State, data: Any, order: Array) -> Any:
        records = []
        for start, stop in bounds(order.shape[0], batch_size):
            params, state, record = step(params, state, data, order[start:stop])
            records.append(record)
        return params, state, ops.xp.stack(records)

    return FusedEpoch(f"step by step, {ops.name}", epoch_of_steps)
