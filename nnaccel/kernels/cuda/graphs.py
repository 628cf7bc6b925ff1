"""An epoch on CuPy as replays of captured steps.

A launch takes the host 5 microseconds or more, and a step has 14 launches; a CUDA graph is one
launch, however many kernels it contains. A graph contains the kernels of `workspace.py`, with the
addresses and numbers at the time of capture. So all values that change from step to step are on
the device, at fixed addresses, and the kernel that ends a step writes the values of the next step;
see `graph_step.cuh`. All figures here are estimates, not yet measured on a GPU.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import repeat
from math import prod
from typing import Any

import cupy
import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.cuda.capture import Capture
from nnaccel.kernels.cuda.cublaslt import address
from nnaccel.kernels.cuda.launch import are_contiguous
from nnaccel.kernels.cuda.step_slots import StepSlots, logits_of, means_of
from nnaccel.kernels.cuda.workspace import Workspace
from nnaccel.kernels.definition import FusedEpoch, NotSupported, Run
from nnaccel.kernels.epoch import on_epoch_start, step_of
from nnaccel.kernels.optimizer_trace import Count, updates_of
from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import Network, Slot, has_random_layers, layout, leaves, views
from nnaccel.maths.optimizers import State
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace

log = logging.getLogger(__name__)

# Most steps and nodes of a graph: more would save little, and take longer to capture.
STEPS = 32
NODES = 512

# A step of more floating-point operations is a graph alone: it takes a device at least 0.1
# milliseconds, and the host launches the next graph in less time.
ALONE = 4e9

FIRST = 8  # steps of a kind before its first capture, which takes longer than a few steps

KINDS = 16  # kinds whose graphs are kept: streamed data alternate between three places in memory

LOGITS = 2**22  # most logits stored for the metric, which is computed for many steps at once

COPIED = 2**14  # most elements that one block of the update copies at the end of a step

NOT_IN_PLACE = "a step gives other arrays than it has been given"


def steps_per_graph(network: Network, batch: int, n_steps: int, networks: int = 1) -> int:
    """The number of steps per graph, for epochs of n_steps steps: a power of two, which is 1 where
    a step takes longer than its launch.

    batch: examples per step.   networks: networks trained at once.
    """
    whole = layout(network)
    if 6 * batch * whole.size * networks > ALONE:
        return 1
    nodes = 3 * len(list(leaves(whole.slots, Slot))) + 4  # about
    most = min(STEPS, NODES // nodes, n_steps // 2)
    return 1 << max(0, most.bit_length() - 1)


@dataclass
class Kind:
    """The graphs of all steps with the same frozen values."""

    taken: int = 0  # steps run without a graph
    graphs: dict[int, Any] = field(default_factory=dict)  # number of steps -> graph and memory


class Graphs:
    """The graphs of a run.   space: the workspace of the captured kernels, used by no other run."""

    def __init__(self, space: Workspace) -> None:
        self.failed = False  # whether steps run without graphs from now on
        self._space = space
        self._kinds: dict[Any, Kind] = {}  # least recently used first
        self._capture: Capture | None = None

    def run(
        self, frozen: Any, n: int, some: int, step: Callable[..., list[Array]], arrays: list[Array]
    ) -> list[Array]:
        """The arrays (params, *slots) after n steps, with graphs of `some` steps or of one step.

        step: arrays -> arrays.   frozen: the values that a captured step cannot read anew.
        The first FIRST steps run without a graph, since they compile kernels and allocate buffers.
        """
        kind = self._kinds.pop(frozen, None) or Kind()
        while n and not self.failed:
            if kind.taken < FIRST:
                before, arrays = arrays, step(arrays)
                n, kind.taken = n - 1, kind.taken + 1
                if not same(arrays, before):
                    self.fail(NOT_IN_PLACE)
                continue
            steps = some if n >= some else 1
            try:
                if steps not in kind.graphs:
                    kind.graphs[steps] = self._captured(steps, step, arrays)
                kind.graphs[steps][0].launch()
                n -= steps
            except Exception as error:  # for any reason: steps also work without graphs
                self.fail(f"{type(error).__name__}: {error}")
        for _ in range(n):
            arrays = step(arrays)
        if not self.failed:
            self._kinds[frozen] = kind
            if len(self._kinds) > KINDS:
                del self._kinds[next(iter(self._kinds))]
        return arrays

    def fail(self, reason: str) -> None:
        """Runs all later steps without graphs, and logs the reason."""
        log.debug("training goes on without CUDA graphs: %s", reason)
        self.failed = True
        self._kinds.clear()
        if self._capture is not None:
            self._capture.give_back()
        self._capture = None

    def _captured(self, steps: int, step: Callable[..., list[Array]], arrays: list[Array]) -> Any:
        """A graph of `steps` steps, and the memory to which the graph refers by address alone."""

        def launch() -> None:
            for _ in range(steps):
                if not same(step(arrays), arrays):
                    raise RuntimeError(NOT_IN_PLACE)

        if self._capture is None:
            self._capture = Capture()
        graph = self._capture.graph(launch)
        log.debug("captured %d training steps in a CUDA graph", steps)
        return graph, self._space.memory()


def same(some: list[Array], others: list[Array]) -> bool:
    """Whether both lists contain the same array objects."""
    return all(x is y for x, y in zip(some, others, strict=True))


def address_of(x: Array | None) -> Any:
    """The properties of an array that a captured kernel depends on."""
    return None if x is None else (address(x), x.shape, x.strides, x.dtype.str)


def kernel_supports(params: Array, state: State, order: Array) -> bool:
    """Whether the kernels support these arrays: params and slots (P,) or (K, P), order (N,)."""
    return (
        params.ndim in (1, 2)
        and params.size > 0
        and are_contiguous(params, *state.slots)
        and order.shape[0] > 0
        and order.dtype == np.int64
        and order.flags.c_contiguous
    )


def graph_epoch(run: Run, xp: Namespace, count: Count) -> FusedEpoch:
    """The epoch of a run as replays of CUDA graphs.

    The epoch raises NotSupported for dtypes without kernels, and where `updates_of` does. Steps
    that cannot be captured run without graphs.   count: the step count of the run.
    """
    network, batch_size, metric, seed = run.network, run.batch_size, run.metric, run.seed
    space = Workspace(xp, run.precision, network)
    whole, K, random = layout(network), network.n_outputs, has_random_layers(network)
    ops = Ops(xp, space.kernels())
    one_step = step_of(run, ops=ops)
    graphs, places_of = Graphs(space), cache(StepSlots)

    def epoch_of_graphs(params: Array, state: State, data: Any, order: Array) -> Any:
        if not kernel_supports(params, state, order):
            raise NotSupported("the kernels do not take arrays of these types")
        N, dtype, lead = order.shape[0], params.dtype, params.shape[:-1]
        batch, networks = min(batch_size, N), prod(lead)
        n_steps, n_full, rest = -(-N // batch), N // batch, N % batch
        before = count.of(state.step)
        now = State(before, state.slots)
        asked = updates_of(run.optimizer, params, now, n_steps, whole.n_weights, xp=host)
        ops[views](params, whole)  # a replay does not call `views`
        ops[on_epoch_start](params)

        # Numbers that change from step to step are read from arrays on the device.
        columns = [x for _, numbers in asked for x in numbers if np.ndim(x)]
        places = places_of(len(columns), batch, dtype)
        place = iter([places.numbers[i] for i in range(len(columns))])
        updates = [
            (f, repeat(tuple(next(place) if np.ndim(x) else x for x in numbers)))
            for f, numbers in asked
        ]
        constants = [float(x) for _, numbers in asked for x in numbers if not np.ndim(x)]
        rows = space.elementwise.rows_of(data, batch, dtype)
        taken = () if rows is None else [x for x in rows if isinstance(x, cupy.ndarray)]
        known = params, *state.slots, *data, *taken
        frozen = (places, *constants, *map(address_of, known))

        size = networks * batch * K
        kept = n_steps if metric is None else min(n_steps, max(1, LOGITS // size))
        table = cupy.asarray(np.array(columns, dtype).T.copy()) if columns else None
        logits = None if metric is None else cupy.empty((kept, size), dtype)
        losses = cupy.empty((n_steps, *lead), dtype)
        places.begin(table, order, losses, logits, int(before), rows)

        def replay(arrays: list[Array], B: int, n: int, some: int) -> list[Array]:
            """Runs n steps of B examples, with graphs of up to `some` steps."""

            def step(arrays: list[Array]) -> list[Array]:
                key = Key(seed, places.count) if random else None
                if rows is not None:
                    space.elementwise.rows_are_there()
                if one_rule and run.share(B) == 1.0:
                    rule, numbers = updates[0]
                    now = arrays[0], arrays[1:], next(numbers), whole.n_weights
                    space.optimizers.early.expect(rule, *now)
                if ends_step:
                    space.optimizers.hold()
                try:
                    params, slots, value, (Z, *_) = one_step(
                        arrays[0], arrays[1:], data, places.index[:B], key, updates
                    )
                    ended = space.optimizers.release(places.end(value, Z)) if ends_step else False
                finally:
                    space.optimizers.hold_no_more()
                if not ended:
                    places.tick(value, Z, logits is not None)
                return [params, *slots]

            return graphs.run((B, *frozen), n, some, step, arrays)

        # The update is the last kernel of a step, unless another operation follows it, or its last
        # block would have to copy too much. It may begin early if nothing else reads the gradient.
        update_is_last = whole.n_trained == whole.size
        ends_step = update_is_last and batch + (logits is not None) * size <= COPIED
        one_rule = update_is_last and len(asked) == 1 and not run.l2
        some = steps_per_graph(network, batch, n_full, networks)
        arrays, means = [params, *state.slots], []
        for first, last in bounds(n_steps, kept):
            arrays = replay(arrays, batch, min(last, n_full) - first, some)
            if last > n_full:
                arrays = replay(arrays, rest, 1, 1)
            if logits is not None and metric is not None:
                index = order[first * batch : last * batch]
                Y, weights = (None if x is None else xp.take(x, index, axis=0) for x in data[1:])
                Z = logits_of(logits, index.shape[0], batch, (*lead, K), xp=xp)
                means.append(means_of(metric, Z, Y, weights, batch, xp=xp))
        params, *slots = arrays
        state = State(count.after(state.step, n_steps), tuple(slots))
        records = xp.stack([losses, xp.concat(means)], axis=1) if means else losses
        return params, state, records

    return FusedEpoch("CUDA graphs", epoch_of_graphs)
