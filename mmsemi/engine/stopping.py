"""Signals that ask a training to stop: it finishes the step, writes a checkpoint, and says that it wants to go on."""

from __future__ import annotations

import signal
import threading
from types import FrameType

STOP_SIGNALS = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name))
RESUME_ME = 75
"""Exit status of a training that was stopped and can go on (EX_TEMPFAIL of sysexits.h)."""


class Stopped(SystemExit):
    """A training was stopped by a signal, and everything is in a checkpoint. Its exit status is ``RESUME_ME``.

    Args:
        sentence (str): What to tell the user.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(RESUME_ME)
        self.sentence = sentence


class StopSignals:
    """Notes the first of ``STOP_SIGNALS``; a second one acts as it would without this."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, object] = {}

    def listen(self) -> None:
        """Start listening; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self.restore()

    def restore(self) -> None:
        """Let signals act as they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
