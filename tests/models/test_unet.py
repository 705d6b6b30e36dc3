"""The U-Net of UniMatch's medical protocol: its widths, its levels to perturb, and methods on one channel."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmsemi.models import UNetEncoder, UNetHead
from mmsemi.models.modules.receptive_field import receptive_fields
from mmsemi.registry import MODELS
from tests import tiny
from tests.project import ROOT

WIDTHS = (4, 6, 8)


def small(**kwargs) -> tuple[UNetEncoder, UNetHead]:
    encoder = UNetEncoder(channels=WIDTHS, dropout=(0.0, 0.1, 0.2), **kwargs)
    return encoder, UNetHead(WIDTHS, num_classes=3)


def network() -> dict:
    """Config of a U-Net of three levels on one channel."""
    losses = [dict(type='PixelCrossEntropyLoss', loss_weight=0.5), dict(type='PixelDiceLoss', loss_weight=0.5)]
    return dict(
        type='EncoderDecoder',
        backbone=dict(type='UNetEncoder', channels=WIDTHS, dropout=(0.0, 0.1, 0.2)),
        decode_head=dict(type='UNetHead', in_channels=WIDTHS, num_classes=4, align_corners=False, loss_decode=losses),
        test_cfg=dict(mode='whole'),
    )


def one_channel(method: str, **kwargs):
    """A method over the U-Net, and a batch of one channel for it."""
    preprocessor = dict(mean=[0.0], std=[255.0], bgr_to_rgb=False)
    model = tiny.build(method, student=network(), preprocessor=preprocessor, **kwargs).train()
    streams = tiny.streams_for(model)
    for name in ('labeled', 'weak'):
        setattr(streams, name, getattr(streams, name)[:, :1])
    streams.strong = tuple(x[:, :1] for x in streams.strong)
    return model, streams


def test_the_network_of_the_configs_has_the_released_number_of_parameters():
    cfg = Config.fromfile(ROOT / 'configs/_base_/models/unet.py').network
    cfg.backbone.norm_cfg = cfg.decode_head.norm_cfg = dict(type='BN')
    segmentor = MODELS.build(cfg)
    assert sum(p.numel() for p in segmentor.parameters()) == 1_813_764
    assert [m.p for m in segmentor.modules() if isinstance(m, nn.Dropout)] == [0.05, 0.1, 0.2, 0.3, 0.5] + [0.0] * 4
    assert {m.negative_slope for m in segmentor.modules() if isinstance(m, nn.LeakyReLU)} == {0.01}


def test_each_level_halves_the_size_and_scores_have_the_images():
    encoder, head = small()
    features = encoder(torch.randn(2, 1, 24, 16))
    assert [tuple(x.shape[1:]) for x in features] == [(4, 24, 16), (6, 12, 8), (8, 6, 4)]
    assert head(features).shape == (2, 3, 24, 16)


def test_the_decoder_joins_each_level_with_what_comes_from_below():
    encoder, head = (x.eval() for x in small())
    with torch.no_grad():
        fine, middle, coarse = encoder(torch.randn(1, 1, 8, 8))
        x = coarse
        for reduce, block, level in zip(head.reduce, head.blocks, (middle, fine), strict=True):
            enlarged = nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True)(reduce(x))
            x = block(torch.cat([level, enlarged], 1))
        assert torch.allclose(head((fine, middle, coarse)), head.conv_seg(x), atol=1e-6)


def test_sizes_that_do_not_halve_are_told_with_the_mend():
    with pytest.raises(ValueError, match=r'multiples of 4, not \(10, 8\); .*test_cfg.size_divisor=4'):
        small()[0](torch.randn(1, 1, 10, 8))
    with pytest.raises(ValueError, match=r'dropout=\(0.1,\) must have as many levels as channels=\(4, 6\)'):
        UNetEncoder(channels=(4, 6), dropout=(0.1,))


def test_the_receptive_field_of_a_level_is_traced():
    encoder, _ = small()
    fields = receptive_fields(lambda image: encoder.eval()(image)[2], (32, 32), channels=1)
    # 5, then a pooling and two convolutions at stride 2, then at stride 4.
    assert [(extent.jump, extent.size) for extent in fields] == [(4, 5 + 1 + 8 + 2 + 16)] * 2


def test_every_level_is_perturbed_and_clean_features_stay():
    model, streams = one_channel('UniMatch')
    model.eval()
    assert model.student.in_channels == 1
    assert model.student._levels_read(3) == {0, 1, 2}
    seen = []
    outputs = model.student.forward_perturbed(lambda level: seen.append(level.shape) or 0 * level, weak=streams.weak)
    assert [shape[1] for shape in seen] == list(WIDTHS)
    assert torch.allclose(outputs['weak'].logits, model.student(streams.weak).logits, atol=1e-5)
    assert not torch.allclose(outputs['perturbed_0'].logits, outputs['weak'].logits)


@pytest.mark.parametrize('method', ['Supervised', 'FixMatch', 'MeanTeacher', 'UniMatch', 'DSSN', 'AEL'])
@pytest.mark.parametrize('plugins', [[], [dict(type='MPMC', position='stage3', pools=(3, 5), channels=4)]])
def test_methods_learn_from_one_channel(method, plugins):
    model, streams = one_channel(method, plugins=plugins)
    total, _ = model.parse_losses(model.loss(streams))
    total.backward()
    assert total.isfinite() and all(p.grad is not None for p in model.student.segmentor.parameters())


def test_labeled_images_are_learned_by_half_the_cross_entropy_and_half_the_dice():
    model, streams = one_channel('Supervised')
    losses = model.eval().loss(streams)
    logits = model.student(streams.labeled).logits
    heads = [dict(type='PixelCrossEntropyLoss'), dict(type='PixelDiceLoss')]
    expected = [MODELS.build(config)(logits, streams.labels) / 2 for config in heads]
    assert torch.allclose(losses['sup.loss_ce'], expected[0]) and torch.allclose(losses['sup.loss_dice'], expected[1])
