"""Scores of quantiles, and of means with standard deviations, as terms to average over rows."""

import math

import numpy as np

from nnaccel.tabular.estimates import quantile_name
from nnaccel.tabular.tables import import_extra

SHARES = (0.5, 0.9)  # of the rows that an interval around the mean should contain

Terms = dict[str, np.ndarray]  # score name -> terms (N,), whose mean is the score


def of_quantiles(truth: np.ndarray, A: np.ndarray, levels: tuple[float, ...]) -> Terms:
    """The terms for predicted quantiles A (N, P) of ascending levels.

    They are the pinball loss of each level and the mean of these; the coverage of each quantile,
    whether truth <= quantile; the coverage and the width of each central interval: from the first
    to the last quantile, from the second to the last but one, and further inward.
    """
    q, R = np.array(levels), truth[:, None] - A
    pinball, names = np.maximum(q * R, (q - 1) * R), [*map(quantile_name, levels)]
    found = {"pinball loss": pinball.mean(axis=1)}
    found |= {f"pinball loss of {name}": pinball[:, p] for p, name in enumerate(names)}
    found |= {f"coverage of {name}": R[:, p] <= 0 for p, name in enumerate(names)}
    for low in range(len(names) // 2):
        high = len(names) - 1 - low
        between = f"{names[low]} to {names[high]}"
        found[f"coverage of {between}"] = (R[:, low] >= 0) & (R[:, high] <= 0)
        found[f"width of {between}"] = A[:, high] - A[:, low]
    return found


def of_normal(truth: np.ndarray, A: np.ndarray) -> Terms:
    """The terms for a normal distribution with means and standard deviations A (N, 2).

    They are the negative log likelihood in nats; the continuous ranked probability score (CRPS) in
    the units of the target; the coverage, whether the truth is in the interval around the mean that
    should contain 50 % or 90 % of the rows. Source of CRPS: Gneiting, Raftery (2007), J. Am. Stat.
    Assoc. 102, section 4.2.
    """
    special = import_extra("scipy.special")
    mean, std = A[:, 0], A[:, 1]
    z = (truth - mean) / std
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    crps = std * (z * (2 * special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    found = {"negative log likelihood": 0.5 * (math.log(2 * math.pi) + z * z) + np.log(std)}
    found["CRPS"] = crps
    for share in SHARES:
        found[f"coverage of {share:.0%}"] = np.abs(z) <= special.ndtri(0.5 + share / 2)
    return found


def of_always_the_same_normal(variance: float) -> float:
    """The negative log likelihood, in nats, if each row gets the mean and variance of all rows."""
    return 0.5 * (math.log(2 * math.pi * variance) + 1.0)
