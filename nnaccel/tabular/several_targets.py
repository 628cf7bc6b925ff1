"""Several targets at once: several numbers, or several labels with two classes each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnaccel import schema
from nnaccel.tabular.tables import as_table
from nnaccel.tabular.targets import Target, fit_target
from nnaccel.typing import Array, Namespace


@dataclass(frozen=True)
class Targets:
    """Several target columns: all are numbers, or all have two classes.

    It has the methods of a `Target`, where y is a table of the columns and Y is (N, K).
    """

    columns: tuple[Target, ...]

    @property
    def task(self) -> str:
        """ "regression", or "labels" if each target has two classes."""
        return "labels" if self.columns[0].classes else "regression"

    @property
    def name(self) -> str:
        """The names of the columns as a list in words."""
        return ", ".join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(target.name for target in self.columns)

    @property
    def classes(self) -> tuple[Any, ...]:
        """None, since each target has its own classes."""
        return ()

    def n_outputs(self, loss_kind: str) -> int:
        """The outputs of a network for these targets."""
        return len(self.columns)

    def parse(self, values: Any) -> Any:
        """The table with its columns of text converted to the types of the targets."""
        table = as_table(values)
        for target in self.columns:
            i = table.column_names.index(target.name)
            table = table.set_column(i, target.name, target.parse(table[target.name]))
        return table

    def encode(self, values: Any) -> np.ndarray:
        """The targets of the loss (N, K): standardised numbers, or 0 and 1."""
        table = as_table(values)
        return np.stack([t.encode(table[t.name]) for t in self.columns], axis=1).astype(np.float64)

    def outputs(self, A: Array, *, xp: Namespace = np) -> Array:
        """Predictions A (N, K) of the network as numbers in their units, or P(second class)."""
        if self.task == "labels":
            return A
        return xp.stack([t.in_units(A[:, k]) for k, t in enumerate(self.columns)], axis=1)

    def predicted(
        self, outputs: np.ndarray, threshold: float | None = None
    ) -> dict[str, np.ndarray]:
        """The predicted columns (N,) by name, from `outputs`.

        threshold: the probability from which a label is its second class; None: one half.
        """
        self.check_threshold(threshold)
        if self.task == "regression":
            return {t.name: outputs[:, k] for k, t in enumerate(self.columns)}
        second = is_second(outputs, threshold).astype(int)
        return {t.name: t.decode(second[:, k]) for k, t in enumerate(self.columns)}

    def check_threshold(self, threshold: float | None) -> None:
        """Raises ValueError for a threshold that is no share, or if the targets are numbers."""
        for target in self.columns:
            target.check_threshold(threshold)

    def to_dict(self) -> dict[str, Any]:
        """The targets as data for JSON."""
        return {"columns": [target.to_dict() for target in self.columns]}

    @classmethod
    def from_dict(cls, data: Any) -> "Targets":
        """The targets that `to_dict` returned, after a check of every key and value."""
        schema.check(data, {"columns": schema.RECORDS}, "targets")
        columns = tuple(map(Target.from_dict, data["columns"]))
        names = [target.name for target in columns]
        if len(columns) < 2 or len({*names}) < len(names):
            raise ValueError(f"targets: 'columns' must be two or more different ones, got {names}")
        return together(columns)


def is_second(outputs: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """Whether each label (N, K) is predicted as its second class, from the class's probability."""
    return outputs >= (0.5 if threshold is None else threshold)


def columns_of(target: Target | Targets) -> tuple[Target, ...]:
    """The target of each column."""
    return target.columns if isinstance(target, Targets) else (target,)


def probabilities(
    target: Target | Targets, outputs: Array, *, xp: Namespace = np
) -> Iterator[tuple[Target, Array]]:
    """The target of each column with the probability of its classes (N, K), from `outputs`."""
    if isinstance(target, Target):
        yield target, outputs
        return
    for k, one in enumerate(target.columns):
        yield one, xp.stack([1 - outputs[:, k], outputs[:, k]], axis=1)


def target_of(data: Any) -> Target | Targets:
    """The target, or several targets, that `to_dict` returned. Raises ValueError for other data."""
    several = type(data) is dict and "columns" in data
    return Targets.from_dict(data) if several else Target.from_dict(data)


def fit_targets(table: Any, task: str = "auto") -> Targets:
    """Decide how the columns of a table are encoded together; see `fit_target`.

    Raises ValueError unless all are numbers or all have two classes.
    """
    return together(
        tuple(fit_target(table[name], task, name) for name in as_table(table).column_names)
    )


def together(columns: Sequence[Target]) -> Targets:
    """The targets as one. Raises ValueError unless all are numbers or all have two classes."""
    kinds = {target.name: _kind(target) for target in columns}
    if len({*kinds.values()}) > 1 or not {*kinds.values()} <= {"numbers", "two classes"}:
        found = ", ".join(f"{name!r} ({kind})" for name, kind in kinds.items())
        raise ValueError(
            "several targets must all be numbers, or all have two classes, got "
            f"{found}; train a model for each, or set --task"
        )
    return Targets(tuple(columns))


def _kind(target: Target) -> str:
    if target.task == "regression":
        return "numbers"
    return "two classes" if len(target.classes) == 2 else f"{len(target.classes)} classes"
