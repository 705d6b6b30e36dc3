"""Small trainings in processes that may be killed, forked from one that has everything imported: one or more ranks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import distributed

from mmsemi.apis.errors import find_rule
from mmsemi.apis.launch import leave, prepare_config
from mmsemi.engine import checkpoints
from tests import tiny_run

context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(['tests.faults.jobs'])
_GRACE = 3.0


@dataclass
class Fault:
    """What ends a run.

    Args:
        number (int): The signal.
        delay (float): Seconds after the start of training at which it comes.
        iteration (int, optional): Instead of a time, the iteration after which it comes.
        call (int, optional): Instead of a time, the number of the writer's system call during which it comes, after a
            pause.
        ranks (tuple[int, ...]): Who gets it.
    """

    number: int
    delay: float = 0.0
    iteration: int | None = None
    call: int | None = None
    ranks: tuple[int, ...] = (0,)


@dataclass
class Job:
    """A training of ``tiny_run``.

    Args:
        method (str): Name of the method.
        root (str): Folder below which the data are drawn.
        work_dir (str): Where it writes.
        epochs (int): Length.
        mpmc (bool): Whether with MPMC.
        share (tuple[int, int]): Labeled and unlabeled images a step and rank.
        resume (bool | str): Whether to go on, or from what.
        fault (Fault, optional): What ends it.
        options (dict): Other keys of the config.
        validate (bool): Whether it validates.
    """

    method: str
    root: str
    work_dir: str
    epochs: int = 3
    mpmc: bool = False
    share: tuple[int, int] = (2, 2)
    resume: bool | str = False
    fault: Fault | None = None
    options: dict[str, Any] = field(default_factory=dict)
    validate: bool = False


class Progress(Hook):
    """Notes each iteration that was finished, and lets the fault come."""

    priority = 'LOW'  # before the checkpoint is written

    def __init__(self, job: Job, rank: int) -> None:
        self.job, self.rank = job, rank

    def before_train(self, runner) -> None:
        fault = self.job.fault
        if fault and fault.call is None and fault.iteration is None and self.rank in fault.ranks:
            pid = os.getpid()
            threading.Timer(fault.delay, lambda: os.kill(pid, fault.number)).start()
        self._note(f'began {time.monotonic()}')

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        rate = runner.optim_wrapper.param_groups[-1]['lr']
        images = len(data_batch['inputs'])
        self._note(f'step {runner.iter + 1} {rate} {images}')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._note(f'done {runner.iter + 1}')
        fault = self.job.fault
        if fault and fault.iteration == runner.iter + 1 and self.rank in fault.ranks:
            os.kill(os.getpid(), fault.number)

    def after_train(self, runner) -> None:
        self._note(f'ended {time.monotonic()}')

    def _note(self, line: str) -> None:
        if self.rank == 0:
            descriptor = os.open(Path(self.job.work_dir) / 'progress', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f'{line}\n'.encode())
            os.close(descriptor)


class Interrupting:
    """``os`` in whose call number ``at`` a pause is made, in which a signal comes."""

    def __init__(self, at: int, number: int) -> None:
        self.left, self.number = at, number

    def __getattr__(self, name: str):
        call = getattr(os, name)
        if name not in ('open', 'write', 'fsync', 'close', 'replace'):
            return call

        def interrupted(*args, **kwargs):
            self.left -= 1
            if self.left == -1:
                if name == 'write':  # a part of it
                    os.write(args[0], args[1][: len(args[1]) // 2])
                    args = (args[0], args[1][len(args[1]) // 2 :])
                os.kill(os.getpid(), self.number)
                time.sleep(0.05)
            result = call(*args, **kwargs)
            return result

        return interrupted


def config(job: Job, launcher: str = 'none'):
    """The job's config."""
    cfg = tiny_run.config(job.method, Path(job.root), Path(job.work_dir), epochs=job.epochs, mpmc=job.mpmc)
    labeled, unlabeled = job.share
    cfg.train_dataloader.sampler.update(labeled=labeled, unlabeled=unlabeled)
    cfg.train_dataloader.batch_size = labeled + unlabeled
    cfg.param_scheduler = [dict(type='PolyLR', power=0.9, by_epoch=True, convert_to_iter_based=True)]
    cfg.experiment_name = cfg.visualizer.name = f'{cfg.experiment_name}-{os.getpid()}'
    cfg.resume = bool(job.resume)
    cfg.load_from = job.resume if isinstance(job.resume, str) else None
    cfg.merge_from_dict(job.options)
    if not job.validate:
        cfg.train_cfg.val_begin = 10**6
    prepare_config(cfg, launcher)
    return cfg


