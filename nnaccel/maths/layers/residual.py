"""A residual block: layers whose output is added to their input."""

from dataclasses import dataclass
from typing import Any

from nnaccel.maths.activations import ACTIVATIONS
from nnaccel.maths.layers.chain import Chain
from nnaccel.maths.layers.dense import Dense
from nnaccel.maths.layers.layer import Layer, check_layers
from nnaccel.maths.layers.layer_norm import LayerNorm
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array


@dataclass(frozen=True, slots=True)
class Residual:
    """X + F(X), F the composition of `layers`, which must keep the width.

    Source: He et al., arXiv:1512.03385, eq. 1.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", check_layers(self.layers, level=1))

    @staticmethod
    def example(D: int) -> "Residual":
        return Residual((Dense(D + 1, ACTIVATIONS["softplus"]), LayerNorm(), Dense(D)))

    @property
    def is_random(self) -> bool:
        return Chain(self.layers).is_random

    def width(self, D: int) -> int:
        H = Chain(self.layers).width(D)
        if H != D:
            raise ValueError(
                f"a Residual block must give as many outputs as it has inputs, got {H} outputs for "
                f"{D} inputs; end it with Dense({D})"
            )
        return D

    def params(self, D: int) -> tuple[Any, ...]:
        return Chain(self.layers).params(D)

    def forward(
        self, params: Any, X: Array, *, ops: Ops, key: Key | None, training: bool = False
    ) -> tuple[Array, Any]:
        F, saved = Chain(self.layers).forward(params, X, ops=ops, key=key, training=training)
        return X + F, saved

    def backward(
        self, params: Any, saved: Any, dA: Array, *, ops: Ops, need_dX: bool
    ) -> tuple[Array | None, Any]:
        # The inner layers may destroy what they are given, and dA is needed again for the sum.
        dF, grads = Chain(self.layers).backward(params, saved, dA + 0.0, ops=ops, need_dX=need_dX)
        return (dA + dF if need_dX else None), grads
