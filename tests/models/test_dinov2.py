"""DINOv2's encoder, the DPT decoder without normalisation, and how the two are evaluated."""

import pytest
import torch
from mmengine.config import Config, ConfigDict
from torch import nn

import mmsemi.models.backbones.dinov2  # noqa: F401
from mmsemi.models import Branch
from mmsemi.models.backbones.dinov2 import position_embedding
from mmsemi.registry import MODELS
from tests import tiny
from tests.oracles import dinov2 as oracle
from tests.project import ROOT

NARROW = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)


def encoder(**kwargs) -> nn.Module:
    """A narrow encoder for images of 42 pixels, 3 x 3 patches."""
    torch.manual_seed(0)
    cfg = dict(type='DINOv2', arch=NARROW, img_size=42, out_indices=(0, 1, 2, 3))
    backbone = MODELS.build({**cfg, **kwargs})
    nn.init.normal_(backbone.pos_embed)
    return backbone


def head(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    cfg = dict(
        type='PlainDPTHead', in_channels=(16,) * 4, in_index=(0, 1, 2, 3), input_transform='multiple_select',
        embed_dims=16, post_process_channels=[4, 8, 16, 32], channels=8, patch_size=14, num_classes=5, dropout_ratio=0,
        align_corners=True, loss_decode=dict(type='PixelCrossEntropyLoss'),
    )  # fmt: skip
    return MODELS.build({**cfg, **kwargs})


def narrow(**kwargs) -> ConfigDict:
    """The network of the configs over narrow layers, for images of 42 pixels."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/models/dpt_dinov2-s.py').network
    cfg.pretrained = None
    cfg.backbone.update(arch=NARROW, img_size=42, out_indices=(0, 1, 2, 3))
    cfg.decode_head.update(in_channels=[16] * 4, embed_dims=16, post_process_channels=[4, 8, 16, 32], channels=8)
    cfg.update(kwargs)
    return cfg


def segmentor(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    network = MODELS.build(narrow(**kwargs))
    network.eval()
    return network


@pytest.mark.parametrize(
    ('size', 'in_encoder', 'in_decoder'),
    [('s', 22_056_192, 2_665_205), ('b', 86_579_712, 10_653_141), ('l', 304_367_616, 30_030_357)],
)
def test_encoder_and_decoder_have_the_parameters_of_the_authors_network(size, in_encoder, in_decoder):
    network = Config.fromfile(ROOT / f'configs/_base_/models/dpt_dinov2-{size}.py').network
    network.pretrained = None
    with torch.device('meta'):
        built = MODELS.build(network)
    count = [sum(p.numel() for p in part.parameters()) for part in (built.backbone, built.decode_head)]
    assert count == [in_encoder, in_decoder]
    assert all(p.is_meta for p in built.parameters()), 'nothing was computed'


def test_every_level_is_normalised_by_the_last_layer_norm():
    backbone = encoder()
    with torch.no_grad():
        backbone.ln1.weight.uniform_(0.5, 2)
        backbone.ln1.bias.normal_()
        levels = backbone(torch.randn(2, 3, 28, 56))
    assert [level.shape for level in levels] == [(2, 16, 2, 4)] * 4
    for level in levels:
        tokens = (level.permute(0, 2, 3, 1) - backbone.ln1.bias) / backbone.ln1.weight
        assert tokens.mean(-1).abs().max() < 1e-5 and (tokens.var(-1, unbiased=False) - 1).abs().max() < 1e-3
    assert not torch.allclose(levels[0], levels[3])


@pytest.mark.parametrize('grid', [(37, 37), (57, 57), (36, 38), (5, 50), (74, 3), (1, 1)])
def test_position_embeddings_are_those_of_the_authors_at_any_size(grid):
    torch.manual_seed(0)
    position = torch.randn(1, 1 + 37 * 37, 2)
    ours = position_embedding(position, (37, 37), grid)
    assert torch.equal(ours[:, 0], position[:, 0])
    native = position[0, 1:].double().view(37, 37, 2)
    expected = native if grid == (37, 37) else oracle.position_embedding(native, *grid)
    assert torch.allclose(ours[0, 1:].double(), expected.flatten(0, 1), atol=1e-4)


def test_an_encoder_runs_at_518_and_798_pixels_without_a_new_embedding():
    backbone = MODELS.build(dict(type='DINOv2', arch=NARROW, out_indices=(3,))).to('meta')
    for side in (518, 798, 14):
        (level,) = backbone(torch.empty(1, 3, side, side, device='meta'))
        assert level.shape == (1, 16, side // 14, side // 14)
    assert backbone.pos_embed.shape == (1, 1 + 37 * 37, 16)


def test_images_that_are_not_made_of_whole_patches_are_refused():
    with pytest.raises(ValueError, match=r'an image of \(42, 50\) pixels is not made of whole patches of 14; set crop'):
        encoder()(torch.zeros(1, 3, 42, 50))


def official(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Its tensors under the names of ``dinov2_vits14_pretrain.pth``, spelt out by hand."""
    state, names = backbone.state_dict(), {}
    for name in ('cls_token', 'pos_embed'):
        names[name] = name
    for name in ('weight', 'bias'):
        names[f'patch_embed.proj.{name}'] = f'patch_embed.projection.{name}'
        names[f'norm.{name}'] = f'ln1.{name}'
        for i in range(len(backbone.layers)):
            ours, theirs = f'layers.{i}', f'blocks.{i}'
            for their_name, our_name in (
                ('norm1', 'ln1'), ('attn.qkv', 'attn.qkv'), ('attn.proj', 'attn.proj'), ('norm2', 'ln2'),
                ('mlp.fc1', 'ffn.layers.0.0'), ('mlp.fc2', 'ffn.layers.1'),
            ):  # fmt: skip
                names[f'{theirs}.{their_name}.{name}'] = f'{ours}.{our_name}.{name}'
            names[f'{theirs}.ls1.gamma'] = f'{ours}.attn.gamma1.weight'
            names[f'{theirs}.ls2.gamma'] = f'{ours}.ffn.gamma2.weight'
    assert sorted(names.values()) == sorted(state)
    return {'mask_token': torch.zeros(1, 16), **{theirs: state[ours].clone() for theirs, ours in names.items()}}


def shuffled(backbone: nn.Module) -> nn.Module:
    for parameter in backbone.parameters():
        nn.init.normal_(parameter)
    return backbone


@pytest.mark.parametrize('layout', ['official', 'mmpretrain', 'own'])
def test_pretrained_weights_are_read_in_every_layout(layout, tmp_path):
    trained = shuffled(encoder())
    state = {
        'official': official(trained),
        'mmpretrain': {'state_dict': {f'backbone.{name}': value for name, value in trained.state_dict().items()}},
        'own': trained.state_dict(),
    }[layout]
    torch.save(state, tmp_path / 'weights.pth')
    backbone = encoder(pretrained=str(tmp_path / 'weights.pth'))
    backbone.init_weights()
    loaded = backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in trained.state_dict().items())


