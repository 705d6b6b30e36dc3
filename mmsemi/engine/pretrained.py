"""Weights that a network starts from are there before a run starts."""

from __future__ import annotations

import os

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn


class PretrainedError(ValueError):
    """Weights cannot be had; the message says where they are from and which key leaves them out."""


def check_pretrained(model: nn.Module) -> None:
    """Read what the ``init_cfg`` of a model's parts names, which downloads it into the cache where it is not there.

    Args:
        model (nn.Module): A method; what has weights already is left out.

    Raises:
        PretrainedError: If a file does not exist or cannot be read or downloaded.
    """
    for name, module in model.student.named_modules():
        config = getattr(module, 'init_cfg', None)
        for part in config if isinstance(config, list) else [config]:
            if isinstance(part, dict) and part.get('type') == 'Pretrained' and part.get('checkpoint'):
                _read(part['checkpoint'], name)


def _read(source: str, name: str) -> None:
    key = 'model.student.' + (f'{name.removeprefix("segmentor.")}.init_cfg' if name != 'segmentor' else 'init_cfg')
    key = f'{key}, or model.student.pretrained (network.pretrained)'
    try:
        CheckpointLoader.load_checkpoint(source, map_location='cpu')
    except FileNotFoundError as error:
        raise PretrainedError(
            f'The pretrained weights {source} do not exist; correct {key}, or set it to None.'
        ) from error
    except (OSError, RuntimeError) as error:
        if '://' not in source:
            raise
        folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
        address = _address(source, error)
        raise PretrainedError(
            f'The pretrained weights {source} cannot be downloaded ({type(error).__name__}: {error}); put '
            f'{os.path.basename(address)} from {address} into {folder}, or leave them out: None for {key}.'
        ) from error


def _address(source: str, error: Exception) -> str:
    """Where weights lie, of which a name such as ``open-mmlab://resnet50_v1c`` is known."""
    if source.startswith(('http://', 'https://')):
        return source
    from mmengine.runner.checkpoint import get_deprecated_model_names, get_external_models

    prefix, _, name = source.partition('://')
    if prefix in ('open-mmlab', 'openmmlab'):
        models = get_external_models()
        name = get_deprecated_model_names().get(name, name)
        found = models.get(name, source)
        return found if '://' in found else source
    if prefix == 'torchvision':
        from mmengine.runner.checkpoint import get_torchvision_models

        return get_torchvision_models().get(name, source)
    return source
