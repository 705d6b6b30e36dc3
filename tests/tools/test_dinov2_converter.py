import pytest
import torch

import mmsemi.models.backbones.dinov2  # noqa: F401
from mmsemi.apis.launch import UsageError
from mmsemi.models.backbones.dinov2 import position_embedding
from mmsemi.registry import MODELS
from tests.models.test_dinov2 import NARROW, encoder, narrow, official, segmentor, shuffled
from tests.tools.test_runs import load_tool

converter = load_tool('model_converters/dinov2.py')


def released(decoder) -> dict[str, torch.Tensor]:
    """The tensors of a decoder under the names of UniMatch V2's checkpoints, and those that no pass uses there."""
    state, names = decoder.state_dict(), {}
    for kind in ('weight', 'bias'):
        for i in range(4):
            names[f'projects.{i}.{kind}'] = f'reassemble_blocks.projects.{i}.conv.{kind}'
        for i in (0, 1, 3):
            names[f'resize_layers.{i}.{kind}'] = f'reassemble_blocks.resize_layers.{i}.{kind}'
        for level in (1, 2, 3, 4):
            ours = f'fusion_blocks.{4 - level}'
            names[f'scratch.refinenet{level}.out_conv.{kind}'] = f'{ours}.project.conv.{kind}'
            for unit in (1, 2) if level < 4 else (2,):
                for conv in (1, 2):
                    theirs = f'scratch.refinenet{level}.resConfUnit{unit}.conv{conv}.{kind}'
                    names[theirs] = f'{ours}.res_conv_unit{unit}.conv{conv}.conv.{kind}'
        names[f'scratch.output_conv.0.{kind}'] = f'project.conv.{kind}'
        names[f'scratch.output_conv.2.{kind}'] = f'conv_seg.{kind}'
    for level in (1, 2, 3, 4):
        names[f'scratch.layer{level}_rn.weight'] = f'convs.{level - 1}.conv.weight'
    assert sorted(names.values()) == sorted(state)
    first = 'scratch.refinenet4.resConfUnit1'
    unused = {f'{first}.conv{i}.{kind}': torch.zeros(8) for i in (1, 2) for kind in ('weight', 'bias')}
    return {**unused, **{theirs: state[ours].clone() for theirs, ours in names.items()}}


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr('sys.argv', ['dinov2.py', *map(str, arguments)])
    converter.main()


def test_an_encoder_becomes_what_mmpretrain_loads(tmp_path, monkeypatch):
    trained = shuffled(encoder())
    torch.save(official(trained), tmp_path / 'official.pth')
    run(monkeypatch, tmp_path / 'official.pth', tmp_path / 'new' / 'ours.pth')
    state = torch.load(tmp_path / 'new' / 'ours.pth', weights_only=True)['state_dict']
    plain = MODELS.build(
        dict(type='mmpretrain.VisionTransformer', arch=NARROW, img_size=42, patch_size=14, layer_scale_init_value=1.0)
    )
    plain.load_state_dict(state)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in trained.state_dict().items())


@pytest.mark.parametrize('size', [42, 518, 798, 14])
def test_position_embeddings_are_interpolated_for_the_size_asked_for(size, tmp_path, monkeypatch):
    trained = shuffled(encoder())
    torch.save(official(trained), tmp_path / 'official.pth')
    run(monkeypatch, tmp_path / 'official.pth', tmp_path / 'ours.pth', '--size', size)
    state = torch.load(tmp_path / 'ours.pth', weights_only=True)['state_dict']
    expected = position_embedding(trained.pos_embed.detach(), (3, 3), (size // 14, size // 14))
    assert torch.equal(state['pos_embed'], expected) and state['pos_embed'].shape == (1, 1 + (size // 14) ** 2, 16)


@pytest.mark.parametrize('weights', [None, 'model', 'model_ema'])
def test_a_released_checkpoint_becomes_one_of_the_segmentor(weights, tmp_path, monkeypatch):
    student, teacher = shuffled(segmentor()), shuffled(segmentor())
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(1)
    checkpoint = dict(epoch=59, previous_best=86.3)
    for name, trained in (('model', student), ('model_ema', teacher)):
        encoder_state = {f'backbone.{name}': value for name, value in official(trained.backbone).items()}
        decoder_state = {f'head.{name}': value for name, value in released(trained.decode_head).items()}
        checkpoint[name] = {f'module.{key}': value for key, value in {**encoder_state, **decoder_state}.items()}
    torch.save(checkpoint, tmp_path / 'best.pth')
    run(monkeypatch, tmp_path / 'best.pth', tmp_path / 'ours.pth', *(['--weights', weights] if weights else []))
    state = torch.load(tmp_path / 'ours.pth', weights_only=True)['state_dict']
    expected = (student if weights == 'model' else teacher).state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)

    model = MODELS.build(
        dict(
            type='UniMatchV2',
            student=narrow(),
            data_preprocessor=dict(type='SemiDataPreprocessor', size=(42, 42), num_strong=2),
        )
    )
    model.load_state_dict(dict(state), strict=False)
    for branch in (model.student, model.teacher):
        assert all(torch.equal(branch.segmentor.state_dict()[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ('checkpoint', 'arguments', 'message'),
    [
        ({'epoch': 1, 'model': {}}, ['--weights', 'ema'], 'holds no ema; --weights takes one of epoch, model'),
        ({'conv1.weight': torch.zeros(1)}, [], 'no weights of DINOv2: there is no blocks.0.norm1.weight'),
        ({'model_ema': {}}, [], 'no weights of DINOv2'),
        ('encoder', ['--size', 500], '--size 500 is not made of whole patches of 14 pixels'),
    ],
)
def test_what_cannot_be_converted_is_named(checkpoint, arguments, message, tmp_path, monkeypatch):
    torch.save(official(encoder()) if checkpoint == 'encoder' else checkpoint, tmp_path / 'given.pth')
    with pytest.raises(UsageError, match=message):
        run(monkeypatch, tmp_path / 'given.pth', tmp_path / 'out.pth', *arguments)
    with pytest.raises(UsageError, match=r'absent\.pth does not exist'):
        run(monkeypatch, tmp_path / 'absent.pth', tmp_path / 'out.pth')
    with pytest.raises(UsageError, match=r'has no tensor head.scratch.other'):
        converter.head_name('head.scratch.other')
