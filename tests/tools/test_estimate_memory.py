import argparse
import re

import pytest

from mmsemi.apis import memory
from mmsemi.apis.launch import UsageError, load_config
from tests.tools.test_runs import load_tool

tool = load_tool('analysis/estimate_memory.py')
CONFIG = 'mean_teacher/mean_teacher_r18_shapes.py'
NUMBER = re.compile(r'([\d.]+) MiB')


def rows(text: str) -> dict[str, float]:
    return {line[:30].strip(): float(match[1]) for line in text.splitlines() if (match := NUMBER.search(line))}


@pytest.fixture(scope='module')
def estimator(tmp_path_factory):
    work_dir = str(tmp_path_factory.mktemp('work_dir'))
    args = argparse.Namespace(config=CONFIG, cfg_options=None, work_dir=work_dir, launcher='none', local_rank=0)
    return memory.Estimator(load_config(args))


def test_the_parts_add_up_to_the_total(capsys):
    tool.main([CONFIG, '--batch', '2', '2', '--processes', '4'])
    text = capsys.readouterr().out
    assert '2 labeled + 2 unlabeled crops of 64 x 64, float32' in text
    sizes = rows(text)
    total = sizes.pop('total')
    sizes.pop('(kept for the backward pass')
    assert sum(sizes.values()) == pytest.approx(total, abs=0.1)
    assert all(sizes[name] for name in ('weights', 'optimizer', 'buckets of several processes', "student's pass"))


def test_two_networks_weigh_twice_what_learns_and_adam_keeps_two_moments(estimator):
    estimate = estimator(2, 2)
    one = sum(x.numel() for x in estimator.model.student.parameters()) * 4
    assert estimate.weights == 2 * one
    assert abs(estimate.optimizer - 2 * one) < 4096  # and the number of steps
    assert estimate.buckets == 0


def test_the_largest_batch_fits_and_one_more_does_not(estimator):
    gib = (estimator(16, 16).total / memory.GIB + memory.CONTEXT) / (1 - memory.FRAGMENTED)
    (found,) = estimator.largest(2, 2, [gib])
    labeled, unlabeled = found
    assert labeled == unlabeled
    assert estimator(labeled - 1, unlabeled - 1).total <= memory.usable(gib)
    assert estimator(labeled + 2, unlabeled + 2).total > memory.usable(gib)
    assert estimator.largest(2, 2, [0.5]) == [(0, 0)]
    labeled, unlabeled = estimator.largest(2, 4, [gib])[0]
    assert unlabeled == 2 * labeled


def test_half_precision_takes_less(capsys):
    sizes = []
    for amp in ([], ['--amp'], ['--amp', 'fp16']):
        tool.main([CONFIG, '--batch', '4', '4', '--crop', '96', *amp])
        sizes.append(rows(capsys.readouterr().out)["student's pass"])
    assert sizes[1] == sizes[2] < 0.75 * sizes[0]


def test_no_part_of_a_config_loads_weights():
    cfg = dict(
        student=dict(pretrained='x', backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='y'))),
        heads=[dict(init_cfg=dict(type='Normal', std=0.01))],
    )
    memory.forget_weights(cfg)
    assert cfg['student'] == dict(pretrained=None, backbone=dict(init_cfg=None))
    assert cfg['heads'] == [dict(init_cfg=dict(type='Normal', std=0.01))]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--batch', '0', '2'], 'at least 1 labeled and 1 unlabeled images for MeanTeacher, not 0 and 2'),
        (['--batch', '2', '0'], 'at least 1 labeled and 1 unlabeled images for MeanTeacher, not 2 and 0'),
        (['--crop', '0'], '--crop must be at least 1, not 0'),
        (['--processes', '0'], '--processes must be at least 1, not 0'),
    ],
)
def test_what_cannot_be_estimated_is_named(arguments, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        tool.main([CONFIG, *arguments])