def test_official_weights_of_another_size_of_image_are_interpolated(tmp_path):
    trained = shuffled(encoder())
    torch.save(official(trained), tmp_path / 'weights.pth')
    backbone = encoder(img_size=56, pretrained=str(tmp_path / 'weights.pth'))
    backbone.init_weights()
    assert backbone.pos_embed.shape == (1, 17, 16) and torch.equal(backbone.pos_embed[:, 0], trained.pos_embed[:, 0])


def test_a_level_is_brought_to_the_size_of_the_next_finer_one():
    decoder, sizes = head(), []
    for block in decoder.fusion_blocks:
        block.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[2:])))
    scores = decoder([torch.randn(1, 16, 5, 3)] * 4)
    assert sizes == [(5, 3), (10, 6), (20, 12), (40, 24)] and scores.shape == (1, 5, 40, 24)


def test_the_decoder_adds_levels_as_published():
    decoder = head()
    levels = [torch.randn(2, 16, 3, 5) for _ in range(4)]
    with torch.no_grad():
        read = decoder.reassemble_blocks([(x, None) for x in levels])
        fine = [conv(x) for conv, x in zip(decoder.convs, read, strict=True)]
        x = None
        sizes, relu = [(3, 5), (6, 10), (12, 20), (24, 40)], torch.relu
        for block, level, size in zip(decoder.fusion_blocks, fine[::-1], sizes, strict=True):
            if x is None:
                x = level
            else:
                unit = block.res_conv_unit1
                x = x + level + unit.conv2.conv(relu(unit.conv1.conv(relu(level))))
            unit = block.res_conv_unit2
            x = x + unit.conv2.conv(relu(unit.conv1.conv(relu(x))))
            # As published: first the interpolation, then the convolution.
            x = nn.functional.interpolate(x, size=size, mode='bilinear', align_corners=True)
            x = block.project.conv(x)
        expected = decoder.conv_seg(relu(decoder.project.conv(x)))
        assert torch.allclose(decoder(levels), expected, atol=1e-5)


