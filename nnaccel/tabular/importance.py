"""Explains a model by the columns of a table: permutation importance and partial dependence."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnaccel.arguments import at_least, did_you_mean, find
from nnaccel.devices.device import Device, dtype_name
from nnaccel.export.columns import inputs_of, kinds_of
from nnaccel.tabular import estimates
from nnaccel.tabular.estimates import points_of
from nnaccel.tabular.several_targets import columns_of, is_second
from nnaccel.tabular.swaps import Swaps
from nnaccel.tabular.tables import import_extra, listing

if TYPE_CHECKING:
    from nnaccel.tabular.model import Model

GRID = 20  # values of a column of numbers at which predictions are averaged
LEVELS = 30  # likewise of a column of categories


class Importance(NamedTuple):
    """Permutation importance: how much worse the score is once a column is shuffled.

    columns: those that the model uses.   score: its name.   baseline: the score of the unshuffled
    rows.   values: (n_columns, repeats), above 0 where shuffling makes the score worse.
    """

    columns: tuple[str, ...]
    score: str
    baseline: float
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The importance of each column (n_columns,)."""
        return self.values.mean(axis=1)

    @property
    def std(self) -> np.ndarray:
        """Its standard deviation over the repeats (n_columns,)."""
        return self.values.std(axis=1)

    @property
    def ranking(self) -> np.ndarray:
        """The columns by importance, the largest first (n_columns,)."""
        return np.argsort(-self.mean, kind="stable")


def permutation_importance(
    model: "Model",
    data: Any,
    y: Any,
    *,
    score: str | None = None,
    repeats: int = 5,
    seed: int = 0,
    weights: np.ndarray | None = None,
    device: Device | None = None,
) -> Importance:
    """How much a score gets worse when the values of one column are shuffled among the rows.

    y: the target of the rows, as for `Model.evaluate`.   score: one of `SCORES`; None: the score of
    scikit-learn's estimators, accuracy or R², and the pinball loss for a model with that loss.
    seed: below 2^32.   weights: (N,), how much each row counts.

    The shuffles are those of scikit-learn's `permutation_importance` with the same `random_state`,
    so it finds the same values for the same model.
    Raises ValueError for a table, targets or a score that do not fit the model. Source:
    Breiman (2001), Machine Learning 45, section 10.
    """
    at_least(1, repeats=repeats)
    score_of(model, score)  # what is wrong with it is said before the table is read
    Y = model.target.encode(y)
    X = model.features.transform(data, dtype_name(model.params))
    if len(Y) != len(X):
        raise ValueError(f"y must have a value for each of the {len(X):,} rows, got {len(Y):,}")
    how = {"score": score, "repeats": repeats, "seed": seed, "weights": weights, "device": device}
    return importance_of_encoded(model, X, Y, **how)


def importance_of_encoded(
    model: "Model",
    X: np.ndarray,
    Y: np.ndarray,
    *,
    score: str | None = None,
    repeats: int = 5,
    seed: int = 0,
    weights: np.ndarray | None = None,
    device: Device | None = None,
) -> Importance:
    """`permutation_importance` of rows that are encoded already: X (N, D), and their targets Y (N,)
    or (N, K) as `Target.encode` gives them."""
    chosen, truth, N = score_of(model, score), Y, len(X)
    if model.target.task == "regression":
        truth = model.target.outputs(Y.reshape(N, -1))
    swaps = Swaps(model, X, device)
    w = np.ones(N) if weights is None else np.asarray(weights, dtype=np.float64)
    [(_, outputs)] = swaps.outputs(swaps.columns[:1], np.arange(N)[None])
    [baseline] = chosen.values(truth, outputs, w)
    sign = 1.0 if chosen.greater_is_better else -1.0
    found = [
        sign * (baseline - chosen.values(truth, outputs, w))
        for _, outputs in swaps.outputs(swaps.columns, shuffles(N, repeats, seed))
    ]
    return Importance(tuple(swaps.columns), chosen.title, float(baseline), np.stack(found))


def shuffles(N: int, repeats: int, seed: int) -> np.ndarray:
    """For each shuffle and row, the row whose value it gets, (repeats, N).

    As in scikit-learn, every column has the same shuffles, and each one shuffles the result of the
    one before.
    """
    state = np.random.RandomState(np.random.RandomState(seed).randint(2**31))
    order, rows, found = np.arange(N), np.arange(N), []
    for _ in range(repeats):
        state.shuffle(order)
        rows = rows[order]
        found.append(rows)
    return np.stack(found)


