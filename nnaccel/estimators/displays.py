"""The loss curves of a fitted network, as a display object like scikit-learn's."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from nnaccel.tabular.tables import import_extra


class LossCurveDisplay:
    """The loss of each epoch, in training and on validation data.

    `from_estimator` creates a display from a fitted estimator, `LossCurveDisplay(loss)` from any
    numbers. Needs matplotlib (`pip install 'nnaccel[plot]'`).

    Parameters
    ----------
    loss : array-like of shape (n_epochs,)
        The training loss of each epoch.
    validation_loss : array-like of shape (n_epochs,), optional
        The validation loss of each epoch.
    name : str, optional
        The name of the network in the legend.

    Attributes
    ----------
    best_epoch_ : int or None
        The epoch with the lowest validation loss, counted from 1; None without validation loss.
    ax_ : matplotlib Axes
        Axes with the curves.
    figure_ : matplotlib Figure
        The figure that contains the axes.
    loss_line_, validation_line_, best_line_ : matplotlib Line2D
        The two curves, and the point of the best epoch; the last two are None without validation
        loss.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from nnaccel import LossCurveDisplay, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(max_iter=1000, random_state=0)
    >>> clf = clf.fit(X[::2], y[::2], validation_data=(X[1::2], y[1::2]))
    >>> display = LossCurveDisplay.from_estimator(clf)
    """

    def __init__(self, loss: Any, validation_loss: Any = None, *, name: str | None = None) -> None:
        self.loss = _curve("loss", loss)
        self.validation_loss = None
        if validation_loss is not None:
            self.validation_loss = _curve("validation_loss", validation_loss)
            if len(self.validation_loss) != len(self.loss):
                raise ValueError(
                    f"validation_loss must have a number for each of the {len(self.loss)} epochs "
                    f"of loss, got {len(self.validation_loss)}"
                )
        self.name = name
        self.best_epoch_ = _lowest(self.validation_loss)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: Any = None,
        name: str | None = None,
        log_scale: bool = False,
        loss_kw: Mapping[str, Any] | None = None,
        validation_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the loss curves of a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator
            `MLPClassifier`, `MLPRegressor`, `TableClassifier` or `TableRegressor`, scikit-learn's
            networks, or a pipeline or a search that ends with one of them. For a table's model
            with several members the curves are means over the members.
        ax : matplotlib Axes, optional
            The axes for the curves; None is a new figure.
        name : str, optional
            The name of the network in the legend; None is the name of its class.
        log_scale : bool, default=False
            Whether the axis of the loss is logarithmic.
        loss_kw, validation_kw : dict, optional
            Keyword arguments of matplotlib's `plot` for the training and the validation curve.

        Returns
        -------
        display : LossCurveDisplay

        Raises ValueError for an estimator without a loss curve, such as one fitted by L-BFGS.
        """
        network = _network_of(estimator)
        loss, validation_loss = _curves_of(network)
        display = cls(loss, validation_loss, name=name or type(network).__name__)
        return display.plot(ax, log_scale=log_scale, loss_kw=loss_kw, validation_kw=validation_kw)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        log_scale: bool = False,
        loss_kw: Mapping[str, Any] | None = None,
        validation_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the curves; parameters as in `from_estimator`.

        Returns
        -------
        self : LossCurveDisplay
        """
        if ax is None:
            _, ax = import_extra("matplotlib.pyplot").subplots()
        name = self.name if name is None else name
        of = f"{name}: " if name else ""
        epochs = np.arange(1, len(self.loss) + 1)
        # A line through one point is invisible.
        marker = "." if len(epochs) == 1 else None
        style = {"label": f"{of}training", "marker": marker, **(loss_kw or {})}
        [self.loss_line_] = ax.plot(epochs, self.loss, **style)
        self.validation_line_ = self.best_line_ = None
        if self.validation_loss is not None:
            style = {"label": f"{of}validation", "linestyle": "--", **(validation_kw or {})}
            [self.validation_line_] = ax.plot(epochs, self.validation_loss, **style)
        if self.best_epoch_ is not None:
            [self.best_line_] = ax.plot(
                self.best_epoch_,
                self.validation_loss[self.best_epoch_ - 1],  # pyright: ignore
                "o",
                color=self.validation_line_.get_color(),  # pyright: ignore
                label=f"{of}lowest, epoch {self.best_epoch_}",
            )
        ax.set(xlabel="Epoch", ylabel="Loss", yscale="log" if log_scale else "linear")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _curve(name: str, values: Any) -> np.ndarray:
    """The values of a curve as an array (n_epochs,)."""
    curve = np.asarray(values, dtype=float)
    if curve.ndim != 1 or not curve.size:
        raise ValueError(
            f"{name} must have a number for each epoch, (n_epochs,), got shape {curve.shape}"
        )
    return curve


def _lowest(curve: np.ndarray | None) -> int | None:
    """The number of the epoch with the lowest loss, from 1."""
    if curve is None or np.isnan(curve).all():
        return None
    return int(np.nanargmin(curve)) + 1


def _network_of(estimator: Any) -> Any:
    """The estimator at the end of a pipeline, or the best one of a search."""
    while hasattr(estimator, "best_estimator_") or hasattr(estimator, "steps"):
        best = getattr(estimator, "best_estimator_", None)
        estimator = best if best is not None else estimator.steps[-1][1]
    return estimator


def _curves_of(network: Any) -> tuple[Sequence[float], Sequence[float] | None]:
    """The training and the validation loss of each epoch."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(network)
    if hasattr(network, "model_"):
        history = network.model_.history
        validated = "validation_loss" in history[0] if history else False
        return (
            [epoch["loss"] for epoch in history],
            [epoch["validation_loss"] for epoch in history] if validated else None,
        )
    if not hasattr(network, "loss_curve_"):
        solver = getattr(network, "solver", None)
        why = f" fitted by solver={solver!r}" if solver else ""
        raise ValueError(
            f"{type(network).__name__}{why} has no loss curve; use a network with a stochastic "
            "solver such as 'adam', or LossCurveDisplay(loss) with numbers of your own"
        )
    return network.loss_curve_, getattr(network, "validation_loss_curve_", None)
