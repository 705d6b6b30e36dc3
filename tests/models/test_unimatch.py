"""The whole step of UniMatch against the loss as published."""

import pytest
import torch

from mmsemi.structures import Mix, Streams
from tests import tiny
from tests.oracles import unimatch as oracle

SIZE, THRESHOLD = 16, 0.5


def model_and_streams(**kwargs):
    """A network that is sure of some pixels; the perturbation drops channels although nothing else is in training."""
    data = dict(size=(SIZE, SIZE))
    model = tiny.build('UniMatch', preprocessor=data, **{'threshold': THRESHOLD, **kwargs}).double()
    generator = torch.Generator().manual_seed(3)
    draw = lambda n: torch.randn(n, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)  # noqa: E731
    labels = torch.randint(0, tiny.NUM_CLASSES, (1, SIZE, SIZE), generator=generator)
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[0, 12:] = False
    masks = torch.zeros(2, 2, SIZE, SIZE, dtype=torch.bool)
    masks[0, 0, 4:14, 4:12] = masks[1, 1, 2:9, 1:13] = True
    streams = Streams(draw(1), labels, draw(2), (draw(2), draw(2)), valid, tuple(Mix(mask) for mask in masks))
    tiny.decide(model, streams, spread=3)
    model.eval()
    model.perturb.train()
    return model, streams


def test_the_step_equals_the_published_loss():
    model, streams = model_and_streams()
    drawn = []
    model.perturb.register_forward_hook(lambda module, args, out: drawn.append(out))
    losses = model.loss(streams)
    total, _ = model.parse_losses(losses)
    with torch.no_grad():
        student = model.student
        p_w = student(streams.weak).logits.softmax(1)
        label, kept = oracle.pseudo_labels(p_w, THRESHOLD)
        assert len(label.unique()) > 2 and 0.1 < kept.double().mean() < 0.9, 'the case must tell pixels apart'
        L_s = []
        for strong, mix in zip(streams.strong, streams.mix, strict=True):
            label_s, kept_s, valid_s = (oracle.mixed(x, mix.mask) for x in (label, kept, streams.valid))
            h = student(oracle.mixed(strong, mix.mask)).logits
            L_s.append(oracle.cross_entropy(h, label_s, kept_s, valid_s))
        levels = list(student(streams.weak).features)
        levels[0], levels[3] = drawn
        coarse = student.segmentor.decode_head(tuple(levels))
        h_fp = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode='bilinear')
        L_fp = oracle.cross_entropy(h_fp, label, kept, streams.valid)
        everything = torch.ones_like(streams.labels).bool()
        L_x = oracle.cross_entropy(student(streams.labeled).logits, streams.labels, everything, everything)
    assert torch.allclose(losses['unsup.loss_strong_0'], 0.25 * L_s[0] / 2, atol=1e-10)
    assert torch.allclose(losses['unsup.loss_strong_1'], 0.25 * L_s[1] / 2, atol=1e-10)
    assert torch.allclose(losses['unsup.loss_feature'], 0.5 * L_fp / 2, atol=1e-10)
    assert torch.allclose(total, oracle.overall(L_x, *L_s, L_fp), atol=1e-10)
    assert abs(L_s[0] - L_s[1]) > 1e-3 and abs(L_fp - L_s[0]) > 1e-3


def test_without_a_feature_weight_no_features_are_perturbed():
    model, streams = model_and_streams(feature_weight=0.0)
    model.perturb.register_forward_hook(lambda *_: pytest.fail('features were perturbed'))
    views = model.student_views(streams)
    assert views.keys() == {'labeled', 'weak', 'guide', 'strong_0', 'strong_1'}
    losses = model.loss(streams)
    with_features, _ = model_and_streams()
    others = with_features.loss(streams)
    assert 'unsup.loss_feature' in others and 'unsup.loss_feature' not in losses
    assert all(torch.allclose(value, others[name]) for name, value in losses.items())


@pytest.mark.parametrize('switch', [dict(threshold=0.8), dict(strong_weight=0.5), dict(feature_dropout=0.0)], ids=str)
def test_every_key_changes_the_loss(switch):
    losses = []
    for kwargs in ({}, switch):
        model, streams = model_and_streams(**kwargs)
        torch.manual_seed(0)
        losses.append(model.parse_losses(model.loss(streams))[0])
    assert not torch.equal(*losses)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(strong_weight=-1), 'UniMatch: model.strong_weight must be 0 or more, not -1'),
        (dict(feature_weight=-0.1), 'model.feature_weight must be 0 or more'),
        (dict(feature_dropout=1.0), 'model.feature_dropout must lie in'),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build('UniMatch', **arguments)
