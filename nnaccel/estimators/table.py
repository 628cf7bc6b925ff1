"""TableClassifier and TableRegressor: scikit-learn's API for raw tables, as on the command line.

Text, dates, missing values and categories need no pipeline: the columns are read and encoded as by
`nnaccel train`, with its defaults, and encoding and network are saved in one safe file.
"""

from os import PathLike
from typing import Any, Self

import numpy as np

# First, since it says what to install where scikit-learn is missing.
from nnaccel.estimators.array_input import on_host

# isort: split
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)

from nnaccel.devices.device import select
from nnaccel.estimators.documentation import Documented
from nnaccel.estimators.parameters import keep_parameters
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.estimates import has_deviation, points_of
from nnaccel.tabular.features import fit_features
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.model import Model
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import Examples
from nnaccel.tabular.survey import Rules, survey
from nnaccel.tabular.tables import as_table, import_extra, is_table


def table_of(X: Any) -> Any:
    """X as a pyarrow table. X may be a data frame, a dict of columns, a list of dicts, or a matrix,
    whose columns become x0, x1, ... NaN is missing; infinity is not refused here."""
    X = on_host(X)
    if is_table(X) and not issparse(X):  # a sparse array in DOK format is a dict
        return as_table(X)
    X = check_array(X, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=0)
    if X.dtype.kind in "OUS":
        X = X.astype(object)
    return as_table({f"x{i}": _column(X[:, i]) for i in range(X.shape[1])})


