"""Estimators in files: what `save` adds to a network, its way back, and exports for others.

The format is that of `training/model_file.py`. Its `extra` holds the parameters of the constructor,
the classes and the curves, as plain data with a closed schema. Nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from nnaccel import schema
from nnaccel.devices.device import select
from nnaccel.estimators.array_input import on_host
from nnaccel.estimators.fit_plan import FitPlan
from nnaccel.estimators.parameters import network_of
from nnaccel.files import reason
from nnaccel.maths.layers import Dense
from nnaccel.maths.losses import Loss
from nnaccel.maths.optimizers import State
from nnaccel.schema import Field, check
from nnaccel.training import model_file
from nnaccel.training.architecture import describe_loss, rebuild_loss

# Kind of classes -> the valid data for a class in a file.
KINDS: dict[str, Field] = {
    "bool": schema.FLAG,
    "whole number": schema.INT64,
    "number": schema.FINITE,
    "string": schema.TEXT,
    "string object": schema.TEXT,
}
COUNT = Field("a whole number, not negative", lambda v: type(v) is int and 0 <= v < 2**63)
FIELDS: dict[str, Field] = {
    "estimator": schema.one_of("MLPClassifier", "MLPRegressor"),
    "parameters": schema.OBJECT,
    "dtype": schema.one_of(*KINDS, "none"),
    "classes": schema.optional(schema.LIST),
    "target": schema.one_of("binary", "multiclass", "multilabel-indicator", "numbers"),
    "feature_names": schema.optional(schema.NAMES),
    "n_iter": COUNT,
    "t": COUNT,
    "curves": schema.OBJECT,
    "memory": schema.optional(schema.OBJECT),
}
MEMORY: dict[str, Field] = {
    "rate": schema.POSITIVE,  # the current learning rate
    "no_improvement": COUNT,  # epochs in a row
    "solver": schema.optional(schema.one_of("sgd", "adam")),
    "step": schema.STEP,
}
SLOTS = {None: (0,), "sgd": (0, 1), "adam": (2,)}  # numbers of vectors that solvers keep
SCORE = schema.optional(schema.NUMBER)
CURVE = schema.optional(
    Field("a list of numbers", lambda v: type(v) is list and all(map(schema.NUMBER.holds, v)))
)
SCORES = {
    "loss_": SCORE,
    "best_loss_": SCORE,
    "loss_curve_": CURVE,
    "validation_loss_curve_": CURVE,
    "validation_scores_": CURVE,
    "best_validation_score_": SCORE,
}


class ModelFiles:
    """The methods `save` and `load` of an estimator."""

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator as a model file: safetensors, without pickle.

        Parameters
        ----------
        path : str or Path
            The file is replaced at once or not at all. Callbacks, a `scoring` that is a function
            and a `random_state` that is no number are left out. `partial_fit` and a `warm_start` go
            on after `load` as they would have without.
        """
        check_is_fitted(self)
        write(path, self)

    def export(self, path: str | Path, format: str | None = None) -> None:
        """Write the fitted network as a file that others run without nnaccel.

        Parameters
        ----------
        path : str or Path
            The file is replaced at once or not at all.
        format : {"onnx", "numpy", "torch"}, optional
            The graph of `to_onnx`; a Python file with `predict` and, of a classifier,
            `predict_proba`, which needs NumPy alone; the network as `torch.nn.Sequential`, which
            gives logits. None: as the suffix says, .onnx, .py or .pt.
        """
        from nnaccel.estimators.matrix_model import matrix_model
        from nnaccel.export.formats import export, format_of
        from nnaccel.files import write as write_file

        check_is_fitted(self)
        estimator: Any = self
        if format_of(path, format) == "onnx":
            write_file(path, estimator.to_onnx().SerializeToString())
        else:
            export(matrix_model(self), path, format)

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None) -> Any:
        """The estimator that `save` wrote.

        Parameters
        ----------
        path : str or Path
            A model file of this class.
        device : str, optional
            The device that computes; None: the device of the given arrays.

        Returns
        -------
        estimator : object
            An estimator that can predict. Its attributes are NumPy arrays, or on `device`.
        """
        estimator = read(path, cls)
        return estimator if device is None else estimator.to(device)


