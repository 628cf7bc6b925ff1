"""An optimizer's update rules, traced once for all steps of an epoch.

The optimizer's own `update` is called with a vector of step numbers instead of the step counter,
and its calls of update rules are recorded. So the scalars of each step are known on the host, and
no optimizer is written twice.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.definition import NotSupported, Run
from nnaccel.maths import optimizers
from nnaccel.maths.optimizers import Optimizer, State
from nnaccel.ops import Ops
from nnaccel.typing import Array

# Update rule -> how many of its first arguments are vectors (P,); scalars follow.
VECTORS = {
    optimizers.clip_by_global_norm: 1,  # grads
    optimizers.shrink_weights: 1,  # params
    optimizers.gradient_descent_update: 2,  # params, grads
    optimizers.momentum_update: 3,  # params, grads, and one slot
    optimizers.nesterov_update: 3,
    optimizers.rmsprop_update: 3,
    optimizers.adam_update: 4,
    optimizers.lion_update: 3,
}


def updates_of(
    optimizer: Optimizer,
    params: Array,
    state: State,
    n_steps: int,
    n_weights: int,
    *,
    xp: Any,
    several: bool = False,
) -> list[tuple[Callable, tuple[Any, ...]]]:
    """The update rules of the next steps: functions and their scalars, which may be vectors
    (n_steps,).

    several: whether they may be other numbers for each of K networks, (K, n_steps) or (K, 1).
    NotSupported for those else, and for an optimizer that does something else to its vectors.
    state.step: on the host, an array of xp.
    """
    asked: list[tuple[Callable, tuple[Any, ...]]] = []
    grads: Any = object()  # supports no operation
    given = [params, *state.slots]
    refusal = NotSupported("it does not know the rules of the optimizer")

    def recorded(function: Callable, n: int) -> Callable:
        def rule(*args: Any) -> Any:
            ours = [grads] if function is optimizers.clip_by_global_norm else [params, grads]
            ours = [*ours, *state.slots][:n]
            if len(ours) < n or any(x is not y for x, y in zip(args, ours, strict=False)):
                raise refusal
            asked.append((function, args[n:]))
            return args[0] if n < 3 else (args[0], *args[2:n])

        return rule

    class Recorder(Ops):
        def __missing__(self, function: Callable) -> Callable:
            raise refusal

    recorder = Recorder(xp, {f: recorded(f, n) for f, n in VECTORS.items()})
    steps = State(state.step + np.arange(n_steps, dtype=np.int32), state.slots)
    try:
        after, left = optimizer.update(grads, steps, params, ops=recorder, n_weights=n_weights)
    except (TypeError, ValueError):
        raise NotSupported("its schedule takes one step at a time") from None
    except AttributeError:  # the optimizer used an attribute of the gradient
        raise refusal from None
    kept = [after, *left.slots]
    if len(kept) != len(given) or any(x is not y for x, y in zip(kept, given, strict=True)):
        raise refusal
    if not several and any(np.ndim(x) > 1 for _, numbers in asked for x in numbers):
        raise NotSupported("its numbers differ from network to network")
    return asked


class Rules(NamedTuple):
    """What Adam does in each of the next steps: numbers, or vectors (n_steps,); rate and shrink may
    be (K, n_steps), those of K networks."""

    shrink: Any  # the shares that weights lose to decay, or None
    rate: Any
    beta_1: float
    beta_2: float
    correction_1: Any
    correction_2: Any
    epsilon: float


def rules_of(
    optimizer: Optimizer,
    params: Array,
    state: State,
    n_steps: int,
    n_weights: int,
    *,
    xp: Any,
    several: bool = False,
) -> Rules:
    """The scalars of the next steps, from `updates_of`. Raises NotSupported except for Adam and
    AdamW."""
    match updates_of(optimizer, params, state, n_steps, n_weights, xp=xp, several=several):
        case [(optimizers.adam_update, rules)]:
            return Rules(None, *rules)
        case [(optimizers.shrink_weights, (amount, _)), (optimizers.adam_update, rules)]:
            return Rules(amount, *rules)
    raise NotSupported("the optimizer is not Adam or AdamW")


def check_adam(run: Run, *, several: bool = False) -> None:
    """Raises NotSupported if the optimizer of the run is neither Adam nor AdamW.   several: see
    `updates_of`."""
    check_rules_of_adam(run.optimizer, several=several)


@lru_cache(maxsize=64)
def check_rules_of_adam(optimizer: Optimizer, *, several: bool = False) -> None:
    """Raises NotSupported if an optimizer is neither Adam nor AdamW. Cached, since the check takes
    as long as a step of a small network."""
    params = np.zeros(1)
    # Two steps: a schedule that takes one step at a time refuses them.
    rules_of(optimizer, params, optimizer.init(params, xp=host), 2, 1, xp=host, several=several)


class Count:
    """The step counter of a run on the host. It reads the device's counter in the first epoch
    alone, since each read makes the host wait for the device."""

    def __init__(self) -> None:
        self._left: Any = None  # the last result of `after`
        self._value = 0

    def of(self, step: Array) -> np.int32:
        """The value of a counter (), an array on the device."""
        if step is not self._left:
            self._value = int(step)
        return np.int32(self._value)

    def after(self, step: Array, n: int) -> Array:
        """The counter n steps after the one that `of` read last."""
        self._value += n
        self._left = step + n
        return self._left


def each_step(numbers: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yields the scalars of one step after the other, endlessly where all are the same in each
    step.

    The elements of vectors become Python's numbers: arithmetic with NumPy's scalars takes three
    times as long.
    """
    return zip(
        *(np.asarray(x).tolist() if np.ndim(x) else repeat(x) for x in numbers), strict=False
    )
