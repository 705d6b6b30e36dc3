"""Dice of the foreground against a count by hand, of scans and of all pixels."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from mmsemi.registry import METRICS
from tests.ranks import WORLD_SIZE, on_two_ranks

CLASSES = ('background', 'a', 'b', 'c')
Slice = tuple[str, torch.Tensor, torch.Tensor]
"""Name, prediction and ground truth."""


def sample(name: str, predicted: torch.Tensor, label: torch.Tensor) -> dict:
    return {
        'img_path': f'/data/images/{name}.png',
        'pred_sem_seg': {'data': predicted[None]},
        'gt_sem_seg': {'data': label[None]},
    }


def evaluate(slices: list[Slice], classes: tuple[str, ...] = CLASSES, batch: int = 1, **kwargs) -> dict[str, float]:
    """What the metric, built by name as in a run, says of slices."""
    evaluator = Evaluator([METRICS.build(dict(type='ForegroundDice', **kwargs))])
    evaluator.dataset_meta = {'classes': classes}
    for start in range(0, len(slices), batch):
        evaluator.process([sample(*each) for each in slices[start : start + batch]])
    return evaluator.evaluate(len(slices))


def literal_dice(slices: list[Slice], c: int) -> float | None:
    """2 TP / (2 TP + FP + FN) of a class, pixel by pixel over all slices; None for 0 / 0."""
    hits = wrong = 0
    for _, predicted, label in slices:
        for p, y in zip(predicted.flatten().tolist(), label.flatten().tolist(), strict=True):
            if y == 255:
                continue
            hits += p == y == c
            wrong += (p == c) != (y == c)
    return 2 * hits / (2 * hits + wrong) if hits + wrong else None


def literal_mean(slices: list[Slice], classes: int = 4) -> float:
    """Percent: over the scans that have a number, then over the foreground."""
    scans: dict[str, list[Slice]] = {}
    for each in slices:
        scans.setdefault(each[0].rpartition('_')[0], []).append(each)
    means = []
    for c in range(1, classes):
        scores = [literal_dice(scan, c) for scan in scans.values()]
        means.append(np.mean([score for score in scores if score is not None]))
    return 100 * np.mean(means)


def made_slices() -> list[Slice]:
    """Three scans of 1, 2 and 4 slices of several sizes, predicted ever better."""
    generator, made = torch.Generator().manual_seed(0), []
    for number, count in enumerate((1, 2, 4)):
        for z in range(count):
            shape = (9 + number, 7)
            label = torch.randint(0, 4, shape, generator=generator)
            guess = torch.randint(0, 4, shape, generator=generator)
            right = torch.rand(shape, generator=generator) < 0.3 * number
            made.append((f'patient{number:03d}_frame01_{z:02d}', label.where(right, guess), label))
    made[0][2][:2] = 255
    # A slice beyond the heart: empty, and predicted so but for one pixel.
    empty = torch.zeros(9, 7, dtype=torch.long)
    wrong = empty.clone()
    wrong[0, 0] = 2
    return [*made, ('patient001_frame01_99', wrong, empty)]


@pytest.fixture
def slices() -> list[Slice]:
    return made_slices()


def test_dice_is_the_mean_over_scans_and_classes_of_a_pixelwise_count(slices):
    metrics = evaluate(slices)
    assert metrics['mDice'] == pytest.approx(literal_mean(slices), abs=0.01)
    pooled = 100 * np.mean([literal_dice(slices, c) for c in (1, 2, 3)])
    assert abs(metrics['mDice'] - pooled) > 1, 'scans of other sizes and scores must matter here'


def test_pooled_dice_is_that_of_a_pixelwise_count_over_all_slices_without_the_background(slices):
    scores = [literal_dice(slices, c) for c in range(4)]
    metrics = evaluate(slices, per_scan=False)
    assert metrics['mDice'] == pytest.approx(100 * np.mean(scores[1:]), abs=0.01)
    assert abs(metrics['mDice'] - 100 * np.mean(scores)) > 0.5, 'the background must matter here to be seen'


def of_a_rank(rank: int, folder: str) -> None:
    """Every other slice, and one of the first again, as mmengine's sampler hands them out."""
    everything = made_slices()[:7]
    evaluator = Evaluator([METRICS.build(dict(type='ForegroundDice'))])
    evaluator.dataset_meta = {'classes': CLASSES}
    for each in [*everything, everything[0]][rank::WORLD_SIZE]:
        evaluator.process([sample(*each)])
    metrics = evaluator.evaluate(len(everything))
    torch.save(metrics, f'{folder}/{rank}')


