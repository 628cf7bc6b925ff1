"""Signals that end a run: the first lets it end in good order, the next ends it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C, a request to end (of a batch system, of systemd), and a terminal that is gone.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class GivenUp(KeyboardInterrupt):
    """What is done at this moment is given up."""


class Interruption:
    """The signals that arrive while it is entered, instead of what they would do.

    Parameters
    ----------
    handles : bool
        Whether it does that at all.

    Attributes
    ----------
    signal : int or None
        The first one. From then on another one ends the process at once, as if nobody handled it.
    """

    def __init__(self, *, handles: bool = True) -> None:
        self._handles = handles
        self.signal: int | None = None
        self._gives_up = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if self._handles and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def gives_up(self) -> Iterator[None]:
        """A block that the first signal ends."""
        try:
            self._gives_up = True
            yield
        except GivenUp:
            pass
        finally:
            self._gives_up = False

    @property
    def status(self) -> int:
        """The exit status as shells count it: 128 and the signal, or 0."""
        return 0 if self.signal is None else 128 + self.signal

    @property
    def name(self) -> str:
        """The signal in words."""
        name = signal.Signals(self.signal or 0).name
        return {"SIGINT": "Ctrl-C", "SIGHUP": "the end of its terminal"}.get(name, name)

    def _receive(self, number: int, frame: Any) -> None:
        self.signal = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if self._gives_up:
            raise GivenUp
