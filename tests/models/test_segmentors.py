"""What holds for every method, and which views share a pass in each."""

import dataclasses
import math

import pytest
import torch

from mmsemi.models.state.step_state import StepState
from mmsemi.structures import PseudoLabel
from tests import tiny


def passes(model) -> list[int]:
    """Record how many images each pass of a branch sees."""
    seen = []
    for name in model.branches:
        branch = getattr(model, name).segmentor.backbone
        branch.register_forward_pre_hook(lambda module, args, name=name: seen.append((name, len(args[0]))))
    return seen


@pytest.mark.parametrize(
    'method, expected',
    [
        ('Supervised', [('student', 2)]),
        ('FixMatch', [('student', 2 + 3), ('student', 3)]),
        ('MeanTeacher', [('teacher', 3), ('student', 2 + 3)]),
        ('MLLC', [('teacher', 2 + 3), ('student', 2 + 3)]),
        ('AugSeg', [('teacher', 3), ('student', 2 + 3)]),
        ('UniMatch', [('student', 2 + 3), ('student', 3 + 3)]),
        ('PrevMatch', [('student', 2 + 3), ('student', 3 + 3)]),
        ('UniMatchV2', [('teacher', 3), ('student', 2), ('student', 3 + 3)]),
        ('ESL', [('teacher', 2 + 3), ('student', 2 + 3)]),
        ('U2PL', [('teacher', 2 + 3), ('student', 2 + 3)]),
        ('AEL', [('teacher', 2 + 3), ('student', 2 + 3)]),
        ('CorrMatch', [('student', 2 + 3), ('student', 3)]),
        ('DSSN', [('teacher', 3), ('student', 2 + 3), ('student', 3 + 3)]),
    ],
)
def test_which_views_share_a_pass(method, expected):
    model = tiny.build(method).train()
    seen = passes(model)
    model.loss(tiny.streams_for(model, 2, 3, mixed=False))
    assert seen == expected


@pytest.mark.parametrize('method', tiny.METHODS)
def test_losses_are_finite_named_and_reach_every_trained_parameter(method):
    kwargs = {} if method == 'Supervised' else dict(threshold=0.2)
    model = tiny.build(method, **kwargs).train()
    for step in range(2):
        total, log = model.parse_losses(model.loss(tiny.streams_for(model, seed=step)))
        model.zero_grad()
        total.backward()
        for module in model.modules():
            if hasattr(module, 'commit'):
                module.commit()
    assert all(value.isfinite() for value in log.values())
    assert 'sup.loss_ce' in log and all(name.startswith(('sup.', 'unsup.', 'loss')) for name in log)
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    if model.has_teacher:
        assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize('method', tiny.METHODS)
def test_ground_truth_of_unlabeled_images_changes_no_loss(method):
    losses = []
    for truth in (None, 0, 1):
        model = tiny.build(method, **({} if method == 'Supervised' else dict(threshold=0.2))).train()
        streams = tiny.streams_for(model)
        if truth is not None:
            generator = torch.Generator().manual_seed(truth)
            noise = torch.randint(0, tiny.NUM_CLASSES, streams.valid.shape, generator=generator)
            streams = dataclasses.replace(streams, unlabeled_gt=noise)
        losses.append({name: value for name, value in model.loss(streams).items() if 'loss' in name})
    assert all(torch.equal(losses[0][name], other[name]) for other in losses[1:] for name in losses[0])


def test_the_log_tells_how_right_pseudo_labels_are_where_the_truth_is_loaded():
    model = tiny.build('MeanTeacher', threshold=0.0)
    streams = tiny.streams()
    label = torch.zeros_like(streams.valid).long()
    pseudo = PseudoLabel(label, torch.ones(label.shape))
    report = model.describe(pseudo, dataclasses.replace(streams, unlabeled_gt=label))
    assert report['accuracy'] == 1 and report['confident'] == 1


