"""Estimators in model files: what `save` of an estimator adds to a network, and its way back.

The file is that of `training/checkpoint.py`. In its `extra`, as plain data of a closed schema, are
the parameters of the constructor, the classes, and the curves. Nothing is unpickled.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nnaccel import schema
from nnaccel.devices.device import select
from nnaccel.estimators.array_input import on_host
from nnaccel.estimators.fit_plan import FitPlan
from nnaccel.estimators.parameters import network_of
from nnaccel.schema import Field, check
from nnaccel.training import checkpoint

CURVES = Field("an object of numbers and lists of them", lambda v: type(v) is dict)
CLASSES = Field("a list of labels, or nothing", lambda v: v is None or schema.LIST.holds(v))
NAMES = Field("a list of different strings, or nothing", lambda v: v is None or _is_names(v))
COUNT = Field("a whole number, not negative", lambda v: type(v) is int and v >= 0)

# Kinds of classes in words, and what each of them is in Python.
PLAIN = {"bool": bool, "whole number": int, "number": float, "string": str, "string object": str}

FIELDS: dict[str, Field] = {
    "estimator": schema.one_of("MLPClassifier", "MLPRegressor"),
    "parameters": Field("an object", lambda v: type(v) is dict),
    "dtype": schema.one_of(*PLAIN, "none"),
    "classes": CLASSES,
    "target": schema.one_of("binary", "multiclass", "multilabel-indicator", "numbers"),
    "feature_names": NAMES,
    "n_iter": COUNT,
    "t": COUNT,
    "curves": CURVES,
}
SCORES = (
    "loss_",
    "best_loss_",
    "loss_curve_",
    "validation_loss_curve_",
    "validation_scores_",
    "best_validation_score_",
)


class ModelFiles:
    """The methods `save` and `load` of an estimator."""

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator as a model file: safetensors, without pickle.

        Parameters
        ----------
        path : str or Path
            The file is replaced at once or not at all. Callbacks and a `random_state` that is
            no number are left out, and so is the memory of the optimizer.
        """
        check_is_fitted(self)
        write(path, self)

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
        estimator = read(path, cls)
        return estimator if device is None else estimator.to(device)


def write(path: str | Path, estimator: Any) -> None:
    """Write a fitted estimator as a model file.

    ValueError for a parameter that is no plain data, such as a schedule written as a function.
    """
    sizes = [W.shape[1] for W in estimator.coefs_[:-1]]
    network = network_of(estimator, estimator.n_features_in_, sizes)
    first = on_host(estimator.coefs_[0])
    plan = FitPlan(network, estimator._loss(), select("cpu"), str(first.dtype))
    kind, classes = _classes(getattr(estimator, "classes_", None))
    names = getattr(estimator, "feature_names_in_", None)
    extra = {
        "estimator": type(estimator).__name__,
        "parameters": {n: _plain(n, v) for n, v in estimator.get_params().items()},
        "dtype": kind,
        "classes": classes,
        "target": getattr(estimator, "_y_type", "numbers"),
        "feature_names": None if names is None else [str(name) for name in names],
        "n_iter": int(estimator.n_iter_),
        "t": int(estimator.t_),
        "curves": {n: _number(getattr(estimator, n)) for n in SCORES if hasattr(estimator, n)},
    }
    checkpoint.save(path, network, estimator._params(plan), loss=plan.loss, extra=extra)


def read(path: str | Path, cls: type) -> Any:
    """The estimator in a model file; ValueError for a file of another kind or class."""
    found = checkpoint.load(path)
    try:
        if "features" in found.extra:
            raise ValueError("it holds the model of a table; read it with nnaccel.Model.load")
        extra = check(found.extra, FIELDS, "the estimator")
        if extra["estimator"] != cls.__name__:
            raise ValueError(f"it holds an {extra['estimator']}, not an {cls.__name__}")
        parameters = {name: _restored(value) for name, value in extra["parameters"].items()}
        unknown = parameters.keys() - cls._get_param_names()  # pyright: ignore
        if unknown:
            raise ValueError(f"unknown parameters {', '.join(sorted(unknown))}")
        # The device is one of the machine that wrote the file.
        estimator = cls(**{**parameters, "device": None})
        estimator._validate_params()
        _fill(estimator, found, extra)
    except ValueError as error:
        raise ValueError(f"{path}: not an estimator that can be used: {error}") from None
    return estimator


