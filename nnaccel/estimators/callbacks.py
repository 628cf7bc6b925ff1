"""Callbacks of a fit: functions that are called after every epoch, and scikit-learn's own
callbacks.

The parameter `callbacks` takes functions of the estimator, whose attributes (`coefs_`,
`loss_curve_`, `validation_scores_`, ...) are those after the epoch. Training stops when one returns
true. If scikit-learn has its callback protocol, `set_callbacks` takes its callbacks too, and each
epoch is a subtask of the task "fit".
"""

from collections.abc import Callable, Sequence
from typing import Any

from nnaccel.estimators.example_weights import Weights

Callback = Callable[[Any], Any]


class Watch:
    """Tells the callbacks of an estimator about the epochs of one fit."""

    def __init__(
        self, estimator: Any, epochs: int, X: Any, y: Any, weights: Weights | None = None
    ) -> None:
        self.estimator = estimator
        self.functions = as_functions(estimator.callbacks)
        self.told: dict[str, Any] = {
            "estimator": estimator,
            "X": X,
            "y": y,
            "metadata": None if weights is None else {"sample_weight": weights.values},
        }
        self.root = self.task = None
        if hasattr(estimator, "_skl_callbacks") or hasattr(estimator, "_parent_callback_ctx"):
            self.root = estimator._init_callback_context(max_subtasks=epochs)
            self.root.call_on_fit_task_begin(**self.told)

    def begin(self) -> None:
        """Announce the start of an epoch."""
        if self.root is not None:
            self.task = self.root.subcontext(task_name="epoch")
            self.task.call_on_fit_task_begin(**self.told)

    def end(self) -> bool:
        """Announce the end of an epoch. Returns whether one of the callbacks wants to stop."""
        wishes = [bool(function(self.estimator)) for function in self.functions]
        if self.task is not None:
            wishes.append(
                self.task.call_on_fit_task_end(**self.told, reconstruction_attributes=self._fitted)
            )
        return any(wishes)

    def close(self) -> None:
        """Announce the end of the fit."""
        if self.root is not None:
            self.root.call_on_fit_task_end(**self.told, reconstruction_attributes=self._fitted)

    def _fitted(self) -> dict[str, Any]:
        """The attributes that a copy of the estimator needs to predict as it does now."""
        attributes = {n: v for n, v in vars(self.estimator).items() if n.endswith("_")}
        # The next epoch may overwrite these.
        attributes["coefs_"] = [W + 0.0 for W in self.estimator.coefs_]
        attributes["intercepts_"] = [b + 0.0 for b in self.estimator.intercepts_]
        return attributes


def as_functions(callbacks: Callback | Sequence[Callback] | None) -> list[Callback]:
    """The parameter `callbacks` as a list. Raises TypeError for objects that cannot be called."""
    functions = [callbacks] if callable(callbacks) else list(callbacks or ())
    for function in functions:
        if not callable(function):
            raise TypeError(
                "callbacks must be functions of the estimator, got "
                f"{type(function).__name__}; scikit-learn's own go to set_callbacks()"
            )
    return functions