def write(path: str | Path, estimator: Any) -> None:
    """Write a fitted estimator as a model file.

    Raises ValueError for a parameter that is not plain data, such as a schedule that is a function.
    """
    network = estimator._network()
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
        "curves": {n: schema.plain(getattr(estimator, n)) for n in SCORES if hasattr(estimator, n)},
    }
    extra["memory"], vectors = _memory(estimator)
    params = estimator._params(plan)
    model_file.save(path, network, params, loss=plan.loss, extra=extra, vectors=vectors)


def read(path: str | Path, *classes: type) -> Any:
    """The estimator in a model file; ValueError for a file of another kind, or none of the classes.

    Its parts are checked, also against each other, so the estimator can predict.
    """
    found = model_file.load(path)
    try:
        if "features" in found.extra:
            raise ValueError("it holds the model of a table; read it with nnaccel.Model.load")
        extra = check({"memory": None, **found.extra}, FIELDS, "the estimator")
        known = {cls.__name__: cls for cls in classes}
        if extra["estimator"] not in known:
            raise ValueError(f"it holds an {extra['estimator']}, not an {' or '.join(known)}")
        estimator = _unfitted(known[extra["estimator"]], extra["parameters"])
        _fill(estimator, found, extra)
    except ValueError as error:
        raise ValueError(f"{path}: not an estimator that can be used: {reason(error)}") from None
    return estimator


def _unfitted(cls: Any, data: dict[str, Any]) -> Any:
    """An unfitted estimator with the given parameters."""
    parameters = {name: _restored(value) for name, value in data.items()}
    if unknown := parameters.keys() - cls._get_param_names():
        raise ValueError(f"unknown parameters {', '.join(sorted(unknown))}")
    # The device may not exist on this machine, and callbacks are not data.
    estimator = cls(**{**parameters, "device": None, "callbacks": None})
    estimator._validate_params()
    layers = {
        "hidden_layer_sizes": Field(
            "positive numbers",
            lambda v: all(map(schema.POSITIVE.holds, v if type(v) is list else [v])),
        ),
        "activation": Field(
            "a name or a list of names", lambda v: type(v) is str or schema.list_of(str, v)
        ),
    }
    check({name: getattr(estimator, name) for name in layers}, layers, "parameters")
    return estimator


def _fill(estimator: Any, found: model_file.ModelFile, extra: dict[str, Any]) -> None:
    """Set the fitted attributes, after a check that all parts of the file agree."""
    if found.params.ndim != 1:
        raise ValueError("it holds several networks")
    network = found.network
    estimator.n_features_in_ = network.n_inputs
    estimator.n_outputs_ = network.n_outputs // found.loss.n_outputs
    estimator.n_iter_, estimator.t_ = extra["n_iter"], extra["t"]
    estimator._rate, estimator._memory = estimator.learning_rate_init, None
    _fill_memory(estimator, found, extra["memory"])
    if extra["feature_names"] is not None:
        if len(extra["feature_names"]) != network.n_inputs:
            raise ValueError("as many feature names as inputs are needed")
        estimator.feature_names_in_ = np.array(extra["feature_names"], dtype=object)
    _fill_classes(estimator, extra)
    sizes = [layer.units for layer in network.layers if isinstance(layer, Dense)][:-1]
    n_outputs = estimator.n_outputs_ * found.loss.n_outputs
    if network_of(estimator, network.n_inputs, sizes, n_outputs) != network:
        raise ValueError("its network is not the one that its parameters describe")
    if (loss := estimator._loss()) != found.loss:
        raise ValueError(f"its parameters describe the loss {loss.name!r}, not {found.loss.name!r}")
    estimator.out_activation_ = estimator._out_activation()
    plan = FitPlan(network, found.loss, select("cpu"), str(found.params.dtype))
    estimator._show(plan, found.params)
    estimator.n_layers_ = len(estimator.coefs_) + 1
    curves = extra["curves"]
    check(curves, {n: field for n, field in SCORES.items() if n in curves}, "curves")
    for name, value in curves.items():
        setattr(estimator, name, _restored(value))
    if hasattr(estimator, "loss_curve_") and extra["memory"] is None:
        estimator._no_improvement_count = 0


