"""The parameters of the estimators: their valid values, and the network and optimizer that they
define."""

import warnings
from functools import lru_cache
from math import inf
from numbers import Integral, Real
from typing import Any

# First, since it says what to install where scikit-learn is missing.
import nnaccel.estimators.array_input  # noqa: F401

# isort: split
from sklearn.metrics import get_scorer_names
from sklearn.utils._param_validation import Interval, Options, StrOptions

from nnaccel.maths import activations, initializers, optimizers, schedules
from nnaccel.maths.minibatch import n_steps
from nnaccel.maths.network import Network, mlp
from nnaccel.maths.optimizers import Optimizer
from nnaccel.maths.precision import PRECISIONS, check_precision
from nnaccel.typing import Array, Namespace

SMALLEST = 2.0**-126  # the smallest normal number of float32
STOCHASTIC = ("sgd", "adam", *optimizers.OPTIMIZERS)
ACTIVATION = {"logistic": "sigmoid"}  # scikit-learn's name -> ours
SCHEDULES = ("constant", "invscaling", "adaptive")  # scikit-learn's, for solver="sgd"

CONSTRAINTS: dict[str, Any] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions({"logistic", *activations.ACTIVATIONS}), list, tuple],
    "solver": [StrOptions({"lbfgs", *STOCHASTIC})],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({*SCHEDULES, *schedules.SCHEDULES}), callable],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {inf})],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "device": [str, None],
    "dtype": [StrOptions({"float32", "float64"}), None],
    "precision": [StrOptions({*PRECISIONS})],
    "kernels": ["boolean", StrOptions({"numpy"})],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    "initializer": [StrOptions({"auto", *initializers.INITIALIZERS}), None],
    "callbacks": [list, tuple, callable, None],
}


def keep_parameters(estimator: Any, parameters: dict[str, Any]) -> None:
    """Set the constructor's arguments, its `locals()`, unchanged as attributes, as scikit-learn
    requires."""
    for name, value in parameters.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


def is_stochastic(estimator: Any) -> bool:
    """True for a stochastic solver. Raises AttributeError for another, which has no
    `partial_fit`."""
    if estimator.solver not in STOCHASTIC:
        raise AttributeError(
            f"partial_fit is only available for stochastic optimizers. {estimator.solver} is not "
            "stochastic."
        )
    return True


def check_solver_precision(solver: str, precision: str, dtype: str) -> None:
    """Raises ValueError for a precision that the dtype or the solver does not support."""
    check_precision(precision, dtype)
    if solver == "lbfgs" and precision != "float32":
        raise ValueError(
            f"precision={precision!r} is for the stochastic solvers, got solver='lbfgs', "
            "whose line search lives on small differences of the loss; choose solver='adam', "
            "or leave precision out"
        )


def layer_sizes(hidden_layer_sizes: Any) -> list[int]:
    """The units of each hidden layer."""
    sizes = hidden_layer_sizes
    sizes = [sizes] if isinstance(sizes, Integral) else list(sizes)
    if not all(isinstance(size, Integral) for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes must be whole numbers, one for each hidden layer, got {sizes}"
        )
    if any(size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def network_of(estimator: Any, n_features: int, sizes: list[int], n_outputs: int) -> Network:
    """The network of an estimator, with hidden layers of these sizes."""
    given = estimator.activation
    names = (given,) * len(sizes) if isinstance(given, str) else tuple(given)
    if len(names) != len(sizes):
        raise ValueError(
            f"activation must be one name or one for each of the {len(sizes)} hidden layers, "
            f"got {len(names)} names"
        )
    initializer = estimator.initializer or "glorot_uniform"
    rest = names, float(estimator.dropout), initializer
    return network(n_features, tuple(sizes), n_outputs, *rest)


@lru_cache(maxsize=64)
def network(
    n_inputs: int,
    hidden: tuple[int, ...],
    n_outputs: int,
    activation: tuple[Any, ...],
    dropout: float,
    initializer: str,
) -> Network:
    """`mlp` with scikit-learn's names of activations. Cached, since each prediction needs it."""
    return mlp(
        n_inputs,
        hidden,
        n_outputs,
        activation=[activations.get(str(ACTIVATION.get(name, name))) for name in activation],
        dropout=dropout,
        initializer=initializer,
    )


def batch_size_of(batch_size: Any, N: int) -> int:
    """The number of examples in a step, at most N."""
    if batch_size == "auto":
        return min(200, N)
    if batch_size > N:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=5,
        )
    return int(min(batch_size, N))


def optimizer_of(estimator: Any, N: int, batch_size: int, *, incremental: bool) -> Optimizer:
    """The optimizer of a run over N examples, which begins with the current learning rate."""
    rate = learning_rate_of(estimator, N, n_steps(N, batch_size, 1), incremental=incremental)
    decay = estimator.weight_decay
    options: dict[str, Any] = {"weight_decay": decay} if decay else {}
    name = estimator.solver
    if name == "sgd":
        name = "nesterov" if estimator.nesterovs_momentum else "momentum"
        name = name if estimator.momentum else "gd"
    if name in ("momentum", "nesterov"):
        options["beta"] = estimator.momentum
    elif name in ("adam", "adamw"):
        options |= {"beta_1": estimator.beta_1, "epsilon": estimator.epsilon}
        # Adam takes its logarithm. For the moments this is equal to the 0 that scikit-learn allows.
        options["beta_2"] = max(estimator.beta_2, SMALLEST)
    optimizer = optimizers.get(name, rate, **options)
    clip_norm = estimator.clip_norm
    return optimizers.clipped(optimizer, clip_norm) if clip_norm else optimizer


def learning_rate_of(estimator: Any, N: int, steps: int, *, incremental: bool) -> Any:
    """The learning rate, a number or a schedule.   steps: of an epoch."""
    rate, schedule = estimator._rate, estimator.learning_rate
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        return schedules.get(schedule, rate, steps * estimator.max_iter)
    if schedule == "invscaling" and estimator.solver == "sgd":
        if incremental:
            return rate / (estimator.t_ + 1) ** estimator.power_t
        return inverse_scaling(rate, estimator.power_t, N, steps, estimator.t_)
    return rate


def inverse_scaling(rate: float, power: float, N: int, steps: int, seen: int) -> schedules.Schedule:
    """rate / (t + 1)^power, where t is the number of examples seen before this epoch, `seen` at the
    start.

    This is scikit-learn's 'invscaling': all `steps` of an epoch have the same rate.
    """

    def schedule(step: Array, *, xp: Namespace) -> Array:
        t = xp.floor(step / steps) * N + seen * (0.0 * step + 1.0)
        return rate * xp.exp(-power * xp.log1p(t))

    return schedule
