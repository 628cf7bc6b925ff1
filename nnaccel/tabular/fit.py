"""The training run of a table: splits, encodes and weights the rows, and runs the epochs."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from nnaccel.devices.device import Device, select
from nnaccel.maths.metrics import Metric, for_loss
from nnaccel.maths.network import layout
from nnaccel.tabular.branch import Branch
from nnaccel.tabular.estimates import check_names, outputs_of
from nnaccel.tabular.members import (
    BOTH,
    Edges,
    Folds,
    Trained,
    best_of,
    joined,
    out_of_fold,
    with_both,
)
from nnaccel.tabular.model import Model, scoring_of
from nnaccel.tabular.preparation import Prepared, prepared
from nnaccel.tabular.problem import Problem, as_loss_takes
from nnaccel.tabular.resuming import check_same, identity_of
from nnaccel.tabular.scores import ALWAYS, OUT_OF_FOLD, SPREAD, scores_of
from nnaccel.tabular.scoring import Scorer, scorer_of
from nnaccel.tabular.settings import Settings, loss_for, to_dict
from nnaccel.tabular.several_targets import Targets
from nnaccel.tabular.sources import Examples, Rows
from nnaccel.tabular.streamed.examples import Streamed
from nnaccel.tabular.streamed.scores import scores_on_disk
from nnaccel.tabular.survey import NO_RULES, Rules
from nnaccel.training import checkpoint
from nnaccel.training.checkpoint import Checkpoint
from nnaccel.training.data import is_resident
from nnaccel.training.epoch import Epoch
from nnaccel.training.on_disk import DiskArray


class Fit:
    """A training run on examples. Iterate over it to run its epochs, then call `model`.

    Attributes
    ----------
    settings : Settings
        The settings with all defaults resolved.
    features, target, network, loss, metric
        The parts of the model.
    branches : list of Branch
        The run of each kind of networks. `network` and `history` are those of the last kind.
    members, folds
        The number of networks of each kind, and the rows of their folds, if any.
    chosen : str
        The kind with the lowest out-of-fold loss, "" before `model`.
    unseen : ndarray or None
        The outputs, as in `Model.outputs`, for each training row by the network that has not seen
        it; None without folds, and before `model`.
    rows : dict of int
        The numbers of training, validation and test rows.
    source, structure
        The name of the table, and the layout of the text if it is delimited text.
    hint : str
        If the task was guessed from whole numbers: the reason why they are classes or quantities,
        and how to change that.
    """

    def __init__(
        self,
        examples: Examples | Streamed,
        settings: Settings,
        *,
        device: Device | None = None,
        rules: Rules = NO_RULES,
        test_fraction: float = 0.2,
        kernels: bool | str = True,
        keeps: bool = False,
        after: Checkpoint | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        """Split and encode the examples, in memory or on the disk, and build the networks.

        keeps: whether `save` works in the middle of an epoch too, for runs that may be interrupted.
        after: a checkpoint of `save`, from which the run continues.   scorer: `scorer(estimator, X,
        y)`, replaces `Settings.scoring`, see `scoring`. Raises ValueError for data or settings from
        which nothing can be learned, for unsuitable test data, and for a checkpoint of another run.
        """
        asked = to_dict(settings)
        self.device = device or select("cpu")
        if isinstance(examples, Streamed):
            made = examples.prepared(settings, rules, test_fraction)
        else:
            made = prepared(examples, settings, rules, test_fraction)
        self._scorer = scorer or scorer_of(settings.scoring)
        self._wants_both = settings.numbers == BOTH
        kinds = made.kinds
        self.settings = settings = kinds[-1]
        self.features, self.target, self.hint = made.features, made.target, made.hint
        self.rows, self._made, self._weights = made.n_rows, made, made.weights
        self.source, self.structure = examples.source, examples.structure
        Y = made.Y
        self.members = settings.members or 1
        self.folds = None
        if self.members > 1:
            several = isinstance(self.target, Targets) or self.target.task != "classification"
            codes = np.arange(len(Y)) if several else Y
            self.folds = Folds.of(codes, self.members, settings.seed, not several)
        self.loss = loss_for(settings)
        check_names(self.target, self.loss)
        self.metric: Metric = for_loss(self.loss)
        held_out, edges = made.held, made.edges
        if not any(edges):  # falls back to the settings of plain numbers
            kinds = [replace(kinds[0], numbers="plain")]
        self.identity = None
        if keeps or after:
            self.identity = identity_of(made, asked, (kind.numbers for kind in kinds))
        if after is not None:
            check_same(after, self.identity or {})
        runs = [*(after.runs if after else ()), *(None for _ in kinds)]
        problem = self._problem(edges, held_out, kernels)
        self.branches = [
            problem.branch([each], keeps=keeps, after=run)
            for each, run in zip(kinds, runs, strict=False)
        ]
        self.network, self.kernels = self.branches[-1].run.network, self.branches[-1].kernels
        self._current = 0  # the index of the branch that is training
        self.chosen = ""
        self.unseen: np.ndarray | None = None

    def _problem(self, edges: Edges, held_out: Any, kernels: bool | str) -> Problem:
        """The training data of the networks; each member trains without its fold."""
        X, Y, weights = self._made.X, self._made.Y, self._weights
        if self.folds is not None:
            held_out = self.folds.held_out(X, Y, weights)
            weights = self.folds.training_weights(weights)
        return Problem(
            X,
            Y,
            weights,
            held_out,
            self.members,
            self.target,
            self.metric,
            edges,
            self.device,
            kernels,
            self._scorer,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint of the run so far, completely or not at all.

        Raises RuntimeError before the first epoch, and in the middle of an epoch unless `keeps` was
        set; OSError if the file cannot be written; ValueError for data that cannot be saved.
        """
        runs = [progress for branch in self.branches if (progress := branch.progress)]
        if self.identity is None or not runs:
            raise RuntimeError("there is nothing to keep; use Fit(keeps=True), and train an epoch")
        checkpoint.save_runs(path, runs, self.identity)

    @property
    def prepared(self) -> Prepared:
        """The training, validation and test rows: split, encoded and weighted."""
        return self._made

    @property
    def on_disk(self) -> bool:
        """Whether the training rows are on the disk."""
        return isinstance(self._made.X, DiskArray)

    @property
    def resident(self) -> bool:
        """Whether the training rows are on the device, or on each of several devices; else the
        rows of each minibatch are copied there."""
        X, Y = self._made.X, self._made.Y
        return not self.on_disk and is_resident(self.device, self.settings.dtype, X, Y)

    @property
    def history(self) -> list[dict[str, float]]:
        """The scores of the epochs of the last kind of networks."""
        return self.branches[-1].history

    @property
    def n_params(self) -> int:
        """The largest possible number of parameters of the model, over all its networks."""
        kinds = len(self.branches) if self.folds is not None else 1
        return kinds * self.members * layout(self.network).size

    @property
    def n_epochs(self) -> int:
        """The number of epochs, summed over all kinds of networks."""
        return len(self.branches) * (self.settings.epochs or 1)

    def __iter__(self) -> Iterator[Epoch]:
        """The epochs, numbered over all kinds of networks; the metric is in units of the target."""
        for i, branch in enumerate(self.branches):
            self._current = i
            for epoch in branch:
                yield replace(epoch, number=self._before(i) + epoch.number)

    def _before(self, i: int) -> int:
        """The number of epochs of all kinds before kind i."""
        return i * (self.settings.epochs or 1)

    @property
    def n_done(self) -> int:
        """The number of the last finished epoch, counted over all kinds of networks."""
        progress = self.branches[self._current].progress
        return self._before(self._current) + (progress.epoch.number if progress else 0)

    @property
    def best_so_far(self) -> list[int]:
        """The numbers of the best epochs of the current kind, counted over all kinds; [] before the
        first epoch, and without held-out rows."""
        branch = self.branches[self._current]
        watched = branch.progress is not None and branch.progress.best is not None
        return [self._before(self._current) + n for n in branch.best] if watched else []

    @property
    def best(self) -> list[int]:
        """The number of the epoch whose weights each network has, counted from the beginning of
        its run."""
        return self._chosen_branch().best

    def _chosen_branch(self) -> Branch:
        kinds = {branch.settings.numbers: branch for branch in self.branches}
        return kinds.get(self.chosen, self.branches[-1])

    def model(self) -> Model:
        """The model with the weights of the best epochs, or of the last epoch without held-out
        rows. Raises RuntimeError before the first epoch."""
        found = [trained for branch in self.branches if (trained := branch.trained())]
        if not found:
            raise RuntimeError("the model has not been trained; iterate over the fit first")
        trained, scores = self._choose(found)
        self.chosen = trained.kind
        branch = self._chosen_branch()
        settings = replace(branch.settings, numbers=trained.kind)
        return Model(
            trained.network,
            trained.params,
            self.loss,
            self.features,
            self.target,
            branch.history,
            to_dict(settings),
            scores,
        )

    def _choose(self, found: list[Trained]) -> tuple[Trained, dict[str, float]]:
        """The networks with the lowest out-of-fold loss, and their out-of-fold scores."""
        if self.folds is None:
            return found[0], {}
        X, Y, loss = self._made.X, self._made.Y, self.loss
        logits = {
            each.kind: out_of_fold(each, X, self.folds, self.device.asarray) for each in found
        }
        logits = with_both(logits, loss)
        kind = best_of(logits, as_loss_takes(Y, loss), self._weights, loss)
        if self._wants_both and BOTH in logits:
            kind = BOTH
        trained = next((each for each in found if each.kind == kind), None) or joined(*found)
        outputs = outputs_of(self.target, loss, loss.predict(logits[kind], xp=np))
        self.unseen = outputs
        return trained, self._scores_of_folds(outputs)

    def _scores_of_folds(self, outputs: np.ndarray) -> dict[str, float]:
        """The out-of-fold scores that are single numbers, and their standard deviation over
        folds."""
        assert self.folds is not None
        options = scoring_of(self.loss)

        def scores(rows: np.ndarray) -> dict[str, Any]:
            weights = None if self._weights is None else self._weights[rows]
            y = Rows(self._made.X, self._made.y).take(rows).y
            found = scores_of(self.target, outputs[rows], y, weights=weights, **options)
            single = {name: v for name, v in found.items() if isinstance(v, float)}
            return {name: v for name, v in single.items() if ALWAYS not in name}

        whole = scores(np.arange(len(outputs)))
        parts = [scores(np.flatnonzero(self.folds.number == k)) for k in range(self.members)]
        result = {}
        for name, value in whole.items():
            result[OUT_OF_FOLD + name] = value
            each = [part[name] for part in parts if name in part]
            if len(each) > 1:
                result[OUT_OF_FOLD + name + SPREAD] = float(np.std(each, ddof=1))
        return {name: value for name, value in result.items() if np.isfinite(value)}

    def evaluate(self, model: Model) -> dict[str, Any]:
        """Scores of the model on the test rows; {} without test rows."""
        test = self._made.test
        if test is None:
            return {}
        if isinstance(test.data, DiskArray):
            return scores_on_disk(model, test, self.device)
        outputs = model.outputs_of(test.data, self.device)
        options = {"weights": test.weights, **scoring_of(model.loss)}
        return scores_of(self.target, outputs, test.y, **options)
