"""A trained network out of a file: of a checkpoint of mmsemi, or one that was exported."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models.segmentors import BaseSegmentor

from mmsemi.engine import checkpoints
from mmsemi.registry import MODELS
from mmsemi.utils import register_all_modules

from .export import choose_branch, plain_model, read_checkpoint, segmentor_weights
from .launch import UsageError, quiet


@dataclass
class Network:
    """A segmentor that predicts, and what belongs to it.

    Args:
        model (BaseSegmentor): In evaluation mode, on its device.
        pipeline (list[dict]): Its test pipeline.
        classes (tuple[str]): Their names.
        palette (list[list[int]]): Their colors.
        data_root (str, optional): Folder of the images that it was trained on, as its config names it.
    """

    model: BaseSegmentor
    pipeline: list[dict]
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    data_root: str | None = None


def load_network(checkpoint: str, branch: str | None = None, device: str | None = None) -> Network:
    """Read a network from a checkpoint of mmsemi, or from an exported one with its config beside it.

    Args:
        checkpoint (str): Path of the file.
        branch (str, optional): 'student' or 'teacher'. Defaults to the teacher where there is one.
        device (str, optional): Defaults to the GPU where there is one.

    Raises:
        UsageError: If the file is neither, or has no such branch.
    """
    with quiet():
        register_all_modules(init_default_scope=False)
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    beside = Path(checkpoint).with_suffix('.py')
    network = _exported(checkpoint, beside, branch) if beside.is_file() else _own(checkpoint, branch)
    try:
        network.model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f'--device {device} cannot be used: {str(error).splitlines()[0]}') from error
    network.model.eval()
    return network


def _own(checkpoint: str, branch: str | None) -> Network:
    content, cfg = read_checkpoint(checkpoint)
    state = content['state_dict']
    config = ConfigDict(plain_model(cfg)[0])
    with DefaultScope.overwrite_default_scope('mmsemi'):
        model = MODELS.build(config)
    model.load_state_dict(segmentor_weights(state, choose_branch(state, branch)))
    pipeline = cfg.get('test_pipeline') or cfg.test_dataloader.dataset.pipeline
    return Network(model, copy.deepcopy(list(pipeline)), *_meta(content, model), cfg.get('data_root'))


def _exported(checkpoint: str, config: Path, branch: str | None) -> Network:
    if branch:
        raise UsageError('An exported network is one branch already; leave --branch out.')
    cfg = Config.fromfile(config)
    if 'model' not in cfg or 'test_pipeline' not in cfg:
        raise UsageError(f'{config} is no config of an exported network: it lacks model or test_pipeline.')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.parent.build(cfg.model)
    content = checkpoints.read(checkpoint)
    model.load_state_dict(content['state_dict'])
    return Network(model, list(cfg.test_pipeline), *_meta(content, model))


def _meta(content: dict, model: BaseSegmentor) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    from mmsemi.datasets.classes import palette

    meta = content.get('meta', {}).get('dataset_meta') or {}
    count = model.decode_head.num_classes
    classes = meta.get('classes') or [f'class {number}' for number in range(count)]
    return classes, meta.get('palette') or palette(count)