def _column(values: np.ndarray) -> Any:
    """A column of a matrix. A column of objects becomes numbers if all are numbers, else text."""
    pa = import_extra("pyarrow")
    if values.dtype != object:
        return pa.array(values, from_pandas=True)
    try:
        return pa.array(values.tolist(), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        missing = [value is None or value != value for value in values]
        texts = [None if gone else str(v) for gone, v in zip(missing, values, strict=True)]
        return pa.array(texts, pa.large_string())


class _OfTables(Documented, BaseEstimator):
    """The base of the estimators of tables: the columns of X."""

    drop: Any
    keep: Any
    decimal: str | None
    missing: Any

    def _rules(self) -> Rules:
        """The rules for the columns, from the parameters."""
        if isinstance(self.missing, str) and self.missing not in ("auto", "none"):
            raise ValueError(
                f"missing must be 'auto', 'none' or numbers that stand for no value, got "
                f"{self.missing!r}"
            )
        found = {"auto": None, "none": ()}
        codes = found[self.missing] if isinstance(self.missing, str) else tuple(self.missing)
        return Rules(tuple(self.drop), tuple(self.keep), self.decimal, codes)

    def _learn_columns(self, X: Any) -> Any:
        """The table of X. Sets scikit-learn's attributes for its columns."""
        table = table_of(X)
        if table.num_rows < 2:
            raise ValueError(
                f"X has {table.num_rows} row (n_samples = {table.num_rows}); a fit needs two"
            )
        self.n_features_in_ = table.num_columns
        if hasattr(X, "columns") or isinstance(X, dict) or hasattr(X, "column_names"):
            self.feature_names_in_ = np.array(table.column_names, dtype=object)
        else:
            self.__dict__.pop("feature_names_in_", None)
        return table

    def _table(self, X: Any) -> Any:
        """The table of X. Raises ValueError for another number of unnamed columns than in the
        fit."""
        check_is_fitted(self)
        table = table_of(X)
        named = hasattr(self, "feature_names_in_")
        if not named and table.num_columns != self.n_features_in_:
            raise ValueError(
                f"X has {table.num_columns} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        is_matrix = table.column_names[:1] == ["x0"] and not hasattr(X, "columns")
        if named and is_matrix and table.num_columns == self.n_features_in_:
            return table.rename_columns([*self.feature_names_in_])
        return table

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


class TableEncoder(TransformerMixin, _OfTables):
    """The encoding of tables as float matrices, as a transformer for your own pipelines.

    Parameters
    ----------
    drop, keep, decimal, missing
        The same as for `TableClassifier`.
    dtype : {"float32", "float64"}, default="float32"
        The dtype of the matrix.

    Attributes
    ----------
    features_ : nnaccel.tabular.encoding.Features
        The encoding, as plain data.
    n_features_in_ : int
        Number of columns seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X has names.

    Examples
    --------
    >>> from nnaccel import TableEncoder
    >>> encoder = TableEncoder().fit({"age": [31, 46, None], "job": ["nurse", "clerk", "nurse"]})
    >>> encoder.get_feature_names_out().tolist()
    ['age', 'age missing', 'job=clerk', 'job=nurse']
    """

    def __init__(
        self,
        *,
        drop: Any = (),
        keep: Any = (),
        decimal: str | None = None,
        missing: Any = "auto",
        dtype: str = "float32",
    ) -> None:
        keep_parameters(self, locals())

    def fit(self, X: Any, y: Any = None) -> Self:
        """Decide how the columns of X are read and encoded.   y is ignored."""
        found, typed = survey(self._learn_columns(X), self._rules())
        self.features_: Features = fit_features(typed, surveyed=found)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The matrix (n_samples, n_features_out) of X."""
        table = self._table(X)
        return self.features_.transform(table, self.dtype)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the encoded columns: `age`, `age missing`, `job=clerk`."""
        check_is_fitted(self)
        return np.array(self.features_.names, dtype=object)


class _TableModel(_OfTables):
    """The base of the classifier and the regressor."""

    random_state: Any
    device: str | None
    kernels: bool | str
    verbose: Any
    scoring: Any
    model_: Model

    def _fit(self, table: Any, y: Any, sample_weight: Any, task: str) -> Self:
        check_consistent_length(y, range(table.num_rows))
        weights = None
        if sample_weight is not None:
            rows = np.empty((table.num_rows, 1))
            weights = _check_sample_weight(on_host(sample_weight), rows, dtype=np.float64)
        scorer: Any = self.scoring if callable(self.scoring) else None
        fit = Fit(
            Examples("table", table, y, "y", None, task, None, weights=weights),
            self._settings(task),
            device=select(self.device or "cpu"),
            rules=self._rules(),
            test_fraction=0,
            kernels=self.kernels,
            scorer=scorer,
        )
        for epoch in fit:
            if self.verbose:
                scores = ", ".join(f"{name} {v:.4g}" for name, v in epoch.scores().items())
                print(f"epoch {epoch.number}: {scores}")
        self._take(fit.model())
        return self

    def _settings(self, task: str) -> Settings:
        values = {n: getattr(self, n) for n in Settings.__dataclass_fields__ if hasattr(self, n)}
        if callable(self.scoring):
            values["scoring"] = "loss"  # `Fit` has the function
        elif self.scoring is None:
            values["scoring"] = "r2" if task == "regression" else "accuracy"
        if isinstance(values.get("class_weight"), dict):
            values["class_weight"] = None  # included in the weights of the rows
        for name in ("hidden", "activation"):
            value = values[name]
            if value is not None:
                values[name] = (value,) if isinstance(value, str | int) else tuple(value)
        state = self.random_state
        seed = state if isinstance(state, int) else check_random_state(state).randint(2**31)
        return Settings(task=task, seed=seed, **values)

    def _take(self, model: Model) -> None:
        self.model_ = model
        self.n_iter_ = len(model.history)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to one safe file, which `nnaccel predict` reads, too."""
        check_is_fitted(self)
        self.model_.save(path)

    def to_onnx(self) -> Any:
        """The encoding and the network as one ONNX graph.

        It has an input for each column that the model uses. Its outputs are `y` and, for a
        classifier, `y probabilities`; for several targets `y0`, `y1`, ... The graph documents each
        input.

        Returns
        -------
        model : onnx.ModelProto
            For ``onnx.save(model, path)``, or ``model.SerializeToString()`` for a runtime.
        """
        check_is_fitted(self)
        return self.model_.to_onnx()

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """An estimator with the model of a file, such as one that `nnaccel train` wrote.

        Raises OSError, or ValueError that says what is wrong with the file.
        """
        model = Model.load(path)
        if model.target.task != cls._task:
            raise ValueError(
                f"{path} holds a model for {model.target.task}, and {cls.__name__} is for "
                f"{cls._task}"
            )
        names = {*cls._get_param_names()}
        self = cls(**{name: v for name, v in model.settings.items() if name in names})
        self.n_features_in_ = len(model.features.columns)
        self.feature_names_in_ = np.array(model.features.columns, dtype=object)
        self._take(model)
        return self


class TableClassifier(ClassifierMixin, _TableModel):
    """Multi-layer perceptron for raw tables with text, dates, missing values and categories.

    It does the same as `nnaccel train`, with its defaults, in scikit-learn's API.

    Parameters
    ----------
    hidden : sequence of int or None, default=None
        The number of units of each hidden layer; () is a linear model. None, here and below: the
        size of the table decides, as on the command line (see `nnaccel.tabular.settings.resolve`).
    activation : str or sequence of str, default="auto"
        The activation of the hidden layers.
    numbers : {"auto", "plain", "piecewise", "both"}, default="auto"
        The form of numbers in the network's input: "plain", one input each; "piecewise", with their
        piecewise linear encoding as further inputs; "both", the mean of networks of both kinds.
    members : int or None, default=None
        The number of networks. Each is trained without one of as many folds of the rows and
        validated on that fold; the prediction is their mean. None: 5 for tables of 50 to 100,000
        rows, unless `hidden` or `validation_fraction` is set, else 1.
    dropout : float or None, default=None
        The probability of dropping a unit of a hidden layer while training.
    dropout_until : float or None, default=None
        The share of the epochs, from the first one on, that have dropout.
    initializer : str, default="auto"
        The distribution of initial weights.
    loss : str or nnaccel.Loss, default="auto"
        "auto" is the cross-entropy; also a loss of your own for classes, or for labels where there
        are two.
    label_smoothing : float, default=0.0
        The share of each target that is spread evenly over the classes.
    class_weight : dict, "balanced" or None, default=None
        How much the rows of each class count. "balanced" gives all classes the same sum.
    optimizer : str, default="adamw"
        A name of `nnaccel.maths.optimizers`.
    learning_rate : float or None, default=None
        The highest rate of the schedule.
    schedule : str, default="one_cycle"
        A name of `nnaccel.maths.schedules`.
    batch_size, epochs : int or None, default=None
        The number of rows in a minibatch, and of passes over the rows.
    early_stopping : int, default=0
        Epochs without a better validation loss, or score, after which to stop; 0 for never.
    scoring : str, callable or None, default="loss"
        What the best epoch is told by, on rows that the network has not seen: "loss", a name of
        `sklearn.metrics.get_scorer_names`, or ``scorer(estimator, X, y)`` of encoded rows and
        numbers of classes, greater being better; None is accuracy or R^2.
    validation_fraction : float or None, default=None
        The share of the rows that is held out to find the best epoch; 0: none.
    weight_decay : float or None, default=None
        Decoupled weight decay.
    l2 : float, default=0.0
        Penalty `l2 / 2 |W|^2`.
    clip_norm : float or None, default=None
        Gradients are scaled down to at most this Euclidean norm.
    random_state : int, RandomState instance or None, default=None
        Seeds the initial weights, the choice of held-out rows, the order of rows and dropout.
    drop, keep : sequence of str, default=()
        Columns to leave out, and columns to use in any case.
    decimal : {".", ","} or None, default=None
        The decimal mark of numbers that are text; None: decide by the table.
    missing : "auto", "none" or sequence of float, default="auto"
        Numbers that stand for no value, such as -9999; "auto" searches for them.
    dtype : {"float32", "float64"}, default="float32"
        The dtype of the computation.
    precision : {"float32", "tf32", "bf16"}, default="float32"
        The precision of the matrix products while training.
    device : str or None, default=None
        The device that computes: "cpu", "cuda", ... (see `nnaccel.devices.device.select`); None:
        "cpu".
    kernels : bool or "numpy", default=True
        The same as for `nnaccel.train`.
    verbose : bool, default=False
        Print the scores of every epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    model_ : nnaccel.Model
        The trained model: network, encoding, history and settings.
    n_iter_ : int
        The number of epochs.
    n_features_in_ : int
        Number of columns seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X has names.

    See Also
    --------
    TableRegressor : The estimator for numbers.
    TableEncoder : The encoding alone.

    Examples
    --------
    >>> from nnaccel import TableClassifier
    >>> X = {"age": [31, 46, None, 28] * 10, "job": ["nurse", "clerk", "nurse", "cook"] * 10}
    >>> y = ["yes", "no", "yes", "no"] * 10
    >>> TableClassifier(random_state=0).fit(X, y).predict({"age": [30], "job": ["nurse"]})
    array(['yes'], dtype='<U3')
    """

    _task = "classification"

    def __init__(
        self,
        *,
        hidden: Any = None,
        activation: Any = "auto",
        numbers: str = "auto",
        members: int | None = None,
        dropout: float | None = None,
        dropout_until: float | None = None,
        initializer: str = "auto",
        loss: Any = "auto",
        label_smoothing: float = 0.0,
        class_weight: Any = None,
        optimizer: str = "adamw",
        learning_rate: float | None = None,
        schedule: str = "one_cycle",
        batch_size: int | None = None,
        epochs: int | None = None,
        early_stopping: int = 0,
        scoring: Any = "loss",
        validation_fraction: float | None = None,
        weight_decay: float | None = None,
        l2: float = 0.0,
        clip_norm: float | None = None,
        random_state: Any = None,
        drop: Any = (),
        keep: Any = (),
        decimal: str | None = None,
        missing: Any = "auto",
        dtype: str = "float32",
        precision: str = "float32",
        device: str | None = None,
        kernels: bool | str = True,
        verbose: bool | int = False,
    ) -> None:
        keep_parameters(self, locals())

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the encoding and the network.

        Parameters
        ----------
        X : data frame, table, dict of columns, list of dicts or array-like of shape (n, n_columns)
            The table, with columns of any kind.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), optional
            How much each row counts.

        Returns
        -------
        self : object
        """
        table = self._learn_columns(X)
        y = column_or_1d(_given(y), warn=True)
        if y.dtype.kind == "f":
            check_array(y, ensure_2d=False, input_name="y")
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has 1 class, {self.classes_[0]!r}, and there is nothing to tell apart"
            )
        if isinstance(self.class_weight, dict):
            by_class = compute_sample_weight(self.class_weight, y)
            weights = 1.0 if sample_weight is None else on_host(sample_weight)
            sample_weight = by_class * weights
        return self._fit(table, y, sample_weight, "classification")

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class (n_samples, n_classes), in the order of `classes_`."""
        table = self._table(X)
        return self.model_.outputs(table)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row (n_samples,)."""
        P = self.predict_proba(X)
        return self.classes_[P.argmax(axis=1)]

    def _take(self, model: Model) -> None:
        super()._take(model)
        self.classes_ = np.array(model.target.classes)


class TableRegressor(RegressorMixin, _TableModel):
    """Multi-layer perceptron for raw tables with text, dates, missing values and categories.

    It does the same as `nnaccel train`, with its defaults, in scikit-learn's API.

    Parameters
    ----------
    hidden : sequence of int or None, default=None
        The number of units of each hidden layer; () is a linear model. None, here and below: the
        size of the table decides, as on the command line (see `nnaccel.tabular.settings.resolve`).
    activation : str or sequence of str, default="auto"
        The activation of the hidden layers.
    numbers : {"auto", "plain", "piecewise", "both"}, default="auto"
        The form of numbers in the network's input: "plain", one input each; "piecewise", with their
        piecewise linear encoding as further inputs; "both", the mean of networks of both kinds.
    members : int or None, default=None
        The number of networks. Each is trained without one of as many folds of the rows and
        validated on that fold; the prediction is their mean. None: 5 for tables of 50 to 100,000
        rows, unless `hidden` or `validation_fraction` is set, else 1.
    dropout : float or None, default=None
        The probability of dropping a unit of a hidden layer while training.
    dropout_until : float or None, default=None
        The share of the epochs, from the first one on, that have dropout.
    initializer : str, default="auto"
        The distribution of initial weights.
    loss : str or nnaccel.Loss, default="auto"
        "auto" is the squared error, or "pinball" with a `quantile`; also "absolute_error", "huber",
        "poisson", "gaussian" (a mean with its standard deviation), or a loss of your own.
    quantile : float, sequence of float or None, default=None
        That is predicted with loss="pinball"; several, in ascending order, do not cross.
    optimizer : str, default="adamw"
        A name of `nnaccel.maths.optimizers`.
    learning_rate : float or None, default=None
        The highest rate of the schedule.
    schedule : str, default="one_cycle"
        A name of `nnaccel.maths.schedules`.
    batch_size, epochs : int or None, default=None
        The number of rows in a minibatch, and of passes over the rows.
    early_stopping : int, default=0
        Epochs without a better validation loss, or score, after which to stop; 0 for never.
    scoring : str, callable or None, default="loss"
        What the best epoch is told by, on rows that the network has not seen: "loss", a name of
        `sklearn.metrics.get_scorer_names`, or ``scorer(estimator, X, y)`` of encoded rows and
        numbers of classes, greater being better; None is accuracy or R^2.
    validation_fraction : float or None, default=None
        The share of the rows that is held out to find the best epoch; 0: none.
    weight_decay : float or None, default=None
        Decoupled weight decay.
    l2 : float, default=0.0
        Penalty `l2 / 2 |W|^2`.
    clip_norm : float or None, default=None
        Gradients are scaled down to at most this Euclidean norm.
    random_state : int, RandomState instance or None, default=None
        Seeds the initial weights, the choice of held-out rows, the order of rows and dropout.
    drop, keep : sequence of str, default=()
        Columns to leave out, and columns to use in any case.
    decimal : {".", ","} or None, default=None
        The decimal mark of numbers that are text; None: decide by the table.
    missing : "auto", "none" or sequence of float, default="auto"
        Numbers that stand for no value, such as -9999; "auto" searches for them.
    dtype : {"float32", "float64"}, default="float32"
        The dtype of the computation.
    precision : {"float32", "tf32", "bf16"}, default="float32"
        The precision of the matrix products while training.
    device : str or None, default=None
        The device that computes: "cpu", "cuda", ... (see `nnaccel.devices.device.select`); None:
        "cpu".
    kernels : bool or "numpy", default=True
        The same as for `nnaccel.train`.
    verbose : bool, default=False
        Print the scores of every epoch.

    Attributes
    ----------
    model_ : nnaccel.Model
        The trained model: network, encoding, history and settings.
    n_iter_ : int
        The number of epochs.
    n_features_in_ : int
        Number of columns seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X has names.

    See Also
    --------
    TableClassifier : The estimator for classes.
    TableEncoder : The encoding alone.

    Examples
    --------
    >>> from nnaccel import TableRegressor
    >>> X = {"age": [31, 46, None, 28] * 10, "day": ["2024-01-02", "2024-02-03"] * 20}
    >>> model = TableRegressor(random_state=0).fit(X, [1.0, 2.0, 1.5, 2.5] * 10)
    >>> model.predict({"age": [30, 40], "day": ["2024-01-02", "2024-02-03"]}).shape
    (2,)
    """

    _task = "regression"

    def __init__(
        self,
        *,
        hidden: Any = None,
        activation: Any = "auto",
        numbers: str = "auto",
        members: int | None = None,
        dropout: float | None = None,
        dropout_until: float | None = None,
        initializer: str = "auto",
        loss: Any = "auto",
        quantile: Any = None,
        optimizer: str = "adamw",
        learning_rate: float | None = None,
        schedule: str = "one_cycle",
        batch_size: int | None = None,
        epochs: int | None = None,
        early_stopping: int = 0,
        scoring: Any = "loss",
        validation_fraction: float | None = None,
        weight_decay: float | None = None,
        l2: float = 0.0,
        clip_norm: float | None = None,
        random_state: Any = None,
        drop: Any = (),
        keep: Any = (),
        decimal: str | None = None,
        missing: Any = "auto",
        dtype: str = "float32",
        precision: str = "float32",
        device: str | None = None,
        kernels: bool | str = True,
        verbose: bool | int = False,
    ) -> None:
        keep_parameters(self, locals())

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the encoding and the network.

        Parameters
        ----------
        X : data frame, table, dict of columns, list of dicts or array-like of shape (n, n_columns)
            The table, with columns of any kind.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers.
        sample_weight : array-like of shape (n_samples,), optional
            How much each row counts.

        Returns
        -------
        self : object
        """
        table = self._learn_columns(X)
        y = check_array(_given(y), ensure_2d=False, dtype=np.float64, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if y.ndim == 2:
            pa = import_extra("pyarrow")
            y = pa.table({f"y{k}": y[:, k] for k in range(y.shape[1])})
        return self._fit(table, y, sample_weight, "regression")

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The number of each row (n_samples,), or (n_samples, n_targets).

        Several quantiles have an axis more, the last one: (n_samples, n_quantiles).

        Parameters
        ----------
        X : data frame, table, dict of columns, list of dicts or array-like of shape (n, n_columns)
            Rows.
        return_std : bool, default=False
            Whether the standard deviation is wanted too, which loss="gaussian" estimates: then the
            pair of both, of the same shape.
        """
        table = self._table(X)
        loss = self.model_.loss
        if return_std and not has_deviation(loss):
            raise ValueError(
                f"return_std is for loss='gaussian', which estimates it, got loss={loss.name!r}"
            )
        outputs = self.model_.outputs(table)
        if not has_deviation(loss):
            return outputs
        return (outputs[..., 0], outputs[..., 1]) if return_std else outputs[..., 0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination of the predictions, R^2; of several quantiles that of
        the one next to the median."""
        predicted, model = self.predict(X), self.model_
        if model.loss.levels:
            predicted = points_of(model.target, model.loss, predicted)
        return r2_score(_given(y), predicted, sample_weight=on_host(sample_weight))


def _given(y: Any) -> Any:
    """y on the host. Raises ValueError if y is None."""
    if y is None:
        raise ValueError("fit requires y to be passed, but the target y is None")
    return on_host(y)
