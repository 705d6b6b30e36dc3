"""Batch statistics that ranks gathered apart become one before they are saved or used."""

from __future__ import annotations

from mmengine.dist import all_reduce, is_distributed
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.engine.utils import segmentor_of
from mmsemi.models.state import StepState
from mmsemi.registry import HOOKS


@HOOKS.register_module()
class SyncStatisticsHook(Hook):
    """Average floating-point buffers over ranks at the end of each epoch, before validation and checkpoints.

    Without SyncBN every rank keeps running statistics of its own images; a checkpoint would hold those of the first
    rank alone, and a resumed run would not continue the interrupted one. A
    :class:`StepState`, which may be large, is the same on all ranks by itself.
    """

    priority = 'ABOVE_NORMAL'

    def after_train_epoch(self, runner: Runner) -> None:
        """Average."""
        if not is_distributed():
            return
        for module in segmentor_of(runner).modules():
            if isinstance(module, StepState):
                continue
            for buffer in module.buffers(recurse=False):
                if buffer.is_floating_point():
                    all_reduce(buffer, 'mean')
