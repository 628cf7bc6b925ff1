"""Early stopping: ends a run that no longer improves, and keeps its best epoch."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from nnaccel.arguments import at_least, find
from nnaccel.training.epoch import SCORES, Epoch


class EarlyStopping:
    """Stops a run that gets no better, and keeps the best epoch.

        stopping = EarlyStopping(patience=10)
        for epoch in stopping(train(...)):
            ...
        stopping.best.params      # of the best epoch, a copy that nothing overwrites

    Parameters
    ----------
    patience : int or None
        How many epochs in a row may fail to improve before it stops; None: never stop.
    monitor : str
        The loss or metric of `Epoch` to watch; one that gets better as it gets lower.
    tol : float
        By how much a value must be lower to count as better.
    """

    def __init__(
        self, patience: int | None = 10, *, monitor: str = "validation_loss", tol: float = 0.0
    ) -> None:
        if patience is not None:
            [patience] = at_least(1, patience=patience)
        find("monitor", monitor, dict.fromkeys(SCORES))
        self.patience = patience
        self.monitor = monitor
        self.tol = tol
        self.best: Epoch | None = None

    def __call__(self, epochs: Iterable[Epoch]) -> Iterator[Epoch]:
        """The epochs, until there has been no better one for `patience` of them."""
        for epoch in epochs:
            value = getattr(epoch, self.monitor)
            if value is None:
                raise ValueError(
                    f"early stopping watches {self.monitor!r}, which this run does not compute; "
                    "give it validation data, or monitor='loss'"
                )
            if np.ndim(value):
                raise ValueError(
                    f"early stopping follows one network, and this run trains {len(value)}; "
                    "train them one by one, or keep the best of each in a loop of your own"
                )
            best = math.nan if self.best is None else getattr(self.best, self.monitor)
            # Anything is better than not a number, and that is better than nothing.
            if self.best is None or value < best - self.tol or math.isnan(best) > math.isnan(value):
                self.best = epoch.copy()
            yield epoch
            if self.patience is not None and epoch.number - self.best.number >= self.patience:
                return
