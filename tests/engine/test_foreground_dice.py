"""Dice of the foreground against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from mmsemi.registry import METRICS

CLASSES = ('background', 'a', 'b', 'c')


def evaluate(pairs: list[tuple[torch.Tensor, torch.Tensor]], **kwargs) -> dict[str, float]:
    """What the metric, built by name as in a run, says of pairs of prediction and ground truth."""
    evaluator = Evaluator([METRICS.build(dict(type='ForegroundDice', **kwargs))])
    evaluator.dataset_meta = {'classes': CLASSES}
    for predicted, label in pairs:
        evaluator.process([{'pred_sem_seg': {'data': predicted[None]}, 'gt_sem_seg': {'data': label[None]}}])
    return evaluator.evaluate(len(pairs))


def literal_dice(pairs: list[tuple[torch.Tensor, torch.Tensor]], classes: range) -> list[float]:
    """2 TP / (2 TP + FP + FN), pixel by pixel over all images."""
    scores = []
    for c in classes:
        hits = wrong = 0
        for predicted, label in pairs:
            for p, y in zip(predicted.flatten().tolist(), label.flatten().tolist(), strict=True):
                if y == 255:
                    continue
                hits += p == y == c
                wrong += (p == c) != (y == c)
        scores.append(2 * hits / (2 * hits + wrong))
    return scores


@pytest.fixture
def pairs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randint(0, 4, (2, 9, 7), generator=generator).unbind() for _ in range(3)]
    pairs[0][1][:2] = 255
    # A slice beyond the heart: empty, and predicted so but for one pixel.
    empty = torch.zeros(9, 7, dtype=torch.long)
    wrong = empty.clone()
    wrong[0, 0] = 2
    return [*pairs, (wrong, empty)]


def test_dice_is_that_of_a_pixelwise_count_over_all_slices_without_the_background(pairs):
    scores = literal_dice(pairs, range(4))
    metrics = evaluate(pairs)
    assert metrics['mDice'] == pytest.approx(100 * np.mean(scores[1:]), abs=0.01)
    assert abs(metrics['mDice'] - 100 * np.mean(scores)) > 1, 'the background must matter here to be seen'


def test_perfect_background_alone_scores_nothing_and_perfect_labels_all(pairs):
    labels = [label.where(label != 255, torch.tensor(0)) for _, label in pairs]
    assert evaluate([(torch.zeros_like(label), label) for label in labels])['mDice'] == 0
    assert evaluate([(label, label) for label in labels])['mDice'] == 100


def test_nan_to_num_does_not_bring_the_background_back(pairs):
    assert evaluate(pairs, nan_to_num=0) == evaluate(pairs)


def test_all_pixels_count_for_the_accuracy(pairs):
    right = sum(int((p == y).sum()) for p, y in pairs)
    total = sum(int((y != 255).sum()) for _, y in pairs)
    assert evaluate(pairs)['aAcc'] == pytest.approx(100 * right / total, abs=0.01)
