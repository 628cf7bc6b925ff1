"""The command line: `nnaccel train`, `predict`, `evaluate`, `inspect` and so on.

Results go to standard output, warnings and errors to standard error, one line each. Exit status
2 means wrong usage or data, 1 a check that failed, 130 an interruption.
"""

import argparse
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from nnaccel import __version__
from nnaccel.names import did_you_mean
from nnaccel.tables import TableWarning, existing_file, import_extra

if TYPE_CHECKING:
    from nnaccel.devices import Device
    from nnaccel.models import Model
    from nnaccel.recipes import Settings

EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    debug = False
    try:
        options = _parse(sys.argv[1:] if argv is None else [*argv])
        debug = options.debug
        import_extra("rich")  # where it is absent, the error says what to install
        with warnings.catch_warnings():
            warnings.simplefilter("default", TableWarning)
            warnings.showwarning = _show_warning
            status = COMMANDS[options.command].run(options) or 0
        if sys.stdout is not None:  # it may be closed from the start
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("nnaccel: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        from nnaccel.display import mute

        mute()
        return 0
    except EXPECTED as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"nnaccel: error: {_in_one_line(error)}", file=sys.stderr)
        return 2


def _in_one_line(error: BaseException) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        if not message.startswith("not enough memory"):
            message = f"not enough memory ({message}); use fewer units (--hidden) or fewer rows"
        message = message.replace("batch_size=", "--batch-size ")
    return message


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"nnaccel: warning: {' '.join(str(message).split())}", file=sys.stderr)


# ---------------------------------------------------------------------------- commands


def train(options: Any) -> None:
    from nnaccel import checkpoint, display
    from nnaccel.models import Fit
    from nnaccel.network import layout
    from nnaccel.sources import read

    settings = _settings(options)
    if options.print_config:
        _print_config(options)
        return
    if options.source is None:
        raise ValueError("train needs a SOURCE: a file or a built-in data set such as digits")
    if not 0 <= options.test_fraction < 1:
        raise ValueError(
            f"test_fraction must be at least 0 and below 1, got {options.test_fraction}"
        )
    device, console = _device(options.device, settings.dtype), display.console()
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
    )
    checkpoint.writable(output, 8 * layout(fit.network).size)
    console.print(f"{examples.source}: {display.plan(fit, device.name)}", soft_wrap=True)
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
    replaced = output.stat().st_mtime if output.exists() else None
    model.save(output)
    if replaced is not None:
        # Not among the results, since equal runs print equal ones.
        written = datetime.fromtimestamp(replaced).strftime("%Y-%m-%d %H:%M")
        print(f"nnaccel: the model of {written} in {output} is replaced", file=sys.stderr)
    use = shlex.join(["nnaccel", "predict", str(output), options.source])
    console.print(f"\nmodel written to {output}; use it: {use}", soft_wrap=True)


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
    from nnaccel import display

    model = _load(options.model)
    data, y = _rows(options.file, model, need_target=True)
    device = _device(options.device, str(model.params.dtype))
    scores = model.evaluate(data, y, device)
    title = f"{options.model} on {len(y):,} rows of {options.file}"
    display.console().print(display.scores(scores, title, model.target.classes))


def inspect(options: Any) -> None:
    from nnaccel import display

    display.console().print(display.model(_load(options.model), options.model))


def devices(options: Any) -> None:
    from nnaccel import display
    from nnaccel.devices import available

    display.console().print(display.devices(available()))


def gradcheck(options: Any) -> int:
    from nnaccel import display
    from nnaccel.checks import catalogue

    device = _device(options.device, "float64")
    checked = list(catalogue(device, options.seed))
    rows = ((name, f"{max(c.errors):.1e}", "ok" if c.passed else "FAILS") for name, c in checked)
    title = f"backpropagation against central differences, float64, on {device.name}"
    header = ("what", "relative error", f"at most {checked[0].check.tolerance:g}")
    display.console().print(display.table(title, header, rows))
    return 0 if all(c.passed for _, c in checked) else 1