def _memory(estimator: Any) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The state from which the solver continues, as data and vectors; None for a solver that
    restarts."""
    if not hasattr(estimator, "_no_improvement_count"):
        return None, {}
    solver, (step, slots) = estimator._memory or (None, (0, ()))
    data = {
        "rate": float(estimator._rate),
        "no_improvement": int(estimator._no_improvement_count),
        "solver": solver,
        "step": int(step),
    }
    return data, {f"slot{i}": slot for i, slot in enumerate(slots)}


def _fill_memory(
    estimator: Any, found: model_file.ModelFile, memory: dict[str, Any] | None
) -> None:
    """Set the state from which the solver continues, as `_memory` wrote it."""
    memory = memory if memory is None else check(memory, MEMORY, "memory")
    solver = memory and memory["solver"]
    names = [f"slot{i}" for i in range(len(found.vectors))]
    if {*names} != {*found.vectors} or len(names) not in SLOTS[solver]:
        raise ValueError(f"vectors {sorted(found.vectors)} are not the memory of solver {solver!r}")
    if memory is None:
        return
    estimator._rate = memory["rate"]
    estimator._no_improvement_count = memory["no_improvement"]
    if solver is not None:
        slots = tuple(found.vectors[name] for name in names)
        estimator._memory = solver, State(np.array(memory["step"], np.int32), slots)


def _fill_classes(estimator: Any, extra: dict[str, Any]) -> None:
    """Set the classes, after a check that they fit the outputs and the target."""
    kind, classes, target = extra["dtype"], extra["classes"], extra["target"]
    if not is_classifier(estimator):
        if (kind, classes, target) != ("none", None, "numbers"):
            raise ValueError("a regressor has no classes, and numbers as its target")
        return
    if kind == "none" or target == "numbers":
        raise ValueError("it has no classes")
    check({"classes": classes}, {"classes": schema.ascending(KINDS[kind])}, "the estimator")
    estimator.classes_ = np.array(classes, dtype=object if kind == "string object" else None)
    estimator._y_type, estimator._sparse_labels = target, False
    K, several = len(classes), target == "multilabel-indicator"
    if estimator.classes_.tolist() != classes or (not several and (target == "binary") != (K <= 2)):
        raise ValueError(f"{K} classes {classes[:3]} are not those of a {target} target")
    if estimator.n_outputs_ != (K if several or K > 2 else 1):
        raise ValueError(f"{K} classes do not fit {estimator.n_outputs_} outputs")


def _classes(classes: Any) -> tuple[str, list[Any] | None]:
    if classes is None:
        return "none", None
    host = on_host(classes)
    kinds = {"b": "bool", "i": "whole number", "u": "whole number", "f": "number", "U": "string"}
    kind, members = kinds.get(host.dtype.kind, "string object"), host.tolist()
    if not all(map(KINDS[kind].holds, members)):
        raise ValueError(
            "a model file can hold classes that are text, finite numbers, integers of 64 bits or "
            f"booleans only, got {members[:3]}"
        )
    return kind, members


def _plain(name: str, value: Any) -> Any:
    """A parameter of the constructor as JSON-like data."""
    if name in ("callbacks", "device") or (
        name == "random_state" and not isinstance(value, int | np.integer)
    ):
        return None
    if name == "scoring" and callable(value):
        return None
    if isinstance(value, Loss):
        return describe_loss(value)
    if isinstance(value, dict):  # class_weight: its keys may be numbers, which JSON does not allow
        return {"pairs": [[schema.plain(k), schema.plain(v)] for k, v in value.items()]}
    plain = schema.plain(value)
    if isinstance(plain, str | bool | int | float | dict | list | None):
        return plain
    raise ValueError(
        f"{name}={value!r} cannot be written to a model file, which holds plain data only; use "
        "one of the names for it, or pickle the estimator"
    )


def _restored(value: Any) -> Any:
    """The parameter that `_plain` wrote. Raises ValueError for other data."""
    if isinstance(value, list):
        return [_restored(member) for member in value]
    if not isinstance(value, dict):
        return value
    if schema.NOT_FINITE.holds(value):
        return float(value["number"])
    if "options" in value:
        return rebuild_loss(value)
    check(value, {"pairs": PAIRS}, "an object in it")
    return {_restored(key): _restored(member) for key, member in value["pairs"]}


# A key is a class.
PAIRS = Field(
    "a list of pairs of a class and a number",
    lambda v: (
        schema.list_of(list, v)
        and all(
            len(pair) == 2
            and type(pair[0]) in (bool, int, float, str)
            and schema.NUMBER.holds(pair[1])
            for pair in v
        )
    ),
)
