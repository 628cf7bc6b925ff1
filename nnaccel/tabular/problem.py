"""What the networks of a table learn from, and their training runs: one configuration of settings,
or several of one architecture side by side."""

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
    """`kernels`, or "numpy" where the run is too short to repay the time to load Numba."""
    steps = n_steps(n_rows, run.batch_size, n_epochs)
    repaid = kernels is not True or backend_of(device.xp).repays_loading(run, steps)
    return kernels if repaid else "numpy"


class Problem(NamedTuple):
    """What networks learn from.

    X, Y, weights: the rows that train, in memory or on the disk; weights are (members, N) where
    each member has its own.   held: rows (X, Y, weights) that tell the best epoch, or None; each
    has an axis of the members in front where they have rows of their own.   members: networks of
    each configuration.   edges: of the encoding of numbers.   scorer: by which the best epoch is
    told; None: its validation loss.
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
        """Of the target, for metrics; that of several targets is in standard deviations."""
        one = self.target
        return one.scale if isinstance(one, Target) and one.task == "regression" else 1.0

    def branch(
        self,
        configurations: Sequence[Settings],
        *,
        keeps: bool = False,
        after: Progress | None = None,
    ) -> Branch:
        """The training run of the members of each configuration, all of them one product.

        configurations: resolved; they differ in `SIDE_BY_SIDE` alone.   keeps, after: as in
        `Branch`.   Networks are in the order of configurations, and begin from the same draws.
        """
        settings, K, members = configurations[0], len(configurations), self.members
        run, epochs, until = self._run(configurations), settings.epochs or 1, settings.dropout_until
        rows = len(self.X) * K * members
        kernels = kernels_for(run, self.device, self.kernels, rows, epochs)
        params = None
        if K * members > 1:
            params = np.tile(initialize(run.network, settings.seed, members=members), (K, 1))
        weights, held = self._of_networks(K)
        # Of classifiers `calibrated` evaluates the same rows, once an epoch.
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
            # That it is of the same run has been seen, and where epochs grow some settings do.
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
        """The `Run` of the training loop, in batches as even as can be."""
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
        """Weights and held-out rows of the networks of K configurations, where members differ in
        them, else as they are."""
        if K == 1 or self.members == 1:
            return self.weights, self.held

        def tiled(array: Any) -> Any:
            return None if array is None else np.concatenate([array] * K)

        return tiled(self.weights), self.held and tuple(map(tiled, self.held))

    def unseen(self, loss: Loss) -> list[HeldOut]:
        """The held-out rows of each member, or of all of them."""
        assert self.held is not None
        each = [self.held] if self.members == 1 else zip(*self.held, strict=True)
        return [
            HeldOut(X, as_loss_takes(Y, loss), None if weights is None else mean_one(weights)[0])
            for X, Y, weights in each
        ]


def as_loss_takes(Y: np.ndarray, loss: Loss) -> np.ndarray:
    """Targets (n, n_outputs), unless they are class numbers (n,)."""
    return Y if loss.targets.kind == "classes" else Y.reshape(len(Y), -1)
