"""What MLPClassifier and MLPRegressor share: input, the two kinds of solvers, stopping, devices.

A fitted estimator is its public attributes: predictions are computed from `coefs_` and
`intercepts_`, which live on the device that trained them. Base classes, validation and scores are
scikit-learn's; the network, its training and the door to devices are those of the floors below.
"""

import warnings
from collections.abc import Callable, Iterator
from math import inf
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from nnaccel.estimators.array_input import (
    check_foreign,
    check_weights,
    float_dtype,
    is_foreign,
    kept,
    moved,
    on_host,
    take,
)

# First, since it says what to install where scikit-learn is missing.
from nnaccel.training.device_errors import explain_device_errors

# isort: split
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import _array_api, check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import (
    check_is_fitted,
    check_X_y,
    column_or_1d,
    validate_data,
)

from nnaccel.devices.device import Device, device_of, dtype_name, dtype_of, prepare, select, to_host
from nnaccel.estimators.callbacks import Watch
from nnaccel.kernels.backend import Backend, backend_of
from nnaccel.maths import activations, initializers, losses, optimizers, schedules
from nnaccel.maths.layers import Chain, Dense
from nnaccel.maths.losses import Loss
from nnaccel.maths.minibatch import bounds, n_steps
from nnaccel.maths.network import Network, flatten, l2_penalty, layout, mlp, value_and_grad, views
from nnaccel.maths.optimizers import Optimizer, State
from nnaccel.maths.precision import PRECISIONS, check_precision
from nnaccel.ops import Ops
from nnaccel.training import lbfgs
from nnaccel.training.data import Data, HostData, put, rows_of
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train
from nnaccel.training.step import initialize
from nnaccel.training.streaming import evaluation_rows, in_order
from nnaccel.typing import Array, Namespace

try:
    from sklearn import callback as _callback

    CallbackSupport: Any = _callback.CallbackSupportMixin
except ImportError:  # a scikit-learn without callbacks: those of the parameter `callbacks` remain
    CallbackSupport = type("CallbackSupport", (), {})


STOCHASTIC = ("sgd", "adam", *optimizers.OPTIMIZERS)
ACTIVATION = {"logistic": "sigmoid"}  # scikit-learn's name: ours
SCHEDULES = ("constant", "invscaling", "adaptive")  # scikit-learn's, for solver="sgd"

ARRAYS = {"coefs_", "intercepts_", "classes_", "_memory"}  # the attributes that hold arrays
CURVES = (
    "loss_curve_",
    "best_loss_",
    "validation_loss_curve_",
    "validation_scores_",
    "best_validation_score_",
)

LINKS = {
    losses.softmax: "softmax",
    losses.sigmoid: "logistic",
    losses.identity: "identity",
    losses.exponential: "exp",
}
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


class FitPlan(NamedTuple):
    """What a fit has decided before it looks at a single number."""

    network: Network
    loss: Loss
    where: Device
    dtype: str


class HeldOut(NamedTuple):
    """Validation data: as they live for the loss, and the codes on the host for the score."""

    data: Data | HostData
    codes: np.ndarray
    weights: np.ndarray | None


