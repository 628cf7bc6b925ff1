"""Scores of any number of rows in batches, with the names and values of `scores.scores_of`.

All scores are exact to rounding, except the ROC AUC and the average precision. These are computed
from histograms of the logits with many bins.
"""

from typing import Any

import numpy as np

from nnaccel.devices.device import Device
from nnaccel.tabular import estimate_scores
from nnaccel.tabular.model import Model, scoring_of
from nnaccel.tabular.scores import ALWAYS, NORMAL, SHOWN_CLASSES
from nnaccel.tabular.several_targets import Targets, is_second, probabilities
from nnaccel.tabular.sources import Rows
from nnaccel.tabular.streamed.sources import NUMBERS
from nnaccel.tabular.targets import Target, class_numbers
from nnaccel.training.on_disk import DiskArray

STEPS, LEAST_STEPS = 2**18, 2**12  # bins of logits: of all classes together; least of one
FURTHEST = 20.0  # larger logits share the last bin, smaller than -FURTHEST the first


def scores_on_disk(model: Model, rows: Rows, device: Device | None) -> dict[str, Any]:
    """The scores of a model on encoded rows and encoded targets on the disk."""
    X, Y, weights = rows.data, rows.y, rows.weights
    found = Scores(model.target, **scoring_of(model.loss))
    rows_at_once = max(1, NUMBERS // X.shape[1])
    for start in range(0, len(X), rows_at_once):
        part = slice(start, start + rows_at_once)
        own = weights[part] if isinstance(weights, DiskArray) else None
        found.add(model.outputs_of(X[part], device), Y[part], own)
    return found.result()


class Scores:
    """Scores over all added rows.

    Raises ValueError for a threshold outside 0 to 1, or for one without two classes.
    """

    def __init__(
        self,
        target: Target | Targets,
        *,
        quantile: float | tuple[float, ...] | None = None,
        has_deviation: bool = False,
        threshold: float | None = None,
    ) -> None:
        """Parameters as in `scores_of`."""
        target.check_threshold(threshold)
        self.target, self.n_rows = target, 0
        self._threshold, self._right, self._weight = threshold, 0.0, 0.0
        columns = target.columns if isinstance(target, Targets) else (target,)

        def scores_of(one: Target) -> Any:
            if one.classes:
                return _Classes(one, threshold)
            if isinstance(quantile, tuple):
                return _SeveralQuantiles(one, quantile)
            return _Distributions(one) if has_deviation else _Numbers(one, quantile)

        self._each = [scores_of(one) for one in columns]

    def add(self, outputs: np.ndarray, Y: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add rows.   outputs: from `Model.outputs`.   Y: encoded targets (n,) or (n, K).
        weights: (n,); None: all 1."""
        weights = np.ones(len(Y)) if weights is None else weights.astype(np.float64)
        self.n_rows += len(Y)
        if isinstance(self.target, Target):
            self._each[0].add(outputs, Y, weights)
            return
        is_labels = self.target.task == "labels"
        if is_labels:
            right = (is_second(outputs, self._threshold) == (Y > 0.5)).all(axis=1)
            self._right, self._weight = self._right + right @ weights, self._weight + weights.sum()
            each = [P for _, P in probabilities(self.target, outputs)]
        else:
            each = [*np.moveaxis(outputs, 1, 0)]
        for k, (found, values) in enumerate(zip(self._each, each, strict=True)):
            own = np.rint(Y[:, k]).astype(np.int64) if is_labels else Y[:, k]
            found.add(values, own, weights)

    def result(self) -> dict[str, Any]:
        """The scores by name."""
        if isinstance(self.target, Target):
            return self._each[0].result()
        scores: dict[str, Any] = {}
        if self.target.task == "labels":
            scores["accuracy of all"] = float(self._right / self._weight)
        for one, found in zip(self.target.columns, self._each, strict=True):
            scores |= {f"{one.name}: {name}": v for name, v in found.result().items()}
        return scores


class _Numbers:
    """Scores of a numeric target with one estimate: a mean, or a quantile."""

    def __init__(self, target: Target, quantile: float | None) -> None:
        self._target, self._quantile = target, quantile
        self._n = 0
        # Weighted sums, in standardised units, of e^2, |e|, the pinball loss, e <= 0, and 1.
        self._sums = np.zeros(5)
        self._first, self._second = 0.0, 0.0  # weighted sums of Y and Y^2, standardised

    def add(self, outputs: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> None:
        Y = Y.astype(np.float64)
        e = Y - (outputs - self._target.mean) / self._target.scale
        q = 0.5 if self._quantile is None else self._quantile
        pinball = np.maximum(q * e, (q - 1) * e)
        terms = (e**2, np.abs(e), pinball, e <= 0, np.ones(len(Y)))
        self._sums += [term @ weights for term in terms]
        self._first += float(Y @ weights)
        self._second += float(Y**2 @ weights)
        self._n += len(Y)

    def result(self) -> dict[str, Any]:
        weight, scale = self._sums[4], self._target.scale
        squared, absolute, pinball, covered, _ = (self._sums / weight).tolist()
        if self._quantile is not None:
            return {"pinball loss": pinball * scale, "coverage": covered}
        scores = {"RMSE": float(np.sqrt(squared)) * scale, "MAE": absolute * scale}
        if self._n > 1:
            variance = self._second / weight - (self._first / weight) ** 2
            scores["R²"] = float(1 - squared / variance) if variance > 0 else 0.0
            scores["RMSE of always the mean"] = float(np.sqrt(max(variance, 0.0))) * scale
        return scores


class _Means:
    """Weighted means of terms over batches."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weight = 0.0

    def add(self, terms: estimate_scores.Terms, weights: np.ndarray) -> None:
        self._weight += weights.sum()
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(term @ weights)

    def result(self) -> dict[str, float]:
        return {name: float(value / self._weight) for name, value in self._sums.items()}


class _SeveralQuantiles:
    """Scores of a numeric target with several quantiles."""

    def __init__(self, target: Target, levels: tuple[float, ...]) -> None:
        self._target, self._levels, self._means = target, levels, _Means()

    def add(self, outputs: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> None:
        truth = self._target.in_units(Y.astype(np.float64))
        self._means.add(estimate_scores.of_quantiles(truth, outputs, self._levels), weights)

    def result(self) -> dict[str, Any]:
        return self._means.result()


class _Distributions:
    """Scores of a numeric target with a mean and a standard deviation."""

    def __init__(self, target: Target) -> None:
        self._target, self._of_means, self._means = target, _Numbers(target, None), _Means()

    def add(self, outputs: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> None:
        self._of_means.add(outputs[:, 0], Y, weights)
        truth = self._target.in_units(Y.astype(np.float64))
        self._means.add(estimate_scores.of_normal(truth, outputs), weights)

    def result(self) -> dict[str, Any]:
        scores = self._of_means.result() | self._means.result()
        if (deviation := scores.get(f"RMSE{ALWAYS}the mean", 0.0)) > 0:
            always = estimate_scores.of_always_the_same_normal(deviation**2)
            scores[f"negative log likelihood{ALWAYS}{NORMAL}"] = always
        return scores


class _Classes:
    """Scores of a target with classes."""

    def __init__(self, target: Target, threshold: float | None) -> None:
        self._target, self._threshold, K = target, threshold, len(target.classes)
        self._ranked = [1] if K == 2 else [*range(K)]  # the classes with a ROC curve
        self._steps = max(LEAST_STEPS, STEPS // len(self._ranked))
        self._curves = np.zeros((len(self._ranked), 2, self._steps))
        self._confusion = np.zeros((K, K))
        self._log_loss, self._brier = 0.0, 0.0

    def add(self, P: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> None:
        K = len(self._target.classes)
        guess = class_numbers(P, self._threshold)
        self._confusion += np.bincount(Y * K + guess, weights, K * K).reshape(K, K)
        own = P[np.arange(len(P)), Y]
        tiny = np.finfo(P.dtype).eps
        self._log_loss -= float(np.log(np.clip(own, tiny, 1 - tiny)) @ weights)
        self._brier += float(((P**2).sum(axis=1) - 2 * own + 1) @ weights)
        for curve, k in zip(self._curves, self._ranked, strict=True):
            places = _step_of(P[:, k], self._steps)
            for side, chosen in enumerate((k != Y, k == Y)):
                curve[side] += np.bincount(places[chosen], weights[chosen], self._steps)

    def result(self) -> dict[str, Any]:
        target, matrix = self._target, self._confusion
        rows, right, guessed = matrix.sum(axis=1), np.diag(matrix), matrix.sum(axis=0)
        is_binary = len(rows) == 2
        precision, recall = _share(right, guessed), _share(right, rows)
        f1 = _share(2 * right, rows + guessed)
        shown = (lambda each: float(each[1])) if is_binary else (lambda each: float(np.mean(each)))
        total, most = rows.sum(), int(rows.argmax())
        scores: dict[str, Any] = {
            "accuracy": float(right.sum() / total),
            f"accuracy{ALWAYS}{target.classes[most]!r}": float(rows[most] / total),
            "log loss": float(self._log_loss / total),
            "Brier score": float(self._brier / total / (2 if is_binary else 1)),
            "precision": shown(precision),
            "recall": shown(recall),
            "F1": shown(f1),
        }
        if (rows > 0).all():
            found = [_areas(negative, positive) for negative, positive in self._curves]
            scores["ROC AUC"], scores["average precision"] = np.mean(found, axis=0).tolist()
        if len(rows) <= SHOWN_CLASSES:
            each = {"rows": rows, "precision": precision, "recall": recall, "F1": f1}
            scores["classes"] = {name: values.tolist() for name, values in each.items()}
        whole = matrix.astype(np.int64)
        return scores | {"confusion matrix": whole if (whole == matrix).all() else matrix}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _step_of(p: np.ndarray, steps: int) -> np.ndarray:
    """The histogram bin (n,) of the logit of each probability p (n,).   steps: bins."""
    with np.errstate(divide="ignore"):
        z = np.log(p) - np.log1p(-p)
    share = (np.clip(z, -FURTHEST, FURTHEST) + FURTHEST) / (2 * FURTHEST)
    return np.minimum((share * steps).astype(np.int64), steps - 1)


def _areas(negative: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """ROC AUC and average precision from the class weights in each bin (steps,), ascending."""
    below = np.cumsum(negative) - negative
    auc = positive @ (below + negative / 2) / (positive.sum() * negative.sum())
    true, false = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    return float(auc), float(positive[::-1] @ _share(true, true + false) / positive.sum())
