"""What `train` yields: one epoch, its parameters, optimizer state and scores."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from nnaccel.kernels.params import join_params
from nnaccel.maths.network import leaves
from nnaccel.maths.optimizers import State
from nnaccel.typing import Array

SCORES = ("loss", "metric", "validation_loss", "validation_metric")


@dataclass(frozen=True, eq=False)
class Epoch:
    """One pass over the training data.

    `params` and `state` are alive: the next epoch may overwrite them, so keep a `copy` of what is
    to stay (`EarlyStopping` does). Losses and metrics are means over examples, arrays (K,) when K
    networks are trained at once; those of the training data are means over the epoch, in which
    the network has been changing. None where there is no metric or no validation data.
    """

    number: int  # the first one is 1
    _params: Any = field(repr=False)  # perhaps split, see `kernels/params.py`
    _state: Any = field(repr=False)
    loss: Any = None
    metric: Any = None
    validation_loss: Any = None
    validation_metric: Any = None
    seconds: float = 0.0  # without validation
    samples_per_second: float = 0.0
    greater_is_better: bool | None = None  # of the metrics; None where their Metric does not say

    @cached_property
    def params(self) -> Array:
        """The parameters, a flat vector (P,), or (K, P) for K networks."""
        return self._whole(self._params)

    @cached_property
    def state(self) -> State:
        """The memory of the optimizer."""
        return self._whole(self._state)

    def _whole(self, kept: Any) -> Any:
        # JAX takes the memory away, and others write into it.
        if any(x.is_deleted() for x in leaves(kept) if hasattr(x, "is_deleted")):
            raise RuntimeError(
                f"the vectors of epoch {self.number} are gone: the next epoch has taken their "
                "memory; keep epoch.copy() before it begins"
            )
        return join_params(kept)

    def copy(self) -> "Epoch":
        """The same epoch with vectors of its own, which no other epoch overwrites."""
        return replace(self, _params=self.params + 0.0, _state=copy_state(self.state))

    def scores(self) -> dict[str, Any]:
        """The losses and metrics that there are, by name: a row of the training history."""
        return {name: value for name in SCORES if (value := getattr(self, name)) is not None}


def copy_state(state: State) -> State:
    """The optimizer's memory in memory of its own."""
    return State(state.step + 0, tuple(slot + 0.0 for slot in state.slots))
