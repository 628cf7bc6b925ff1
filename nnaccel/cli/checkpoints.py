"""The checkpoint of `nnaccel train`: when it is written, how a run resumes, and the messages about
it."""

import re
import shlex
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from nnaccel.cli.streams import in_line, say
from nnaccel.files import writable

if TYPE_CHECKING:
    from nnaccel.tabular.fit import Fit

Read = TypeVar("Read")
UNITS = {"s": 1, "m": 60, "h": 3600}
PERIOD = re.compile(r"(?P<number>[1-9]\d{0,8})(?P<unit>[smh]?)")
EVERY = "1m"
NO_CHECKPOINT = "a run without --checkpoint FILE cannot be resumed"
# Vectors in a checkpoint, at most: of the last epoch with Adam's moments, and of the best epoch.
VECTORS = 6


class Period(NamedTuple):
    """The period between two checkpoints, in epochs or in seconds."""

    number: int
    unit: str  # "": epochs

    @classmethod
    def of(cls, text: str) -> "Period":
        """The period of a text: `10` epochs, `30s`, `10m` or `2h`. Raises ArgumentTypeError for
        other text."""
        found = PERIOD.fullmatch(text)
        if found is None:
            raise ArgumentTypeError(
                f"expected a number of epochs, or a time such as 30s, 10m or 2h, got {text!r}"
            )
        return cls(int(found["number"]), found["unit"])

    @property
    def seconds(self) -> float:
        """Those of a time."""
        return float(self.number * UNITS[self.unit])

    def is_over(self, epochs: int, seconds: float) -> bool:
        """Whether the period is over after that many epochs and seconds."""
        if not self.unit:
            return epochs >= self.number
        return seconds >= self.seconds


def period(text: str) -> str:
    """The text itself, if it is a period. Raises ArgumentTypeError for other text."""
    Period.of(text)
    return text


def duration(text: str) -> str:
    """The text of a time; ArgumentTypeError for any other."""
    if text[-1:] not in UNITS or PERIOD.fullmatch(text) is None:
        raise ArgumentTypeError(f"expected a time such as 30s, 10m or 2h, got {text!r}")
    return text


def check_options(options: Any) -> None:
    """Raises ValueError for options of checkpoints that contradict each other."""
    path = options.checkpoint or options.resume
    if options.every and not path:
        raise ValueError("--every is for --checkpoint FILE, which says where to write it")
    others = {"--output": options.output, "--json": options.json, "SOURCE": options.source}
    for name, other in others.items():
        if path and other and Path(path) == Path(other):
            raise ValueError(f"--checkpoint and {name} both name {path}; choose another file")


def to_go_on_from(options: Any, load: Callable[[str], Read]) -> Read | None:
    """The checkpoint that `--resume` names, or None.   load: what reads it.

    Raises FileExistsError if `--checkpoint` names an existing file that a new run would overwrite,
    and the errors of an unreadable file.
    """
    from nnaccel.training.checkpoint import is_checkpoint

    if options.resume:
        return load(options.resume)
    path = options.checkpoint
    if not path or not Path(path).exists():
        return None
    if not is_checkpoint(path):
        raise FileExistsError(f"{path} exists and is no checkpoint; choose another --checkpoint")
    if not options.force:
        raise FileExistsError(
            f"{path} exists, the checkpoint of a run; resume it with --resume {shlex.quote(path)}, "
            "or start again with --force"
        )
    return None


class Keeper:
    """Writes the checkpoint of a run. A failure gives a warning: the run continues, and the older
    file stays."""

    def __init__(self, fit: "Fit", options: Any, writes: bool = True) -> None:
        """writes: whether this process writes the file.   Raises OSError for a file that cannot be
        written."""
        self.path = (options.checkpoint or options.resume) if writes else None
        self._fit, self._period = fit, Period.of(options.every or EVERY)
        self._epochs, self._written = 0, time.monotonic()
        self._failure = ""
        if self.path:
            writable(self.path, 8 * VECTORS * fit.n_params)

    def after_epoch(self) -> None:
        """Writes the checkpoint if its period is over."""
        self._epochs += 1
        if self.path and self._period.is_over(self._epochs, time.monotonic() - self._written):
            self.write()

    def write(self) -> None:
        """Writes the checkpoint now."""
        if not self.path or not self._fit.n_done:
            return
        self._epochs, self._written = 0, time.monotonic()
        try:
            self._fit.save(self.path)
            self._failure = ""
        except OSError as error:
            failure = error.strerror or str(error)
            if failure != self._failure:
                say(f"nnaccel: warning: no checkpoint: {in_line(failure)}; the run continues")
            self._failure = failure

    def check(self) -> None:
        """Raises OSError if the last checkpoint could not be written."""
        if self._failure:
            raise OSError(f"the checkpoint is not that of the end of the run: {self._failure}")

    def what_is_kept(self, arguments: Sequence[str], again: str = NO_CHECKPOINT) -> str:
        """Says what an interrupted run has kept, and the command that resumes the run of these
        arguments.

        again: what is said of that instead where there is no checkpoint.
        """
        n, total = self._fit.n_done, self._fit.n_epochs
        which = "the best by then" if self._fit.best_so_far else "that of this epoch"
        kept = f"after epoch {n} of {total}; the model is {which}"
        if not self.path:
            return f"{kept}; {again}"
        words = [*arguments]
        if "--resume" not in words:
            words += ["--resume", str(self.path)]
        return f"{kept}; resume with: {in_line(shlex.join(['nnaccel', *words]))}"