class MultilayerPerceptron(CallbackSupport, BaseEstimator):
    """Base of the two estimators; they add what is particular to their targets."""

    hidden_layer_sizes: Any
    activation: Any
    solver: str
    alpha: float
    batch_size: Any
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: Any
    tol: float
    verbose: Any
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    device: str | None
    dtype: str | None
    precision: str
    dropout: float
    weight_decay: float
    clip_norm: float | None
    initializer: str | None
    callbacks: Any

    coefs_: list[Array]
    intercepts_: list[Array]
    loss_: float
    best_loss_: Any
    loss_curve_: list[float]
    validation_loss_curve_: list[float]
    validation_scores_: Any
    best_validation_score_: Any
    t_: int
    n_iter_: int
    n_layers_: int
    n_outputs_: int
    out_activation_: str

    _parameter_constraints: ClassVar[dict[str, Any]] = {
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
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "device": [str, None],
        "dtype": [StrOptions({"float32", "float64"}), None],
        "precision": [StrOptions({*PRECISIONS})],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "initializer": [StrOptions({"auto", *initializers.INITIALIZERS}), None],
        "callbacks": [list, tuple, callable, None],
    }

    def _keep(self, parameters: dict[str, Any]) -> None:
        """The constructor's arguments as attributes, untouched, as scikit-learn wants them."""
        for name, value in parameters.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    # ------------------------------------------------------------------ what a kind of target adds

    def _learn_target(self, y: Any, *, incremental: bool) -> None:
        """Set `n_outputs_`, `out_activation_` and classes from y as validated."""
        raise NotImplementedError

    def _encode(self, y: Any) -> np.ndarray:
        """y as codes: class numbers (N,), labels (N, K) of 0 and 1, or the numbers themselves."""
        raise NotImplementedError

    def _decode(self, Z: Array, *, xp: Namespace) -> Array:
        """Predicted codes from logits."""
        raise NotImplementedError

    def _targets(self, codes: np.ndarray) -> np.ndarray:
        """Codes as the loss takes them."""
        return codes

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _out_activation(self) -> str:
        """scikit-learn's name of the inverse link of the loss."""
        return LINKS[self._loss().link]

    def _weigh(self, y: Any, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """How much each example counts, everything considered."""
        return sample_weight

    def _score(self, y: Any, predicted: Any, sample_weight: Any) -> float:
        """scikit-learn's score of this kind of estimator."""
        raise NotImplementedError

    # ------------------------------------------------------------------ input

    def _check_X(self, X: Any, *, reset: bool) -> Any:
        """X validated by scikit-learn, in the library it came in."""
        if is_foreign(X) and not get_config()["array_api_dispatch"]:
            check_foreign(X, type(self).__name__)
            return validate_data(self, X, reset=reset, skip_check_array=True)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=kept(X), reset=reset)
        return X.tocsr() if hasattr(X, "tocsr") else X

    def _check_X_y(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        """X and y validated by scikit-learn; y comes to the host, where targets are encoded."""
        y, y_numeric = on_host(y), not is_classifier(self)
        if is_foreign(X) and not get_config()["array_api_dispatch"]:
            check_foreign(X, type(self).__name__)
            # As many rows stand in for X, so that y is checked as it always is.
            rows = np.zeros((X.shape[0], 1))
            _, y = check_X_y(rows, y, multi_output=True, y_numeric=y_numeric, estimator=self)
            X = validate_data(self, X, reset=reset, skip_check_array=True)
            return X, (column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=y_numeric,
            dtype=kept(X),
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return (X.tocsr() if hasattr(X, "tocsr") else X), y

    def _where(self, X: Any) -> Device:
        """The device to compute on: the one that was named, else that of X."""
        device = select(self.device, X)
        if self.device is not None and self.dtype is not None:
            prepare(device, self.dtype)
        return device

    def _dtype(self, X: Any, where: Device) -> str:
        """float32 for float32, else float64 as in scikit-learn, where the device has it."""
        if self.dtype is not None:
            return self.dtype
        return "float32" if str(X.dtype).endswith("float32") else float_dtype(where)

    # ------------------------------------------------------------------ fit

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        validation_data: Any = None,
        incremental: bool = False,
    ) -> Any:
        sizes = self._sizes()
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._check_X_y(X, y, reset=first)
        weights = check_weights(sample_weight, X)
        self._learn_target(y, incremental=incremental)
        codes, weights = self._encode(y), self._weigh(y, weights)
        rng = check_random_state(self.random_state)
        where = self._where(X)
        setting = FitPlan(
            self._network(X.shape[1], sizes), self._loss(), where, self._dtype(X, where)
        )
        self._check_precision(setting.dtype)
        with where.context():
            if first:
                self._start(setting, rng)
            else:
                self._check_shape(setting.network)
            held_out = self._held_out(setting, validation_data)
            if self.solver == "lbfgs":
                with explain_device_errors(where, setting.network, setting.dtype):
                    self._fit_lbfgs(setting, X, codes, weights, held_out)
            else:
                self._fit_stochastic(setting, X, codes, weights, held_out, rng, incremental)
            arrays = [*self.coefs_, *self.intercepts_]
            if not all(bool(where.xp.all(where.xp.isfinite(array))) for array in arrays):
                raise ValueError(NOT_FINITE)
        return self

    def _check_precision(self, dtype: str) -> None:
        check_precision(self.precision, dtype)
        if self.solver == "lbfgs" and self.precision != "float32":
            raise ValueError(
                f"precision={self.precision!r} is for the stochastic solvers, got solver='lbfgs', "
                "whose line search lives on small differences of the loss; choose solver='adam', "
                "or leave precision out"
            )

    def _sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return [int(size) for size in sizes]

    def _network(self, n_features: int, sizes: list[int]) -> Network:
        given = self.activation
        names: list[Any] = [given] * len(sizes) if isinstance(given, str) else list(given)
        if len(names) != len(sizes):
            raise ValueError(
                f"activation must be one name or one for each of the {len(sizes)} hidden layers, "
                f"got {len(names)} names"
            )
        known = [activations.get(str(ACTIVATION.get(name, name))) for name in names]
        return mlp(
            n_features,
            sizes,
            self.n_outputs_,
            activation=known,
            dropout=self.dropout,
            initializer=self.initializer or "glorot_uniform",
        )

    def _start(self, setting: FitPlan, rng: Any) -> None:
        """The attributes of a network that has learned nothing yet."""
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(self._sizes()) + 2
        self._rate = self.learning_rate_init
        self._memory = None  # of the optimizer: the solver's name, and its state
        for name in CURVES:
            self.__dict__.pop(name, None)
        params = setting.where.asarray(self._draw(setting.network, rng), setting.dtype)
        self._show(setting, params)

    def _start_curves(self) -> None:
        self.loss_curve_ = []
        self._no_improvement_count = 0
        self.best_loss_ = None if self.early_stopping else inf
        self.validation_scores_ = [] if self.early_stopping else None
        self.best_validation_score_ = -inf if self.early_stopping else None

    def _draw(self, network: Network, rng: Any) -> np.ndarray:
        """Initial parameters (P,) on the host.

        As scikit-learn draws them unless an initializer is named: W and b of a layer uniform
        within sqrt(6 / (fan_in + fan_out)), Glorot and Bengio (2010), eq. 16, and 2 for 6 where
        the activation is the logistic function.
        """
        if self.initializer is not None:
            return initialize(network, self._seed(rng))
        tree: list[Any] = []
        D, factor = network.n_inputs, 2.0 if self.activation in ("logistic", "sigmoid") else 6.0
        for layer in network.layers:
            if not isinstance(layer, Dense):
                tree.append(())
                continue
            bound = np.sqrt(factor / (D + layer.units))
            W = rng.uniform(-bound, bound, (D, layer.units))
            tree.append((W, rng.uniform(-bound, bound, (1, layer.units))))
            D = layer.units
        return flatten(tuple(tree), layout(network), xp=np)

    def _check_shape(self, network: Network) -> None:
        units = [layer.units for layer in network.layers if isinstance(layer, Dense)]
        if [W.shape[1] for W in self.coefs_] != units:
            raise ValueError(
                f"hidden_layer_sizes and the outputs of y give layers of {units} units, but the "
                f"fitted network has {[W.shape[1] for W in self.coefs_]}; set warm_start=False to "
                "begin with a new one"
            )

    def _show(self, setting: FitPlan, params: Array) -> None:
        """Make the flat vector the fitted attributes: views of it, without a copy."""
        xp = setting.where.xp
        tree = [arrays for arrays in views(params, layout(setting.network), xp=xp) if arrays]
        self.coefs_ = [W for W, _ in tree]
        self.intercepts_ = [xp.reshape(b, (-1,)) for _, b in tree]

    def _params(self, setting: FitPlan) -> Array:
        """The fitted attributes as one flat vector."""
        tree = self._tree(setting.network, setting.where, setting.dtype)
        return flatten(tree, layout(setting.network), xp=setting.where.xp)

    def _tree(self, network: Network, where: Device, dtype: str | None = None) -> Any:
        """The fitted attributes as the layers of the network take them."""
        pairs = iter(zip(self.coefs_, self.intercepts_, strict=True))

        def arrays() -> tuple[Array, Array]:
            W, b = next(pairs)
            return where.asarray(W, dtype), where.asarray(b, dtype)[None, :]

        return tuple(arrays() if isinstance(g, Dense) else () for g in network.layers)

    # ------------------------------------------------------------------ solvers

    def _fit_lbfgs(
        self,
        setting: FitPlan,
        X: Any,
        codes: np.ndarray,
        weights: np.ndarray | None,
        held_out: HeldOut | None,
    ) -> None:
        network, loss, where, dtype = setting
        data = put(network, loss, where, dtype, X, self._targets(codes), weights)
        total = X.shape[0] if weights is None else float(weights.sum())
        objective = full_objective(setting, data, self.alpha / total)
        watch = Watch(self, self.max_iter + 1, X, codes, weights)
        watch.begin()
        # Overflow shows in the values, from which the line search steps back.
        with np.errstate(all="ignore"):
            for at in lbfgs.minimize(
                objective,
                self._params(setting),
                xp=where.xp,
                max_iter=self.max_iter,
                max_fun=self.max_fun,
                tol=self.tol,
            ):
                self._show(setting, at.params)
                self.n_iter_, self.loss_ = at.number, at.value
                if self.verbose:
                    print(f"Iteration {at.number}, loss = {at.value:.8f}")
                if held_out is not None:
                    self._validate(setting, held_out)
                stop = watch.end()
                if at.status is not None:
                    result = SimpleNamespace(status=at.status, message=at.message, nit=at.number)
                    self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
                elif stop:
                    break
                else:
                    watch.begin()
        watch.close()

    def _fit_stochastic(
        self,
        setting: FitPlan,
        X: Any,
        codes: np.ndarray,
        weights: np.ndarray | None,
        held_out: HeldOut | None,
        rng: Any,
        incremental: bool,
    ) -> None:
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if not hasattr(self, "loss_curve_") or (
            self.early_stopping == (self.validation_scores_ is None)
        ):
            self._start_curves()
        if self.early_stopping and held_out is None:
            rows, held_rows = self._split(codes, rng)
            held_weights = None if weights is None else weights[held_rows]
            held_out = self._hold_out(setting, take(X, held_rows), codes[held_rows], held_weights)
            X, codes = take(X, rows), codes[rows]
            weights = None if weights is None else weights[rows]
        run = self._runs(setting, X, codes, weights, self._seed(rng), incremental)
        watch = Watch(self, 1 if incremental else self.max_iter, X, codes, weights)
        best = None
        self.n_iter_ = 0
        try:
            epochs = run(self._continued(setting) if incremental else None)
            while self.n_iter_ < (1 if incremental else self.max_iter):
                watch.begin()
                epoch = next(epochs)
                self.n_iter_ += 1
                self.t_ += X.shape[0]
                self.loss_ = epoch.loss
                self.loss_curve_.append(epoch.loss)
                self._memory = self.solver, epoch.state
                self._show(setting, epoch.params)
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
                if held_out is not None:
                    self._validate(setting, held_out, score=self.early_stopping)
                if self._improves() and self.early_stopping:
                    best = epoch.params + 0.0
                if watch.end():
                    break
                if self._no_improvement_count > self.n_iter_no_change:
                    if self._is_final():
                        break
                    self._no_improvement_count = 0
                    epochs = run(epoch)
            else:
                if not incremental:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                        "reached and the optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=2,
                    )
        except KeyboardInterrupt:
            self._memory = None  # the interrupted step may have destroyed it
            warnings.warn("Training interrupted by user.", stacklevel=2)
        except FloatingPointError as error:
            if best is None:
                raise ValueError(NOT_FINITE) from error
            self._memory = None
            self.validation_scores_.append(np.nan)
            warnings.warn(
                f"Stochastic Optimizer: {error}. The weights of the best epoch are kept.",
                ConvergenceWarning,
                stacklevel=2,
            )
        if best is not None:
            self._show(setting, best)
        watch.close()

    def _runs(
        self,
        setting: FitPlan,
        X: Any,
        codes: np.ndarray,
        weights: np.ndarray | None,
        seed: int,
        incremental: bool,
    ) -> Callable[[Epoch | None], Iterator[Epoch]]:
        """Starts the training loop: anew, or after an epoch with the rate that holds by then."""
        network, loss, where, dtype = setting
        N, n_before = X.shape[0], len(self.loss_curve_)
        batch_size = self._batch_size(N)
        if not incremental or self._memory is None or self._memory[0] != self.solver:
            self._memory = None
            self._rate = self.learning_rate_init

        def run(after: Epoch | None) -> Iterator[Epoch]:
            return train(
                network,
                X,
                self._targets(codes),
                loss=loss,
                optimizer=self._optimizer(N, batch_size, incremental),
                epochs=n_before + 1 if incremental else self.max_iter,
                batch_size=batch_size,
                l2=self.alpha / (batch_size * (1.0 if weights is None else float(weights.mean()))),
                sample_weight=weights,
                shuffle=self.shuffle,
                # A warm start is a new run, but not one in the same order again.
                seed=seed if incremental else (seed + n_before) % 2**31,
                device=where,
                dtype=dtype,
                precision=self.precision,
                params=self._params(setting),
                after=after,
            )

        return run

    def _continued(self, setting: FitPlan) -> Epoch:
        """The end of the last `partial_fit` as an epoch to go on from."""
        where, dtype, params = setting.where, setting.dtype, self._params(setting)
        if self._memory is None:
            state = self._optimizer(1, 1, True).init(params, xp=where.xp)
        else:
            step, slots = self._memory[1]
            state = State(where.asarray(step), tuple(where.asarray(s, dtype) for s in slots))
        return Epoch(len(self.loss_curve_), params, state)

    def _seed(self, rng: Any) -> int:
        """Of the order of examples and of dropout."""
        if isinstance(self.random_state, Integral):
            return int(self.random_state) % 2**31
        return rng.randint(2**31 - 1)

    def _split(self, codes: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows to train on and to hold out."""
        rows, held_rows = train_test_split(
            np.arange(codes.shape[0]),
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=codes if is_classifier(self) and self.n_outputs_ == 1 else None,
        )
        if len(held_rows) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return np.asarray(rows), np.asarray(held_rows)

    def _batch_size(self, N: int) -> int:
        if self.batch_size == "auto":
            return min(200, N)
        if self.batch_size > N:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=5,
            )
        return int(min(self.batch_size, N))

    def _optimizer(self, N: int, batch_size: int, incremental: bool) -> Optimizer:
        rate: Any = self._rate
        steps = n_steps(N, batch_size, 1)
        if callable(self.learning_rate):
            rate = self.learning_rate
        elif self.learning_rate not in SCHEDULES:
            rate = schedules.get(self.learning_rate, rate, steps * self.max_iter)
        elif self.learning_rate == "invscaling" and self.solver == "sgd":
            if incremental:
                rate = rate / (self.t_ + 1) ** self.power_t
            else:
                rate = inverse_scaling(rate, self.power_t, N, steps, self.t_)
        options: dict[str, Any] = {"weight_decay": self.weight_decay} if self.weight_decay else {}
        name = self.solver
        if name == "sgd":
            name = "nesterov" if self.nesterovs_momentum else "momentum"
            name = name if self.momentum else "gd"
        if name in ("momentum", "nesterov"):
            options["beta"] = self.momentum
        elif name in ("adam", "adamw"):
            options |= {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        optimizer = optimizers.get(name, rate, **options)
        return optimizers.clipped(optimizer, self.clip_norm) if self.clip_norm else optimizer

    # ------------------------------------------------------------------ stopping and watching

    def _improves(self) -> bool:
        """Count the epochs without improvement; whether this one is the best so far."""
        if self.early_stopping:
            score, best = self.validation_scores_[-1], self.best_validation_score_
            worse = score < best + self.tol
            if is_best := score > best:
                self.best_validation_score_ = score
        else:
            worse = self.loss_ > self.best_loss_ - self.tol
            if is_best := self.loss_ < self.best_loss_:
                self.best_loss_ = self.loss_
        self._no_improvement_count = self._no_improvement_count + 1 if worse else 0
        return is_best

    def _is_final(self) -> bool:
        """Whether a lack of improvement ends the run, or lowers an adaptive rate."""
        what = "Validation score" if self.early_stopping else "Training loss"
        said = (
            f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} "
            "consecutive epochs."
        )
        if self.solver != "sgd" or self.learning_rate != "adaptive":
            final, consequence = True, "Stopping."
        elif self._rate <= 1e-6:
            final, consequence = True, "Learning rate too small. Stopping."
        else:
            self._rate /= 5.0
            final, consequence = False, f"Setting learning rate to {self._rate:f}"
        if self.verbose:
            print(said, consequence)
        return final

    def _held_out(self, setting: FitPlan, validation_data: Any) -> HeldOut | None:
        """The validation data that the user gave, checked and put on the device."""
        if validation_data is None:
            return None
        if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
            raise ValueError(
                "validation_data must be (X, y) or (X, y, sample_weight), got "
                f"{type(validation_data).__name__} instead of such a tuple"
            )
        X, y, *weights = validation_data
        X, y = self._check_X_y(X, y, reset=False)
        sample_weight = check_weights(weights[0] if weights else None, X)
        return self._hold_out(setting, X, self._encode(y), sample_weight)

    def _hold_out(
        self, setting: FitPlan, X: Any, codes: np.ndarray, weights: np.ndarray | None
    ) -> HeldOut:
        data = put(*setting, X, self._targets(codes), weights)
        return HeldOut(data, codes, weights)

    def _validate(self, setting: FitPlan, held_out: HeldOut, *, score: bool = False) -> None:
        """Append to the validation curves, from one forward propagation."""
        network, loss, where, dtype = setting
        data, xp = held_out.data, where.xp
        with np.errstate(all="ignore"):
            Z = xp.concat(list(logits(network, self._tree(network, where), data.X, where, dtype)))
            Y, weights = (None if x is None else where.asarray(x) for x in data[1:])
            value = loss.function(Z, Y, weights, xp=xp, **dict(loss.options))[0]
        if not hasattr(self, "validation_loss_curve_"):
            self.validation_loss_curve_ = []
        self.validation_loss_curve_.append(float(to_host(value)))
        if not score:
            return
        predicted = to_host(self._decode(Z, xp=xp))
        finite = predicted.dtype.kind != "f" or bool(np.isfinite(predicted).all())
        with config_context(array_api_dispatch=False), np.errstate(all="ignore"):
            args = held_out.codes, predicted, held_out.weights
            self.validation_scores_.append(float(self._score(*args)) if finite else np.nan)
        if self.verbose:
            print(f"Validation score: {self.validation_scores_[-1]:f}")

    # ------------------------------------------------------------------ prediction

    def _logits(self, X: Any, method: str) -> tuple[Array, Device]:
        """The logits of X on the device of the estimator, and the device where X came from."""
        check_is_fitted(self)
        if self.device is None and hasattr(_array_api, "check_same_namespace"):  # 1.9 and later
            _array_api.check_same_namespace(X, self, attribute="_first_coef", method=method)
        X = self._check_X(X, reset=False)
        home = device_of(X) if is_foreign(X) else select("cpu")
        where = device_of(self._first_coef) if self.device is None else select(self.device)
        network = self._network(self.n_features_in_, [W.shape[1] for W in self.coefs_[:-1]])
        guard = explain_device_errors(where, network, dtype_name(self._first_coef))
        with guard, where.context(), np.errstate(all="ignore"):
            tree = self._tree(network, where)
            parts = list(logits(network, tree, X, where, tree[0][0].dtype))
            return parts[0] if len(parts) == 1 else where.xp.concat(parts), home

    @property
    def _first_coef(self) -> Array:
        return self.coefs_[0]

    def _score_on_host(self, X: Any, y: Any, sample_weight: Any) -> float:
        """scikit-learn's score, on the host, where it works for arrays of every library."""
        predicted = on_host(self.predict(X))  # pyright: ignore
        with config_context(array_api_dispatch=False):
            return self._score(on_host(y), predicted, on_host(sample_weight))

    # ------------------------------------------------------------------ devices and files

    def to(self, device: str) -> Any:
        """Move the fitted attributes to a device, and compute there from now on.

        Parameters
        ----------
        device : str
            A name for `nnaccel.devices.device.select`, such as "cpu" or "cuda"; it becomes the
            parameter `device`.

        Returns
        -------
        self : estimator
        """
        where = select(device)
        for name in ARRAYS & vars(self).keys():
            setattr(self, name, moved(getattr(self, name), where.asarray))
        self.device = device
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What pickle keeps: every array as NumPy's, so that no device is needed to read it."""
        state = dict(super().__getstate__())  # pyright: ignore
        for name in ARRAYS & state.keys():
            state[name] = moved(state[name], to_host)
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags


# ---------------------------------------------------------------------- computing


def logits(network: Network, tree: Any, X: Any, where: Device, dtype: Any) -> Iterator[Array]:
    """The logits of X, as many rows at a time as bounds the memory.

    tree: the arrays of the layers.   X: of any library, or a CSR matrix.
    """
    ops, chain = Ops(where.xp), Chain(network.layers)
    dtype = dtype_of(where, dtype) if isinstance(dtype, str) else dtype
    ieee_products = backend_of(where.xp).ieee_products
    for start, stop in bounds(X.shape[0], evaluation_rows(X)):
        rows = rows_of(X, slice(start, stop), where, dtype)
        with ieee_products("float32"):
            Z = chain.forward(tree, rows, ops=ops, key=None)[0]
        yield Z


def full_objective(setting: FitPlan, data: Data | HostData, l2: float) -> lbfgs.Objective:
    """The loss over all of the data and its gradient, with the penalty l2/2 |W|^2.

    Summed over parts of the rows, which bounds the memory.
    """
    network, loss, where, dtype = setting
    xp, N, n_weights = where.xp, data.X.shape[0], layout(network).n_weights
    backend = backend_of(xp)
    part = backend.once(compile_value_and_grad, backend, network, loss, dtype_of(where, dtype))
    parts, rows_at_once = in_order(data, where), min(N, evaluation_rows(data.X))

    def objective(params: Array) -> tuple[Array, Array]:
        value = grads = 0.0
        with backend.context(network, rows_at_once):
            for rows in parts():
                share = rows.Y.shape[0] / N
                part_value, part_grads = part(params, *rows)
                value, grads = value + share * part_value, grads + share * part_grads
        return l2_penalty(value, grads, params, l2, n_weights, xp=xp)

    return objective


def compile_value_and_grad(
    backend: Backend, network: Network, loss: Loss, dtype: Any
) -> Callable[..., tuple[Array, Array]]:
    """The function (params, X, Y, weights) -> (loss, gradient), compiled where that is possible."""
    ops, xp = backend.operations(), backend.xp

    def part(params: Array, X: Array, Y: Array, weights: Array | None) -> tuple[Array, Array]:
        X = X if X.dtype == dtype else xp.astype(X, dtype)
        return value_and_grad(network, loss, params, X, Y, weights, ops=ops)[:2]

    return backend.compile(part)


def inverse_scaling(rate: float, power: float, N: int, steps: int, seen: int) -> schedules.Schedule:
    """rate / (t + 1)^power, t the number of examples seen before this epoch, `seen` at the start.

    scikit-learn's 'invscaling': the rate of the epoch holds for all of its `steps`.
    """

    def schedule(step: Array, *, xp: Namespace) -> Array:
        t = xp.floor(step / steps) * N + seen * (0.0 * step + 1.0)
        return rate * xp.exp(-power * xp.log1p(t))

    return schedule
