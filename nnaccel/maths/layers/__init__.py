"""The layers, one a file, and the table of their names for model files."""

from typing import Any

from nnaccel.maths.layers.batch_norm import BatchNorm
from nnaccel.maths.layers.chain import Chain
from nnaccel.maths.layers.dense import Dense
from nnaccel.maths.layers.dropout import Dropout
from nnaccel.maths.layers.layer import MAX_DEPTH, Layer, Param, check_layers
from nnaccel.maths.layers.layer_norm import LayerNorm
from nnaccel.maths.layers.piecewise_linear import PiecewiseLinear
from nnaccel.maths.layers.residual import Residual

LAYERS: dict[str, type] = {
    "dense": Dense,
    "dropout": Dropout,
    "layer_norm": LayerNorm,
    "residual": Residual,
    "batch_norm": BatchNorm,
    "piecewise_linear": PiecewiseLinear,
}


def example(name: str, D: int) -> Layer:
    """The layer of that name that is checked and tested on D inputs."""
    kind: Any = LAYERS[name]
    return kind.example(D) if hasattr(kind, "example") else kind()


__all__ = [
    "LAYERS",
    "MAX_DEPTH",
    "BatchNorm",
    "Chain",
    "Dense",
    "Dropout",
    "Layer",
    "LayerNorm",
    "Param",
    "PiecewiseLinear",
    "Residual",
    "check_layers",
    "example",
]
