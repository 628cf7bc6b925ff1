"""The command line: `nnaccel train`, `predict`, `evaluate`, `inspect` and so on.

Results go to standard output, warnings and errors to standard error, one line each. Exit status
2 means wrong usage or data, 1 a check that failed, 130 an interruption.
"""

import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from nnaccel import __version__
from nnaccel.cli import commands
from nnaccel.cli.config_file import as_arguments, read_config
from nnaccel.cli.messages import EXPECTED, in_one_line, show_warning
from nnaccel.cli.options import (
    Parser,
    bench_options,
    gradcheck_options,
    model_option,
    model_options,
    predict_options,
    train_options,
)
from nnaccel.tabular.tables import TableWarning, import_extra


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    debug = False
    try:
        options = _parse(sys.argv[1:] if argv is None else [*argv])
        debug = options.debug
        import_extra("rich")  # where it is absent, the error says what to install
        with warnings.catch_warnings():
            warnings.simplefilter("default", TableWarning)
            warnings.showwarning = show_warning
            status = COMMANDS[options.command].run(options) or 0
        if sys.stdout is not None:  # it may be closed from the start
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("nnaccel: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        from nnaccel.cli.display import mute

        mute()
        return 0
    except EXPECTED as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"nnaccel: error: {in_one_line(error)}", file=sys.stderr)
        return 2


class Command(NamedTuple):
    """What a command does, what adds its options to a parser, and how `--help` shows it."""

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
    "predict": Command(
        commands.predict,
        predict_options,
        "MODEL FILE [options]",
        "Predict the rows of a file.",
    ),
    "evaluate": Command(
        commands.evaluate,
        partial(model_options, file="rows with their target"),
        "MODEL FILE [options]",
        "Score a model on the rows of a file.",
    ),
    "inspect": Command(commands.inspect, model_option, "MODEL", "Show what a model file holds."),
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
    """The options; what a configuration says is read like arguments, and becomes the default."""
    root, parsers = build_parser()
    options = root.parse_args(argv)
    if getattr(options, "config", None):
        parser, values = parsers[options.command], read_config(options.config, vars(options))
        parser.set_defaults(**vars(parser.parse_args(as_arguments(values))))
        options = root.parse_args(argv)
    return options
