"""Trainings as processes of ``tools/train.py``: start several, follow them, read what they measured."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from mmsemi.apis import children
from mmsemi.apis.config import as_text
from mmsemi.apis.errors import ROOTS, UsageError
from mmsemi.apis.launch import find_config

_TRAINED = re.compile(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\].*?eta: (.+?)  ')
METRICS = ('/mIoU', '/mDice')
"""What a branch is judged by, after its name in the log."""
BY_CLASS = ('/IoU_', '/Dice_')
"""What stands between a branch and a class in the log."""
PSEUDO = ('pseudo/mIoU', 'pseudo/mining_ratio', 'pseudo/accuracy_kept')
"""How good pseudo-labels are, by their names in the log: all of them, the share kept, the share of those right."""
MARKS = (0.25, 0.5, 1.0)
"""Shares of a training at which its pseudo-labels are looked at."""
_TAIL = 1 << 18
"""Bytes of a log that hold its latest step and validation."""
_VALIDATED = re.compile(r'(student|teacher)/(mIoU|mDice): ([\d.]+)')
_WRITING = 120.0
"""Seconds that a training has to finish its step and write its checkpoint."""
_PATIENCE = 20.0
"""Seconds between two reports of a run where the console cannot be rewritten."""


def find_tool(name: str) -> Path:
    """Path of a script of ``tools``, in a checkout or an installed package."""
    for root in ROOTS:
        if (root / 'tools' / name).is_file():
            return root / 'tools' / name
    raise UsageError(f'tools/{name} was not found beside mmsemi; install the package or run from a checkout.')


@dataclass
class Run:
    """One training.

    Args:
        name (str): How it is called in reports.
        config (str): Its config.
        work_dir (Path): Where it writes, ``console.log`` included.
        options (list[str]): What ``--cfg-options`` gets.
        flags (list[str]): Further arguments of ``tools/train.py``, such as ``--baseline``.
    """

    name: str
    config: str
    work_dir: Path
    options: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    _process: subprocess.Popen | None = field(default=None, init=False, repr=False)
    _epochs: str = field(default='?', init=False, repr=False)
    _trained: str = field(default='', init=False, repr=False)

    @property
    def log(self) -> Path:
        """What the training prints."""
        return self.work_dir / 'console.log'

    def start(self, threads: int) -> None:
        """Start training with ``threads`` compute threads, or go on from the last checkpoint of this very training."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self._marker('finished').unlink(missing_ok=True)
        self._trained = self._fingerprint()
        begun = self._is_marked('started')
        if not begun:
            self._marker('started').write_text(self._trained, encoding='utf-8')
        chosen = [option.partition('=')[2] for option in self.options if option.startswith('train_cfg.max_epochs=')]
        self._epochs = chosen[-1] if chosen else Config.fromfile(find_config(self.config)).train_cfg.max_epochs
        going_on = '--resume' if begun else '--overwrite'
        arguments = [self.config, *self.flags, '--work-dir', str(self.work_dir), going_on]
        self._process = start_tool('train.py', arguments, self.options, self.log, threads)

    def poll(self) -> bool:
        """Has it ended?

        Raises:
            UsageError: If it failed; the message has the last line that it printed.
        """
        status = self._process.poll()
        if status is None:
            return False
        if status:
            raise UsageError(f'{self.name} failed: {last_line(self.log)} (all it printed is in {self.log})')
        # Of the config as it was: it may have been edited since.
        self._marker('finished').write_text(self._trained, encoding='utf-8')
        return True

    def stop(self) -> None:
        """End the training, if it runs."""
        if self._process:
            children.stop(self._process, _WRITING)

    def is_finished(self) -> bool:
        """Was this very config, with these options, already trained to its end?"""
        return self._is_marked('finished')

    def has_ended(self) -> bool:
        """Was a training of this folder, whatever its config and options, brought to its end?"""
        return self._marker('finished').is_file()

    def describe(self) -> str:
        """Where it stands: epoch, time left, latest scores."""
        text = _tail(self.log)
        steps = _TRAINED.findall(text)
        if not steps:
            return f'{self.name:<14} starting'
        epoch, _, _, left = steps[-1]
        scores = {f'{branch} {metric}': value for branch, metric, value in _VALIDATED.findall(text)}
        shown = '  '.join(f'{name} {value}' for name, value in scores.items())
        return f'{self.name:<14} epoch {epoch:>3}/{self._epochs}  left {left:>8}  {shown}'

    def validations(self) -> list[dict[str, float]]:
        """The metrics of each validation, oldest first."""
        return [record for record in self._records() if any(key.endswith(METRICS) for key in record)]

    def by_class(self, branch: str) -> dict[str, float]:
        """The score of each class in the last validation of a branch, in the order of the classes."""
        found: dict[str, float] = {}
        for record in self._records():
            for head in (branch + mark for mark in BY_CLASS):
                told = {key.removeprefix(head): value for key, value in record.items() if key.startswith(head)}
                if told:
                    found = told
                    break
        return found

    def pseudo_labels(self) -> list[dict[str, float]] | None:
        """Quality of the pseudo-labels at :data:`MARKS`: mIoU, share kept, share right; None where none was followed.

        Each is the mean over the tenth of training before the mark, of what ``PseudoLabelHook`` logged.
        """
        records = self._records()
        told = [record for record in records if set(PSEUDO) <= record.keys()]
        if not told:
            return None
        total = max(record['step'] for record in records if 'loss' in record)
        means = []
        for mark in MARKS:
            # A short training may have one line alone in that time, or none.
            until = [record for record in told if record['step'] <= mark * total] or told[:1]
            near = [record for record in until if record['step'] > (mark - 0.1) * total] or until[-1:]
            means.append({name: statistics.mean(record[name] for record in near) for name in PSEUDO})
        return means

    def seconds_per_iteration(self) -> float:
        """Median time of a training iteration."""
        times = [record['time'] for record in self._records() if 'loss' in record and 'time' in record]
        return statistics.median(times) if times else float('nan')

    def _records(self) -> list[dict[str, float]]:
        """What this training logged, in all its parts if it was broken off; the folder's earlier trainings are not."""
        marker = self._marker('started')
        since = marker.stat().st_mtime if marker.is_file() else 0
        first = time.strftime('%Y%m%d_%H%M%S', time.localtime(since))
        files = sorted(path for path in self.work_dir.glob('*/vis_data/scalars.json') if path.parts[-3] >= first)
        return [record for path in files for record in _complete_records(path)]

    def _marker(self, what: str) -> Path:
        return self.work_dir / what

    def _is_marked(self, what: str) -> bool:
        marker = self._marker(what)
        return marker.is_file() and marker.read_text(encoding='utf-8') == self._fingerprint()

    def _fingerprint(self) -> str:
        content = as_text(Config.fromfile(find_config(self.config))) + '\n'.join([*self.options, *self.flags])
        return hashlib.sha256(content.encode()).hexdigest()