def bench(options: Any) -> None:
    from nnaccel import display
    from nnaccel.benchmark import run

    if not 0 < options.seconds <= 3600:
        raise ValueError(f"seconds must be above 0 and at most 3600, got {options.seconds}")
    console = display.console()
    console.print(f"timing four networks on each device, about {options.seconds:g} s")
    console.print(display.speeds(run(options.device, seconds=options.seconds)))


# ---------------------------------------------------------------------------- their options


def _train_options(parser: Any) -> None:
    from nnaccel.datasets import NAMES
    from nnaccel.recipes import NAMES as WORDS
    from nnaccel.recipes import Settings

    defaults = Settings()

    def option(group: Any, name: str, *, help: str, **how: Any) -> None:
        """An option of that name; its default is that of the setting, if it is one."""
        how = {"default": getattr(defaults, name, None), **how}
        if "choices" in how:
            how["metavar"] = "NAME"
            help += ": " + ", ".join(how["choices"])
        if how["default"] not in (None, "auto", ("auto",)):
            help += " (default: %(default)s)"
        group.add_argument(f"--{name.replace('_', '-')}", help=help, **how)

    group = parser.add_argument_group("data")
    group.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a file (.csv, .tsv, .parquet, .feather, .npz) or a built-in data set: "
        + ", ".join(NAMES),
    )
    option(group, "target", metavar="COLUMN", help="the column to predict")
    option(group, "task", choices=WORDS["task"], help="what to learn, by default by the target")
    option(group, "drop", nargs="+", metavar="COLUMN", help="columns not to use")
    option(group, "test", metavar="FILE", help="a file with the rows to test on")
    option(group, "test_fraction", type=float, default=0.2, metavar="SHARE",
           help="of the rows, held out for the test")  # fmt: skip
    option(group, "validation_fraction", type=float, metavar="SHARE",
           help="of the training rows, held out to find the best epoch")  # fmt: skip
    option(group, "output", metavar="FILE", help="the model file (default: SOURCE.safetensors)")
    group = parser.add_argument_group("network")
    option(group, "hidden", type=int, nargs="*", metavar="UNITS",
           help="units of each hidden layer; nothing: a linear model")  # fmt: skip
    option(group, "activation", nargs="+", choices=WORDS["activation"], help="one, or one a layer")
    option(group, "dropout", type=float, metavar="RATE",
           help="the share of hidden units dropped in each step")  # fmt: skip
    option(group, "initializer", choices=WORDS["initializer"], help="of the weights")
    option(group, "dtype", choices=WORDS["dtype"], help="of the arithmetic")
    option(group, "precision", choices=WORDS["precision"],
           help="of the matrix products in training; the lower ones are for GPUs")  # fmt: skip
    _device_option(group)
    group = parser.add_argument_group("training")
    option(group, "loss", choices=WORDS["loss"], help="what to minimise")
    option(group, "quantile", type=float, metavar="SHARE",
           help="that the loss pinball estimates")  # fmt: skip
    option(group, "label_smoothing", type=float, metavar="SHARE",
           help="of the targets of softmax_cross_entropy")  # fmt: skip
    option(group, "class_weight", choices=("balanced",), help="let all classes count alike")
    option(group, "optimizer", choices=WORDS["optimizer"], help="the update rule")
    option(group, "learning_rate", type=float, metavar="RATE", help="the highest of the schedule")
    option(group, "schedule", choices=WORDS["schedule"], help="of the learning rate")
    option(group, "batch_size", type=int, metavar="ROWS", help="examples in a step")
    option(group, "epochs", type=int, metavar="N", help="passes over the training rows")
    option(group, "early_stopping", type=int, metavar="EPOCHS",
           help="stop after so many without a better validation loss; 0: never")  # fmt: skip
    option(group, "weight_decay", type=float, metavar="RATE", help="decoupled, as in AdamW")
    option(group, "l2", type=float, metavar="FACTOR", help="of the penalty l2/2 |W|^2")
    option(group, "clip_norm", type=float, metavar="NORM",
           help="the largest global norm of the gradient")  # fmt: skip
    option(group, "seed", type=int, metavar="N",
           help="of the split, the weights, the batches and dropout")  # fmt: skip
    group = parser.add_argument_group("configuration")
    option(group, "config", metavar="FILE", help="a YAML file with any of these options")
    group.add_argument("--print-config", action="store_true",
                       help="print the options as such a file, and do no more")  # fmt: skip


