"""The epochs that `train` yields: parameters, optimizer state and scores."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnaccel.devices.device import Device, device_of, dtype_name, to_host
from nnaccel.kernels.definition import Run
from nnaccel.kernels.params import join_params
from nnaccel.maths.network import leaves
from nnaccel.maths.optimizers import Optimizer, State
from nnaccel.typing import Array

SCORES = ("loss", "metric", "validation_loss", "validation_metric")


@dataclass(eq=False)
class Origin:
    """The run that yielded an epoch: the settings that must be equal to continue it, by argument
    name, and the number of the last epoch whose vectors are overwritten."""

    settings: dict[str, Any]
    overwritten: int = 0

    @classmethod
    def of(cls, run: Run, N: int, shuffle: bool, dropout_until: int | None = None) -> "Origin":
        """The origin of the epochs of a run on N examples."""
        settings = {
            "network": run.network,
            "loss": run.loss,
            "optimizer": run.optimizer.name,
            "batch_size": run.batch_size,
            "short_batch": run.short_batch,
            "seed": run.seed,
            "shuffle": bool(shuffle),
            "dtype": run.dtype,
            "n_samples": N,
            "dropout_until": dropout_until,
        }
        return cls(settings)

    def check_same(self, after: "Epoch") -> None:
        """Raise ValueError, which names the first setting in which the run of an epoch differs from
        this run. An epoch that the user made matches any run."""
        for name, before in after._origin.settings.items() if after._origin else ():
            if before != (now := self.settings[name]):
                raise ValueError(
                    f"after must be an epoch of the same run: that of epoch {after.number} has "
                    f"{name} {_in_words(before)}, and this one {_in_words(now)}; give the same "
                    f"{name}, or begin a new run with params=epoch.params"
                )


def _in_words(value: Any) -> str:
    """A setting for an error message: a loss by its name and options."""
    options = "".join(f", {name}={v}" for name, v in getattr(value, "options", ()))
    return f"{getattr(value, 'name', value)}{options}"


@dataclass(frozen=True, eq=False)
class Epoch:
    """One pass over the training data.

    The next epoch may overwrite the arrays of `params` and `state`. Once it has begun, reading them
    raises RuntimeError. So keep a `copy` of an epoch that you need later, as `EarlyStopping` does.
    Losses and metrics are means over examples, arrays (K,) when K networks are trained at once.
    Training losses and metrics are means over the epoch, during which the network changes. Metrics
    are None without a metric, validation values without validation data.
    """

    number: int  # counted from 1
    _params: Any = field(repr=False)  # may be split, see `kernels/params.py`
    _state: Any = field(repr=False)
    loss: Any = None
    metric: Any = None
    validation_loss: Any = None
    validation_metric: Any = None
    seconds: float = 0.0  # excluding validation
    samples_per_second: float = 0.0
    greater_is_better: bool | None = None  # for the metric; None if the Metric does not define it
    _origin: Origin | None = field(default=None, repr=False)  # None: made by the user

    @property
    def params(self) -> Array:
        """The parameters, a flat vector (P,), or (K, P) for K networks."""
        return self._whole("_params")

    @property
    def state(self) -> State:
        """The state of the optimizer."""
        if self._state is None:
            raise RuntimeError(
                "this epoch has networks of different epochs, the best of each, and no run can "
                "continue from it; keep a copy of an epoch that train yielded"
            )
        return self._whole("_state")

    def _whole(self, name: str) -> Any:
        """The parameters or the state, joined once if they are split."""
        kept = getattr(self, name)
        overwritten = self._origin is not None and self.number <= self._origin.overwritten
        # JAX deletes donated arrays, and other libraries overwrite them.
        if overwritten or any(x.is_deleted() for x in leaves(kept) if hasattr(x, "is_deleted")):
            raise RuntimeError(
                f"the vectors of epoch {self.number} are gone: the next epoch has taken their "
                "memory; keep epoch.copy() before it begins"
            )
        with self._on_device():
            kept = join_params(kept)
        object.__setattr__(self, name, kept)
        return kept

    def copy(self) -> "Epoch":
        """A copy of the epoch, whose vectors no other epoch overwrites."""
        origin = self._origin and Origin(self._origin.settings)
        with self._on_device():
            params = self.params + 0.0
            state = None if self._state is None else copy_state(self.state)
        return replace(self, _params=params, _state=state, _origin=origin)

    def take(self, networks: Sequence[int]) -> "Epoch":
        """The same epoch for some of K networks. A run of only these networks can continue from it.

        networks: their numbers, from 0; the result has their order. No other epoch overwrites its
        vectors."""
        if self.params.ndim == 1:
            return self.copy()
        rows = np.asarray(networks)
        with self._on_device():
            where = device_of(self.params)
            index = where.asarray(rows)

            def taken(vectors: Array) -> Array:
                return where.xp.take(vectors, index, axis=0)

            params, state = taken(self.params), None
            if self._state is not None:
                slots = tuple(map(taken, self.state.slots))
                state = State(self.state.step + 0, slots)
        scores = {name: value[rows] for name, value in self.scores().items()}
        origin = self._origin and Origin(self._origin.settings)
        return replace(self, _params=params, _state=state, _origin=origin, **scores)

    def with_rows_of(self, other: "Epoch", rows: np.ndarray) -> Array:
        """The parameters (K, P) of K networks, with the given rows replaced by those of another
        epoch.

        The parameters of this epoch are not changed, so an interruption leaves them valid."""
        with self._on_device():
            params: Any = self.params + 0.0
        with other._on_device():
            for k in rows.tolist():
                row = other.params[k, :]
                if isinstance(params, np.ndarray):  # may come from a file
                    params[k, :] = to_host(row)
                elif hasattr(params, "at"):  # JAX's arrays cannot be written
                    params = params.at[k].set(row)
                else:
                    params[k, :] = row
        return params

    def _on_device(self) -> AbstractContextManager[Any]:
        """A context in which the device of the vectors is CuPy's current device."""
        return device_of(next(leaves(self._params))).context()

    def scores(self) -> dict[str, Any]:
        """The losses and metrics of the epoch, by name: a row of the training history."""
        return {name: value for name in SCORES if (value := getattr(self, name)) is not None}


def state_after(epoch: Epoch, params: Array, optimizer: Optimizer, where: Device) -> State:
    """A copy of the optimizer's state after an epoch, on the device. Raises ValueError if the
    number or shape of its vectors is wrong for an optimizer that states its number of slots.

    params: on the device."""
    state, n = epoch.state, optimizer.n_slots
    shapes = [tuple(slot.shape) for slot in state.slots]
    if n is not None and shapes != [tuple(params.shape)] * n:
        raise ValueError(
            f"after.state must hold {n} vectors like params, {tuple(params.shape)}, for this "
            f"optimizer, got {shapes}"
        )
    dtype = dtype_name(params)
    slots = tuple(where.asarray(slot, dtype, copy=True) for slot in state.slots)
    return State(where.asarray(state.step, "int32", copy=True), slots)


def copy_state(state: State) -> State:
    """A copy of the optimizer's state."""
    return State(state.step + 0, tuple(slot + 0.0 for slot in state.slots))