@pytest.mark.parametrize('method', ['MeanTeacher', 'MLLC', 'ESL'])
def test_the_teacher_starts_as_the_student_and_always_uses_running_statistics(method):
    model = tiny.build(method)
    model.init_weights()
    student, teacher = model.student.state_dict(), model.teacher.state_dict()
    assert all(torch.equal(student[key], teacher[key]) for key in student)
    model.train()
    assert model.student.training and not model.teacher.training
    model.loss(tiny.streams())
    assert all(torch.equal(value, teacher[key]) for key, value in model.teacher.state_dict().items())


def test_fixmatch_equals_its_equation():
    model = tiny.build('FixMatch', threshold=0.3).eval()
    streams = tiny.streams()
    losses = model.loss(streams)
    with torch.no_grad():
        prob = model.student(streams.weak).logits.softmax(1)
        mask = streams.mix[0].mask
        confidence, label = prob.max(1)
        weight = ((confidence >= 0.3) & streams.valid).float()
        label, weight = (torch.where(mask, x.flip(0), x) for x in (label, weight))
        valid = torch.where(mask, streams.valid.flip(0), streams.valid)
        strong = torch.where(mask[:, None], streams.strong[0].flip(0), streams.strong[0])
        nll = torch.nn.functional.cross_entropy(model.student(strong).logits, label, reduction='none')
        expected = (nll * weight)[valid].sum() / valid.sum()
    assert torch.allclose(losses['unsup.loss_strong'], expected, atol=1e-6)
    assert torch.allclose(losses['unsup.confident'], (confidence >= 0.3)[streams.valid].float().mean())


@pytest.mark.parametrize('method', ['FixMatch', 'MeanTeacher', 'AEL'])
def test_several_strong_views_are_averaged(method):
    settings = dict(threshold=0.0, preprocessor=dict(num_strong=2))
    if method == 'AEL':
        settings.update(adaptive_cutmix=False, copy_paste_prob=0.0, sampling_power=0.0)
    model = tiny.build(method, **settings).eval()
    both = tiny.streams(strong=2)
    terms = []
    for i in range(2):
        one = dataclasses.replace(both, strong=both.strong[i : i + 1], mix=both.mix[i : i + 1])
        terms.append(model.loss(one)['unsup.loss_strong'])
    assert abs(terms[0] - terms[1]) > 1e-5
    assert torch.allclose(model.loss(both)['unsup.loss_strong'], sum(terms) / 2, atol=1e-6)


# Losses that learn pseudo-labels, by the method's name.
TAUGHT = {
    'FixMatch': ['loss_strong'],
    'MeanTeacher': ['loss_strong'],
    'UniMatch': ['loss_strong_0', 'loss_strong_1', 'loss_feature'],
    'DSSN': ['loss_label_low', 'loss_label_high'],
    'AEL': ['loss_strong'],
    'U2PL': ['loss_pseudo'],
}


@pytest.mark.parametrize('method', TAUGHT)
def test_what_a_plugin_says_of_a_pixel_scales_what_its_label_teaches_also_where_it_is_mixed_in(method):
    losses = []
    for half in (False, True):
        model = tiny.build(method, **({} if method == 'U2PL' else dict(threshold=0.2)))
        if method == 'AEL':
            model.copy_paste_prob, model.sampling_power, model.adaptive_cutmix = 0.0, 0.0, False
        # The first image's labels are doubted wholly, the second's not at all.
        factor = torch.tensor([0.0 if half else 1.0, 1.0])[:, None, None]
        model.reweight = lambda pseudo, guide, factor=factor: pseudo.reweight(factor.expand_as(pseudo.weight))
        streams = tiny.streams_for(model)
        # All of the second image is what it shows itself, all of the first is the second's.
        for mix in streams.mix:
            mix.mask[0], mix.mask[1] = False, False
        torch.manual_seed(0)
        whole = model.loss(streams)
        for mix in streams.mix:
            mix.mask[0], mix.mask[1] = True, True
        torch.manual_seed(0)
        losses.append((whole, model.loss(streams)))
    (plain, exchanged), (doubted, doubted_and_exchanged) = losses
    for name in TAUGHT[method]:
        name = f'unsup.{name}'
        assert 0 < doubted[name] < plain[name], 'the second image still teaches, the first does not'
        assert 0 < doubted_and_exchanged[name] < exchanged[name]


