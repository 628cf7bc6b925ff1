"""MLPRegressor, in place of scikit-learn's."""

from functools import lru_cache
from numbers import Real
from typing import Any, ClassVar

import numpy as np

# First, since it says what to install where scikit-learn is missing.
from nnaccel.estimators.array_input import is_foreign, on_host

# isort: split
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if

from nnaccel.estimators.held_out import has_scorer
from nnaccel.estimators.model_files import ModelFiles
from nnaccel.estimators.multilayer_perceptron import MultilayerPerceptron
from nnaccel.estimators.parameters import is_stochastic, keep_parameters
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss
from nnaccel.maths.uncertainty import blocks_of, mean_and_variance, middle
from nnaccel.typing import Array, Namespace

NAMES = {"squared_error", "poisson", "absolute_error", "huber", "pinball", "gaussian"}


class MLPRegressor(RegressorMixin, ModelFiles, MultilayerPerceptron):
    """Multi-layer perceptron regressor, for one number or several.

    Minimises the loss, plus an L2 penalty, by a stochastic solver or L-BFGS. A drop-in for
    `sklearn.neural_network.MLPRegressor`.

    Parameters
    ----------
    loss : str or nnaccel.Loss, default="squared_error"
        "squared_error" (half of it), "poisson" (half the deviance; predictions are exp(Z), y is
        not negative), "absolute_error", "huber", "pinball" (quantiles), "gaussian" (a mean with its
        variance of at least 1e-6, by the negative log likelihood), or a loss of your own for
        numbers. Summed over outputs.
    hidden_layer_sizes : int or array-like of int, default=(100,)
        The number of units of each hidden layer; () is a linear model.
    activation : str or sequence of str, default="relu"
        The activation of the hidden layers: "identity", "logistic", "tanh", "relu", "leaky_relu",
        "softplus", "elu", "selu", "gelu", "silu", "mish"; a sequence gives each hidden layer its
        own.
    solver : str, default="adam"
        "adam", "sgd" or "lbfgs" as in scikit-learn; also "rmsprop", "adamw" and the other names
        of `nnaccel.maths.optimizers`.
    alpha : float, default=0.0001
        The L2 penalty on the weights, `alpha / 2 |W|^2` for each minibatch, as in scikit-learn.
    batch_size : int or "auto", default="auto"
        "auto" is min(200, n_samples). Not used by "lbfgs".
    learning_rate : str or callable, default="constant"
        "constant", "invscaling" and "adaptive" as in scikit-learn, where the last two are for
        solver="sgd". For every stochastic solver also "cosine", "one_cycle", "warm_up", "step",
        "exponential" and "inverse_scaling" over `max_iter` epochs, or a function ``schedule(step,
        *, xp)`` that returns the rate after `step` updates.
    learning_rate_init : float, default=0.001
        The first, or the highest, learning rate.
    power_t : float, default=0.5
        The exponent of learning_rate="invscaling".
    max_iter : int, default=200
        The number of epochs of a stochastic solver, or of iterations of "lbfgs".
    shuffle : bool, default=True
        Whether each epoch visits the examples in a new order.
    random_state : int, RandomState instance or None, default=None
        Seeds the initial weights, the validation split, the order of examples and dropout.
    tol : float, default=1e-4
        The least improvement of the loss, or of the validation score, that counts. "lbfgs" stops
        when no component of the gradient exceeds it.
    verbose : bool, default=False
        Print the loss of every iteration.
    warm_start : bool, default=False
        Whether `fit` begins with the weights of the last fit.
    momentum : float, default=0.9
        The momentum of solver="sgd".
    nesterovs_momentum : bool, default=True
        Whether solver="sgd" uses Nesterov's momentum instead of the classical one.
    early_stopping : bool, default=False
        Stop when the score on validation data does not improve by `tol` for `n_iter_no_change`
        epochs, and keep the best weights. Stochastic solvers only.
    validation_fraction : float, default=0.1
        The share of the data that early stopping holds out, unless `fit` gets `validation_data`.
    scoring : str, callable or None, default=None
        What early stopping goes by: None is `score`, "loss" the loss, lower being better; else a
        name of `sklearn.metrics.get_scorer_names`, or ``scorer(estimator, X, y)``, greater being
        better.
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        The parameters of solver="adam".
    n_iter_no_change : int, default=10
        The number of epochs without improvement after which training stops.
    max_fun : int, default=15000
        The largest number of evaluations of the loss by "lbfgs".
    device : str or None, default=None
        The device that computes: "cpu", "cuda", "cuda:1", "torch", "jax", "auto", ... (see
        `nnaccel.devices.device.select`). None: the device of X.
    dtype : {"float32", "float64"} or None, default=None
        The dtype of the computation. None: the dtype of X, and float64 for integers, as in
        scikit-learn.
    precision : {"float32", "tf32", "bf16"}, default="float32"
        The precision of the matrix products while training, for dtype="float32". A GPU computes
        faster with operands of fewer digits. See `nnaccel.precision`. Stochastic solvers only;
        predictions are always float32.
    kernels : bool or "numpy", default=True
        Whether training uses the kernels that replace the operations of the maths. False runs the
        operations themselves, step by step; "numpy" leaves out Numba. See `nnaccel.train`.
    dropout : float, default=0.0
        The probability of dropping a unit of a hidden layer while training. Stochastic solvers
        only.
    delta : float, default=1.0
        The residual where loss="huber" changes from squared to absolute, in the units of y.
    quantile : float or sequence of float, default=0.5
        What loss="pinball" makes the network predict: one quantile, or several in ascending order,
        which do not cross.
    weight_decay : float, default=0.0
        Decoupled weight decay, learning rate times this share of the weights at every step:
        solver="adam" with it is AdamW. Stochastic solvers only.
    clip_norm : float or None, default=None
        Gradients are scaled down to at most this Euclidean norm. Stochastic solvers only.
    initializer : str or None, default=None
        None draws weights and biases as scikit-learn does. With "auto" or a name of
        `nnaccel.maths.initializers` biases are zero.
    callbacks : callable, list of callables or None, default=None
        Functions that are called with the estimator after every epoch. Training stops when one
        returns true.

    Attributes
    ----------
    loss_ : float
        The last value of the loss, with the L2 penalty.
    best_loss_ : float or None
        The lowest value of the loss; None with early_stopping=True. Stochastic solvers only.
    loss_curve_ : list of float
        The loss of every epoch. Stochastic solvers only.
    validation_loss_curve_ : list of float
        The loss on validation data after every epoch, without the penalty. It exists only with
        validation data.
    validation_scores_ : list of float or None
        The score on validation data after every epoch; None without early_stopping.
    best_validation_score_ : float or None
        The highest validation score.
    t_ : int
        The number of examples seen.
    coefs_ : list of array
        W of each layer, (n_inputs, n_units), on the device of the estimator.
    intercepts_ : list of array
        b of each layer, (n_units,).
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features, if X has names that are all strings.
    n_iter_ : int
        The number of epochs, or iterations, in the last call of fit.
    n_layers_ : int
        Number of layers, including the input.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        "exp" for loss="poisson", "ascending" for several quantiles, "mean_and_variance" for
        loss="gaussian", else "identity"; of a loss of your own the name of its link.

    See Also
    --------
    MLPClassifier : The estimator for classes.

    Examples
    --------
    >>> from nnaccel import MLPRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = MLPRegressor(hidden_layer_sizes=(10,), solver="lbfgs", random_state=0, max_iter=2000)
    >>> reg.fit(X, y).score(X, y) > 0.5
    True
    """

    loss: Any
    delta: float
    quantile: Any

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MultilayerPerceptron._parameter_constraints,
        "loss": [StrOptions(NAMES), Loss],
        "delta": [Interval(Real, 0, None, closed="neither")],
        "quantile": [Interval(Real, 0, 1, closed="neither"), list, tuple],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        scoring: Any = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        device: str | None = None,
        dtype: str | None = None,
        precision: str = "float32",
        kernels: bool | str = True,
        dropout: float = 0.0,
        delta: float = 1.0,
        quantile: float = 0.5,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        initializer: str | None = None,
        callbacks: Any = None,
    ) -> None:
        keep_parameters(self, locals())

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> "MLPRegressor":
        """Fit the network to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The examples, in an array of any library or a data frame.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            How much each example counts.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Validation data for `validation_loss_curve_`, which replace the data that early stopping
            would hold out.

        Returns
        -------
        self : object
        """
        return self._fit(X, y, sample_weight, validation_data)

    @available_if(is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MLPRegressor":
        """Update the network with one epoch over X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            How much each example counts.

        Returns
        -------
        self : object
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict numbers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.
        return_std : bool, default=False
            Whether the standard deviation is wanted too, which loss="gaussian" estimates.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            Predictions in an array of the library of X, on its device. Several quantiles have an
            axis more, the last one: (n_samples, n_quantiles) or (n_samples, n_outputs,
            n_quantiles).
        y_std : array like y
            The standard deviation, with `return_std`.
        """
        if not return_std:
            return self._outputs(X, self._decode, "predict")[0]
        if self._loss().link is not mean_and_variance:
            raise ValueError(
                f"return_std is for loss='gaussian', which estimates it, got loss={self.loss!r}"
            )
        A, home = self._outputs(X, self._loss().predict, "predict")
        mean, variance = (self._of_targets(block) for block in blocks_of(A, 2))
        return mean, home.xp.sqrt(variance)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination of the predictions, R^2; of several quantiles that of
        the one next to the median.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            How much each example counts.

        Returns
        -------
        score : float
        """
        if is_foreign(X) or self._loss().levels:
            return self._score_on_host(X, y, sample_weight)
        return super().score(X, on_host(y), on_host(sample_weight))  # pyright: ignore

    def _learn_target(self, y: Any, *, incremental: bool) -> None:
        self._check_loss()
        if self.loss == "poisson" and (np.asarray(y) < 0).any():
            raise ValueError(
                "y must not be negative for loss='poisson', got a lowest value of "
                f"{np.min(y)}; use loss='squared_error'"
            )
        n_outputs = 1 if y.ndim == 1 else y.shape[1]
        if incremental and getattr(self, "n_outputs_", n_outputs) != n_outputs:
            raise ValueError(
                f"y must have {self.n_outputs_} outputs, as in the first call of partial_fit, got "
                f"{n_outputs}"
            )
        self.n_outputs_ = n_outputs
        self.out_activation_ = self._out_activation()

    def _encode(self, y: Any) -> np.ndarray:
        return y

    def _decode(self, Z: Array, *, xp: Namespace) -> Array:
        loss = self._loss()
        A = loss.predict(Z, xp=xp)
        if not loss.levels:
            return self._of_targets(loss.points(A))
        blocks = blocks_of(A, loss.n_outputs)
        return xp.stack([self._of_targets(block) for block in blocks], axis=-1)

    def _of_targets(self, A: Array) -> Array:
        """Numbers (N, n_outputs_), (N,) of a single target."""
        return A[:, 0] if self.n_outputs_ == 1 else A

    def _declare_outputs(self, Z: Any) -> None:
        xp, loss = Z.xp, self._loss()
        xp.declare("y", self._decode(Z, xp=xp))
        if loss.link is mean_and_variance:
            variance = blocks_of(loss.predict(Z, xp=xp), 2)[1]
            xp.declare("y_std", xp.sqrt(self._of_targets(variance)))

    def _loss(self) -> Loss:
        if not isinstance(self.loss, str):
            return self.loss
        if self.loss == "huber":
            return _with_option("huber", "delta", self.delta)
        if self.loss == "pinball":
            levels = self.quantile
            levels = tuple(levels) if isinstance(levels, list) else levels
            return _with_option("pinball", "quantile", levels)
        return losses.get(self.loss)

    def _check_loss(self) -> None:
        """ValueError for a loss that is not for numbers, and for what does not go with the loss."""
        kind = self._loss().targets.kind
        if kind != "numbers":
            raise ValueError(
                f"loss {self._loss().name!r} is for {kind}, and MLPRegressor predicts numbers; use "
                "MLPClassifier"
            )
        if isinstance(self.quantile, list | tuple) and self.loss != "pinball":
            raise ValueError(
                f"quantile={self.quantile!r} is for loss='pinball', got loss={self.loss!r}"
            )
        if self._loss().levels and has_scorer(self) and isinstance(self.scoring, str):
            raise ValueError(
                f"scoring={self.scoring!r} is of one prediction for each target, and there are "
                f"{self._loss().n_outputs} quantiles; use scoring='loss', None for R^2 of the one "
                "next to the median, or a function (estimator, X, y)"
            )

    def _score(self, y: Any, predicted: Any, sample_weight: Any) -> float:
        if levels := self._loss().levels:
            predicted = predicted[..., middle(levels)]
        return r2_score(y, predicted, sample_weight=sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags


@lru_cache(maxsize=64)
def _with_option(name: str, option: str, value: Any) -> Loss:
    """The loss of that name, with an option."""
    return losses.get(name, **{option: value})
