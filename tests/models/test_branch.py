import importlib

import pytest
import torch
from mmengine.config import Config

from mmsemi.apis.launch import prepare_config
from mmsemi.models import Branch, BranchOutput, DeepLabV2Head, DeepLabV3PlusHead, ProjectionHead
from mmsemi.models.modules.label_graph import GraphOutput
from mmsemi.models.modules.receptive_field import receptive_fields
from mmsemi.registry import MODELS
from tests import tiny
from tests.project import ROOT


# Of the authors' decoders with 21 classes, without the biases in front of a BN that U2PL's and AEL's (768, and 256 in
# the auxiliary head) and AugSeg's (48) have and that do nothing.
@pytest.mark.parametrize(
    ('network', 'decoder', 'auxiliary'),
    [
        ('unimatch', 16_844_149, None),
        ('corrmatch', 16_844_149, None),
        ('augseg', 16_844_197 - 48, None),
        ('u2pl', 19_999_253 - 768, 2_365_461 - 256),
    ],
)
def test_heads_have_the_parameters_of_the_authors_networks(network, decoder, auxiliary):
    cfg = Config.fromfile(ROOT / f'configs/_base_/models/deeplabv3plus_r101_{network}.py')
    cfg.model = dict(decode_head=cfg.network.decode_head, auxiliary_head=cfg.auxiliary_head)
    prepare_config(cfg, launcher='none')
    for config, expected in ((cfg.model.decode_head, decoder), (cfg.model.auxiliary_head, auxiliary)):
        assert expected in (None, sum(parameter.numel() for parameter in MODELS.build(config).parameters()))


def test_multi_grid_gives_the_last_stages_blocks_their_dilations():
    for network, expected in (('augseg', (2, 4, 8)), ('u2pl', (4, 8, 16))):
        cfg = Config.fromfile(ROOT / f'configs/_base_/models/deeplabv3plus_r50_{network}.py')
        cfg.model = cfg.network.backbone
        prepare_config(cfg, launcher='none')
        backbone = MODELS.build(cfg.model)
        assert tuple(block.conv2.dilation[0] for block in backbone.layer4) == expected
        # What the strides of the stages before leave, from the second block on.
        assert [block.conv2.dilation[0] for block in backbone.layer3][:2] == ([1, 1] if network == 'augseg' else [1, 2])
        backbone.init_weights()
        assert not any(block.norm3.weight.any() for block in backbone.layer4)


def test_dropout_lies_behind_each_layer_of_the_decoder_that_asks_for_it():
    head = DeepLabV3PlusHead(
        in_channels=8,
        in_index=1,
        low_level_in_channels=4,
        channels=64,
        num_classes=3,
        norm_cfg=dict(type='BN'),
        bottleneck_kernel_size=3,
        inner_dropout=0.5,
        dropout_ratio=0.5,
    )
    names = {name for name in head.state_dict() if name.startswith('fuse')}
    plain = DeepLabV3PlusHead(
        in_channels=8, in_index=1, low_level_in_channels=4, channels=64, num_classes=3, norm_cfg=dict(type='BN')
    )
    assert names == {name for name in plain.state_dict() if name.startswith('fuse')}
    read = {}
    for name, module in (('fuse', head.fuse[0]), ('second', head.fuse[-1]), ('classifier', head.conv_seg)):
        module.register_forward_pre_hook(lambda module, args, name=name: read.update({name: args[0]}))
    head.train()((torch.randn(2, 4, 16, 16), torch.randn(2, 8, 4, 4)))
    for name, x in read.items():
        # Of 64 channels behind a BN none is 0 everywhere by chance; the low level's are not dropped.
        dropped = (x.flatten(2) == 0).all(2)
        assert 0.2 < dropped[:, :64].float().mean() < 0.8, name
    assert not (read['fuse'][:, 64:].flatten(2) == 0).all(2).any()
    inputs = (torch.randn(2, 4, 16, 16), torch.randn(2, 8, 4, 4))
    assert torch.equal(head.eval()(inputs), head(inputs))


def test_deeplabv3plus_head_scores_at_the_low_level_resolution():
    head = DeepLabV3PlusHead(
        in_channels=8, in_index=1, low_level_in_channels=4, channels=8, num_classes=3, norm_cfg=dict(type='BN')
    )
    assert head((torch.randn(2, 4, 16, 16), torch.randn(2, 8, 4, 4))).shape == (2, 3, 16, 16)


