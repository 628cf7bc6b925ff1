"""A model as one readable Python file that predicts with NumPy alone.

The file contains the source of the mathematical functions from the library. Its last lines are the
weights, so that a model is one file.
"""

import base64
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel import __version__
from nnaccel.devices.device import to_host
from nnaccel.export import numpy_functions, numpy_matrix
from nnaccel.export.columns import HOLDS, kinds_of
from nnaccel.export.sources import WIDTH, assigned, sources_of
from nnaccel.maths.activations import identity
from nnaccel.maths.layers import BatchNorm, Dense, Dropout, LayerNorm, PiecewiseLinear, Residual
from nnaccel.maths.layers.layer_norm import layer_norm
from nnaccel.maths.network import layout
from nnaccel.maths.uncertainty import mean_of_networks
from nnaccel.tabular.dates import PARTS
from nnaccel.tabular.encoding import Categorical, Features, Matrix
from nnaccel.tabular.estimates import has_deviation, names_of
from nnaccel.tabular.scaling import bend
from nnaccel.tabular.several_targets import Targets, columns_of
from nnaccel.tabular.targets import Target

if TYPE_CHECKING:
    from nnaccel.tabular.model import Model


def numpy_file(model: "Model", name: str = "model") -> str:
    """The text of a Python file with `predict(table)`, `encode(table)` and, for classes,
    `predict_proba(table)`.   name: of the module.

    Raises ValueError for parts without source text: a layer that is not one of the library's, a
    function of an interactive session.
    """
    calls = Calls()
    params = to_host(model.params)
    if isinstance(model.features, Matrix):
        heading, predictions = numpy_matrix.heading(model, name), numpy_matrix.predictions(model)
        outputs, encode = _outputs(model, calls, "X", f"np.asarray(X, np.{params.dtype})"), []
    else:
        calls.needs(numpy_functions.numbers, numpy_functions.texts, numpy_functions.one_hot, bend)
        heading = _heading(model, name)
        predictions = _predictions(model)
        outputs = _outputs(model, calls, "table", "encode(table)")
        encode = [ENCODE.format(D=model.network.n_inputs, dtype=params.dtype)]
    own = [*predictions, outputs, _network(model, calls), WEIGHTS_OF, *encode]
    data = "\n".join(_data(model, calls))
    found = sources_of(calls.functions)
    if taken := OWN & {*found.names}:
        raise ValueError(f"what an activation calls {min(taken)!r} is something else in the file")
    imports = "\n".join(sorted({"import base64", "import numpy as np", *found.imports}))
    parts = [
        heading,
        f"from __future__ import annotations\n\n{imports}\n\nArray = Namespace = object",
        *([f"# How the table is encoded, and what is predicted\n\n{data}"] if data else []),
        *(f"\n{text}" for text in own),
        "\n# What these functions are made of",
        *(["\n".join(found.constants)] if found.constants else []),
        *(f"\n{text}" for text in found.functions),
        "\n# The parameters of the network" + "s, a row each" * (params.ndim == 2),
        _weights(params),
    ]
    return "\n\n".join(parts) + "\n"


class Calls:
    """Writes calls of functions as text, and collects the functions whose source the file needs."""

    def __init__(self) -> None:
        self.functions: list[Callable[..., Any]] = []
        self.edges: dict[str, Any] = {}  # of piecewise linear layers, by their names

    def needs(self, *functions: Callable[..., Any]) -> None:
        """Record functions that are called."""
        self.functions += [f for f in functions if f not in self.functions]

    def to(self, function: Callable[..., Any], *arguments: Any) -> str:
        """The call of a function of the mathematics."""
        options: dict[str, Any] = {}
        if isinstance(function, partial):
            function, options = function.func, function.keywords
        self.needs(function)
        named = [f"{name}={value!r}" for name, value in options.items()]
        return f"{function.__name__}({', '.join([*map(str, arguments), 'xp=np', *named])})"


# ---------------------------------------------------------------------------- the parts

HEADING = '''"""Predicts {target} with NumPy alone.

    from {name} import predict

    predict(table)

A table is a dict of columns or a data frame; these columns are used, and others ignored:

{columns}

Dates, times and durations may also be of NumPy's types. Written by nnaccel {version}.
"""'''

ENCODE = '''def encode(table):
    """The encoded rows X (N, {D}) of a table."""
    X, missing = [], []
    for column, codes, part, center, scale, is_bent, has_indicator in NUMBERS:
        z = (PARTS[part](numbers(table[column], codes)) - center) / scale
        X.append(np.where(np.isnan(z), 0, bend(z, xp=np) if is_bent else z))
        if has_indicator:
            missing.append(np.isnan(z))
    X += missing
    for column, levels, has_missing, has_other in CATEGORIES:
        is_text = isinstance(levels[0], str)
        values = texts(table[column], levels) if is_text else numbers(table[column], ())
        X += [*one_hot(values, levels, has_missing, has_other).T]
    return np.stack(X, axis=1).astype(np.{dtype})'''

