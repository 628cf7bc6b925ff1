"""The parameter vector in parts, for backends that keep it split between epochs."""

from typing import Any, NamedTuple

import array_api_compat as compat

from nnaccel.maths.optimizers import State
from nnaccel.typing import Array


class SplitParams(NamedTuple):
    """A flat vector (..., P) in parts (..., p), made by a backend's `split_params`."""

    parts: tuple[Array, ...]


def map_vectors(function: Any, kept: Any) -> Any:
    """function(vector), or the `State` with function applied to each of its vectors."""
    if isinstance(kept, State):
        return kept._replace(slots=tuple(map(function, kept.slots)))
    return function(kept)


def join_params(kept: Any) -> Any:
    """The vector (..., P) of split parameters, or the `State` with each vector joined."""
    return map_vectors(_joined, kept)


def _joined(vector: Any) -> Array:
    if not isinstance(vector, SplitParams):
        return vector
    if len(vector.parts) == 1:
        return vector.parts[0]
    return compat.array_namespace(*vector.parts).concat(vector.parts, axis=-1)
