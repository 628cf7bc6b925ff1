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
        The loss or metric of `Epoch` to watch. A loss gets better as it gets lower; of a metric
        the run knows which way is better, from `Metric.greater_is_better`.
    tol : float
        By how much a value must be better to count as better; at least 0.
    """

    def __init__(
        self, patience: int | None = 10, *, monitor: str = "validation_loss", tol: float = 0.0
    ) -> None:
        if patience is not None:
            [patience] = at_least(1, patience=patience)
        find("monitor", monitor, dict.fromkeys(SCORES))
        if not 0 <= tol < math.inf:
            raise ValueError(f"tol must be a finite number of at least 0, got {tol}")
        self.patience = patience
        self.monitor = monitor
        self.tol = tol
        self.best: Epoch | None = None

    def __call__(self, epochs: Iterable[Epoch]) -> Iterator[Epoch]:
        """The epochs, until there has been no better one for `patience` of them.

        ValueError for a run that does not compute what is watched, does not say which way it gets
        better, or trains several networks.
        """
        for epoch in epochs:
            value, greater = self._value_of(epoch), self._greater_is_better(epoch)
            if self.best is None or self._gains(value, self._value_of(self.best), greater):
                self.best = epoch.copy()
            yield epoch
            if self.patience is not None and epoch.number - self.best.number >= self.patience:
                return

    def _value_of(self, epoch: Epoch) -> float:
        value = getattr(epoch, self.monitor)
        if value is None:
            needed = {"metric": "a metric", "validation_loss": "validation data"}
            missing = needed.get(self.monitor, "validation data and a metric")
            raise ValueError(
                f"early stopping watches {self.monitor!r}, which this run does not compute; "
                f"give it {missing}, or monitor='loss'"
            )
        if np.ndim(value):
            raise ValueError(
                f"early stopping follows one network, and this run trains {len(value)}; "
                "train them one by one, or keep the best of each in a loop of your own"
            )
        return value

    def _greater_is_better(self, epoch: Epoch) -> bool:
        if self.monitor.endswith("loss"):
            return False
        if epoch.greater_is_better is None:
            raise ValueError(
                f"early stopping watches {self.monitor!r}, and the metric does not say which way "
                "is better; say it in Metric(..., greater_is_better=True) or False, or use "
                "monitor='validation_loss'"
            )
        return epoch.greater_is_better

    def _gains(self, value: float, best: float, greater: bool) -> bool:
        gain = value - best if greater else best - value
        # Anything is better than not a number.
        return gain > self.tol or math.isnan(best) > math.isnan(value)
