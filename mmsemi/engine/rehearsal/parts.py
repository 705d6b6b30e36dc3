"""What the parts of a rehearsal share."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.runner import Runner


def datasets_of(runner: Runner) -> Iterator[tuple[str, Any]]:
    """The data sets of training and validation, each behind the key of its loader."""
    yield 'train_dataloader', runner.train_dataloader.dataset
    if runner.val_loop is not None:
        yield 'val_dataloader', runner.val_dataloader.dataset


def channel_problem(what: str, channels: int, wanted: int) -> str:
    """The sentence for images whose channels are not those of the network."""
    return (
        f'The {what} have {channels} channels, but the network reads {wanted}: set color_type of their '
        "LoadImageFromFile ('color', 'grayscale', 'unchanged'), or model.student.backbone.in_channels="
        f'{channels} with as many numbers in model.data_preprocessor.mean and std.'
    )


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """Random numbers that are drawn inside are drawn again behind it, on all devices."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if on_device is not None:
            torch.cuda.set_rng_state(on_device)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Reductions over ranks leave tensors as they are: those on the meta device cannot travel."""
    with (
        mock.patch('mmengine.dist.dist.get_world_size', lambda group=None: 1),
        mock.patch('torch.distributed.is_initialized', lambda: False),
    ):
        yield


def words(error: Exception) -> str:
    """An error as the end of a sentence."""
    text = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f'the key {text} is missing'
    if not text.startswith('The ') and type(error).__module__ == 'builtins' and not isinstance(error, ValueError):
        text = f'{type(error).__name__}: {text}'
    return text if text.endswith(('.', '!')) else f'{text}.'
