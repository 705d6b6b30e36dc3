"""One run a folder: a lock that says who holds it, and that is known to be stale when its holder is gone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

NAME = 'run.lock'
BEAT = 30.0
"""Seconds between two signs of life of a run."""
PATIENCE = 900.0
"""Seconds without a sign of life after which a run on another machine counts as gone."""


class FolderInUseError(ValueError):
    """Another run writes into the folder; the message says which."""


class RunLock:
    """A file in a run's folder while the run lives.

    Args:
        folder (str | Path): The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME
        self._content = ''
        self._beat = 0.0

    def acquire(self) -> str | None:
        """Take the folder.

        Returns:
            str | None: What to say of a stale lock that was taken over.

        Raises:
            FolderInUseError: If another run that lives has it.
        """
        who = {'host': socket.gethostname(), 'pid': os.getpid(), 'born': _birth(os.getpid()), 'job': _job()}
        self._content = json.dumps(who)
        note = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f'{NAME}.{who["host"]}.{os.getpid()}.tmp')
        for _ in range(3):
            temporary.write_text(self._content, encoding='utf-8')
            try:
                # A link is made whole or not at all, with the content in it, on network file systems too.
                os.link(temporary, self.path)
                return note
            except FileExistsError:
                note = self._take_over(who)
            finally:
                temporary.unlink(missing_ok=True)
        raise FolderInUseError(f'{self.path.parent} is being taken by several runs at once; start one of them again.')

    def _take_over(self, who: dict) -> str:
        try:
            holder = json.loads(self.path.read_text(encoding='utf-8'))
            silent = time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return 'The lock of a run that just ended was taken over.'
        except (ValueError, OSError):
            holder, silent = {}, PATIENCE + 1
        host, pid = holder.get('host'), holder.get('pid')
        if host == who['host']:
            gone = not isinstance(pid, int) or _birth(pid) != holder.get('born') or pid == who['pid']
        else:
            gone = silent > PATIENCE or (holder.get('job') is not None and holder.get('job') == who['job'])
        if not gone:
            raise FolderInUseError(
                f'{self.path.parent} is in use by process {pid} on {host}, which showed life {silent:.0f} s ago; end '
                f'that run, give this one another --work-dir, or remove {self.path} if it is gone.'
            )
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        return f'A run that is gone (process {pid} on {host}) had left its lock; it was taken over.'

    def show_life(self) -> None:
        """Tell others, now and then, that the run lives."""
        if self._content and time.monotonic() - self._beat > BEAT:
            self._beat = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def release(self) -> None:
        """Give the folder back."""
        if self._content:
            with contextlib.suppress(OSError):
                if self.path.read_text(encoding='utf-8') == self._content:
                    self.path.unlink()
        self._content = ''


def _birth(pid: int) -> str | None:
    """When a process of this machine started, as the kernel counts; None if there is none."""
    try:
        text = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8', errors='replace')
        return text.rpartition(')')[2].split()[19]
    except (OSError, IndexError):
        pass
    if Path('/proc/self/stat').exists():
        return None
    try:  # no such file system: a process that lives will have to do
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 'alive'


def _job() -> str | None:
    return os.environ.get('SLURM_JOB_ID')