# The bounds of the methods' settings.
BOUNDS = [
    *((method, dict(threshold=value)) for method in ('FixMatch', 'UniMatch', 'AEL', 'U2PL') for value in (0.0, 1.0)),
    ('FixMatch', dict(sup_weight=0, unsup_weight=0, unsup_start=0, unsup_warmup=0)),
    ('UniMatch', dict(strong_weight=0, feature_weight=0, feature_dropout=0)),
    ('DSSN', dict(threshold=1.0, class_ratio=1.0, contrast_weight=0, label_weight=0, loss_scale=0, feature_dropout=0)),
    ('DSSN', dict(threshold=0.0, class_ratio=7.0, class_aware=False, contrast_levels=(), label_levels=())),
    ('AEL', dict(min_area=0, region_stride=1, copy_paste_prob=0, paste_classes=1, paste_scale=(1, 1))),
    ('AEL', dict(copy_paste_prob=1, sampling_power=0, confidence_power=0, labeled_weight=0, confidence_momentum=0)),
    ('U2PL', dict(unreliable=0, pseudo_weight=0, confident=0, low_rank=1, high_rank=2, center_momentum=0)),
    ('U2PL', dict(confident=1, low_rank=3, high_rank=4, queries=1, negatives=1, keys_per_step=6)),
    ('U2PL', dict(queue_length=1, background_length=1, keys_per_step=1)),
]


@pytest.mark.parametrize('method, settings', BOUNDS, ids=str)
def test_the_bounds_themselves_are_allowed_and_train(method, settings):
    model = tiny.build(method, **settings).train()
    assert all(value.isfinite() for value in model.loss(tiny.streams_for(model)).values())


def test_unsupervised_terms_rise_with_the_warm_up():
    model = tiny.build('FixMatch', threshold=0.0, unsup_weight=2.0, unsup_warmup=4).eval()
    values = []
    for epoch in (0, 1, 4, 9):
        model.epoch.fill_(epoch)
        values.append(model.loss(tiny.streams())['unsup.loss_strong'].item())
    full = values[2]
    expected = [full * math.exp(-5), full * math.exp(-5 * 0.75**2), full, full]
    assert full > 0 and values == pytest.approx(expected, rel=1e-5)


def test_unsupervised_terms_start_when_they_are_told_and_warm_up_from_there():
    values = {}
    for settings in ((0, 0), (2, 0), (2, 4)):
        model = tiny.build('FixMatch', threshold=0.0, unsup_start=settings[0], unsup_warmup=settings[1]).eval()
        values[settings] = []
        for epoch in (0, 1.99, 2, 3, 6):
            model.epoch.fill_(epoch)
            losses = model.loss(tiny.streams())
            values[settings].append(losses['unsup.loss_strong'].item())
            assert losses['sup.loss_ce'] > 0
    full = values[0, 0][0]
    assert full > 0 and values[0, 0] == [full] * 5
    assert values[2, 0] == pytest.approx([0, 0, full, full, full], rel=1e-5)
    expected = [0, 0, full * math.exp(-5), full * math.exp(-5 * 0.75**2), full]
    assert values[2, 4] == pytest.approx(expected, rel=1e-5)


def test_an_auxiliary_head_learns_from_labels():
    cfg = tiny.segmentor()
    cfg['auxiliary_head'] = dict(
        type='FCNHead', in_channels=32, in_index=2, channels=8, num_convs=1, num_classes=tiny.NUM_CLASSES,
        norm_cfg=dict(type='BN'), loss_decode=dict(type='PixelCrossEntropyLoss', loss_weight=0.4),
    )  # fmt: skip
    from mmsemi.registry import MODELS

    model = MODELS.build(dict(type='Supervised', student=cfg, data_preprocessor=dict(tiny.PREPROCESSOR)))
    assert 'sup.aux_0.loss_ce' in model.loss(tiny.streams())