def _device_option(parser: Any) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1, torch, torch:mps, jax, ... "
        "(default: cuda where CuPy sees a device, else cpu)",
    )


def _model_option(parser: Any) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that nnaccel train wrote")


def _model_options(parser: Any, *, file: str) -> None:
    _model_option(parser)
    parser.add_argument("file", metavar="FILE", help=file)
    _device_option(parser)


def _predict_options(parser: Any) -> None:
    _model_options(parser, file="the rows to predict: a table, an .npz or a built-in data set")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="a .csv, .parquet or .feather file (default: CSV to standard output)",
    )
    parser.add_argument(
        "--proba", action="store_true", help="the probability of each class beside the label"
    )


def _gradcheck_options(parser: Any) -> None:
    _device_option(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the networks and directions"
    )


def _bench_options(parser: Any) -> None:
    parser.add_argument(
        "--device", nargs="+", metavar="NAME", help="devices to time (default: cpu, and CUDA's)"
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="to spend, about (default: 40)")


class Command(NamedTuple):
    """What a command does, what adds its options to a parser, and how `--help` shows it."""

    run: Callable[[Any], int | None]
    add_options: Callable[[Any], None]
    usage: str
    summary: str


COMMANDS: dict[str, Command] = {
    "train": Command(
        train,
        _train_options,
        "SOURCE [options]",
        "Train a network on a file or a built-in data set.",
    ),
    "predict": Command(
        predict,
        _predict_options,
        "MODEL FILE [options]",
        "Predict the rows of a file.",
    ),
    "evaluate": Command(
        evaluate,
        partial(_model_options, file="rows with their target"),
        "MODEL FILE [options]",
        "Score a model on the rows of a file.",
    ),
    "inspect": Command(inspect, _model_option, "MODEL", "Show what a model file holds."),
    "devices": Command(
        devices, lambda parser: None, "[options]", "List the devices of this machine."
    ),
    "gradcheck": Command(
        gradcheck,
        _gradcheck_options,
        "[options]",
        "Check every derivative against central differences.",
    ),
    "bench": Command(bench, _bench_options, "[options]", "Time training on this machine."),
}


# ---------------------------------------------------------------------------- their parser


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors like all others, each with a remedy."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:  # said here, where the options of the command are known
            known = [name for action in self._actions for name in action.option_strings]
            close = did_you_mean(unknown[0].partition("=")[0], known)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{close}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Raises ValueError."""
        wrong, _, choices = message.partition(" (choose from ")
        if choices:
            word = wrong.rpartition("invalid choice: ")[2].strip("'")
            message += did_you_mean(word, re.findall(r"[\w.]+", choices))
        hint = "" if "did you mean" in message else f"; see {self.prog} --help"
        raise ValueError(message + hint)


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser, and those of the commands by name."""
    root = _Parser(
        prog="nnaccel",
        usage="nnaccel COMMAND ...",
        description="Feed-forward neural networks for tables, on the device you name.",
        epilog="nnaccel COMMAND --help shows the options of a command.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"nnaccel {__version__}")
    commands = root.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands", prog="nnaccel"
    )
    parsers = {}
    for name, (_, add_options, usage, summary) in COMMANDS.items():
        parsers[name] = commands.add_parser(
            name,
            usage=f"nnaccel {name} {usage}",
            help=summary,
            description=summary,
            allow_abbrev=False,
        )
        add_options(parsers[name])
        parsers[name].add_argument(
            "--debug", action="store_true", help="show the traceback of an error"
        )
    return root, parsers


