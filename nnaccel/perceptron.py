"""What MLPClassifier and MLPRegressor share: input, the two kinds of solvers, stopping, devices.

A fitted estimator is its public attributes: predictions are computed from `coefs_` and
`intercepts_`, which live on the device that trained them. Base classes, validation and scores are
scikit-learn's; the network, its training and the door to devices are those of the floors below.
"""

from collections.abc import Iterator
from math import inf
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import array_api_compat as compat
import numpy as np

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "sklearn":
        raise
    raise ImportError(
        "MLPClassifier and MLPRegressor need scikit-learn, which is not installed; "
        "run: python -m pip install 'nnaccel[sklearn]'"
    ) from None

import warnings
from types import SimpleNamespace

from sklearn import get_config
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import _array_api, check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from nnaccel import activations, initializers, lbfgs, optimizers, schedules
from nnaccel.activations import Activation
from nnaccel.batches import bounds, is_sparse, n_steps
from nnaccel.callbacks import Watch
from nnaccel.compile import compile_step
from nnaccel.devices import Device, device_of, dtype_of, prepare, select, to_host
from nnaccel.kernels import bind
from nnaccel.layers import Chain, Dense
from nnaccel.losses import Loss
from nnaccel.network import (
    Network,
    flatten,
    l2_penalty,
    layout,
    mlp,
    value_and_grad,
    views,
)
from nnaccel.optimizers import Optimizer, State
from nnaccel.training import EVALUATION_ROWS, Data, Epoch, dense_rows, initialize, put, train
from nnaccel.typing import Array, Namespace, Ops

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # a scikit-learn without the callback protocol

    class CallbackSupportMixin:
        """No callbacks but those of the `callbacks` parameter."""


STOCHASTIC = ("sgd", "adam", *optimizers.OPTIMIZERS)
ACTIVATION = {"logistic": "sigmoid"}  # scikit-learn's name: ours
SCHEDULES = ("constant", "invscaling", "adaptive")  # scikit-learn's, for solver="sgd"
ELEMENTS = 2**22  # of a sparse matrix made dense at a time where nothing is learned
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


class HeldOut(NamedTuple):
    """Validation data: on the device for the loss, and the targets on the host for the score."""

    data: Data
    targets: np.ndarray
    weights: np.ndarray | None


