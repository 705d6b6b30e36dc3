"""Activation checkpointing by one key: the same step in less memory, for every backbone."""

from __future__ import annotations

import copy

import mmpretrain.models  # noqa: F401
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmsemi.apis.launch import prepare_config
from mmsemi.models.branch import Branch
from mmsemi.models.checkpointing import recompute_blocks
from tests import tiny
from tests.project import project_files

# The backbones of the base configs, made small.
SMALL = {
    'ResNetV1c': dict(depth=18, base_channels=4, stem_channels=4),
    'MixVisionTransformer': dict(embed_dims=4, num_layers=[2, 2, 2, 2], num_heads=[1, 1, 2, 2], drop_path_rate=0.3),
    'VisionTransformer': dict(embed_dims=8, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3), img_size=(32, 32)),
    'mmpretrain.VisionTransformer': dict(
        arch=dict(embed_dims=8, num_layers=4, num_heads=2, feedforward_channels=16),
        out_indices=(0, 1, 2, 3),
        img_size=28,
    ),
}
# mmseg's and mmpretrain's that no base config has, and one of plain torch.
OTHERS = {
    'UNet': dict(type='UNet', base_channels=4, num_stages=3, strides=(1, 1, 1), enc_num_convs=(2, 2, 2),
                 dec_num_convs=(2, 2), downsamples=(True, True), enc_dilations=(1, 1, 1), dec_dilations=(1, 1)),
    'ConvNeXt': dict(type='mmpretrain.ConvNeXt', arch=dict(depths=[2, 2], channels=[4, 8]), out_indices=[0, 1],
                     gap_before_final_norm=False, drop_path_rate=0.2),
    'SwinTransformer': dict(type='SwinTransformer', embed_dims=8, depths=(2, 2), num_heads=(1, 2), window_size=4,
                            strides=(4, 2), out_indices=(0, 1)),
}  # fmt: skip


def backbones() -> dict[str, dict]:
    found = {}
    for path in project_files('configs/_base_/models/*.py'):
        cfg = Config.fromfile(path)
        if 'network' in cfg:
            cfg.model = cfg.network
            prepare_config(cfg, launcher='none')
            backbone = cfg.model.backbone.to_dict()
            if backbone['type'] in SMALL:
                found[path.stem] = {**backbone, **SMALL[backbone['type']], 'with_cp': False}
    return {**found, **OTHERS}


BACKBONES = backbones()


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the numbers that are kept for the backward pass."""

    def __init__(self) -> None:
        self.count = 0
        super().__init__(self._note, lambda tensor: tensor)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        self.count += tensor.numel()
        return tensor


def step(backbone: dict, with_cp: bool, size: int) -> tuple[dict, dict, int]:
    """Gradients and buffers after two passes and a backward pass, and how much was kept for it."""
    torch.manual_seed(0)
    head = dict(type='FCNHead', in_channels=4, channels=4, num_classes=4)
    branch = Branch(dict(type='EncoderDecoder', backbone=dict(backbone, with_cp=with_cp), decode_head=head))
    torch.manual_seed(1)
    for parameter in branch.parameters():
        nn.init.normal_(parameter, std=0.2)
    network = branch.segmentor.backbone
    network.double().train()
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    torch.manual_seed(2)
    kept = Kept()
    with kept:
        # As a method does: two passes of one network in a step.
        loss = sum(level.square().mean() for part in images.split(2) for level in network(part))
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return gradients, copy.deepcopy(dict(network.named_buffers())), kept.count


@pytest.mark.parametrize('name', BACKBONES)
def test_with_cp_changes_neither_gradients_nor_statistics_and_keeps_less(name):
    size = 28 if 'dinov2' in name else 32
    plain, recomputed = (step(BACKBONES[name], with_cp, size) for with_cp in (False, True))
    assert any(gradient is not None and gradient.any() for gradient in plain[0].values())
    for index in (0, 1):
        assert plain[index].keys() == recomputed[index].keys()
        for key, value in plain[index].items():
            other = recomputed[index][key]
            assert value is other is None or torch.allclose(value, other, atol=1e-10), key
    assert recomputed[2] < 0.7 * plain[2]


@pytest.mark.parametrize('method', ['UniMatch', 'MeanTeacher'])
def test_a_method_takes_the_same_step_and_its_teacher_too(method):
    losses = []
    for with_cp in (False, True):
        student = tiny.segmentor()
        student['backbone']['with_cp'] = with_cp
        model = tiny.build(method, student=student, threshold=0.3).double().train()
        streams = tiny.streams_for(model)
        streams.labeled, streams.weak = streams.labeled.double(), streams.weak.double()
        streams.strong = tuple(view.double() for view in streams.strong)
        torch.manual_seed(0)
        total, _ = model.parse_losses(model.loss(streams))
        total.backward()
        losses.append((total.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
        assert student['backbone']['with_cp'] is with_cp
    assert torch.allclose(losses[0][0], losses[1][0], atol=1e-10)
    assert all(torch.allclose(value, losses[1][1][name], atol=1e-10) for name, value in losses[0][1].items())


def test_a_network_with_it_can_be_copied_compiled_and_run_without_gradients():
    student = tiny.segmentor()
    student['backbone']['with_cp'] = True
    branch = Branch(student)
    images = torch.randn(2, 3, tiny.SIZE, tiny.SIZE)
    twin = copy.deepcopy(branch)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    assert not twin(images).coarse_logits.any() and branch(images).coarse_logits.any()
    block = branch.segmentor.backbone.layer1[0].train()
    x = torch.randn(2, 8, 8, 8, requires_grad=True)
    compiled = torch.compile(block, backend='aot_eager', fullgraph=True)
    assert torch.allclose(compiled(x), block(x), atol=1e-5)
    with torch.no_grad():
        assert not block(x).requires_grad


def test_a_backbone_without_blocks_is_named():
    with pytest.raises(ValueError, match=r'model\.student\.backbone\.with_cp=True: Sequential has no repeated blocks'):
        recompute_blocks(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3)))
    assert len(recompute_blocks(nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(2)).append(
        nn.ModuleList(nn.TransformerEncoderLayer(8, 2) for _ in range(3))))) == 3  # fmt: skip


def test_base_configs_are_among_them():
    assert {'deeplabv3plus_r50', 'deeplabv2_r101', 'segformer_b5', 'segmenter_vit-l'} <= BACKBONES.keys()
