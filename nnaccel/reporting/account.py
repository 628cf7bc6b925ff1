"""What a report tells: a training run, its model, and some of the rows that it has not seen."""

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
MOST_ROWS = 5000  # of the test that are predicted for the charts
SHUFFLED_ROWS = 2000, 200  # of them for the importance of columns: at most, and at least
REPEATS = 5
WORK = 2e11  # multiplications that the shuffles may take: seconds on a processor


class Sample(NamedTuple):
    """Rows that were not trained on: encoded X (n, D), encoded targets Y, weights (n,) or None, and
    what is predicted of them, as `Model.outputs` gives it.

    name, short: of which rows they are some, in full and in short.   scores: on all of these.
    """

    name: str
    short: str
    scores: dict[str, Any]
    X: np.ndarray
    Y: np.ndarray
    weights: np.ndarray | None
    outputs: np.ndarray


class Account(NamedTuple):
    """A run with all that is told of it.

    scores: on all test rows, {} without.   sample: some of them; without test rows some training
    rows, each predicted by the network that has not seen it; or None.   importance: of the columns,
    or why there is none.   command: of the command line.   seconds: of the training in
    this process.   warnings: about the table.
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
        """The name of the device that has trained."""
        return self.fit.device.name

    def numbers(self) -> list[tuple[Target, np.ndarray, np.ndarray]]:
        """Each target of numbers, with the truth and the predictions (n,) of the sample."""
        if self.sample is None or self.model.target.task != "regression":
            return []
        truth = self.model.target.outputs(self.sample.Y.reshape(len(self.sample.Y), -1))
        points = points_of(self.model.target, self.model.loss, self.sample.outputs)
        columns = (array.reshape(len(truth), -1).T for array in (truth, points))
        return [*zip(columns_of(self.model.target), *columns, strict=True)]

    def classes(self) -> list[tuple[Target, np.ndarray, np.ndarray]]:
        """Each target of classes, with the true class numbers (n,) and the probabilities (n, K) of
        the sample."""
        if self.sample is None or self.model.target.task == "regression":
            return []
        Y = self.sample.Y.reshape(len(self.sample.Y), -1).astype(np.int64)
        each = zip(probabilities(self.model.target, self.sample.outputs), Y.T, strict=True)
        return [(target, codes, P) for (target, P), codes in each]


def account_of(
    fit: Fit, model: Model | None = None, scores: dict[str, Any] | None = None, **told: Any
) -> Account:
    """The account of a run that has ended.   model, scores: if they are known already.

    told: the other fields of `Account`.   RuntimeError for a run before its first epoch.
    """
    model = model or fit.model()
    scores = fit.evaluate(model) if scores is None else scores
    # The other processes of a joined run do not take part: what follows is computed here alone.
    device = None if fit.device.is_several else fit.device
    if fit.prepared.test is None:
        return Account(fit, model, scores, _out_of_fold(fit), "there are no test rows", **told)
    X, Y, weights = _test_rows(fit)
    sample = Sample(*TEST, scores, X, Y, weights, model.outputs_of(X, device))
    return Account(fit, model, scores, sample, _importance(fit, model, sample, device), **told)


def _test_rows(fit: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Some of the test rows: X (n, D), their encoded targets, and weights."""
    test: Any = fit.prepared.test
    rows = _some(fit, test.n_rows)
    if not isinstance(test.data, DiskArray):
        Y = fit.target.encode(test.y)
        return test.data[rows], Y[rows], None if test.weights is None else test.weights[rows]
    weights = None if test.weights is None else read_rows(test.weights, rows)
    return read_rows(test.data, rows), read_rows(test.y, rows), weights


def _out_of_fold(fit: Fit) -> Sample | None:
    """Some of the training rows, where each has a network that has not seen it."""
    if fit.unseen is None:
        return None
    X, Y, y, weights = fit.prepared.X, fit.prepared.Y, fit.prepared.y, fit.prepared.weights
    scores = scores_of(fit.target, fit.unseen, y, weights=weights, **scoring_of(fit.loss))
    rows = _some(fit, len(X))
    own = None if weights is None else weights[rows]
    return Sample(*OUT_OF_FOLD, scores, X[rows], Y[rows], own, fit.unseen[rows])


def _some(fit: Fit, N: int) -> np.ndarray:
    """The numbers of `MOST_ROWS` of N rows at most, drawn by the seed, in their order."""
    rng = np.random.Generator(np.random.Philox(fit.settings.seed))
    return np.sort(rng.choice(N, MOST_ROWS, replace=False)) if MOST_ROWS < N else np.arange(N)


def missing_values(fit: Fit) -> dict[str, int]:
    """How many training rows have no value in a column, by its name, of the columns that lack some;
    {} of rows on the disk, through which this would be another pass."""
    X, places = fit.prepared.X, fit.features.indicators
    if isinstance(X, DiskArray):
        return {}
    return {name: int(np.count_nonzero(X[:, place])) for name, place in places.items()}


def shuffled_rows(model: Model, n: int) -> int:
    """On how many of n rows the columns are shuffled: as many as do not take long."""
    each = 2 * layout(model.network).size * model.members * REPEATS * len(model.features.places)
    most, least = SHUFFLED_ROWS
    return min(n, most, max(least, int(WORK / each)))


def _importance(fit: Fit, model: Model, sample: Sample, device: Device | None) -> Importance | str:
    """The importance of the columns on some of the sample, or why there is none."""
    X, Y, weights = sample.X, sample.Y, sample.weights
    rng = np.random.Generator(np.random.Philox(fit.settings.seed))
    rows = np.sort(rng.permutation(len(X))[: shuffled_rows(model, len(X))])
    weights = None if weights is None else weights[rows]
    how = {"repeats": REPEATS, "weights": weights, "device": device}
    try:
        return importance_of_encoded(model, X[rows], Y[rows], **how)
    except ValueError as error:
        return str(error)