def _complete_records(path: Path) -> list[dict[str, float]]:
    """Lines of a log; the last may be half written where the training was killed."""
    records = []
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def start_tool(
    name: str, arguments: Sequence[str], options: Sequence[str], log: Path, threads: int
) -> subprocess.Popen:
    """Start a script of ``tools`` with its output in ``log``; threads that the environment asks for come first."""
    command = [sys.executable, str(find_tool(name)), *arguments]
    if options:
        command += ['--cfg-options', *options]
    path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get('PYTHONPATH')]))
    env = {**children.with_threads(os.environ, threads), 'PYTHONPATH': path}
    with log.open('w', encoding='utf-8') as file:
        return children.start(command, stdout=file, stderr=subprocess.STDOUT, env=env)


def _tail(log: Path) -> str:
    """The end of a log, in which the latest step and validation are; it is read every second."""
    if not log.is_file():
        return ''
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        return file.read().decode(errors='replace')


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line for line in log.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
    return lines[-1].removeprefix('error: ') if lines else 'it printed nothing'


def train_all(runs: Sequence[Run], jobs: int) -> None:
    """Train, ``jobs`` runs at a time, showing where each stands.

    Raises:
        UsageError: If one fails; the others are then stopped.
    """
    threads = max(1, children.available_cores() // max(1, min(jobs, len(runs))))
    waiting, running, board = list(runs), [], Board()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting.pop(0))
                running[-1].start(threads)
            time.sleep(1)
            ended = [run for run in running if run.poll()]
            board.show([run for run in runs if run not in waiting], ended)
            running = [run for run in running if run not in ended]
    finally:
        for run in running:
            run.stop()


class Board:
    """One line a run: rewritten in place on a terminal, else printed now and then."""

    def __init__(self) -> None:
        self._lines = 0
        self._spoken: dict[str, float] = {}

    def show(self, runs: Sequence[Run], ended: Sequence[Run]) -> None:
        """Show the runs that have started; ``ended`` just did."""
        if sys.stdout.isatty():
            if self._lines:
                sys.stdout.write(f'\033[{self._lines}A')
            for run in runs:
                sys.stdout.write(f'\033[2K{run.describe()}\n')
            self._lines = len(runs)
        else:
            now = time.monotonic()
            for run in runs:
                if run in ended or now - self._spoken.setdefault(run.name, now) >= _PATIENCE:
                    self._spoken[run.name] = now if run not in ended else float('inf')
                    sys.stdout.write(f'{run.describe()}\n')
        sys.stdout.flush()
