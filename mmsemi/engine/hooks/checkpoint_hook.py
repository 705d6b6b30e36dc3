"""Checkpoints that survive whatever ends a run."""

from __future__ import annotations

import atexit
import json
import os
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import (
    all_gather_object,
    barrier,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_distributed,
    is_main_process,
)
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmsemi.engine import checkpoints, resume
from mmsemi.engine.agreement import Agreement
from mmsemi.engine.checkpoints import CheckpointError
from mmsemi.engine.run_lock import RunLock
from mmsemi.engine.stopping import Stopped, StopSignals, shield_workers
from mmsemi.engine.utils import is_training, segmentor_of, steps_now
from mmsemi.models.state import StepState
from mmsemi.registry import HOOKS

_GO_ON, _SAVE, _STOP = 0, 1, 2
VALIDATED = 'validated.json'
"""File that tells up to which iteration of which run the model was validated."""


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's hook, whose files are whole or not there, and from which a run goes on bit for bit.

    A checkpoint is written under a temporary name, brought to the disk, and renamed; only then is an older one deleted.
    It holds plain types, what an iteration meant, and the statistics that each rank keeps for itself, so that a run
    goes on from anywhere, the best checkpoints and the middle of an epoch included. ``last_checkpoint`` is relative: a
    folder can move.

    SIGTERM and SIGUSR1 end a training after its step, with a checkpoint, :class:`Stopped` and exit status 75.

    One run writes into a folder at a time, and none into a folder that holds another run's checkpoints.

    Args:
        every_minutes (float, optional): Also write a checkpoint after so many minutes since the last one, which the
            next one replaces. Defaults to None: only at the interval's end.
        overwrite (bool): Whether a new run may take a folder that holds checkpoints; they are moved into a folder
            beside. Defaults to False.
        **kwargs: Those of mmengine's ``CheckpointHook``.

    Raises:
        ValueError: If ``every_minutes`` is not above 0.
        CheckpointError: Before training, if there is nothing to go on from in what was named, or the folder is taken.
    """

    def __init__(self, *args: Any, every_minutes: float | None = None, overwrite: bool = False, **kwargs: Any) -> None:
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(f'CheckpointHook: every_minutes must be above 0, not {every_minutes}.')
        super().__init__(*args, **kwargs)
        self.every_minutes = every_minutes
        self.overwrite = overwrite
        self.signals = StopSignals()
        self._lock: RunLock | None = None
        self._run_id = uuid.uuid4().hex[:12]
        self._resumed = False
        self._interim: list[str] = []
        self._saved_at = -1
        self._written = time.monotonic()
        self._asked = False
        self._owed = False
        self._wished = _GO_ON
        self._ranks: list[dict] = []
        self._agreement: Agreement | None = None

    # --- before training: the folder, and what to go on from

    def before_run(self, runner: Runner) -> None:
        """Take the folder, and choose the checkpoint to go on from."""
        if not is_training(runner):
            return
        folder = self._folder(runner)
        if is_main_process():
            self._lock = RunLock(runner.work_dir)
            note = self._lock.acquire()
            atexit.register(self._lock.release)
            if note:
                runner.logger.warning(note)
        if runner._resume and runner._load_from is None:
            runner._load_from = self._choose(runner, folder)
            runner._resume = runner._load_from is not None
            if not runner._resume:
                runner.logger.warning(f'{folder} holds no checkpoint to go on from; training starts from scratch.')
        self._resumed = bool(runner._resume)
        self._clear(runner, folder)

    def _folder(self, runner: Runner) -> str:
        if self.out_dir is None:
            return runner.work_dir
        return os.path.join(self.out_dir, os.path.basename(runner.work_dir.rstrip(os.sep)))

    def _choose(self, runner: Runner, folder: str) -> str | None:
        chosen = [None]
        if is_main_process():
            chosen = [checkpoints.newest(folder, runner.logger.warning)]
        if is_distributed():
            broadcast_object_list(chosen)
        return chosen[0]

    def _clear(self, runner: Runner, folder: str) -> None:
        """Move aside what would be mixed up with this run, or refuse to."""
        if not is_main_process():
            return
        there = checkpoints.files(folder)
        if self._resumed:
            source = Path(runner._load_from)
            if source.parent.resolve() == Path(folder).resolve():
                self._remove_temporary(folder)
                self._set_aside_later(runner, there, source)
                return
        if not there:
            return
        if not self.overwrite:
            raise CheckpointError(
                f'{folder} holds the checkpoints of another run ({there[0].name}); go on with --resume, choose another '
                '--work-dir, or move them aside with --overwrite.'
            )
        self._move(runner, there, 'replaced')

    def _set_aside_later(self, runner: Runner, there: list[Path], source: Path) -> None:
        """What was trained after the checkpoint that was named would be newer than what is trained now."""
        try:
            start = checkpoints.place_of(source).iter
        except (CheckpointError, OSError):
            return  # loading will say it
        later = []
        for path in there:
            try:
                if path.name != source.name and checkpoints.place_of(path).iter > start:
                    later.append(path)
            except (CheckpointError, OSError):
                continue
        if later:
            self._move(runner, later, 'superseded')

    def _move(self, runner: Runner, paths: list[Path], name: str) -> None:
        target = paths[0].parent / f'{name}_{time.strftime("%Y%m%d_%H%M%S")}_{self._run_id[:4]}'
        target.mkdir()
        for path in [*paths, *([paths[0].parent / checkpoints.LAST] if name == 'replaced' else [])]:
            if path.exists():
                path.rename(target / path.name)
        runner.logger.warning(f'Moved {len(paths)} checkpoints, {paths[0].name} among them, to {target}.')

    @staticmethod
    def _remove_temporary(folder: str) -> None:
        """What a run that was killed while writing left."""
        for path in Path(folder).glob(f'*{checkpoints.SUFFIX}.*{checkpoints.TEMPORARY}'):
            path.unlink(missing_ok=True)

    # --- loading

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Prepare what was read: for going on here, or for its weights alone."""
        state = checkpoint.get('state_dict')
        ranks = checkpoint.pop('ranks', None) or []
        if self._resumed and is_training(runner):
            checkpoints.check_resumable(checkpoint, runner._load_from)
            checkpoint['message_hub'] = checkpoints.restore_hub(checkpoint['message_hub'])
            then = checkpoint['meta'].get(resume.KEY) or {}
            self._run_id = then.get('id', self._run_id)
            self._check_loop(runner, checkpoint['meta'], then)
            self._plan_validation(runner, checkpoint['meta'])
            note = resume.adapt(runner, checkpoint)
            if note:
                runner.logger.warning(note)
            self._restore_containers(runner, checkpoint)
            if len(ranks) == then.get('world_size') == get_world_size():
                state.update(ranks[get_rank()])
                return
        if ranks and isinstance(state, dict):
            for name in ranks[0]:
                values = [rank[name] for rank in ranks]
                state[name] = torch.stack(values).mean(0) if values[0].is_floating_point() else values[0]

    @staticmethod
    def _check_loop(runner: Runner, meta: dict, then: dict) -> None:
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        whole = meta['iter'] == meta['epoch'] * then.get('steps', len(runner.train_dataloader))
        if by_epoch and not whole and not hasattr(runner.train_loop, 'batches'):
            raise CheckpointError(
                f'{runner._load_from} stands in the middle of an epoch, where {type(runner.train_loop).__name__} '
                "cannot go on; set train_cfg.type='ResumableEpochLoop'."
            )

    def _plan_validation(self, runner: Runner, meta: dict) -> None:
        """Was the run ended in the validation that belongs to its checkpoint?"""
        loop = runner.train_loop
        if runner.val_loop is None or not hasattr(loop, 'validates_at') or not meta['iter']:
            return
        if isinstance(loop, EpochBasedTrainLoop):
            steps = (meta.get(resume.KEY) or {}).get('steps', len(runner.train_dataloader))
            due = meta['iter'] == meta['epoch'] * steps and loop.validates_at(meta['epoch'])
        else:
            due = loop.validates_at(meta['iter'])
        try:
            done = json.loads((Path(runner.work_dir) / VALIDATED).read_text(encoding='utf-8'))
        except (OSError, ValueError):
            done = {}
        known = done.get('run') == self._run_id and done.get('iter', -1) >= meta['iter']
        loop.validation_due = due and not known

    @staticmethod
    def _restore_containers(runner: Runner, checkpoint: dict) -> None:
        schedulers = runner.param_schedulers
        if isinstance(schedulers, list) and isinstance(checkpoint.get('param_schedulers'), list):
            checkpoint['param_schedulers'] = [
                checkpoints.restore_counters(state, scheduler.state_dict())
                for state, scheduler in zip(checkpoint['param_schedulers'], schedulers, strict=False)
            ]

    # --- training

    def before_train(self, runner: Runner) -> None:
        """Find out what is kept, and listen for signals."""
        self.backend_args = self.backend_args or (
            None if '://' in str(self.out_dir or runner.work_dir) else {'backend': 'atomic'}
        )
        hub = runner.message_hub
        for name in [name for name in hub.runtime_info if name.startswith('best_ckpt')]:
            best = hub.get_info(name)
            if best:  # the folder may have moved
                hub.update_info(name, os.path.join(self._folder(runner), os.path.basename(best)))
        discarded = hub.get_info('discarded_ckpts', [])
        super().before_train(runner)
        if self.max_keep_ckpts <= 0:
            self.keep_ckpt_ids = deque()
        if self._resumed and is_main_process():
            for name in discarded:
                self._remove(name, keep=os.path.basename(runner._load_from))
        self._interim = [name for name in hub.get_info('interim_ckpts', []) if os.path.exists(self._path(name))]
        self._written = time.monotonic()
        device = next(segmentor_of(runner).parameters()).device
        self._agreement = Agreement(device)
        self.signals.listen()
        for loader in (runner.train_dataloader, runner.val_loop.dataloader if runner.val_loop else None):
            if isinstance(loader, DataLoader):
                shield_workers(loader)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Write what is due, and stop where a signal asked for it."""
        if self._lock:
            self._lock.show_life()
        wish = self._agreement.exchange(self._wish())
        self._owed |= not self.by_epoch and (
            self.every_n_train_iters(runner, self.interval, self.save_begin)
            or (self.save_last and self.is_last_train_iter(runner))
        )
        self._wished = max(self._wished, wish)
        if not steps_now(runner):
            return  # gradients wait to be added to others, which a checkpoint does not hold
        if self._owed:
            self._save_checkpoint(runner)
            self._owed = False
        wish, self._wished = self._wished, _GO_ON
        if wish == _GO_ON:
            return
        done = runner.iter + 1
        if self._saved_at != done:
            self._write_interim(runner, done)
        if wish == _STOP:
            barrier()  # where one rank ends, launchers end the others, and the first may still be writing
            self._stop(runner, done)

    def _wish(self) -> int:
        if self.signals.received:
            return _STOP
        minutes = self.every_minutes
        if minutes is None or self._asked or time.monotonic() - self._written < 60 * minutes or not is_main_process():
            return _GO_ON
        self._asked = True
        return _SAVE

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Any = None
    ) -> None:
        """Stop in a validation too, where ranks hold the same statistics; the launcher ends the others."""
        if self._lock:
            self._lock.show_life()
        if not self.signals.received or not is_main_process() or self._agreement is None:
            return
        if is_distributed() and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        if self._saved_at != runner.iter:
            self._write_interim(runner, runner.iter, gather=False)
        self._stop(runner, runner.iter)

    def _stop(self, runner: Runner, done: int) -> None:
        if is_main_process():
            runner.visualizer.close()
        raise Stopped(
            f'stopped by {self.signals.received or "a signal"} after iteration {done}, which {self.last_ckpt} holds; '
            'go on with --resume.'
        )

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Keep the best, and note that this place was validated."""
        super().after_val_epoch(runner, metrics)
        if is_main_process() and is_training(runner):
            done = json.dumps({'run': self._run_id, 'iter': runner.iter})
            checkpoints.write_bytes(done.encode(), Path(runner.work_dir) / VALIDATED)

    def after_train(self, runner: Runner) -> None:
        """End listening."""
        if self._agreement:
            self._agreement.close()
        self.signals.restore()
        super().after_train(runner)

    def after_run(self, runner: Runner) -> None:
        """Give the folder back."""
        if self._lock:
            self._lock.release()

    # --- writing

    def _write_interim(self, runner: Runner, done: int, gather: bool = True) -> None:
        """Write a checkpoint beside the interval's; the next one replaces it."""
        name = f'iter_{done}{checkpoints.SUFFIX}'
        self._gather(runner, gather)
        meta = {'epoch': runner.epoch, 'iter': done}
        self._save(runner, name, meta, interim=[name], kept=list(self.keep_ckpt_ids), discarded=self._interim)
        self._interim = [name]

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        kept = [number for number in self.keep_ckpt_ids if number != step] + [step]
        discarded = list(self._interim)
        if self.max_keep_ckpts > 0:
            discarded += [self.filename_tmpl.format(number) for number in kept[: -self.max_keep_ckpts]]
            kept = kept[-self.max_keep_ckpts :]
        name = self.filename_tmpl.format(step)
        self._gather(runner, not self.by_epoch)
        self._save(runner, name, meta, interim=[], kept=kept, discarded=[old for old in discarded if old != name])
        self.keep_ckpt_ids = deque(kept)
        self._interim = []

    def _save(
        self, runner: Runner, name: str, meta: dict, interim: list[str], kept: list[int], discarded: list[str]
    ) -> None:
        """Bring a checkpoint to the disk, point to it, and only then delete what it replaces."""
        hub = runner.message_hub
        if self.max_keep_ckpts > 0:
            hub.update_info('keep_ckpt_ids', kept)
        hub.update_info('interim_ckpts', interim)
        hub.update_info('discarded_ckpts', discarded)
        self.last_ckpt = self._path(name)
        hub.update_info('last_ckpt', name)
        if is_main_process():
            self._put(runner, name, meta)
            checkpoints.point_to(self.last_ckpt, runner.work_dir)
            for old in discarded:
                self._remove(old, keep=name)
        self._saved_at = meta['iter']
        self._written = time.monotonic()
        self._asked = False

    def _put(self, runner: Runner, name: str, meta: dict) -> None:
        runner.save_checkpoint(
            self.out_dir, name, self.file_client_args, save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler, meta=dict(meta), by_epoch=self.by_epoch,
            backend_args=self.backend_args, **self.args,
        )  # fmt: skip

    def _path(self, name: str) -> str:
        return os.path.join(self.out_dir, name)

    def _remove(self, name: str, keep: str) -> None:
        if name != keep and self.file_backend.isfile(self._path(name)):
            self.file_backend.remove(self._path(name))

    def _gather(self, runner: Runner, needed: bool) -> None:
        """Collect what ranks keep for themselves in the middle of an epoch: the statistics of their own images."""
        self._ranks = []
        if not needed or not is_distributed():
            return
        own = {}
        for prefix, module in segmentor_of(runner).named_modules():
            if not isinstance(module, StepState):
                for name, buffer in module.named_buffers(recurse=False):
                    if name not in module._non_persistent_buffers_set:
                        own[f'{prefix}.{name}'.lstrip('.')] = buffer.detach().cpu().clone()
        ranks = all_gather_object(own)
        if any(not torch.equal(rank[name], own[name]) for rank in ranks for name in own):
            self._ranks = ranks

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make a checkpoint plain, and add what going on from it needs."""
        checkpoint['meta'][resume.KEY] = {'id': self._run_id, **resume.describe(runner)}
        checkpoint['message_hub'] = checkpoints.plain_hub(checkpoint['message_hub'])
        if self._ranks:
            checkpoint['ranks'] = self._ranks
        if isinstance(checkpoint.get('param_schedulers'), list):
            checkpoint['param_schedulers'] = [
                {name: value for name, value in state.items() if not callable(value)}
                for state in checkpoint['param_schedulers']
            ]
        made = checkpoints.plain(checkpoint)
        checkpoint.clear()
        checkpoint.update(made)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Keep a checkpoint as the best where a score says so; it is one that a run can go on from."""
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        several = len(self.key_indicators) > 1
        step = runner.epoch if self.by_epoch else runner.iter
        improved = {}
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            if key not in metrics:
                raise KeyError(
                    f'default_hooks.checkpoint.save_best={key!r} is no score of this validation; choose one of '
                    f'{", ".join(metrics)}.'
                )
            suffix = f'_{key}' if several else ''
            best = runner.message_hub.get_info(f'best_score{suffix}', self.init_value_map[rule])
            score = metrics[key]
            if score is None or not self.is_better_than[key](score, best):
                continue
            name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
            old = self.best_ckpt_path_dict.get(key) if several else self.best_ckpt_path
            improved[key] = name, os.path.basename(old) if old else None, float(score)
            runner.message_hub.update_info(f'best_score{suffix}', float(score))
            runner.message_hub.update_info(f'best_ckpt{suffix}', self._path(name))
            if several:
                self.best_ckpt_path_dict[key] = self._path(name)
            else:
                self.best_ckpt_path = self._path(name)
        if not improved:
            return
        meta = {'epoch': runner.epoch, 'iter': runner.iter}
        if self._saved_at == runner.iter and not self._interim:
            # Once more, with the best score in it: the run that goes on from it must know.
            self._save_checkpoint_with_step(runner, step, meta)
        else:
            self._gather(runner, not self.by_epoch)
        if is_main_process():
            for key, (name, old, score) in improved.items():
                self._put(runner, name, meta)
                if old:
                    self._remove(old, keep=name)
                runner.logger.info(f'The best checkpoint, with {score:.4f} {key}, is {name}.')
