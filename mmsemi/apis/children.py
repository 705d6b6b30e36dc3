"""Processes that end when the one that started them does, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == 'linux' else None


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def with_threads(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """An environment in which libraries compute with so many threads, unless it said already with how many.

    What is said of one library holds for the other: torch takes the number of either.
    """
    names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
    said = next((environment[name] for name in names if environment.get(name)), str(threads))
    return {**dict.fromkeys(names, said), **environment}


def start(command: Sequence[str], **kwargs: Any) -> subprocess.Popen:
    """Start a process that gets SIGTERM when this one is gone, killed or not.

    Elsewhere than on Linux it only ends where :func:`stop` is called.

    Args:
        command (Sequence[str]): What to run.
        **kwargs: Those of ``subprocess.Popen``.
    """
    parent = os.getpid()

    def follow() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went in between
            os._exit(1)

    return subprocess.Popen(command, preexec_fn=follow if _libc else None, **kwargs)


def stop(process: subprocess.Popen, patience: float) -> None:
    """End a process: ask, wait ``patience`` seconds, kill."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
