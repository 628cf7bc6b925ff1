"""Starts and ends of the benchmarks that are run as scripts."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]  # of the checkout


def run(main: Callable[[], int | None]) -> NoReturn:
    """End the process with the status that main returns; None is 0.

    Where the reader of standard output has seen enough (`python bench/peers/steps.py | head`) it
    ends without a word. The status is then 1, since nobody has been told that all is well.
    """
    try:
        try:
            status = main()
        finally:  # of --help, too
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that is to find `bench` and `nnaccel` of this checkout."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | more | {"PYTHONPATH": os.pathsep.join(paths)}
