"""What the hooks share."""

from __future__ import annotations

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, Sampler


def is_training(runner: Runner) -> bool:
    """Whether the runner trains: its training loop was asked for, and is built."""
    return isinstance(getattr(runner, '_train_loop', None), BaseLoop)


def sampler_of(loader: DataLoader) -> Sampler:
    """What draws the images of a loader's batches."""
    return getattr(getattr(loader, 'batch_sampler', None), 'sampler', None) or loader.sampler


def steps_now(runner: Runner) -> bool:
    """Whether the optimizer stepped after this iteration, and not only gathered gradients for a later step."""
    return getattr(_wrapper(runner), 'should_update', lambda: True)()


def passes_of(runner: Runner) -> int:
    """How many passes an optimizer step gathers gradients of (``optim_wrapper.accumulative_counts``)."""
    return getattr(_wrapper(runner), '_accumulative_counts', 1)


def _wrapper(runner: Runner) -> object:
    return getattr(runner, 'optim_wrapper', None)


def segmentor_of(runner: Runner) -> nn.Module:
    """The runner's model without what wraps it: distribution, test-time augmentation."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
