"""The whole unsupervised step of DSSN against the literal equations."""

import pytest
import torch

from mmsemi.models.branch import BranchOutput
from mmsemi.models.segmentors.dssn import same_content
from mmsemi.structures import Mix, Streams
from tests import tiny
from tests.oracles import dssn as oracle
from tests.oracles.unimatch import mixed

SIZE, TAU_LOW, R = 16, 0.8, 0.7
KEYS = dict(threshold=TAU_LOW, class_ratio=R)


def model_and_streams(**kwargs):
    """A network that is sure of some pixels, and a teacher that differs; channels are dropped as in training."""
    model = tiny.build('DSSN', preprocessor=dict(size=(SIZE, SIZE)), **{**KEYS, **kwargs}).double()
    generator = torch.Generator().manual_seed(3)
    draw = lambda n: torch.randn(n, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)  # noqa: E731
    labels = torch.randint(0, tiny.NUM_CLASSES, (1, SIZE, SIZE), generator=generator)
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[0, 12:] = False
    masks = torch.zeros(2, 2, SIZE, SIZE, dtype=torch.bool)
    masks[0, 0, 4:14, 4:12] = masks[1, 0, 6:15, 1:7] = masks[1, 1, 2:9, 1:13] = True
    streams = Streams(draw(1), labels, draw(2), (draw(2), draw(2)), valid, tuple(Mix(mask) for mask in masks))
    tiny.decide(model, streams, spread=3)
    model.eval()
    tiny.part_teacher(model, 0.005, generator)
    model.perturb.train()
    return model, streams


def labels_and_masks(logits, valid):
    """CPLG of each image: one-hot labels and masks, (B, C, H, W)."""
    maps = []
    for image, exists in zip(logits, valid, strict=True):
        m, t = oracle.cplg(oracle.rows(image).softmax(1), R, TAU_LOW, exists.flatten())
        maps.append([x.T.view_as(image) for x in (m, t)])
    return [torch.stack(each) for each in zip(*maps, strict=True)]


@pytest.mark.parametrize('normalize', [True, False])
def test_the_unsupervised_loss_equals_the_equations(normalize):
    model, streams = model_and_streams(normalize_logits=normalize)
    drawn = []
    model.perturb.register_forward_hook(lambda module, args, out: drawn.append(out))
    losses = model.loss(streams)
    contrast = oracle.released_contrast if normalize else oracle.eq10
    with torch.no_grad():
        student, valid, (first, second) = model.student, streams.valid, (mix.mask for mix in streams.mix)
        # Low level: the teacher's labels, mixed as each view is.
        m, t = labels_and_masks(model.teacher(streams.weak).logits, valid)
        h, L_w2s_l = [], 0.0
        for strong, mask in zip(streams.strong, (first, second), strict=True):
            h.append(oracle.rows(student(mixed(strong, mask)).logits))
            rows = [oracle.rows(mixed(x, mask)) for x in (m, t)]
            L_w2s_l = L_w2s_l + oracle.eq18(*rows, h[-1].softmax(1), mixed(valid, mask).flatten())
        # Where both views show the pixel of the same image, and that pixel exists: (i, i) is a positive pair.
        source = torch.arange(2).view(2, 1, 1).expand_as(valid)
        same = (mixed(source, first) == mixed(source, second)) & mixed(valid, first)
        L_cl_ls = contrast(*h, same.flatten())
        # High level: the student's own labels.
        weak = student(streams.weak)
        m_student, t_student = labels_and_masks(weak.logits, valid)
        h, L_w2s_h = [], 0.0
        for low, high in zip(drawn[:2], drawn[2:], strict=True):
            coarse = student.segmentor.decode_head((low, *weak.features[1:3], high))
            full = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode='bilinear')
            h.append(oracle.rows(full))
            rows = oracle.rows(m_student), oracle.rows(t_student)
            L_w2s_h = L_w2s_h + oracle.eq18(*rows, h[-1].softmax(1), valid.flatten())
        L_cl_hs = contrast(*h, valid.flatten())
        L = oracle.eq23(losses['sup.loss_ce'], L_cl_ls, L_cl_hs, L_w2s_l, L_w2s_h)
    kept = (m * t).sum(1)
    assert 0.02 < kept[valid].mean() < 0.98 and not torch.equal(t, t_student) and 0 < same.sum() < same.numel()
    assert torch.allclose(losses['unsup.loss_contrast_low'], 0.01 * L_cl_ls, atol=1e-10)
    assert torch.allclose(losses['unsup.loss_contrast_high'], 0.01 * L_cl_hs, atol=1e-10)
    assert torch.allclose(losses['unsup.loss_label_low'], 0.25 * L_w2s_l, atol=1e-10)
    assert torch.allclose(losses['unsup.loss_label_high'], 0.25 * L_w2s_h, atol=1e-10)
    assert torch.allclose(model.parse_losses(losses)[0], L, atol=1e-10)
    assert min(L_cl_ls, L_cl_hs, L_w2s_l, L_w2s_h) > 1e-4
    assert torch.allclose(losses['unsup.confident'].double(), (kept * valid).sum() / valid.sum())


