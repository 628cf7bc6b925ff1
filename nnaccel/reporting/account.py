"""The data of a report: a training run, its model, and a sample of rows not trained on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device
from nnaccel.maths.network import layout
from nnaccel.tabular.estimates import points_of
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.importance import Importance, importance_of_encoded
from nnaccel.tabular.model import Model, scoring_of
from nnaccel.tabular.scores import scores_of
from nnaccel.tabular.several_targets import columns_of, probabilities
from nnaccel.tabular.targets import Target
from nnaccel.training.on_disk import DiskArray, read_rows

TEST = "test rows", "test"
OUT_OF_FOLD = "training rows, each predicted by the network that has not seen it", "out of fold"
MOST_ROWS = 5000  # most test rows predicted for the charts
SHUFFLED_ROWS = 2000, 200  # for the importance of columns: most, least
REPEATS = 5
WORK = 2e11  # most multiplications for the shuffles: seconds on a processor


class Sample(NamedTuple):
    """A sample of rows that were not trained on: encoded X (n, D), encoded targets Y, weights (n,)
    or None, and the predictions in the form of `Model.outputs`.

    name, short: the long and the short name of the sampled rows.   scores: on all of these rows.
    """

    name: str
    short: str
    scores: dict[str, Any]
    X: np.ndarray
    Y: np.ndarray
    weights: np.ndarray | None
    outputs: np.ndarray


class Account(NamedTuple):
    """A run with all data of its report.

    scores: on all test rows; {} without test rows.   sample: of the test rows; without test rows,
    of the training rows, each predicted by the network that has not seen it; or None.
    importance: of the columns, or the reason for its absence.   command: the command line.
    seconds: the training time in this process.   warnings: about the table.
    """

    fit: Fit
    model: Model
    scores: dict[str, Any]
    sample: Sample | None
    importance: Importance | str
    command: str | None = None
    seconds: float | None = None
    warnings: Sequence[str] = ()

    @property
    def device(self) -> str:
        """The name of the training device."""
        return self.fit.device.name

    def numbers(self) -> list[tuple[Target, np.ndarray, np.ndarray]]:
        """Each numeric target, with the true values and the predictions (n,) of the sample."""
        if self.sample is None or self.model.target.task != "regression":
            return []
        truth = self.model.target.outputs(self.sample.Y.reshape(len(self.sample.Y), -1))
        points = points_of(self.model.target, self.model.loss, self.sample.outputs)
        columns = (array.reshape(len(truth), -1).T for array in (truth, points))
        return [*zip(columns_of(self.model.target), *columns, strict=True)]

    def classes(self) -> list[tuple[Target, np.ndarray, np.ndarray]]:
        """Each target with classes, with the true class numbers (n,) and the probabilities (n, K)
        of the sample."""
        if self.sample is None or self.model.target.task == "regression":
            return []
        Y = self.sample.Y.reshape(len(self.sample.Y), -1).astype(np.int64)
        each = zip(probabilities(self.model.target, self.sample.outputs), Y.T, strict=True)
        return [(target, codes, P) for (target, P), codes in each]


def account_of(
    fit: Fit, model: Model | None = None, scores: dict[str, Any] | None = None, **told: Any
) -> Account:
    """The account of a finished run.   model, scores: if already known; else computed.

    told: the other fields of `Account`.   Raises RuntimeError for a run before its first epoch.
    """
    model = model or fit.model()
    scores = fit.evaluate(model) if scores is None else scores
    # Other processes of a joined run do not take part, so use only this process.
    device = None if fit.device.is_several else fit.device
    if fit.prepared.test is None:
        return Account(fit, model, scores, _out_of_fold(fit), "there are no test rows", **told)
    X, Y, weights = _test_rows(fit)
    sample = Sample(*TEST, scores, X, Y, weights, model.outputs_of(X, device))
    return Account(fit, model, scores, sample, _importance(fit, model, sample, device), **told)


def _test_rows(fit: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """A sample of the test rows: X (n, D), encoded targets, and weights (n,) or None."""
    test: Any = fit.prepared.test
    rows = _some(fit, test.n_rows)
    if not isinstance(test.data, DiskArray):
        Y = fit.target.encode(test.y)
        return test.data[rows], Y[rows], None if test.weights is None else test.weights[rows]
    weights = None if test.weights is None else read_rows(test.weights, rows)
    return read_rows(test.data, rows), read_rows(test.y, rows), weights


def _out_of_fold(fit: Fit) -> Sample | None:
    """A sample of the training rows with out-of-fold predictions; None without folds."""
    if fit.unseen is None:
        return None
    X, Y, y, weights = fit.prepared.X, fit.prepared.Y, fit.prepared.y, fit.prepared.weights
    scores = scores_of(fit.target, fit.unseen, y, weights=weights, **scoring_of(fit.loss))
    rows = _some(fit, len(X))
    own = None if weights is None else weights[rows]
    return Sample(*OUT_OF_FOLD, scores, X[rows], Y[rows], own, fit.unseen[rows])


def _some(fit: Fit, N: int) -> np.ndarray:
    """The ascending numbers of at most `MOST_ROWS` of N rows, drawn with the seed of the run."""
    rng = np.random.Generator(np.random.Philox(fit.settings.seed))
    return np.sort(rng.choice(N, MOST_ROWS, replace=False)) if MOST_ROWS < N else np.arange(N)


def missing_values(fit: Fit) -> dict[str, int]:
    """The number of training rows without a value, by column name, for columns with missing values.
    {} for rows on the disk, since counting would need another pass over them."""
    X, places = fit.prepared.X, fit.features.indicators
    if isinstance(X, DiskArray):
        return {}
    return {name: int(np.count_nonzero(X[:, place])) for name, place in places.items()}


def shuffled_rows(model: Model, n: int) -> int:
    """The number of rows, of n, on which the columns are shuffled, limited by `WORK`."""
    each = 2 * layout(model.network).size * model.members * REPEATS * len(model.features.places)
    most, least = SHUFFLED_ROWS
    return min(n, most, max(least, int(WORK / each)))


def _importance(fit: Fit, model: Model, sample: Sample, device: Device | None) -> Importance | str:
    """The importance of the columns on a part of the sample, or the reason for its absence."""
    X, Y, weights = sample.X, sample.Y, sample.weights
    rng = np.random.Generator(np.random.Philox(fit.settings.seed))
    rows = np.sort(rng.permutation(len(X))[: shuffled_rows(model, len(X))])
    weights = None if weights is None else weights[rows]
    how = {"repeats": REPEATS, "weights": weights, "device": device}
    try:
        return importance_of_encoded(model, X[rows], Y[rows], **how)
    except ValueError as error:
        return str(error)
