"""Whole epochs on NumPy and CuPy, with less between the steps than a step at a time can do.

The optimizer is not written again: its own `update` is called once for all steps of the epoch, with
a vector in the place of the step counter, and what it asks of its rules is taken down. So each
step has its numbers on the host: less Python on NumPy, and on CuPy no launches for the step
counter, the schedule and the corrections, each of which would cost as much as a layer.
"""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import numpy as host

from nnaccel import optimizers
from nnaccel.batches import bounds, minibatch
from nnaccel.losses import Loss
from nnaccel.metrics import Metric
from nnaccel.network import Network, draws, layout, value_and_grad
from nnaccel.optimizers import Optimizer, State
from nnaccel.random import Key
from nnaccel.typing import Array, Namespace, Ops

# How many vectors come first among the arguments of what optimizers ask for; numbers follow.
VECTORS = {
    optimizers.clip_by_global_norm: 1,  # grads
    optimizers.shrink_weights: 1,  # params
    optimizers.gradient_descent_update: 2,  # params, grads
    optimizers.momentum_update: 3,  # params, grads, and so many slots
    optimizers.nesterov_update: 3,
    optimizers.rmsprop_update: 3,
    optimizers.adam_update: 4,
}


def renew(params: Array, *, xp: Namespace) -> None:
    """Says that an epoch begins with these parameters. Nothing else has to be done here: it is for
    kernels that keep something made of the parameters, which may have been changed in place since
    the last epoch."""


def updates_of(
    optimizer: Optimizer, params: Array, state: State, n_steps: int, n_weights: int, *, xp: Any
) -> list[tuple[Callable, tuple[Any, ...]]] | None:
    """What the optimizer does in each of the next steps, functions and their numbers, which may be
    vectors (n_steps,).

    None for an optimizer that does something else to its vectors, and for one whose numbers are
    not the same for all networks.   state.step: on the host, an array of xp.
    """
    asked: list[tuple[Callable, tuple[Any, ...]]] = []
    grads: Any = object()  # nothing can be done to it
    given = [params, *state.slots]

    def taking_down(function: Callable, n: int) -> Callable:
        def rule(*args: Any) -> Any:
            ours = [grads] if function is optimizers.clip_by_global_norm else [params, grads]
            ours = [*ours, *state.slots][:n]
            if len(ours) < n or any(x is not y for x, y in zip(args, ours, strict=False)):
                raise NotImplementedError
            asked.append((function, args[n:]))
            return args[0] if n < 3 else (args[0], *args[2:n])

        return rule

    class Recorder(Ops):
        def __missing__(self, function: Callable) -> Callable:
            raise NotImplementedError

    recorder = Recorder(xp, {f: taking_down(f, n) for f, n in VECTORS.items()})
    steps = State(state.step + np.arange(n_steps, dtype=np.int32), state.slots)
    try:
        after, left = optimizer.update(grads, steps, params, ops=recorder, n_weights=n_weights)
    except (NotImplementedError, TypeError, ValueError):
        return None  # the last two also from a schedule that takes one step at a time
    kept = [after, *left.slots]
    if len(kept) != len(given) or any(x is not y for x, y in zip(kept, given, strict=True)):
        return None
    return None if any(np.ndim(x) > 1 for _, numbers in asked for x in numbers) else asked


class Rules(NamedTuple):
    """What Adam does in each of the next steps: numbers, or vectors (n_steps,)."""

    shrink: Any  # the amounts by which weights shrink, or None
    rate: Any
    beta_1: float
    beta_2: float
    correction_1: Any
    correction_2: Any
    epsilon: float


def rules_of(
    optimizer: Optimizer, params: Array, state: State, n_steps: int, n_weights: int, *, xp: Any
) -> Rules | None:
    """The rules of the next steps, as of `updates_of`, if the optimizer is Adam alone."""
    match updates_of(optimizer, params, state, n_steps, n_weights, xp=xp):
        case [(optimizers.adam_update, rules)]:
            return Rules(None, *rules)
        case [(optimizers.shrink_weights, (amount, _)), (optimizers.adam_update, rules)]:
            return Rules(amount, *rules)
    return None


def first_of(
    epochs: list[Callable[..., tuple[Array, State, Array] | None]],
) -> Callable[..., tuple[Array, State, Array] | None]:
    """The epoch as the first of these does it that does not return None."""

    def epoch(*args: Any) -> tuple[Array, State, Array] | None:
        return next((done for one in epochs if (done := one(*args)) is not None), None)

    return epoch


