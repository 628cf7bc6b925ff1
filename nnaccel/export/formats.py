"""The formats of exported models, each recognised by the suffix of its file."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nnaccel.arguments import find
from nnaccel.files import write

if TYPE_CHECKING:
    from nnaccel.tabular.model import Model


class Format(NamedTuple):
    """The suffix of a format, its name in words, and the function (model, path) -> bytes of a
    file."""

    suffix: str
    title: str
    content: Callable[["Model", Path], bytes]


def _onnx(model: "Model", path: Path) -> bytes:
    from nnaccel.export.onnx import table_model

    return table_model(model).SerializeToString()


def _numpy(model: "Model", path: Path) -> bytes:
    from nnaccel.export.numpy_file import numpy_file

    return numpy_file(model, path.stem if path.stem.isidentifier() else "model").encode()


def _torch(model: "Model", path: Path) -> bytes:
    from nnaccel.export.torch import torch_file

    return torch_file(model)


FORMATS = {
    "onnx": Format(".onnx", "the table's encoding and the network as ONNX", _onnx),
    "numpy": Format(".py", "predict() with NumPy alone", _numpy),
    "torch": Format(".pt", "the network after the table's encoding, for PyTorch", _torch),
}


def format_of(path: str | PathLike[str], format: str | None = None) -> str:
    """The format with the given name, or the one of the file's suffix.

    Raises ValueError for an unknown name or suffix.
    """
    if format is not None:
        find("format", format, FORMATS)
        return format
    suffix = Path(path).suffix.lower()
    known = {row.suffix: name for name, row in FORMATS.items()}
    if suffix not in known:
        raise ValueError(
            f"the file must end in {', '.join(known)}, or the format be one of "
            f"{', '.join(FORMATS)}; got {path}"
        )
    return known[suffix]


def export(model: "Model", path: str | PathLike[str], format: str | None = None) -> None:
    """Write the model in another format, whole or not at all.

    onnx: the encoding and the network in one graph, see `export.onnx.table_model`.
    numpy: a Python file that predicts with NumPy alone, see `export.numpy_file`.
    torch: the network without the encoding, see `export.torch`.
    Raises ValueError for an unknown format or suffix, and for a model that the format cannot hold;
    ModuleNotFoundError if its package is missing; OSError.
    """
    row = FORMATS[format_of(path, format)]
    write(path, row.content(model, Path(path)))