def test_deeplabv2_head_is_the_sum_of_its_dilated_classifiers():
    head = DeepLabV2Head(in_channels=8, in_index=-1, num_classes=3, dilations=(1, 2))
    head.init_weights()
    x = torch.randn(2, 8, 9, 9)
    assert torch.allclose(head((x,)), head.classifiers[0](x) + head.classifiers[1](x))
    assert head.classifiers[0].weight.std() < 0.02
    assert not any('conv_seg' in name for name, _ in head.named_parameters())


def test_logits_are_resized_to_the_input():
    branch = Branch(tiny.segmentor())
    out = branch(torch.randn(2, 3, tiny.SIZE, tiny.SIZE))
    assert out.coarse_logits.shape == (2, tiny.NUM_CLASSES, tiny.SIZE // 4, tiny.SIZE // 4)
    assert out.logits.shape == (2, tiny.NUM_CLASSES, tiny.SIZE, tiny.SIZE)


def test_the_decoder_feature_is_what_the_classifier_reads():
    branch = Branch(tiny.segmentor(), dict(embedding=tiny.HEADS['embedding'])).eval()
    out = branch(torch.randn(2, 3, tiny.SIZE, tiny.SIZE))
    assert torch.allclose(branch.segmentor.decode_head.conv_seg(out.decoder), out.coarse_logits, atol=1e-6)
    assert torch.equal(branch.heads['embedding'](out), out.heads['embedding'])
    assert out.heads['embedding'].shape == (2, 16, tiny.SIZE // 4, tiny.SIZE // 4)


def test_no_decoder_feature_is_kept_unless_a_head_asks():
    assert Branch(tiny.segmentor())(torch.randn(2, 3, tiny.SIZE, tiny.SIZE)).decoder is None


def test_views_of_a_joint_pass_share_batch_statistics():
    torch.manual_seed(0)
    branch = Branch(tiny.segmentor()).train()
    a, b = torch.randn(2, 3, 32, 32), 3 + torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        joint = branch(torch.cat([a, b])).coarse_logits
        together = branch.forward_together(a=a, b=b)
        alone = branch(a).coarse_logits
    assert torch.allclose(torch.cat([together['a'].coarse_logits, together['b'].coarse_logits]), joint, atol=1e-5)
    assert not torch.allclose(together['a'].coarse_logits, alone, atol=1e-3)


def halve(features):
    """A perturbation that tells by its values what it touched."""
    return 0.5 * features + 1


def two_views():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 32, 32, generator=generator), 3 + torch.randn(3, 3, 32, 32, generator=generator)


@pytest.mark.parametrize('copies, training', [(0, True), (0, False), (2, False)])
def test_clean_views_are_those_of_a_joint_pass(copies, training):
    torch.manual_seed(0)
    branch, (a, b) = Branch(tiny.segmentor(), dict(embedding=tiny.HEADS['embedding'])).train(training), two_views()
    with torch.no_grad():
        joint = branch.forward_together(a=a, b=b)
        outputs = branch.forward_perturbed(halve, copies, a=a, b=b)
    assert list(outputs) == ['a', 'b'] + [f'perturbed_{i}' for i in range(copies)]
    for name, out in joint.items():
        assert torch.allclose(outputs[name].coarse_logits, out.coarse_logits, atol=1e-5)
        assert torch.allclose(outputs[name].decoder, out.decoder, atol=1e-5)
        assert torch.allclose(outputs[name].heads['embedding'], out.heads['embedding'], atol=1e-5)
        assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(outputs[name].features, out.features, strict=True))


def test_perturbed_logits_are_those_of_the_last_views_perturbed_features():
    torch.manual_seed(0)
    branch, (a, b) = Branch(tiny.segmentor()).eval(), two_views()
    factors = iter((1.0, 2.0, 3.0, 4.0))
    with torch.no_grad():
        outputs = branch.forward_perturbed(lambda x: next(factors) * x, 2, a=a, b=b)
        low, *between, high = branch(b).features
        for i, (first, second) in enumerate([(1.0, 3.0), (2.0, 4.0)]):
            scores = branch.segmentor.decode_head((first * low, *between, second * high))
            assert torch.allclose(outputs[f'perturbed_{i}'].coarse_logits, scores, atol=1e-5)
            assert outputs[f'perturbed_{i}'].logits.shape == (3, tiny.NUM_CLASSES, 32, 32)
            assert outputs[f'perturbed_{i}'].features == ()