def train(rank: int, job: Job) -> None:
    """Train; what :func:`mmsemi.apis.launch.run` would say goes into ``said``."""
    if job.fault and job.fault.call is not None and rank in job.fault.ranks:
        checkpoints.os = Interrupting(job.fault.call, job.fault.number)
    runner = Runner.from_cfg(config(job, 'pytorch' if distributed.is_initialized() else 'none'))
    runner.register_hook(Progress(job, rank))
    runner.train()


def _rank(rank: int, world: int, store: str, function: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.update(CUDA_VISIBLE_DEVICES='', RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    log = os.open(f'{store}.{rank}.log', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 0
    try:
        with pytest.MonkeyPatch.context() as patch:
            tiny_run.shorten_runs(patch)
            if world > 1:
                distributed.init_process_group(
                    'gloo', init_method=f'file://{store}', rank=rank, world_size=world, timeout=timedelta(minutes=3)
                )
            function(rank, *args)
    except BaseException as error:
        traceback.print_exc()
        rule = find_rule(error)
        status = rule.status if rule else 1
        if rule:
            print(f'said: {rule.sentence(error)}', file=sys.stderr)
    leave(status)


def start(world: int, folder: Path, function: Callable, *args: Any) -> list[int]:
    """Call ``function(rank, *args)`` in ``world`` processes; returns their exit statuses, negative for a signal.

    When one fails, the others are ended as the launcher does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f'store-{time.monotonic_ns()}'
    ranks = [context.Process(target=_rank, args=(rank, world, str(store), function, args)) for rank in range(world)]
    for process in ranks:
        process.start()
    failed = None
    while any(process.is_alive() for process in ranks):
        if failed is None and any(process.exitcode for process in ranks):
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > _GRACE:
            for process in ranks:
                if process.is_alive():
                    process.kill()
        ranks[0].join(0.02)
    return [process.exitcode for process in ranks]


def said(folder: Path) -> list[str]:
    """The sentences that the processes of the latest start ended with."""
    logs = sorted(folder.glob('store-*.log'))[-8:]
    newest = logs[-1].name.split('.')[0]
    lines = [line for log in logs if log.name.startswith(newest) for line in log.read_text().splitlines()]
    return [line.removeprefix('said: ') for line in lines if line.startswith('said: ')]


def progress(work_dir: Path) -> list[list[str]]:
    """What the first rank noted, a list of words a line."""
    path = work_dir / 'progress'
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def digest(path: Path) -> dict[str, str]:
    """What training goes on from, by name: weights and buffers, the optimizer's state, the schedulers'."""
    content = torch.load(path, weights_only=True)
    tensors = dict(content['state_dict'])
    for number, values in content['optimizer']['state'].items():
        tensors.update({f'{name} of parameter {number}': value for name, value in values.items()})
    made = {
        name: sha256(value.contiguous().numpy().tobytes()).hexdigest() if torch.is_tensor(value) else str(value)
        for name, value in tensors.items()
    }
    groups = [{k: v for k, v in group.items() if k != 'params'} for group in content['optimizer']['param_groups']]
    return {**made, 'groups': str(groups), 'schedulers': str(content['param_schedulers'])}


SIGNALS = {'SIGKILL': signal.SIGKILL, 'SIGTERM': signal.SIGTERM, 'SIGINT': signal.SIGINT}