def test_without_a_norm_convolutions_have_biases_and_with_one_they_have_mmsegs_parameters():
    plain, normed = head(), head(norm_cfg=dict(type='BN'))
    mmsegs = head(type='mmseg.DPTHead', norm_cfg=dict(type='BN'))
    assert {n: p.shape for n, p in normed.named_parameters()} == {n: p.shape for n, p in mmsegs.named_parameters()}
    names = dict(plain.named_parameters())
    assert not any('bn' in name for name in names)
    assert 'fusion_blocks.1.res_conv_unit1.conv2.conv.bias' in names and 'project.conv.bias' in names
    assert 'fusion_blocks.0.res_conv_unit1.conv1.conv.weight' not in names


def test_without_a_norm_convolutions_start_as_those_of_pytorch():
    decoder = head(channels=64)
    decoder.init_weights()
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            bound = (module.in_channels * module.kernel_size[0] ** 2) ** -0.5
            assert module.weight.abs().max() <= bound and module.weight.std() > 0.5 * bound
            assert module.bias is None or 0 < module.bias.abs().max() <= bound


@pytest.mark.parametrize(
    ('size', 'nearest'), [((42, 56), (42, 56)), ((48, 49), (42, 56)), ((50, 3), (56, 14)), ((35, 91), (42, 98))]
)
def test_evaluation_is_at_the_nearest_size_of_whole_patches_and_back(size, nearest):
    network, seen = segmentor(), []
    network.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        scores = network.encode_decode(images, [{}])
        resized = nn.functional.interpolate(images, nearest, mode='bilinear', align_corners=True)
        expected = network.decode_head(network.backbone(resized))
        for target in (nearest, size):
            expected = nn.functional.interpolate(expected, target, mode='bilinear', align_corners=True)
    assert seen[0].shape[2:] == nearest and torch.allclose(scores, expected, atol=1e-5)


def test_windows_are_averaged_by_their_probabilities_where_the_released_evaluation_does():
    slide = dict(mode='slide', crop_size=(42, 42), stride=(28, 28))
    images, scores = torch.randn(1, 3, 42, 70), {}
    for average in ('logits', 'probabilities'):
        network = segmentor(test_cfg=dict(slide, average=average))
        with torch.no_grad():
            network.decode_head.conv_seg.weight *= 20
            scores[average] = network.inference(images, [dict(img_shape=(42, 70), ori_shape=(42, 70))])
            windows = [network.decode_head(network.backbone(images[..., x : x + 42])) for x in (0, 28)]
    windows = [nn.functional.interpolate(x, (42, 42), mode='bilinear', align_corners=True) for x in windows]
    both = (windows[0].softmax(1)[..., 28:] + windows[1].softmax(1)[..., :14]) / 2
    assert torch.allclose(scores['probabilities'].exp()[..., 28:42], both, atol=1e-5)
    assert torch.allclose(scores['logits'][..., 28:42], (windows[0][..., 28:] + windows[1][..., :14]) / 2, atol=1e-4)


def test_with_patches_of_one_pixel_any_network_averages_windows_by_probabilities():
    student = dict(tiny.segmentor(), type='PatchEncoderDecoder', patch_size=1)
    windows = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    images, meta = torch.randn(1, 3, 48, 40), [dict(img_shape=(48, 40), ori_shape=(48, 40))]
    torch.manual_seed(0)
    network = MODELS.build(ConfigDict(student, test_cfg=dict(windows, average='probabilities'))).eval()
    scores = network.inference(images, meta)
    assert torch.allclose(scores.exp().sum(1), torch.ones(1, 48, 40), atol=1e-5)
    whole = network.encode_decode(images[..., :32, :32], meta)
    assert torch.allclose(scores[..., :16, :8].exp(), whole[..., :16, :8], atol=1e-6), 'one window alone'


@pytest.mark.parametrize(
    'arguments', [dict(patch_size=0), dict(test_cfg=dict(mode='slide', average='scores', crop_size=1, stride=1))]
)
def test_arguments_of_evaluation_are_checked(arguments):
    with pytest.raises(
        ValueError, match=r"patch_size >= 1 and test_cfg.average 'logits' or 'probabilities' are needed"
    ):
        segmentor(**arguments)


def test_both_are_a_branch_whose_logits_have_the_size_of_the_crop():
    out = Branch(narrow())(torch.randn(2, 3, 42, 42))
    assert out.logits.shape == (2, 21, 42, 42) and out.coarse_logits.shape == (2, 21, 24, 24) and out.align_corners
