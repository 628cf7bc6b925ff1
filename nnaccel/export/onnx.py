"""Models as ONNX graphs: the encoding of a table, the network and the conversion to the target."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel.devices.device import to_host
from nnaccel.export.columns import HOLDS, kinds_of
from nnaccel.export.graph import Graph
from nnaccel.export.traced import Functions, Traced
from nnaccel.maths import activations, losses
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers.dense import dense
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, layout, leaves, views
from nnaccel.ops import Ops
from nnaccel.tabular.dates import PARTS
from nnaccel.tabular.encoding import Categorical, Features, Numeric
from nnaccel.tabular.estimates import columns_by_name, outputs_of
from nnaccel.tabular.scaling import bend
from nnaccel.tabular.several_targets import Targets, is_second, probabilities
from nnaccel.tabular.tables import MISSING
from nnaccel.tabular.targets import Target

if TYPE_CHECKING:
    from nnaccel.tabular.model import Model

NO_STATE = -1  # the code of a text without a one-hot column


def table_model(model: "Model") -> Any:
    """The model of a table as a ModelProto with an input for each column that it uses.

    The inputs (N,) have the names of the columns: text, or float64 as `HOLDS` says. The outputs
    have the names of the targets: the number, or the label (N,), and then also the probability of
    each class (N, K) as `name probabilities`; of several quantiles, and of a mean with its standard
    deviation, the names of the columns (`estimates.names_of`). Numbers are float64, as in the
    library.

    Raises ValueError for a layer or an activation without operators in ONNX, and for a column
    without a name; ModuleNotFoundError without the package onnx.
    """
    xp = Functions(Graph())
    X = encoded(model.features, xp, model.params.dtype)
    params = views(to_host(model.params), layout(model.network), xp=np)
    Z = logits(model.network, params, X)
    with naming_unknown(f"the loss {model.loss.name!r}"):
        A = xp.astype(Ops(xp, operators(xp))[model.loss.predict](Z), np.float64)
        A = model.loss.pool(A, xp=xp) if A.ndim == 3 else A
    outputs = outputs_of(model.target, model.loss, A, xp=xp)
    declare_target(model.target, model.loss, outputs)
    return xp.graph.model(f"Predicts {model.target.name}.", {"task": model.target.task})


def network_model(network: Network, params: Any, declare: Callable[[Traced], None]) -> Any:
    """A network as a ModelProto with the input `X` (N, n_inputs), in the dtype of its parameters.

    params: the NumPy arrays of the layers.   declare: the function (logits) that declares the
    outputs.
    """
    xp = Functions(Graph())
    X = xp.input("X", next(leaves(params)).dtype, (None, network.n_inputs), "numbers")
    declare(logits(network, params, X))
    return xp.graph.model("", {})


# ---------------------------------------------------------------------------- the network


def logits(network: Network, params: Any, X: Traced) -> Traced:
    """The logits Z (..., N, n_outputs), by running the layers on a traced array.

    Raises ValueError that names a layer without operators in ONNX.
    """
    ops = Ops(X.xp, operators(X.xp))
    for i, (layer, own) in enumerate(zip(network.layers, params, strict=True)):
        with naming_unknown(f"layer {i}, {layer!r},"):
            X = layer.forward(own, X, ops=ops, key=None)[0]
    return X


@contextmanager
def naming_unknown(what: str) -> Iterator[None]:
    """A context that turns the error of a missing operator into a ValueError that names the
    function."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be written as ONNX: {error}") from error