class MultilayerPerceptron(CallbackSupportMixin, BaseEstimator):
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
    dropout: float
    weight_decay: float
    clip_norm: float | None
    initializer: str | None
    callbacks: Any

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

    def _fit_target(self, y: Any, *, first: bool, incremental: bool) -> np.ndarray:
        """y as validated, encoded for the loss; learns classes in a `first` fit."""
        raise NotImplementedError

    def _encode(self, y: Any) -> Any:
        """Targets as the loss takes them."""
        raise NotImplementedError

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _sample_weight(self, y: Any, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """How much each example counts, everything considered."""
        return sample_weight

    def _predicted(self, Z: Array, *, xp: Namespace) -> Array:
        """Predictions in the code of `_encode` from logits."""
        raise NotImplementedError

    def _score(self, y: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None) -> float:
        """scikit-learn's score of predictions, both in the code of `_encode`."""
        raise NotImplementedError

    # ------------------------------------------------------------------ input

    def _check_X(self, X: Any, *, reset: bool) -> Any:
        """X validated by scikit-learn, in the library it came in."""
        if is_foreign(X) and not get_config()["array_api_dispatch"]:
            check_foreign(X, type(self).__name__)
            return validate_data(self, X, reset=reset, skip_check_array=True)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=_kept(X), reset=reset)
        return X.tocsr() if hasattr(X, "tocsr") else X

    def _check_X_y(self, X: Any, y: Any, *, reset: bool, y_numeric: bool) -> tuple[Any, Any]:
        """X and y validated by scikit-learn; y comes to the host, where targets are encoded."""
        y = to_host(y) if is_foreign(y) else y
        if is_foreign(X) and not get_config()["array_api_dispatch"]:
            check_foreign(X, type(self).__name__)
            # The rows of X stand in for it, so that y is checked as it always is.
            rows = np.zeros((X.shape[0], 1))
            _, y = validate_data(
                self, rows, y, multi_output=True, y_numeric=y_numeric, reset=True
            )
            return validate_data(self, X, reset=True, skip_check_array=True), y
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=y_numeric,
            dtype=_kept(X),
            reset=reset,
        )
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
        if str(X.dtype).endswith("float32"):
            return "float32"
        try:
            dtype_of(where, "float64")
        except ValueError:
            return "float32"
        return "float64"

    # ------------------------------------------------------------------ fit

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation_data: tuple[Any, ...] | None = None,
        incremental: bool = False,
    ) -> "MultilayerPerceptron":
        sizes = self._sizes()
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._check_X_y(X, y, reset=first, y_numeric=not is_classifier(self))
        if sample_weight is not None:
            host = to_host(sample_weight) if is_foreign(sample_weight) else sample_weight
            sample_weight = _check_sample_weight(host, np.zeros((X.shape[0], 1)))
        Y = self._fit_target(y, first=first, incremental=incremental)
        sample_weight = self._sample_weight(y, sample_weight)
        rng = check_random_state(self.random_state)
        where, loss = self._where(X), self._loss()
        dtype = self._dtype(X, where)
        network = self._network(X.shape[1], sizes)
        with where.context():
            if first:
                self._start(network, rng, where, dtype)
            else:
                self._check_shape(network)
            weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
            if self.solver == "lbfgs":
                self._fit_lbfgs(network, loss, where, dtype, X, Y, weights, validation_data)
            else:
                self._fit_stochastic(
                    network, loss, where, dtype, X, Y, weights, validation_data, rng, incremental
                )
            if not all(bool(where.xp.all(where.xp.isfinite(W))) for W in self._arrays()):
                raise ValueError(NOT_FINITE)
        return self

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
        known: list[str | Activation] = [activations.get(ACTIVATION.get(n, n)) for n in names]
        return mlp(
            n_features,
            sizes,
            self.n_outputs_,
            activation=known,
            dropout=self.dropout,
            initializer=self.initializer or "glorot_uniform",
        )

    def _start(self, network: Network, rng: Any, where: Device, dtype: str) -> None:
        """Initial attributes and weights of a first fit."""
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(self._sizes()) + 2
        self._rate = self.learning_rate_init
        self._memory = None
        for name in ("validation_loss_curve_", "validation_scores_", "best_validation_score_"):
            vars(self).pop(name, None)
        self._show(network, where.asarray(self._draw(network, rng), dtype), where.xp)
        if self.solver != "lbfgs":
            self.loss_curve_: list[float] = []
            self.validation_loss_curve_: list[float] | None = None
            self._no_improvement_count = 0
            stopping = self.early_stopping
            self.best_loss_ = None if stopping else inf
            self.validation_scores_: list[float] | None = [] if stopping else None
            self.best_validation_score_ = -inf if stopping else None

    def _draw(self, network: Network, rng: Any) -> np.ndarray:
        """Initial parameters (P,) on the host.

        As scikit-learn draws them unless an initializer is named: W and b of a layer uniform
        within sqrt(6 / (fan_in + fan_out)), Glorot and Bengio (2010), eq. 16, and 2 for 6 where
        the activation is the logistic function.
        """
        if self.initializer is not None:
            return initialize(network, rng.randint(2**31 - 1))
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

    def _show(self, network: Network, params: Array, xp: Namespace) -> None:
        """Make the flat vector the fitted attributes: views of it, without a copy."""
        tree = views(params, layout(network), xp=xp)
        self.coefs_ = [arrays[0] for arrays in tree if arrays]
        self.intercepts_ = [xp.reshape(arrays[1], (-1,)) for arrays in tree if arrays]

    def _params(self, network: Network, where: Device, dtype: str) -> Array:
        """The fitted attributes as one flat vector on a device."""
        tree = self._tree(network, where, dtype)
        return flatten(tree, layout(network), xp=where.xp)

    def _tree(self, network: Network, where: Device, dtype: str | None = None) -> Any:
        """The fitted attributes as the layers of the network take them."""
        pairs = iter(zip(self.coefs_, self.intercepts_, strict=True))

        def arrays() -> tuple[Array, Array]:
            W, b = next(pairs)
            return where.asarray(W, dtype), where.asarray(b, dtype)[None, :]

        return tuple(arrays() if isinstance(g, Dense) else () for g in network.layers)

    def _arrays(self) -> list[Array]:
        return [*self.coefs_, *self.intercepts_]

    # ------------------------------------------------------------------ solvers

    def _fit_lbfgs(
        self,
        network: Network,
        loss: Loss,
        where: Device,
        dtype: str,
        X: Any,
        Y: np.ndarray,
        weights: np.ndarray | None,
        validation_data: tuple[Any, ...] | None,
    ) -> None:
        held_out = self._held_out(network, loss, where, dtype, validation_data)
        data = put(network, loss, where, dtype, X, Y, weights)
        total = X.shape[0] if weights is None else float(weights.sum())
        objective = full_objective(network, loss, data, self.alpha / total, where, dtype)
        params = self._params(network, where, dtype)
        end = None
        # Overflow shows in the values, which the line search steps back from.
        with np.errstate(all="ignore"):
            watch = Watch(self, self.max_iter + 1, X, Y, weights)
            watch.begin()
            for end in lbfgs.minimize(
                objective,
                params,
                xp=where.xp,
                max_iter=self.max_iter,
                max_fun=self.max_fun,
                tol=self.tol,
            ):
                self._show(network, end.params, where.xp)
                self.n_iter_, self.loss_ = end.number, end.value
                if self.verbose:
                    print(f"Iteration {end.number}, loss = {end.value:.8f}")
                if held_out is not None:
                    self._validate(network, loss, where, dtype, held_out, score=False)
                if watch.end() and end.status is None:
                    break
                if end.status is None:
                    watch.begin()
        watch.close()
        if end is None or end.status is None:
            return
        result = SimpleNamespace(status=end.status, message=end.message, nit=end.number)
        self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)

    def _fit_stochastic(
        self,
        network: Network,
        loss: Loss,
        where: Device,
        dtype: str,
        X: Any,
        Y: np.ndarray,
        weights: np.ndarray | None,
        validation_data: tuple[Any, ...] | None,
        rng: Any,
        incremental: bool,
    ) -> None:
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        held_out = self._held_out(network, loss, where, dtype, validation_data)
        if self.early_stopping and held_out is None:
            rows, held_rows = self._split(Y, rng)
            held_weights = None if weights is None else weights[held_rows]
            held_out = hold_out(
                network, loss, where, dtype, take(X, held_rows), Y[held_rows], held_weights
            )
            X, Y = take(X, rows), Y[rows]
            weights = None if weights is None else weights[rows]
        N = X.shape[0]
        batch_size = self._batch_size(N)
        data = put(network, loss, where, dtype, X, Y, weights)
        mean_weight = 1.0 if weights is None else float(weights.mean())
        n_before = len(self.loss_curve_)
        seed = rng.randint(2**31 - 1)

        def run(after: Epoch | None) -> Iterator[Epoch]:
            return train(
                network,
                data.X,
                data.Y,
                loss=loss,
                optimizer=self._optimizer(N, batch_size, incremental),
                epochs=n_before + 1 if incremental else self.max_iter,
                batch_size=batch_size,
                l2=self.alpha / (batch_size * mean_weight),
                weights=data.weights,
                shuffle=self.shuffle,
                # A warm start is a new run: of the same seed, but not in the same order again.
                seed=seed if incremental else (seed + n_before) % 2**31,
                device=where,
                dtype=dtype,
                params=self._params(network, where, dtype),
                after=after,
            )

        if not (incremental and self._memory and self._memory[0] == self.solver):
            self._memory = None
            self._rate = self.learning_rate_init
        after = self._continued(network, where, dtype, n_before) if incremental else None
        best = None
        self.n_iter_ = 0
        try:
            watch = Watch(self, 1 if incremental else self.max_iter, X, Y, weights)
            epochs = run(after)
            watch.begin()
            for epoch in self._restarted(epochs):
                self.n_iter_ += 1
                self.t_ += N
                self.loss_ = epoch.loss
                self.loss_curve_.append(epoch.loss)
                self._memory = self.solver, epoch.state
                self._show(network, epoch.params, where.xp)
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
                if held_out is not None:
                    self._validate(network, loss, where, dtype, held_out, self.early_stopping)
                if self._improves() and self.early_stopping:
                    best = epoch.params + 0.0
                stop = self._ends_task(tasks)
                if self._no_improvement_count > self.n_iter_no_change:
                    if self._is_final():
                        break
                    self._no_improvement_count = 0
                    epochs = run(epoch)
                if incremental or stop:
                    break
                if self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                        "reached and the optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=2,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        except FloatingPointError as error:
            raise ValueError(NOT_FINITE) from error
        if best is not None:
            self._show(network, best, where.xp)

    def _continued(
        self, network: Network, where: Device, dtype: str, number: int
    ) -> Epoch | None:
        """The epoch that the last `partial_fit` ended with, to go on from."""
        if not self._memory:
            return None
        state = self._memory[1]
        state = State(
            where.asarray(state.step), tuple(where.asarray(s, dtype) for s in state.slots)
        )
        params = self._params(network, where, dtype)
        return Epoch(number, params, state, None, None, None, None, 0.0, 0.0)

    def _split(self, Y: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows to train on and to hold out."""
        rows, held_rows = train_test_split(
            np.arange(Y.shape[0]),
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=Y if is_classifier(self) and self.n_outputs_ == 1 else None,
        )
        if len(held_rows) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return rows, held_rows

    def _batch_size(self, N: int) -> int:
        if self.batch_size == "auto":
            return min(200, N)
        if self.batch_size > N:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=4,
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
        decay = {"weight_decay": self.weight_decay} if self.weight_decay else {}
        if self.solver == "sgd":
            if not self.momentum:
                optimizer = optimizers.gradient_descent(rate, **decay)
            else:
                rule = optimizers.nesterov if self.nesterovs_momentum else optimizers.momentum
                optimizer = rule(rate, beta=self.momentum, **decay)
        elif self.solver in ("adam", "adamw"):
            optimizer = optimizers.OPTIMIZERS[self.solver](
                rate, beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon, **decay
            )
        else:
            optimizer = optimizers.get(self.solver, rate, **decay)
        return optimizers.clipped(optimizer, self.clip_norm) if self.clip_norm else optimizer

    # ------------------------------------------------------------------ stopping and watching

    def _improves(self) -> bool:
        """Count the epochs without improvement; whether this one is the best so far."""
        if self.early_stopping:
            assert self.validation_scores_ is not None
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

    def _held_out(
        self,
        network: Network,
        loss: Loss,
        where: Device,
        dtype: str,
        validation_data: tuple[Any, ...] | None,
    ) -> HeldOut | None:
        """The validation data that the user gave, checked and put on the device."""
        if validation_data is None:
            return None
        if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
            raise ValueError(
                "validation_data must be (X, y) or (X, y, sample_weight), got "
                f"{type(validation_data).__name__}"
            )
        X, y, *weights = validation_data
        X, y = self._check_X_y(X, y, reset=False, y_numeric=not is_classifier(self))
        w = None
        if weights and weights[0] is not None:
            w = to_host(weights[0]) if is_foreign(weights[0]) else weights[0]
            w = _check_sample_weight(w, np.zeros((X.shape[0], 1)))
        return hold_out(network, loss, where, dtype, X, self._encode(y), w)

    def _validate(
        self,
        network: Network,
        loss: Loss,
        where: Device,
        dtype: str,
        held_out: HeldOut,
        score: bool,
    ) -> None:
        """Append to the validation curves, from one forward propagation."""
        data, ops, tree = held_out.data, Ops(where.xp), self._tree(network, where)
        with np.errstate(all="ignore"):
            Z = where.xp.concat(list(logits(network, tree, data.X, where, dtype)))
            value = ops[loss.function](Z, data.Y, data.weights, **dict(loss.options))[0]
        if getattr(self, "validation_loss_curve_", None) is None:
            self.validation_loss_curve_ = []
        self.validation_loss_curve_.append(float(to_host(value)))
        if not score:
            return
        assert self.validation_scores_ is not None
        predicted = to_host(self._predicted(Z, xp=where.xp))
        finite = predicted.dtype.kind != "f" or bool(np.isfinite(predicted).all())
        found = self._score(held_out.targets, predicted, held_out.weights) if finite else np.nan
        self.validation_scores_.append(found)
        if self.verbose:
            print(f"Validation score: {found:f}")

    # ------------------------------------------------------------------ prediction

    def _logits(self, X: Any, method: str) -> tuple[Array, Device]:
        """The logits of X on the device of the estimator, and the device where X came from."""
        check_is_fitted(self)
        if self.device is None and hasattr(_array_api, "check_same_namespace"):
            _array_api.check_same_namespace(X, self, attribute="_first_coef", method=method)
        X = self._check_X(X, reset=False)
        home = device_of(X) if is_foreign(X) else select("cpu")
        where = device_of(self._first_coef) if self.device is None else select(self.device)
        with where.context(), np.errstate(all="ignore"):
            network = self._network(self.n_features_in_, [W.shape[1] for W in self.coefs_[:-1]])
            tree = self._tree(network, where)
            parts = list(logits(network, tree, X, where, tree[0][0].dtype))
            return parts[0] if len(parts) == 1 else where.xp.concat(parts), home

    @property
    def _first_coef(self) -> Array:
        return self.coefs_[0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        if not get_config()["array_api_dispatch"]:
            y = to_host(y) if is_foreign(y) else y
            if is_foreign(X):  # scikit-learn's scores are computed where it can compute them
                predicted = to_host(self.predict(X))  # pyright: ignore
                return self._score(y, predicted, sample_weight)
        return super().score(X, y, sample_weight)  # pyright: ignore

    # ------------------------------------------------------------------ devices and files

    def to(self, device: str) -> "MultilayerPerceptron":
        """Move the fitted attributes to a device, and compute there from now on.

        Parameters
        ----------
        device : str
            A name for `nnaccel.devices.select`, such as "cpu" or "cuda"; it becomes the
            parameter `device`.

        Returns
        -------
        self : estimator
        """
        where = select(device)
        self.device = device
        vars(self).update({name: moved(value, where) for name, value in _state(self)})
        return self

    def __getstate__(self) -> Any:
        """What pickle keeps: every array as NumPy's, so that no device is needed to read it."""
        state = super().__getstate__()
        host = {name: moved(value, None) for name, value in _state(self)}
        return state | host | {"_sklearn_version": state.get("_sklearn_version")} if host else state

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator as a model file: safetensors, without pickle.

        Parameters
        ----------
        path : str or Path
            The file is replaced at once or not at all. Callbacks and a `random_state` that is
            no number are left out, and so is the memory of the optimizer.
        """
        from nnaccel.estimator_files import save

        check_is_fitted(self)
        save(path, self)

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None) -> Any:
        """The estimator that `save` wrote.

        Parameters
        ----------
        path : str or Path
            A model file of this class.
        device : str, optional
            Where it is to compute; None is where the arrays that it is given are.

        Returns
        -------
        estimator : object
            An estimator ready to predict, its attributes NumPy arrays or on `device`.
        """
        from nnaccel.estimator_files import load

        estimator = load(path, cls)
        return estimator if device is None else estimator.to(device)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags
