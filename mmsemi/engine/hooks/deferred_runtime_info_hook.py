"""Losses come to the host when the log is written, not after each step."""

from __future__ import annotations

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from mmsemi.registry import HOOKS

LEAST_KEPT = 1000
"""Values of each number that are kept at least: validation looks back at all of its own."""


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's hook, with the losses of a step left on the device until the logger asks for them.

    mmengine reads each loss of each step on the host, which so waits for the device before it may prepare the next
    step. The logger's windows and means are the same here. A checkpoint that is written between two lines of the log
    does not hold the losses since the last one. Of each number as many values are kept as the log looks back at, where
    mmengine keeps the last million.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out when the log is written."""
        super().before_train(runner)
        self._intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self._steps: list[dict[str, Tensor]] = []
        self._kept = kept_values(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Keep the losses of this step, and hand all of them over where the log is due."""
        if outputs:
            self._steps.append({name: value.detach() for name, value in outputs.items()})
        due = any(self.every_n_inner_iters(batch_idx, interval) for interval in self._intervals)
        if due or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._hand_over(runner)

    def after_train(self, runner: Runner) -> None:
        """Hand over what is left."""
        self._hand_over(runner)
        super().after_train(runner)

    def _hand_over(self, runner: Runner) -> None:
        names = [name for step in self._steps for name in step]
        values = [value.float().reshape(()) for step in self._steps for value in step.values()]
        self._steps.clear()
        for name, value in zip(names, torch.stack(values).tolist() if values else [], strict=True):
            runner.message_hub.update_scalar(f'train/{name}', value)
        for history in runner.message_hub.log_scalars.values():
            history.max_length = self._kept


def kept_values(runner: Runner) -> int:
    """How many values of a number the log looks back at."""
    processor = getattr(runner, 'log_processor', None)
    windows = [getattr(processor, 'window_size', 10)]
    windows += [config.get('window_size', 1) for config in getattr(processor, 'custom_cfg', [])]
    if 'global' in windows:
        return 1_000_000
    epoch = len(runner.train_dataloader) if 'epoch' in windows else 0
    return max([LEAST_KEPT, epoch, *(window for window in windows if isinstance(window, int))])
