"""The ViT of the DINOv2 config learns, or is frozen, by one key."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmsemi.apis.launch import prepare_config
from mmsemi.registry import MODELS
from tests import tiny

CONFIG = Path(__file__).resolve().parents[1] / 'configs/unimatch/unimatch_dinov2-s_dpt_voc.py'


def config(**options) -> Config:
    """The config over narrow layers, of which it has as many, and crops of few patches."""
    cfg = Config.fromfile(CONFIG)
    backbone, head = cfg.model.student.backbone, cfg.model.student.decode_head
    backbone.arch = dict(embed_dims=16, num_layers=12, num_heads=2, feedforward_channels=32)
    backbone.img_size = 42
    head.update(in_channels=[16] * 4, embed_dims=16, post_process_channels=[4, 8, 16, 32], channels=8)
    cfg.model.student.pretrained = None
    cfg.model.data_preprocessor.size = (42, 42)
    cfg.merge_from_dict(options)
    prepare_config(cfg, launcher='none')
    return cfg


@pytest.mark.parametrize('frozen', [True, False], ids=['frozen', 'as it is'])
def test_frozen_stages_decides_whether_the_backbone_learns_beside_the_decoder(frozen):
    cfg = config(**({'model.student.backbone.frozen_stages': 12} if frozen else {}))
    model = MODELS.build(cfg.model).train()
    model.init_weights()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    parameters = dict(model.student.segmentor.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}

    streams = model.data_preprocessor(tiny.batch(2, 2), training=True)['inputs']
    loss, _ = model.parse_losses(model.loss(streams))
    optim_wrapper.update_params(loss)

    backbone = {name for name in parameters if name.startswith('backbone.')}
    learning = set() if frozen else backbone
    assert {name for name in backbone if parameters[name].requires_grad} == learning
    optimized = {id(p) for group in optim_wrapper.optimizer.param_groups for p in group['params']}
    assert {name for name in backbone if id(parameters[name]) in optimized} == learning
    moved = {name for name, value in parameters.items() if not torch.equal(value, before[name])}
    assert backbone & moved == learning and moved - backbone
