"""Errors and warnings, one line each, and the exit status of an error."""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nnaccel.cli.streams import say

# Errors about data, arguments, files, devices or the environment have one of these types.
EXPECTED = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError, MemoryError)
FAULTS = (RecursionError, NotImplementedError)  # RuntimeErrors that are faults of the program
WRONG_INPUT, INTERNAL = 2, 70  # exit status; 70 is EX_SOFTWARE of sysexits.h
LONGEST = 2000  # characters of a line


def report(error: Exception, *, debug: bool) -> int:
    """Print an error, with its traceback for `debug`. Returns the exit status."""
    expected = isinstance(error, EXPECTED) and not isinstance(error, FAULTS)
    if debug:
        say("".join(traceback.format_exception(error)).rstrip("\n"))
    elif expected:
        say(f"nnaccel: error: {in_one_line(error)}")
    else:
        say(
            f"nnaccel: internal error: {type(error).__name__}: {in_one_line(error)}; "
            "run again with --debug to see where, and report it"
        )
    return WRONG_INPUT if expected else INTERNAL


def in_one_line(error: BaseException) -> str:
    message = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        if not message.startswith("not enough memory"):
            message = f"not enough memory ({message}); use fewer units (--hidden) or fewer rows"
        message = message.replace("batch_size=", "--batch-size ")
    return _short(" ".join(message.split()))


def show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    say(f"nnaccel: warning: {_short(' '.join(str(message).split()))}")


@contextmanager
def noted() -> Iterator[list[str]]:
    """A block whose warnings are in the list, too, once they have been shown."""
    found: list[str] = []
    show = warnings.showwarning

    def note(message: Any, *where: Any, **more: Any) -> None:
        show(message, *where, **more)
        found.append(" ".join(str(message).split()))

    warnings.showwarning = note
    try:
        yield found
    finally:
        warnings.showwarning = show


def _short(line: str) -> str:
    """The line, without its middle if it is very long: the end is the remedy."""
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"