def operators(xp: Functions) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Kernels for the functions of the maths that are a single operator of ONNX. So readers of the
    graph, and programs that optimise it, find these operators by their names."""

    def one(name: str) -> Callable[[Traced], Traced]:
        return lambda Z: xp.node(name, [Z], Z.dtype, Z.shape)

    named = {
        activations.relu: one("Relu"),
        activations.sigmoid: one("Sigmoid"),
        activations.softplus: one("Softplus"),
        losses.softmax: xp.softmax,
    }

    def of_layer(X: Traced, W: Any, b: Any, activation: Activation) -> tuple[Any, Any]:
        Z = X @ W + b
        g = named.get(activation.forward)
        return Z, g(Z) if g else activation.forward(Z, xp=xp)

    return {**named, dense: of_layer}


# ---------------------------------------------------------------------------- the encoding


def encoded(features: Features, xp: Functions, dtype: Any) -> Traced:
    """The encoded rows (N, D) of the inputs, which are declared here; see `Features.transform`."""
    inputs = {}
    for name, kind in kinds_of(features).items():
        of = np.str_ if kind == "string" else np.float64
        inputs[name] = xp.input(name, of, (None,), HOLDS[kind])
    groups = []
    if features.numeric:
        groups += [*_numbers(features, inputs, xp)]
    groups += [_one_hot(column, inputs[column.name], xp) for column in features.categorical]
    groups = [xp.astype(group, dtype) for group in groups]
    return xp.concat(groups, axis=1) if len(groups) > 1 else groups[0]


def _numbers(features: Features, inputs: dict[str, Traced], xp: Functions) -> Any:
    """The numbers (N, n), followed by their indicators of missing values."""
    numeric = features.numeric
    parts = [_part(features, number, inputs[number.name], xp) for number in numeric]
    center, scale = (np.array([getattr(n, name) for n in numeric]) for name in ("center", "scale"))
    Z = (xp.stack(parts, axis=1) - center) / scale
    missing = xp.isnan(Z)
    Z = xp.where(missing, 0.0, Z)
    bent = np.array([number.bend for number in numeric])
    if bent.any():
        Z = xp.where(bent, bend(Z, xp=xp), Z)
    yield Z
    if marked := [i for i, number in enumerate(numeric) if number.missing]:
        yield xp.take(xp.astype(missing, np.float64), marked, axis=1)


def _part(features: Features, number: Numeric, values: Traced, xp: Functions) -> Traced:
    """The feature of a column (N,), NaN where missing."""
    for code in features.reading(number).codes:
        values = xp.where(values == code, np.nan, values)
    return PARTS[number.part](values, xp=xp) if number.part else values


def _one_hot(column: Categorical, values: Traced, xp: Functions) -> Traced:
    """The states of a column of categories (N, n) as 0 and 1; see `encoding.Categorical`."""
    n, levels = len(column.states), np.arange(len(column.states))
    missing, other = n - 1 - column.other, n - 1 if column.other else NO_STATE
    if column.kind == "string":
        codes = {str(level): i for i, level in enumerate(column.levels)}
        blank = missing if column.missing else NO_STATE
        codes = dict.fromkeys(MISSING, blank) | codes
        return xp.equal(xp.expand_dims(xp.code_of(values, codes, other), axis=1), levels)
    known = np.array(column.levels[column.base :], dtype=np.float64)
    states = [xp.expand_dims(values, axis=1) == known]
    gone = xp.expand_dims(xp.isnan(values), axis=1)
    if column.missing:
        states.append(gone)
    if column.other:
        found = xp.astype(xp.concat([states[0], gone], axis=1), np.float64)
        states.append(xp.sum(found, axis=1, keepdims=True) == 0)
    return xp.concat(states, axis=1) if len(states) > 1 else states[0]


# ---------------------------------------------------------------------------- the outputs


def declare_target(target: Target | Targets, loss: Loss, outputs: Traced) -> None:
    """Declare what a model predicts, from `estimates.outputs_of`."""
    xp, several = outputs.xp, isinstance(target, Targets)
    if target.task == "regression":
        for name, values in columns_by_name(target, loss, outputs):
            xp.declare(name, values)
        return
    for one, P in probabilities(target, outputs, xp=xp):
        # Each of several labels is its second class from a probability of one half on.
        second = is_second(P[:, 1]) if several else None
        codes = xp.argmax(P, axis=1) if second is None else xp.astype(second, np.int64)
        declare_classes(one.name, np.array(one.classes), codes, P)


def declare_classes(name: str, classes: np.ndarray, codes: Traced, P: Traced) -> None:
    """Declare the label of each row, and the probability of each class.

    Raises ValueError for classes that are not text, numbers or booleans.
    """
    texts = classes.dtype.kind != "O" or all(type(label) is str for label in classes)
    if classes.dtype.kind not in "biufUO" or not texts:
        raise ValueError(
            f"classes of {classes.dtype} cannot be in ONNX, which has text, numbers and booleans; "
            "turn them into text"
        )
    xp = codes.xp
    xp.declare(name, xp.take(classes, codes))
    of = "of " + ", ".join(map(str, classes.tolist()))
    xp.declare(f"{name} probabilities", P, of)
