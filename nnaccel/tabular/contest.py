"""The common part of the trials of a search: rows, encoded and split once, and the scoring."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device, to_host
from nnaccel.maths.metrics import for_loss
from nnaccel.tabular.branch import Branch
from nnaccel.tabular.estimates import check_names
from nnaccel.tabular.members import BOTH, Folds, Trained, with_both
from nnaccel.tabular.preparation import Prepared
from nnaccel.tabular.problem import Problem
from nnaccel.tabular.settings import MEMBERS, Settings, loss_for, resolve
from nnaccel.training.checkpoint import Progress
from nnaccel.training.data import mean_one
from nnaccel.training.prediction import predict

FEW = 5000  # with fewer training rows a trial is validated on all folds, else on one


class Score(NamedTuple):
    """The score of a trial on the validation rows."""

    loss: float  # without label smoothing; of classifiers after calibration
    numbers: str  # the kind of networks with this loss, as in `Settings.numbers`
    metric: float  # in units of the target


class Contest:
    """The rows on which all trials are trained and validated.

    If the fit of a single network holds out validation rows, a trial is validated on these. Else
    the rows are divided into folds, as for the members if the fit has several. With fewer than
    `FEW` rows a trial trains one network for each fold and is validated on all folds. With more
    rows it trains one network and is validated on the first fold.
    """

    def __init__(
        self, made: Prepared, settings: Settings, pixels: bool, device: Device, kernels: bool | str
    ) -> None:
        """made: the examples prepared with these settings.   settings: not resolved."""
        self.settings, self._pixels = settings, pixels
        resolved, target = made.kinds[-1], made.target
        self.members = resolved.members or 1
        self._n_rows = made.n_rows["train"] + made.n_rows["validation"]
        self._n_classes = 2 if target.task == "labels" else len(target.classes)
        # Without bins in any column the kinds fall back to "plain".
        self.kinds = [kind.numbers for kind in made.kinds] if any(made.edges) else ["plain"]
        self.loss = loss_for(replace(resolved, label_smoothing=0.0))
        check_names(target, self.loss)
        self.metric = for_loss(self.loss)
        X, Y, weights, held, folds = self._split(made, resolved.seed)
        self.problem = Problem(
            X,
            Y,
            weights,
            held,
            folds,
            target,
            self.metric,
            made.edges,
            device,
            kernels,
        )
        self._unseen = self.problem.unseen(self.loss)
        self._Y = np.concatenate([rows.Y for rows in self._unseen])
        self._weights = None if held[2] is None else mean_one(np.ravel(held[2]))[0]

    def _split(self, made: Prepared, seed: int) -> tuple[Any, Any, Any, Any, int]:
        """X, Y and weights of the training rows, the validation rows, and the number of networks
        of a trial."""
        X, Y, weights = made.X, made.Y, made.weights
        if made.held is not None:
            return X, Y, weights, made.held, 1
        classes = made.target.task == "classification"
        codes = Y if classes else np.arange(len(Y))
        members = self.members if self.members > 1 else max(2, min(MEMBERS, len(Y) // 2))
        folds = Folds.of(codes, members, seed, classes)
        if len(Y) < FEW:
            held = folds.held_out(X, Y, weights)
            return X, Y, folds.training_weights(weights), held, members
        tells = folds.number == 0
        train, held = (
            (X[rows], Y[rows], None if weights is None else weights[rows])
            for rows in (~tells, tells)
        )
        return *train, held, 1

    def resolved(self, drawn: Mapping[str, Any], kind: str) -> Settings:
        """The resolved settings of a trial for one kind of networks, the same as in a fit."""
        given = replace(self.settings, **drawn, numbers=kind, members=self.members)
        return resolve(given, self._n_rows, self._n_classes, pixels=self._pixels)

    @property
    def defaults(self) -> Settings:
        """The resolved settings of the first trial for the last kind of networks."""
        return self.resolved({}, self.kinds[-1])

    def seconds_of_fit(self, seconds: float, drawn: Mapping[str, Any], numbers: str) -> float:
        """The approximate time in seconds to fit a model with a trial's settings.

        seconds: of all epochs of one trial, for one kind of networks.
        """
        kinds = len(self.kinds) if numbers == BOTH or not drawn else 1
        rows = self._n_rows / len(self.problem.X)
        return seconds * kinds * rows * self.members / self.problem.members

    def settings_of(self, drawn: Mapping[str, Any], numbers: str) -> Settings:
        """The settings to fit a model as in a trial; for the default trial the given settings."""
        if not drawn:
            return self.settings
        return replace(self.settings, **{"numbers": numbers, "members": self.members, **drawn})

    def branches(
        self, trials: Sequence[Mapping[str, Any]], runs: Sequence[Progress | None]
    ) -> list[Branch]:
        """The runs of trials with one architecture, one run for each kind of networks.

        trials: the drawn settings of each.   runs: the progress so far, one for each kind.
        """
        return [
            self.problem.branch([self.resolved(drawn, kind) for drawn in trials], after=run)
            for kind, run in zip(self.kinds, runs, strict=True)
        ]

    def scores(self, found: Sequence[Trained | None]) -> list[Score]:
        """The score of each trial.   found: for each kind, the networks of the best epochs."""
        logits = {each.kind: self._logits(each) for each in found if each}
        n_trials = min(map(len, logits.values()))
        return [self._score({kind: Z[k] for kind, Z in logits.items()}) for k in range(n_trials)]

    def _logits(self, trained: Trained) -> list[np.ndarray]:
        """The logits (n, n_outputs) of each trial on the validation rows of all its folds."""
        put, folds = self.problem.device.asarray, self.problem.members
        each = [
            to_host(predict(trained.network, put(own), self._unseen[k % folds].X)).astype(float)
            for k, own in enumerate(np.atleast_2d(trained.params))
        ]
        return [np.concatenate(each[k : k + folds]) for k in range(0, len(each), folds)]

    def _score(self, logits: dict[str, np.ndarray]) -> Score:
        """The best score among the kinds and, if there are two, their mean. Only the score of the
        mean if the settings say so."""
        logits, Y, weights = with_both(logits, self.loss), self._Y, self._weights
        if self.settings.numbers == BOTH and BOTH in logits:
            logits = {BOTH: logits[BOTH]}
        options = dict(self.loss.options)

        def loss_of(kind: str) -> float:
            return float(self.loss.function(logits[kind], Y, weights, xp=np, **options)[0])

        losses = {kind: loss_of(kind) for kind in logits}
        kind = min(losses, key=losses.__getitem__)
        metric = float(self.metric.function(logits[kind], Y, weights, xp=np))
        return Score(losses[kind], kind, self.metric.finish(metric) * self.problem.unit)
