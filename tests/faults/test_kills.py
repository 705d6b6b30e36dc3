"""Trainings that are killed at any moment come back, and end as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mmsemi.engine import RESUME_ME, checkpoints
from tests import tiny_run
from tests.faults import jobs
from tests.faults.jobs import Fault, Job

EPOCHS = 2
KILLS, PARTS = 100, 4
# A checkpoint at every chance, in the middle of epochs too.
OPTIONS = {'default_hooks.checkpoint.every_minutes': 1e-4, 'train_dataloader.dataset.labeled': 4}
STEPS = {1: 4, 2: 2}
"""Of an epoch, by the number of ranks."""
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: RESUME_ME, signal.SIGINT: 130}


def straight_run(folder: Path, drawn: Path, method: str, mpmc: bool, world: int) -> tuple[Job, dict[str, str], float]:
    """An uninterrupted run: the job, what its end holds, and the seconds that training took."""
    name = f'{method}-{mpmc}-{world}'
    job = Job(method, str(drawn), str(folder / name), epochs=EPOCHS, mpmc=mpmc, options=OPTIONS)
    assert jobs.start(world, folder / name, jobs.train, job) == [0] * world
    marks = {words[0]: float(words[1]) for words in jobs.progress(folder / name) if words[0] in ('began', 'ended')}
    return job, jobs.digest(folder / name / f'epoch_{EPOCHS}.pth'), marks['ended'] - marks['began']


def killed_run(job: Job, world: int, folder: Path, fault: Fault) -> tuple[list[int], int, int, int, list[str]]:
    """Start, let the fault come, and go on to the end.

    Returns:
        tuple: Exit statuses of the killed run, iterations it had done, iterations that were lost, how many values of
        the end it came to are others than those of the job, and what the killed run said.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    broken = replace(job, work_dir=str(folder), fault=fault)
    statuses = jobs.start(world, folder, jobs.train, broken)
    sentences = jobs.said(folder)
    done = max([int(words[1]) for words in jobs.progress(folder) if words[0] == 'done'], default=0)
    newest = checkpoints.newest(folder, lambda sentence: None)
    kept = checkpoints.read(newest)['meta']['iter'] if newest else 0
    if any(statuses):
        rest = replace(broken, fault=None, resume=True)
        assert jobs.start(world, folder, jobs.train, rest) == [0] * world, jobs.said(folder)
    final = jobs.digest(folder / f'epoch_{EPOCHS}.pth')
    expected = jobs.digest(Path(job.work_dir) / f'epoch_{EPOCHS}.pth')
    unequal = sum(final.get(name) != value for name, value in expected.items()) + len(final.keys() ^ expected.keys())
    return statuses, done, done - kept, unequal, sentences


@pytest.mark.parametrize('world', [1, 2])
def test_a_run_that_a_signal_stops_loses_nothing(world, drawn, tmp_path):
    tiny_run.draw(drawn)
    job, _, _ = straight_run(tmp_path, drawn, 'MeanTeacher', False, world)
    # One rank is told; all finish the same iteration.
    fault = Fault(signal.SIGUSR1, iteration=STEPS[world] * EPOCHS // 3, ranks=(world - 1,))
    statuses, done, lost, unequal, said = killed_run(job, world, tmp_path / 'killed', fault)
    assert statuses == [RESUME_ME] * world
    assert 0 < done < STEPS[world] * EPOCHS and lost == 0 and unequal == 0
    assert all(sentence.startswith('stopped by') and 'go on with --resume' in sentence for sentence in said)
    assert not (tmp_path / 'killed/run.lock').exists()


def test_a_run_that_is_killed_while_it_writes_goes_on_from_what_is_whole(drawn, tmp_path):
    tiny_run.draw(drawn)
    job, _, _ = straight_run(tmp_path, drawn, 'MeanTeacher', False, 1)
    statuses, done, lost, unequal, _ = killed_run(job, 1, tmp_path / 'killed', Fault(signal.SIGKILL, call=29))
    assert statuses == [-signal.SIGKILL] and done > 1
    assert lost <= 1 and unequal == 0
    assert not list((tmp_path / 'killed').glob('*.tmp')), 'what was half written is cleared away'


@pytest.mark.slow
@pytest.mark.parametrize('part', range(PARTS))
def test_a_hundred_kills_lose_no_run(part, drawn, tmp_path):
    """Every method, one and two ranks, three signals, a third of them while a checkpoint is written."""
    tiny_run.draw(drawn)
    rng = random.Random(part)
    cases = [(method, world) for method in tiny_run.METHOD_FILES for world in (1, 2)]
    runs: dict = {}
    table = []
    for number in range(part, KILLS, PARTS):
        method, world = cases[(number // PARTS + part * 6) % len(cases)]
        if (method, world) not in runs:
            runs[method, world] = straight_run(tmp_path, drawn, method, number // PARTS % 2 == 0, world)
        job, _, seconds = runs[method, world]
        sent = list(STATUS)[number % 3]
        if rng.randrange(3) == 0:
            fault = Fault(sent, call=rng.randrange(14 * STEPS[world] * EPOCHS))
        else:
            fault = Fault(sent, delay=rng.uniform(0, seconds))
        if sent == signal.SIGINT:
            fault.ranks = tuple(range(world)) if fault.call is None else (0,)
        elif fault.call is None:
            fault.ranks = (rng.randrange(world),)
        statuses, done, lost, unequal, _ = killed_run(job, world, tmp_path / 'killed', fault)
        row = dict(
            method=method, ranks=world, signal=signal.Signals(sent).name, writing=fault.call is not None,
            statuses=statuses, done=done, lost=lost, unequal=unequal,
        )  # fmt: skip
        table.append(row)
        print(json.dumps(row), flush=True)
        assert unequal == 0, row
        stopped = sent == signal.SIGTERM and RESUME_ME in statuses
        assert lost == 0 if stopped else lost <= 2, row
    ended = [row for row in table if any(row['statuses'])]
    print(
        f'{len(table)} kills, {len(ended)} of them before the end; {sum(row["lost"] for row in table)} iterations lost'
    )