WEIGHTS_OF = '''def weights(start, rows, columns):
    """A matrix of a layer (rows, columns), or that of each of K networks (K, rows, columns)."""
    part = WEIGHTS[..., start : start + rows * columns]
    return part.reshape(*part.shape[:-1], rows, columns)'''

NETWORK = '''def network(X):
    """The logits ({K}N, {n}) of encoded rows X (N, {D})."""
    A = X
{lines}
    return A'''

OUTPUTS = '''def outputs({rows}):
    """What the network says of each row (N, {n}){mean}."""
    with np.errstate(all="ignore"):
        A = {call}.astype(np.float64)
    return {of_all}'''

# The names that the file itself defines.
OWN = {
    "encode", "weights", "network", "outputs", "predict", "predict_proba", "predict_std", "Array",
    "Namespace", "NUMBERS", "CATEGORIES", "PARTS", "TARGETS", "CLASSES", "WEIGHTS", "base64",
}  # fmt: skip


def _heading(model: "Model", name: str) -> str:
    kinds = kinds_of(model.features)
    width = min(32, max(map(len, kinds)))
    columns = "\n".join(f"    {n!r:{width + 2}}  {HOLDS[kind]}" for n, kind in kinds.items())
    columns, target = map(_in_docstring, (columns, ", ".join(map(repr, model.target.names))))
    return HEADING.format(target=target, name=name, columns=columns, version=__version__)


def _in_docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', r"\"\"\"")


def _data(model: "Model", calls: Calls) -> Iterator[str]:
    """The assignments of the facts about the table and the target."""
    features = model.features
    if isinstance(features, Matrix):
        yield from numpy_matrix.data(model)
        return
    yield "# column, codes for missing, part, center, scale, whether bent, with an indicator"
    yield assigned("NUMBERS", [*_numbers(features)])
    yield "\n# column, levels, whether missing and other values have a state of their own"
    yield assigned("CATEGORIES", [*map(_category, features.categorical)])
    yield "\nPARTS = {"
    yield '    "": lambda values: values,'
    for part in dict.fromkeys(number.part for number in features.numeric if number.part):
        found = calls.to(PARTS[part].place, "seconds")
        if PARTS[part].turn:
            found = f"np.{PARTS[part].turn}(2 * np.pi * {found})"
        yield f'    "{part}": lambda seconds: {found},'
    yield "}"
    yield from _target(model.target)
    for name, edges in calls.edges.items():
        yield "\n# of the bins of each encoded number"
        yield assigned(name, edges)


def _target(target: Target | Targets) -> Iterator[str]:
    """The lines that convert the network's outputs to labels, or to numbers in their units."""
    known = columns_of(target)
    if target.task == "regression":
        yield "\n# mean, scale"
        scales = {one.name: (one.mean, one.scale) for one in known}
        yield assigned("TARGETS", scales)
        return
    yield ""
    yield assigned("CLASSES", {one.name: [*one.classes] for one in known})


def _numbers(features: Features) -> Iterator[tuple[Any, ...]]:
    for n in features.numeric:
        codes = features.reading(n).codes
        yield n.name, codes, n.part, n.center, n.scale, n.bend, n.missing


def _category(column: Categorical) -> tuple[Any, ...]:
    return column.name, column.levels[column.base :], column.missing, column.other


def _network(model: "Model", calls: Calls) -> str:
    network = model.network
    lines = [*_lines(network.layers, layout(network).slots, calls, "")]
    return NETWORK.format(
        K="" if model.members == 1 else f"{model.members}, ",
        n=network.n_outputs,
        D=network.n_inputs,
        lines="\n".join(f"    {line}" for line in lines),
    )


def _lines(layers: Any, slots: Any, calls: Calls, within: str) -> Iterator[str]:
    """A line for each layer.   within: the numbers of the enclosing layers."""
    for i, (layer, own) in enumerate(zip(layers, slots, strict=True)):
        if isinstance(layer, Residual):
            yield f"A{within}_{i} = A"
            yield from _lines(layer.layers, own, calls, f"{within}_{i}")
            yield f"A = A{within}_{i} + A"
        elif not isinstance(layer, Dropout):
            arrays = ["weights({}, {}, {})".format(slot.start, *slot.param.shape) for slot in own]
            yield f"A = {_call(layer, arrays, calls, f'{within}_{i}')}"


