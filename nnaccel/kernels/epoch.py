"""Whole epochs on NumPy and CuPy, with less between the steps than a step at a time can do.

The optimizer is not written again: its own `update` is called once for all steps of the epoch, with
a vector in the place of the step counter, and what it asks of its rules is taken down. So each
step has its numbers on the host: less Python on NumPy, and on CuPy no launches for the step
counter, the schedule and the corrections, each of which would cost as much as a layer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.optimizer_trace import Count, each_step, updates_of
from nnaccel.maths import optimizers
from nnaccel.maths.losses import Loss
from nnaccel.maths.metrics import Metric
from nnaccel.maths.minibatch import bounds, minibatch
from nnaccel.maths.network import (
    Network,
    has_random_layers,
    layout,
    set_state,
    take_state,
    value_and_grad,
)
from nnaccel.maths.optimizers import Optimizer, State
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace


def on_epoch_start(params: Array, *, xp: Namespace) -> None:
    """Says that an epoch begins with these parameters. Nothing else has to be done here: it is for
    kernels that keep something made of the parameters, which may have been changed in place since
    the last epoch."""


def first_supported(
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
    random = has_random_layers(network)

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


def step_of(
    network: Network, loss: Loss, *, ops: Ops, l2: float
) -> Callable[..., tuple[Array, Any, Array, tuple[Array, Array, Array | None]]]:
    """The step (params, slots, data, index, key, updates) -> (params, slots, value, (Z, Y,
    weights)): what the loss and the metric of its minibatch are computed from.

    updates: functions as of `updates_of`, each with an iterator over the numbers of the steps.
    """

    n_trained = layout(network).n_trained
    has_state = n_trained < layout(network).size

    def step(params: Array, slots: Any, data: Any, index: Array, key: Any, updates: Any) -> Any:
        X, Y, weights = ops[minibatch](*data, index, params.dtype)
        value, grads, Z = value_and_grad(
            network, loss, params, X, Y, weights, ops=ops, l2=l2, key=key
        )
        following = None
        if has_state:
            grads, following = ops[take_state](grads, n_trained)
        for f, numbers in updates:
            if f is optimizers.clip_by_global_norm:
                grads = ops[f](grads, *next(numbers))
            elif f is optimizers.shrink_weights:
                params = ops[f](params, *next(numbers))
            elif slots:
                params, *slots = ops[f](params, grads, *slots, *next(numbers))
            else:
                params = ops[f](params, grads, *next(numbers))
        if has_state:
            params = ops[set_state](params, following, n_trained)
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
    random, count = has_random_layers(network), Count() if count is None else count

    def epoch(params: Array, state: State, data: Any, order: Array) -> Any:
        if params.ndim != 1:
            return None
        ops[on_epoch_start](params)
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