def test_ohem_sampler_of_mmseg_still_works():
    cfg = tiny.segmentor()
    cfg['decode_head']['sampler'] = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=10)
    from mmsemi.registry import MODELS

    model = MODELS.build(dict(type='Supervised', student=cfg, data_preprocessor=dict(tiny.PREPROCESSOR)))
    assert model.loss(tiny.streams())['sup.loss_ce'].isfinite()


def test_prediction_is_by_the_branch_asked_for():
    model = tiny.build('MeanTeacher').eval()
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.mul_(1.5)
    data = model.data_preprocessor(tiny.batch(1, 0), training=False)
    for sample in data['data_samples']:
        sample.set_metainfo(dict(img_shape=(32, 32), ori_shape=(32, 32), pad_shape=(32, 32)))
    assert model.predict_on == 'teacher'
    with torch.no_grad():
        for branch in ('student', 'teacher'):
            model.predict_on = branch
            scores = model.predict(data['inputs'], data['data_samples'])[0].seg_logits.data
            own = getattr(model, branch)(data['inputs']).logits[0]
            assert torch.allclose(scores, own, atol=1e-5)


def test_a_branch_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="predict_on='teacher' names no branch of FixMatch; it has student"):
        tiny.build('FixMatch', test_cfg=dict(predict_on='teacher'))


def test_a_plain_mmseg_checkpoint_starts_every_branch():
    model, other = tiny.build('MLLC'), tiny.build('Supervised')
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    plain = other.student.segmentor.state_dict()
    model.load_state_dict(plain, strict=False)
    for branch in (model.student, model.teacher):
        assert all(torch.equal(branch.segmentor.state_dict()[key], value) for key, value in plain.items())


@pytest.mark.parametrize(
    'method, arguments, message',
    [
        ('FixMatch', dict(threshold=1.1), 'model.threshold must lie in'),
        ('FixMatch', dict(unsup_weight=-1), 'FixMatch: model.unsup_weight must be 0 or more, not -1'),
        ('FixMatch', dict(preprocessor=dict(num_strong=0)), 'num_strong must be 1 or more, not 0'),
        ('FixMatch', dict(sup_weight=-1), 'model.sup_weight must be 0 or more'),
        ('FixMatch', dict(unsup_warmup=-1), 'model.unsup_warmup must be 0 or more'),
        ('FixMatch', dict(unsup_start=-1), 'model.unsup_start must be 0 or more'),
        ('MLLC', dict(threshold=1.1), 'MLLC: model.threshold must lie in'),
        ('MLLC', dict(slg_weight=-1), 'model.slg_weight must be 0 or more'),
        ('MLLC', dict(clg_weight=-1), 'model.clg_weight must be 0 or more'),
        ('MLLC', dict(intra_weight=1.1), 'model.intra_weight must lie in'),
        ('MLLC', dict(graph_supervision=-1), 'model.graph_supervision must be 0 or more'),
        ('MLLC', dict(heads={}), 'MLLC needs model.heads.embedding'),
        ('MLLC', dict(temperature=0), 'temperature must lie above 0'),
        ('MLLC', dict(preprocessor=dict(num_strong=2)), 'model.data_preprocessor.num_strong must be 1, not 2'),
    ],
)
def test_arguments_out_of_range_are_named(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build(method, **arguments)


@pytest.mark.parametrize('plugins', [[], [tiny.MPMC]], ids=['alone', 'MPMC'])
@pytest.mark.parametrize('method', tiny.METHODS)
def test_without_unlabeled_images_the_supervised_half_learns(method, plugins):
    more = dict(graph_supervision=1.0) if method == 'MLLC' else {}
    model = tiny.build(method, plugins=plugins, **more).train()
    losses = model.loss(tiny.streams_for(model, 3, 0, mixed=False))
    assert losses and all(name.startswith('sup.') for name in losses)
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    assert torch.isfinite(total) and model.student.segmentor.decode_head.conv_seg.weight.grad.abs().sum() > 0
    for module in model.modules():
        if isinstance(module, StepState):
            module.commit()
