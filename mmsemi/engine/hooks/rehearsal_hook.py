"""A run is rehearsed before it starts."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.engine.rehearsal import rehearse
from mmsemi.registry import HOOKS


@HOOKS.register_module()
class RehearsalHook(Hook):
    """Try each part of training and validation once before the first iteration; it takes seconds.

    Raises:
        RehearsalError: If a part fails; its message has one sentence for each failure.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Rehearse; warnings go to the log."""
        for warning in rehearse(runner):
            runner.logger.warning(warning)