def _call(layer: Any, arrays: list[str], calls: Calls, number: str) -> str:
    """The expression for the output of a layer with input A."""
    match layer:
        case Dense():
            Z = "A @ {} + {}".format(*arrays)
            g = layer.activation.forward
            return Z if g is identity else calls.to(g, Z)
        case LayerNorm():
            return calls.to(layer_norm, "A", *arrays, layer.epsilon) + "[0]"
        case BatchNorm():
            gain, bias, mean, variance = arrays
            return f"(A - {mean}) * ({gain} / np.sqrt({variance} + {layer.epsilon})) + {bias}"
        case PiecewiseLinear():
            calls.needs(numpy_functions.piecewise_linear)
            calls.edges[f"EDGES{number}"] = layer.edges
            return f"piecewise_linear(A, EDGES{number})"
    raise ValueError(
        f"layer{number.replace('_', ' ')}, {layer!r}, cannot be written as NumPy: it is no layer "
        "of nnaccel; ONNX may have operators for it"
    )


def _outputs(model: "Model", calls: Calls, rows: str, encoded: str) -> str:
    """The function of the outputs.   rows: the name of its argument.   encoded: as X (N, D)."""
    several, loss = model.members > 1, model.loss
    of_all = "A"
    if several:
        plain = loss.pool is mean_of_networks
        of_all = "A.mean(axis=0)" if plain else calls.to(loss.pool, "A")
    return OUTPUTS.format(
        n=model.network.n_outputs,
        mean=f", of {model.members} networks together" * several,
        rows=rows,
        call=calls.to(loss.predict, f"network({encoded})"),
        of_all=of_all,
    )


# Task -> the functions that predict, for one target and for several.
PREDICT_NUMBER = '''def predict(table):
    """The number of each row (N,)."""
    [(mean, scale)] = TARGETS.values()
    return outputs(table)[:, 0] * scale + mean'''

PREDICT_NUMBERS = '''def predict(table):
    """The numbers of the rows (N,), by the names of the targets."""
    A = outputs(table).T
    return {name: a * scale + mean for a, (name, (mean, scale)) in zip(A, TARGETS.items())}'''

PREDICT_CLASS = '''def predict(table):
    """The most probable class of each row (N,)."""
    [classes] = CLASSES.values()
    return np.array(classes)[predict_proba(table).argmax(axis=1)]'''

PROBA_OF_CLASSES = '''def predict_proba(table):
    """The probability of each class (N, {n}), in the order of CLASSES."""
    P = outputs(table){of_two}
    return P / P.sum(axis=1, keepdims=True)'''
OF_TWO = """
    P = np.hstack([1.0 - P, P])"""

PREDICT_LABELS = '''def predict(table):
    """The label of each row (N,), by the names of the targets."""
    P = predict_proba(table)
    return {name: np.array(c)[(P[name][:, 1] >= 0.5).astype(int)] for name, c in CLASSES.items()}'''

PROBA_OF_LABELS = '''def predict_proba(table):
    """The probability of both classes of each row (N, 2), by the names of the targets."""
    A = outputs(table).T
    return {name: np.stack([1.0 - a, a], axis=1) for a, name in zip(A, CLASSES)}'''


PREDICT_QUANTILES = '''def predict(table):
    """The quantiles of the rows (N,), by the names of their columns, such as {name}."""
    A, found = outputs(table).T, {{}}
    for k, (name, (mean, scale)) in enumerate(TARGETS.items()):
        for p, level in enumerate({levels}):
            found[f"{{name}}_q{{level}}"] = A[p * len(TARGETS) + k] * scale + mean
    return found'''

PREDICT_DEVIATION = '''def predict(table):
    """The means and standard deviations of the rows (N,), by their names, such as {name}."""
    A, found = outputs(table).T, {{}}
    for k, (name, (mean, scale)) in enumerate(TARGETS.items()):
        found[name] = A[k] * scale + mean
        found[f"{{name}}_std"] = np.sqrt(A[len(TARGETS) + k]) * scale
    return found'''


def _predictions(model: "Model") -> list[str]:
    target = model.target
    if target.task == "labels":
        return [PREDICT_LABELS, PROBA_OF_LABELS]
    if model.loss.n_outputs > 1:
        text = PREDICT_DEVIATION if has_deviation(model.loss) else PREDICT_QUANTILES
        name = _in_docstring(repr(names_of(target.names[0], model.loss)[-1]))
        return [text.format(levels=model.loss.levels, name=name)]
    if target.task == "regression":
        return [PREDICT_NUMBERS if isinstance(target, Targets) else PREDICT_NUMBER]
    of_two = OF_TWO if model.network.n_outputs == 1 else ""
    return [PREDICT_CLASS, PROBA_OF_CLASSES.format(n=len(target.classes), of_two=of_two)]


def _weights(params: np.ndarray) -> str:
    """The assignment of WEIGHTS, whose bytes are encoded as text."""
    dtype = params.dtype.newbyteorder("<").str
    text = base64.b64encode(params.astype(dtype).tobytes()).decode()
    lines = "\n".join(text[i : i + WIDTH] for i in range(0, len(text), WIDTH))
    shape = f".reshape{params.shape}" if params.ndim == 2 else ""
    return f'WEIGHTS = np.frombuffer(base64.b64decode("""\n{lines}\n"""), "{dtype}"){shape}'
