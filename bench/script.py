"""The end of a benchmark that is run as a script."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn


def run(main: Callable[[], int | None]) -> NoReturn:
    """End the process with the status that main returns; None is 0.

    Where the reader of standard output has seen enough (`python bench/peers.py | head`) it ends
    without a word. The status is then 1, since nobody has been told that all is well.
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
