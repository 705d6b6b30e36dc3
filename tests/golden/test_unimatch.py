"""UniMatch's step on the logits of its released code."""

import torch

from tests.golden.cases import cases, close, labels, mix, valid
from tests.golden.hosts import build, ohem, step, streams


@cases('unimatch_loss')
def test_terms_and_total_are_the_released(case):
    truth, exists, logits = labels(case['ground_truth']), valid(case['ignore']), case['logits']
    loss = ohem(case['ohem'], truth) if 'ohem' in case else None
    model = build('UniMatch', case['num_classes'], loss, threshold=case['threshold'])
    boxes = tuple(mix(case[f'cutmix_box_{i}']) for i in range(2))
    views = {name: logits[name] for name in ('labeled', 'weak', 'strong_0', 'strong_1')}
    views.update(guide=logits['weak'], perturbed_0=logits['perturbed'])
    total, losses = step(model, streams(exists, boxes, truth), views)
    expected = case['expected']
    assert close(losses['sup.loss_ce'], expected['labeled'] / 2)
    assert close(losses['unsup.loss_strong_0'], 0.25 * expected['strong_0'] / 2)
    assert close(losses['unsup.loss_strong_1'], 0.25 * expected['strong_1'] / 2)
    assert close(losses['unsup.loss_feature'], 0.5 * expected['perturbed'] / 2)
    assert close(total, expected['total'])
    assert close(losses['unsup.confident'], expected['confident_share'])


@cases('unimatch_loss')
def test_its_fixmatch_is_the_same_without_the_perturbed_features_and_the_second_view(case):
    truth, exists, logits = labels(case['ground_truth']), valid(case['ignore']), case['logits']
    loss = ohem(case['ohem'], truth) if 'ohem' in case else None
    model = build('FixMatch', case['num_classes'], loss, threshold=case['threshold'], sup_weight=0.5, unsup_weight=0.5)
    views = dict(labeled=logits['labeled'], weak=logits['weak'], guide=logits['weak'], strong_0=logits['strong_0'])
    total, losses = step(model, streams(exists, (mix(case['cutmix_box_0']),), truth), views)
    expected = case['expected']
    assert close(total, (expected['labeled'] + expected['strong_0']) / 2)
    assert torch.equal(total, losses['sup.loss_ce'] + losses['unsup.loss_strong'])
