"""Scores of predictions by scikit-learn's metrics, compared with the best constant prediction."""

from typing import Any

import numpy as np

from nnaccel.tabular.several_targets import Targets, is_second, probabilities
from nnaccel.tabular.tables import import_extra
from nnaccel.tabular.targets import Target, class_numbers

# Parts of the names of scores.
ALWAYS = " of always "  # between a score and the constant prediction that has it
OUT_OF_FOLD, SPREAD = "out-of-fold ", ", spread"  # in a model file

SHOWN_CLASSES = 20  # with at most this many classes, each class has separate scores


def scores_of(
    target: Target | Targets,
    outputs: np.ndarray,
    y: Any,
    *,
    weights: np.ndarray | None = None,
    quantile: float | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Scores of the agreement of outputs with the truth y.

    outputs: probabilities (N, K), or numbers (N,) in the units of the target.   weights: (N,), how
    much each row counts.   quantile: of the target that the numbers predict; None: they predict the
    mean.   threshold: the probability from which the second of two classes is predicted; None: the
    more probable one.

    Classes: accuracy, also of always predicting the most frequent class; log loss in nats; Brier
    score; for two classes precision, recall, F1 and average precision of the second class, for
    several classes the means over classes; ROC AUC (one against the rest, averaged, if every class
    occurs); a table with the scores of each class; the confusion matrix, true classes in rows.
    Numbers: RMSE and MAE, also of always predicting the mean; R². Quantiles: pinball loss, also of
    always predicting the quantile of the target, and coverage, the share of rows that are not above
    their prediction.
    """
    target.check_threshold(threshold)
    if isinstance(target, Targets):
        return _of_several(
            target, outputs, y, weights=weights, quantile=quantile, threshold=threshold
        )
    Y = target.encode(y)
    if target.task == "classification":
        return _of_classes(target, outputs, Y, weights, threshold)
    truth = target.decode(Y)
    if quantile is not None:
        return _of_quantiles(truth, outputs, weights, quantile)
    return _of_numbers(truth, outputs, weights)


def _of_several(targets: Targets, outputs: np.ndarray, y: Any, **options: Any) -> dict[str, Any]:
    """The scores of each target, by its name; for labels also the share of rows whose labels are
    all right."""
    scores: dict[str, Any] = {}
    if targets.task == "labels":
        right = is_second(outputs, options["threshold"]) == (targets.encode(y) > 0.5)
        all_right = np.average(right.all(axis=1), weights=options["weights"])
        scores["accuracy of all"] = float(all_right)
    numbers = zip(targets.columns, outputs.T, strict=True)
    each = probabilities(targets, outputs) if targets.task == "labels" else numbers
    for target, values in each:
        found = scores_of(target, values, y[target.name], **options)
        scores |= {f"{target.name}: {name}": value for name, value in found.items()}
    return scores


def _of_numbers(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None
) -> dict[str, Any]:
    metrics = import_extra("sklearn.metrics")
    mean = np.full(len(truth), np.average(truth, weights=weights))
    scores = {
        "RMSE": float(metrics.root_mean_squared_error(truth, predicted, sample_weight=weights)),
        "MAE": float(metrics.mean_absolute_error(truth, predicted, sample_weight=weights)),
    }
    if len(truth) > 1:
        scores["R²"] = float(metrics.r2_score(truth, predicted, sample_weight=weights))
        scores["RMSE of always the mean"] = float(
            metrics.root_mean_squared_error(truth, mean, sample_weight=weights)
        )
    return scores


def _of_quantiles(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, quantile: float
) -> dict[str, Any]:
    metrics = import_extra("sklearn.metrics")
    constant = np.full(len(truth), np.quantile(truth, quantile))
    options = {"alpha": quantile, "sample_weight": weights}
    return {
        "pinball loss": float(metrics.mean_pinball_loss(truth, predicted, **options)),
        "coverage": float(np.average(truth <= predicted, weights=weights)),
        "pinball loss of always the quantile": float(
            metrics.mean_pinball_loss(truth, constant, **options)
        ),
    }


def _of_classes(
    target: Target,
    P: np.ndarray,
    Y: np.ndarray,
    weights: np.ndarray | None,
    threshold: float | None,
) -> dict[str, Any]:
    metrics = import_extra("sklearn.metrics")
    K, guess = len(target.classes), class_numbers(P, threshold)
    labels, is_binary = np.arange(K), K == 2
    rows = np.bincount(Y, weights=weights, minlength=K)
    options = {"sample_weight": weights}
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        Y, guess, labels=labels, zero_division=0.0, **options
    )
    shown = (lambda each: float(each[1])) if is_binary else (lambda each: float(np.mean(each)))
    one_hot = (Y[:, None] == labels).astype(float)
    brier = np.average(((P - one_hot) ** 2).sum(axis=1), weights=weights)
    most = int(rows.argmax())
    scores: dict[str, Any] = {
        "accuracy": float(metrics.accuracy_score(Y, guess, **options)),
        f"accuracy of always {target.classes[most]!r}": float(rows[most] / rows.sum()),
        "log loss": float(metrics.log_loss(Y, P, labels=labels, **options)),
        "Brier score": float(brier / 2 if is_binary else brier),
        "precision": shown(precision),
        "recall": shown(recall),
        "F1": shown(f1),
    }
    if (rows > 0).all():
        score = P[:, 1] if is_binary else P
        scores["ROC AUC"] = float(metrics.roc_auc_score(Y, score, multi_class="ovr", **options))
        average = metrics.average_precision_score
        scores["average precision"] = float(
            average(Y, P[:, 1], **options)
            if is_binary
            else average(one_hot, P, average="macro", **options)
        )
    if K <= SHOWN_CLASSES:
        scores["classes"] = {
            "rows": rows.tolist(),
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "F1": f1.tolist(),
        }
    matrix = metrics.confusion_matrix(Y, guess, labels=labels, **options)
    return scores | {"confusion matrix": matrix}
