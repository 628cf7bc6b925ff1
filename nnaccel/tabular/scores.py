"""Scores of predictions by scikit-learn's metrics, compared with the best constant prediction."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from nnaccel.tabular import estimate_scores
from nnaccel.tabular.several_targets import Targets, is_second, probabilities
from nnaccel.tabular.tables import import_extra
from nnaccel.tabular.targets import Target, class_numbers

# Parts of the names of scores.
ALWAYS = " of always "  # between a score and the constant prediction that has it
OUT_OF_FOLD, SPREAD = "out-of-fold ", ", spread"  # in a model file

NORMAL = "the mean and variance"  # a constant prediction

SHOWN_CLASSES = 20  # with at most this many classes, each class has separate scores


class Compared(NamedTuple):
    """A score beside that of the best constant prediction, where that is known: of always `which`,
    such as "the mean"."""

    name: str
    value: float
    constant: float | None = None
    which: str = ""


def beside_constant(scores: Mapping[str, float]) -> Iterator[Compared]:
    """Each score that is a number, with that of the constant prediction."""
    constants: dict[str, tuple[float | None, str]] = {}
    for name, value in scores.items():
        what, _, which = name.partition(ALWAYS)
        constants.setdefault(what, (None, ""))
        if which:
            constants[what] = value, which
    for name, value in scores.items():
        if ALWAYS not in name:
            yield Compared(name, value, *constants[name])


def unseen_of(scores: Mapping[str, float]) -> Iterator[tuple[str, float, float]]:
    """The out-of-fold scores of a model, each with its standard deviation over the folds."""
    for name, value in scores.items():
        if name.startswith(OUT_OF_FOLD) and not name.endswith(SPREAD):
            yield name.removeprefix(OUT_OF_FOLD), value, scores.get(name + SPREAD, 0.0)


def scores_of(
    target: Target | Targets,
    outputs: np.ndarray,
    y: Any,
    *,
    weights: np.ndarray | None = None,
    quantile: float | tuple[float, ...] | None = None,
    has_deviation: bool = False,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Scores of the agreement of outputs with the truth y.

    outputs: probabilities (N, K), or numbers (N,) in the units of the target; (N, P) of several
    estimates, see `estimates.outputs_of`.   weights: (N,), how much each row counts.   quantile: of
    the target that the numbers predict; None: they predict the mean.   has_deviation: whether they
    are a mean and a standard deviation.   threshold: the probability from which the second of two
    classes is predicted; None: the more probable one.

    Classes: accuracy, also of always predicting the most frequent class; log loss in nats; Brier
    score; for two classes precision, recall, F1 and average precision of the second class, for
    several classes the means over classes; ROC AUC (one against the rest, averaged, if every class
    occurs); a table with the scores of each class; the confusion matrix, true classes in rows.
    Numbers: RMSE and MAE, also of always the mean; R². A quantile: pinball loss, also of always the
    quantile, and coverage, the share of rows that are not above theirs. Several: those of each, and
    of intervals. A mean with its deviation: also negative log likelihood, CRPS and coverage.
    """
    target.check_threshold(threshold)
    if isinstance(target, Targets):
        how = {"quantile": quantile, "has_deviation": has_deviation, "threshold": threshold}
        return _of_several(target, outputs, y, weights=weights, **how)
    Y = target.encode(y)
    if target.task == "classification":
        return _of_classes(target, outputs, Y, weights, threshold)
    truth = target.decode(Y)
    if isinstance(quantile, tuple):
        return _of_several_quantiles(truth, outputs, weights, quantile)
    if quantile is not None:
        return _of_quantiles(truth, outputs, weights, quantile)
    if has_deviation:
        return _of_distributions(truth, outputs, weights)
    return _of_numbers(truth, outputs, weights)


def _of_several(targets: Targets, outputs: np.ndarray, y: Any, **options: Any) -> dict[str, Any]:
    """The scores of each target, by its name; for labels also the share of rows whose labels are
    all right."""
    scores: dict[str, Any] = {}
    if targets.task == "labels":
        right = is_second(outputs, options["threshold"]) == (targets.encode(y) > 0.5)
        all_right = np.average(right.all(axis=1), weights=options["weights"])
        scores["accuracy of all"] = float(all_right)
    numbers = zip(targets.columns, np.moveaxis(outputs, 1, 0), strict=True)
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


def _of_several_quantiles(
    truth: np.ndarray, A: np.ndarray, weights: np.ndarray | None, levels: tuple[float, ...]
) -> dict[str, Any]:
    terms = estimate_scores.of_quantiles(truth, A, levels)
    constant = np.tile(np.quantile(truth, levels), (len(truth), 1))
    always = estimate_scores.of_quantiles(truth, constant, levels)["pinball loss"]
    terms[f"pinball loss{ALWAYS}the quantiles"] = always
    return {name: float(np.average(term, weights=weights)) for name, term in terms.items()}


def _of_distributions(
    truth: np.ndarray, A: np.ndarray, weights: np.ndarray | None
) -> dict[str, Any]:
    scores = _of_numbers(truth, A[:, 0], weights)
    for name, term in estimate_scores.of_normal(truth, A).items():
        scores[name] = float(np.average(term, weights=weights))
    variance = np.average((truth - np.average(truth, weights=weights)) ** 2, weights=weights)
    if variance > 0:
        always = estimate_scores.of_always_the_same_normal(float(variance))
        scores[f"negative log likelihood{ALWAYS}{NORMAL}"] = always
    return scores


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