def test_a_pixel_that_shows_two_images_is_no_positive_pair():
    model, streams = model_and_streams(label_levels=(), contrast_levels=('low',))
    same = same_content(streams)
    views = model.student_views(streams)
    leaf = views['strong_0'].logits.detach().requires_grad_()
    views['strong_0'] = BranchOutput((), leaf, (SIZE, SIZE))
    model.unsupervised_loss(streams, views)['loss_contrast_low'].backward()
    assert torch.equal(leaf.grad.any(1), same)
    shared = tuple(Mix(streams.mix[0].mask) for _ in range(2))
    streams.mix = shared
    assert torch.equal(same_content(streams), shared[0].maps(streams.valid)), 'with one mask, every pixel that exists'


@pytest.mark.parametrize(
    'switch, passes',
    [
        (dict(contrast_levels=('low',), label_levels=('low',)), [2, 3, 4]),
        (dict(contrast_levels=('high',), label_levels=('high',)), [3]),
        (dict(contrast_levels=('high',), label_levels=()), [3]),
        (dict(contrast_levels=(), label_levels=('low', 'high')), [2, 3, 4]),
        (dict(contrast_levels=('low',), label_levels=('high',)), [3, 4]),
    ],
    ids=str,
)
def test_each_level_of_each_term_can_be_left_out_with_the_passes_that_it_needs(switch, passes):
    whole, streams = model_and_streams()
    torch.manual_seed(0)
    expected = whole.loss(streams)
    model, _ = model_and_streams(**switch)
    seen = []
    for branch in (model.student, model.teacher):
        branch.segmentor.backbone.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    drawn = []
    model.perturb.register_forward_hook(lambda module, args, out: drawn.append(out))
    torch.manual_seed(0)
    losses = model.loss(streams)
    levels = switch['contrast_levels'] + switch['label_levels']
    assert len(drawn) == (4 if 'high' in levels else 0), 'two copies of the two levels that the decoder reads'
    names = {f'unsup.loss_contrast_{level}' for level in switch['contrast_levels']}
    names |= {f'unsup.loss_label_{level}' for level in switch['label_levels']}
    assert {name for name in losses if name.startswith('unsup.loss')} == names and seen == passes
    assert all(torch.allclose(losses[name], expected[name], atol=1e-12) for name in names)


@pytest.mark.parametrize(
    'switch',
    [
        dict(normalize_logits=False),
        dict(class_aware=False),
        dict(threshold=0.95),
        dict(class_ratio=0.95),
        dict(contrast_weight=0.1),
        dict(label_weight=0.5),
        dict(feature_dropout=0.1),
        dict(contrast_pixels='all'),
        dict(maxima_of='view'),
        dict(low_level_start=1),
        dict(loss_scale=0.5),
    ],
    ids=str,
)
def test_every_key_changes_the_loss(switch):
    totals = []
    for kwargs in ({}, switch):
        model, streams = model_and_streams(**kwargs)
        torch.manual_seed(0)
        totals.append(model.parse_losses(model.loss(streams))[0])
    assert not torch.equal(*totals)
    if 'loss_scale' in switch:
        assert torch.allclose(totals[1], totals[0] / 2), 'of all terms'


def test_without_class_aware_thresholds_one_threshold_holds_for_every_pixel():
    model, streams = model_and_streams(class_aware=False, threshold=0.6)
    with torch.no_grad():
        weak = model.teacher(streams.weak)
    pseudo = model.pseudo_labels(weak, streams.valid)
    assert torch.equal(pseudo.weight > 0, (weak.logits.softmax(1).amax(1) >= 0.6) & streams.valid)


def test_by_key_the_maxima_are_those_of_what_a_mixed_view_shows():
    model, streams = model_and_streams(maxima_of='view')
    torch.manual_seed(0)
    losses = model.loss(streams)
    with torch.no_grad():
        scores, weak = model.teacher(streams.weak).logits, model.student(streams.weak).logits
        everything = torch.ones_like(streams.valid)
        L_w2s_l = L_w2s_h = 0.0
        for strong, mask in zip(streams.strong, (mix.mask for mix in streams.mix), strict=True):
            m, t = labels_and_masks(mixed(scores, mask), everything)
            y_s = oracle.rows(model.student(mixed(strong, mask)).logits).softmax(1)
            rows = oracle.rows(m), oracle.rows(t)
            L_w2s_l = L_w2s_l + oracle.eq18(*rows, y_s, mixed(streams.valid, mask).flatten())
        own, of_padding = (labels_and_masks(weak, exists)[0] for exists in (streams.valid, everything))
    assert not torch.equal(own, of_padding), 'the surest pixel of a class must be padding'
    assert torch.allclose(losses['unsup.loss_label_low'], 0.25 * L_w2s_l, atol=1e-10)
    views = {**model.guide_views(streams), **model.student_views(streams)}
    for i in range(2):
        y_s = oracle.rows(views[f'perturbed_{i}'].logits.detach()).softmax(1)
        rows = oracle.rows(of_padding), oracle.rows(labels_and_masks(weak, everything)[1])
        L_w2s_h = L_w2s_h + oracle.eq18(*rows, y_s, streams.valid.flatten())
    high = model.unsupervised_loss(streams, views)['loss_label_high']
    assert torch.allclose(high, 0.25 * L_w2s_h, atol=1e-10)


