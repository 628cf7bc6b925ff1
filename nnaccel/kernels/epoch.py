"""Epochs whose optimizer is traced once: the scalars of all steps are computed on the host
beforehand.

This leaves less Python between steps on NumPy. On CuPy it saves the launches for the step counter,
the schedule and the bias corrections, each of which would cost as much as a layer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.definition import Epoch, FusedEpoch, NotSupported, Run, one_l2
from nnaccel.kernels.optimizer_trace import Count, each_step, updates_of
from nnaccel.maths import optimizers
from nnaccel.maths.minibatch import bounds, minibatch
from nnaccel.maths.network import (
    Network,
    draws_alike,
    has_random_layers,
    layout,
    set_state,
    take_state,
    value_and_grad,
    weigh,
)
from nnaccel.maths.optimizers import State
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace


def on_epoch_start(params: Array, *, xp: Namespace) -> None:
    """Announces that an epoch begins with these parameters (P,). The definition does nothing. A
    kernel that keeps values computed from the parameters renews them here, since the caller may
    have changed the parameters in place since the last epoch."""


def network_by_network(epoch: Epoch, network: Network) -> Epoch:
    """Extends an epoch of one network to params (K, P): it trains the K networks one after the
    other.

    The networks are independent, and one alone stays in the cache. The random numbers of dropout
    are the same for all of them. The epoch raises NotSupported where a layer may draw different
    numbers for each network.
    """
    alike = draws_alike(network)

    def epoch_of_each_network(params: Array, state: State, data: Any, order: Array) -> Any:
        if params.ndim == 1:
            return epoch(params, state, data, order)
        if not alike or params.ndim != 2 or not params.shape[0]:
            raise NotSupported("several networks draw random numbers together")
        step, records = state.step, []
        for k, member in enumerate(zip(params, *state.slots, strict=True)):
            done = epoch(member[0], State(state.step, member[1:]), data_of(data, k), order)
            after, (step, slots), record = done
            for place, values in zip(member, (after, *slots), strict=True):
                if values is not place:
                    place[...] = values
            records.append(record)
        return params, State(step, state.slots), np.stack(records, axis=-1)

    return epoch_of_each_network


def data_of(data: Any, k: int) -> Any:
    """The examples (X, Y, weights) of network k: weights (N, K) become its weights (N,)."""
    X, Y, weights = data
    if weights is not None and weights.ndim == 2:
        weights = np.ascontiguousarray(weights[:, k])
    return X, Y, weights


def step_of(
    run: Run, *, ops: Ops
) -> Callable[..., tuple[Array, Any, Array, tuple[Array, Array, Array | None]]]:
    """The step (params, slots, data, index, key, updates) -> (params, slots, value, (Z, Y,
    weights)).

    value: the loss of the minibatch.   Z, Y, weights: its logits, targets and sample weights, for
    the metric.   updates: the functions of `updates_of`, each with an iterator over the scalars of
    the steps. Raises NotSupported where each network has its own l2.
    """
    network, loss, l2 = run.network, run.loss, one_l2(run.l2)
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
        if (share := run.share(index.shape[0])) != 1.0:
            grads = ops[weigh](grads, share)
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


def traced_epoch(
    run: Run, ops: Ops, stack: Callable[..., Array], count: Count | None = None
) -> FusedEpoch:
    """The epoch as a loop over steps, with the scalars of the optimizer computed for all steps at
    once.

    The epoch raises NotSupported for several networks, and for an optimizer that `updates_of`
    refuses.
    stack: joins the records of the steps to one array.   count: the step counter of the run; None:
    a new one.
    """
    n_weights, xp = layout(run.network).n_weights, ops.xp
    step = step_of(run, ops=ops)
    random, count = has_random_layers(run.network), Count() if count is None else count

    def epoch_of_traced_steps(params: Array, state: State, data: Any, order: Array) -> Any:
        if params.ndim != 1:
            raise NotSupported("there are several networks")
        batches = bounds(order.shape[0], run.batch_size)
        number = count.of(state.step)
        now = State(number, state.slots)
        updates = updates_of(run.optimizer, params, now, len(batches), n_weights, xp=host)
        updates = [(f, each_step(numbers)) for f, numbers in updates]
        ops[on_epoch_start](params)
        slots, records = state.slots, []
        for start, stop in batches:
            key = Key(run.seed, number) if random else None
            params, slots, value, outcome = step(
                params, slots, data, order[start:stop], key, updates
            )
            records.append(value)
            if run.metric is not None:
                records.append(run.metric.function(*outcome, xp=xp))
            number += 1
        records = stack(records)
        if run.metric is not None:
            records = xp.reshape(records, (len(batches), 2))
        return params, State(count.after(state.step, len(batches)), tuple(slots)), records

    return FusedEpoch(f"steps, {ops.name}", epoch_of_traced_steps)
