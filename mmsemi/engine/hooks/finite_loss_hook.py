"""A run that diverged stops, and its last good checkpoint stays."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.engine import checkpoints
from mmsemi.registry import HOOKS

_NEVER = 2**62


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop when a loss becomes infinite or not a number, naming the term and the iteration.

    Each step notes on the device which term was the first to fail; the host looks every ``interval`` iterations and
    before a checkpoint is written, so that steps never wait and no checkpoint holds a broken model.

    Args:
        interval (int): Iterations between looks. Defaults to 50.

    Raises:
        ValueError: If ``interval`` is below 1.
        FloatingPointError: In training, when a loss was not finite.
    """

    priority = 'ABOVE_NORMAL'

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f'FiniteLossHook: interval must be 1 or more, not {interval}.')
        self.interval = interval
        self._names: list[str] = []
        self._first: torch.Tensor | None = None

    @torch.no_grad()
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Note failures of this step."""
        names = [name for name in outputs or {} if 'loss' in name and name != 'loss']
        if not names:
            return
        values = torch.stack([torch.as_tensor(outputs[name]).detach().float() for name in names])
        if self._first is None or names != self._names:
            self._names, self._first = names, torch.full_like(values, _NEVER, dtype=torch.long)
        self._first = torch.where(values.isfinite(), self._first, self._first.clamp(max=runner.iter))
        if self.every_n_train_iters(runner, self.interval):
            self._look(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Look before validation and the epoch's checkpoint."""
        self._look(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Never let a broken model into a checkpoint, whenever it is written; only the first rank gets here."""
        self._look(runner, reduce=False)

    def _look(self, runner: Runner, reduce: bool = True) -> None:
        if self._first is None:
            return
        first = self._first.clone()
        if reduce:
            all_reduce(first, 'min')
        first = first.tolist()
        iteration = min(first)
        if iteration == _NEVER:
            return
        terms = ', '.join(name for name, when in zip(self._names, first, strict=True) if when == iteration)
        last = checkpoints.last(runner.work_dir)
        kept = f'the last good checkpoint is {last}' if last else 'no checkpoint had been written yet'
        raise FloatingPointError(
            f'{terms} became infinite or not a number at iteration {iteration + 1}; {kept}. Lower the learning rate or '
            "the term's weight, or train without --amp."
        )
