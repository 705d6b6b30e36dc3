"""Losses come to the host when the log is written, not after each step."""

from __future__ import annotations

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from mmsemi.registry import HOOKS


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's hook, with the losses of a step left on the device until the logger asks for them.

    mmengine reads each loss of each step on the host, which so waits for the device before it may prepare the next
    step. The logger's windows and means are the same here. A checkpoint that is written between two lines of the log
    does not hold the losses since the last one.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out when the log is written."""
        super().before_train(runner)
        self._intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self._steps: list[dict[str, Tensor]] = []

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
