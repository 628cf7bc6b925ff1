"""The training run of one kind of networks on a table: one network, or several members on folds of
the rows."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import to_host
from nnaccel.kernels.definition import Run
from nnaccel.tabular.calibration import HeldOut, calibrate, calibrated, logits_of, scale_of
from nnaccel.tabular.members import Trained
from nnaccel.tabular.settings import Settings
from nnaccel.training.checkpoint import Progress
from nnaccel.training.early_stopping import Best, EarlyStopping
from nnaccel.training.epoch import Epoch


class Done(NamedTuple):
    """The progress of a run: its last epoch, its best one, and the length of its history."""

    epoch: Epoch
    best: Best | None
    n_epochs: int


class Branch:
    """The run of one kind of networks. It may be interrupted at any time; its result is then the
    result of the last complete epoch.

    settings : Settings
        The resolved settings of this kind.
    run : Run
        The computation of the training loop.
    """

    def __init__(
        self,
        settings: Settings,
        run: Run,
        epochs: Iterator[Epoch],
        held_out: list[HeldOut],
        *,
        monitor: str | Callable[[Epoch], Any] | None,
        unit: float,
        kernels: str = "",
        keeps: bool = False,
        after: Progress | None = None,
    ) -> None:
        """held_out: the rows that validate and calibrate each network of a classifier.
        monitor: the score that selects the best epoch, as in `EarlyStopping`; None: no rows are
        held out, and the weights are those of the last epoch.   unit: of the target, for metrics.
        kernels: a description of the run's kernels.   keeps: whether the last epoch stays available
        during the next one.   after: the progress of the run to continue.
        """
        self.settings, self.run, self.kernels, self._held_out = settings, run, kernels, held_out
        self._unit, self._copies = unit, keeps or monitor is None
        self._stopping = EarlyStopping(
            settings.early_stopping or None, monitor=monitor or "validation_loss", after=after
        )
        self._has_score = callable(monitor)
        if held_out:
            epochs = calibrated(epochs, run, held_out)
        self._epochs = self._stopping(epochs) if monitor else epochs
        self._history = [] if after is None else [dict(row) for row in after.history]
        self._done: Done | None = after and Done(after.epoch, after.best, len(self._history))

    def __iter__(self) -> Iterator[Epoch]:
        """The epochs, whose scores are means over the networks, their metric in the units of the
        target."""
        for epoch in self._epochs:
            scores = epoch.scores()
            for name in scores.keys() & {"metric", "validation_metric"}:
                scores[name] = scores[name] * self._unit
            shown = {name: float(np.mean(value)) for name, value in scores.items()}
            # One assignment, so that an interruption leaves epoch, best epoch and number
            # consistent.
            kept = epoch.copy() if self._copies else epoch
            row = dict(shown)
            if self._has_score:
                row["validation_score"] = float(np.mean(self._stopping.value))
            self._history.append(row)
            self._done = Done(kept, self._stopping.kept, len(self._history))
            yield replace(epoch, **shown)

    @property
    def history(self) -> list[dict[str, float]]:
        """The scores of each epoch."""
        return self._history[: self._done.n_epochs if self._done else 0]

    @property
    def best(self) -> list[int]:
        """The numbers of the epochs whose weights the networks have; [] before the first epoch."""
        if self._done is None:
            return []
        _, best, _ = self._done
        return [self._done.epoch.number] if best is None else np.atleast_1d(best.numbers).tolist()

    @property
    def progress(self) -> Progress | None:
        """The run so far, from which another run can continue; None before the first epoch."""
        if self._done is None:
            return None
        best = self._done.best
        if best is not None:  # no run continues from the best epoch
            best = best._replace(epoch=replace(best.epoch, _state=None))
        return Progress(self._done.epoch, best, self.history)

    def trained(self) -> Trained | None:
        """The networks of the best epochs, calibrated if they are classifiers; those of the last
        epoch if no rows were set aside."""
        if self._done is None:
            return None
        chosen = self._done.best.epoch if self._done.best else self._done.epoch
        network, loss, params = self.run.network, self.run.loss, np.array(to_host(chosen.params))
        each = np.atleast_2d(params)
        for k, rows in enumerate(self._held_out):
            scale, _ = scale_of(logits_of(network, each[k], rows), rows, loss)
            each[k] = calibrate(network, each[k], scale)
        return Trained(self.settings.numbers, network, each.reshape(params.shape))
