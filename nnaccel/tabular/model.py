"""The model of a table: encoding, network and target in one object, which predicts and is saved.

fit = Fit(read("data.csv", "y"), Settings())
for epoch in fit:
    print(epoch.scores())
fit.model().save("model.safetensors")
"""

import warnings
from collections.abc import Iterator
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnaccel import schema
from nnaccel.devices.device import Device, dtype_name, select, to_host
from nnaccel.files import reason
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network
from nnaccel.tabular import estimates
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.scores import scores_of
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.several_targets import Targets, target_of
from nnaccel.tabular.sources import Rows
from nnaccel.tabular.tables import TableWarning, by_name
from nnaccel.tabular.targets import Target, check_loss, rows_with_target
from nnaccel.training import model_file
from nnaccel.training.prediction import predict
from nnaccel.typing import Array

if TYPE_CHECKING:
    from nnaccel.tabular.importance import Importance

SHOWN = 5  # columns and scores in a summary
HISTORY = ("loss", "metric", "validation_loss", "validation_metric", "validation_score")


class Model(NamedTuple):
    """A trained network with the encoding and the target of its table."""

    network: Network
    params: Array
    loss: Loss
    features: Features
    target: Target | Targets
    history: list[dict[str, float]]  # of each epoch, with names from HISTORY
    settings: dict[str, Any]  # of the training run
    scores: dict[str, float]  # on the test data, if any, and out of fold

    def __repr__(self) -> str:
        """Five lines: the target, the columns, the network, and the scores."""
        return "\n".join(["Model", *(f"  {name}: {text}" for name, text in self._summary())])

    def _repr_html_(self) -> str:
        """The same summary as a table."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(text)}</td></tr>"
            for name, text in self._summary()
        )
        return f"<table>{rows}</table>"

    def _summary(self) -> Iterator[tuple[str, str]]:
        names = ", ".join(map(repr, self.target.names))
        yield "predicts", f"{names} ({self.target.task})"
        used = [column.name for column in (*self.features.numeric, *self.features.categorical)]
        shown = ", ".join(used[:SHOWN]) + ", ..." * (len(used) > SHOWN)
        yield "columns", f"{len(used)}: {shown}"
        several = f"{self.members} times " * (self.members > 1)
        yield "network", f"{several}{self.network!r}, {dtype_name(self.params)}"
        kept = {name: self.settings.get(name) for name in ("optimizer", "batch_size", "seed")}
        how = ", ".join(f"{name} {value}" for name, value in kept.items() if value is not None)
        yield "training", ", ".join([f"{len(self.history)} epochs", *filter(None, [how])])
        scores = [*self.scores.items()][:SHOWN]
        yield "scores", ", ".join(f"{name} {v:.4g}" for name, v in scores) or "none"

    def outputs(self, data: Any, device: Device | None = None) -> np.ndarray:
        """What the network says of each row: probabilities (N, K), or numbers (N,) in the
        target's own units; of several targets (N, K), numbers or the probability of the second
        class. Numbers with P quantiles, or with mean and standard deviation, have one more axis,
        (N, P) or (N, K, P). Raises ValueError for a table that does not fit."""
        return self.outputs_of(self.features.transform(data, dtype_name(self.params)), device)

    def outputs_of(self, X: np.ndarray, device: Device | None = None) -> np.ndarray:
        """`outputs` for encoded rows X (N, D)."""
        A = self._each(X, device)
        return self._in_units(A if A.ndim == 2 else self.loss.pool(A, xp=np), X)

    def spread(self, data: Any, device: Device | None = None) -> np.ndarray:
        """How far the networks of the model differ on each row, as a standard deviation: (N,), of
        their numbers in the target's units, or of the probability of the predicted class; of
        several numbers for a row, each, as `outputs` has them. ValueError for a model of one
        network."""
        return self.outputs_and_spread(data, device)[1]

    def outputs_and_spread(
        self, data: Any, device: Device | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`outputs` and `spread`, with the table encoded once."""
        X = self.features.transform(data, dtype_name(self.params))
        return self.outputs_and_spread_of(X, device)

    def outputs_and_spread_of(
        self, X: np.ndarray, device: Device | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for rows that are encoded already, X (N, D)."""
        if self.members == 1:
            raise ValueError(
                "the model is one network, which has no spread; train it with members above 1"
            )
        A = self._each(X, device)
        outputs = self._in_units(self.loss.pool(A, xp=np), X)
        spread = np.std([self._in_units(own, X) for own in A], axis=0, ddof=1)
        if self.target.task == "classification":
            spread = spread[np.arange(len(X)), outputs.argmax(axis=1)]
        return outputs, spread

    @property
    def members(self) -> int:
        """The number of networks, whose mean the model predicts."""
        return self.params.shape[0] if self.params.ndim == 2 else 1

    def _each(self, X: np.ndarray, device: Device | None) -> np.ndarray:
        """The predictions of the network (N, n_outputs), or of each of K networks (K, N,
        n_outputs)."""
        params = self.params if device is None else device.asarray(self.params)
        return to_host(predict(self.network, params, X, loss=self.loss)).astype(np.float64)

    def _in_units(self, A: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Predictions (N, n_outputs) in the units of the target. Raises ValueError unless they are
        finite."""
        finite = np.isfinite(A).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{np.count_nonzero(~finite):,} of {len(X):,} rows give no finite prediction, the "
                f"first is row {np.argmin(finite)} (from 0): their values are far outside the "
                "range of the training rows; correct or remove them"
            )
        return estimates.outputs_of(self.target, self.loss, A)

    def predict(
        self, data: Any, device: Device | None = None, *, threshold: float | None = None
    ) -> Any:
        """The predicted label, or number, of each row (N,); for several targets a dict of these by
        name. So are several quantiles, `y_q0.1`, and a mean with its standard deviation, `y` and
        `y_std`: the columns that `nnaccel predict` writes.

        threshold: the probability from which the second of two classes is predicted; None: the more
        probable one.
        """
        outputs = self.outputs(data, device)
        return estimates.predicted(self.target, self.loss, outputs, threshold)

    def evaluate(
        self,
        data: Any,
        y: Any,
        device: Device | None = None,
        *,
        weights: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> dict[str, Any]:
        """Scores on labelled rows; see `scores_of`."""
        self.target.check_threshold(threshold)
        options = {"weights": weights, "threshold": threshold, **scoring_of(self.loss)}
        return scores_of(self.target, self.outputs(data, device), y, **options)

    def to(self, device: str | Device) -> "Model":
        """The same model with its parameters on a device, where it computes predictions."""
        where = select(device)
        with where.context():
            return self._replace(params=where.asarray(self.params))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to one safe file; see `nnaccel.training.model_file.save`."""
        extra = {
            "features": self.features.to_dict(),
            "target": self.target.to_dict(),
            "history": self.history,
            "settings": self.settings,
            "scores": self.scores,
        }
        model_file.save(path, self.network, self.params, loss=self.loss, extra=extra)

    def importance(self, data: Any, y: Any, **options: Any) -> "Importance":
        """How much the score falls when a column is shuffled, for each column; options and errors
        are those of `importance.permutation_importance`."""
        from nnaccel.tabular.importance import permutation_importance

        return permutation_importance(self, data, y, **options)

    def to_onnx(self) -> Any:
        """The encoding and the network as one `onnx.ModelProto`; see `export.onnx.table_model`."""
        from nnaccel.export.onnx import table_model

        return table_model(self)

    def export(self, path: str | PathLike[str], format: str | None = None) -> None:
        """Write the model as a file that runs without nnaccel; see `export.formats`.

        format: "onnx", "numpy" or "torch"; None: as the suffix says, .onnx, .py or .pt.
        """
        from nnaccel.export.formats import export

        export(self, path, format)

    def inputs(self, data: Any) -> dict[str, np.ndarray]:
        """The inputs of an exported file for a table: each column as float64 (N,), NaN where
        missing, or as text (N,), see `export.columns`. Raises ValueError for a table that does not
        fit."""
        from nnaccel.export.columns import inputs_of

        return inputs_of(self.features, data)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Model":
        """Read a model file. Raises OSError, MemoryError, or ValueError that says what is wrong
        with the file.

        All its parts are checked, also against each other, so the loaded model can predict.
        """
        saved = model_file.load(path)
        if "estimator" in saved.extra:
            raise ValueError(
                f"{path}: not a model of a table: it holds an estimator; read it in Python, with "
                "nnaccel.MLPClassifier.load or MLPRegressor.load, or give it to nnaccel export or "
                "explain"
            )
        try:
            if saved.vectors:
                raise ValueError("it holds more vectors than the parameters")
            extra = schema.check(saved.extra, EXTRA, "model")
            features = Features.from_dict(extra["features"])
            target = target_of(extra["target"])
            _check_agreement(saved, features, target)
        except ValueError as error:
            raise ValueError(f"{path}: not a model of a table: {reason(error)}") from None
        return cls(
            saved.network,
            saved.params,
            saved.loss,
            features,
            target,
            extra["history"],
            extra["settings"],
            extra["scores"],
        )


def _check_agreement(
    saved: model_file.ModelFile, features: Features, target: Target | Targets
) -> None:
    """Raises ValueError where the network, its loss, the encoding and the target do not fit
    together."""
    network = saved.network
    if network.n_inputs != len(features.names):
        raise ValueError(
            f"the network has {network.n_inputs} inputs and the table's encoding "
            f"{len(features.names)} columns"
        )
    check_loss(saved.loss.name, 2 if target.task == "labels" else len(target.classes))
    estimates.check_estimates(saved.loss)
    n = target.n_outputs(saved.loss.targets.kind) * saved.loss.n_outputs
    if network.n_outputs != n:
        raise ValueError(f"the network has {network.n_outputs} outputs and its target needs {n}")


def _numbers(value: Any) -> bool:
    return all(schema.TEXT.holds(k) and schema.FINITE.holds(v) for k, v in value.items())


def _is_history(value: Any) -> bool:
    return schema.list_of(dict, value) and all(
        _numbers(epoch) and {*epoch} == {*value[0]} <= {*HISTORY} for epoch in value
    )


def _are_settings(value: Any) -> bool:
    try:
        Settings(**value)
    except (TypeError, ValueError):
        return False
    return True


EXTRA = {
    "features": schema.OBJECT,
    "target": schema.OBJECT,
    "history": schema.Field(f"a list of objects of {', '.join(HISTORY)}", _is_history),
    "settings": schema.Field("an object of settings", _are_settings),
    "scores": schema.Field(
        "an object of numbers",
        lambda v: type(v) is dict and _numbers(v) and "confusion matrix" not in v,
    ),
}


def scoring_of(loss: Loss) -> dict[str, Any]:
    """The arguments of `scores_of` that a loss decides: the quantile of "pinball", or several, and
    whether there is a standard deviation."""
    if estimates.has_deviation(loss):
        return {"has_deviation": True}
    if loss.name != "pinball":
        return {}
    return {"quantile": dict(loss.options).get("quantile", 0.5)}


def labelled(rows: Rows, name: str) -> Rows:
    """The rows that have a target; the others are left out with a warning."""
    present = np.all([rows_with_target(y, n) for n, y in by_name(rows.y, name).items()], axis=0)
    if present.all() or not present.any():  # without any, the fit of the target raises the error
        return rows
    warnings.warn(
        f"{np.count_nonzero(~present):,} rows without a {name!r} are left out",
        TableWarning,
        stacklevel=4,
    )
    return rows.take(np.flatnonzero(present))
