"""The base of MLPClassifier and MLPRegressor: input, the sequence of a fit, predictions, devices.

The public attributes are the whole state of a fitted estimator: predictions are computed from
`coefs_` and `intercepts_`, which stay on the device that trained them. Base classes, validation and
scores are scikit-learn's; the network, its training and devices are those of the floors below.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

# First, since it says what to install where scikit-learn is missing.
from nnaccel.estimators.array_input import (
    check_outputs,
    check_X,
    check_X_y,
    float_dtype,
    is_foreign,
    on_host,
)

# isort: split
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.utils import _array_api, check_random_state
from sklearn.utils.validation import check_is_fitted

from nnaccel.devices.device import Device, device_of, dtype_name, prepare, select
from nnaccel.estimators.documentation import Documented
from nnaccel.estimators.example_weights import Weights, check_weights
from nnaccel.estimators.fit_plan import NOT_FINITE, Examples, FitPlan
from nnaccel.estimators.held_out import held_out_of
from nnaccel.estimators.lbfgs_fit import fit_lbfgs
from nnaccel.estimators.parameters import (
    CONSTRAINTS,
    check_solver_precision,
    layer_sizes,
    network_of,
)
from nnaccel.estimators.residence import Residence, moved
from nnaccel.estimators.stochastic_fit import fit_stochastic, seed_of
from nnaccel.estimators.weights import (
    check_same_shape,
    coefs_and_intercepts,
    draw_as_sklearn,
    layer_arrays,
)
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, flatten, layout
from nnaccel.training.prediction import outputs
from nnaccel.training.step import initialize
from nnaccel.typing import Array, Namespace

try:
    from sklearn import callback as _callback

    CallbackSupport: Any = _callback.CallbackSupportMixin
except ImportError:  # a scikit-learn without callbacks; the parameter `callbacks` works
    CallbackSupport = type("CallbackSupport", (), {})


CPU = select("cpu")
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
    losses.ascending: "identity",
}


class MultilayerPerceptron(Residence, CallbackSupport, Documented, BaseEstimator):
    """The base of the two estimators, which add the methods that depend on the kind of target."""

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
    scoring: Any
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    device: str | None
    dtype: str | None
    precision: str
    kernels: bool | str
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

    _is_placed: bool = False  # whether `fit` or `to` has chosen the device of the arrays
    _memory: Any = None  # the solver's name, and the state of its optimizer

    _parameter_constraints: ClassVar[dict[str, Any]] = CONSTRAINTS

    # ------------------------------------------------------------------ what a kind of target adds

    def _learn_target(self, y: Any, *, incremental: bool) -> None:
        """Set `n_outputs_`, `out_activation_` and classes from the validated y."""
        raise NotImplementedError

    def _encode(self, y: Any) -> np.ndarray:
        """y as codes: class numbers (N,), labels (N, K) of 0 and 1, or the numbers themselves."""
        raise NotImplementedError

    def _decode(self, Z: Array, *, xp: Namespace) -> Array:
        """Predicted codes from logits."""
        raise NotImplementedError

    def _labels(self, codes: np.ndarray) -> np.ndarray:
        """Codes as the targets that they stand for."""
        return codes

    def _targets(self, codes: np.ndarray) -> np.ndarray:
        """The codes as targets of the loss."""
        return codes

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _out_activation(self) -> str:
        """scikit-learn's name of the inverse link of the loss, or the function's own."""
        loss = self._loss()
        own = getattr(loss.link, "__name__", repr(loss.link))
        return own if loss.n_outputs > 1 else LINKS.get(loss.link, own)

    def _weigh(self, y: Any, weights: Weights | None) -> Weights | None:
        """How much each example counts, with class weights included."""
        return weights

    def _score(self, y: Any, predicted: Any, sample_weight: Any) -> float:
        """scikit-learn's score of this kind of estimator."""
        raise NotImplementedError

    def _declare_outputs(self, Z: Any) -> None:
        """Declare the predictions as outputs of an ONNX graph, from its logits Z."""
        raise NotImplementedError

    # ------------------------------------------------------------------ input

    def _where(self, X: Any) -> Device:
        """The device that computes: the named one, else that of X."""
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
        sizes = layer_sizes(self.hidden_layer_sizes)
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = check_X_y(self, X, y, reset=first)
        weights = check_weights(sample_weight, X)
        self._learn_target(y, incremental=incremental)
        examples = Examples(X, self._encode(y), self._weigh(y, weights))
        rng = check_random_state(self.random_state)
        where = self._where(X)
        loss = self._loss()
        network = network_of(self, X.shape[1], sizes, self.n_outputs_ * loss.n_outputs)
        kernels = self.kernels if isinstance(self.kernels, str) else bool(self.kernels)
        plan = FitPlan(network, loss, where, self._dtype(X, where), kernels)
        check_solver_precision(self.solver, self.precision, plan.dtype)
        self._is_placed = True
        with where.context():
            if first:
                self._start(plan, rng)
            else:
                check_same_shape(network, self.coefs_)
            held_out = held_out_of(self, plan, validation_data)
            if self.solver == "lbfgs":
                fit_lbfgs(self, plan, examples, held_out)
            else:
                fit_stochastic(self, plan, examples, held_out, rng, incremental=incremental)
            arrays = [*self.coefs_, *self.intercepts_]
            if not all(bool(where.xp.all(where.xp.isfinite(array))) for array in arrays):
                raise ValueError(NOT_FINITE)
        return self

    def _start(self, plan: FitPlan, rng: Any) -> None:
        """Set the attributes of an untrained network."""
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(layer_sizes(self.hidden_layer_sizes)) + 2
        self._rate = self.learning_rate_init
        self._memory = None
        for name in CURVES:
            self.__dict__.pop(name, None)
        if self.initializer is None:
            params = draw_as_sklearn(plan.network, self.activation, rng)
        else:
            params = initialize(plan.network, seed_of(self.random_state, rng))
        self._show(plan, plan.where.asarray(params, plan.dtype))

    def _show(self, plan: FitPlan, params: Array) -> None:
        """Set the fitted attributes to views of the flat vector, without a copy."""
        xp = plan.where.xp
        self.coefs_, self.intercepts_ = coefs_and_intercepts(plan.network, params, xp=xp)

    def _params(self, plan: FitPlan) -> Array:
        """The fitted attributes as one flat vector."""
        tree = self._tree(plan.network, plan.where)
        params = flatten(tree, layout(plan.network), xp=plan.where.xp)
        return plan.where.asarray(params, plan.dtype)

    def _network(self) -> Network:
        """The network that has the fitted attributes as parameters."""
        *hidden, n_outputs = (W.shape[1] for W in self.coefs_)
        return network_of(self, self.n_features_in_, hidden, n_outputs)

    def _tree(self, network: Network, where: Device) -> Any:
        """The fitted attributes on a device, as the parameters of the layers."""
        arrays = self.coefs_, self.intercepts_
        if device_of(self._first_coef) != where:
            dtype = dtype_name(self._first_coef)
            dtype = float_dtype(where) if dtype == "float64" else dtype
            arrays = moved(arrays, lambda array: where.asarray(array, dtype))
        return layer_arrays(network, *arrays)

    # ------------------------------------------------------------------ prediction

    def _outputs(
        self,
        X: Any,
        link: Callable[..., Array],
        method: str,
        finish: Callable[..., Array] | None = None,
    ) -> tuple[Array, Device]:
        """finish(link(Z)) of the logits Z (N, n_outputs) of X, on the device of X, and that device.

        link: its values are checked to be finite; those of `finish`, such as class numbers, would
        hide NaN.   method: its name in errors.
        """
        if not hasattr(self, "coefs_"):
            check_is_fitted(self)
        home = device_of(X) if is_foreign(X) else CPU
        where = self._computes(X, home, method)
        network = self._network()
        with where.context():
            tree = self._tree(network, where)
        X = check_X(self, X, tree[-1][0].dtype)
        found = outputs(network, tree, X, where, link)
        with where.context():
            check_outputs(found, where.xp, type(self).__name__)
            found = found if finish is None else finish(found, xp=where.xp)
        return (found if where == home else home.asarray(found)), home

    def _computes(self, X: Any, home: Device, method: str) -> Device:
        """The device that computes predictions for X, which is on `home`."""
        if self.device is not None:
            return select(self.device)
        if not self._is_placed:  # but the estimator was read from a file
            return home
        if hasattr(_array_api, "check_same_namespace"):  # 1.9 and later
            _array_api.check_same_namespace(X, self, attribute="_first_coef", method=method)
        return device_of(self._first_coef)

    def to_onnx(self) -> Any:
        """The fitted network as an ONNX graph.

        Its input is `X` (n_samples, n_features), of the dtype of `coefs_`. Its outputs are `y`,
        as of `predict`, of a classifier also `y probabilities`, as of `predict_proba`, and with
        loss="gaussian" also `y_std`.

        Returns
        -------
        model : onnx.ModelProto
            For ``onnx.save(model, path)``, or ``model.SerializeToString()`` for a runtime.
        """
        from nnaccel.export.onnx import network_model

        check_is_fitted(self)
        network = self._network()
        return network_model(network, self._tree(network, CPU), self._declare_outputs)

    @property
    def _first_coef(self) -> Array:
        return self.coefs_[0]

    def _score_on_host(self, X: Any, y: Any, sample_weight: Any) -> float:
        """scikit-learn's score, computed on the host, so that arrays of every library work."""
        predicted = on_host(self.predict(X))  # pyright: ignore
        with config_context(array_api_dispatch=False):
            return self._score(on_host(y), predicted, on_host(sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags
