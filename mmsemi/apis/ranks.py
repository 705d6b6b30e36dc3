"""Start the processes of a distributed tool, and say in one sentence what ended them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mmsemi.apis import children
from mmsemi.apis.errors import ERROR_FILE, RESUME_ME

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_GRACE = 5.0
"""Seconds that ranks have to notice that one of them is gone."""
_WRITING = 900.0
"""Seconds that the first rank has to write its checkpoint when a signal stopped all."""


def start_ranks(processes: int, tool: Sequence[str]) -> int:
    """Run ``tool`` in several processes on this machine, as one node of NNODES.

    NNODES, NODE_RANK, MASTER_ADDR and PORT come from ``env``; on one machine a free port is taken unless PORT is set.
    Signals go on to all ranks. When one fails the others are ended.

    Args:
        processes (int): Processes on this machine.
        tool (Sequence[str]): Script and arguments; they get ``--launcher pytorch``.

    Returns:
        int: The exit status of what failed first (128 + its number for a signal), 75 where all can be resumed, or 0.
    """
    env = dict(os.environ)
    problem = _meet(env)
    if problem:
        print(f'error: {problem}', file=sys.stderr)
        return 2
    env = children.with_threads(env, max(1, children.available_cores() // processes))
    with tempfile.TemporaryDirectory() as folder:
        env[ERROR_FILE] = str(Path(folder) / 'error')
        first = int(env['NODE_RANK']) * processes
        env['WORLD_SIZE'] = str(int(env['NNODES']) * processes)
        env['LOCAL_WORLD_SIZE'] = str(processes)
        # A session of their own: what the terminal sends comes through here, once.
        ranks = [
            children.start(
                [sys.executable, '-u', *tool, '--launcher', 'pytorch'],
                env={**env, 'RANK': str(first + local), 'LOCAL_RANK': str(local)},
                start_new_session=True,
            )
            for local in range(processes)
        ]
        number, status = _follow(ranks)
        if status:
            _say(first + number, status, Path(env[ERROR_FILE]))
    return 128 - status if status < 0 else status


def _meet(env: dict[str, str]) -> str | None:
    """Complete where the processes meet; returns what is wrong with it."""
    env.setdefault('NNODES', '1')
    env.setdefault('NODE_RANK', '0')
    env.setdefault('MASTER_ADDR', '127.0.0.1')
    for name in ('NNODES', 'NODE_RANK', 'PORT'):
        if name in env and not env[name].isdigit():
            return f'{name}={env[name]} is no number.'
    if env['NNODES'] == '1' and 'PORT' not in env:
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            env['MASTER_PORT'] = str(probe.getsockname()[1])
        return None
    env['MASTER_PORT'] = env.get('PORT', '29500')
    try:
        socket.getaddrinfo(env['MASTER_ADDR'], int(env['MASTER_PORT']))
    except (OSError, OverflowError) as error:
        return f'MASTER_ADDR={env["MASTER_ADDR"]} cannot be found ({error}); set it to the first machine.'
    if env['NODE_RANK'] == '0':
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(('', int(env['MASTER_PORT'])))
            except (OSError, OverflowError) as error:
                return f'port {env["MASTER_PORT"]} cannot be taken ({error}); set PORT to another one.'
    return None


def _follow(ranks: list[subprocess.Popen]) -> tuple[int, int]:
    """Wait for all; returns the number and the status of what failed first, or 0 and 0."""

    def forward(number: int, frame: object) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        while True:
            ended = {number: rank.poll() for number, rank in enumerate(ranks)}
            failed = {number: status for number, status in ended.items() if status}
            if failed or None not in ended.values():
                break
            time.sleep(0.05)
        if not failed:
            return 0, 0
        # Who was killed is the cause of what the others then find.
        number = min(failed, key=lambda number: (failed[number] > 0, number))
        deadline = time.monotonic() + (_WRITING if failed[number] == RESUME_ME else _GRACE)
        while time.monotonic() < deadline and any(rank.poll() is None for rank in ranks):
            time.sleep(0.05)
        return number, failed[number]
    finally:
        for rank in ranks:
            children.stop(rank, _GRACE)
        for name, handler in before.items():
            signal.signal(name, handler)


def _say(rank: int, status: int, sentence: Path) -> None:
    if status < 0:
        name = signal.Signals(-status).name
        hint = ', by the kernel if memory ran out' if name == 'SIGKILL' else ''
        print(f'error: rank {rank} was ended by {name}{hint}; go on with --resume.', file=sys.stderr)
    elif sentence.exists():
        print(sentence.read_text(encoding='utf-8'), end='', file=sys.stderr)
    else:
        print(f'error: rank {rank} ended with status {status}; what it said is above.', file=sys.stderr)
