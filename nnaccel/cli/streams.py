"""The output streams of a command: escapes for terminals, and the handling of write failures.

Text from data, files and arguments may hold characters that control a terminal. They are shown as
escapes. All printed text passes through `visible`, which escapes them.
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# Controls (C0 except newline and tab, DEL, C1), line separators, marks that reverse the direction
# of writing, and lone surrogates, which Python makes of bytes that are no text.
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str, encoding: str | None = None) -> str:
    r"""The text with an escape, such as \x1b or \u202e, for each character that controls a
    terminal, and for each that the encoding lacks. Newlines and tabs stay."""
    text = STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    if encoding is None:
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)


def in_line(text: object) -> str:
    """Like `visible`, for a part of a line, such as a name: newlines and tabs are escaped, too."""
    return visible(str(text)).replace("\n", r"\n").replace("\t", r"\t")


def say(text: str) -> None:
    """Print on standard error. If that fails, only the exit status tells of the error."""
    if sys.stderr is not None:  # print would write to standard output instead
        with suppress(OSError):
            print(visible(text, sys.stderr.encoding), file=sys.stderr)


class Output:
    """Standard output while a command runs: a stream that reports its first failure.

    It raises a failure as an OSError that names standard output. With `goes_on`, for a command
    whose result is not its output, it only keeps the failure in `failure`. Later output is
    discarded.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.failure: OSError | None = None
        self.goes_on = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(self.stream.write, text)
        return len(text)

    def write_bytes(self, content: Any) -> None:
        """Write bytes unchanged, below the encoding of the text."""
        rest = memoryview(content)
        while rest and self.failure is None:  # a stream without a buffer may write only a part
            rest = rest[self._try(self.stream.buffer.write, rest) :]

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, action: Callable[..., Any], *arguments: Any) -> Any:
        if self.failure is not None:
            return None
        try:
            return action(*arguments)
        except OSError as error:
            error.filename = "standard output"
            self.failure = error
            # The content of its buffer would fail again when Python exits.
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
            if not self.goes_on:
                raise
