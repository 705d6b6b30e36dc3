"""U2PL's cross-entropy on the logits of its released code."""

import torch

from mmsemi.models.precision import prediction_entropy
from tests.golden.cases import cases, close, labels, mask, output, tensor
from tests.golden.hosts import build, streams


@cases('u2pl_unsup')
def test_partition_weight_and_loss_are_the_released(case):
    settings = dict(unreliable=1 - case['percent'] / 100, dynamic_partition=False, contrast_weight=0)
    model = build('U2PL', case['num_classes'], **settings)
    given, teacher, expected = labels(case['labels']), tensor(case['logits_teacher']), case['expected']
    known = given != 255
    assert torch.equal(given[known], teacher.argmax(1)[known]), 'the labels are those of the teacher'
    reliable, _, limit = model.partition(prediction_entropy(teacher), known)
    assert close(limit, expected['entropy_threshold'])
    assert torch.equal(known & ~reliable, mask(expected['dropped']))
    assert close(given.numel() / reliable.sum(), expected['weight'])
    views = dict(guide=output(teacher), strong_0=output(case['logits_student']))
    assert close(model.unsupervised_loss(streams(known), views)['loss_pseudo'], expected['loss'])
