"""What those see who wait: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar('Item')

SECONDS = 30.0
"""Between two lines where there is no terminal."""


class Waiting:
    """Bars on a terminal, one below the other; where output goes to a file, a line at most every 30 s.

    Used as a context, within which :meth:`track` follows loops.
    """

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout)
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._said = time.monotonic()

    def __enter__(self) -> Waiting:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)

    def track(self, items: Iterable[Item], total: int | None, what: str, inner: bool = False) -> Iterator[Item]:
        """Go through ``items`` and show how far this is.

        Args:
            items (Iterable): What to go through.
            total (int, optional): How many there are, if that is known.
            what (str): What is done, as it is shown.
            inner (bool): Whether the bar goes away when all is done. Defaults to False.
        """
        task = self._progress.add_task(what, total=total)
        for number, item in enumerate(items, start=1):
            yield item
            self._progress.advance(task)
            if not self._console.is_terminal and time.monotonic() - self._said > SECONDS:
                self._said = time.monotonic()
                print(f'{what}: {number} of {total or "?"}', flush=True)
        if inner:
            self._progress.remove_task(task)