def _parse(argv: list[str]) -> Any:
    """The options; what a configuration says is read like arguments, and becomes the default."""
    root, parsers = _parser()
    options = root.parse_args(argv)
    if getattr(options, "config", None):
        parser, values = parsers[options.command], _read_config(options.config, vars(options))
        parser.set_defaults(**vars(parser.parse_args(_as_arguments(values))))
        options = root.parse_args(argv)
    return options


def _read_config(path: str, known: Iterable[str]) -> dict[str, Any]:
    yaml = import_extra("yaml")
    try:
        values = yaml.safe_load(existing_file(path).read_text("utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {_in_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold lines such as 'epochs: 20', got {str(values)[:60]!r}")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    allowed = [name for name in known if name not in NOT_IN_CONFIG]
    if unknown := [name for name in values if name not in allowed]:
        close = did_you_mean(unknown[0], allowed)
        raise ValueError(f"{path}: unknown option {unknown[0]!r}{close}")
    return values


def _as_arguments(values: Mapping[str, Any]) -> list[str]:
    arguments = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        elif name == "source":
            arguments.insert(0, str(value))
        elif value is True:
            arguments.append(option)
        elif isinstance(value, list):
            arguments += [option, *map(str, value)]
        else:
            arguments.append(f"{option}={value}")
    return arguments


def _print_config(options: Any) -> None:
    values = {name: value for name, value in vars(options).items() if name not in NOT_IN_CONFIG}
    values["activation"] = [*values["activation"]]
    print(import_extra("yaml").safe_dump(values, sort_keys=False, allow_unicode=True), end="")


NOT_IN_CONFIG = ("command", "config", "print_config")


# ---------------------------------------------------------------------------- what they share


def _settings(options: Any) -> "Settings":
    from nnaccel.recipes import Settings

    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return Settings(**{n: plain(getattr(options, n)) for n in Settings.__dataclass_fields__})


def _device(name: str, dtype: str) -> "Device":
    from nnaccel.devices import dtype_of, prepare, select

    device = select(name)
    prepare(device, dtype)
    dtype_of(device, dtype)
    return device


def _load(path: str) -> "Model":
    from nnaccel.models import Model

    return Model.load(existing_file(path))


def _rows(file: str, model: "Model", *, need_target: bool) -> tuple[Any, Any]:
    from nnaccel.models import labelled
    from nnaccel.sources import read

    examples = read(file, model.target.name, need_target=need_target)
    data, y = examples.data, examples.y
    if examples.test is not None:
        data, y = examples.test
    return labelled(data, y, model.target.name) if need_target else (data, y)


def _check_output(path: Path) -> None:
    """Refuse to write over a file that is no model, before anything else is done."""
    from nnaccel.checkpoint import is_model, writable

    writable(path)
    if path.exists() and not is_model(path):
        raise FileExistsError(f"{path} exists and is no model file; choose another --output")


def _table_writer(path: str | None, *, source: str) -> Callable[[dict[str, Any]], None]:
    """What writes columns as a file of the kind that its name says, or as CSV to standard output.

    Refuses, before anything else is done, what cannot be written, and to write over the source.
    """
    from nnaccel.checkpoint import writable, write
    from nnaccel.tables import WRITERS

    suffix = ".csv" if path is None else Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"output must end in {', '.join(WRITERS)}, got {path}")
    if path is None and sys.stdout is None:
        raise OSError("standard output is closed; name a file with --output")
    if path is not None:
        writable(path)
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise FileExistsError(f"{path} is the file to predict; choose another --output")

    def write_columns(columns: dict[str, Any]) -> None:
        pa = import_extra("pyarrow")
        table, content = pa.table(columns), pa.BufferOutputStream()
        WRITERS[suffix](table, content)
        if path is None:
            sys.stdout.buffer.write(content.getvalue())
        else:
            write(path, content.getvalue())
            print(f"{table.num_rows:,} predictions written to {path}", file=sys.stderr)

    return write_columns