@pytest.mark.parametrize(
    'head, expected',
    [
        ({}, [0, 3]),
        (dict(in_index=-1), [0, 3]),
        (dict(type='FCNHead', in_channels=[8, 64], in_index=[0, -1], input_transform='resize_concat'), [0, 3]),
        (dict(type='FCNHead', in_channels=64, in_index=3), [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_only_levels_that_the_decoder_may_read_are_copied(head, expected):
    cfg, (a, b) = tiny.segmentor(), two_views()
    if 'type' in head:
        cfg['decode_head'] = dict(
            channels=16, num_classes=tiny.NUM_CLASSES, num_convs=1, norm_cfg=dict(type='BN'), **head
        )
    else:
        cfg['decode_head'].update(head)
    branch = Branch(cfg)
    touched, read = [], []
    branch.segmentor.decode_head.register_forward_pre_hook(lambda module, args: read.append([len(x) for x in args[0]]))
    out = branch.forward_perturbed(lambda x: touched.append(x.shape[1]) or x, a=a, b=b)
    channels = [level.shape[1] for level in out['a'].features]
    assert touched == [channels[i] for i in expected]
    assert read == [[8 if i in expected else 5 for i in range(4)]]


def test_heads_and_the_decoders_tap_read_clean_features_alone():
    torch.manual_seed(0)
    branch = Branch(tiny.segmentor(), dict(embedding=tiny.HEADS['embedding'])).train()
    (a, b), seen = two_views(), []
    branch.heads['embedding'].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    outputs = branch.forward_perturbed(lambda x: x * 0, 2, a=a, b=b)
    (out,) = seen
    assert len(out.decoder) == len(out.coarse_logits) == 5 and all(len(level) == 5 for level in out.features)
    clean = torch.cat([branch.segmentor.decode_head.conv_seg(outputs[name].decoder) for name in 'ab'])
    assert torch.allclose(clean, torch.cat([outputs[name].coarse_logits for name in 'ab']), atol=1e-5)
    assert outputs['perturbed_0'].decoder is None and not outputs['perturbed_0'].heads
    assert torch.equal(torch.cat([outputs[name].heads['embedding'] for name in 'ab']), branch.heads['embedding'](out))


def test_the_backbone_runs_once_and_the_decoder_sees_clean_and_perturbed_together():
    torch.manual_seed(0)
    branch, (a, b) = Branch(tiny.segmentor()).train(), two_views()
    images, samples = [], []
    branch.segmentor.backbone.register_forward_pre_hook(lambda module, args: images.append(len(args[0])))
    norm = branch.segmentor.decode_head.fuse[1].bn
    norm.register_forward_pre_hook(lambda module, args: samples.append(args[0].detach()))
    branch.forward_perturbed(halve, 2, a=a, b=b)
    assert images == [5] and [len(sample) for sample in samples] == [5 + 2 * 3]
    assert torch.allclose(norm.running_mean, 0.1 * samples[0].mean((0, 2, 3)), atol=1e-6)
    backbone = branch.segmentor.backbone.stem[1]
    assert backbone.num_batches_tracked == norm.num_batches_tracked == 1


def test_split_takes_every_part_apart():
    maps = torch.arange(3.0).view(3, 1, 1, 1)
    out = BranchOutput(
        (maps,), maps, (2, 2), heads={'embedding': maps, 'graph': GraphOutput((maps,), (maps, maps), maps)}
    )
    first, second = out.split([1, 2])
    assert second.heads['embedding'].flatten().tolist() == [1, 2]
    assert second.heads['graph'].features[1].flatten().tolist() == [1, 2] and len(first.heads['graph'].log_probs) == 1
    assert first.features[0].shape[0] == 1 and second.coarse_logits.flatten().tolist() == [1, 2]
    assert second.logits.shape == (2, 1, 2, 2)


def test_a_decoder_without_a_last_feature_is_named():
    cfg = tiny.segmentor()
    cfg['decode_head'] = dict(type='DeepLabV2Head', in_channels=64, in_index=3, num_classes=4, dilations=(1,))
    with pytest.raises(
        ValueError, match=r'DeepLabV2Head does not have; set model.heads.embedding.source .*: backbone,'
    ):
        Branch(cfg, dict(embedding=tiny.HEADS['embedding']))
    Branch(cfg, dict(embedding=dict(type='ProjectionHead', in_channels=64, source='backbone')))


def test_projection_head_reads_the_backbone_and_resizes():
    head = ProjectionHead(8, out_channels=5, source='backbone', in_index=0, downsample=2, norm_cfg=dict(type='BN'))
    out = BranchOutput((torch.randn(2, 8, 7, 7),), torch.zeros(2, 3, 7, 7), (28, 28))
    assert head(out).shape == (2, 5, 4, 4)


# A map of 4k + 1 pixels at stride 4 has its pixels on multiples of 4; of 4k, between them.
@pytest.mark.parametrize('align_corners, side', [(False, 128), (True, 129)])
@pytest.mark.parametrize('downsample', [1, 2, 4])
def test_a_pixel_of_an_embedding_lies_where_resizing_puts_it(align_corners, side, downsample):
    kernel = dict(kernel_size=3, padding=1) if align_corners else dict(kernel_size=4)
    patches = torch.nn.Conv2d(3, 4, stride=4, **kernel)
    head = ProjectionHead(4, 4, num_convs=0, source='backbone', downsample=downsample)
    sizes = []

    def embed(image):
        embedding = head(BranchOutput((patches(image),), image, (side, side), align_corners))
        sizes.append(embedding.shape[2])
        return embedding

    field = receptive_fields(embed, (side, side))[0]
    [size] = sizes
    assert size == -(-side // (4 * downsample))
    for i in range(size):
        place = i * (side - 1) / (size - 1) if align_corners else (i + 0.5) * side / size - 0.5
        assert field.middle + i * field.jump == pytest.approx(place), 'node i'


@pytest.mark.parametrize('source', ['decoder', 'backbone', 'classifier', 'aspp'])
def test_what_the_segmentor_fixes_may_be_left_out_of_a_heads_config(source):
    kind = 'CorrelationHead' if source in ('classifier', 'aspp') else 'ProjectionHead'
    reader = dict(type=kind, source=source, out_channels=5, norm_cfg=dict(type='BN'))
    heads = dict(
        reader=reader,
        embedding=dict(type='ProjectionHead', out_channels=7),
        graph=dict(type='LabelGraph'),
        patches=dict(type='PatchClassifier', pools=(3,), channels=4),
    )
    branch = Branch(tiny.segmentor(), heads).eval()
    graph = branch.heads['graph']
    assert graph.label_mlps[0][-1].out_features == tiny.NUM_CLASSES and graph.feature_mlps[0][-1].out_features == 7
    out = branch(torch.randn(1, 3, tiny.SIZE, tiny.SIZE))
    assert out.heads['embedding'].shape[1] == 7 and out.heads['patches'].shape[1] == tiny.NUM_CLASSES
    read = next(module for module in branch.heads['reader'].modules() if isinstance(module, torch.nn.Conv2d))
    assert read.in_channels == out.feature(source).shape[1]
    assert 'in_channels' not in reader, 'a config is not written into: the teacher is built from it, too'


def test_a_level_of_the_backbone_has_its_own_width():
    head = dict(type='ProjectionHead', source='backbone', in_index=1)
    branch = Branch(tiny.segmentor(), dict(embedding=head))
    assert branch.heads['embedding'].layers[0].conv.in_channels == 16


def test_another_number_of_classes_than_the_decode_heads_is_refused():
    message = r'model.heads.graph.num_classes=21, but the decode head scores 4 classes; leave .* out'
    with pytest.raises(ValueError, match=message):
        Branch(tiny.segmentor(), dict(graph=dict(type='LabelGraph', num_classes=21)))


def test_widths_are_found_without_computing_and_nothing_is_changed():
    torch.manual_seed(0)
    plain = Branch(tiny.segmentor())
    torch.manual_seed(0)
    branch = Branch(tiny.segmentor(), dict(embedding=dict(type='ProjectionHead', out_channels=5)), crop=(4000, 4000))
    assert branch.training and branch.segmentor.backbone.training and not branch._taps
    for name, value in plain.state_dict().items():
        assert torch.equal(value, branch.state_dict()[name]) and value.device.type == 'cpu'


@pytest.mark.parametrize('arguments', [dict(source='neck'), dict(num_convs=-1), dict(downsample=0)])
def test_projection_head_arguments_out_of_range_are_named(arguments):
    with pytest.raises(ValueError, match='ProjectionHead'):
        ProjectionHead(8, **arguments)


def transformer(**kwargs) -> dict:
    """A backbone of mmpretrain under mmseg's DPT decoder."""
    import mmpretrain.models  # noqa: F401

    arch = dict(embed_dims=8, num_layers=4, num_heads=2, feedforward_channels=16)
    backbone = dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=32, patch_size=8, out_type='featmap')
    head = dict(
        type='PlainDPTHead',
        in_channels=(8,) * 4,
        in_index=(0, 1, 2, 3),
        input_transform='multiple_select',
        embed_dims=8,
        post_process_channels=[4] * 4,
        channels=8,
        patch_size=8,
        num_classes=4,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    )
    return dict(type='EncoderDecoder', backbone={**backbone, 'out_indices': (0, 1, 2, 3)}, decode_head=head, **kwargs)


def test_a_transformer_of_mmpretrain_and_a_dpt_decoder_are_a_branch():
    branch = Branch(transformer(test_cfg=dict(mode='whole')))
    images = torch.randn(2, 3, 32, 32)
    out = branch.forward_perturbed(torch.nn.Dropout2d(0.5), 2, labeled=images, weak=images)
    assert out['labeled'].logits.shape == out['perturbed_1'].logits.shape == (2, 4, 32, 32)
    assert [level.shape for level in out['weak'].features] == [(2, 8, 4, 4)] * 4


def test_a_backbone_of_mmpretrain_starts_from_a_classifiers_checkpoint(tmp_path):
    path = str(tmp_path / 'classifier.pth')
    trained = Branch(transformer()).segmentor.backbone.state_dict()
    torch.save({'state_dict': {f'backbone.{name}': value for name, value in trained.items()}}, path)
    branch = Branch(transformer(pretrained=path))
    branch.init_weights()
    assert all(torch.equal(value, trained[name]) for name, value in branch.segmentor.backbone.state_dict().items())
    assert Branch(transformer(pretrained=None)).segmentor.backbone.init_cfg != branch.segmentor.backbone.init_cfg


def test_a_decoder_that_reads_the_class_token_is_refused():
    head = transformer()['decode_head']
    with pytest.raises(ValueError, match="readout_type must be 'ignore', not 'project'"):
        MODELS.build({**head, 'readout_type': 'project'})


LITE = dict(type='mmpretrain.TIMMBackbone', model_name='tf_efficientnet_lite0', features_only=True, out_indices=(1, 2))


@pytest.mark.parametrize('of_another_library', [False, True])
def test_with_norm_eval_no_image_depends_on_the_others_of_its_pass(of_another_library):
    student = tiny.segmentor()
    if of_another_library:
        pytest.importorskip('timm')
        importlib.import_module('mmpretrain.models')
        head = dict(
            type='FCNHead',
            in_channels=40,
            in_index=1,
            channels=4,
            num_classes=4,
            norm_cfg=dict(type='GN', num_groups=2),
        )
        student = dict(type='EncoderDecoder', backbone=dict(LITE), decode_head=head)
    images = torch.randn(3, 3, 64, 64)
    for norm_eval in (False, True):
        student['backbone']['norm_eval'] = norm_eval
        branch = Branch(student).train()
        backbone = branch.segmentor.backbone
        before = {name: value.clone() for name, value in backbone.named_buffers()}
        together, alone = backbone(images)[-1][:1], backbone(images[:1])[-1]
        assert torch.allclose(together, alone, atol=1e-5) == norm_eval
        assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers()) == norm_eval
        assert branch.segmentor.decode_head.training and backbone.training
        assert not any(module.training for module in branch.eval().modules())
