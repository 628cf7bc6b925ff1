"""The layers, one a file, and the table of their names for model files."""

from nnaccel.layers.chain import Chain
from nnaccel.layers.dense import Dense
from nnaccel.layers.dropout import Dropout
from nnaccel.layers.layer import Layer, Param
from nnaccel.layers.layer_norm import LayerNorm
from nnaccel.layers.residual import Residual

LAYERS: dict[str, type] = {
    "dense": Dense,
    "dropout": Dropout,
    "layer_norm": LayerNorm,
    "residual": Residual,
}

__all__ = ["LAYERS", "Chain", "Dense", "Dropout", "Layer", "LayerNorm", "Param", "Residual"]
