"""The estimates of a numeric target: one value, quantiles, or mean and standard deviation.

In a table these are columns named after the target: `y`; or `y_q0.1`, `y_q0.5`, `y_q0.9`; or `y`
and `y_std`.
"""

from collections.abc import Iterator

import numpy as np

from nnaccel.maths.losses import Loss
from nnaccel.maths.uncertainty import blocks_of, mean_and_variance
from nnaccel.tabular.several_targets import Targets, columns_of
from nnaccel.tabular.targets import Target
from nnaccel.typing import Array, Namespace


def has_deviation(loss: Loss) -> bool:
    """Whether a loss estimates a mean and a variance; a table has the standard deviation."""
    return loss.link is mean_and_variance


def check_estimates(loss: Loss) -> None:
    """Raise ValueError for a loss whose outputs cannot be columns of a table."""
    if loss.n_outputs > 1 and not loss.levels and not has_deviation(loss):
        raise ValueError(
            f"loss {loss.name!r} has {loss.n_outputs} outputs for each target, and a table has "
            "columns for quantiles, and for a mean with its variance, alone; use nnaccel.train"
        )


def check_names(target: Target | Targets, loss: Loss) -> None:
    """Raise ValueError if two columns of predictions would have the same name."""
    names = [name for one in target.names for name in names_of(one, loss)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"two columns of predictions would be called {twice[0]!r}, as a target is; rename it"
        )


def names_of(name: str, loss: Loss) -> list[str]:
    """The column names of a target: `y`, or one for each estimate."""
    if has_deviation(loss):
        return [name, f"{name}_std"]
    return [f"{name}_{quantile_name(q)}" for q in loss.levels] or [name]


def quantile_name(level: float) -> str:
    """The name of a quantile in columns, such as `q0.1`."""
    return f"q{level}"


def outputs_of(target: Target | Targets, loss: Loss, A: Array, *, xp: Namespace = np) -> Array:
    """Convert predictions A (N, n_outputs) of a network to the form of `Model.outputs`.

    Numbers are in units of the target: (N,), or (N, P) with P estimates; with K targets (N, K) or
    (N, K, P). For other targets the result is the probabilities of classes or labels.
    """
    if loss.n_outputs == 1 or target.task != "regression":
        return target.outputs(A, xp=xp)
    blocks, found = blocks_of(A, loss.n_outputs), []
    for k, one in enumerate(columns_of(target)):
        each = [one.in_units(block[:, k]) for block in blocks]
        if has_deviation(loss):
            each[1] = xp.sqrt(blocks[1][:, k]) * one.scale
        found.append(xp.stack(each, axis=1))
    return found[0] if isinstance(target, Target) else xp.stack(found, axis=1)


def points_of(target: Target | Targets, loss: Loss, outputs: np.ndarray) -> np.ndarray:
    """The single number for each target, (..., N) or (..., N, K), from `outputs_of`: the mean, or
    the quantile next to the median. Probabilities are returned unchanged."""
    if loss.n_outputs == 1 or target.task != "regression":
        return outputs
    return loss.points(outputs)[..., 0]


def columns_by_name(
    target: Target | Targets, loss: Loss, outputs: Array
) -> Iterator[tuple[str, Array]]:
    """Each estimate of each target (N,) with its column name.   outputs: from `outputs_of`."""
    known, P = columns_of(target), loss.n_outputs
    names = [name for one in known for name in names_of(one.name, loss)]
    if len(names) == 1:
        yield names[0], outputs
        return
    for i, name in enumerate(names):
        k, p = divmod(i, P)
        part = outputs[:, k] if isinstance(target, Targets) else outputs
        yield name, part[:, p] if P > 1 else part


def predicted(
    target: Target | Targets, loss: Loss, outputs: np.ndarray, threshold: float | None = None
) -> np.ndarray | dict[str, np.ndarray]:
    """The predicted label or number of each row (N,); a dict by column name if there are several
    columns.

    outputs: from `outputs_of`.   threshold: as in `Target.predicted`.
    """
    if loss.n_outputs == 1 or target.task != "regression":
        return target.predicted(outputs, threshold)
    target.check_threshold(threshold)
    return dict(columns_by_name(target, loss, outputs))
