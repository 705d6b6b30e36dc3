"""Signals that ask a training to stop: it finishes the step, writes a checkpoint, and says that it wants to go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

from torch.utils.data import DataLoader

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


def shield_workers(loader: DataLoader) -> None:
    """Let the workers of a data loader, once they start, obey SIGTERM from their own process alone.

    A cluster sends its signals to every process. A worker that ended would end the training in the middle of a step.

    Args:
        loader (DataLoader): Changed in place.
    """
    if loader.num_workers and hasattr(signal, 'sigwaitinfo'):
        loader.worker_init_fn = partial(_start_shielded, then=loader.worker_init_fn)


def _start_shielded(number: int, then: Callable[[int], None] | None) -> None:
    if then is not None:
        then(number)
    parent = os.getppid()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # A signal tells who sent it only to those who wait for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey, args=(parent,), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
