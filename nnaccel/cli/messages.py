"""Errors and warnings, one line each."""

import sys
from typing import Any

EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)


def in_one_line(error: BaseException) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        if not message.startswith("not enough memory"):
            message = f"not enough memory ({message}); use fewer units (--hidden) or fewer rows"
        message = message.replace("batch_size=", "--batch-size ")
    return message


def show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"nnaccel: warning: {' '.join(str(message).split())}", file=sys.stderr)
