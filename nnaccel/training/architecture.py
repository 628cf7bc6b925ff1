"""Networks and losses as plain data, and back: the description of an architecture in a file.

A layer is a dataclass, and a file holds its fields. The type of a field determines which data are
valid, so a new layer needs no line here. Nothing in the data is imported or evaluated.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from nnaccel import schema
from nnaccel.maths import activations, losses
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers import LAYERS, MAX_DEPTH, Layer
from nnaccel.maths.layers.dense import ACTIVATION
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network
from nnaccel.schema import Field, check
from nnaccel.typing import Options

NUMBERS = Field(
    "a finite number or a list of them",
    lambda v: all(map(schema.FINITE.holds, v if type(v) is list else [v])),
)

# Type of a layer's field -> valid data for it; `Annotated[type, Field]` overrides this.
OF_TYPE: dict[Any, Field] = {
    int: schema.WHOLE,
    float: schema.FINITE,
    bool: schema.FLAG,
    str: schema.TEXT,
    Activation: ACTIVATION,
    tuple[Layer, ...]: schema.RECORDS,
}


def describe(network: Network) -> dict[str, Any]:
    """The architecture as plain data, from which `rebuild` makes an equal network."""
    return {
        "n_inputs": network.n_inputs,
        "layers": [_describe_layer(layer) for layer in network.layers],
    }


def rebuild(data: Any) -> Network:
    """The network that `describe` described. Raises ValueError for other data."""
    check(data, {"n_inputs": schema.COUNT, "layers": schema.RECORDS}, "network")
    layers = tuple(_rebuild_layer(layer, f"layer {i}") for i, layer in enumerate(data["layers"]))
    if not layers:
        raise ValueError("network must have at least one layer")
    return Network(data["n_inputs"], layers)


@cache
def layer_fields(kind: type) -> dict[str, Field]:
    """The fields of a layer of that type, each with the description of its valid data.

    Raises TypeError for a field whose type cannot be described as data.
    """
    found = {}
    hints = get_type_hints(kind, include_extras=True)
    for name in (field.name for field in fields(kind)):
        hint = hints[name]
        if get_origin(hint) is Annotated:
            found[name] = next(x for x in get_args(hint) if isinstance(x, Field))
        elif hint in OF_TYPE:
            found[name] = OF_TYPE[hint]
        else:
            known = ", ".join(getattr(t, "__name__", str(t)) for t in OF_TYPE)
            raise TypeError(
                f"a model file cannot hold the field {name!r} of a {kind.__name__} layer: its type "
                f"must be one of {known}, got {hint}"
            )
    return found


def _describe_layer(layer: Layer) -> dict[str, Any]:
    kind = next((name for name, known in LAYERS.items() if type(layer) is known), None)
    if kind is None:
        raise ValueError(
            f"a model file cannot hold a {type(layer).__name__} layer; it knows {', '.join(LAYERS)}"
        )
    known = layer_fields(type(layer))
    data = {name: _plain(getattr(layer, name), field) for name, field in known.items()}
    return {"type": kind, **check(data, known, f"{kind} layer")}


def _plain(value: Any, field: Field) -> Any:
    """The value of a field as data for JSON."""
    if field is schema.RECORDS:
        return [_describe_layer(layer) for layer in value]
    if field is not ACTIVATION:
        return value
    if activations.ACTIVATIONS.get(value.name) != value.plain():
        raise ValueError(
            f"a model file cannot hold the activation {value.name!r}: it is not in "
            "nnaccel.activations.ACTIVATIONS; add it there, and wherever the file is loaded"
        )
    return {"name": value.name, "options": listed(value.options)}


def _rebuild_layer(data: dict[str, Any], where: str, level: int = 0) -> Layer:
    """level: the number of layers around it."""
    if level > MAX_DEPTH:
        raise ValueError(f"{where}: layers may be nested at most {MAX_DEPTH} deep")
    kind = data.get("type")
    if type(kind) is not str or kind not in LAYERS:
        raise ValueError(f"{where}: type must be one of {', '.join(LAYERS)}, got {kind!r}")
    values = {name: value for name, value in data.items() if name != "type"}
    known = layer_fields(LAYERS[kind])
    check(values, known, where)
    for name, field in known.items():
        if field is ACTIVATION:
            content = {"name": schema.TEXT, "options": schema.OBJECT}
            data = check(values[name], content, f"{where}: activation")
            values[name] = named(activations.get(data["name"]), data["options"], where)
        elif field is schema.RECORDS:
            inner = enumerate(values[name])
            values[name] = tuple(
                _rebuild_layer(part, f"{where}.{i}", level + 1) for i, part in inner
            )
    return LAYERS[kind](**values)


def listed(options: Options) -> dict[str, Any]:
    """Options with tuples as lists, as JSON has them."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in options}


def named(row: Any, options: dict[str, Any], where: str) -> Any:
    """The activation or loss with these options. Raises ValueError for unknown or invalid
    options."""
    known = option_fields(row.forward if isinstance(row, Activation) else row.function)
    check(dict.fromkeys(known, 0.0) | options, known, where)  # an absent option has its default
    return row.with_options(**options) if options else row


def option_fields(function: Callable[..., Any]) -> dict[str, Field]:
    """The field of each option of an activation or a loss: a number, or several numbers."""
    parameters = inspect.signature(function).parameters.values()
    single = (float, "float")
    return {
        p.name: schema.FINITE if p.annotation in single else NUMBERS
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name != "xp"
    }


def describe_loss(loss: Loss) -> dict[str, Any]:
    """A loss as plain data. Raises ValueError for a loss that is not in the table."""
    known = losses.LOSSES.get(loss.name)
    if known is None or known._replace(options=loss.options) != loss:
        raise ValueError(
            f"a file cannot hold the loss {loss.name!r}: it is not in nnaccel.losses.LOSSES"
        )
    return {"name": loss.name, "options": listed(loss.options)}


def rebuild_loss(data: Any) -> Loss:
    """The loss that `describe_loss` described. Raises ValueError for other data."""
    check(data, {"name": schema.TEXT, "options": schema.OBJECT}, "loss")
    return named(losses.get(data["name"]), data["options"], "loss")
