"""The command line: `nnaccel train`, `predict`, `evaluate`, `inspect`, `devices`, `gradcheck`.

Results go to standard output, warnings and errors to standard error, one line each. Exit status
2 means wrong usage or data, 1 a check that failed, 130 an interruption.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nnaccel import __version__
from nnaccel.names import did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

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
    try:
        parsed = _parser().parse_args(argv)
    except ImportError as error:
        return _fail(error)
    options = parsed[parsed.command]
    warnings.showwarning = _show_warning
    try:
        return COMMANDS[parsed.command](options) or 0
    except KeyboardInterrupt:
        print("nnaccel: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EXPECTED as error:
        if options.get("debug"):
            raise
        return _fail(error)


def _fail(error: BaseException) -> int:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror.lower()}"
    print(f"nnaccel: error: {message}", file=sys.stderr)
    return 2


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"nnaccel: warning: {' '.join(str(message).split())}", file=sys.stderr)


# ---------------------------------------------------------------------------- options


def _parser() -> Any:
    """The parser of all commands, whose options can also come from a YAML file."""
    try:
        from jsonargparse import ArgumentParser
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the command line needs more packages: python -m pip install 'nnaccel[cli]'"
        ) from None

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            """One line on standard error, exit status 2."""
            line = " ".join(message.split())
            unknown = [word for word in line.replace("'", " ").split() if word.startswith("--")]
            known = [option for action in self._actions for option in action.option_strings]
            hint = did_you_mean(unknown[0], known) if unknown and unknown[0] not in known else ""
            print(f"nnaccel: error: {line.rstrip('.')}{hint}", file=sys.stderr)
            sys.exit(2)

    def parser(description: str, **options: Any) -> Any:
        return Parser(
            prog="nnaccel",
            description=description,
            print_config="--print-%s",
            allow_abbrev=False,
            **options,
        )

    root = parser(
        "Feed-forward neural networks for tables, on the device you name.", version=__version__
    )
    commands = root.add_subcommands(dest="command", required=True, metavar="COMMAND")
    for name, (add_options, summary) in OPTIONS.items():
        command = parser(summary)
        add_options(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        commands.add_subcommand(name, command, help=summary)
    return root


def _train_options(parser: Any) -> None:
    from nnaccel.datasets import NAMES
    from nnaccel.recipes import NAMES as WORDS
    from nnaccel.recipes import Settings

    add, defaults = parser.add_argument, Settings()

    def setting(name: str, **options: Any) -> None:
        add(f"--{name.replace('_', '-')}", default=getattr(defaults, name), **options)

    add(
        "source",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="SOURCE",
        help="a file (.csv, .tsv, .parquet, .feather, .npz) or a built-in data set: "
        + ", ".join(NAMES),
    )
    add("--config", action="config", help="a YAML file with any of these options")
    add("--target", type=str, help="the column to predict")
    add("--test", type=str, metavar="FILE", help="a file with the rows to test on")
    add("--test-fraction", type=float, default=0.2, help="of the rows, held out for the test")
    add("--drop", nargs="+", type=str, metavar="COLUMN", help="columns not to use")
    _device_option(parser)
    add("--output", type=str, metavar="FILE", help="the model file (default: SOURCE.safetensors)")
    setting("task", choices=WORDS["task"], help="what to learn (auto: by the target)")
    setting("hidden", type=int, nargs="*", metavar="UNITS",
            help="units of each hidden layer; none: a linear model")  # fmt: skip
    add("--activation", nargs="+", default=["auto"], choices=WORDS["activation"], metavar="NAME",
        help="one, or one a layer: " + ", ".join(WORDS["activation"]))  # fmt: skip
    setting("dropout", type=float, help="the share of hidden units dropped in each step")
    setting("initializer", choices=WORDS["initializer"], help="of the weights")
    setting("loss", choices=WORDS["loss"], help="what to minimise")
    setting("quantile", type=float, help="the quantile that the loss 'pinball' estimates")
    setting("label_smoothing", type=float, help="of the targets of 'softmax_cross_entropy'")
    setting("class_weight", choices=("balanced",), help="let all classes count alike")
    setting("optimizer", choices=WORDS["optimizer"], help="the update rule")
    setting("learning_rate", type=float, help="the highest rate of the schedule")
    setting("schedule", choices=WORDS["schedule"], help="of the learning rate")
    setting("batch_size", type=int, help="examples a step")
    setting("epochs", type=int, help="passes over the training rows")
    setting("early_stopping", type=int, metavar="EPOCHS",
            help="stop after so many without a better validation loss; 0: never")  # fmt: skip
    setting("validation_fraction", type=float, help="of the training rows, to find the best epoch")
    setting("weight_decay", type=float, help="decoupled, as in AdamW")
    setting("l2", type=float, help="of the penalty l2/2 |W|^2")
    setting("clip_norm", type=float, help="the largest global norm of the gradient")
    setting("seed", type=int, help="of the split, the weights, the batches and dropout")
    setting("dtype", choices=WORDS["dtype"], help="of the arithmetic")


def _device_option(parser: Any) -> None:
    parser.add_argument(
        "--device",
        type=str,
        default="auto",
        help="cpu, cuda, cuda:1, torch, torch:mps, jax, ... (auto: CUDA where CuPy sees a device)",
    )


def _model_options(parser: Any, *, file: str) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that nnaccel train wrote")
    parser.add_argument("file", metavar="FILE", help=file)
    _device_option(parser)


def _predict_options(parser: Any) -> None:
    _model_options(parser, file="the rows to predict: a table, an .npz or a built-in data set")
    parser.add_argument(
        "--output", type=str, help="a .csv, .parquet or .feather file (default: CSV to stdout)"
    )
    parser.add_argument(
        "--proba", action="store_true", help="the probability of each class beside the label"
    )


def _inspect_options(parser: Any) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that nnaccel train wrote")


# ---------------------------------------------------------------------------- commands


def train(options: Any) -> None:
    from nnaccel import checkpoint, display
    from nnaccel.batches import n_steps
    from nnaccel.models import Fit
    from nnaccel.network import layout
    from nnaccel.sources import read

    settings = _settings(options)
    if "source" not in options:
        raise ValueError("train needs a SOURCE: a file or a built-in data set such as digits")
    if not 0 <= options.test_fraction < 1:
        raise ValueError(
            f"test-fraction must be at least 0 and below 1, got {options.test_fraction}"
        )
    device, console = _device(options.device, settings.dtype), _console()
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
    chosen = fit.settings
    assert chosen.epochs and chosen.batch_size and chosen.hidden is not None
    rows = ", ".join(f"{n:,} {name}" for name, n in fit.rows.items() if n)
    sizes = [fit.network.n_inputs, *chosen.hidden, fit.network.n_outputs]
    console.print(
        f"{examples.source}: {fit.target.task} of {fit.target.name!r}, rows: {rows}\n"
        f"network {'-'.join(map(str, sizes))}, {' '.join(chosen.activation)}, dropout "
        f"{chosen.dropout or 0:g}, {layout(fit.network).size:,} parameters, on {device.name}\n"
        f"{chosen.optimizer}, {chosen.schedule} schedule up to {chosen.learning_rate:g}, weight "
        f"decay {chosen.weight_decay:g}, {chosen.epochs} epochs in batches of {chosen.batch_size}, "
        f"{n_steps(fit.rows['train'], chosen.batch_size, chosen.epochs):,} steps",
        soft_wrap=True,
    )
    for _ in display.follow(fit, chosen.epochs, fit.metric.name, console):
        pass
    model = fit.model()
    if fit.rows["validation"]:
        console.print(f"the weights are those of epoch {fit.best}, the best on validation")
    if fit.test is not None:
        scores = model.evaluate(*fit.test, device=device)
        plain = {name: value for name, value in scores.items() if name != "confusion matrix"}
        model = model._replace(scores=plain)
        title = f"test on {fit.rows['test']:,} rows"
        console.print(display.scores(scores, title, fit.target.classes))
    model.save(output)
    console.print(
        f"model written to {output}; use it: nnaccel predict {output} "
        f"{options.source if examples.names else 'FILE'}",
        soft_wrap=True,
    )


def predict(options: Any) -> None:
    model = _load(options.model)
    output = None if options.output is None else Path(options.output)
    write = _table_writer(output)
    data, _ = _rows(options.file, model, need_target=False)
    if options.proba and model.target.task == "regression":
        raise ValueError("proba is for classification, and this model predicts numbers")
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
    _console().print(display.scores(scores, title, model.target.classes))


def inspect(options: Any) -> None:
    from nnaccel import display
    from nnaccel.metrics import for_loss

    model = _load(options.model)
    console, target = _console(), model.target
    of = f"{len(target.classes)} classes" if target.classes else (
        f"mean {display.number(target.mean)}, scale {display.number(target.scale)}"
    )  # fmt: skip
    console.print(
        f"{options.model}: {target.task} of {target.name!r} ({of}), loss {model.loss.name}, "
        f"{model.params.shape[-1]:,} parameters of {model.params.dtype}",
        soft_wrap=True,
    )
    console.print(display.table("layers", LAYER_HEADER, _layer_rows(model)))
    console.print(display.table("columns", ("column", "encoded as"), _column_rows(model)))
    chosen = {k: v for k, v in model.settings.items() if v not in (None, [], "auto")}
    shown = ((k, " ".join(map(str, v)) if isinstance(v, list) else v) for k, v in chosen.items())
    console.print(display.table("settings", ("setting", "value"), shown))
    if model.history:
        names = [*model.history[0]]
        keep = sorted({*range(0, len(model.history), -(-len(model.history) // 10)),
                       len(model.history) - 1})  # fmt: skip
        rows = ([i + 1, *map(display.number, model.history[i].values())] for i in keep)
        metric = for_loss(model.loss).name
        header = ("epoch", *(n.replace("metric", metric).replace("_", " ") for n in names))
        console.print(display.table("training", header, rows))
    if model.scores:
        console.print(display.scores(model.scores, "test", target.classes))


def devices(options: Any) -> None:
    from nnaccel import display
    from nnaccel.devices import available

    def size(number: int | None) -> str:
        return "" if number is None else f"{number / 2**30:.1f} GiB"

    rows = [
        (d.name, d.library, d.problem or d.hardware, size(d.memory_total), size(d.memory_free))
        for d in available()
    ]
    header = ("device", "library", "hardware", "memory", "free")
    _console().print(display.table("devices", header, rows))


def gradcheck(options: Any) -> int:
    import numpy as np

    from nnaccel import display
    from nnaccel.gradients import catalogue

    device = _device(options.device, "float64")
    with device.context():
        rng = np.random.default_rng(options.seed)
        rows = list(catalogue(device.xp, device.asarray, rng, host=np))
    failed = [row for row in rows if not row.error <= row.tolerance]
    _console().print(
        display.table(
            f"backpropagation against central differences, float64, on {device.name}",
            ("what", "relative error", f"at most {rows[0].tolerance:g}"),
            ((r.name, f"{r.error:.1e}", "FAILS" if r in failed else "ok") for r in rows),
        )
    )
    return 1 if failed else 0


def _gradcheck_options(parser: Any) -> None:
    _device_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the networks and directions")


OPTIONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "train": (_train_options, "Train a network on a file or a built-in data set."),
    "predict": (_predict_options, "Predict the rows of a file."),
    "evaluate": (
        partial(_model_options, file="rows with their target"),
        "Score a model on the rows of a file.",
    ),
    "inspect": (_inspect_options, "Show what a model file holds."),
    "devices": (lambda parser: None, "List the devices of this machine."),
    "gradcheck": (_gradcheck_options, "Check every derivative against central differences."),
}
COMMANDS: dict[str, Callable[[Any], int | None]] = {
    "train": train,
    "predict": predict,
    "evaluate": evaluate,
    "inspect": inspect,
    "devices": devices,
    "gradcheck": gradcheck,
}


# ---------------------------------------------------------------------------- what they share


def _console() -> "Console":
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def _settings(options: Any) -> "Settings":
    from nnaccel.recipes import Settings

    values = {k: v for k, v in options.as_dict().items() if k in Settings.__dataclass_fields__}
    for name in ("hidden", "activation"):
        if values[name] is not None:
            values[name] = tuple(values[name])
    return Settings(**values)


def _device(name: str, dtype: str) -> "Device":
    from nnaccel.devices import dtype_of, prepare, select

    device = select(name)
    prepare(device, dtype)
    dtype_of(device, dtype)
    return device


def _load(path: str) -> "Model":
    from nnaccel.models import Model
    from nnaccel.tables import existing_file

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


def _table_writer(path: Path | None) -> Callable[[dict[str, Any]], None]:
    """What writes a table to a file by its extension, or as CSV to standard output."""
    from nnaccel.checkpoint import writable
    from nnaccel.tables import WRITERS, import_extra

    suffix = ".csv" if path is None else path.suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"output must end in {', '.join(WRITERS)}, got {path}")
    if path is not None:
        writable(path)

    def write(columns: dict[str, Any]) -> None:
        table = import_extra("pyarrow").table(columns)
        WRITERS[suffix](table, sys.stdout.buffer if path is None else str(path))
        if path is not None:
            print(f"{table.num_rows:,} predictions written to {path}", file=sys.stderr)

    return write


LAYER_HEADER = ("layer", "outputs", "parameters", "details")


def _layer_rows(model: "Model") -> list[tuple[Any, ...]]:
    from math import prod

    from nnaccel.checkpoint import describe
    from nnaccel.layers import Param
    from nnaccel.network import leaves

    rows, D = [("input", model.network.n_inputs, 0, "")], model.network.n_inputs
    data = describe(model.network)["layers"]
    for layer, described in zip(model.network.layers, data, strict=True):
        size = sum(prod(param.shape) for param in leaves(layer.params(D), Param))
        D = layer.width(D)
        details = {k: v for k, v in described.items() if k not in ("type", "units")}
        if "activation" in details:
            details["activation"] = details["activation"]["name"]
        text = ", ".join(f"{k} {v}" for k, v in details.items() if k != "layers")
        rows.append((described["type"], D, f"{size:,}", text))
    return rows


def _column_rows(model: "Model") -> list[tuple[str, str]]:
    features = model.features
    rows = [
        (c.name, f"(x - {c.center:.4g}) / {c.scale:.4g}" + ", squashed" * c.squash
         + ", missing indicator" * c.missing)
        for c in features.numeric[:SHOWN_COLUMNS]
    ]  # fmt: skip
    if len(features.numeric) > SHOWN_COLUMNS:
        rows.append(("...", f"{len(features.numeric) - SHOWN_COLUMNS:,} more numbers"))
    for c in features.categorical:
        states = c.states
        more = f" and {len(states) - 8} more" if len(states) > 8 else ""
        rows.append((c.name, "one-hot: " + ", ".join(states[:8]) + more))
    rows += [(name, f"not used: {reason}") for name, reason in features.dropped.items()]
    return rows


SHOWN_COLUMNS = 24
