"""Layers one after the other are a layer: forward propagation and backpropagation."""

from dataclasses import dataclass
from typing import Any

from nnaccel.maths.layers.layer import Layer
from nnaccel.maths.random import Key
from nnaccel.ops import Ops
from nnaccel.typing import Array


@dataclass(frozen=True, slots=True)
class Chain:
    """The composition of its layers, the first one applied first."""

    layers: tuple[Layer, ...]

    @property
    def is_random(self) -> bool:
        return any(getattr(layer, "is_random", True) for layer in self.layers)

    def width(self, D: int) -> int:
        for layer in self.layers:
            D = layer.width(D)
        return D

    def params(self, D: int) -> tuple[Any, ...]:
        params = []
        for layer in self.layers:
            params.append(layer.params(D))
            D = layer.width(D)
        return tuple(params)

    def forward(
        self, params: Any, X: Array, *, ops: Ops, key: Key | None, training: bool = False
    ) -> tuple[Array, Any]:
        """A^[0] = X; A^[l] = layer l of A^[l-1]."""
        saved = []
        for i, layer in enumerate(self.layers):
            own = key and key.child(i)
            X, kept = layer.forward(params[i], X, ops=ops, key=own, training=training)
            saved.append(kept)
        return X, saved

    def backward(
        self, params: Any, saved: Any, dA: Array, *, ops: Ops, need_dX: bool
    ) -> tuple[Array | None, Any]:
        """The chain rule from the last layer to the first one that has parameters."""
        first = 0 if need_dX else next((i for i, p in enumerate(params) if p), len(params))
        grads: list[Any] = [()] * len(self.layers)
        for i in range(len(self.layers) - 1, first - 1, -1):
            dA, grads[i] = self.layers[i].backward(
                params[i], saved[i], dA, ops=ops, need_dX=need_dX or i > first
            )
        return (dA if need_dX else None), tuple(grads)
