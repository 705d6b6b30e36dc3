"""The ViT of the DINOv2 config learns, or is frozen, by one key; a frozen encoder is one for student and teacher."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmsemi.apis.launch import prepare_config
from mmsemi.engine import EMATeacherHook
from mmsemi.registry import MODELS
from tests import tiny

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
KEYS = {'frozen_stages': ('model.student.backbone.frozen_stages', 12), 'freeze_encoder': ('model.freeze_encoder', True)}


def config(method: str = 'unimatch', **options) -> Config:
    """The config over narrow layers, of which it has as many, and crops of few patches."""
    cfg = Config.fromfile(CONFIGS / f'{method}/{method}_dinov2-s_dpt_voc.py')
    backbone, head = cfg.model.student.backbone, cfg.model.student.decode_head
    backbone.arch = dict(embed_dims=16, num_layers=12, num_heads=2, feedforward_channels=32)
    backbone.img_size = 42
    head.update(in_channels=[16] * 4, embed_dims=16, post_process_channels=[4, 8, 16, 32], channels=8)
    cfg.model.student.pretrained = None
    cfg.model.data_preprocessor.size = (42, 42)
    cfg.merge_from_dict(options)
    prepare_config(cfg, launcher='none')
    return cfg


@pytest.mark.parametrize('key', [*KEYS, None])
@pytest.mark.parametrize('method', ['unimatch', 'unimatch_v2'])
def test_one_key_decides_whether_the_backbone_learns_beside_the_decoder(key, method):
    frozen = key is not None
    cfg = config(method, **(dict([KEYS[key]]) if frozen else {}))
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
    if model.has_teacher:
        shared = model.teacher.segmentor.backbone is model.student.segmentor.backbone
        assert shared == frozen and ('teacher.segmentor.backbone.pos_embed' in model.state_dict())


def frozen(method: str, **kwargs):
    """A method over a frozen ResNet, whose batch statistics are none of its start."""
    settings = {} if method == 'Supervised' else dict(threshold=0.2)
    model = tiny.build(method, freeze_encoder=True, **{**settings, **kwargs})
    encoder = model.student.segmentor.backbone
    encoder.train()
    with torch.no_grad():
        encoder(tiny.streams(8).labeled)
    return model.train()


def encoded(model) -> list[torch.Tensor]:
    """Record the images that go through the encoder, pass after pass."""
    images: list[torch.Tensor] = []
    model.student.segmentor.backbone.register_forward_pre_hook(lambda module, args: images.extend(args[0]))
    return images


@pytest.mark.parametrize('method', tiny.METHODS)
def test_what_student_and_teacher_both_see_is_encoded_once_and_the_losses_stay(method):
    losses, seen = [], []
    for shared in (True, False):
        model = frozen(method)
        if not shared:
            model.encoder_frozen = False  # each branch then encodes for itself
            model.student.segmentor.backbone.eval()
        seen.append(encoded(model))
        torch.manual_seed(1)
        losses.append(model.loss(tiny.streams_for(model, 2, 3, mixed=False)))
    assert all(torch.allclose(value, losses[1][name], atol=1e-6) for name, value in losses[0].items())
    once, all_passes = seen
    distinct = [x for i, x in enumerate(all_passes) if not any(torch.equal(x, y) for y in all_passes[:i])]
    if method == 'AEL':  # its labeled images are pasted into each other between the passes
        assert len(once) <= len(all_passes)
    else:
        assert len(once) == len(distinct)
    assert len(distinct) < len(all_passes) or method not in ('MLLC', 'ESL', 'U2PL', 'DSSN')


@pytest.mark.parametrize('method', ['MLLC', 'UniMatchV2', 'FixMatch'])
def test_a_frozen_encoder_stays_as_it_is_with_its_batch_statistics(method):
    model = frozen(method)
    before = {name: value.clone() for name, value in model.student.segmentor.backbone.state_dict().items()}
    hook = EMATeacherHook(0.5)
    runner = SimpleNamespace(model=model, iter=3, optim_wrapper=SimpleNamespace())
    if model.has_teacher:
        hook.before_train(runner)
    total, _ = model.parse_losses(model.loss(tiny.streams_for(model)))
    total.backward()
    with torch.no_grad():
        for parameter in model.student.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    if model.has_teacher:
        hook.after_train_iter(runner, 0)
        student, teacher = (
            dict(getattr(model, name).segmentor.decode_head.named_parameters()) for name in model.branches
        )
        assert any(not torch.equal(teacher[name], value) for name, value in student.items())
    after = model.student.segmentor.backbone.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not any(module.training for module in model.student.segmentor.backbone.modules())


def test_what_was_encoded_is_forgotten_after_the_step():
    model = frozen('MLLC')
    model.loss(tiny.streams_for(model))
    assert model.student.encoded is model.teacher.encoded is None
    with pytest.raises(AttributeError):
        model.loss(None)
    assert model.student.encoded is None


def test_a_checkpoint_of_a_frozen_encoder_starts_both_branches_and_leaves_as_any_other():
    model, other = frozen('MeanTeacher'), tiny.build('MeanTeacher')
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    plain = other.student.segmentor.state_dict()
    model.load_state_dict(dict(plain), strict=False)
    for branch in (model.student, model.teacher):
        assert all(torch.equal(branch.segmentor.state_dict()[name], value) for name, value in plain.items())
    other.load_state_dict(model.state_dict())
    assert model.state_dict().keys() == other.state_dict().keys()
