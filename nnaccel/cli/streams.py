"""The two streams of a command: what text may do to a terminal, and what a failure comes to.

Text from data, files and arguments may hold characters that steer a terminal: they are shown as
escapes. `visible` is the one function that does it; all that is printed goes through it.
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# Controls (C0 but newline and tab, DEL, C1), line separators, marks that turn the direction of
# writing round, and halves of characters, of which Python makes bytes that are no text.
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str, encoding: str | None = None) -> str:
    r"""The text with an escape, such as \x1b or \u202e, for each character that steers a terminal,
    and for each that the encoding lacks. Newlines and tabs are left."""
    text = STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    if encoding is None:
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)


def in_line(text: object) -> str:
    """The same for what is a part of a line, such as a name: newlines and tabs are escaped too."""
    return visible(str(text)).replace("\n", r"\n").replace("\t", r"\t")


def say(text: str) -> None:
    """Print on standard error. Where that fails, the exit status has to do."""
    if sys.stderr is not None:  # print would take standard output for it
        with suppress(OSError):
            print(visible(text, sys.stderr.encoding), file=sys.stderr)


class Output:
    """Standard output while a command runs: a stream that tells that it failed, once.

    A failure is raised as an OSError that names standard output. Where `goes_on` is set, because
    what the command makes is not what it prints, it is only kept in `failure`. What is written
    later goes nowhere.
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
        """Write bytes as they are, below the encoding of the text."""
        rest = memoryview(content)
        while rest and self.failure is None:  # a stream without a buffer may take a part
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
            # What the stream still holds would fail again when Python ends.
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
            if not self.goes_on:
                raise