def test_ranks_that_share_the_slices_of_a_scan_say_what_one_says(tmp_path):
    on_two_ranks(of_a_rank, tmp_path)
    expected = evaluate(made_slices()[:7])
    assert expected['mDice'] == pytest.approx(literal_mean(made_slices()[:7]), abs=0.01)
    for rank in range(WORLD_SIZE):
        assert torch.load(tmp_path / str(rank), weights_only=False) == expected


@pytest.mark.parametrize('batch', [1, 3])
def test_the_order_of_the_slices_and_their_batches_do_not_matter(slices, batch):
    shuffled = slices.copy()
    random.Random(3).shuffle(shuffled)
    assert evaluate(shuffled, batch=batch) == evaluate(slices)


def test_the_table_of_classes_has_the_same_dice(slices, monkeypatch):
    told = []
    monkeypatch.setattr('mmseg.evaluation.metrics.iou_metric.print_log', lambda text, *a, **k: told.append(text))
    evaluate(slices)
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in told[-1].splitlines() if '|' in line]
    dice = dict(zip((row[0] for row in rows[1:]), (row[1] for row in rows[1:]), strict=True))
    assert dice['background'] == 'nan'
    assert np.mean([float(dice[name]) for name in 'abc']) == pytest.approx(literal_mean(slices), abs=0.02)


def test_a_class_that_is_neither_in_a_scan_nor_predicted_there_is_left_out_of_its_mean(slices):
    # Class 3 is in the second scan alone, and predicted for nothing in the first; in the third it is claimed wrongly.
    zero = torch.zeros(4, 4, dtype=torch.long)
    three = zero + 3
    case = [('p_1_00', zero, zero), ('p_2_00', three, three), ('p_3_00', three, zero)]
    assert evaluate(case)['mDice'] == 50  # classes 1 and 2 are nowhere, and are left out as well
    assert literal_dice(case[:1], 3) is None and literal_dice(case[2:], 3) == 0


def test_without_any_foreground_there_is_no_number():
    zero = torch.zeros(4, 4, dtype=torch.long)
    assert np.isnan(evaluate([('p_1_00', zero, zero)])['mDice'])
    assert evaluate([('p_1_00', zero, zero)], nan_to_num=0)['mDice'] == 0


@pytest.mark.parametrize('per_scan', [True, False])
def test_perfect_background_alone_scores_nothing_and_perfect_labels_all(slices, per_scan):
    labels = [(name, label.where(label != 255, torch.tensor(0))) for name, _, label in slices]
    background = [(name, torch.zeros_like(label), label) for name, label in labels]
    assert evaluate(background, per_scan=per_scan)['mDice'] == 0
    assert evaluate([(name, label, label) for name, label in labels], per_scan=per_scan)['mDice'] == 100


def test_nan_to_num_does_not_bring_the_background_back(slices):
    assert evaluate(slices, nan_to_num=0) == evaluate(slices)


def test_all_pixels_count_for_the_accuracy(slices):
    right = sum(int((p == y).sum()) for _, p, y in slices)
    total = sum(int((y != 255).sum()) for _, _, y in slices)
    for per_scan in (True, False):
        assert evaluate(slices, per_scan=per_scan)['aAcc'] == pytest.approx(100 * right / total, abs=0.01)


def test_another_pattern_finds_the_scan_and_any_name_will_do_where_pixels_are_pooled(slices):
    renamed = [(f'slice-{name[-2:]}-of-{name[:-3]}', p, y) for name, p, y in slices]
    assert evaluate(renamed, scan='slice-.*-of-(.*)') == evaluate(slices)
    with pytest.raises(ValueError, match=r"images/slice-00-of-patient000_frame01.png does not tell .* scan='x\(y\)'"):
        evaluate(renamed, scan='x(y)')
    assert evaluate(renamed, per_scan=False) == evaluate(slices, per_scan=False)


def test_names_without_a_scan_are_told_with_the_mend(slices):
    with pytest.raises(ValueError, match=r'lone\.png does not tell its scan: .* val_evaluator.per_scan=False'):
        evaluate([('lone', *slices[0][1:])])


@pytest.mark.parametrize('scan, message', [('(', 'is no regular expression'), ('.*', 'needs a group')])
def test_a_pattern_that_cannot_find_a_scan_is_refused(scan, message):
    with pytest.raises(ValueError, match=f'ForegroundDice: scan=.*{message}'):
        evaluate([], scan=scan)


def test_predictions_that_are_only_written_need_no_scan(slices, tmp_path):
    assert evaluate([('lone', *slices[0][1:])], format_only=True, output_dir=str(tmp_path)) == {}
    assert (tmp_path / 'lone.png').is_file()
