"""What the kernels of a pass compute ahead, for operations that then launch nothing."""

from collections.abc import Iterator
from typing import Any

from nnaccel.maths.layers import Chain, Dense, Residual
from nnaccel.typing import Array


class Ahead:
    """The messages between the operations of a pass through the network.

    The output layer says where its logits Z are, and where its db belongs: the loss that is given
    that Z sums db beside dZ. A narrow one that knows the targets, which the minibatch has announced
    before the pass, computes loss, dZ and db itself. A layer with ReLU leaves bits of its
    derivative, and says where its db belongs: the product of the layer above makes its dZ of them,
    and sums db. Such a layer then finds dZ with its db, and begins with its own products.
    """

    def __init__(self) -> None:
        self._dense: dict[int, bool] = {}  # as of `dense_layers`
        self._output = 0  # id(W) of the output layer, if that is a dense layer
        self._next_targets: tuple[Array, Array | None] | None = None
        self._clear()

    def begin_pass(self, layers: Any, tree: Any, *, known: bool) -> None:
        """A pass through these layers, with their parameters.   known: whether the last pass had
        the same ones."""
        if not known:
            self._dense = dict(dense_layers(layers, tree))
            self._output = id(tree[-1][0]) if type(layers[-1]) is Dense else 0
        self._clear()

    def _clear(self) -> None:
        self._targets, self._next_targets = self._next_targets, None
        self._loss: tuple[Any, tuple[Array, Array]] | None = None  # what it is of, and what it is
        self._logits: tuple[Array, Array] | None = None  # Z of the layer, and where its db belongs
        self._masks: dict[int, tuple[Array, Array, Array]] = {}  # id(A) -> A, its mask, its db
        self._summed: tuple[Array, Array] | None = None  # dZ, and that db

    def feeds_dense(self, W: Array) -> bool:
        """Whether only a dense layer reads the output of the layer with these weights."""
        return self._dense.get(id(W), False)

    def is_dense(self, W: Array) -> bool:
        """Whether these are the weights of a dense layer, which does nothing else with them."""
        return id(W) in self._dense

    def announce_targets(self, Y: Array, weights: Array | None) -> None:
        """The next pass has these targets."""
        self._next_targets = Y, weights

    def targets_for(self, W: Array) -> tuple[Array, Array | None] | None:
        """Y and weights of this pass, if they are known and W is of the output layer."""
        return self._targets if id(W) == self._output else None

    def announce_loss(self, of: Any, found: tuple[Array, Array]) -> None:
        """The loss of (Z, Y, weights), and its dZ."""
        self._loss = of, found

    def loss_of(self, *of: Array | None) -> tuple[Array, Array] | None:
        """The loss of these (Z, Y, weights) and its dZ, where they are computed already."""
        if self._loss is None or any(x is not y for x, y in zip(of, self._loss[0], strict=True)):
            return None
        return self._loss[1]

    def announce_logits(self, Z: Array, db: Array | None) -> None:
        """The layer with these logits wants the sum of their dZ in db, if that is known."""
        if db is not None:
            self._logits = Z, db

    def db_for(self, Z: Array) -> Array | None:
        """db of the layer with these logits; None for others."""
        return self._logits[1] if self._logits is not None and self._logits[0] is Z else None

    def announce_mask(self, A: Array, mask: Array, db: Array) -> None:
        """The layer with this output wants dZ for dA, and the sum of dZ in db."""
        self._masks[id(A)] = A, mask, db

    def mask_for(self, A: Array) -> tuple[Array, Array] | None:
        """The mask and db of the layer with this output; None for others."""
        found = self._masks.get(id(A))
        return None if found is None else found[1:]

    def found(self, dZ: Array, db: Array) -> None:
        """db is the sum of dZ, which its layer is given for dA."""
        self._summed = dZ, db

    def is_sum(self, db: Array | None, dZ: Array) -> bool:
        """Whether db is the sum of dZ already."""
        return self._summed is not None and dZ is self._summed[0] and db is self._summed[1]


def dense_layers(layers: Any, tree: Any) -> Iterator[tuple[int, bool]]:
    """id(W) of each dense layer, and whether only a dense layer reads its output. A class derived
    from one of ours may do something else."""
    for layer, arrays, after in zip(layers, tree, (*layers[1:], None), strict=True):
        if type(layer) in (Chain, Residual):
            yield from dense_layers(layer.layers, arrays)
        elif type(layer) is Dense:
            yield id(arrays[0]), type(after) is Dense
