"""DSSN's masks, contrast and step on the logits of its released code."""

import torch
from torch import Tensor

from mmsemi.models.thresholds import image_class_thresholds
from tests.golden.cases import cases, close, labels, mask, mix, output, tensor, valid
from tests.golden.hosts import build, step, streams

# The released way, by key: half of all terms, maxima over the view as mixed, padding included, every pixel a pair.
RELEASED = dict(loss_scale=0.5, maxima_of='view', contrast_pixels='all')


@cases('dssn_cplg')
def test_class_aware_labels_are_the_released(case):
    expected, exists = case['expected'], valid(case['ignore'])
    weak = output(case['logits'])
    model = build('DSSN', weak.logits.shape[1], **RELEASED)
    pseudo = model.pseudo_labels(weak, exists)
    kept = mask(expected['kept'])
    assert torch.equal((pseudo.weight > 0) & exists, kept)
    assert torch.equal(pseudo.label, labels(expected['labels']))
    assert torch.equal((tensor(expected['classes_above']) > 0) & exists, kept), 'of its own class and of no other'
    prob = weak.logits.softmax(1)
    assert torch.allclose(prob.flatten(2).amax(2), tensor(expected['class_maxima']), rtol=1e-4)
    thresholds = image_class_thresholds(prob, model.class_ratio, model.threshold)
    assert torch.allclose(thresholds, tensor(expected['class_thresholds']), rtol=1e-4)


@cases('dssn_cplg')
def test_without_padding_the_default_keeps_the_same_pixels(case):
    """The page's choice, that padding is no pixel of the maxima, is all that differs: none of it, no difference."""
    expected, exists = case['expected'], valid(case['ignore'])
    weak = output(case['logits'])
    pseudo = build('DSSN', weak.logits.shape[1]).pseudo_labels(weak, exists)
    maxima = torch.where(exists[:, None], weak.logits.softmax(1), 0).flatten(2).amax(2)
    limits = torch.where(maxima > 0.92, 0.96 * maxima, maxima)
    confidence, label = weak.logits.softmax(1).max(1)
    own = limits.gather(1, label.flatten(1)).view_as(label)
    assert torch.equal(pseudo.weight > 0, exists & (confidence > own))
    same = (limits - tensor(expected['class_thresholds'])).abs().amax(1) < 1e-5
    assert torch.equal((pseudo.weight > 0)[same], mask(expected['kept'])[same])


def standardised(logits: Tensor, added: float) -> Tensor:
    """Scores over their sample deviation, with a constant added to the variance."""
    return (logits - logits.mean(1, keepdim=True)) / (logits.var(1, keepdim=True) + added).sqrt()


def corrected(released: float | None, first: list, second: list) -> float:
    """The released contrast with the 1e-5 that ours adds to the variance; where the released is 0 / 0, ours alone."""
    pairs = tensor(first).double(), tensor(second).double()
    plain, ours = (
        (standardised(pairs[0], added) - standardised(pairs[1], added)).square().mean().item() for added in (0.0, 1e-5)
    )
    return ours if released is None else released + ours - plain


@cases('dssn_contrast')
def test_the_contrast_is_the_released(case):
    first, second, expected = case['first'], case['second'], case['expected']
    model = build('DSSN', tensor(first).shape[1], **RELEASED)
    views = {f'{kind}_{i}': scores for kind in ('strong', 'perturbed') for i, scores in enumerate((first, second))}
    exists = torch.rand(tensor(first)[:, 0].shape) > 0.5
    batch = streams(exists, (mix(exists.long().tolist()),) * 2, labels(torch.zeros(exists.shape).tolist()))
    _, losses = step(model, batch, {**views, 'labeled': first, 'weak': first, 'guide': first})
    for level in ('low', 'high'):
        ours = losses[f'unsup.loss_contrast_{level}']
        value = corrected(expected['value'], first, second)
        assert ours.isfinite() and close(ours, expected['weight_in_total'] * value)


@cases('dssn_total')
def test_terms_and_total_are_the_released(case):
    logits, expected = case['logits'], case['expected']
    voc = case['variant'] == 'voc'
    # VOC leaves the low level's labels out in the first iteration, Cityscapes in five epochs and without class maxima.
    variant = dict(low_level_start=1e-4) if voc else dict(low_level_start=5, class_aware=False)
    if 'threshold' in case:
        variant['threshold'] = case['threshold']
    model = build('DSSN', case['num_classes'], **RELEASED, **variant)
    model.epoch.fill_(case['epoch'] + case['iteration'] / (case['iteration'] + 1000))
    boxes = tuple(mix(case[f'cutmix_box_{i}']) for i in range(2))
    batch = streams(valid(case['ignore']), boxes, labels(case['ground_truth']))
    views = {name: scores for name, scores in logits.items() if name != 'teacher'}
    total, losses = step(model, batch, views, dict(guide=logits['teacher']))

    started = (case['epoch'], case['iteration']) != (0, 0) if voc else case['epoch'] >= 5
    low, high = (sum(expected[f'{kind}_{i}'] for i in range(2)) for kind in ('strong', 'perturbed'))
    contrasts = [
        corrected(expected[f'contrast_{kind}'], logits[f'{kind}_0'], logits[f'{kind}_1'])
        for kind in ('strong', 'perturbed')
    ]
    assert close(losses['sup.loss_ce'], expected['labeled'] / 2)
    assert close(losses['unsup.loss_label_low'], started * 0.25 * low / 2)
    assert close(losses['unsup.loss_label_high'], 0.25 * high / 2)
    assert close(losses['unsup.loss_contrast_low'], 0.01 * contrasts[0] / 2)
    assert close(losses['unsup.loss_contrast_high'], 0.01 * contrasts[1] / 2)
    assert total.isfinite()
    if expected['total'] is not None:
        released = sum(expected[f'contrast_{kind}'] for kind in ('strong', 'perturbed'))
        assert close(total, expected['total'] + 0.01 * (sum(contrasts) - released) / 2)
