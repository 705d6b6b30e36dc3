"""What a console shows of a run: what matters to the one who waits; the log file has all."""

from __future__ import annotations

import logging
import shutil
import time

_FOR_THE_FILE = (
    'Config:\n',
    'Hooks will be executed in the following order',
    'Exp name:',
    'SemiDataset:',
    'Distributed training is not used',
    'Checkpoints will be saved to',
    'The prefix is not set in metric class',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)
"""How records begin that the console does not show: lists of settings, and what mmengine says of itself."""


class ConsoleFilter(logging.Filter):
    """Keeps lists of settings from a console, and one line that is written over again, if it is a terminal.

    Args:
        handler (logging.StreamHandler): The console's.
    """

    def __init__(self, handler: logging.StreamHandler) -> None:
        super().__init__()
        self._stream = handler.stream
        self.is_terminal = bool(getattr(self._stream, 'isatty', lambda: False)())
        self.last = time.monotonic()
        """When something was shown."""
        self._shown = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the console shows a record; if so, the status makes room for it."""
        text = record.getMessage()
        if record.levelno < logging.ERROR and _is_for_the_file(record.levelno, text):
            return False
        self.clear()
        self.last = time.monotonic()
        return True

    def status(self, text: str) -> None:
        """Write one line over the one before, on a terminal."""
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f'\r\x1b[K{text[:width]}')
        self._stream.flush()
        self._shown = True
        self.last = time.monotonic()

    def clear(self) -> None:
        """Take the status away."""
        if self._shown:
            self._stream.write('\r\x1b[K')
            self._stream.flush()
            self._shown = False


def _is_for_the_file(level: int, text: str) -> bool:
    if text.startswith('A step takes'):
        return level < logging.WARNING  # it warns where the learning rate is meant for another batch
    settings = 'System environment:' in text[:120] or 'parameter tensors learn at a base rate' in text
    return settings or text.startswith(_FOR_THE_FILE)


def console_of(logger: logging.Logger) -> ConsoleFilter | None:
    """The filter of a logger's console, put there if it has none; None if the logger writes to files alone."""
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            found = next((each for each in handler.filters if isinstance(each, ConsoleFilter)), None)
            if found is None:
                found = ConsoleFilter(handler)
                handler.addFilter(found)
            return found
    return None
