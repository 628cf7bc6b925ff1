"""Model files: a network, its parameters and what belongs to them, written and read safely.

A file is a safetensors file. Its header holds, as JSON, the architecture as plain data of a
closed schema, and a SHA-256 over that text and every tensor, since safetensors by itself loads
a flipped bit without a word. It is checked before the content is looked at, in every version of
the format. Nothing is unpickled, and no name in a file is ever imported.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from itertools import count
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nnaccel import schema
from nnaccel.devices.device import to_host
from nnaccel.files import Unreadable, existing_file, reading, reason, write
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, layout
from nnaccel.schema import OBJECT, check
from nnaccel.training.architecture import describe, listed, named, rebuild
from nnaccel.typing import Array

FORMAT = "nnaccel model"
VERSION = 1
LONGEST_HEADER = 100_000_000  # bytes, as in safetensors itself
MOST_TENSORS = 16  # a file has one: others are named in an error, but not a million of them
ENTRY = re.compile(r"(?P<text>.*)\n(?P<digest>[0-9a-f]{64})", re.DOTALL)


class Checkpoint(NamedTuple):
    """What a model file holds; params (P,) or (K, P), and `extra` for the caller to check."""

    network: Network
    params: np.ndarray
    loss: Loss
    extra: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    network: Network,
    params: Array,
    *,
    loss: str | Loss,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file, whole or not at all.

    params: (P,) or (K, P), of any library.   extra: JSON-like data that is kept with the model.
    The file appears under its name only once it is safely on the disk, so neither a crash nor a
    full disk leaves half a model or costs an older one.
    Raises ValueError for a network that a file cannot describe (an activation or a loss that is
    not in the tables), parameters that are not finite, or extra data that is not JSON; OSError.
    """
    data = np.ascontiguousarray(to_host(params))
    _check_params(network, data, "params")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": describe(network),
        "loss": _describe_loss(losses.get(loss)),
        "extra": dict(extra or {}),
    }
    text = schema.to_json(header, "extra")
    from safetensors.numpy import save as to_bytes

    tensors = {"params": data}
    content = to_bytes(tensors, metadata(text, tensors))
    if (length := len(content) - data.nbytes) > LONGEST_HEADER:
        raise ValueError(f"a header may have {LONGEST_HEADER:,} bytes, this one has {length:,}")
    write(path, content)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a model file.

    Raises FileNotFoundError or another OSError, MemoryError, and ValueError that says in one line
    what is wrong with a file that is truncated, altered, of another kind or of a later version.
    """
    path = existing_file(path)
    try:
        with reading(path, "a model"), open(path, "rb") as file:
            text, claimed, tensors = _parse(file)
        if claimed != digest(text, tensors):
            raise ValueError("its content has been altered since it was written (SHA-256)")
        return _rebuild(schema.from_json(text, "header"), tensors)
    except ValueError as error:
        raise ValueError(f"{path}: not a model that can be used: {reason(error)}") from None


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether a file says of itself that nnaccel wrote it; what it holds is not checked."""
    try:
        with open(existing_file(path), "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = _entries(file.read(length)) if length <= LONGEST_HEADER else {}
        entry = _entry(entries)
        return entry is not None and json.loads(entry["text"])["format"] == FORMAT
    except (KeyError, TypeError, ValueError, RecursionError):
        return False


def metadata(text: str, tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """What a model file says of itself: the header's text, and the digest in a last line.

    One entry, because safetensors writes several in an order that differs between processes: so
    equal models are equal files.
    """
    return {"nnaccel": f"{text}\n{digest(text, tensors)}"}


def digest(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the header's text and the name, dtype, shape and bytes of every tensor."""
    content = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        content.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        content.update(array.data)
    return content.hexdigest()


def _describe_loss(loss: Loss) -> dict[str, Any]:
    known = losses.LOSSES.get(loss.name)
    if known is None or known._replace(options=loss.options) != loss:
        raise ValueError(
            f"a model file cannot hold the loss {loss.name!r}: it is not in nnaccel.losses.LOSSES"
        )
    return {"name": loss.name, "options": listed(loss.options)}


def _rebuild(header: Any, tensors: dict[str, np.ndarray]) -> Checkpoint:
    if type(header) is not dict or header.get("format") != FORMAT:
        raise ValueError(FOREIGN)
    check({"version": header.get("version")}, {"version": schema.COUNT}, "header")
    if header["version"] > VERSION:
        raise ValueError(
            f"written by a later nnaccel (format {header['version']}); upgrade nnaccel"
        )
    check(header, HEADER, "header")
    network = rebuild(header["network"])
    check(header["loss"], {"name": schema.TEXT, "options": OBJECT}, "loss")
    loss = named(losses.get(header["loss"]["name"]), header["loss"]["options"], "loss")
    if set(tensors) != {"params"}:
        raise ValueError(f"tensors must be 'params' alone, got {', '.join(sorted(tensors))}")
    _check_params(network, tensors["params"], "the tensor 'params'")
    return Checkpoint(network, tensors["params"], loss, header["extra"])


def _check_params(network: Network, params: np.ndarray, name: str) -> None:
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


def _parse(file: BinaryIO) -> tuple[str, str, dict[str, np.ndarray]]:
    """The header's text, the digest that it claims, and the tensors of a safetensors file.

    Unreadable if it is not a whole one, before a single tensor is built, or is not ours, before
    the rest of it is read.
    """
    from safetensors.numpy import load as from_bytes

    size, start = os.fstat(file.fileno()).st_size, file.read(8)
    length = int.from_bytes(start, "little")
    try:
        if length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"a header of {length:,} bytes")
        header = file.read(length)
        entry = _entry(_entries(header))
        tensors = from_bytes(start + header + file.read()) if entry else {}
    except (MemoryError, OSError):
        raise
    except Exception as error:  # safetensors raises errors of several kinds
        kind = f"is truncated or no safetensors file ({reason(error)})" if size else "is empty"
        raise Unreadable(f"the file {kind}") from None
    if entry is None:
        raise Unreadable(FOREIGN)
    return entry["text"], entry["digest"], tensors


def _entries(header: bytes) -> dict[str, Any]:
    """What a safetensors header says of the file itself; ValueError unless it is a short one."""
    objects = count(1)

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if next(objects) > MOST_TENSORS + 1:  # each tensor is one, and what is sought another
            raise ValueError(f"more than {MOST_TENSORS} tensors")
        return schema.distinct(pairs)

    found = json.loads(header.decode(), object_pairs_hook=distinct)
    return found.get("__metadata__", {}) if type(found) is dict else {}


def _entry(entries: Any) -> re.Match[str] | None:
    """The one entry of our files, its text and digest; None where there is another or none."""
    entry = entries.get("nnaccel") if type(entries) is dict and len(entries) == 1 else None
    return ENTRY.fullmatch(entry) if type(entry) is str else None


FOREIGN = "a safetensors file that nnaccel has not written"
HEADER = {
    "format": schema.TEXT,
    "version": schema.COUNT,
    "network": OBJECT,
    "loss": OBJECT,
    "extra": OBJECT,
}
