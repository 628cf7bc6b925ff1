"""Early stopping: ends a run that no longer improves, and keeps its best epoch."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnaccel.arguments import at_least, find
from nnaccel.training.epoch import SCORES, Epoch

if TYPE_CHECKING:
    from nnaccel.training.checkpoint import Progress


class Best(NamedTuple):
    """The best epoch of a run so far."""

    epoch: Epoch
    numbers: Any  # its number, or (K,) for the vectors of K networks

    def take(self, networks: Sequence[int]) -> "Best":
        """The best epoch of some of K networks; see `Epoch.take`."""
        numbers = self.numbers if np.ndim(self.numbers) == 0 else self.numbers[[*networks]]
        epoch = self.epoch.take(networks)
        return Best(replace(epoch, number=int(np.max(numbers))), numbers)


class EarlyStopping:
    """Stops a run that no longer improves, and keeps the best epoch::

        stopping = EarlyStopping(patience=10)
        for epoch in stopping(train(...)):
            ...
        stopping.best.params      # of the best epoch, a copy that nothing overwrites

    With several networks, params (K, P), each keeps its own best epoch: `best` then has the vectors
    and scores of network k from the epoch `numbers[k]`, and no state to continue from. The run
    stops when none of them has improved for `patience` epochs.

    Parameters
    ----------
    patience : int or None
        The number of epochs in a row without improvement after which the run stops; None: never
        stop.
    monitor : str or callable
        The loss or metric of `Epoch` to watch. A lower loss is better; `Metric.greater_is_better`
        says which values of a metric are better. Or a function that maps the epoch to a number, or
        to (K,) numbers for K networks; greater is better.
    tol : float
        The least change that counts as an improvement; at least 0.
    after : Progress or Checkpoint, optional
        The progress of a run to continue, see `nnaccel.checkpoint`.
    """

    def __init__(
        self,
        patience: int | None = 10,
        *,
        monitor: str | Callable[[Epoch], Any] = "validation_loss",
        tol: float = 0.0,
        after: "Progress | None" = None,
    ) -> None:
        if patience is not None:
            [patience] = at_least(1, patience=patience)
        if not callable(monitor):
            find("monitor", monitor, dict.fromkeys(SCORES))
        if not 0 <= tol < math.inf:
            raise ValueError(f"tol must be a finite number of at least 0, got {tol}")
        self.patience = patience
        self.monitor = monitor
        self.tol = tol
        # One object, so that an interruption leaves the epoch and its number consistent.
        self.kept: Best | None = None if after is None else after.best
        self._seen = 0 if after is None else after.epoch.number
        self.value: Any = None  # the watched score of the last epoch
        self._best_value: Any = None

    @property
    def best(self) -> Epoch | None:
        """A copy of the best epoch so far; None before the first one."""
        return self.kept and self.kept.epoch

    @property
    def numbers(self) -> Any:
        """The number of the best epoch; (K,) for K networks."""
        return 0 if self.kept is None else self.kept.numbers

    def __call__(self, epochs: Iterable[Epoch]) -> Iterator[Epoch]:
        """Yields the epochs until `patience` epochs in a row have brought no improvement.

        Raises ValueError for a run that does not compute the watched score, or does not say which
        of its values are better.
        """
        if self._has_ended():
            return
        for epoch in epochs:
            value, greater = self._value_of(epoch), self._greater_is_better(epoch)
            if self.kept is None:
                self.kept = Best(epoch.copy(), np.full(np.shape(value), epoch.number))
                self._best_value = value
            else:
                best, numbers = self.kept
                if self._best_value is None:  # the run continues
                    self._best_value = self._value_of(best)
                gains = self._gains(value, self._best_value, greater)
                if gains.any():
                    better = epoch.copy() if gains.all() else best_of_each(best, epoch, gains)
                    self.kept = Best(better, np.where(gains, epoch.number, numbers))
                    self._best_value = np.where(gains, value, self._best_value)
            self._seen, self.value = epoch.number, value
            yield epoch
            if self._has_ended():
                return

    def _has_ended(self) -> bool:
        """Whether the last `patience` epochs brought no improvement."""
        if self.patience is None or self.kept is None:
            return False
        return bool(self._seen - np.max(self.numbers) >= self.patience)

    def _value_of(self, epoch: Epoch) -> Any:
        if callable(self.monitor):
            return self.monitor(epoch)
        value = getattr(epoch, self.monitor)
        if value is None:
            needed = {"metric": "a metric", "validation_loss": "validation data"}
            missing = needed.get(self.monitor, "validation data and a metric")
            raise ValueError(
                f"early stopping watches {self.monitor!r}, which this run does not compute; "
                f"give it {missing}, or monitor='loss'"
            )
        return value

    def _greater_is_better(self, epoch: Epoch) -> bool:
        if callable(self.monitor):
            return True
        if self.monitor.endswith("loss"):
            return False
        if epoch.greater_is_better is None:
            raise ValueError(
                f"early stopping watches {self.monitor!r}, and the metric does not say which way "
                "is better; say it in Metric(..., greater_is_better=True) or False, or use "
                "monitor='validation_loss'"
            )
        return epoch.greater_is_better

    def _gains(self, value: Any, best: Any, greater: bool) -> np.ndarray:
        """Whether each network has become better."""
        with np.errstate(invalid="ignore"):
            gain = np.asarray(value - best if greater else best - value)
        # Any number is better than NaN.
        return (gain > self.tol) | (np.isnan(best) & ~np.isnan(value))


def best_of_each(best: Epoch, epoch: Epoch, gains: np.ndarray) -> Epoch:
    """An epoch with the vectors of `epoch` for improved networks, of `best` for the others."""
    params = best.with_rows_of(epoch, np.flatnonzero(gains))
    scores = {
        name: np.where(gains, value, getattr(best, name)) for name, value in epoch.scores().items()
    }
    return replace(best, number=epoch.number, _params=params, _state=None, **scores)
