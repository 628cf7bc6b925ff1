"""What each command does."""

import os
import shlex
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnaccel.cli.config_file import print_config
from nnaccel.cli.streams import in_line, say, visible
from nnaccel.files import existing_file
from nnaccel.tabular.tables import import_extra

if TYPE_CHECKING:
    from nnaccel.devices.device import Device
    from nnaccel.tabular.fit import Fit
    from nnaccel.tabular.model import Model
    from nnaccel.tabular.settings import Settings


def train(options: Any) -> None:
    from nnaccel.cli import display

    settings = _settings(options)
    if options.print_config:
        print_config(options)
        return
    fit, source, output = _prepared(options, settings)
    console = display.console()
    console.print(f"{in_line(source)}: {display.plan(fit, fit.device.name)}", soft_wrap=True)
    for _ in display.follow(fit, fit.settings.epochs or 1, fit.metric.name, console):
        pass
    model = fit.model()
    if fit.rows["validation"]:
        console.print(f"the weights are those of epoch {fit.best}, the best on validation")
    if fit.rows["test"]:
        scores = fit.evaluate(model)
        model = model._replace(scores=display.plain(scores))
        title = f"test on {fit.rows['test']:,} rows"
        console.print(display.scores(scores, title, fit.target.classes))
    _save(model, output)
    use = in_line(shlex.join(["nnaccel", "predict", str(output), options.source]))
    console.print(f"\nmodel written to {in_line(output)}; use it: {use}", soft_wrap=True)


def predict(options: Any) -> None:
    model = _load(options.model)
    write = _table_writer(options.output, source=options.file)
    data, _ = _rows(options.file, model, need_target=False)
    if options.proba and model.target.task == "regression":
        raise ValueError("--proba is for classification, and this model predicts numbers")
    device = _device(options.device, str(model.params.dtype))
    outputs = model.outputs(data, device)
    labels = model.target.task == "classification"
    name = model.target.name
    table = {name: model.target.decode(outputs.argmax(axis=1)) if labels else outputs}
    if options.proba:
        table |= {f"{name}={c}": outputs[:, k] for k, c in enumerate(model.target.classes)}
    write(table)


def evaluate(options: Any) -> None:
    from nnaccel.cli import display

    model = _load(options.model)
    data, y = _rows(options.file, model, need_target=True)
    device = _device(options.device, str(model.params.dtype))
    scores = model.evaluate(data, y, device)
    title = f"{options.model} on {len(y):,} rows of {options.file}"
    display.console().print(display.scores(scores, title, model.target.classes))


def inspect(options: Any) -> None:
    from nnaccel.cli import display

    display.console().print(display.model(_load(options.model), options.model))


def devices(options: Any) -> None:
    from nnaccel.cli import display
    from nnaccel.devices.available import available

    display.console().print(display.devices(available()))


def gradcheck(options: Any) -> int:
    from nnaccel.cli import display
    from nnaccel.training.gradcheck import catalogue

    _settings(options)
    device = _device(options.device, "float64")
    checked = list(catalogue(device, options.seed))
    rows = ((name, f"{max(c.errors):.1e}", "ok" if c.passed else "FAILS") for name, c in checked)
    title = f"backpropagation against central differences, float64, on {device.name}"
    header = ("what", "relative error", f"at most {checked[0].check.tolerance:g}")
    display.console().print(display.table(title, header, rows))
    return 0 if all(c.passed for _, c in checked) else 1


def bench(options: Any) -> None:
    from nnaccel.cli import display
    from nnaccel.training.benchmark import run

    if not 0 < options.seconds <= 3600:
        raise ValueError(f"--seconds must be above 0 and at most 3600, got {options.seconds}")
    rows = run(options.device, seconds=options.seconds)
    console = display.console()
    console.print(f"timing four networks on each device, about {options.seconds:g} s")
    for line in display.speeds(rows):
        console.print(line)


