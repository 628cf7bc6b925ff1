"""Whole epochs on NumPy and CuPy, with less between the steps than a step at a time can do.

The optimizer is not written again: its own `update` is called once for all steps of the epoch, with
a vector in the place of the step counter, and what it asks of `adam_update` is taken down. So each
step has its numbers on the host: less Python on NumPy, and on CuPy no launches for the step
counter, the schedule and the corrections, each of which would cost as much as a layer.
"""

from collections.abc import Callable
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import numpy as host

from nnaccel import optimizers
from nnaccel.batches import bounds, minibatch
from nnaccel.layers import Dropout
from nnaccel.losses import Loss
from nnaccel.metrics import Metric
from nnaccel.network import Network, layout, value_and_grad
from nnaccel.optimizers import Optimizer, State
from nnaccel.random import Key
from nnaccel.typing import Array, Ops


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
    """The rules of the next steps; None for an optimizer that is not Adam alone, and for one whose
    numbers are not the same for all networks.  state.step: on the host, an array of xp."""
    shrinking: list[Any] = []
    asked: list[Any] = []

    def shrink(params: Array, amount: Any, n_weights: int) -> Array:
        shrinking.append(amount)
        return params

    def adam(params: Array, grads: Array, mu: Array, nu: Array, *rules: Any) -> Any:
        asked.append(rules)
        return params, mu, nu

    class Recorder(Ops):
        def __missing__(self, function: Callable) -> Callable:
            raise NotImplementedError

    recorder = Recorder(xp, {optimizers.shrink_weights: shrink, optimizers.adam_update: adam})
    steps = State(state.step + np.arange(n_steps, dtype=np.int32), state.slots)
    try:
        optimizer.update(params, steps, params, ops=recorder, n_weights=n_weights)
    except (NotImplementedError, TypeError, ValueError):
        return None  # the last two from a schedule that takes one step at a time
    if len(asked) != 1 or len(shrinking) > 1:
        return None
    rules = Rules(shrinking[0] if shrinking else None, *asked[0])
    return None if any(np.ndim(rule) > 1 for rule in rules) else rules


def one_by_one(
    epoch: Callable[..., tuple[Array, State, Array] | None], network: Network
) -> Callable[..., tuple[Array, State, Array] | None]:
    """That epoch of one network, also for the networks of params (K, P), one after the other.

    They have nothing to do with each other, and one alone stays in the cache. Together they draw
    other numbers for dropout than each alone: for those it returns None, having done nothing.
    """
    draws = _draws(network.layers)

    def epochs(params: Array, state: State, data: Any, order: Array) -> Any:
        if params.ndim == 1:
            return epoch(params, state, data, order)
        if draws or params.ndim != 2:
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


def _draws(layers: Any) -> bool:
    """Whether a layer draws random numbers in training."""
    return any(isinstance(x, Dropout) or _draws(getattr(x, "layers", ())) for x in layers)


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
) -> Callable[..., tuple[Array, State, Array] | None]:
    """The epoch (params, state, data, order) -> (params, state, records), as of `compile_epoch`.

    It returns None, having done nothing, for optimizers other than Adam.
    """
    n_weights, xp = layout(network).n_weights, ops.xp
    on_host = xp.__name__ in (np.__name__, host.__name__)

    def epoch(params: Array, state: State, data: Any, order: Array) -> Any:
        if params.ndim != 1:
            return None
        batches = bounds(order.shape[0], batch_size)
        step = np.int32(int(state.step))  # the one time that the host waits for the device
        now = State(step, state.slots)
        rules = rules_of(optimizer, params, now, len(batches), n_weights, xp=host)
        if rules is None:
            return None
        # Python's own numbers: NumPy's take three times as long to calculate with.
        each = zip(
            *(np.asarray(x).tolist() if np.ndim(x) else repeat(x) for x in rules), strict=False
        )
        X, Y, weights, dtype = *data, params.dtype
        slots, records = state.slots, []
        for (start, stop), (shrink, *numbers) in zip(batches, each, strict=False):
            index = order[start:stop]
            x, y, w = ops[minibatch](X, Y, weights, index, dtype)
            value, grads, Z = value_and_grad(
                network, loss, params, x, y, w, ops=ops, l2=l2, key=Key(seed, step)
            )
            records.append(value)
            if metric is not None:
                records.append(metric.function(Z, y, w, xp=xp))
            if shrink is not None:
                params = ops[optimizers.shrink_weights](params, shrink, n_weights)
            params, *slots = ops[optimizers.adam_update](params, grads, *slots, *numbers)
            step += 1
        # NumPy makes an array of numbers faster than it stacks them.
        records = np.array(records) if on_host else xp.stack(records)
        if metric is not None:
            records = xp.reshape(records, (len(batches), 2))
        return params, State(state.step + len(batches), tuple(slots)), records

    return epoch
