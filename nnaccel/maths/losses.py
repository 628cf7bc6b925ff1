"""Losses on logits, each returning its value and its gradient together.

Shapes: Z (..., N, K) logits, Y targets, weights (..., N) or None. Leading axes are independent
problems. Every loss is the mean over the N examples of a per-example loss summed over the K
outputs, and dZ (..., N, K) is the gradient of that mean, so the 1/N is already in it.
Sample weights multiply the per-example losses and the divisor stays N: weights are meant to
average to one over the data set, which keeps the gradient of a minibatch unbiased.
Not checked here: shapes, and whether targets are what `Loss.targets` says, which `train` checks.

The `link` of a loss maps logits to predictions: its inverse link function in the sense of
generalised linear models.

Losses that need several outputs for each target are in `uncertainty.py`.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from inspect import signature
from itertools import pairwise
from typing import Any, NamedTuple

from nnaccel.arguments import check_options, find
from nnaccel.maths.activations import identity, sigmoid
from nnaccel.maths.average import average
from nnaccel.maths.hyper_parameters import INNER_SHARE, SHARE, Range, check_ranges
from nnaccel.maths.uncertainty import (
    ascending,
    blocks_of,
    gaussian,
    mean_and_variance,
    mean_of_networks,
    middle,
    mixture,
    pinball,
)
from nnaccel.typing import Array, Namespace, Options, freeze, handle_of


class Targets(NamedTuple):
    """What the targets of a loss may be: their kind and their range, which training checks.

    kind: "classes" for class numbers, or probabilities whose rows sum to 1; "labels" for K
    independent probabilities; "numbers".
    """

    kind: str
    low: float = -math.inf
    high: float = math.inf

    @property
    def bounded(self) -> bool:
        return self.low > -math.inf or self.high < math.inf

    @property
    def in_words(self) -> str:
        """The range, as in "Y must hold numbers from 0 to 1"."""
        what = "numbers" if self.kind == "numbers" else "probabilities"
        if self.low == -math.inf:
            return f"{what} of at most {self.high:g}" if self.bounded else f"finite {what}"
        if self.high == math.inf:
            return f"{what} of at least {self.low:g}"
        return f"{what} from {self.low:g} to {self.high:g}"


CLASSES = Targets("classes", 0.0, 1.0)
LABELS = Targets("labels", 0.0, 1.0)
NUMBERS = Targets("numbers")
AMOUNTS = Targets("numbers", 0.0, math.inf)


class Loss(NamedTuple):
    """A loss: `function(Z, Y, weights, *, xp, **options) -> (loss, dZ)` and its inverse link.

    `targets` says what Y may be; `metric` is a name in `nnaccel.maths.metrics.METRICS`, or a
    Metric; None: the loss itself. `outputs` is how many outputs a network has for each target, or
    the name of the option that holds a tuple with a value for each of them; the link may take that
    option too. `pool(A, *, xp)` makes one prediction of those of several networks, A (M, ...).
    """

    name: str
    function: Callable[..., tuple[Array, Array]]
    link: Callable[..., Array] = identity
    options: Options = ()
    targets: Targets = NUMBERS
    metric: Any = None
    outputs: int | str = 1
    pool: Callable[..., Array] = mean_of_networks

    @property
    def predict(self) -> Callable[..., Array]:
        """The link with the options of the loss that it takes, `predict(Z, *, xp)`: the same object
        for equal losses."""
        return _bound(self.link, self.options) if self.options else self.link

    @property
    def levels(self) -> tuple[float, ...]:
        """The values of the option that has one for each output, where there are several: the
        quantiles of "pinball". Else ()."""
        if isinstance(self.outputs, int):
            return ()
        value = dict(self.options).get(self.outputs)
        return value if isinstance(value, tuple) else ()

    @property
    def n_outputs(self) -> int:
        """The outputs of a network for each target."""
        return self.outputs if isinstance(self.outputs, int) else len(self.levels) or 1

    def points(self, A: Array) -> Array:
        """The number (..., N, T) that a target is predicted as where there can be but one, from
        predictions A (..., N, P T): the quantile next to the median, else the first output."""
        if self.n_outputs == 1:
            return A
        return blocks_of(A, self.n_outputs)[middle(self.levels) if self.levels else 0]

    def with_options(self, **options: Any) -> "Loss":
        """The same loss with other parameters: ``huber.with_options(delta=2.0)``.

        Raises TypeError when the loss has no parameter of that name, ValueError for a value out of
        its range.
        """
        check_options(f"loss {self.name!r}", self.function, options)
        check_ranges(RANGES, dict(freeze(options)))
        if (name := str(self.outputs)) in options:
            check_levels(name, dict(freeze(options))[name])
        return self._replace(options=freeze(dict(self.options) | options))


@lru_cache(maxsize=64)
def _bound(link: Callable[..., Array], options: Options) -> Callable[..., Array]:
    taken = {name: value for name, value in options if name in signature(link).parameters}
    return partial(link, **taken) if taken else link


def check_levels(name: str, levels: Any) -> None:
    """ValueError for a tuple that is empty, or whose values do not ascend."""
    if not isinstance(levels, tuple):
        return
    if not levels:
        raise ValueError(f"{name} must be one level or more, got none")
    if not all(low < high for low, high in pairwise(levels)):
        given, right = (", ".join(map(str, each)) for each in (levels, sorted({*levels})))
        raise ValueError(f"{name} must ascend, each level once, got {given}; in order: {right}")


def softmax(Z: Array, *, xp: Namespace) -> Array:
    """exp(Z) / sum exp(Z) over the last axis, shifted by the maximum so that it cannot overflow."""
    E = xp.exp(Z - xp.max(Z, axis=-1, keepdims=True))
    return E / xp.sum(E, axis=-1, keepdims=True)


def exponential(Z: Array, *, xp: Namespace) -> Array:
    """exp(Z), the mean of a Poisson variable on the log scale."""
    return xp.exp(Z)


def one_hot(Y: Array, like: Array, *, xp: Namespace) -> Array:
    """Class numbers (..., N) as probabilities (..., N, K), K and the dtype taken from `like`."""
    # int32, for the type of Y may not count to K.
    classes = xp.arange(like.shape[-1], dtype=xp.int32, device=handle_of(like))
    return xp.astype(xp.astype(Y, xp.int32)[..., None] == classes, like.dtype)


def softmax_cross_entropy(
    Z: Array, Y: Array, weights: Array | None = None, *, xp: Namespace, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Mean cross-entropy -sum(Y log softmax(Z)) in nats, with dZ = (softmax(Z) - Y) / N.

    Y: integer classes (..., N), or probabilities (..., N, K) whose rows sum to 1.
    `label_smoothing` s replaces Y by (1 - s) Y + s / K.
    Source: Bishop, PRML (2006), eq. 4.108-4.109; smoothing: arXiv:1512.00567, section 7.
    """
    if xp.isdtype(Y.dtype, "integral"):
        Y = one_hot(Y, Z, xp=xp)
    if label_smoothing:
        Y = (1.0 - label_smoothing) * Y + label_smoothing / Z.shape[-1]
    Z = Z - xp.max(Z, axis=-1, keepdims=True)
    E = xp.exp(Z)
    S = xp.sum(E, axis=-1, keepdims=True)
    losses = xp.sum(Y * (xp.log(S) - Z), axis=-1)
    return average(losses, E / S - Y, weights, xp=xp)


