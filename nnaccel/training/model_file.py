"""Model files: a network, its parameters and what belongs to them; see `safe_file.py`."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nnaccel import schema
from nnaccel.devices.device import to_host
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, layout
from nnaccel.training import safe_file
from nnaccel.training.architecture import (
    describe,
    describe_loss,
    rebuild,
    rebuild_loss,
)
from nnaccel.typing import Array

FORMAT = safe_file.Format(
    "nnaccel model",
    1,
    {"network": schema.OBJECT, "loss": schema.OBJECT, "extra": schema.OBJECT},
    "a model",
)


class ModelFile(NamedTuple):
    """The content of a model file; params (P,) or (K, P). Not checked: `extra` and `vectors`."""

    network: Network
    params: np.ndarray
    loss: Loss
    extra: dict[str, Any]
    vectors: dict[str, np.ndarray]  # like params


def save(
    path: str | os.PathLike[str],
    network: Network,
    params: Array,
    *,
    loss: str | Loss,
    extra: Mapping[str, Any] | None = None,
    vectors: Mapping[str, Array] | None = None,
) -> None:
    """Write a model file, whole or not at all.

    params: (P,) or (K, P), of any library.   extra, vectors: JSON-like data, and further vectors
    with the shape of params, for the file.
    Raises ValueError for a network that a file cannot describe (an activation or a loss that is
    not in the tables), parameters that are not finite, or extra data that is not JSON; OSError.
    """
    data = np.ascontiguousarray(to_host(params))
    check_params(network, data, "params")
    header = {
        "network": describe(network),
        "loss": describe_loss(losses.get(loss)),
        "extra": dict(extra or {}),
    }
    more = {name: np.ascontiguousarray(to_host(v)) for name, v in (vectors or {}).items()}
    _check_vectors(data, more)
    safe_file.write(path, FORMAT, header, {"params": data, **more})


def load(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file.

    Raises FileNotFoundError or another OSError, MemoryError, and ValueError, in one line, for a
    file that is truncated, altered, of another kind or of a later version.
    """
    return safe_file.load(path, FORMAT, _rebuild)


def _rebuild(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> ModelFile:
    """The content of a model file. Raises ValueError for parts that do not agree."""
    network, loss = rebuild(header["network"]), rebuild_loss(header["loss"])
    if "params" not in tensors:
        raise ValueError(f"there must be a tensor 'params', got {', '.join(sorted(tensors))}")
    params = tensors.pop("params")
    check_params(network, params, "the tensor 'params'")
    _check_vectors(params, tensors)
    return ModelFile(network, params, loss, header["extra"], tensors)


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether the header of a file calls it a model. Not checked: the rest of the file."""
    return safe_file.is_file_of(FORMAT, path)


def _check_vectors(params: np.ndarray, vectors: Mapping[str, np.ndarray]) -> None:
    for name, vector in vectors.items():
        if vector.shape != params.shape or vector.dtype != params.dtype:
            raise ValueError(
                f"the vector {name!r} must be like params, {params.dtype} of shape {params.shape}, "
                f"got {vector.dtype} of shape {vector.shape}"
            )


def check_params(network: Network, params: np.ndarray, name: str) -> None:
    """Raises ValueError for parameters that do not fit the network, or are not finite."""
    size = layout(network).size
    if not size:
        raise ValueError(f"{network} has no parameters, so there is nothing to keep")
    if params.dtype not in (np.float32, np.float64) or params.shape[-1:] != (size,):
        raise ValueError(
            f"{name} must be float32 or float64 of shape ({size},) or (K, {size}) for this "
            f"network, got {params.dtype} of shape {params.shape}"
        )
    if params.ndim > 2 or not params.size or not np.isfinite(params).all():
        raise ValueError(f"{name} must be one or two-dimensional, not empty, and finite")
