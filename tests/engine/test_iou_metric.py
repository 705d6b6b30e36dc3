"""What the mean over classes does with one that no mask shows."""

from __future__ import annotations

import pytest
import torch
from mmengine.evaluator import Evaluator

from mmsemi.registry import METRICS


def mean_iou(predicted: list[int], label: list[int]) -> float:
    evaluator = Evaluator([METRICS.build(dict(type='IoUMetric', iou_metrics=['mIoU']))])
    evaluator.dataset_meta = {'classes': ('road', 'sky', 'fence')}
    sample = {
        'pred_sem_seg': {'data': torch.tensor([[predicted]])},
        'gt_sem_seg': {'data': torch.tensor([[label]])},
    }
    evaluator.process([sample])
    return evaluator.evaluate(1)['mIoU']


@pytest.mark.parametrize(
    ('predicted', 'expected'),
    [([0, 0, 0, 0, 1, 1, 1, 1], (100 + 100) / 2), ([0, 0, 0, 0, 1, 1, 1, 2], (100 + 75 + 0) / 3)],
    ids=['predicted nowhere', 'predicted once'],
)
def test_a_class_that_no_mask_shows_is_in_the_mean_where_it_is_predicted(predicted, expected):
    """As the warning about such data says (``mmsemi.datasets.contents``)."""
    assert mean_iou(predicted, [0, 0, 0, 0, 1, 1, 1, 1]) == pytest.approx(expected, abs=0.01)
