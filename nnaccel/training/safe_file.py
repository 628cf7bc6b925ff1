"""Safe files with data and vectors, for models and checkpoints.

A file is a safetensors file. Its header holds plain data as JSON, and a SHA-256 over that text and
every tensor, since safetensors itself does not detect a flipped bit. The digest is checked before
the content is used, in every version of every format. Nothing is unpickled, and no name in a file
is ever imported.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from nnaccel import files, schema
from nnaccel.files import Unreadable, existing_file, reading, reason

R = TypeVar("R")
LONGEST_HEADER = 100_000_000  # bytes, as in safetensors itself
MOST_TENSORS = 32  # a checkpoint has ten; an error lists others, but no more than this
ENTRY = re.compile(r"(?P<text>.*)\n(?P<digest>[0-9a-f]{64})", re.DOTALL)
FOREIGN = "a safetensors file that nnaccel has not written"


class Format(NamedTuple):
    """A kind of file."""

    name: str  # in the file
    version: int
    fields: Mapping[str, schema.Field]  # of the header, besides format and version
    words: str  # its name in errors: "a model"


def write(
    path: str | os.PathLike[str],
    kind: Format,
    header: dict[str, Any],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Write a file, whole or not at all.

    It appears under its name only once it is safely on the disk, so neither a crash nor a full
    disk leaves half a file or costs an older one.
    Raises ValueError for a header that is not JSON-like; OSError.
    """
    from safetensors.numpy import save as to_bytes

    text = schema.to_json({"format": kind.name, "version": kind.version, **header}, "extra")
    content = to_bytes(dict(tensors), metadata(text, tensors))
    if (length := len(content) - sum(x.nbytes for x in tensors.values())) > LONGEST_HEADER:
        raise ValueError(f"a header may have {LONGEST_HEADER:,} bytes, this one has {length:,}")
    files.write(path, content)


def load(
    path: str | os.PathLike[str],
    kind: Format,
    rebuild: Callable[[dict[str, Any], dict[str, np.ndarray]], R],
) -> R:
    """rebuild(header, tensors) of a file of that kind.

    Raises FileNotFoundError or another OSError, MemoryError, and ValueError, in one line, for a
    file that is truncated, altered, of another kind or of a later version, or that `rebuild`
    refuses.
    """
    path = existing_file(path)
    try:
        return rebuild(*read(path, kind))
    except ValueError as error:
        raise ValueError(f"{path}: not {kind.words} that can be used: {reason(error)}") from None


def read(path: Path, kind: Format) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header of an existing file, with checked fields, and its tensors. Raises the errors of
    `load`, without the name of the file."""
    with reading(path, kind.words), open(path, "rb") as file:
        text, claimed, tensors = _parse(file)
    if claimed != digest(text, tensors):
        raise ValueError("its content has been altered since it was written (SHA-256)")
    header = schema.from_json(text, "header")
    found = header.get("format") if type(header) is dict else None
    if found != kind.name:
        other = type(found) is str and found.startswith("nnaccel ")
        raise ValueError(f"it is an {found} file, not {kind.words}" if other else FOREIGN)
    schema.check({"version": header.get("version")}, {"version": schema.COUNT}, "header")
    if header["version"] > kind.version:
        raise ValueError(
            f"written by a later nnaccel (format {header['version']}); upgrade nnaccel"
        )
    own = {"format": schema.TEXT, "version": schema.COUNT, **kind.fields}
    return schema.check(header, own, "header"), tensors


def is_file_of(kind: Format, path: str | os.PathLike[str]) -> bool:
    """Whether the header of a file names that format. Not checked: the rest of the file."""
    try:
        with open(existing_file(path), "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = _entries(file.read(length)) if length <= LONGEST_HEADER else {}
        entry = _entry(entries)
        return entry is not None and json.loads(entry["text"])["format"] == kind.name
    except (KeyError, TypeError, ValueError, RecursionError):
        return False


def metadata(text: str, tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The metadata of a file: the text of the header, and the digest as its last line.

    It is one entry, because safetensors writes several entries in an order that differs between
    processes. So equal models are equal files.
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


def _parse(file: BinaryIO) -> tuple[str, str, dict[str, np.ndarray]]:
    """The text of the header, the digest that it states, and the tensors of a safetensors file.

    Raises Unreadable for an incomplete file, before a tensor is built, and for a file of another
    program, before the rest is read.
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
    """The entries of a safetensors header about the file itself. Raises ValueError for a long
    header."""
    objects = count(1)

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if next(objects) > MOST_TENSORS + 1:  # one object per tensor, and one for the metadata
            raise ValueError(f"more than {MOST_TENSORS} tensors")
        return schema.distinct(pairs)

    found = json.loads(header.decode(), object_pairs_hook=distinct)
    return found.get("__metadata__", {}) if type(found) is dict else {}


def _entry(entries: Any) -> re.Match[str] | None:
    """The text and the digest in the single entry of our files; None for other entries."""
    entry = entries.get("nnaccel") if type(entries) is dict and len(entries) == 1 else None
    return ENTRY.fullmatch(entry) if type(entry) is str else None
