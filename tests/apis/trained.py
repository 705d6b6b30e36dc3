"""Checkpoints as runs save them, of networks whose start is drawn so that no class wins everywhere."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmsemi.apis.config import resolve
from mmsemi.apis.launch import find_config, prepare_config
from mmsemi.registry import MODELS

CLASSES = ('sky', 'tree', 'road', 'car', 'person', 'pole', 'sign', 'wall')
PALETTE = [[30 * i, 255 - 30 * i, 100] for i in range(8)]


def save(config: str | Config, path: Path, classes=CLASSES, **options) -> Path:
    """Write a checkpoint of a config, an untrained network in it whose teacher is not its student."""
    cfg = Config.fromfile(find_config(config)) if isinstance(config, str) else config
    cfg.merge_from_dict(options)
    resolve(cfg)
    prepare_config(cfg, launcher='none')
    with DefaultScope.overwrite_default_scope('mmsemi'):
        model = MODELS.build(cfg.model)
    for seed, branch in enumerate(model.branches):
        torch.manual_seed(seed)
        network = getattr(model, branch).segmentor
        settle(network)
    meta = dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=classes, palette=PALETTE[: len(classes)]), epoch=1)
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    return path


def settle(network: torch.nn.Module) -> None:
    """Draw weights, and batch statistics that belong to them."""
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one pass below: then no class wins everywhere
    channels = next(m.in_channels for m in network.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        network(torch.randn(2, channels, 112, 112))  # whole patches of 14 and of 16
    network.eval()
