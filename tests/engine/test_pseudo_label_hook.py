import json

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from mmsemi.engine.hooks.pseudo_label_hook import count, quality
from mmsemi.structures import PseudoLabel, Seen, Streams
from tests import tiny_run
from tests.host_round_trips import no_host_round_trip

CLASSES = ['a', 'b', 'c']


def step(seed: int, truth: bool = True) -> Seen:
    generator = torch.Generator().manual_seed(seed)

    def draw(values, *shape):
        return torch.randint(0, values, (2, 6, 5), generator=generator)

    label, gt, weight, valid = draw(3), draw(4), draw(2), draw(5)
    gt[gt == 3] = 255
    streams = Streams(
        torch.zeros(0), torch.zeros(0), torch.zeros(2, 3, 6, 5), valid=valid > 0, unlabeled_gt=gt if truth else None
    )
    return Seen(streams, PseudoLabel(label, weight.float()))


def test_quality_is_that_of_all_pixels_counted_one_by_one():
    steps = [step(0), step(1)]
    found = quality(sum(count(each, 3) for each in steps), CLASSES)
    valid = np.concatenate([each.streams.valid.numpy().ravel() for each in steps])
    label = np.concatenate([each.pseudo.label.numpy().ravel() for each in steps])[valid]
    kept = np.concatenate([each.pseudo.weight.numpy().ravel() for each in steps])[valid] > 0
    truth = np.concatenate([each.streams.unlabeled_gt.numpy().ravel() for each in steps])[valid]
    known = truth != 255

    def mean_iou(chosen):
        found, true = label[chosen], truth[chosen]
        pairs = [(found == number, true == number) for number in range(3)]
        return 100 * np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs])

    assert found['mining_ratio'] == pytest.approx(kept.mean())
    for number, name in enumerate(CLASSES):
        assert found[f'share_{name}'] == pytest.approx((label[kept] == number).mean())
    assert found['mIoU'] == pytest.approx(mean_iou(known))
    assert found['mIoU_kept'] == pytest.approx(mean_iou(known & kept))
    assert found['accuracy_kept'] == pytest.approx((label == truth)[known & kept].mean())


def test_without_ground_truth_nothing_is_said_of_it():
    assert set(quality(count(step(0, truth=False), 3), CLASSES)) == {'mining_ratio', 'share_a', 'share_b', 'share_c'}


def test_counting_waits_for_no_device():
    seen = step(0)
    with no_host_round_trip():
        count(seen, 3)


def test_one_key_turns_on_pictures_and_curves_and_without_it_there_are_none(drawn, tmp_path):
    for name in ('off', 'on'):
        cfg = tiny_run.config('MLLC', drawn, tmp_path / name, epochs=1)
        if name == 'on':
            cfg.merge_from_dict({'default_hooks.pseudo_labels.type': 'PseudoLabelHook'})
            cfg.default_hooks.pseudo_labels.update(interval=2, log_interval=1)
            cfg.train_dataloader.dataset.unlabeled_gt = True
        runner = Runner.from_cfg(cfg)
        runner.train()
        assert runner.model.watching is False
    pictures = [path.name for path in (tmp_path / 'on/pseudo_labels').iterdir()]
    assert pictures == ['iter_2.png'] and not (tmp_path / 'off/pseudo_labels').exists()
    records = [
        json.loads(line)
        for path in (tmp_path / 'on').glob('*/vis_data/scalars.json')
        for line in path.read_text().splitlines()
    ]
    curves = {name: value for record in records for name, value in record.items()}
    assert {'pseudo/mining_ratio', 'pseudo/mIoU', 'pseudo/mIoU_kept', 'pseudo/accuracy_kept'} < set(curves)
    assert curves['pseudo/mining_ratio'] == 1  # MLLC learns from every pixel
    assert 'pseudo/share_leaf' in curves
    # And the validation tells the IoU of every class of both branches.
    assert {'student/IoU_background', 'teacher/IoU_background'} < set(curves)
    (log,) = (tmp_path / 'on').glob('*/*.log')
    assert 'The teacher, class by class:' in log.read_text()
    assert 'share_leaf' not in log.read_text()