def _fill(estimator: Any, found: checkpoint.Checkpoint, extra: dict[str, Any]) -> None:
    """The fitted attributes."""
    if found.params.ndim != 1:
        raise ValueError("it holds several networks")
    n_outputs = found.network.n_outputs
    estimator.n_features_in_ = found.network.n_inputs
    estimator.n_outputs_ = n_outputs
    estimator.n_iter_, estimator.t_ = extra["n_iter"], extra["t"]
    estimator._rate, estimator._memory = estimator.learning_rate_init, None
    if extra["feature_names"] is not None:
        if len(extra["feature_names"]) != found.network.n_inputs:
            raise ValueError("as many feature names as inputs are needed")
        estimator.feature_names_in_ = np.array(extra["feature_names"], dtype=object)
    if extra["classes"] is not None:
        estimator.classes_ = _labels(extra["dtype"], extra["classes"])
        estimator._y_type, estimator._sparse_labels = extra["target"], False
        K = len(estimator.classes_)
        if n_outputs != (K if extra["target"] == "multilabel-indicator" or K > 2 else 1):
            raise ValueError(f"{K} classes do not fit {n_outputs} outputs")
    elif hasattr(estimator, "predict_proba"):
        raise ValueError("it has no classes")
    estimator.out_activation_ = estimator._out_activation()
    plan = FitPlan(found.network, found.loss, select("cpu"), str(found.params.dtype))
    estimator._show(plan, found.params)
    estimator.n_layers_ = len(estimator.coefs_) + 1
    for name, value in extra["curves"].items():
        if name not in SCORES:
            raise ValueError(f"unknown score {name!r}")
        setattr(estimator, name, _restored(value))
    if hasattr(estimator, "loss_curve_"):
        estimator._no_improvement_count = 0


def _classes(classes: Any) -> tuple[str, list[Any] | None]:
    if classes is None:
        return "none", None
    host = on_host(classes)
    kinds = {"b": "bool", "i": "whole number", "u": "whole number", "f": "number", "U": "string"}
    kind, members = kinds.get(host.dtype.kind, "string object"), host.tolist()
    if not all(type(member) is PLAIN[kind] for member in members):
        raise ValueError("a model file can hold classes that are text, numbers or booleans only")
    return kind, members


def _labels(kind: str, members: list[Any]) -> np.ndarray:
    if kind not in PLAIN or any(type(member) is not PLAIN[kind] for member in members):
        raise ValueError(f"classes must be a list of {kind}s, got {members[:3]}")
    return np.array(members, dtype=object if kind == "string object" else None)


def _plain(name: str, value: Any) -> Any:
    """A parameter of the constructor as JSON-like data."""
    if name in ("callbacks", "device") or (
        name == "random_state" and not isinstance(value, int | np.integer)
    ):
        return None
    if isinstance(value, dict):  # class_weight: the keys may be numbers, which JSON has not
        return {"pairs": [[_number(k), _number(v)] for k, v in value.items()]}
    plain = _number(value)
    if isinstance(plain, str | bool | int | float | dict | list | None):
        return plain
    raise ValueError(
        f"{name}={value!r} cannot be written to a model file, which holds plain data only; use "
        "one of the names for it, or pickle the estimator"
    )


def _number(value: Any) -> Any:
    """NumPy's scalars as Python's, sequences as lists, and what JSON has no number for as text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_number(member) for member in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(member) for member in value]
    if isinstance(value, dict) and value.keys() == {"number"}:
        return float(value["number"])
    if isinstance(value, dict) and value.keys() == {"pairs"}:
        return {_restored(key): _restored(member) for key, member in value["pairs"]}
    if isinstance(value, dict):
        raise ValueError(f"unknown object with the keys {', '.join(value)}")
    return value


def _is_names(value: Any) -> bool:
    return schema.NAMES.holds(value)
