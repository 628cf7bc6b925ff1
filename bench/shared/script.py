"""The start and end of benchmarks that are run as scripts."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]  # of the checkout


def run(main: Callable[[], int | None]) -> NoReturn:
    """End the process with the status that main returns; None is 0.

    If the reader of standard output closes it early (`python bench/peers/steps.py | head`), the
    process ends silently, with status 1, since the result was not reported.
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
    """The environment of a process that imports `bench` and `nnaccel` of this checkout."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | more | {"PYTHONPATH": os.pathsep.join(paths)}
