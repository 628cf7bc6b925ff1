"""The command line: `nnaccel train`, `predict`, `evaluate`, `inspect` and so on.

Results go to standard output, warnings and errors to standard error, one line each. Exit status 2
means wrong usage or data, 1 a failed check, 70 a fault of the program, 130 an interruption, and 141
a reader that closed the pipe early.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

from nnaccel import __version__
from nnaccel.cli import commands
from nnaccel.cli.config_file import read_config
from nnaccel.cli.messages import report, show_warning
from nnaccel.cli.options import (
    Parser,
    bench_options,
    evaluate_options,
    explain_options,
    export_options,
    gradcheck_options,
    model_option,
    predict_options,
    train_options,
    tune_options,
)
from nnaccel.cli.streams import Output, say
from nnaccel.tabular.tables import TableWarning, import_extra

INTERRUPTED, READER_LEFT = 130, 141  # 128 plus the signal, as in shells: SIGINT, SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else [*argv]
    output = Output(sys.stdout)
    try:
        if sys.stdout is None:
            raise OSError("standard output is closed; send it to a file, or to /dev/null")
        with redirect_stdout(output):
            status = _run(arguments, output)
            output.flush()
        if output.failure is not None:
            raise output.failure
        return status
    except KeyboardInterrupt:
        say("nnaccel: interrupted; nothing was written")
        return INTERRUPTED
    except Exception as error:
        if error is output.failure and isinstance(error, BrokenPipeError):
            return 0 if output.goes_on else READER_LEFT
        return report(error, debug="--debug" in arguments)


def _run(arguments: list[str], output: Output) -> int:
    try:
        options = _parse(arguments)
    except SystemExit:  # after --help or --version
        return 0
    # Training writes a file, which must not be lost because nobody reads the report.
    output.goes_on = options.command in ("train", "tune") and not options.print_config
    options.arguments = arguments
    import_extra("rich")  # if it is absent, the error says what to install
    with warnings.catch_warnings():
        warnings.simplefilter("default", TableWarning)
        warnings.showwarning = show_warning
        return COMMANDS[options.command].run(options) or 0


class Command(NamedTuple):
    """The function of a command, the function that adds its options to a parser, and its texts in
    `--help`."""

    run: Callable[[Any], int | None]
    add_options: Callable[[Any], None]
    usage: str
    summary: str


COMMANDS: dict[str, Command] = {
    "train": Command(
        commands.train,
        train_options,
        "SOURCE [options]",
        "Train a network on a file or a built-in data set.",
    ),
    "tune": Command(
        commands.tune,
        tune_options,
        "SOURCE [options]",
        "Search for better settings, and train a network with the best.",
    ),
    "predict": Command(
        commands.predict,
        predict_options,
        "MODEL FILE [options]",
        "Predict the rows of a file.",
    ),
    "evaluate": Command(
        commands.evaluate,
        evaluate_options,
        "MODEL [MODEL ...] FILE [options]",
        "Score a model on the rows of a file, or compare several.",
    ),
    "inspect": Command(
        commands.inspect, model_option, "MODEL", "Show the content of a model file."
    ),
    "explain": Command(
        commands.explain,
        explain_options,
        "MODEL FILE [options]",
        "Show how much each column matters, to the score or to one row.",
    ),
    "export": Command(
        commands.export,
        export_options,
        "MODEL FILE [options]",
        "Write a model as ONNX, as a file of NumPy alone, or for PyTorch.",
    ),
    "devices": Command(
        commands.devices, lambda parser: None, "[options]", "List the devices of this machine."
    ),
    "gradcheck": Command(
        commands.gradcheck,
        gradcheck_options,
        "[options]",
        "Check every derivative against central differences.",
    ),
    "bench": Command(commands.bench, bench_options, "[options]", "Time training on this machine."),
}


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of the commands by name."""
    root = Parser(
        prog="nnaccel",
        usage="nnaccel COMMAND ...",
        description="Feed-forward neural networks for tables, on the device you name.",
        epilog="nnaccel COMMAND --help shows the options of a command.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"nnaccel {__version__}")
    added = root.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands", prog="nnaccel"
    )
    parsers = {}
    for name, (_, add_options, usage, summary) in COMMANDS.items():
        parsers[name] = added.add_parser(
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
    """The options. The values of a configuration become defaults."""
    root, parsers = build_parser()
    options = root.parse_args(argv)
    if getattr(options, "config", None):
        parser = parsers[options.command]
        parser.set_defaults(**read_config(options.config, parser.actions))
        options = root.parse_args(argv)
    return options