# ---------------------------------------------------------------------------- scores


class Score(NamedTuple):
    """A score of predictions: `values(truth, outputs, weights) -> (S,)`, one value for each of S
    swaps.

    truth: class numbers (N,), labels (N, K) of 0 and 1, or numbers (N,) or (N, K).   outputs: those
    of `Model.outputs`, with a leading axis of swaps.   weights: (N,), how much each row counts.
    """

    values: Callable[..., np.ndarray]
    title: str
    tasks: tuple[str, ...]
    greater_is_better: bool = False


def accuracy(truth: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of rows whose most probable class is right; for labels, of rows whose labels are
    all right."""
    if truth.ndim == 2:
        right = (is_second(outputs) == (truth > 0.5)).all(axis=-1)
    elif outputs.shape[-1] == 2:  # faster than argmax
        right = (outputs[..., 1] > outputs[..., 0]) == truth
    else:
        right = outputs.argmax(axis=-1) == truth
    return _mean(right, weights)


def log_loss(truth: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of -log P of the class of each row, in nats; P counts as 2e-16 at least."""
    P = np.take_along_axis(outputs, truth[None, :, None], axis=-1)[..., 0]
    return _mean(-np.log(np.maximum(P, np.finfo(np.float64).eps)), weights)


def roc_auc(truth: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area under the ROC curve; for several classes the mean of each class against the rest."""
    area = import_extra("sklearn.metrics").roc_auc_score
    outputs = outputs[..., 1] if outputs.shape[-1] == 2 else outputs
    return np.array([area(truth, P, sample_weight=weights, multi_class="ovr") for P in outputs])


def r2(truth: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The explained share of the variance; for several targets the mean.

    Raises ValueError where a target is the same in all rows.
    """
    own = truth[None]
    variance = _mean((own - _mean(own, weights)[:, None]) ** 2, weights)
    if not variance.all():
        raise ValueError("R² needs rows with different targets; choose another score")
    return _over_targets(1.0 - _mean((truth - outputs) ** 2, weights) / variance)


def rmse(truth: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The root of the mean squared error; for several targets the mean."""
    return _over_targets(np.sqrt(_mean((truth - outputs) ** 2, weights)))


def mae(truth: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean absolute error; for several targets the mean."""
    return _over_targets(_mean(np.abs(truth - outputs), weights))


def pinball_loss(
    truth: np.ndarray, outputs: np.ndarray, weights: np.ndarray, *, quantile: Any
) -> np.ndarray:
    """The mean of max(q r, (q - 1) r), r = y - prediction; of several targets, or quantiles q, the
    mean."""
    R = (truth[..., None] if isinstance(quantile, np.ndarray) else truth) - outputs
    return _over_targets(_mean(np.maximum(quantile * R, (quantile - 1) * R), weights))


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean over the rows, (S, N, ...) to (S, ...)."""
    return np.einsum("sn...,n->s...", values, weights) / weights.sum()


def _over_targets(each: np.ndarray) -> np.ndarray:
    return each.reshape(len(each), -1).mean(axis=1)


CLASSES, LABELS, NUMBERS = "classification", "labels", "regression"
SCORES: dict[str, Score] = {
    "accuracy": Score(accuracy, "accuracy", (CLASSES, LABELS), greater_is_better=True),
    "log_loss": Score(log_loss, "log loss", (CLASSES,)),
    "roc_auc": Score(roc_auc, "ROC AUC", (CLASSES,), greater_is_better=True),
    "r2": Score(r2, "R²", (NUMBERS,), greater_is_better=True),
    "rmse": Score(rmse, "RMSE", (NUMBERS,)),
    "mae": Score(mae, "MAE", (NUMBERS,)),
    "pinball_loss": Score(pinball_loss, "pinball loss", (NUMBERS,)),
}


def score_of(model: "Model", name: str | None = None) -> Score:
    """The score of that name, or the default score of such a model.

    Raises ValueError for an unknown name, and for a score that does not apply to the target.
    """
    task = model.target.task
    if name is None:
        name = "accuracy" if task != NUMBERS else "r2"
        name = "pinball_loss" if model.loss.name == "pinball" else name
    score = find("score", name, SCORES)
    if task not in score.tasks:
        fit = ", ".join(known for known, other in SCORES.items() if task in other.tasks)
        raise ValueError(f"score {name!r} is not for {task}; choose one of {fit}")
    if name == "pinball_loss":
        levels = model.loss.levels
        quantile = np.array(levels) if levels else dict(model.loss.options).get("quantile", 0.5)
        return score._replace(values=partial(pinball_loss, quantile=quantile))
    if model.loss.levels:
        return score._replace(values=partial(_of_points, score.values, model))
    return score


def _of_points(
    values: Callable[..., np.ndarray],
    model: "Model",
    truth: np.ndarray,
    outputs: np.ndarray,
    w: Any,
) -> np.ndarray:
    """A score of the single numbers for each target."""
    return values(truth, points_of(model.target, model.loss, outputs), w)


# ---------------------------------------------------------------------------- partial dependence


class Dependence(NamedTuple):
    """Partial dependence: the mean prediction where all rows have one value of a column.

    column, kind: its name and the kind of its reading.   grid: the values, numbers or text, None
    for missing.   mean: (n_values, n_outputs). `of` names the outputs: the target, the second of
    two classes, each of several classes or targets.
    """

    column: str
    kind: str
    grid: list[Any]
    of: tuple[str, ...]
    mean: np.ndarray


def partial_dependence(
    model: "Model", data: Any, columns: Sequence[str], *, device: Device | None = None
) -> list[Dependence]:
    """For each of the columns, the mean prediction over the rows at values that occur in the
    column.

    For numbers these are at most `GRID` (20) quantiles, from 1 % to 99 %; for categories the
    `LEVELS` (30) most frequent ones; and missing, where it occurs. This predicts combinations of
    values that do not occur, so the means say little where columns are correlated. Raises
    ValueError for a table that does not fit, and for columns that the model does not use. Source:
    Friedman (2001), Annals of Statistics 29, section 8.2.
    """
    swaps = Swaps(model, model.features.transform(data, dtype_name(model.params)), device)
    if unknown := [name for name in columns if name not in swaps.columns]:
        raise ValueError(
            f"the model uses no column named {unknown[0]!r}; it uses {listing(swaps.columns)}"
            + did_you_mean(unknown[0], swaps.columns)
        )
    values, kinds = inputs_of(model.features, data), kinds_of(model.features)
    found = []
    for name in columns:
        grid, rows = grid_of(values[name])
        index = np.repeat(rows[:, None], len(swaps.X), axis=1)
        [(_, outputs)] = swaps.outputs([name], index)
        mean = outputs.mean(axis=1).reshape(len(grid), -1)
        of = names_of(model)
        mean = mean[:, 1:] if len(of) < mean.shape[1] else mean
        found.append(Dependence(name, kinds[name], grid, of, mean))
    return found


def names_of(model: "Model") -> tuple[str, ...]:
    """The names of a model's predictions; the second class alone for two classes."""
    target = model.target
    if target.task == LABELS:
        return tuple(f"P({one.name}={one.classes[1]})" for one in columns_of(target))
    classes = target.classes[1:] if len(target.classes) == 2 else target.classes
    if classes:
        return tuple(f"P({label})" for label in classes)
    if not model.loss.levels:
        return target.names
    return tuple(n for name in target.names for n in estimates.names_of(name, model.loss))


def grid_of(values: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Values of a column, None for missing, and for each value the number of a row that has it.

    values: (N,), float64 with NaN or text with "" for missing.
    """
    is_text = values.dtype == object
    gone = values == "" if is_text else np.isnan(values)
    present, first, counts = np.unique(values[~gone], return_index=True, return_counts=True)
    if is_text:
        chosen = np.sort(np.argsort(-counts, kind="stable")[:LEVELS])
    else:
        chosen = np.searchsorted(present, _spread_out(values[~gone], present))
    rows = np.flatnonzero(~gone)[first[chosen]]
    grid = present[chosen].tolist()
    if gone.any():
        return [*grid, None], np.append(rows, np.argmax(gone))
    return grid, rows


def _spread_out(values: np.ndarray, different: np.ndarray) -> np.ndarray:
    """A selection of the numbers: quantiles over the rows, and over the different values where most
    rows have one value."""
    if len(different) <= GRID:
        return different
    places = np.linspace(0.01, 0.99, GRID)
    found = np.unique(np.quantile(values, places, method="nearest"))
    if len(found) > GRID // 2:
        return found
    more = np.quantile(different, np.linspace(0.01, 0.99, GRID // 2), method="nearest")
    return np.unique(np.concatenate([found, more]))