def binary_cross_entropy(
    Z: Array, Y: Array, weights: Array | None = None, *, xp: Namespace
) -> tuple[Array, Array]:
    """Mean of -sum(Y log A + (1 - Y) log(1 - A)), A = sigmoid(Z), with dZ = (A - Y) / N.

    Y: (..., N, K) in [0, 1], K independent labels; K = 1 is the logistic regression of the notes.
    Written as sum(log(1 + exp(Z)) - Y Z), exact for logits of any size.
    Source: Bishop, PRML (2006), eq. 4.90-4.91.
    """
    Y = xp.astype(Y, Z.dtype)
    losses = xp.sum(xp.logaddexp(Z, xp.zeros_like(Z)) - Y * Z, axis=-1)
    return average(losses, sigmoid(Z, xp=xp) - Y, weights, xp=xp)


def squared_error(
    Z: Array, Y: Array, weights: Array | None = None, *, xp: Namespace
) -> tuple[Array, Array]:
    """Mean of sum((Z - Y)^2) / 2, with dZ = (Z - Y) / N.  Y: (..., N, K).

    The half makes the gradient the residual. Source: Bishop, PRML (2006), eq. 5.11.
    """
    R = Z - Y
    return average(0.5 * xp.sum(R * R, axis=-1), R, weights, xp=xp)


