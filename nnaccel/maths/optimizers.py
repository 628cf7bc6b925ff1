"""Optimizers: pairs of pure functions on the flat parameter vector.

`init(params, xp=...) -> State` and `update(grads, state, params, ops=..., n_weights=...) ->
(params, state)`. params and grads are (..., P); leading axes are independent networks, and any
hyper-parameter may be an array (K,) or (K, 1), one value for each of K networks. Numbers out of
the range that `RANGES` has for their name are refused when an optimizer is made. Every piece of
state is an array, so a step can be traced by `jit` or captured in a CUDA graph. `update` may
destroy the arrays it is given; keep only what it returns.

The first `n_weights` parameters are weights, the rest biases and gains: `weight_decay` shrinks
the weights alone, by rate * weight_decay at each step, apart from the gradient (Loshchilov,
Hutter, arXiv:1711.05101, algorithm 2). An L2 penalty is part of the objective instead: see
`nnaccel.maths.network.value_and_grad`.
"""

import math
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, NamedTuple, ParamSpec, cast

from nnaccel.arguments import check_options, find
from nnaccel.maths import schedules
from nnaccel.maths.hyper_parameters import (
    AMOUNT,
    INNER_SHARE,
    POSITIVE,
    SHARE,
    UP_TO_ONE,
    Range,
    beside,
    given,
    members_of,
)
from nnaccel.maths.schedules import Rate, Schedule
from nnaccel.maths.updates import (
    adam_update,
    clip_by_global_norm,
    gradient_descent_update,
    lion_update,
    momentum_update,
    nesterov_update,
    rmsprop_update,
    shrink_weights,
)
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace, handle_of

P = ParamSpec("P")


class State(NamedTuple):
    """What an optimizer remembers: the number of updates done, and vectors like params."""

    step: Array  # () int32
    slots: tuple[Array, ...]  # each (..., P)


class Optimizer(NamedTuple):
    """An optimizer as two pure functions; see the module's text for their signatures.

    name: of its equation; what is clipped has that of what it clips.   n_slots: of its state.
    members: K where its hyper-parameters are those of K networks.   None: not known, or any.
    """

    init: Callable[..., State]
    update: Callable[..., tuple[Array, State]]
    name: str = ""
    n_slots: int | None = None
    members: int | None = None


RANGES: dict[str, Range] = {
    "learning_rate": AMOUNT,
    "beta": UP_TO_ONE,
    "beta_1": SHARE,
    "beta_2": SHARE,
    "epsilon": AMOUNT,
    "weight_decay": AMOUNT,
    "max_norm": POSITIVE,
}
# Where an equation asks for more: these would divide by 0.
NARROWER: dict[str, dict[str, Range]] = {
    "adam": {"beta_2": INNER_SHARE},
    "rmsprop": {"beta": SHARE},
}


def once(factory: Callable[P, Optimizer]) -> Callable[P, Optimizer]:
    """The factory, giving the same object for the same numbers: what JAX has compiled for one run
    then serves the next. Hyper-parameters that are arrays make a new one each time. They are
    checked, and so is what a caller's own factory names alike."""
    ranges = RANGES | NARROWER.get(factory.__name__, {})

    def build(*args: Any, **options: Any) -> Optimizer:
        values = given(factory, ranges, args, options)
        made = cast(Any, factory)(**values)
        return made._replace(name=made.name or factory.__name__, members=members_of(values))

    kept = lru_cache(maxsize=64, typed=True)(build)

    @wraps(factory)
    def get(*args: P.args, **options: P.kwargs) -> Optimizer:
        try:
            return kept(*args, **options)
        except TypeError:  # arrays cannot be hashed
            return build(*args, **options)

    return get


@once
def gradient_descent(
    learning_rate: Rate | Schedule = 0.01, *, weight_decay: Rate = 0.0
) -> Optimizer:
    """Plain gradient descent; stochastic when the batches are."""

    def rule(params: Array, grads: Array, state: State, rate: Rate, ops: Ops) -> Any:
        return ops[gradient_descent_update](params, grads, rate), ()

    return _optimizer(rule, 0, learning_rate, weight_decay)


@once
def momentum(
    learning_rate: Rate | Schedule = 0.01, *, beta: Rate = 0.9, weight_decay: Rate = 0.0
) -> Optimizer:
    """Gradient descent with classical momentum (Sutskever et al. 2013)."""

    def rule(params: Array, grads: Array, state: State, rate: Rate, ops: Ops) -> Any:
        b = beside(beta, params, xp=ops.xp)
        params, *slots = ops[momentum_update](params, grads, *state.slots, rate, b)
        return params, slots

    return _optimizer(rule, 1, learning_rate, weight_decay)


@once
def nesterov(
    learning_rate: Rate | Schedule = 0.01, *, beta: Rate = 0.9, weight_decay: Rate = 0.0
) -> Optimizer:
    """Gradient descent with Nesterov momentum (Sutskever et al. 2013)."""

    def rule(params: Array, grads: Array, state: State, rate: Rate, ops: Ops) -> Any:
        b = beside(beta, params, xp=ops.xp)
        params, *slots = ops[nesterov_update](params, grads, *state.slots, rate, b)
        return params, slots

    return _optimizer(rule, 1, learning_rate, weight_decay)


@once
def rmsprop(
    learning_rate: Rate | Schedule = 0.001,
    *,
    beta: Rate = 0.99,
    epsilon: float = 1e-8,
    weight_decay: Rate = 0.0,
) -> Optimizer:
    """RMSProp without momentum (Tieleman, Hinton 2012), in PyTorch's variant."""

    def rule(params: Array, grads: Array, state: State, rate: Rate, ops: Ops) -> Any:
        b, e = (beside(x, params, xp=ops.xp) for x in (beta, epsilon))
        params, *slots = ops[rmsprop_update](params, grads, *state.slots, rate, b, e)
        return params, slots

    return _optimizer(rule, 1, learning_rate, weight_decay)


@once
def adam(
    learning_rate: Rate | Schedule = 0.001,
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: Rate = 0.0,
) -> Optimizer:
    """Adam (Kingma, Ba 2014, algorithm 1); with `weight_decay`, AdamW."""
    for name, number in (("beta_1", beta_1), ("beta_2", beta_2), ("epsilon", epsilon)):
        if getattr(number, "ndim", 0):
            raise ValueError(f"{name} of adam must be one number for all networks, got {number}")
    log_1, log_2 = math.log(beta_1) if beta_1 else -math.inf, math.log(beta_2)

    def rule(params: Array, grads: Array, state: State, rate: Rate, ops: Ops) -> Any:
        # 1 - beta^t as -expm1(t log beta): exact in float32 too, where 1 - 0.999 is not.
        t = ops.xp.astype(state.step + 1, params.dtype)
        corrections = -ops.xp.expm1(t * log_1), -ops.xp.expm1(t * log_2)
        params, *slots = ops[adam_update](
            params, grads, *state.slots, rate, beta_1, beta_2, *corrections, epsilon
        )
        return params, slots

    return _optimizer(rule, 2, learning_rate, weight_decay)


def adamw(
    learning_rate: Rate | Schedule = 0.001,
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: Rate = 0.01,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov, Hutter, arXiv:1711.05101, algorithm 2)."""
    return adam(
        learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, weight_decay=weight_decay
    )


@once
def lion(
    learning_rate: Rate | Schedule = 1e-4,
    *,
    beta_1: Rate = 0.9,
    beta_2: Rate = 0.99,
    weight_decay: Rate = 0.0,
) -> Optimizer:
    """Lion (Chen et al., arXiv:2302.06675, algorithm 2): every parameter moves by the rate.

    Its authors take a third to a tenth of Adam's rate, and three to ten times the weight decay.
    """

    def rule(params: Array, grads: Array, state: State, rate: Rate, ops: Ops) -> Any:
        betas = (beside(b, params, xp=ops.xp) for b in (beta_1, beta_2))
        params, *slots = ops[lion_update](params, grads, *state.slots, rate, *betas)
        return params, slots

    return _optimizer(rule, 1, learning_rate, weight_decay)


@once
def clipped(optimizer: Optimizer, max_norm: Rate) -> Optimizer:
    """The optimizer, its gradient first scaled down to a global norm of at most max_norm."""

    def update(
        grads: Array, state: State, params: Array, *, ops: Ops, n_weights: int
    ) -> tuple[Array, State]:
        norm = beside(max_norm, params, xp=ops.xp)
        grads = ops[clip_by_global_norm](grads, norm)
        return optimizer.update(grads, state, params, ops=ops, n_weights=n_weights)

    return optimizer._replace(update=update)


def _optimizer(
    rule: Callable[..., Any], n_slots: int, learning_rate: Rate | Schedule, weight_decay: Rate
) -> Optimizer:
    """What all optimizers share: the step counter, the schedule, decay, and slots of zeros."""
    schedule: Schedule = (
        learning_rate if callable(learning_rate) else schedules.constant(learning_rate)
    )
    decays = not isinstance(weight_decay, float | int) or weight_decay != 0
    several = getattr(weight_decay, "ndim", 0) > 0

    def init(params: Array, *, xp: Namespace) -> State:
        step = xp.zeros((), dtype=xp.int32, device=handle_of(params))
        return State(step, tuple(xp.zeros_like(params) for _ in range(n_slots)))

    def update(
        grads: Array, state: State, params: Array, *, ops: Ops, n_weights: int
    ) -> tuple[Array, State]:
        rate = schedule(ops.xp.astype(state.step, params.dtype), xp=ops.xp)
        if decays:
            decay = beside(weight_decay, params, xp=ops.xp) if several else weight_decay
            params = ops[shrink_weights](params, rate * decay, n_weights)
        params, slots = rule(params, grads, state, rate, ops)
        return params, State(state.step + 1, tuple(slots))

    return Optimizer(init, update, n_slots=n_slots)


class Row(NamedTuple):
    """An optimizer of the table: `make(learning_rate, **options)`, and its defaults for tables.

    table_rates: on few and on many rows; see `nnaccel.tabular.settings.resolve`.
    table_decay: the weight decay.
    """

    make: Callable[..., Optimizer]
    table_rates: tuple[float, float] = (1e-3, 1e-3)
    table_decay: float = 0.0


OPTIMIZERS: dict[str, Row] = {
    "gd": Row(gradient_descent, (0.5, 0.1)),
    "momentum": Row(momentum, (0.05, 0.05)),
    "nesterov": Row(nesterov, (0.05, 0.05)),
    "rmsprop": Row(rmsprop),
    "adam": Row(adam, (2e-3, 5e-3), 0.05),
    "adamw": Row(adamw, (2e-3, 5e-3), 0.05),
    "lion": Row(lion, (2e-4, 5e-4), 0.5),
}


ALIASES = {"sgd": "gd"}


def canonical(name: str) -> str:
    """The one name of an optimizer that has two."""
    return ALIASES.get(name, name)


def get(optimizer: str | Optimizer, learning_rate: Rate | Schedule, **options: Any) -> Optimizer:
    """The optimizer of that name with its rate and options, or the one given, as it is.

    "sgd" is "gd": what makes gradient descent stochastic is the minibatches.
    ValueError for an unknown name, with the closest known one, and for a number out of its range,
    TypeError for an unknown option.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    optimizer = canonical(optimizer)
    make = find("optimizer", optimizer, OPTIMIZERS).make
    check_options(f"optimizer {optimizer!r}", make, options)
    return make(learning_rate, **options)