def test_by_key_low_thresholds_keep_unsure_pixels_too():
    model, streams = model_and_streams(maxima_of='view', threshold=0.3, class_ratio=0.3)
    guide = model.guide_views(streams)['guide']
    confidence = guide.logits.softmax(1).amax(1)
    for mix in streams.mix:
        unsure = mix.maps(confidence) < 0.45
        assert unsure.sum() > 5 and model.view_labels(guide, mix).weight[unsure].any()


def test_by_key_a_plugin_doubts_the_labels_of_what_is_mixed_in():
    losses = []
    for factor in (1.0, 0.25):
        model, streams = model_and_streams(maxima_of='view')
        model.reweight = lambda pseudo, guide, factor=factor: pseudo.reweight(torch.full_like(pseudo.weight, factor))
        torch.manual_seed(0)
        losses.append(model.loss(streams))
    whole, quarter = losses
    for level in ('low', 'high'):
        assert torch.allclose(quarter[f'unsup.loss_label_{level}'], 0.25 * whole[f'unsup.loss_label_{level}'])


def test_by_key_every_pixel_is_a_pair_of_the_contrast():
    model, streams = model_and_streams(contrast_pixels='all')
    torch.manual_seed(0)
    views = {**model.guide_views(streams), **model.student_views(streams)}
    losses = model.unsupervised_loss(streams, views)
    everything = torch.ones_like(streams.valid).flatten()
    for level, view in (('low', 'strong'), ('high', 'perturbed')):
        rows = (oracle.rows(views[f'{view}_{i}'].logits.detach()) for i in range(2))
        expected = 0.01 * oracle.released_contrast(*rows, everything)
        assert torch.allclose(losses[f'loss_contrast_{level}'], expected, atol=1e-10)


def test_the_views_of_the_image_learn_labels_from_an_epoch_on():
    terms = []
    for epoch in (0.0, 4.9, 5.0):
        model, streams = model_and_streams(low_level_start=5)
        model.epoch.fill_(epoch)
        torch.manual_seed(0)
        terms.append(model.loss(streams))
    for name in terms[0]:
        if name == 'unsup.loss_label_low':
            assert terms[0][name] == terms[1][name] == 0 < terms[2][name]
        elif 'loss' in name:
            assert torch.equal(terms[0][name], terms[2][name]) and terms[0][name] > 0


def test_no_gradient_reaches_the_teacher():
    model, streams = model_and_streams()
    assert not model.guide_views(streams)['guide'].logits.requires_grad


def test_the_log_tells_of_the_labels_of_both_guides():
    model, streams = model_and_streams()
    streams.unlabeled_gt = model.teacher(streams.weak).logits.argmax(1)
    losses = model.loss(streams)
    assert losses['unsup.accuracy'] == 1 and losses['unsup.accuracy_student'] < 1
    assert {'unsup.confident', 'unsup.confident_student', 'unsup.accuracy_confident_student'} <= losses.keys()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(threshold=0.0), r'model.threshold must lie in \(0, 1\], or model.class_aware be False, not 0.0'),
        (dict(threshold=1.5), r'model.threshold must lie in \[0, 1\]'),
        (dict(class_ratio=0.0), r'model.class_ratio must lie in \(0, 1\], or'),
        (dict(class_ratio=1.1), r'model.class_ratio must lie in \(0, 1\], or'),
        (dict(contrast_weight=-1), 'DSSN: model.contrast_weight must be 0 or more'),
        (dict(label_weight=-1), 'model.label_weight must be 0 or more'),
        (dict(loss_scale=-1), 'model.loss_scale must be 0 or more'),
        (dict(feature_dropout=1.0), r'feature_dropout must lie in \[0, 1\)'),
        (dict(contrast_pixels='own'), 'model.contrast_pixels must be one of same, all'),
        (dict(maxima_of='batch'), 'model.maxima_of must be one of image, view'),
        (dict(low_level_start=-1), 'model.low_level_start must be 0 or more'),
        (dict(contrast_levels=('middle',)), "model.contrast_levels must hold nothing but 'low' and 'high'"),
        (dict(label_levels='low'), "model.label_levels must hold nothing but 'low' and 'high', not 'low'"),
        (dict(preprocessor=dict(num_strong=1)), 'model.data_preprocessor.num_strong must be 2, not 1'),
        (dict(preprocessor=dict(num_strong=3)), 'model.data_preprocessor.num_strong must be 2, not 3'),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build('DSSN', **arguments)


def test_the_bounds_themselves_are_allowed():
    tiny.build('DSSN', threshold=1.0, class_ratio=1.0)
    tiny.build('DSSN', threshold=0.0, class_aware=False)
