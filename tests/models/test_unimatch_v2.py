"""The whole step of UniMatch V2 against the loss as published, and its dropout against a literal one."""

import pytest
import torch

from mmsemi.models.modules.channel_dropout import ComplementaryDropout
from mmsemi.structures import Mix, Streams
from tests import tiny
from tests.oracles import unimatch as oracle

SIZE, THRESHOLD = 16, 0.5


def model_and_streams(**kwargs):
    """A teacher that is sure of some pixels, a student that differs; nothing but the dropout is in training."""
    data = dict(size=(SIZE, SIZE), num_strong=kwargs.pop('num_strong', 2))
    model = tiny.build('UniMatchV2', preprocessor=data, **{'threshold': THRESHOLD, **kwargs}).double()
    generator = torch.Generator().manual_seed(3)
    draw = lambda n: torch.randn(n, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)  # noqa: E731
    labels = torch.randint(0, tiny.NUM_CLASSES, (1, SIZE, SIZE), generator=generator)
    valid = torch.ones(3, SIZE, SIZE, dtype=torch.bool)
    valid[0, 12:] = False
    masks = torch.zeros(data['num_strong'], 3, SIZE, SIZE, dtype=torch.bool)
    masks[0, 0, 4:14, 4:12] = masks[-1, 1, 2:9, 1:13] = True
    mixes = tuple(Mix(mask) for mask in masks)
    streams = Streams(draw(1), labels, draw(3), tuple(draw(3) for _ in mixes), valid, mixes)
    tiny.decide(model, streams, spread=3)
    model.eval()
    with torch.no_grad():
        model.teacher.load_state_dict(model.student.state_dict())
        for parameter in model.student.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if model.dropout:
        model.dropout.train()
    return model, streams


@pytest.mark.parametrize('guide', ['teacher', 'student'])
def test_the_step_equals_the_published_loss(guide):
    model, streams = model_and_streams(guide=guide)
    drawn = []
    model.dropout.register_forward_hook(lambda module, args, out: drawn.append(out))
    losses = model.loss(streams)
    total, _ = model.parse_losses(losses)
    with torch.no_grad():
        student = model.student
        p_w = getattr(model, guide)(streams.weak).logits.softmax(1)
        label, kept = oracle.pseudo_labels(p_w, THRESHOLD)
        assert len(label.unique()) > 2 and 0.1 < kept.double().mean() < 0.9, 'the case must tell pixels apart'
        (levels,) = drawn
        L_s = []
        for i, mix in enumerate(streams.mix):
            label_s, kept_s, valid_s = (oracle.mixed(x, mix.mask) for x in (label, kept, streams.valid))
            features = list(student(oracle.mixed(streams.strong[i], mix.mask)).features)
            features[0], features[3] = (level[3 * i : 3 * i + 3] for level in levels)
            coarse = student.segmentor.decode_head(tuple(features))
            h = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode='bilinear')
            L_s.append(oracle.cross_entropy(h, label_s, kept_s, valid_s))
        everything = torch.ones_like(streams.labels).bool()
        L_x = oracle.cross_entropy(student(streams.labeled).logits, streams.labels, everything, everything)
    assert torch.allclose(total, oracle.overall_v2(L_x, *L_s), atol=1e-10)
    assert abs(L_s[0] - L_s[1]) > 1e-3


def test_the_decoder_reads_channels_of_one_view_or_of_the_other():
    model, streams = model_and_streams()
    segmentor, read = model.student.segmentor, []
    features = segmentor.extract_feat
    segmentor.extract_feat = lambda images: [level + 1 for level in features(images)]  # what is 0 was dropped
    segmentor.decode_head.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    views = model.student_views(streams)
    _, levels = read
    whole = []
    for index in (0, 3):
        clean = [views[f'strong_{i}'].features[index] for i in (0, 1)]
        coins = ~(levels[index][:3] == 0).flatten(2).all(2)
        whole.append([n for n in range(3) if coins[n].all()])
        assert torch.equal(levels[index], torch.cat(oracle.complementary_dropout(*clean, coins, whole[-1])))
    assert whole[0] == whole[1] and len(whole[0]) == 1, 'of three images one keeps its channels, at all levels'


