"""Results that the kernels of a pass compute in advance, for later operations of the same pass."""

from collections.abc import Iterator
from typing import Any

from nnaccel.maths.layers import Chain, Dense, Residual
from nnaccel.typing import Array


class Ahead:
    """The messages between the operations of one pass through the network.

    The minibatch announces the targets of the next pass. With the targets, a narrow output layer
    computes the loss, dZ and db in its own kernel. Any other output layer announces its logits Z
    and the array of its db; the loss of this Z then writes db together with dZ. A layer with ReLU
    announces a bit mask of its derivative and the array of its db; the product of the layer above
    then computes the dZ and the db of this layer, whose backward pass starts with its products.
    """

    def __init__(self) -> None:
        self._dense: dict[int, bool] = {}  # the pairs of `dense_layers`
        self._output = 0  # id(W) of the output layer, if that is a dense layer
        self._next_targets: tuple[Array, Array | None] | None = None
        self._clear()

    def begin_pass(self, layers: Any, tree: Any, *, known: bool) -> None:
        """Starts a pass through these layers.

        tree: their parameters.   known: whether the last pass had the same layers and parameters.
        """
        if not known:
            self._dense = dict(dense_layers(layers, tree))
            self._output = id(tree[-1][0]) if type(layers[-1]) is Dense else 0
        self._clear()

    def _clear(self) -> None:
        self._targets, self._next_targets = self._next_targets, None
        # ((Z, Y, weights), (loss, dZ))
        self._loss: tuple[Any, tuple[Array, Array]] | None = None
        self._logits: tuple[Array, Array] | None = None  # Z and db of the output layer
        self._masks: dict[int, tuple[Array, Array, Array]] = {}  # id(A) -> A, mask, db
        self._summed: tuple[Array, Array] | None = None  # dZ, and its sum db

    def feeds_dense(self, W: Array) -> bool:
        """Whether only a dense layer reads the output of the layer with these weights."""
        return self._dense.get(id(W), False)

    def is_dense(self, W: Array) -> bool:
        """Whether W is the weight matrix of a plain dense layer, which uses it in products only."""
        return id(W) in self._dense

    def announce_targets(self, Y: Array, weights: Array | None) -> None:
        """Announces the targets Y and the example weights of the next pass."""
        self._next_targets = Y, weights

    def targets_for(self, W: Array) -> tuple[Array, Array | None] | None:
        """The targets Y and weights of this pass, if they are known and W is the output layer's."""
        return self._targets if id(W) == self._output else None

    def announce_loss(self, of: Any, found: tuple[Array, Array]) -> None:
        """Announces the loss and dZ.   of: (Z, Y, weights).   found: (loss, dZ)."""
        self._loss = of, found

    def loss_of(self, *of: Array | None) -> tuple[Array, Array] | None:
        """The loss of these (Z, Y, weights) and its dZ, or None if they are not computed yet."""
        if self._loss is None or any(x is not y for x, y in zip(of, self._loss[0], strict=True)):
            return None
        return self._loss[1]

    def announce_logits(self, Z: Array, db: Array | None) -> None:
        """Announces that the sum of dZ over examples, for the logits Z, must be written into db."""
        if db is not None:
            self._logits = Z, db

    def db_for(self, Z: Array) -> Array | None:
        """The array for db of the layer with the logits Z; None for other logits."""
        return self._logits[1] if self._logits is not None and self._logits[0] is Z else None

    def announce_mask(self, A: Array, mask: Array, db: Array) -> None:
        """Announces that the layer with output A needs dZ in place of dA, and the sum of dZ in db.

        mask: the bits of ReLU's derivative, (..., N, H / 32).   db: (..., 1, H).
        """
        self._masks[id(A)] = A, mask, db

    def mask_for(self, A: Array) -> tuple[Array, Array] | None:
        """The mask and db of the layer with output A; None for other layers."""
        found = self._masks.get(id(A))
        return None if found is None else found[1:]

    def found(self, dZ: Array, db: Array) -> None:
        """Announces that db holds the sum of dZ; the layer of db receives this dZ as its dA."""
        self._summed = dZ, db

    def is_sum(self, db: Array | None, dZ: Array) -> bool:
        """Whether db holds the sum of dZ already."""
        return self._summed is not None and dZ is self._summed[0] and db is self._summed[1]


def dense_layers(layers: Any, tree: Any) -> Iterator[tuple[int, bool]]:
    """Pairs (id(W), feeds_dense) of the dense layers: whether only a dense layer reads the output.

    Subclasses of the library's layers are skipped, since they may compute something else.
    """
    for layer, arrays, after in zip(layers, tree, (*layers[1:], None), strict=True):
        if type(layer) in (Chain, Residual):
            yield from dense_layers(layer.layers, arrays)
        elif type(layer) is Dense:
            yield id(arrays[0]), type(after) is Dense
