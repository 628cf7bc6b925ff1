"""How much each example counts: weights of mean 1, and the divisor that made them so.

The loss does not depend on the scale of the weights. The penalty does: as in scikit-learn, `alpha`
is divided by the sum of the given weights.
"""

from typing import Any, NamedTuple

import numpy as np

# First, since it says what to install where scikit-learn is missing.
from nnaccel.estimators.array_input import check_kind, on_host

# isort: split
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import _check_sample_weight

from nnaccel.training.data import mean_one


class Weights(NamedTuple):
    """Weights of examples on the host."""

    values: np.ndarray  # (N,) float64, of mean 1
    scale: float  # values times scale are the given weights

    @classmethod
    def of(cls, given: np.ndarray) -> "Weights":
        """The weights (N,), finite, not negative and not all zero, however large or small."""
        return cls(*mean_one(given))

    def times(self, other: "Weights") -> "Weights":
        """The product of these weights and `other`, example by example."""
        values, scale = Weights.of(self.values * other.values)
        return Weights(values, scale * self.scale * other.scale)

    def rows(self, numbers: np.ndarray) -> "Weights":
        """The weights of the examples with those numbers."""
        return Weights(self.values[numbers], self.scale)

    def mean(self) -> float:
        """The mean of the given weights."""
        return self.scale * float(self.values.mean())


def check_weights(sample_weight: Any, X: Any) -> Weights | None:
    """Sample weights as scikit-learn validates them."""
    if sample_weight is None:
        return None
    check_kind("sample_weight", sample_weight)
    rows = np.zeros((X.shape[0], 1))
    weights = _check_sample_weight(on_host(sample_weight), rows, ensure_non_negative=True)
    if not weights.any():
        raise ValueError("sample_weight must not be all zero; no example would count")
    return Weights.of(weights.astype(np.float64))


def weights_of_classes(class_weight: Any, y: Any) -> Weights:
    """The weights of examples with the targets y, by their classes."""
    if isinstance(class_weight, dict):
        for label, weight in class_weight.items():
            if not 0.0 <= weight < np.inf:
                raise ValueError(
                    f"class_weight must be finite and not negative, got {weight!r} for the class "
                    f"{label!r}"
                )
    weights = compute_sample_weight(class_weight, y)
    if not weights.any():
        raise ValueError("class_weight must not be zero for all classes in y; none would count")
    return Weights.of(weights)


def penalty(alpha: float, examples: int, mean_weight: float, dtype: str) -> float:
    """alpha divided by the sum of the weights, `examples` times `mean_weight`.

    Raises ValueError if the square of the penalty is no finite number of the dtype, since nothing
    could be learned.
    """
    if not alpha:
        return 0.0
    with np.errstate(all="ignore"):
        l2 = float(np.float64(alpha) / (examples * np.float64(mean_weight)))
    if l2 >= float(np.finfo(dtype).max) ** 0.5:
        raise ValueError(
            f"alpha={alpha:g} over the sum of the weights of {examples} examples, of mean "
            f"{mean_weight:g}, is a penalty of {l2:g}, too large for {dtype}; bring the weights to "
            "mean 1, or set alpha=0"
        )
    return l2
