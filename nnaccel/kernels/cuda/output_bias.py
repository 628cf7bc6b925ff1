"""The bias gradient of the output layer, which the kernel of the loss sums beside dZ."""

from nnaccel.typing import Array


class OutputBias:
    """The messages between the output layer and the loss in a pass through the network.

    The layer says where its logits Z are, and its db. Where the loss is given that Z it writes db
    too, and the layer then finds it there: a launch less.
    """

    def __init__(self) -> None:
        self.begin_pass()

    def begin_pass(self) -> None:
        self._logits: tuple[Array, Array] | None = None  # Z of the layer, and where its db belongs
        self._summed: tuple[Array, Array] | None = None  # dZ of the loss, and that db

    def announce(self, Z: Array, db: Array | None) -> None:
        """The layer with these logits wants the sum of their dZ in db, if that is known."""
        if db is not None:
            self._logits = Z, db

    def wanted_for(self, Z: Array) -> Array | None:
        """db of the layer with these logits; None for others."""
        return self._logits[1] if self._logits is not None and self._logits[0] is Z else None

    def found(self, dZ: Array, db: Array) -> None:
        """db is the sum of dZ."""
        self._summed = dZ, db

    def is_sum(self, db: Array | None, dZ: Array) -> bool:
        """Whether db is the sum of dZ already."""
        return self._summed is not None and dZ is self._summed[0] and db is self._summed[1]
