"""Losses on logits, each returning its value and its gradient together.

Shapes: Z (..., N, K) logits, Y targets, weights (..., N) or None. Leading axes are independent
problems. Every loss is the mean over the N examples of a per-example loss summed over the K
outputs, and dZ (..., N, K) is the gradient of that mean, so the 1/N is already in it.
Sample weights multiply the per-example losses and the divisor stays N: weights are meant to
average to one over the data set, which keeps the gradient of a minibatch unbiased.
Not checked here: shapes, and whether targets are what `Loss.targets` says, which `train` checks.

The `link` of a loss maps logits to predictions: its inverse link function in the sense of
generalised linear models.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from nnaccel.arguments import check_options, find
from nnaccel.maths.activations import identity, sigmoid
from nnaccel.maths.hyper_parameters import INNER_SHARE, SHARE, Range, check_ranges
from nnaccel.typing import Array, Namespace, Options, freeze, handle_of


class Targets(NamedTuple):
    """What the targets of a loss may be: their kind and their range, which training checks.

    kind: "classes" for class numbers, or probabilities whose rows sum to 1; "labels" for K
    independent probabilities; "numbers".   broadcast: whether one column may serve all K outputs.
    """

    kind: str
    low: float = -math.inf
    high: float = math.inf
    broadcast: bool = False

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
    Metric; None: the loss itself.
    """

    name: str
    function: Callable[..., tuple[Array, Array]]
    link: Callable[..., Array] = identity
    options: Options = ()
    targets: Targets = NUMBERS
    metric: Any = None

    def with_options(self, **options: Any) -> "Loss":
        """The same loss with other parameters: ``huber.with_options(delta=2.0)``.

        Raises TypeError when the loss has no parameter of that name, ValueError for a value out of
        its range.
        """
        check_options(f"loss {self.name!r}", self.function, options)
        check_ranges(RANGES, dict(freeze(options)))
        return self._replace(options=freeze(dict(self.options) | options))


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


def pinball(
    Z: Array,
    Y: Array,
    weights: Array | None = None,
    *,
    xp: Namespace,
    quantile: float | tuple[float, ...] = 0.5,
) -> tuple[Array, Array]:
    """Mean of sum max(q (Y - Z), (q - 1) (Y - Z)), minimised by the q-quantile of Y given X.

    Y: (..., N, K). `quantile` q in (0, 1), one or one an output: Y (..., N, 1) with several
    quantiles trains Z (..., N, K) to give them all at once.
    Source: Koenker, Bassett (1978), Econometrica 46, p. 38.
    """
    q = xp.asarray(quantile, dtype=Z.dtype, device=handle_of(Z))
    R = Z - Y
    slope = xp.astype(R > 0, Z.dtype) - q * xp.astype(R != 0, Z.dtype)
    return average(xp.sum(slope * R, axis=-1), slope, weights, xp=xp)


def average(
    losses: Array, dZ: Array, weights: Array | None, *, xp: Namespace
) -> tuple[Array, Array]:
    """The weighted mean of per-example losses (..., N), and per-example dZ made its gradient."""
    if weights is not None:
        losses = losses * weights
        dZ = dZ * weights[..., None]
    return xp.mean(losses, axis=-1), dZ / dZ.shape[-2]


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
        Loss("pinball", pinball, targets=NUMBERS._replace(broadcast=True), metric="MAE"),
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
