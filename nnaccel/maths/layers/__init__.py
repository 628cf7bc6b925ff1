"""The layers, one a file, and the table of their names for model files."""

from nnaccel.maths.layers.chain import Chain
from nnaccel.maths.layers.dense import Dense
from nnaccel.maths.layers.dropout import Dropout
from nnaccel.maths.layers.layer import Layer, Param
from nnaccel.maths.layers.layer_norm import LayerNorm
from nnaccel.maths.layers.residual import Residual

LAYERS: dict[str, type] = {
    "dense": Dense,
    "dropout": Dropout,
    "layer_norm": LayerNorm,
    "residual": Residual,
}

__all__ = ["LAYERS", "Chain", "Dense", "Dropout", "Layer", "LayerNorm", "Param", "Residual"]