def _prepared(options: Any, settings: "Settings") -> tuple["Fit", str, Path]:
    """A training run that has not begun, the name of its source, and the file for its model."""
    from nnaccel.files import writable
    from nnaccel.maths.network import layout
    from nnaccel.tabular.fit import Fit
    from nnaccel.tabular.sources import read

    if options.source is None:
        raise ValueError("train needs a SOURCE: a file or a built-in data set such as digits")
    if not 0 <= options.test_fraction < 1:
        raise ValueError(
            f"--test-fraction must be at least 0 and below 1, got {options.test_fraction}"
        )
    device = _device(options.device, settings.dtype)
    examples = read(options.source, options.target)
    if options.test is not None:
        test = read(options.test, examples.target)
        examples = examples._replace(test=(test.data, test.y))
    output = Path(options.output or f"{examples.source}.safetensors")
    _check_output(output)
    fit = Fit(
        examples,
        settings,
        device=device,
        exclude=tuple(options.drop or ()),
        test_fraction=options.test_fraction,
        kernels=not options.no_kernels,
    )
    writable(output, 8 * layout(fit.network).size)
    return fit, examples.source, output


def _save(model: "Model", output: Path) -> None:
    """Write the model file, and say which one it replaces."""
    replaced = output.stat().st_mtime if output.exists() else None
    model.save(output)
    if replaced is not None:
        # Not among the results, since equal runs print equal ones.
        written = datetime.fromtimestamp(replaced).strftime("%Y-%m-%d %H:%M")
        say(f"nnaccel: the model of {written} in {in_line(output)} is replaced")


def _settings(options: Any) -> "Settings":
    """The settings among the options; ValueError that names the option that is out of range."""
    from nnaccel.tabular.settings import Settings

    given = vars(options)
    try:
        return Settings(**{n: given[n] for n in Settings.__dataclass_fields__ if n in given})
    except ValueError as error:  # it begins with the name of the setting
        name, _, problem = str(error).partition(" ")
        if name not in given:
            raise
        raise ValueError(f"--{name.replace('_', '-')} {problem}") from None


def _device(name: str, dtype: str) -> "Device":
    from nnaccel.devices.device import dtype_of, prepare, select

    device = select(name)
    prepare(device, dtype)
    dtype_of(device, dtype)
    return device


def _load(path: str) -> "Model":
    from nnaccel.tabular.model import Model

    return Model.load(existing_file(path))


def _rows(file: str, model: "Model", *, need_target: bool) -> tuple[Any, Any]:
    from nnaccel.tabular.model import labelled
    from nnaccel.tabular.sources import read

    examples = read(file, model.target.name, need_target=need_target)
    data, y = examples.data, examples.y
    if examples.test is not None:
        data, y = examples.test
    return labelled(data, y, model.target.name) if need_target else (data, y)


def _check_output(path: Path) -> None:
    """Refuse to write over a file that is no model, before anything else is done."""
    from nnaccel.files import writable
    from nnaccel.training.checkpoint import is_model

    writable(path)
    if path.exists() and not is_model(path):
        raise FileExistsError(f"{path} exists and is no model file; choose another --output")


def _table_writer(path: str | None, *, source: str) -> Callable[[dict[str, Any]], None]:
    """What writes columns as a file of the kind that its name says, or as CSV to standard output.

    Refuses, before anything else is done, what cannot be written, and to write over the source.
    """
    from nnaccel.files import writable, write
    from nnaccel.tabular.tables import WRITERS

    suffix = ".csv" if path is None else Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"--output must end in {', '.join(WRITERS)}, got {path}")
    if path is not None:
        writable(path)
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise FileExistsError(f"{path} is the file to predict; choose another --output")

    def write_columns(columns: dict[str, Any]) -> None:
        output: Any = sys.stdout
        pa = import_extra("pyarrow")
        table, content = pa.table(columns), pa.BufferOutputStream()
        WRITERS[suffix](table, content)
        if path is not None:
            write(path, content.getvalue())
            say(f"{table.num_rows:,} predictions written to {in_line(path)}")
        elif output.isatty():  # text for somebody's eyes; in a pipe or a file it is data
            output.write(visible(content.getvalue().to_pybytes().decode(), output.encoding))
        else:
            output.write_bytes(content.getvalue())

    return write_columns
