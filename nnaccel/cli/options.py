"""The options of each command, and a parser whose errors name the remedy."""

import argparse
import re
from typing import Any, NoReturn

from nnaccel.arguments import did_you_mean

OF_EITHER = "a file that nnaccel train wrote, or that an estimator has saved"
READ = "By default as the content of the file suggests; docs/tables.md has the rules."


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors as ValueErrors with a remedy."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # -1e20 is a number, not an option

    @property
    def actions(self) -> list[argparse.Action]:
        """argparse's description of each option."""
        return self._actions

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:  # raised here, where the options of the command are known
            known = [name for action in self.actions for name in action.option_strings]
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


def train_options(parser: Any) -> None:
    group = parser.add_argument_group("data")
    data_options(group)
    run_options(group)
    settings_options(parser)
    checkpoint_options(parser.add_argument_group("interruption"))
    joining_options(parser.add_argument_group("several processes"))
    config_options(parser.add_argument_group("configuration"))


def tune_options(parser: Any) -> None:
    from nnaccel.cli.checkpoints import duration
    from nnaccel.tabular.space import SECONDS, TRIALS

    data_options(parser.add_argument_group("data"))
    group = parser.add_argument_group("search", "What is given of the network and the training "
                                      "is the same for all trials.")  # fmt: skip
    option(group, "trials", type=int, default=TRIALS, metavar="N", help="settings to try, at most")
    option(group, "time", type=duration, default=f"{SECONDS / 60:.0f}m", metavar="TIME",
           help="for the search and the fit of the best settings: 30s, 10m, 2h")  # fmt: skip
    option(group, "checkpoint", metavar="FILE",
           help="what the search can go on from, written after each rung")  # fmt: skip
    option(group, "resume", metavar="FILE",
           help="go on from a checkpoint, by the same command; --time may grow")  # fmt: skip
    settings_options(parser)
    config_options(parser.add_argument_group("configuration"))


def settings_options(parser: Any) -> None:
    """How the table is read and what is trained on it, alike for one run and for a search."""
    group = parser.add_argument_group("how a table is read", READ)
    reading_options(group)
    column_options(group)
    network_options(parser.add_argument_group("network"))
    training_options(parser.add_argument_group("training"))


def config_options(group: Any) -> None:
    option(group, "config", metavar="FILE", help="a YAML file with any of these options")
    group.add_argument("--print-config", action="store_true",
                       help="print the options as such a file, and do no more")  # fmt: skip


def data_options(group: Any) -> None:
    from nnaccel.tabular.datasets import NAMES

    group.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a file (.csv, .tsv, .parquet, .feather, .npz), shop.duckdb:TABLE, shop.sqlite:TABLE, "
        "a query such as \"from 'sales/*.csv' where year > 2020\", or a built-in data set: "
        + ", ".join(NAMES),
    )
    option(group, "target", nargs="+", metavar="COLUMN",
           help="the column to predict; several: numbers, or two classes each")  # fmt: skip
    named_option(group, "task", help="the task; by default the target decides")
    option(group, "weights", metavar="COLUMN", help="how much each row counts")
    option(group, "test", metavar="SOURCE", help="the rows to test on")
    option(group, "test_fraction", type=float, default=0.2, metavar="SHARE",
           help="the share of the rows held out for the test")  # fmt: skip
    option(group, "validation_fraction", type=float, metavar="SHARE",
           help="of the training rows, held out to find the best epoch")  # fmt: skip
    option(group, "output", metavar="FILE", help="the model file (default: SOURCE.safetensors)")
    group.add_argument("--force", action="store_true",
                       help="replace an older model file, or checkpoint")  # fmt: skip
    option(group, "json", metavar="FILE", help="write the scores there, as JSON")


def run_options(group: Any) -> None:
    """How one run reads its rows, and what it notes beside the model."""
    stream_option(group)
    option(group, "cache", metavar="DIR",
           help="for the encoded rows of a streamed table (default: the output's)")  # fmt: skip
    option(group, "plot", metavar="FILE",
           help="draw the boundary between classes there, for two columns of numbers")  # fmt: skip
    option(group, "log", metavar="FILE", help="note each epoch there as it ends: .jsonl or .csv")
    option(group, "report", metavar="FILE",
           help="tell of the run there, on one .html page: scores, curves, columns")  # fmt: skip


def checkpoint_options(group: Any) -> None:
    from nnaccel.cli.checkpoints import EVERY, period

    option(group, "checkpoint", metavar="FILE",
           help="write checkpoints to this file, from which the run can resume")  # fmt: skip
    option(group, "every", metavar="PERIOD", type=period,
           help="how often a checkpoint is written: epochs, or a time such as 30s, 10m, 2h "
           f"(default: {EVERY})")  # fmt: skip
    option(group, "resume", metavar="FILE",
           help="resume from a checkpoint, by the same command; --epochs may grow")  # fmt: skip


