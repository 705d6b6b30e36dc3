"""Receptive fields are those that gradients show."""

import math

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn
from torch.nn import functional as F

from mmsemi.models.modules.receptive_field import Extent, receptive_fields
from mmsemi.registry import MODELS
from tests import tiny

SIDE = 144


def positive(network: nn.Module) -> nn.Module:
    """Let every weight pass a gradient on: positive weights and inputs keep every ReLU open."""
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 0.01
    network.double().eval()
    return network


def footprint(network, location: tuple[int, int], rounds: int = 8) -> tuple[int, int, int, int]:
    """First and last row and column of the input that one location of the output depends on."""
    seen = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        image = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64, generator=generator).requires_grad_()
        network(image)[0, :, location[0], location[1]].sum().backward()
        seen |= image.grad[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


def expected(field, location) -> tuple[int, int, int, int]:
    bounds = []
    for extent, place in zip(field, location, strict=True):
        first, last = extent.first + extent.jump * place, extent.last + extent.jump * place
        bounds += [max(first, 0), min(last, SIDE - 1)]
    return tuple(bounds)


def receptive_field(network, side=224):
    return receptive_fields(lambda x: (network(x),), side)[0]


def resnet(**kwargs):
    return MODELS.build(ConfigDict({**tiny.segmentor()['backbone'], **kwargs}))


@pytest.mark.parametrize('stage', [0, 1])
@pytest.mark.parametrize('kind', [dict(), dict(type='ResNet'), dict(depth=50, base_channels=4)], ids=str)
def test_a_stage_of_a_resnet_sees_what_its_gradient_reaches(stage, kind):
    network = positive(resnet(**kind))
    field, shape = receptive_field(lambda x: network(x.double())[stage])
    assert shape[1:] == network(torch.rand(1, 3, 224, 224).double())[stage].shape[1:]
    location = (18, 17) if stage == 0 else (9, 8)
    # A maximum passes one gradient of its window on: many images show the whole, away from the padding.
    assert footprint(lambda x: network(x)[stage], location, rounds=15) == expected(field, location)


def test_layers_of_every_kind_add_up():
    network = positive(
        nn.Sequential(
            nn.Conv2d(3, 2, (3, 5), stride=2, padding=(1, 2), padding_mode='zeros'),
            nn.AvgPool2d(3, 1, padding=1),
            nn.ZeroPad2d((1, 0, 2, 0)),
            nn.Conv2d(2, 2, 3, dilation=2, padding='same'),
            nn.AvgPool2d(2),
        )
    )
    field, _ = receptive_field(lambda x: network(x.double()))
    for location in ((8, 9), (0, 0)):
        assert footprint(network, location, rounds=1) == expected(field, location)


@pytest.mark.parametrize('align_corners', [False, True])
def test_behind_a_resizing_the_field_holds_the_footprint(align_corners):
    layer = positive(nn.Conv2d(3, 2, 3, stride=4, padding=1))

    def network(x):
        small = layer(x)
        return F.interpolate(small, scale_factor=2, mode='bilinear', align_corners=align_corners)

    field, _ = receptive_field(lambda x: network(x.double()), SIDE)
    for location in ((20, 7), (0, 71)):
        first_row, last_row, first_column, last_column = footprint(network, location, rounds=1)
        low, high, left, right = expected(field, location)
        assert low <= first_row and last_row <= high and left <= first_column and last_column <= right
        assert high - low < last_row - first_row + 12, 'and not much more'


def test_a_global_pooling_sees_everything():
    field, _ = receptive_field(lambda x: x + F.adaptive_avg_pool2d(x, 1))
    assert field == (Extent(1, -math.inf, math.inf),) * 2


def test_paths_that_meet_see_what_any_of_them_sees():
    wide = positive(nn.Conv2d(3, 3, 5, padding=2))
    field, _ = receptive_field(lambda x: x + wide(x.double()))
    assert field == (Extent(1, -2, 2),) * 2


def test_a_token_stands_for_its_patch():
    vit = dict(type='VisionTransformer', img_size=(64, 64), patch_size=16, embed_dims=8, num_layers=2, num_heads=2)
    network = MODELS.build(ConfigDict(vit, out_indices=(0, 1)))
    network.eval()
    field, shape = receptive_field(lambda x: network(x)[0], 64)
    assert field == (Extent(16, 0, 15),) * 2 and shape == (1, 8, 4, 4)


def test_merged_patches_are_seen_together():
    swin = dict(type='SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=7)
    network = MODELS.build(ConfigDict(swin))
    network.eval()
    for level, stride in enumerate((4, 8, 16, 32)):
        field, _ = receptive_field(lambda x, level=level: network(x)[level])
        assert field == (Extent(stride, 0, stride - 1),) * 2


def test_a_layer_that_skips_pixels_in_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match='skips pixels'):
        receptive_field(lambda x: x[:, :, ::2, ::2])


def test_a_transposed_convolution_is_refused():
    layer = nn.ConvTranspose2d(3, 3, 2, stride=2)
    with pytest.raises(ValueError, match='transposed'):
        receptive_field(layer)


def test_windows_end_at_the_image():
    first, end = Extent(4, -3, 3).windows(5, 17)
    assert first.tolist() == [0, 1, 5, 9, 13] and end.tolist() == [4, 8, 12, 16, 17]
    first, end = Extent(4, -math.inf, math.inf).windows(2, 17)
    assert first.tolist() == [0, 0] and end.tolist() == [17, 17]


def test_each_pixel_belongs_to_the_location_whose_middle_is_nearest():
    extent = Extent(4, -3, 3)
    assert extent.nearest(3, 12).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert extent.middles(3, 12).tolist() == [0, 4, 8]
    everywhere = Extent(4, -math.inf, math.inf)
    assert everywhere.nearest(3, 12).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert everywhere.middles(3, 12).tolist() == [2, 6, 10]
