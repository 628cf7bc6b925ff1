"""MLPClassifier: scikit-learn's estimator with a device, dropout, class weights and more.

    from nnaccel import MLPClassifier        # instead of: from sklearn.neural_network import ...

Every parameter, attribute, error and warning of scikit-learn's class exists and means the same.
docs/estimators.md lists the additional ones first.
"""

from numbers import Real
from typing import Any, ClassVar

import numpy as np

# First, since it says what to install where scikit-learn is missing.
from nnaccel.estimators.array_input import is_foreign, on_host

# isort: split
import scipy.sparse
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer, LabelEncoder
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from nnaccel.devices.device import device_of
from nnaccel.estimators.example_weights import Weights, weights_of_classes
from nnaccel.estimators.labels import beside, codes_of, labels_of
from nnaccel.estimators.model_files import ModelFiles
from nnaccel.estimators.multilayer_perceptron import MultilayerPerceptron
from nnaccel.estimators.parameters import is_stochastic, keep_parameters
from nnaccel.maths import losses
from nnaccel.maths.activations import sigmoid, softplus
from nnaccel.maths.losses import Loss, softmax
from nnaccel.training.prediction import logits
from nnaccel.typing import Array, Namespace


class MLPClassifier(ClassifierMixin, ModelFiles, MultilayerPerceptron):
    """Multi-layer perceptron classifier, for two classes, several classes, or several labels at
    once.

    Minimises the cross-entropy, plus an L2 penalty, by a stochastic solver or L-BFGS. A drop-in
    for `sklearn.neural_network.MLPClassifier`.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        The number of units of each hidden layer; () is logistic regression.
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
    loss : "log_loss" or nnaccel.Loss, default="log_loss"
        What is minimised: the cross-entropy, or a loss of your own with the link softmax for
        several classes, and sigmoid for two classes and for labels.
    class_weight : dict, "balanced" or None, default=None
        How much the examples of each class count. "balanced" gives all classes the same sum.
    label_smoothing : float, default=0.0
        The share of each target that is spread evenly over the classes.
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
    classes_ : array of shape (n_classes,)
        Class labels.
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
        "softmax" for several classes, "logistic" for two classes and for labels.

    See Also
    --------
    MLPRegressor : The estimator for numbers.

    Examples
    --------
    >>> from nnaccel import MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier((20,), solver="lbfgs", random_state=0).fit(X, y)
    >>> clf.predict(X[:3])
    array([0, 0, 0])
    """

    classes_: Any
    loss: Any
    class_weight: Any
    label_smoothing: float

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MultilayerPerceptron._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), Loss],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
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
        loss: Any = "log_loss",
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        initializer: str | None = None,
        callbacks: Any = None,
    ) -> None:
        keep_parameters(self, locals())

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> "MLPClassifier":
        """Fit the network to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The examples, in an array of any library or a data frame.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels; for several labels a matrix of 0 and 1.
        sample_weight : array-like of shape (n_samples,), optional
            How much each example counts.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Validation data for `validation_loss_curve_`, which replace the data that early stopping
            would hold out.

        Returns
        -------
        self : object
        """
        self._fit(X, y, sample_weight, validation_data)
        return self._with_classes_on_device_of(X)

    @available_if(is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> "MLPClassifier":
        """Update the network with one epoch over X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            How much each example counts.
        classes : array-like of shape (n_classes,), optional
            All classes. Required in the first call, except for a matrix of labels.

        Returns
        -------
        self : object
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which does not see "
                "all of the data; pass a dict, such as one made of "
                "sklearn.utils.class_weight.compute_class_weight"
            )
        has_labels = not hasattr(self, "classes_") and _is_multilabel(on_host(y))
        if has_labels and classes is None:
            classes = np.arange(np.shape(y)[1])
        if _check_partial_fit_first_call(self, on_host(classes)):
            self._set_classes(on_host(y) if has_labels else on_host(classes))
        self._fit(X, y, sample_weight, incremental=True)
        return self._with_classes_on_device_of(X)

    def predict(self, X: Any) -> Any:
        """Predict classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or a matrix of 0 and 1, in an array of the library of X on its device. A
            NumPy array for labels that this library cannot hold.
        """
        codes, home = self._outputs(X, logits, "predict", self._decode)
        if self._has_labels:
            return scipy.sparse.csr_matrix(codes) if self._sparse_labels else codes
        if self.classes_.shape[0] == 1:
            codes = 0 * codes
        return labels_of(codes, self.classes_, home)

    def predict_proba(self, X: Any) -> Any:
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        P : array of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`; for several labels the probability of each.
        """
        return self._probabilities(X, "predict_proba")

    def _probabilities(self, X: Any, method: str) -> Any:
        if getattr(self, "out_activation_", None) == "softmax":
            return self._outputs(X, softmax, method)[0]
        return self._outputs(X, logits, method, self._link)[0]

    def _link(self, Z: Array, *, xp: Namespace) -> Array:
        """Probabilities (N, n_classes) of logits of two classes, or of labels."""
        Z = xp.concat([-Z, Z], axis=1) if self._is_binary else Z
        return xp.exp(-softplus(-Z, xp=xp))  # a sigmoid that is exact for small values, too

    def predict_log_proba(self, X: Any) -> Any:
        """Predict the logarithms of probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        log_P : array of shape (n_samples, n_classes)
            ``log(predict_proba(X))``, minus infinity for a probability that underflows.
        """
        P = self._probabilities(X, "predict_log_proba")
        with np.errstate(divide="ignore"):
            return device_of(P).xp.log(P)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of examples that are predicted right; for several labels, with all labels
        right.

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
        if is_foreign(X):
            return self._score_on_host(X, y, sample_weight)
        return super().score(X, on_host(y), on_host(sample_weight))  # pyright: ignore

    def _declare_outputs(self, Z: Any) -> None:
        from nnaccel.export.onnx import declare_classes

        xp = Z.xp
        P = xp.softmax(Z) if self.out_activation_ == "softmax" else self._link(Z, xp=xp)
        codes = self._decode(Z, xp=xp)
        if not self._has_labels:
            codes = 0 * codes if self.classes_.shape[0] == 1 else codes
            declare_classes("y", on_host(self.classes_), codes, P)
            return
        xp.declare("y", codes)
        xp.declare("y probabilities", P)

    @property
    def _label_binarizer(self) -> LabelBinarizer:
        """The attribute of scikit-learn's classifier, which the converter of skl2onnx reads."""
        binarizer = LabelBinarizer()
        binarizer.classes_, binarizer.y_type_ = on_host(self.classes_), self._y_type
        binarizer.sparse_input_ = self._sparse_labels
        return binarizer

    @property
    def _has_labels(self) -> bool:
        """Whether the target is several labels with two classes each."""
        return self._y_type.startswith("multilabel")

    @property
    def _is_binary(self) -> bool:
        return not self._has_labels and self.n_outputs_ == 1

    def _set_classes(self, y: Any) -> None:
        binarizer = LabelBinarizer().fit(y)
        self.classes_ = binarizer.classes_
        self._y_type, self._sparse_labels = binarizer.y_type_, binarizer.sparse_input_

    def _with_classes_on_device_of(self, X: Any) -> "MLPClassifier":
        """Self, with `classes_` moved to the device of X if its library can hold them."""
        if is_foreign(X):
            self.classes_ = beside(on_host(self.classes_), device_of(X))
        return self

    def _learn_target(self, y: Any, *, incremental: bool) -> None:
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._set_classes(y)
        elif self.warm_start or self._has_labels or self._codes(y) is None:
            known, found = on_host(self.classes_), unique_labels(y)
            if self.warm_start and set(found) != set(known):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous "
                    f"call to fit. Previously got {known}, `y` has {found}"
                )
            if _is_multilabel(y) != self._has_labels or not set(found) <= set(known):
                raise ValueError(
                    "`y` has classes not in `self.classes_`. `self.classes_` has "
                    f"{known}. 'y' has {found}."
                )
        n_classes = self.classes_.shape[0]
        several = self._has_labels or n_classes > 2
        self.n_outputs_ = n_classes if several else 1
        self._check_loss()
        self.out_activation_ = self._out_activation()

    def _codes(self, y: Any) -> np.ndarray | None:
        return codes_of(y, on_host(self.classes_))

    def _encode(self, y: Any) -> np.ndarray:
        if self._has_labels:
            return LabelBinarizer().fit(y).transform(y)  # pyright: ignore
        if (codes := self._codes(y)) is not None:
            return codes
        encoder = LabelEncoder()
        encoder.classes_ = on_host(self.classes_)
        return encoder.transform(y)

    def _decode(self, Z: Array, *, xp: Namespace) -> Array:
        classes = xp.argmax(Z, axis=1)
        if not self._has_labels and not self._is_binary:
            return classes
        labels = xp.astype(Z > 0, classes.dtype)
        return labels[:, 0] if self._is_binary else labels

    def _targets(self, codes: np.ndarray) -> np.ndarray:
        if not self._has_labels and not self._is_binary:
            return codes
        labels = codes[:, None] if self._is_binary else codes
        return (1.0 - self.label_smoothing) * labels + 0.5 * self.label_smoothing

    def _check_loss(self) -> None:
        """ValueError for a loss of the user that does not give the probabilities needed here."""
        if isinstance(self.loss, str):
            return
        labels = self._has_labels or self._is_binary
        kind, link = ("labels", sigmoid) if labels else ("classes", softmax)
        if (self.loss.targets.kind, self.loss.link, self.loss.n_outputs) != (kind, link, 1):
            what = "two classes or labels" if labels else f"{self.n_outputs_} classes"
            targets = "LABELS" if labels else "CLASSES"
            name = getattr(self.loss.link, "__name__", repr(self.loss.link))
            raise ValueError(
                f"loss {self.loss.name!r} must have the link {link.__name__} and targets "
                f"nnaccel.losses.{targets} for {what}, got the link {name} and "
                f"targets of the kind {self.loss.targets.kind!r}"
            )
        if self.label_smoothing:
            raise ValueError(
                f"label_smoothing is for loss='log_loss', got loss {self.loss.name!r}; leave it out"
            )

    def _labels(self, codes: np.ndarray) -> np.ndarray:
        return codes if self._has_labels else on_host(self.classes_)[codes]

    def _loss(self) -> Loss:
        if not isinstance(self.loss, str):
            return self.loss
        if self._has_labels or self._is_binary:
            return losses.get("binary_cross_entropy")
        options = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        return losses.get("softmax_cross_entropy", **options)

    def _weigh(self, y: Any, weights: Weights | None) -> Weights | None:
        if self.class_weight is None:
            return weights
        by_class = weights_of_classes(self.class_weight, y)
        return by_class if weights is None else by_class.times(weights)

    def _score(self, y: Any, predicted: Any, sample_weight: Any) -> float:
        return accuracy_score(y, predicted, sample_weight=sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _is_multilabel(y: Any) -> bool:
    return type_of_target(y).startswith("multilabel")
