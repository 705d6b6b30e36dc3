"""OHEM keeps the pixels that the released code of UniMatch keeps, and its loss is the released one.

The released ``min_kept`` is a number of pixels; ours is their share of all pixels of the batch.
"""

from __future__ import annotations

import torch

from mmsemi.models import OhemCrossEntropyLoss
from tests.golden.cases import cases, close, labels, mask, tensor


@cases('ohem')
def test_ohem_is_the_released_one(case):
    logits, truth = tensor(case['logits']), labels(case['labels'])
    # More than there are pixels is as many as there are.
    criterion = OhemCrossEntropyLoss(case['thresh'], min(case['min_kept'] / truth.numel(), 1.0))
    assert torch.equal(criterion.hard_pixels(logits, truth), mask(case['expected']['kept']))
    assert close(criterion(logits, truth), case['expected']['loss'])
