"""Validation data, given by the user or held out, and the validation curves."""

from typing import Any, NamedTuple

import numpy as np

# First, since it says what to install where scikit-learn is missing.
from nnaccel.estimators.array_input import check_X_y, on_host

# isort: split
from sklearn import config_context
from sklearn.base import is_classifier
from sklearn.metrics import get_scorer
from sklearn.model_selection import train_test_split

from nnaccel.devices.device import to_host
from nnaccel.estimators.example_weights import check_weights
from nnaccel.estimators.fit_plan import Examples, FitPlan
from nnaccel.training.data import Data, HostData
from nnaccel.training.prediction import outputs


class HeldOut(NamedTuple):
    """Validation data: as they live for the loss, and on the host what scores are computed of."""

    data: Data | HostData
    X: Any  # None where no scorer reads it
    codes: np.ndarray
    weights: np.ndarray | None


def held_out_of(estimator: Any, plan: FitPlan, validation_data: Any) -> HeldOut | None:
    """The user's validation data, checked and put on the device."""
    if validation_data is None:
        return None
    if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        raise ValueError(
            "validation_data must be (X, y) or (X, y, sample_weight), got "
            f"{type(validation_data).__name__} instead of such a tuple"
        )
    X, y, *weights = validation_data
    try:
        X, y = check_X_y(estimator, X, y, reset=False)
        sample_weight = check_weights(weights[0] if weights else None, X)
        codes = estimator._encode(y)
    except ValueError as error:
        raise ValueError(f"validation_data: {error}") from None
    return hold_out(estimator, plan, Examples(X, codes, sample_weight))


def set_aside(
    estimator: Any, plan: FitPlan, examples: Examples, rng: Any
) -> tuple[Examples, HeldOut]:
    """The training and the validation examples, split as by scikit-learn."""
    codes = examples.codes
    is_binary = is_classifier(estimator) and estimator.n_outputs_ == 1
    rows, held_rows = train_test_split(
        np.arange(codes.shape[0]),
        random_state=rng,
        test_size=estimator.validation_fraction,
        # This is scikit-learn's error message for a class of one row.
        stratify=np.array(["False", "True"])[codes] if is_binary else None,
    )
    if len(held_rows) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of "
            "your dataset."
        )
    held_out = hold_out(estimator, plan, examples.rows(np.asarray(held_rows)))
    return examples.rows(np.asarray(rows)), held_out


def hold_out(estimator: Any, plan: FitPlan, examples: Examples) -> HeldOut:
    """The validation examples, put on the device."""
    X, codes, weights = examples
    data = plan.put(X, estimator._targets(codes), weights)
    weights = None if weights is None else weights.values
    return HeldOut(data, on_host(X) if has_scorer(estimator) else None, codes, weights)


def has_scorer(estimator: Any) -> bool:
    """Whether early stopping goes by a scorer, which is given the estimator and X."""
    return estimator.early_stopping and estimator.scoring not in (None, "loss")


def validate(estimator: Any, plan: FitPlan, held_out: HeldOut, *, score: bool = False) -> None:
    """Append to the validation curves, from one forward propagation."""
    network, loss, where = plan.network, plan.loss, plan.where
    data, xp = held_out.data, where.xp
    Z = outputs(network, estimator._tree(network, where), data.X, where)
    with np.errstate(all="ignore"):
        Y, weights = (None if x is None else where.asarray(x) for x in data[1:])
        value = loss.function(Z, Y, weights, xp=xp, **dict(loss.options))[0]
    if not hasattr(estimator, "validation_loss_curve_"):
        estimator.validation_loss_curve_ = []
    estimator.validation_loss_curve_.append(float(to_host(value)))
    if not score:
        return
    with config_context(array_api_dispatch=False), np.errstate(all="ignore"):
        if estimator.scoring == "loss":
            found = -estimator.validation_loss_curve_[-1]
        elif estimator.scoring is None:
            found = _own_score(estimator, held_out, to_host(estimator._decode(Z, xp=xp)))
        else:
            found = _score(estimator, held_out) if np.isfinite(to_host(Z)).all() else np.nan
    estimator.validation_scores_.append(found)
    if estimator.verbose:
        print(f"Validation score: {estimator.validation_scores_[-1]:f}")


def _own_score(estimator: Any, held_out: HeldOut, predicted: np.ndarray) -> float:
    """What `score` of the estimator would be; NaN of numbers that are not finite."""
    if predicted.dtype.kind == "f" and not np.isfinite(predicted).all():
        return np.nan
    return float(estimator._score(held_out.codes, predicted, held_out.weights))


def _score(estimator: Any, held_out: HeldOut) -> float:
    """What the scorer of the parameter `scoring` gives."""
    y, weights = estimator._labels(held_out.codes), held_out.weights
    options = {} if weights is None else {"sample_weight": weights}
    scorer = get_scorer(estimator.scoring)
    return float(scorer(_without_names(estimator), held_out.X, y, **options))


def _without_names(estimator: Any) -> Any:
    """The estimator as it is now, but that it does not know the names of features, which the arrays
    that it was fitted on have no longer."""
    twin = object.__new__(type(estimator))
    vars(twin).update({n: v for n, v in vars(estimator).items() if n != "feature_names_in_"})
    return twin
