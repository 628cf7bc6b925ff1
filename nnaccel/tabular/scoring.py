"""scikit-learn's scorers for the networks of a table, to select the best epoch.

A scorer receives one network as an estimator, the encoded rows that it has not seen, and their true
values: numbers in units of the target, class numbers in ascending order, or labels 0 and 1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import to_host
from nnaccel.kernels.definition import Run
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network
from nnaccel.tabular.calibration import HeldOut
from nnaccel.tabular.estimates import outputs_of, points_of
from nnaccel.tabular.several_targets import Targets, is_second
from nnaccel.tabular.tables import import_extra
from nnaccel.tabular.targets import Target
from nnaccel.training.epoch import Epoch
from nnaccel.training.prediction import predict
from nnaccel.typing import Array

Scorer = Callable[..., float]  # (estimator, X, y); greater is better


def scorer_of(scoring: str) -> Scorer | None:
    """scikit-learn's scorer with this name; None for "loss"."""
    if scoring == "loss":
        return None
    return import_extra("sklearn.metrics").get_scorer(scoring)


def score_of_epoch(
    scorer: Scorer, run: Run, target: Target | Targets, held_out: list[HeldOut]
) -> Callable[[Epoch], Any]:
    """A function that maps an epoch to its score, or to (K,) scores of K networks, each on its
    held-out rows.

    The function raises ValueError if the score cannot be computed.
    """
    cases = [_case(target, rows) for rows in held_out]

    def score(epoch: Epoch) -> Any:
        params = epoch.params
        each = [params] if params.ndim == 1 else [params[k, :] for k in range(params.shape[0])]
        estimators = [EncodedNetwork(run.network, own, run.loss, target) for own in each]
        found = [
            _scored(scorer, estimator, case)
            for estimator, case in zip(estimators, cases, strict=True)
        ]
        return found[0] if params.ndim == 1 else np.array(found)

    return score


class _Case(NamedTuple):
    """The arguments of a scorer after the estimator."""

    X: np.ndarray
    y: np.ndarray
    options: dict[str, Any]  # the weights, if they differ


def _case(target: Target | Targets, rows: HeldOut) -> _Case:
    """The rows with positive weight, with Y converted from the loss's form to true values."""
    X, Y, weights = rows
    if weights is not None:
        X, Y, weights = X[weights > 0], Y[weights > 0], weights[weights > 0]
    if target.task == "regression":
        y = target.outputs(Y)
    else:
        y = (Y if target.task == "labels" else Y.reshape(-1)).astype(np.int64)
    differ = weights is not None and np.ptp(weights) > 0
    return _Case(X, y, {"sample_weight": weights} if differ else {})


def _scored(scorer: Scorer, estimator: Any, case: _Case) -> float:
    try:
        return float(scorer(estimator, case.X, case.y, **case.options))
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"scoring: the score cannot be computed: {reason}; choose another scorer, or 'loss'"
        ) from error


class EncodedNetwork:
    """One network of a table as a scikit-learn estimator of encoded rows X (N, D), for scorers."""

    def __init__(
        self, network: Network, params: Array, loss: Loss, target: Target | Targets
    ) -> None:
        self._predict = partial(predict, network, params, loss=loss)
        self._loss, self._target = loss, target
        n = len(target.columns) if isinstance(target, Targets) else len(target.classes)
        self.classes_ = np.arange(n)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """The probability of each class (N, K), or of the second class of each label (N, K)."""
        return outputs_of(self._target, self._loss, self._raw(X))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The numbers (N,) or (N, K), or (..., P) with several quantiles; for a mean with its
        deviation only the mean. For classes their numbers (N,), for labels 0 and 1 (N, K)."""
        outputs = outputs_of(self._target, self._loss, self._raw(X))
        if self._target.task == "regression":
            return outputs if self._loss.levels else points_of(self._target, self._loss, outputs)
        if self._target.task == "labels":
            return is_second(outputs).astype(np.int64)
        return outputs.argmax(axis=1)

    def _raw(self, X: np.ndarray) -> np.ndarray:
        return to_host(self._predict(X)).astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        utils = import_extra("sklearn.utils")
        is_number = self._target.task == "regression"
        return utils.Tags(
            estimator_type="regressor" if is_number else "classifier",
            target_tags=utils.TargetTags(required=True),
            regressor_tags=utils.RegressorTags() if is_number else None,
            classifier_tags=None if is_number else utils.ClassifierTags(),
        )
