"""What a run is, and how far it is, for those who wait for it."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Sequence

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmsemi.engine.console import console_of
from mmsemi.engine.utils import passes_of, sampler_of, segmentor_of
from mmsemi.registry import HOOKS

_BAR = 20


@HOOKS.register_module()
class ConsoleHook(Hook):
    """Say at the start what is trained on what, and then, whatever the log's interval, where the run is: on a terminal
    one line that is written over each second, elsewhere a line after ``seconds`` without one.

    It looks at the clock and at numbers of the host alone.

    Args:
        seconds (float): Silence after which a line is written. Defaults to 30.

    Raises:
        ValueError: If it is not above 0.
    """

    # Behind the logger, whose line makes one of this hook's needless.
    priority = 'VERY_LOW'

    def __init__(self, seconds: float = 30.0) -> None:
        if not seconds > 0:
            raise ValueError(f'ConsoleHook: seconds must be above 0, not {seconds}.')
        self.seconds = seconds
        self._next = 0.0

    def before_train(self, runner: Runner) -> None:
        """Say what is trained."""
        if is_main_process():
            for line in opening(runner):
                runner.logger.info(line)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Say where training is."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            self._tell(runner, 'train', '', runner.iter + 1, runner.max_iters)
        else:
            self._tell(runner, 'train', f' [{runner.epoch + 1}]', batch_idx + 1, len(runner.train_dataloader))

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Say where validation is."""
        self._tell(runner, 'val', '', batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Say where the test is."""
        self._tell(runner, 'test', '', batch_idx + 1, len(runner.test_dataloader))

    def after_run(self, runner: Runner) -> None:
        """Leave a clean line."""
        if console := console_of(runner.logger):
            console.clear()

    def _tell(self, runner: Runner, mode: str, epoch: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next or not is_main_process():
            return
        console = console_of(runner.logger)
        if console is None:
            return
        if console.is_terminal:
            self._next = now + 1
            full = round(_BAR * done / max(total, 1))
            console.status(f'{"#" * full}{"." * (_BAR - full)} {_where(runner, mode, epoch, done, total)}')
        elif now - console.last >= self.seconds:
            runner.logger.info(_where(runner, mode, epoch, done, total))
        else:
            self._next = console.last + self.seconds


def _where(runner: Runner, mode: str, epoch: str, done: int, total: int) -> str:
    """A line of mmengine's log without losses, which would have to come from the device first."""
    text = f'{"Iter" if mode == "train" and not epoch else "Epoch"}({mode}){epoch}'
    text += f'[{done}/{total}]  ' if epoch else f' [{done}/{total}]  '
    if mode == 'train' and 'eta' in runner.message_hub.runtime_info:
        left = datetime.timedelta(seconds=int(runner.message_hub.get_info('eta')))
        seconds = runner.message_hub.get_scalar('train/time').current()
        text += f'eta: {left}  time: {seconds:.4f}'
    return text.rstrip()


def opening(runner: Runner) -> list[str]:
    """What matters of a training, a line each: data, network, method, batch, log."""
    model, dataset = segmentor_of(runner), runner.train_dataloader.dataset
    student, crop = model.student.segmentor, model.data_preprocessor.size
    validated = f', {len(runner.val_dataloader.dataset)} to validate' if runner.val_loop is not None else ''
    millions = sum(parameter.numel() for parameter in student.parameters()) / 1e6
    plugins = ''.join(f' with {type(plugin).__name__}' for plugin in model.plugins)
    steps = len(runner.train_dataloader)
    by_iter = isinstance(runner.train_loop, IterBasedTrainLoop)
    length = f'{runner.max_iters} steps'
    if not by_iter:
        length = f'{runner.max_epochs} {"epoch" if runner.max_epochs == 1 else "epochs"} of {steps} steps'
    loader = runner.train_dataloader
    sampler = sampler_of(loader)
    labeled, unlabeled = getattr(sampler, 'labeled', loader.batch_size), getattr(sampler, 'unlabeled', 0)
    processes, passes = get_world_size(), passes_of(runner)
    factors = [f'{processes} processes' if processes > 1 else 'one process']
    factors += [f'{passes} passes'] if passes > 1 else []
    rate = runner.optim_wrapper.optimizer.defaults.get('lr')
    files = [handler.baseFilename for handler in runner.logger.handlers if isinstance(handler, logging.FileHandler)]
    return [
        f'data     {dataset.num_labeled} labeled and {dataset.num_unlabeled} unlabeled images{validated}, '
        f'{model.num_classes} classes',
        f'network  {type(student.decode_head).__name__} on {type(student.backbone).__name__}, '
        f'{millions:.1f} million parameters, crop {crop[0]} x {crop[1]}',
        f'method   {type(model).__name__}{plugins}, {length}, the {model.predict_on} predicts',
        f'batch    {(labeled + unlabeled) * processes * passes} images in all ({labeled} labeled + {unlabeled} '
        f'unlabeled on {" in ".join(factors)}), learning rate {rate:g}',
        f'log      {files[0] if files else runner.log_dir}; checkpoints in {runner.work_dir}',
    ]
