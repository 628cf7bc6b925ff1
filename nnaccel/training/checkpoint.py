"""Model files: a network, its parameters and what belongs to them, written and read safely.

A file is a safetensors file. Its header holds, as JSON, the architecture as plain data of a
closed schema, and a SHA-256 over that text and every tensor, since safetensors by itself loads
a flipped bit without a word. Nothing is unpickled, and no name in a file is ever imported.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnaccel import schema
from nnaccel.devices.device import to_host
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, layout
from nnaccel.schema import Field, check
from nnaccel.training.architecture import OPTIONS, describe, listed, named, rebuild
from nnaccel.typing import Array

FORMAT = "nnaccel model"
VERSION = 1

OBJECT = Field("an object", lambda v: type(v) is dict)


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
    try:
        text = json.dumps(header, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"extra must be JSON-like data: {error}") from None
    from safetensors.numpy import save as to_bytes

    tensors = {"params": data}
    write(path, to_bytes(tensors, metadata(text, tensors)))


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a model file.

    Raises FileNotFoundError or another OSError, and ValueError that says in one line what is
    wrong with a file that is truncated, altered, of another kind or of a later version.
    """
    path = Path(path)
    content = path.read_bytes()
    where = f"{path}: not a model that can be used"
    try:
        header, tensors = _parse(content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    try:
        text, _, claimed = header["nnaccel"].rpartition("\n")
        header = json.loads(text)
        version = header["version"]
        if header["format"] != FORMAT or type(version) is not int:
            raise KeyError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{where}: a safetensors file that nnaccel has not written") from None
    if version > VERSION:
        raise ValueError(f"{where}: written by a later nnaccel (format {version}); upgrade nnaccel")
    if claimed != digest(text, tensors):
        raise ValueError(f"{where}: its content has been altered since it was written (SHA-256)")
    try:
        return _rebuild(header, tensors)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from None


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether a file says of itself that nnaccel wrote it; what it holds is not checked."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, os.path.getsize(path)))
        text, _, _ = json.loads(header)["__metadata__"]["nnaccel"].rpartition("\n")
        return json.loads(text)["format"] == FORMAT
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return False


def writable(path: str | os.PathLike[str], size: int = 0) -> None:
    """OSError if a file of `size` bytes cannot be written there: found before the work, not after.

    Tries it with a temporary file beside it, which is removed.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is a device or a pipe; give the name of a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is write-protected; choose another name")
    with _beside(path) as file:
        try:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise _unwritable(path, error, f"no room for {size:,} bytes") from None
        finally:
            os.unlink(file.name)


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


def _rebuild(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> Checkpoint:
    fields = {
        "format": schema.TEXT,
        "version": schema.COUNT,
        "network": OBJECT,
        "loss": OBJECT,
        "extra": OBJECT,
    }
    check(header, fields, "header")
    network = rebuild(header["network"])
    check(header["loss"], {"name": schema.TEXT, "options": OPTIONS}, "loss")
    loss = named(losses.get, header["loss"], "loss")
    if set(tensors) != {"params"}:
        raise ValueError(f"tensors must be 'params' alone, got {', '.join(sorted(tensors))}")
    _check_params(network, tensors["params"], "the tensor 'params'")
    return Checkpoint(network, tensors["params"], loss, header["extra"])


def _check_params(network: Network, params: np.ndarray, name: str) -> None:
    size = layout(network).size
    if params.dtype not in (np.float32, np.float64) or params.shape[-1:] != (size,):
        raise ValueError(
            f"{name} must be float32 or float64 of shape ({size},) or (K, {size}) for this "
            f"network, got {params.dtype} of shape {params.shape}"
        )
    if params.ndim > 2 or not np.isfinite(params).all():
        raise ValueError(f"{name} must be one or two-dimensional and finite")


def _parse(content: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the tensors of a safetensors file; ValueError if it is not a whole one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        tensors = from_bytes(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        kind = "is empty" if not content else f"is truncated or no safetensors file ({error})"
        raise ValueError(f"the file {kind}") from None
    return metadata, tensors


def _beside(path: Path) -> Any:
    """A new file in the folder of `path`, open for writing, that its user has to remove."""
    try:
        return tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        )
    except OSError as error:
        raise _unwritable(path, error, error.strerror) from None


def _unwritable(path: Path, error: OSError, reason: str | None) -> OSError:
    return type(error)(error.errno, f"cannot write {path} ({reason}); choose another place")


def write(path: str | os.PathLike[str], content: Any) -> None:
    """Write a file durably and atomically, keeping the mode of the one it replaces.

    content: bytes.   A link stays, and what it points to is replaced.   Raises OSError.
    """
    path = Path(os.path.realpath(path))
    file = _beside(path)
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask()
        os.chmod(file.name, mode)
        os.replace(file.name, path)
    except OSError as error:
        raise _unwritable(path, error, error.strerror) from None
    finally:
        Path(file.name).unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the folder holds the name, so it has to reach the disk too
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _umask() -> int:
    """The process's mask for the modes of new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
