"""A run is rehearsed before it starts."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.engine.pretrained import check_pretrained
from mmsemi.engine.rehearsal import rehearse
from mmsemi.engine.utils import is_training, segmentor_of
from mmsemi.registry import HOOKS


@HOOKS.register_module()
class RehearsalHook(Hook):
    """Try each part of training and validation once before the first iteration; it takes seconds.

    Raises:
        PretrainedError: Before weights are initialised, if those that the network starts from cannot be had.
        RehearsalError: If a part fails; its message has one sentence for each failure.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Fetch pretrained weights, where a training starts from them."""
        if is_training(runner) and not runner._resume:
            check_pretrained(segmentor_of(runner))

    def before_train(self, runner: Runner) -> None:
        """Rehearse; warnings go to the log."""
        for warning in rehearse(runner):
            runner.logger.warning(warning)