def joining_options(group: Any) -> None:
    from nnaccel.cli.joining import CLUSTER

    option(group, "join", nargs="?", const=CLUSTER, metavar="HOST:PORT",
           help="train in all processes that a launcher (Slurm, mpiexec) has started, or, with the "
           "address of the first, in N of them; --device 'jax:gpu:*'")  # fmt: skip
    option(group, "process", metavar="I/N", help="the number of this process, from 0/N")


def reading_options(group: Any) -> None:
    """Add the options for the structure of delimited text, where its content does not show it."""
    option(group, "delimiter", metavar="CHARACTER",
           help="the separator of cells in a text file: a character, tab or space")  # fmt: skip
    option(group, "header", choices=("yes", "no"), metavar="yes|no",
           help="whether the first line of a text file has the names")  # fmt: skip
    option(group, "encoding", metavar="NAME", help="the encoding of a text file, such as latin-1")


def column_options(group: Any) -> None:
    option(group, "drop", nargs="+", metavar="COLUMN", help="columns not to use")
    option(group, "keep", nargs="+", metavar="COLUMN",
           help="columns to use in any case")  # fmt: skip
    option(group, "decimal", choices=(".", ","), metavar="MARK",
           help="the decimal mark of numbers in text: . or ,")  # fmt: skip
    option(group, "missing", nargs="+", metavar="CODE",
           help="numbers that stand for no value, or none (default: those far off)")  # fmt: skip


def network_options(group: Any) -> None:
    option(group, "hidden", type=int, nargs="*", metavar="UNITS",
           help="units of each hidden layer; nothing: a linear model")  # fmt: skip
    named_option(group, "activation", nargs="+", help="the activation, or one for each layer")
    named_option(group, "numbers", help="the form of numbers in the input; auto: the best by the "
                 "out-of-fold loss")  # fmt: skip
    option(group, "members", type=int, metavar="K",
           help="networks on K folds of the rows, whose mean is predicted "
           "(default: 5 for tables up to 100,000 rows without --hidden, else 1)")  # fmt: skip
    option(group, "dropout", type=float, metavar="RATE",
           help="the share of hidden units dropped in each step")  # fmt: skip
    option(group, "dropout_until", type=float, metavar="SHARE",
           help="the share of the epochs, from the first on, that have dropout")  # fmt: skip
    named_option(group, "initializer", help="how initial weights are drawn")
    named_option(group, "dtype", help="the type of the numbers")
    products = "the precision of matrix products in training; lower ones are for GPUs"
    named_option(group, "precision", help=products)
    device_option(group)
    group.add_argument("--no-kernels", action="store_true",
                       help="run the definitions instead of the kernels, step by step")  # fmt: skip


def training_options(group: Any) -> None:
    named_option(group, "loss", help="what to minimise")
    option(group, "quantile", type=float, nargs="+", metavar="SHARE",
           help="that is estimated, by the loss pinball; several at once")  # fmt: skip
    option(group, "label_smoothing", type=float, metavar="SHARE",
           help="the share of each target that is spread over the classes")  # fmt: skip
    option(group, "class_weight", choices=("balanced",), help="give all classes equal weight")
    named_option(group, "optimizer", help="the update rule")
    option(
        group, "learning_rate", type=float, metavar="RATE", help="the highest rate of the schedule"
    )
    named_option(group, "schedule", help="the course of the learning rate")
    option(group, "batch_size", type=int, metavar="ROWS", help="rows in a step")
    option(group, "epochs", type=int, metavar="N", help="passes over the training rows")
    option(group, "early_stopping", type=int, metavar="EPOCHS",
           help="stop after so many without a better validation loss; 0: never")  # fmt: skip
    option(group, "scoring", metavar="NAME",
           help="of scikit-learn's scorers, such as roc_auc or neg_mean_absolute_error, by which "
           "the best epoch is told")  # fmt: skip
    option(group, "weight_decay", type=float, metavar="RATE", help="decoupled, as in AdamW")
    option(group, "l2", type=float, metavar="FACTOR", help="the factor of the penalty l2/2 |W|^2")
    option(group, "clip_norm", type=float, metavar="NORM",
           help="the largest global norm of the gradient")  # fmt: skip
    option(group, "seed", type=int, metavar="N",
           help="the seed of split, weights, batches and dropout; 0 to 2^64 - 1")  # fmt: skip


def option(group: Any, name: str, *, help: str, **how: Any) -> None:
    """Add an option. Its default is that of the setting with its name, if there is one."""
    from nnaccel.tabular.settings import Settings

    how = {"default": getattr(Settings(), name, None), **how}
    if "choices" in how and "metavar" not in how:
        how["metavar"] = "NAME"
        help += ": " + ", ".join(how["choices"])
    if how["default"] not in (None, "auto", ("auto",)):
        help += " (default: %(default)s)"
    group.add_argument(f"--{name.replace('_', '-')}", help=help, **how)