def one_by_one(
    epoch: Callable[..., tuple[Array, State, Array] | None], network: Network
) -> Callable[..., tuple[Array, State, Array] | None]:
    """That epoch of one network, also for the networks of params (K, P), one after the other.

    They have nothing to do with each other, and one alone stays in the cache. Together they draw
    other numbers for dropout than each alone: for those it returns None, having done nothing.
    """
    random = draws(network)

    def epochs(params: Array, state: State, data: Any, order: Array) -> Any:
        if params.ndim == 1:
            return epoch(params, state, data, order)
        if random or params.ndim != 2:
            return None
        step, records = state.step, []
        for member in zip(params, *state.slots, strict=True):
            done = epoch(member[0], State(state.step, member[1:]), data, order)
            if done is None:
                return None
            after, (step, slots), record = done
            for place, values in zip(member, (after, *slots), strict=True):
                if values is not place:
                    place[...] = values
            records.append(record)
        return (params, State(step, state.slots), np.stack(records, axis=-1)) if records else None

    return epochs


class Count:
    """The step counter of a run on the host, which asks the device for it in the first epoch alone:
    nothing else in an epoch makes the host wait."""

    def __init__(self) -> None:
        self._left: Any = None  # what `after` gave last
        self._value = 0

    def of(self, step: Array) -> np.int32:
        """The value of a counter ()."""
        if step is not self._left:
            self._value = int(step)
        return np.int32(self._value)

    def after(self, step: Array, n: int) -> Array:
        """The counter that `of` was last asked for, n steps later."""
        self._value += n
        self._left = step + n
        return self._left


def each_step(numbers: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The numbers of one step after the other, endless where they are the same in each.

    Those of vectors are Python's own: NumPy's take three times as long to calculate with.
    """
    return zip(
        *(np.asarray(x).tolist() if np.ndim(x) else repeat(x) for x in numbers), strict=False
    )


def step_of(
    network: Network, loss: Loss, *, ops: Ops, l2: float
) -> Callable[..., tuple[Array, Any, Array, tuple[Array, Array, Array | None]]]:
    """The step (params, slots, data, index, key, updates) -> (params, slots, value, (Z, Y,
    weights)): what the loss and the metric of its minibatch are computed from.

    updates: functions as of `updates_of`, each with an iterator over the numbers of the steps.
    """

    def step(params: Array, slots: Any, data: Any, index: Array, key: Any, updates: Any) -> Any:
        X, Y, weights = ops[minibatch](*data, index, params.dtype)
        value, grads, Z = value_and_grad(
            network, loss, params, X, Y, weights, ops=ops, l2=l2, key=key
        )
        for f, numbers in updates:
            if f is optimizers.clip_by_global_norm:
                grads = ops[f](grads, *next(numbers))
            elif f is optimizers.shrink_weights:
                params = ops[f](params, *next(numbers))
            elif slots:
                params, *slots = ops[f](params, grads, *slots, *next(numbers))
            else:
                params = ops[f](params, grads, *next(numbers))
        return params, slots, value, (Z, Y, weights)

    return step


def epoch_of(
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    ops: Ops,
    batch_size: int,
    *,
    l2: float,
    metric: Metric | None,
    seed: int,
    count: Count | None = None,
) -> Callable[..., tuple[Array, State, Array] | None]:
    """The epoch (params, state, data, order) -> (params, state, records), as of `compile_epoch`.

    It returns None, having done nothing, for several networks, and where `updates_of` does.
    count: of the run; None: that of this epoch alone.
    """
    n_weights, xp = layout(network).n_weights, ops.xp
    on_host = xp.__name__ in (np.__name__, host.__name__)
    step = step_of(network, loss, ops=ops, l2=l2)
    random, count = draws(network), Count() if count is None else count

    def epoch(params: Array, state: State, data: Any, order: Array) -> Any:
        if params.ndim != 1:
            return None
        ops[renew](params)
        batches = bounds(order.shape[0], batch_size)
        number = count.of(state.step)
        now = State(number, state.slots)
        updates = updates_of(optimizer, params, now, len(batches), n_weights, xp=host)
        if updates is None:
            return None
        updates = [(f, each_step(numbers)) for f, numbers in updates]
        slots, records = state.slots, []
        for start, stop in batches:
            key = Key(seed, number) if random else None
            params, slots, value, outcome = step(
                params, slots, data, order[start:stop], key, updates
            )
            records.append(value)
            if metric is not None:
                records.append(metric.function(*outcome, xp=xp))
            number += 1
        # NumPy makes an array of numbers faster than it stacks them.
        records = np.array(records) if on_host else xp.stack(records)
        if metric is not None:
            records = xp.reshape(records, (len(batches), 2))
        return params, State(count.after(state.step, len(batches)), tuple(slots)), records

    return epoch
