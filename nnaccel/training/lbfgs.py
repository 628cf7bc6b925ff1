"""L-BFGS on the flat parameter vector, on the device of the vector.

    for iterate in minimize(objective, params, xp=xp):
        print(iterate.number, iterate.value)      # stop, log, save: ordinary code around a loop

Curvature pairs, directions and trial points stay on the device. Only the numbers that decide reach
the host: the objective and its slope for each evaluation, the largest gradient for each iteration.
Source: Nocedal, Wright, Numerical Optimization (2006), algorithms 7.4, 7.5, 3.5, 3.6.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from nnaccel.devices.device import to_host
from nnaccel.typing import Array, Namespace

Objective = Callable[[Array], tuple[Array, Array]]

ARMIJO, CURVATURE = 1e-3, 0.9  # constants of the strong Wolfe conditions, as in L-BFGS-B
TRIALS = 20  # evaluations in one line search

CONVERGED, LIMIT, ABNORMAL = 0, 1, 2  # the codes of scipy.optimize's L-BFGS-B


class Iterate(NamedTuple):
    """An iterate. `status` is None, except in the last iterate, where it says why the search
    ended."""

    number: int  # iterations done
    params: Array
    value: float
    n_evaluations: int
    status: int | None = None
    message: str = ""


class Point(NamedTuple):
    """A trial point of the line search at `step` along the direction. Scalars are on the host."""

    step: float
    params: Array
    grads: Array
    value: float
    slope: float  # of the objective along the direction


class Pair(NamedTuple):
    """A step s (P,), the change y (P,) of the gradient along it, s.y and y.y, all on the device."""

    s: Array
    y: Array
    sy: Array
    yy: Array


def minimize(
    objective: Objective,
    params: Array,
    *,
    xp: Namespace,
    max_iter: int = 200,
    max_fun: int = 15_000,
    tol: float = 1e-5,
    value_tol: float | None = None,
    memory: int = 10,
) -> Iterator[Iterate]:
    """Yields iterates, at least one, that minimise `objective(params) -> (value (), gradient
    (P,))`.

    params: (P,), never overwritten. The objective may overwrite arrays that it has returned. It
    ends when no |gradient| is above `tol`; when an iteration lowers the value by less than
    `value_tol` max(1, |value|), by default 1e7 times the machine epsilon of float64, or one epsilon
    of float32; after `max_iter` iterations; or after the iteration in which evaluations exceed
    `max_fun`.
    """
    epsilon = float(xp.finfo(params.dtype).eps)
    value_tol = max(1e7 * 2.0**-52, epsilon) if value_tol is None else value_tol
    pairs: deque[Pair] = deque(maxlen=memory)
    value, grads, n_evaluations = *_evaluate(objective, params), 1
    value = float(to_host(value))
    if not math.isfinite(value):
        yield Iterate(0, params, value, 1, ABNORMAL, "ABNORMAL: the first value is not finite")
        return
    number, status, message = 0, None, ""
    if _largest(grads, xp) <= tol:
        status, message = CONVERGED, "CONVERGENCE: NORM OF GRADIENT <= TOL"
    while status is None:
        direction = two_loop(grads, pairs)
        slope = _slope(grads, direction)
        if not slope < 0.0:  # rounding has spoilt the curvature: restart
            pairs.clear()
            direction = -grads
            slope = _slope(grads, direction)
        start = Point(0.0, params, grads, value, slope)
        first = 1.0
        if not pairs:  # along -grads: first a step of length 1, as in L-BFGS-B
            unit = 1.0 / math.sqrt(-slope)
            first = unit if number == 0 else min(1.0, unit)
        found, evaluations = line_search(objective, start, direction, first, epsilon, xp)
        n_evaluations += evaluations
        if found is None:
            if pairs:
                pairs.clear()
                continue
            status, message = ABNORMAL, "ABNORMAL: the line search found no lower value"
            break
        number += 1
        pair = _pair(found.params - params, found.grads - grads)
        sy, yy = _on_host(pair.sy, pair.yy, xp=xp)
        if sy > epsilon * yy:
            pairs.append(pair)
        fall, params, grads = value - found.value, found.params, found.grads
        size, value = max(abs(value), abs(found.value), 1.0), found.value
        # The limits are checked first, as in SciPy: a run that they end has not converged.
        if number >= max_iter:
            status, message = LIMIT, "STOP: TOTAL NO. OF ITERATIONS REACHED LIMIT"
        elif n_evaluations > max_fun:
            status, message = LIMIT, "STOP: TOTAL NO. OF F,G EVALUATIONS EXCEEDS LIMIT"
        elif _largest(grads, xp) <= tol:
            status, message = CONVERGED, "CONVERGENCE: NORM OF GRADIENT <= TOL"
        elif fall <= value_tol * size:
            status, message = CONVERGED, "CONVERGENCE: RELATIVE REDUCTION OF VALUE <= VALUE_TOL"
        else:
            yield Iterate(number, params, value, n_evaluations)
    yield Iterate(number, params, value, n_evaluations, status, message)


def two_loop(grads: Array, pairs: deque[Pair]) -> Array:
    """-H grads (P,), where H is the inverse Hessian that the pairs describe; -grads without pairs.

    Source: Nocedal, Wright (2006), algorithm 7.4, H_0 = (s.y / y.y) I of the newest pair.
    """
    q, alphas = -grads, []
    for pair in reversed(pairs):
        alpha = (pair.s @ q) / pair.sy
        q = q - alpha * pair.y
        alphas.append(alpha)
    if pairs:
        q = (pairs[-1].sy / pairs[-1].yy) * q
    for pair, alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + (alpha - (pair.y @ q) / pair.sy) * pair.s
    return q


def line_search(
    objective: Objective, start: Point, direction: Array, step: float, epsilon: float, xp: Namespace
) -> tuple[Point | None, int]:
    """A point along `direction` that meets the strong Wolfe conditions, and the number of
    evaluations.

    It brackets a point, then narrows with cubic interpolation (algorithms 3.5 and 3.6). Where
    rounding hides the decrease, a value that exceeds the first one by at most `epsilon` counts as
    lower if the slopes agree (Hager, Zhang, SIAM J. Optim. 16 (2005), eq. 4.1). The point is None
    if no lower one is found.
    """
    noise = 4.0 * epsilon * max(1.0, abs(start.value))

    def falls(p: Point) -> bool:
        if p.value <= start.value + ARMIJO * p.step * start.slope:
            return True
        return p.value <= start.value + noise and p.slope <= (2.0 * ARMIJO - 1.0) * start.slope

    low, high, ceiling = start, None, math.inf  # high: the far end of the bracket
    for n in range(1, TRIALS + 1):
        at = _point(objective, start, direction, step, xp)
        if not (math.isfinite(at.value) and math.isfinite(at.slope)):
            ceiling, step = step, low.step + 0.1 * (step - low.step)
            continue
        before = low
        if not falls(at) or (low is not start and at.value >= low.value):
            high = at
        elif abs(at.slope) <= -CURVATURE * start.slope:
            return at, n
        else:
            if at.slope * ((high.step if high else math.inf) - low.step) >= 0.0:
                high = low
            low = at
        if high is None:
            stride = at.step - before.step
            step = min(max(_cubic(before, at), at.step + stride), at.step + 4.0 * stride)
            step = min(step, 0.5 * (at.step + ceiling))
        else:
            step = _between(low, high)
    return (None if low is start else low), TRIALS


def _between(a: Point, b: Point) -> float:
    """The minimiser of the cubic through two points, kept away from the ends of the interval."""
    left, right = sorted((a.step, b.step))
    margin = 0.1 * (right - left)
    return min(max(_cubic(a, b), left + margin), right - margin)


def _cubic(a: Point, b: Point) -> float:
    """The minimiser of the cubic with the values and slopes at two points (eq. 3.59)."""
    if a.step == b.step:
        return a.step
    d1 = a.slope + b.slope - 3.0 * (a.value - b.value) / (a.step - b.step)
    inside = d1 * d1 - a.slope * b.slope
    if not inside >= 0.0:
        return 0.5 * (a.step + b.step)
    d2 = math.copysign(math.sqrt(inside), b.step - a.step)
    divisor = b.slope - a.slope + 2.0 * d2
    if divisor == 0.0:
        return 0.5 * (a.step + b.step)
    return b.step - (b.step - a.step) * (b.slope + d2 - d1) / divisor


def _point(
    objective: Objective, start: Point, direction: Array, step: float, xp: Namespace
) -> Point:
    params = start.params + step * direction
    value, grads = _evaluate(objective, params)
    return Point(step, params, grads, *_on_host(value, grads @ direction, xp=xp))


def _evaluate(objective: Objective, params: Array) -> tuple[Array, Array]:
    """The objective, with a copy of its gradient."""
    value, grads = objective(params)
    return value, grads + 0.0


def _pair(s: Array, y: Array) -> Pair:
    return Pair(s, y, s @ y, y @ y)


def _slope(grads: Array, direction: Array) -> float:
    return float(to_host(grads @ direction))


def _largest(grads: Array, xp: Namespace) -> float:
    return float(to_host(xp.max(xp.abs(grads))))


def _on_host(*scalars: Array, xp: Namespace) -> list[float]:
    """Scalars as Python numbers, copied to the host together."""
    return to_host(xp.stack(scalars)).tolist()
