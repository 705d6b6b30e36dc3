"""Training that can go on from anywhere, validation of every branch in one pass; data are checked before use."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop, autocast
from torch.utils.data import DataLoader

from mmsemi.datasets import check_evaluation_data
from mmsemi.registry import LOOPS

from .utils import sampler_of, segmentor_of


def choose_train_loop(cfg: Config) -> None:
    """Train with the loops below where ``cfg.train_cfg`` asks for mmengine's by ``by_epoch`` or by its own name."""
    train_cfg = cfg.get('train_cfg')
    if not isinstance(train_cfg, dict):
        return
    ours = {'EpochBasedTrainLoop': 'ResumableEpochLoop', 'IterBasedTrainLoop': 'ResumableIterLoop'}
    by_epoch = train_cfg.get('by_epoch')
    if by_epoch is not None and 'type' not in train_cfg:
        train_cfg.pop('by_epoch')
        train_cfg['type'] = ours['EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop']
    elif train_cfg.get('type') in ours:
        train_cfg['type'] = ours[train_cfg['type']]


class _Resumable:
    """What both training loops do to go on in the middle of an epoch."""

    validation_due = False
    """Whether the validation that belongs to the place where training goes on is still to be done."""

    def batches(self, epoch: int, start: int) -> Iterator[tuple[int, dict]]:
        """Batches of an epoch from number ``start`` on, each with its number."""
        sampler = sampler_of(self.dataloader)
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
        if not start:
            yield from enumerate(self.dataloader)
        elif hasattr(sampler, 'start'):
            sampler.start = start
            try:
                yield from enumerate(self.dataloader, start)
            finally:
                sampler.start = 0
        else:
            yield from ((number, batch) for number, batch in enumerate(self.dataloader) if number >= start)

    def validate_if_due(self) -> None:
        """Do the validation in which the run was ended, if it was."""
        if self.validation_due and self.runner.val_loop is not None:
            self.validation_due = False
            self.runner.val_loop.run()


@LOOPS.register_module()
class ResumableEpochLoop(_Resumable, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` that goes on in the middle of an epoch, with the batch that is next.

    Args:
        *args, **kwargs: Those of ``EpochBasedTrainLoop``.
    """

    def run(self) -> torch.nn.Module:
        """Launch training."""
        self.runner.call_hook('before_train')
        self.validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self.runner.val_loop is not None and self.validates_at(self._epoch):
                self.runner.val_loop.run()
        self.runner.call_hook('after_train')
        return self.runner.model

    def validates_at(self, epoch: int) -> bool:
        """Whether validation follows ``epoch`` epochs."""
        return epoch >= self.val_begin and (epoch % self.val_interval == 0 or epoch == self._max_epochs)

    def run_epoch(self) -> None:
        """Iterate one epoch, or what is left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for number, data_batch in self.batches(self._epoch, self._iter - self._epoch * len(self.dataloader)):
            self.run_iter(number, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterLoop(_Resumable, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop`` that goes on with the batch that is next, and in each pass takes a new order.

    Args:
        *args, **kwargs: Those of ``IterBasedTrainLoop``.
    """

    def run(self) -> torch.nn.Module:
        """Launch training."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self.validate_if_due()
        batches = self._passes()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            if self.runner.val_loop is not None and self.validates_at(self._iter):
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def validates_at(self, iteration: int) -> bool:
        """Whether validation follows ``iteration`` iterations."""
        return iteration >= self.val_begin and (iteration % self.val_interval == 0 or iteration == self._max_iters)

    def _passes(self) -> Iterator[dict]:
        epoch, start = divmod(self._iter, len(self.dataloader))
        while True:
            for _, data_batch in self.batches(epoch, start):
                yield data_batch
            epoch, start = epoch + 1, 0


class _CheckedLoop:
    """Checks the data before the loop builds its loader."""

    data_key = ''

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        check_files: bool = True,
    ) -> None:
        # What the masks show (this rank's share of them), and sentences on files that are left out.
        self.shown, self.lost = None, []
        if check_files and isinstance(dataloader, dict):
            self.shown, self.lost = check_evaluation_data(dataloader['dataset'], self.data_key)
        super().__init__(runner, dataloader, evaluator, fp16)


@LOOPS.register_module()
class TeacherStudentValLoop(_CheckedLoop, ValLoop):
    """Evaluate each branch of the model; metrics are named ``student/mIoU``, ``teacher/mIoU``.

    Images are read once and scored by each branch. Checkpoints pick the best by one of the names. The Runner makes this
    loop, and so has the data checked, before training.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): A data loader, or its config.
        evaluator (Evaluator | dict | list): Metrics.
        fp16 (bool): Whether to validate in half precision. Defaults to False.
        check_files (bool): Whether all files, and the ids in all masks, are checked; a built data loader is not.
            Defaults to True.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: Those of :func:`mmsemi.datasets.check_evaluation_data`.
    """

    data_key = 'val_dataloader'

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._branch_evaluators = {}

    def run(self) -> dict[str, float]:
        """Launch validation."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        model = segmentor_of(self.runner)
        self._branch_evaluators = {branch: copy.deepcopy(self.evaluator) for branch in model.branches}
        for idx, data_batch in enumerate(self.dataloader):
            self.run_iter(idx, data_batch)
        metrics, by_class = {}, {}
        for branch, evaluator in self._branch_evaluators.items():
            found = _watch_classes(evaluator)
            self.runner.logger.info(f'The {branch}, class by class:')
            results = evaluator.evaluate(len(self.dataloader.dataset))
            metrics.update({f'{branch}/{name}': value for name, value in results.items()})
            classes = (evaluator.dataset_meta or {}).get('classes', ())
            for name, values in found.items():
                for label, value in zip(classes, values, strict=False):
                    if math.isfinite(value):
                        by_class[f'{branch}/{name}_{label}'] = round(100 * float(value), 2)
        if by_class:
            # One a class, which would make the line of the log very long.
            self.runner.visualizer.add_scalars(by_class, step=self.runner.iter)
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Score one batch with each branch."""
        self.runner.call_hook('before_val_iter', batch_idx=idx, data_batch=data_batch)
        model = segmentor_of(self.runner)
        predicts, outputs = model.predict_on, None
        try:
            for branch, evaluator in self._branch_evaluators.items():
                model.predict_on = branch
                with autocast(enabled=self.fp16):
                    outputs = self.runner.model.val_step(copy.copy(data_batch))
                evaluator.process(data_samples=outputs, data_batch=data_batch)
        finally:
            model.predict_on = predicts
        self.runner.call_hook('after_val_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)


def _watch_classes(evaluator: Evaluator) -> dict[str, Sequence[float]]:
    """Where mmseg's metrics will leave the score of each class, in [0, 1], by its name, on the rank that evaluates."""
    found: dict[str, Sequence[float]] = {}

    def watched(score: Callable[..., dict]) -> Callable[..., dict]:
        def wrapped(*args: Any, **kwargs: Any) -> dict:
            scores = score(*args, **kwargs)
            found.update({name: scores[name] for name in ('IoU', 'Dice') if name in scores})
            return scores

        return wrapped

    for metric in evaluator.metrics:
        if hasattr(metric, 'total_area_to_metrics'):
            metric.total_area_to_metrics = watched(metric.total_area_to_metrics)
    return found


@LOOPS.register_module()
class CheckedTestLoop(_CheckedLoop, TestLoop):
    """mmengine's ``TestLoop`` over data that is checked first.

    Arguments and errors are those of :class:`TeacherStudentValLoop`.
    """

    data_key = 'test_dataloader'
