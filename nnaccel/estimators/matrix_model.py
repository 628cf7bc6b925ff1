"""A fitted network of these estimators as a `Model` of a matrix, to explain and export it like the
model of a table."""

from collections.abc import Sequence
from typing import Any

from nnaccel.devices.device import select
from nnaccel.estimators.array_input import on_host
from nnaccel.estimators.fit_plan import FitPlan
from nnaccel.tabular.encoding import Matrix, Numeric
from nnaccel.tabular.model import Model
from nnaccel.tabular.several_targets import Targets
from nnaccel.tabular.tables import listing
from nnaccel.tabular.targets import Target


def matrix_model(
    estimator: Any, columns: Sequence[str] | None = None, targets: Sequence[str] = ()
) -> Model:
    """The model of a matrix, on the host.

    columns: the column names; None: those of the fit, else x0, x1, ...   targets: the target names;
    (): y, or y0, y1, ...
    Raises ValueError for a wrong number of names, and for classes that a model cannot have.
    """
    network, loss = estimator._network(), estimator._loss()
    dtype = str(on_host(estimator.coefs_[0]).dtype)
    params = on_host(estimator._params(FitPlan(network, loss, select("cpu"), dtype)))
    D = network.n_inputs
    if columns is None:
        columns = getattr(estimator, "feature_names_in_", None)
    names = [f"x{i}" for i in range(D)] if columns is None else [*map(str, columns)]
    if len(names) != D:
        raise ValueError(
            f"the network was fitted on {D:,} columns, and there are {len(names):,}: "
            f"{listing(names)}; give it the same columns"
        )
    features = Matrix(tuple(names), tuple(Numeric(name, 0.0, 1.0) for name in names))
    return Model(network, params, loss, features, _target(estimator, targets), [], {}, {})


def _target(estimator: Any, names: Sequence[str]) -> Target | Targets:
    """The target or targets with these names."""
    is_classifier = hasattr(estimator, "classes_")
    has_labels = is_classifier and estimator._has_labels
    several = has_labels or (not is_classifier and estimator.n_outputs_ > 1)
    n = estimator.n_outputs_ if several else 1
    names = names or ([f"y{k}" for k in range(n)] if several else ["y"])
    if len(names) != n:
        raise ValueError(f"the network predicts {n} targets, got {len(names)}: {listing(names)}")
    if has_labels:  # 0 and 1, as in scikit-learn
        return Targets(tuple(Target("classification", name, (0, 1)) for name in names))
    if several:
        return Targets(tuple(Target("regression", name) for name in names))
    if is_classifier:
        return Target("classification", names[0], _labels(estimator))
    return Target("regression", names[0])


def _labels(estimator: Any) -> tuple[Any, ...]:
    """The classes in the form of a target."""
    classes = on_host(estimator.classes_)
    labels = classes.tolist()
    if len(labels) < 2:
        raise ValueError(
            f"the network was fitted on one class, {labels[0]!r}: it tells nothing apart"
        )
    if classes.dtype.kind not in "biufUO" or {*map(type, labels)} - {bool, int, float, str}:
        raise ValueError(
            f"classes of {classes.dtype} cannot be in such a model, which has text, numbers and "
            "booleans; turn them into text"
        )
    return tuple(labels)
