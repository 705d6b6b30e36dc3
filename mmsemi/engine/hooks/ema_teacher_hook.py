"""The teacher follows the student."""

from __future__ import annotations

from collections import defaultdict

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmsemi.engine.utils import passes_of, segmentor_of, steps_now
from mmsemi.registry import HOOKS


@HOOKS.register_module()
class EMATeacherHook(Hook):
    """Move the teacher towards the student after each optimizer step: a few fused kernels for all its tensors.

    The momentum warms up as ``min(1 - 1 / (step + 1), momentum)``, so that the teacher is the mean of the first
    students; steps are those of the optimizer, however many passes each gathers gradients of.

    Source: Tarvainen and Valpola, 2017 (arXiv:1703.01780); the warm-up as in U2PL, AugSeg and others.

    Args:
        momentum (float): Share of the old teacher that a step keeps, in [0, 1). Defaults to 0.99.
        buffers (str): ``'average'``: floating-point buffers (batch statistics) are averaged too; ``'copy'``: taken from
            the student. Defaults to 'average'.
        warmup (bool): Whether the momentum warms up; else the first step copies the student and all others keep
            ``momentum``, as in the released code of DSSN. Defaults to True.
        copy_epochs (float): Epochs in which the teacher is a copy of the student; the warm-up counts from their end.
            Defaults to 0.
        count_copies (bool): The warm-up counts from the start of training instead, as in the released code of AugSeg.
            Defaults to False.

    Raises:
        ValueError: If an argument is out of range; before training, if the model has no teacher.
    """

    priority = 'HIGH'

    def __init__(
        self,
        momentum: float = 0.99,
        buffers: str = 'average',
        warmup: bool = True,
        copy_epochs: float = 0.0,
        count_copies: bool = False,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f'EMATeacherHook: momentum must lie in [0, 1), not {momentum}.')
        if buffers not in ('average', 'copy'):
            raise ValueError(f"EMATeacherHook: buffers must be 'average' or 'copy', not {buffers!r}.")
        if copy_epochs < 0:
            raise ValueError(f'EMATeacherHook: copy_epochs must be 0 or more, not {copy_epochs}.')
        self.momentum = momentum
        self.buffers = buffers
        self.warmup = warmup
        self.copy_epochs = copy_epochs
        self.count_copies = count_copies

    def before_train(self, runner: Runner) -> None:
        """Pair the tensors of both branches."""
        model = segmentor_of(runner)
        if not getattr(model, 'has_teacher', False):
            raise ValueError(
                f'EMATeacherHook needs a teacher, but {type(model).__name__} has none; remove it from '
                'default_hooks or choose a method with a teacher.'
            )
        self._groups, self._copies = _pair(model.teacher, model.student, self.buffers)

    @torch.no_grad()
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Update the teacher, unless gradients are still being accumulated."""
        if not steps_now(runner):
            return
        update = get_ema_multi_avg_fn(self._momentum_at(runner))
        for teacher, student in self._groups:
            update(teacher, student, None)
        if self._copies[0]:
            torch._foreach_copy_(*self._copies)

    def _momentum_at(self, runner: Runner) -> float:
        """The share of the old teacher that this step keeps."""
        first = round(self.copy_epochs * len(runner.train_dataloader)) if self.copy_epochs else 0
        passes = passes_of(runner)
        past = runner.iter // passes - (0 if self.count_copies else first // passes)
        if runner.iter < first or past == 0:
            return 0.0
        return min(1 - 1 / (past + 1), self.momentum) if self.warmup else self.momentum


def _pair(
    teacher: nn.Module, student: nn.Module, buffers: str
) -> tuple[list[tuple[list[Tensor], list[Tensor]]], tuple[list[Tensor], list[Tensor]]]:
    """Tensors to average, grouped by dtype as fused kernels want them, and tensors to copy."""
    averaged: dict[torch.dtype, tuple[list, list]] = defaultdict(lambda: ([], []))
    copied: tuple[list, list] = ([], [])
    tensors = [(t, s, True) for t, s in zip(teacher.parameters(), student.parameters(), strict=True)]
    tensors += [(t, s, buffers == 'average') for t, s in zip(teacher.buffers(), student.buffers(), strict=True)]
    for ours, theirs, average in tensors:
        if ours is theirs:  # a frozen encoder that both share
            continue
        target = averaged[ours.dtype] if average and ours.is_floating_point() else copied
        target[0].append(ours.data)
        target[1].append(theirs.data)
    return list(averaged.values()), copied
