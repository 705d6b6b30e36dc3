"""AEL's consistency, its sampling and its confidence bank on the logits of its released code."""

import pytest
import torch
from torch import Tensor

from mmsemi.models import sampling
from tests.golden.cases import cases, close, labels, mask, output, tensor
from tests.golden.hosts import build, streams

# The released way, by key: weights normalised over the batch, all pixels of a class sampled at its rate to the power 1
# by the class that the student gives them, absent classes forgotten.
RELEASED = dict(
    normalised_by='batch', sampling_power=1.0, sampled_by='student', forget_absent=True, copy_paste_prob=0.0,
    adaptive_cutmix=False, labeled_weight=0.0,
)  # fmt: skip


def consistency(model, case: dict, given: Tensor) -> Tensor:
    """The loss of unlabeled images without boxes; the case's labels are the teacher's, or 255."""
    teacher = tensor(case['logits_teacher'])
    known = given != 255
    assert torch.equal(given[known], teacher.argmax(1)[known])
    views = dict(guide=output(teacher), strong_0=output(case['logits_student']))
    return model.unsupervised_loss(streams(torch.ones_like(known)), views)['loss_strong']


@cases('aelosses', 'consistency')
def test_the_consistency_is_the_released(case):
    settings = {**RELEASED, 'sampling_power': 0.0, 'threshold': case['threshold']}
    model = build('AEL', case['num_classes'], confidence_power=case['gamma'], **settings)
    given = labels(case['expected']['labels'])
    assert close(consistency(model, case, given), case['expected']['loss'])
    pseudo, _ = model.weighted_labels(output(case['logits_teacher']), torch.ones_like(given).bool())
    assert torch.equal(torch.where(pseudo.weight > 0, pseudo.label, 255), given)


@cases('aelosses', 'sampled_consistency')
def test_the_sampled_consistency_is_the_released(case, monkeypatch):
    expected, given = case['expected'], labels(case['labels'])
    # A label of 255 is what the threshold dropped.
    confidence = tensor(case['logits_teacher']).softmax(1).amax(1)
    dropped = confidence[given == 255]
    threshold = (dropped.max().item() + 1e-6) if len(dropped) else 0.0
    assert threshold == 0 or confidence[given != 255].min() >= threshold
    model = build('AEL', case['num_classes'], confidence_power=case['gamma'], **RELEASED, threshold=threshold)
    model.confidence.value.copy_(tensor(case['class_confidence']))
    rates = model.confidence.sampling_rates(model.sampling_power)
    assert torch.allclose(rates, tensor(expected['rates']), rtol=1e-6)

    # A number for each class and place, kept where it exceeds 1 - rate: ours is below the rate where theirs is above.
    classes, uniform = tensor(case['logits_student']).argmax(1), tensor(case['uniform'])
    numbers = 1 - uniform.expand(len(classes), *uniform.shape).gather(1, classes[:, None])[:, 0]
    monkeypatch.setattr(sampling.torch, 'rand', lambda *size, **kwargs: numbers)
    assert torch.equal(model.sample(classes) != 255, mask(expected['kept']))
    assert close(consistency(model, case, given), expected['loss'])


@cases('aelosses', 'bank')
def test_the_bank_is_the_released(case):
    model = build('AEL', case['num_classes'], confidence_momentum=case['momentum'], **RELEASED)
    bank, expected = model.confidence, case['expected']
    bank.value.copy_(tensor(case['start']))
    bank.seen.fill_(True)  # the released bank starts somewhere, ours with the first mean of each class
    for step, (logits, truth) in enumerate(zip(case['logits'], case['labels'], strict=True)):
        model.supervised_loss(output(logits), labels(truth))
        total, count = bank.pending
        mean = tensor(expected['step_confidence'][step])
        assert torch.allclose(total / count.clamp(min=1), mean, rtol=1e-4, atol=1e-6)
        bank.commit()
        assert torch.allclose(bank.value, tensor(expected['bank'][step]), rtol=1e-4, atol=1e-6)


@cases('aelosses', 'bank')
def test_by_default_only_the_entries_of_shown_classes_move(case):
    """The page's choice, corrected by exactly that: the released step for shown classes, none for absent ones."""
    model = build('AEL', case['num_classes'], confidence_momentum=case['momentum'], copy_paste_prob=0.0)
    bank = model.confidence
    bank.value.copy_(tensor(case['start']))
    bank.seen.fill_(True)
    literal = list(case['start'])
    for step, (logits, truth) in enumerate(zip(case['logits'], case['labels'], strict=True)):
        model.supervised_loss(output(logits), labels(truth))
        bank.commit()
        for c, mean in enumerate(case['expected']['step_confidence'][step]):
            if (labels(truth) == c).any():
                literal[c] = case['momentum'] * literal[c] + (1 - case['momentum']) * mean
        assert bank.value.tolist() == pytest.approx(literal, rel=1e-4)