def absolute_error(
    Z: Array, Y: Array, weights: Array | None = None, *, xp: Namespace
) -> tuple[Array, Array]:
    """Mean of `sum |Z - Y|`, with dZ = sign(Z - Y) / N, 0 where they are equal.  Y: (..., N, K)."""
    R = Z - Y
    return average(xp.sum(xp.abs(R), axis=-1), xp.sign(R), weights, xp=xp)


def huber(
    Z: Array, Y: Array, weights: Array | None = None, *, xp: Namespace, delta: float = 1.0
) -> tuple[Array, Array]:
    """Mean of sum h(Z - Y), `h(r) = r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2)`.

    Y: (..., N, K); delta in the units of Y. With c = clip(r, -delta, delta) both cases are
    h = c (r - c / 2) and h' = c. Source: Huber (1964), Ann. Math. Stat. 35, p. 75.
    """
    R = Z - Y
    bound = delta * xp.ones_like(R)
    C = xp.minimum(xp.maximum(R, -bound), bound)
    return average(xp.sum(C * (R - 0.5 * C), axis=-1), C, weights, xp=xp)


def poisson(
    Z: Array, Y: Array, weights: Array | None = None, *, xp: Namespace
) -> tuple[Array, Array]:
    """Mean half Poisson deviance, sum(exp(Z) - Y - Y Z + Y log Y), with dZ = (exp(Z) - Y) / N.

    Y: (..., N, K), not negative; the prediction is exp(Z). Zero when the prediction is Y.
    Source: McCullagh, Nelder, Generalized Linear Models (1989), table 2.1.
    """
    Y = xp.astype(Y, Z.dtype)
    mean = xp.exp(Z)
    Y_log_Y = Y * xp.log(Y + xp.astype(Y == 0, Y.dtype))
    return average(xp.sum(mean - Y - Y * Z + Y_log_Y, axis=-1), mean - Y, weights, xp=xp)


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss(
            "softmax_cross_entropy",
            softmax_cross_entropy,
            softmax,
            targets=CLASSES,
            metric="accuracy",
        ),
        Loss(
            "binary_cross_entropy",
            binary_cross_entropy,
            sigmoid,
            targets=LABELS,
            metric="label_accuracy",
        ),
        Loss("squared_error", squared_error, metric="RMSE"),
        Loss("absolute_error", absolute_error, metric="MAE"),
        Loss("huber", huber, metric="RMSE"),
        Loss("poisson", poisson, exponential, targets=AMOUNTS, metric="RMSE"),
        Loss("pinball", pinball, ascending, metric="MAE", outputs="quantile"),
        Loss("gaussian", gaussian, mean_and_variance, metric="RMSE", outputs=2, pool=mixture),
    )
}


# What the parameters of these losses may be: in words, and whether a number is.
RANGES: dict[str, Range] = {
    "delta": Range("above 0", lambda v: v > 0),
    "quantile": Range("between 0 and 1", INNER_SHARE.holds),
    "label_smoothing": SHARE,
}


def get(loss: str | Loss, **options: Any) -> Loss:
    """The loss of that name, or the one given, with its parameters set.

    Raises ValueError for an unknown name, with the closest known one, and for a parameter out of
    its range, TypeError for an unknown parameter.
    """
    if not isinstance(loss, Loss):
        loss = find("loss", loss, LOSSES)
    return loss.with_options(**options) if options else loss
