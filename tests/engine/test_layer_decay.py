"""Learning rates that fall layer by layer are those that the constructors give the same network alone."""

from __future__ import annotations

import copy

import mmpretrain.engine.optimizers
import mmpretrain.models  # noqa: F401
import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from mmsemi.registry import MODELS
from tests import tiny

BACKBONES = {
    'ConvNeXt': dict(
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[1, 1, 3, 1], channels=[8, 8, 8, 16]),
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
    ),
    'BEiT': dict(
        type='BEiT',
        img_size=(32, 32),
        patch_size=8,
        embed_dims=16,
        num_layers=4,
        num_heads=2,
        out_indices=[0, 1, 2, 3],
        qv_bias=True,
    ),
    'ViT': dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
        out_type='featmap',
        out_indices=[0, 1, 2, 3],
    ),
}
CASES = [
    ('ConvNeXt', 'LearningRateDecayOptimizerConstructor', dict(decay_rate=0.5, decay_type='stage_wise', num_layers=6)),
    ('ConvNeXt', 'LearningRateDecayOptimizerConstructor', dict(decay_rate=0.5, decay_type='layer_wise', num_layers=6)),
    ('BEiT', 'LearningRateDecayOptimizerConstructor', dict(decay_rate=0.5, decay_type='layer_wise', num_layers=4)),
    ('BEiT', 'LayerDecayOptimizerConstructor', dict(layer_decay_rate=0.5, num_layers=4)),
    ('ViT', 'mmpretrain.LearningRateDecayOptimWrapperConstructor', dict(layer_decay_rate=0.5, norm_decay_mult=0.0)),
]


def segmentor(backbone: str) -> dict:
    """A network over a backbone, with a decode head that reads its last level."""
    head = dict(type='FCNHead', in_channels=16, in_index=3, channels=4, num_convs=1, num_classes=tiny.NUM_CLASSES)
    return dict(type='EncoderDecoder', pretrained=None, backbone=copy.deepcopy(BACKBONES[backbone]), decode_head=head)


def rates(model, constructor: str, paramwise: dict, scope: str) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of each parameter that learns, by name."""
    config = dict(
        constructor=constructor,
        optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
        paramwise_cfg=copy.deepcopy(paramwise),
    )
    with DefaultScope.overwrite_default_scope(scope):
        wrapper = build_optim_wrapper(model, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    found = {names[id(p)]: (group['lr'], group['weight_decay']) for group in groups for p in group['params']}
    assert len(found) == sum(len(group['params']) for group in groups)
    return found


@pytest.mark.parametrize(('backbone', 'constructor', 'paramwise'), CASES)
def test_the_students_network_has_the_rates_that_it_has_alone(backbone, constructor, paramwise, capsys):
    model = tiny.build(
        'U2PL',
        student=segmentor(backbone),
        heads=dict(
            representation=dict(type='ProjectionHead', in_channels=4, out_channels=16, norm_cfg=dict(type='BN'))
        ),
    )
    found = rates(model, constructor, paramwise, 'mmsemi')
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    shown = capsys.readouterr().out
    assert 'set param' not in shown

    # Alone: the constructor of the other package, on a plain network; mmpretrain's wants a classifier.
    if constructor.startswith('mmpretrain.'):
        depth = model.student.segmentor.backbone.get_layer_depth
        for name, (rate, _) in found.items():
            own = name.removeprefix('student.segmentor.')
            layer, layers = depth(own, 'backbone.')
            assert rate == 0.5 ** (layers - layer - 1), name
    else:
        with DefaultScope.overwrite_default_scope('mmseg'):
            alone = MODELS.parent.build(segmentor(backbone))
        for name, expected in rates(alone, constructor, paramwise, 'mmseg').items():
            assert found[f'student.segmentor.{name}'] == expected, name
    backbones = {rate for name, (rate, _) in found.items() if 'backbone' in name}
    assert len(backbones) > 3 and max(backbones) <= 1 and min(backbones) <= 0.5**4
    heads = {name: values for name, values in found.items() if '.heads.' in name}
    assert heads and all(rate == 1.0 for rate, _ in heads.values())
    assert {decay for _, decay in heads.values()} == {0.0, 0.1}


@pytest.mark.parametrize(
    ('constructor', 'paramwise'),
    [
        ('LearningRateDecayOptimizerConstructor', dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6)),
        ('LearningRateDecayOptimizerConstructor', dict(decay_rate=0.9, num_layers=6)),
        ('mmpretrain.LearningRateDecayOptimWrapperConstructor', dict(layer_decay_rate=0.9)),
    ],
)
def test_a_backbone_whose_layers_are_not_known_is_named_with_the_mend(constructor, paramwise):
    with pytest.raises(ValueError, match=r'^optim_wrapper\.constructor.*ResNetV1c.*SemiOptimWrapperConstructor'):
        rates(tiny.build('FixMatch'), constructor, paramwise, 'mmsemi')