def named_option(group: Any, name: str, **how: Any) -> None:
    """Add an option whose values are the names that the setting allows."""
    from nnaccel.tabular.settings import NAMES

    option(group, name, choices=NAMES[name], **how)


def device_option(parser: Any) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1, torch, torch:mps, jax, ... "
        "(default: cuda where CuPy sees a device, else cpu)",
    )


def model_option(parser: Any, help: str = "a file that nnaccel train wrote") -> None:
    parser.add_argument("model", metavar="MODEL", help=help)


def explain_options(parser: Any) -> None:
    from nnaccel.tabular.importance import SCORES

    model_option(parser, OF_EITHER)
    parser.add_argument("file", metavar="FILE",
                        help="rows with their target, or any rows for --row")  # fmt: skip
    option(parser, "target", nargs="+", metavar="COLUMN",
           help="the target, where MODEL is of an estimator and does not name it")  # fmt: skip
    group = parser.add_argument_group("the columns")
    option(group, "score", choices=tuple(SCORES),
           help="the score that is compared (default: accuracy or r2)")  # fmt: skip
    option(group, "repeats", type=int, default=5, metavar="N", help="shuffles of each column")
    option(group, "rows", type=int, default=5000, metavar="N", help="use at most N of the rows")
    option(group, "top", type=int, default=3, metavar="N",
           help="the most important columns to show the mean prediction by value for")  # fmt: skip
    option(group, "seed", type=int, default=0, metavar="N",
           help="the seed of the shuffles and of the choice of rows")  # fmt: skip
    option(group, "weights", metavar="COLUMN", help="how much each row counts")
    group = parser.add_argument_group("one row")
    option(group, "row", type=int, metavar="N",
           help="the contribution of each column to the prediction of row N, from 0")  # fmt: skip
    group = parser.add_argument_group("output")
    option(
        group,
        "json",
        metavar="FILE",
        help="write the results to this file, as JSON; - is standard output",
    )
    option(group, "plot", metavar="FILE", help="draw the results: a .png, .svg or .pdf")
    device_option(parser)
    reading_options(parser.add_argument_group("how a table is read", READ))


def export_options(parser: Any) -> None:
    from nnaccel.export.formats import FORMATS

    model_option(parser, OF_EITHER)
    parser.add_argument("file", metavar="FILE",
                        help="to write: .onnx, .py (NumPy alone), .pt (PyTorch)")  # fmt: skip
    option(parser, "format", choices=tuple(FORMATS), help="the format, if the suffix does not tell")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def evaluate_options(parser: Any) -> None:
    parser.add_argument("model", nargs="+", metavar="MODEL",
                        help="a file that nnaccel train wrote; several are compared")  # fmt: skip
    parser.add_argument("file", metavar="FILE", help="rows with their target; - is standard input")
    option(parser, "weights", metavar="COLUMN", help="how much each row counts")
    threshold_option(parser)
    stream_option(parser)
    option(parser, "json", metavar="FILE",
           help="write the scores to this file, as JSON; - is standard output")  # fmt: skip
    device_option(parser)
    reading_options(parser.add_argument_group("how a table is read", READ))


def predict_options(parser: Any) -> None:
    model_option(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="the rows to predict: a table, a query, an .npz, a built-in data set; - is CSV on "
        "standard input",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="a .csv, .parquet or .feather file (default: CSV to standard output)",
    )
    parser.add_argument("--with", dest="copied", nargs="+", default=[], metavar="COLUMN",
                        help="columns of FILE to copy, in front of the predictions")  # fmt: skip
    parser.add_argument("--proba", action="store_true", help="add the probability of each class")
    parser.add_argument(
        "--spread",
        action="store_true",
        help="add the standard deviation over the networks of the model: of numbers, or of the "
        "probability of the predicted class",
    )
    threshold_option(parser)
    stream_option(parser)
    device_option(parser)
    reading_options(parser.add_argument_group("how a table is read", READ))


def stream_option(parser: Any) -> None:
    parser.add_argument(
        "--stream",
        action="store_true",
        help="read a batch of rows at a time, also folders and patterns for files; by itself for a "
        "file that would take more than half of the free memory",
    )


def threshold_option(parser: Any) -> None:
    option(parser, "threshold", type=float, metavar="SHARE",
           help="the probability from which the second of two classes is predicted")  # fmt: skip


def gradcheck_options(parser: Any) -> None:
    device_option(parser)
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the networks and directions, from 0 to 2^64 - 1",
    )


def bench_options(parser: Any) -> None:
    parser.add_argument(
        "--device", nargs="+", metavar="NAME", help="devices to time (default: cpu, and CUDA's)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=40.0,
        metavar="N",
        help="to spend, warming up included; longer where Numba compiles first (default: 40)",
    )
