"""Receptive fields are those that gradients show."""

import math

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models.necks import Feature2Pyramid
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


def footprint(network, location: tuple[int, int], rounds: int = 1, side: int = SIDE) -> tuple[int, int, int, int]:
    """First and last row and column of the input that one location of the output depends on.

    A maximum passes one gradient of its window on: behind poolings only several images show the whole.
    """
    seen = torch.zeros(side, side, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        image = torch.rand(1, 3, side, side, dtype=torch.float64, generator=generator).requires_grad_()
        network(image)[0, :, location[0], location[1]].sum().backward()
        seen |= image.grad[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


def expected(field, location, side: int = SIDE) -> tuple[int, int, int, int]:
    bounds = []
    for extent, place in zip(field, location, strict=True):
        start = extent.jump * (place - place % extent.shared)
        bounds += [max(extent.first + start, 0), min(extent.last + start, side - 1)]
    return tuple(bounds)


def receptive_field(network, side: int = 224):
    return receptive_fields(lambda x: network(x.double()), (side, side))


def assert_holds(field, seen: tuple[int, ...], location: tuple[int, int], slack: float, side: int = SIDE) -> None:
    """The field holds the footprint, and is at most ``slack`` larger."""
    low, high, left, right = expected(field, location, side)
    first_row, last_row, first_column, last_column = seen
    assert low <= first_row and last_row <= high and left <= first_column and last_column <= right
    assert high - low <= last_row - first_row + slack and right - left <= last_column - first_column + slack


def resnet(**kwargs):
    return MODELS.build(ConfigDict({**tiny.segmentor()['backbone'], **kwargs}))


@pytest.mark.parametrize('stage', [0, 1])
@pytest.mark.parametrize('kind', [dict(), dict(type='ResNet'), dict(depth=50, base_channels=4)], ids=str)
def test_a_stage_of_a_resnet_sees_what_its_gradient_reaches(stage, kind):
    network = positive(resnet(**kind))
    field = receptive_field(lambda x: network(x)[stage])
    location = (18, 17) if stage == 0 else (9, 8)
    assert footprint(lambda x: network(x)[stage], location, rounds=15) == expected(field, location)


@pytest.mark.parametrize('stage', [2, 3])
@pytest.mark.parametrize('stride', [16, 8])
def test_a_late_stage_at_either_output_stride_sees_what_its_gradient_reaches(stage, stride):
    late = {
        16: dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
        8: dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    }
    network, side = positive(resnet(base_channels=2, stem_channels=2, **late[stride])), 561
    field = receptive_field(lambda x: network(x)[stage], side)
    location = (280 // stride, 260 // stride)
    seen = footprint(lambda x: network(x)[stage], location, rounds=3, side=side)
    assert seen == expected(field, location, side) and field[0].jump == stride
    assert min(seen) > 0 and max(seen) < side - 1, 'no bound is that of the image'


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
    field = receptive_field(network)
    for location in ((8, 9), (0, 0)):
        assert footprint(network, location) == expected(field, location)


@pytest.mark.parametrize('align_corners', [False, True])
def test_behind_a_resizing_the_field_holds_the_footprint(align_corners):
    layer = positive(nn.Conv2d(3, 2, 3, stride=4, padding=1))

    def network(x):
        small = layer(x)
        return F.interpolate(small, scale_factor=2, mode='bilinear', align_corners=align_corners)

    field = receptive_field(network, SIDE)
    for location in ((20, 7), (0, 71)):
        assert_holds(field, footprint(network, location), location, slack=12)


class Fused(nn.Module):
    """A map of stride 4, behind a ``dilated`` convolution too, beside one of stride 16 that is resized to it."""

    def __init__(self, align_corners: bool, dilated: int = 0) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.fine = nn.Conv2d(3, 2, 7, stride=4, padding=3)
        self.dilated = nn.Conv2d(2, 2, 3, padding=dilated, dilation=dilated) if dilated else nn.Identity()
        self.coarse = nn.Sequential(*(nn.Conv2d(2, 2, 3, stride=2, padding=1) for _ in range(2)))

    def forward(self, x):
        fine = self.fine(x)
        coarse = F.interpolate(self.coarse(fine), fine.shape[2:], mode='bilinear', align_corners=self.align_corners)
        return torch.cat([self.dilated(fine), coarse], 1)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('side', [801, 512, 500])
def test_paths_of_several_resolutions_are_held_at_the_size_that_was_asked_for(side, align_corners):
    network = positive(Fused(align_corners))
    field = receptive_field(network, side)
    last = len(range(0, side, 4)) - 1
    for location in ((0, 3), (37, 90), (last - 20, last)):
        assert_holds(field, footprint(network, location, side=side), location, slack=48, side=side)


def test_a_field_may_not_fit_another_size():
    network = positive(Fused(align_corners=True))
    location = (181, 181)
    seen = footprint(network, location, side=801)
    assert seen == (705, 751, 705, 751)
    assert_holds(receptive_field(network, 801), seen, location, slack=48, side=801)
    with pytest.raises(AssertionError):
        assert_holds(receptive_field(network, 224), seen, location, slack=math.inf, side=801)


def test_height_and_width_have_fields_of_their_own():
    # Both paths see much: how far they get out of step shows, and depends on the side.
    network = positive(Fused(align_corners=True, dilated=8))
    ours = receptive_fields(lambda x: network(x.double()), (512, 250))
    assert ours == (receptive_field(network, 512)[0], receptive_field(network, 250)[1]) and ours[0] != ours[1]


def test_of_paths_far_out_of_step_the_finest_counts():
    fine, keys = positive(nn.Conv2d(3, 2, 3, stride=4, padding=1)), positive(nn.Conv2d(2, 2, 8, stride=8))

    def network(x):
        query = fine(x)
        tokens, key = query.flatten(2).transpose(1, 2), keys(query).flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, key, key).transpose(1, 2).view_as(query)

    assert receptive_field(network) == (Extent(4, -1, 1),) * 2


def test_the_reduced_keys_of_a_segformer_do_not_count():
    network = MODELS.build(
        ConfigDict(
            type='MixVisionTransformer', embed_dims=4, num_stages=2, num_layers=[1, 1], num_heads=[1, 1],
            patch_sizes=[7, 3], strides=[4, 2], sr_ratios=[8, 4], out_indices=(0, 1),
        )
    ).double().eval()  # fmt: skip
    # Patches of 7 and a 3x3 convolution at stride 4; then patches of 3 and a 3x3 convolution at stride 8.
    assert receptive_field(lambda x: network(x)[0]) == (Extent(4, -7, 7),) * 2
    assert receptive_field(lambda x: network(x)[1]) == (Extent(8, -19, 19),) * 2


POOLINGS = dict(
    module=lambda x: F.adaptive_avg_pool2d(x, 1),
    maximum=lambda x: F.adaptive_max_pool2d(x, 1),
    mean=lambda x: x.mean((2, 3), keepdim=True),
    negative=lambda x: torch.mean(x, dim=(-1, -2))[:, :, None, None],
    amax=lambda x: x.amax((2, 3), keepdim=True),
)


@pytest.mark.parametrize('pool', POOLINGS.values(), ids=POOLINGS)
def test_a_global_pooling_sees_everything_and_as_a_gate_nothing(pool):
    layer, squeeze = positive(nn.Conv2d(3, 3, 3, padding=1)), positive(nn.Conv2d(3, 3, 1))
    everything, own = (Extent(1, -math.inf, math.inf),) * 2, (Extent(1, -1, 1),) * 2
    assert receptive_field(lambda x: x + pool(x)) == everything
    assert receptive_field(lambda x: torch.cat([x, F.interpolate(pool(x), x.shape[2:])], 1)) == everything
    for product in (lambda x, gate: x * gate, lambda x, gate: gate.expand_as(x) * x, lambda x, gate: x.mul_(gate)):
        assert receptive_field(lambda x, product=product: product(layer(x), squeeze(pool(x)).sigmoid())) == own


@pytest.mark.parametrize('axes', [1, (1,), (-3,), (1, 2)], ids=str)
def test_a_mean_over_channels_is_no_pooling(axes):
    # In some networks channels come last: a pooling is what leaves none of the last two axes.
    assert receptive_field(lambda x: x - x.mean(axes, keepdim=True)) == (Extent(),) * 2


def test_the_stages_of_a_network_with_gates_see_their_layers():
    network = MODELS.build(ConfigDict(type='MobileNetV3', out_indices=(0, 1, 12), norm_cfg=dict(type='BN'))).double()
    network.eval()
    gated = [receptive_field(lambda x, level=level: network(x)[level]) for level in range(3)]
    gates = [module for module in network.modules() if getattr(module, 'with_se', False)]
    for module in gates:
        module.se = nn.Identity()
    assert gates and gated == [receptive_field(lambda x, level=level: network(x)[level]) for level in range(3)]
    assert math.isfinite(gated[2][0].size)


def test_paths_that_meet_see_what_any_of_them_sees():
    wide = positive(nn.Conv2d(3, 3, 5, padding=2))
    assert receptive_field(lambda x: x + wide(x)) == (Extent(1, -2, 2),) * 2


def test_a_token_stands_for_its_patch():
    vit = dict(type='VisionTransformer', img_size=(64, 64), patch_size=16, embed_dims=8, num_layers=2, num_heads=2)
    network = MODELS.build(ConfigDict(vit, out_indices=(0, 1))).double()
    network.eval()
    assert receptive_field(lambda x: network(x)[0], 64) == (Extent(16, 0, 15),) * 2


def test_merged_patches_are_seen_together():
    swin = dict(type='SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=7)
    network = MODELS.build(ConfigDict(swin)).double()
    network.eval()
    for level, stride in enumerate((4, 8, 16, 32)):
        assert receptive_field(lambda x, level=level: network(x)[level]) == (Extent(stride, 0, stride - 1),) * 2


def test_a_layer_that_skips_pixels_in_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match='skips pixels'):
        receptive_field(lambda x: x[:, :, ::2, ::2])


@pytest.mark.parametrize('side', [33, 65, 97])
def test_a_map_that_reaches_over_the_edge_skips_no_pixels(side):
    layer = nn.Conv2d(3, 2, 3, stride=32, padding=1).double()
    assert receptive_field(layer, side) == (Extent(32, -1, 1),) * 2


@pytest.mark.parametrize('level, stride', enumerate((4, 8, 16, 32)))
def test_a_pyramid_of_transposed_convolutions_sees_what_its_gradient_reaches(level, stride):
    patches = nn.Conv2d(3, 4, 16, stride=16)
    neck = Feature2Pyramid(4, norm_cfg=dict(type='BN'))
    positive(nn.ModuleList([patches, neck]))
    network = lambda x: neck([patches(x)] * 4)[level]  # noqa: E731
    field = receptive_field(network)
    assert field[0].jump == stride
    for location in ((3, 2), (2, 1), (0, 3)):
        assert footprint(network, location, rounds=5) == expected(field, location)


@pytest.mark.parametrize(
    'kernel, stride, padding, dilation', [(2, 2, 0, 1), (4, 2, 1, 1), (3, 2, 1, 1), (3, 1, 1, 2), (5, 3, 2, 2)]
)
def test_behind_a_transposed_convolution_the_field_holds_the_footprint(kernel, stride, padding, dilation):
    network = positive(
        nn.Sequential(
            nn.Conv2d(3, 2, 5, stride=4, padding=2),
            nn.ConvTranspose2d(2, 2, kernel, stride, padding, dilation=dilation),
            nn.Conv2d(2, 2, 3, padding=1),
        )
    )
    field = receptive_field(network)
    unions = []
    for place in range(20, 20 + stride):
        seen = footprint(network, (place, 30))
        assert_holds(field, seen, (place, 30), slack=8)
        unions.append((seen[0] - field[0].jump * place, seen[1] - field[0].jump * place))
    low, high = min(first for first, _ in unions), max(last for _, last in unions)
    assert (field[0].first, field[0].last) == pytest.approx((low, high)), 'no narrower field moves evenly'


def test_windows_end_at_the_image():
    first, end = Extent(4, -3, 3).windows(5, 17)
    assert first.tolist() == [0, 1, 5, 9, 13] and end.tolist() == [4, 8, 12, 16, 17]
    first, end = Extent(4, -math.inf, math.inf).windows(2, 17)
    assert first.tolist() == [0, 0] and end.tolist() == [17, 17]
    first, end = Extent(4, -1, 8, shared=2).windows(5, 17)
    assert first.tolist() == [0, 0, 7, 7, 15] and end.tolist() == [9, 9, 17, 17, 17]


def test_each_pixel_belongs_to_the_location_whose_middle_is_nearest():
    extent = Extent(4, -3, 3)
    assert extent.nearest(3, 12).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert extent.middles(3, 12).tolist() == [0, 4, 8]
    everywhere = Extent(4, -math.inf, math.inf)
    assert everywhere.nearest(3, 12).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert everywhere.middles(3, 12).tolist() == [2, 6, 10]
    # Neighbours that see the same pixels share them out, in their order.
    shared = Extent(2, 0, 3, shared=2)
    assert shared.nearest(4, 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and shared.middles(4, 8).tolist() == [0, 2, 4, 6]
