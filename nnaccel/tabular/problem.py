"""The training data of the networks of a table, and their training runs: one configuration of
settings, or several with one architecture together."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.definition import Run
from nnaccel.maths.losses import Loss
from nnaccel.maths.metrics import Metric
from nnaccel.maths.minibatch import n_steps
from nnaccel.tabular.branch import Branch
from nnaccel.tabular.calibration import HeldOut, can_calibrate
from nnaccel.tabular.members import Edges
from nnaccel.tabular.scoring import Scorer, score_of_epoch
from nnaccel.tabular.settings import (
    Settings,
    even_batch,
    loss_for,
    network_for,
    of_networks,
    optimizer_for,
)
from nnaccel.tabular.several_targets import Targets
from nnaccel.tabular.targets import Target
from nnaccel.training.checkpoint import Progress
from nnaccel.training.data import mean_one
from nnaccel.training.loop import train
from nnaccel.training.members import l2_of
from nnaccel.training.step import initialize


def kernels_for(
    run: Run, device: Device, kernels: bool | str, n_rows: int, n_epochs: int
) -> bool | str:
    """`kernels`, or "numpy" if the run is too short to repay the time to load Numba."""
    steps = n_steps(n_rows, run.batch_size, n_epochs)
    repaid = kernels is not True or backend_of(device.xp).repays_loading(run, steps)
    return kernels if repaid else "numpy"


class Problem(NamedTuple):
    """The training and validation data of networks.

    X, Y, weights: the training rows, in memory or on the disk; weights are (members, N) if they
    differ between members.   held: validation rows (X, Y, weights), which select the best epoch, or
    None; if they differ between members, each array has a first axis of the members.   members: the
    number of networks of each configuration.   edges: of the encoding of numbers.   scorer: the
    score that selects the best epoch; None: the validation loss.
    """

    X: Any
    Y: Any
    weights: Any
    held: tuple[Any, ...] | None
    members: int
    target: Target | Targets
    metric: Metric
    edges: Edges
    device: Device
    kernels: bool | str
    scorer: Scorer | None = None

    @property
    def unit(self) -> float:
        """The scale of the target, for metrics; 1 for several targets, left standardised."""
        one = self.target
        return one.scale if isinstance(one, Target) and one.task == "regression" else 1.0

    def branch(
        self,
        configurations: Sequence[Settings],
        *,
        keeps: bool = False,
        after: Progress | None = None,
    ) -> Branch:
        """The training run of the members of all configurations, in one batched product.

        configurations: resolved; they differ only in `SIDE_BY_SIDE`.   keeps, after: as in
        `Branch`.   Networks are in the order of configurations. Each configuration begins with the
        same initial weights.
        """
        settings, K, members = configurations[0], len(configurations), self.members
        run, epochs, until = self._run(configurations), settings.epochs or 1, settings.dropout_until
        rows = len(self.X) * K * members
        kernels = kernels_for(run, self.device, self.kernels, rows, epochs)
        params = None
        if K * members > 1:
            params = np.tile(initialize(run.network, settings.seed, members=members), (K, 1))
        weights, held = self._of_networks(K)
        # For classifiers `calibrated` evaluates the same rows once an epoch.
        classifies = held is not None and can_calibrate(run.loss)
        begun = train(
            run.network,
            self.X,
            self.Y,
            loss=run.loss,
            optimizer=run.optimizer,
            epochs=epochs,
            batch_size=run.batch_size,
            l2=run.l2,
            sample_weight=weights,
            dropout_until=None if until is None or until >= 1 else round(until * epochs),
            validation_data=None if classifies else held,
            metric=run.metric,
            seed=settings.seed,
            device=self.device,
            dtype=run.dtype,
            precision=run.precision,
            params=params,
            # The caller has checked that the run is the same; settings may differ if epochs grow.
            after=after and replace(after.epoch, _origin=None),
            kernels=kernels,
        )
        monitor: Any = None if held is None else "validation_loss"
        unseen = self.unseen(run.loss) * K if monitor and (classifies or self.scorer) else []
        if monitor and self.scorer:
            monitor = score_of_epoch(self.scorer, run, self.target, unseen)
        return Branch(
            settings,
            run,
            begun,
            unseen if classifies else [],
            monitor=monitor,
            unit=self.unit,
            kernels=backend_of(self.device.xp, kernels).explain(run),
            keeps=keeps,
            after=after,
        )

    def _run(self, configurations: Sequence[Settings]) -> Run:
        """The `Run` of the training loop, with minibatches of nearly equal size."""
        N, settings = len(self.X), configurations[0]
        batch_size = even_batch(settings.batch_size or 1, N)
        even = [replace(each, batch_size=batch_size) for each in configurations]
        edges, loss = self.edges if settings.numbers == "piecewise" else (), loss_for(settings)
        n_outputs = self.target.n_outputs(loss.targets.kind) * loss.n_outputs
        return Run(
            network_for(settings, self.X.shape[1], n_outputs, edges),
            loss,
            optimizer_for(even, N, self.members),
            min(batch_size, N),
            settings.dtype,
            l2_of(of_networks(even, "l2", self.members)),
            self.metric,
            precision=settings.precision,
        )

    def _of_networks(self, K: int) -> tuple[Any, tuple[Any, ...] | None]:
        """The weights and held-out rows, repeated for K configurations if they differ between
        members."""
        if K == 1 or self.members == 1:
            return self.weights, self.held

        def tiled(array: Any) -> Any:
            return None if array is None else np.concatenate([array] * K)

        return tiled(self.weights), self.held and tuple(map(tiled, self.held))

    def unseen(self, loss: Loss) -> list[HeldOut]:
        """The held-out rows: one entry for each member, or one for all members."""
        assert self.held is not None
        each = [self.held] if self.members == 1 else zip(*self.held, strict=True)
        return [
            HeldOut(X, as_loss_takes(Y, loss), None if weights is None else mean_one(weights)[0])
            for X, Y, weights in each
        ]


def as_loss_takes(Y: np.ndarray, loss: Loss) -> np.ndarray:
    """Targets in the shape that the loss takes: (n, n_outputs), or class numbers (n,)."""
    return Y if loss.targets.kind == "classes" else Y.reshape(len(Y), -1)
