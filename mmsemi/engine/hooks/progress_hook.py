"""Where training stands: the same numbers, and the same random numbers, whether a run was resumed or not."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.engine.utils import segmentor_of
from mmsemi.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Tell the model the epoch, and make the random state of each step a function of (seed, rank, iteration).

    A model with a buffer ``progress`` is also told the share of training that is over, in [0, 1).

    What validation, checkpoints or a restart drew before does not matter then: a run that is resumed anywhere continues
    bit for bit. The workers need none of this; ``StreamSampler`` gives each sample its own seed.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Find out how long an epoch is."""
        self._steps = max(1, len(runner.train_dataloader))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Seed, after the data loader drew its own numbers."""
        seed = int(np.random.SeedSequence([runner.seed, get_rank(), runner.iter]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        model = segmentor_of(runner)
        if hasattr(model, 'epoch'):
            model.epoch.fill_(runner.iter / self._steps)
        if hasattr(model, 'progress'):
            model.progress.fill_(runner.iter / runner.max_iters)
