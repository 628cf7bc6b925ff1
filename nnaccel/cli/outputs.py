"""Writes the files of commands: models, tables of predictions, and scores as JSON.

Whether a file can be written is checked before the work is done.
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel.cli.streams import in_line, say, visible
from nnaccel.files import STREAM, whole_file, writable, write, writing
from nnaccel.tabular.tables import import_extra

if TYPE_CHECKING:
    from nnaccel.tabular.fit import Fit
    from nnaccel.tabular.model import Model


def check_model_file(path: Path, *, replace: bool) -> None:
    """Raises an error for an existing file that is no model, and for a model unless `replace` is
    set."""
    from nnaccel.training.model_file import is_model

    writable(path)
    if not path.exists():
        return
    if not is_model(path):
        raise FileExistsError(f"{path} exists and is no model file; choose another --output")
    if not replace:
        raise FileExistsError(
            f"{path} exists, a model of {_time_of(path)}; name another file with --output, or "
            "replace it with --force"
        )


def check_export(path: str, *, source: str, replace: bool) -> None:
    """Raises an error if the file is the model itself, or another existing file unless `replace` is
    set."""
    _check_apart(path, [source], "the model; choose another name")
    if os.path.exists(path) and not replace:
        raise FileExistsError(
            f"{path} exists, a file of {_time_of(Path(path))}; choose another name, or replace it "
            "with --force"
        )


def check_log(options: Any) -> None:
    """Raises FileExistsError for a log that would overwrite another file."""
    path = Path(options.log)
    if path.exists() and not options.resume and not options.force:
        raise FileExistsError(
            f"{path} exists; choose another --log, continue it with --resume, or replace it with "
            "--force"
        )
    others = [name for name in (options.source, options.test, options.output) if name]
    _check_apart(options.log, others, "read or written by this command; choose another --log")


def save_model(model: "Model", path: Path) -> None:
    """Write the model file, and print which one it replaces."""
    replaced = _time_of(path) if path.exists() else None
    try:
        model.save(path)
    except OSError as error:
        spare = _saved_elsewhere(model, path.name)
        raise OSError(f"{error.strerror or error}; the model is in {spare}") from error
    if replaced is not None:  # on standard error, since equal runs print equal results
        say(f"nnaccel: the model of {replaced} in {in_line(path)} is replaced")


def _saved_elsewhere(model: "Model", name: str) -> Path:
    """Writes a model that cannot be written to its file into the system's folder for temporary
    files."""
    spare = Path(tempfile.mkdtemp(prefix="nnaccel-")) / name
    model.save(spare)
    return spare


def _time_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def batches_writer(path: str | None, *, source: str) -> Callable[[Iterator[dict[str, Any]]], None]:
    """The function that writes columns, batch by batch, to a file in the format of its name, or as
    CSV to standard output.

    Raises ValueError or OSError if the file cannot be written, or is the source itself.
    """
    from nnaccel.tabular.table_files import WRITERS, csv_of

    suffix = ".csv" if path is None else Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"--output must end in {', '.join(WRITERS)}, got {path}")
    if path is not None:
        _check_apart(path, [source], "the file to predict; choose another --output")

    def write_batches(batches: Iterator[dict[str, Any]]) -> None:
        pa = import_extra("pyarrow")
        tables = map(pa.table, batches)
        if path is None:
            for i, table in enumerate(tables):
                print_bytes(csv_of(table, header=not i))
            return
        n, first = 0, next(tables)
        with whole_file(path) as file, closing(WRITERS[suffix](file, first.schema)) as writer:
            for table in chain([first], tables):
                with writing(path):
                    writer.write_table(table)
                n += table.num_rows
            with writing(path):
                writer.close()
        say(f"{n:,} predictions written to {in_line(path)}")

    return write_batches


def json_writer(path: str, *, sources: list[str]) -> Callable[[dict[str, Any]], None]:
    """The function that writes an object as JSON to a file, or to standard output for "-".

    Raises OSError if the file cannot be written, or is one of the sources or a model.
    """
    from nnaccel.training.model_file import is_model

    if path != STREAM:
        _check_apart(path, sources, "read by this command; choose another --json")
        if os.path.exists(path) and is_model(Path(path)):
            raise FileExistsError(f"{path} is a model file; choose another --json")

    def write_object(data: dict[str, Any]) -> None:
        text = json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        content = text.encode("utf-8", "backslashreplace")
        if path == STREAM:
            print_bytes(content)
        else:
            write(path, content)

    return write_object


PICTURES = (".png", ".svg", ".pdf")


def picture_writer(path: str, *, sources: list[str]) -> Callable[[Callable[[Any], None]], None]:
    """The function that writes a picture to a file in the format of its name, given a function that
    draws it.

    Raises ValueError or OSError if the file cannot be written, or is one of the sources.
    """
    from nnaccel.cli.pictures import STYLE
    from nnaccel.training.model_file import is_model

    suffix = Path(path).suffix.lower()
    if suffix not in PICTURES:
        raise ValueError(f"--plot must end in {', '.join(PICTURES)}, got {path}")
    matplotlib, made = import_extra("matplotlib"), import_extra("matplotlib.figure")
    _check_apart(path, sources, "read by this command; choose another --plot")
    if os.path.exists(path) and is_model(Path(path)):
        raise FileExistsError(f"{path} is a model file; choose another --plot")

    def write_picture(draw: Callable[[Any], None]) -> None:
        content = BytesIO()
        with matplotlib.rc_context(STYLE):
            figure = made.Figure(layout="constrained")
            draw(figure)
            figure.savefig(content, format=suffix[1:], dpi=150)
        write(path, content.getvalue())
        say(f"{in_line(path)} written")

    return write_picture


def report_writer(path: str, *, sources: list[str]) -> Callable[..., None]:
    """What writes the report of a run: `reporting.page.report` without its path. It comes last, so
    a disk that fails costs a warning.

    Raises ValueError or OSError if the file cannot be written, or is one of the sources.
    """
    from nnaccel.reporting.page import report

    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report must end in .html, got {path}")
    _check_apart(path, sources, "read or written by this command; choose another --report")

    def write_report(fit: "Fit", **told: Any) -> None:
        try:
            report(fit, path, **told)
        except (OSError, MemoryError) as error:
            why = in_line(getattr(error, "strerror", None) or str(error))
            say(f"nnaccel: warning: no report: {why}; the model is written")
        else:
            say(f"{in_line(path)} written")

    return write_report


def plain(value: Any) -> Any:
    """The value as JSON-like data: lists instead of arrays, and null for numbers that are not
    finite."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_bytes(content: bytes) -> None:
    """Write data to standard output: unchanged to a pipe or a file, with control characters escaped
    on a terminal."""
    output: Any = sys.stdout
    if output.isatty():
        output.write(visible(content.decode(), output.encoding))
    else:
        output.write_bytes(content)


def _check_apart(path: str, sources: list[str], what: str) -> None:
    """Raises OSError for a file that cannot be written, or is one of the sources.   what: its name
    in errors."""
    writable(path)
    for source in sources:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise FileExistsError(f"{path} is {what}")
