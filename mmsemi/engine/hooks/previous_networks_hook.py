"""PrevMatch's earlier networks are kept at the ends of epochs."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.engine import checkpoints
from mmsemi.engine.utils import segmentor_of
from mmsemi.registry import HOOKS

_FILE = 'previous_networks.json'


@HOOKS.register_module()
class PreviousNetworksHook(Hook):
    """Keep the student of an epoch that did better in validation than every one before, or that of every epoch.

    It is kept when the next epoch starts, so that a run resumed from the epoch's checkpoint does the same. That
    checkpoint was written before the validation; what this decides by, a number an epoch, is in the work folder's
    ``previous_networks.json``.

    Args:
        select (str): 'best': epochs that were better in validation than all before, as released: labels of the
            validation data then have a say in training. 'all': every epoch. Defaults to 'best'.
        metric (str): Which number of the validation is compared; the higher one is better. Defaults to 'student/mIoU'.
        start_epoch (int): Epochs before which nothing is kept. Defaults to 0.

    Raises:
        ValueError: If ``select`` is unknown; before training, if the model keeps no networks; after validation, if it
            has no such metric.
    """

    priority = 'HIGH'

    def __init__(self, select: str = 'best', metric: str = 'student/mIoU', start_epoch: int = 0) -> None:
        if select not in ('best', 'all'):
            raise ValueError(f"PreviousNetworksHook: select must be 'best' or 'all', not {select!r}.")
        self.select = select
        self.metric = metric
        self.start_epoch = start_epoch
        self._scores: dict[int, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Find out how earlier epochs of a resumed run did."""
        model = segmentor_of(runner)
        if not hasattr(model, 'remember'):
            raise ValueError(
                f'PreviousNetworksHook needs a method that keeps networks, but {type(model).__name__} keeps none; '
                'remove it from default_hooks.'
            )
        path, told = Path(runner.work_dir) / _FILE, [{}]
        if is_main_process() and runner.epoch and path.is_file():
            told = [json.loads(path.read_text(encoding='utf-8'))]
        broadcast_object_list(told)
        self._scores = {int(epoch): score for epoch, score in told[0].items() if int(epoch) <= runner.epoch}

    def before_train_epoch(self, runner: Runner) -> None:
        """Keep the student as the epoch before left it."""
        epoch = runner.epoch
        if epoch and epoch >= self.start_epoch and (self.select == 'all' or self._is_best(epoch)):
            segmentor_of(runner).remember()

    def _is_best(self, epoch: int) -> bool:
        earlier = [score for other, score in self._scores.items() if other < epoch]
        return epoch in self._scores and self._scores[epoch] > max(earlier, default=float('-inf'))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note how the epoch did."""
        if self.select == 'all' or not metrics:
            return
        if self.metric not in metrics:
            raise ValueError(
                f"PreviousNetworksHook: the validation has no metric='{self.metric}'; it has {', '.join(metrics)}."
            )
        self._scores[runner.epoch] = float(metrics[self.metric])
        if is_main_process():
            checkpoints.write_bytes(json.dumps(self._scores).encode(), Path(runner.work_dir) / _FILE)
