"""Signals that end a run: after the first one the run saves its results and ends, the next one ends
it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C, a request to end (by a batch system, by systemd), and a closed terminal.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Abandoned(KeyboardInterrupt):
    """Raised to abandon the current work."""


class Interruption:
    """A context that records signals instead of their usual effect.

    Parameters
    ----------
    handles : bool
        Whether the context handles signals.

    Attributes
    ----------
    signal : int or None
        The first signal. After it another signal ends the process at once.
    """

    def __init__(self, *, handles: bool = True) -> None:
        self._handles = handles
        self.signal: int | None = None
        self._gives_up = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if self._handles and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def gives_up(self) -> Iterator[None]:
        """A context that the first signal ends."""
        try:
            self._gives_up = True
            yield
        except Abandoned:
            pass
        finally:
            self._gives_up = False

    @property
    def status(self) -> int:
        """The exit status by the convention of shells: 128 plus the signal, or 0."""
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
            raise Abandoned