@pytest.mark.parametrize(('share', 'whole'), [(1.0, 0), (0.5, 2), (0.25, 3), (0.0, 4)])
def test_a_share_of_the_images_loses_channels_and_those_of_one_width_lose_the_same(share, whole):
    torch.manual_seed(0)
    first, second, third = torch.randn(8, 6, 2, 3), torch.randn(8, 6, 4, 1), torch.randn(8, 5, 2, 2)
    seen = set()
    for _ in range(20):
        levels = ComplementaryDropout(share)((first, second, third))
        factors = [(out / level)[..., 0, 0] for out, level in zip(levels, (first, second, third), strict=True)]
        assert torch.equal(factors[0].round(), factors[1].round())
        kept = torch.stack([(x.round() == 1).all(1) for x in factors])
        assert (kept.sum(1) == 2 * whole).all() and torch.equal(kept[0], kept[2])
        assert torch.equal(kept[:, :4], kept[:, 4:]), 'whole in both views'
        seen.add(tuple(kept[0, :4].tolist()))
    assert len(seen) > 1 or whole in (0, 4), 'other images in each step'


def test_independent_views_lose_channels_of_their_own():
    torch.manual_seed(0)
    (out,) = ComplementaryDropout(1.0, complementary=False)((torch.ones(3 * 2, 500, 1, 1),), views=3)
    views = out.view(3, 2, 500)
    assert set(out.unique().tolist()) == {0.0, 2.0} and abs(out.mean() - 1) < 0.1
    assert all(0.3 < (views[i] == views[j]).double().mean() < 0.7 for i, j in ((0, 1), (1, 2), (0, 2)))


def test_nothing_is_dropped_in_evaluation():
    level = torch.randn(4, 6, 2, 2)
    assert ComplementaryDropout(1.0).eval()((level,))[0] is level


def test_auxiliary_heads_that_read_the_backbone_read_all_channels():
    model, streams = model_and_streams(dropout_share=1.0, plugins=[dict(tiny.MPMC, pools=(3,))])
    seen = []
    head = model.student.heads['patch_classifier']
    head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.student_views(streams)
    with torch.no_grad():
        images = torch.cat(list(streams.strong_views().values()))
        clean = model.student.segmentor.extract_feat(images)
    assert all(torch.equal(x, y) for x, y in zip(seen[1].features, clean, strict=True))


def test_the_student_may_label_for_itself_and_the_teacher_then_rests():
    model, streams = model_and_streams(guide='student')
    model.teacher.register_forward_pre_hook(lambda *_: pytest.fail('the teacher ran'))
    views = {**model.guide_views(streams), **model.student_views(streams)}
    assert views['guide'] is views['weak'] and model.branches == ('student', 'teacher')


@pytest.mark.parametrize(
    'switch',
    [dict(threshold=0.8), dict(dropout='independent'), dict(dropout=None), dict(dropout_share=0.0),
     dict(guide='student'), dict(num_strong=1)],
    ids=str,
)  # fmt: skip
def test_every_key_changes_the_loss(switch):
    losses = []
    for kwargs in ({}, switch):
        model, streams = model_and_streams(**kwargs)
        torch.manual_seed(0)
        losses.append(model.parse_losses(model.loss(streams))[0])
    assert not torch.equal(*losses)


def test_no_dropout_is_a_share_of_no_images():
    losses = []
    for kwargs in (dict(dropout=None), dict(dropout_share=0.0)):
        model, streams = model_and_streams(**kwargs)
        losses.append(model.parse_losses(model.loss(streams))[0])
    assert torch.allclose(*losses, atol=1e-12)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(dropout='alternating'), "model.dropout must be 'complementary', 'independent' or None"),
        (dict(dropout_share=1.5), 'UniMatchV2: model.dropout_share must lie in'),
        (dict(guide='both'), "model.guide must be 'teacher' or 'student'"),
        (dict(preprocessor=dict(num_strong=3)), "num_strong must be 1 or 2, or model.dropout be 'independent', not 3"),
        (dict(threshold=1.1), 'model.threshold must lie in'),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build('UniMatchV2', **arguments)
    with pytest.raises(ValueError, match='share must lie in'):
        ComplementaryDropout(-0.1)
