"""A run goes on with another number of processes or another batch, with the same share of training behind it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests import tiny_run
from tests.faults import jobs
from tests.faults.jobs import Job

EPOCHS = 3
EVERY_ITERATION = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.max_keep_ckpts': -1}


@pytest.fixture(scope='module')
def folder(tmp_path_factory, drawn) -> Path:
    tiny_run.draw(drawn)
    return tmp_path_factory.mktemp('ranks')


def job(folder: Path, drawn: Path, name: str, **kwargs) -> Job:
    kwargs['options'] = {'train_dataloader.dataset.labeled': 4, **kwargs.get('options', {})}
    return Job('FixMatch', str(drawn), str(folder / name), epochs=EPOCHS, **kwargs)


@pytest.fixture(scope='module')
def straight(folder, drawn) -> dict[int, Path]:
    """Uninterrupted runs on one and two ranks, with a checkpoint after each iteration."""
    made = {}
    for world in (1, 2):
        run = job(folder, drawn, f'straight-{world}', options=EVERY_ITERATION)
        assert jobs.start(world, folder, jobs.train, run) == [0] * world
        made[world] = Path(run.work_dir)
    return made


def steps(work_dir: Path) -> dict[int, tuple[float, int]]:
    """Rate and images on the first rank of each iteration."""
    return {int(words[1]): (float(words[2]), int(words[3])) for words in jobs.progress(work_dir) if words[0] == 'step'}


@pytest.mark.parametrize(
    ('then', 'now', 'done'),
    # Eight unlabeled images, two a rank: an epoch is four iterations of one rank, two of two, one of four.
    [
        pytest.param(2, 1, 2, marks=pytest.mark.slow),
        (2, 1, 3),
        (1, 2, 4),
        pytest.param(1, 2, 6, marks=pytest.mark.slow),
        pytest.param(2, 4, 2, marks=pytest.mark.slow),
    ],
    ids=['2 to 1', '2 to 1 within an epoch', '1 to 2', '1 to 2 within an epoch', '2 to 4'],
)
def test_the_share_of_training_its_rate_and_its_images_are_those_of_the_run_that_goes_on(
    then, now, done, straight, folder, drawn
):
    source = straight[then] / f'iter_{done}.pth'
    run = job(folder, drawn, f'{then}-to-{now}-{done}', resume=str(source))
    assert jobs.start(now, folder, jobs.train, run) == [0] * now, jobs.said(folder)
    taken = steps(Path(run.work_dir))
    first = done * then // now + 1
    last = EPOCHS * 4 // now
    assert sorted(taken) == list(range(first, last + 1))
    images = done * then * 4 + sum(images * now for _, images in taken.values())
    assert images == EPOCHS * 4 * 4
    if now in straight:
        expected = steps(straight[now])
        for iteration, (rate, _) in taken.items():
            assert rate == pytest.approx(expected[iteration][0], rel=1e-12, abs=1e-18)
    final = torch.load(Path(run.work_dir) / f'epoch_{EPOCHS}.pth', weights_only=True)
    assert (final['meta']['epoch'], final['meta']['iter']) == (EPOCHS, last)
    assert final['optimizer']['param_groups'][0]['lr'] == 0


@pytest.mark.parametrize(
    ('done', 'options', 'sentence'),
    [
        (1, {}, r'1 of 4 iterations of an epoch .* no whole number'),
        (4, {'train_dataloader.dataset.seed': 1}, r'was trained on .* and this run has'),
        (
            4,
            {'param_scheduler': [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=7)]},
            r'end=7 of param_scheduler of type LinearLR .* no whole number',
        ),
        (
            4,
            {'param_scheduler': [dict(type='ExponentialLR', gamma=0.9, by_epoch=False)]},
            'ExponentialLR decays by iteration',
        ),
    ],
    ids=['within a batch', 'another partition', 'within a warm-up', 'a decay by iteration'],
)
def test_what_does_not_come_out_even_is_refused_with_a_sentence(done, options, sentence, straight, folder, drawn):
    share = (4, 4)  # one rank with the batch of two
    run = job(folder, drawn, f'refused-{done}-{len(str(options))}', share=share, options=options)
    run.resume = str(straight[1] / f'iter_{done}.pth')
    assert jobs.start(1, folder, jobs.train, run) == [2]
    (said,) = jobs.said(folder)
    assert re.search(sentence, said), said


@pytest.mark.slow
def test_a_warm_up_is_as_long_in_images(straight, folder, drawn):
    options = {
        'param_scheduler': [
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=8),
            dict(type='PolyLR', power=0.9, by_epoch=True, convert_to_iter_based=True),
        ]
    }
    half = [dict(options['param_scheduler'][0], end=4), options['param_scheduler'][1]]
    whole = job(folder, drawn, 'warm-2', share=(4, 4), options={'param_scheduler': half})
    assert jobs.start(1, folder, jobs.train, whole) == [0]
    first = job(folder, drawn, 'warm-1', options={**options, **EVERY_ITERATION})
    assert jobs.start(1, folder, jobs.train, first) == [0]
    rest = job(folder, drawn, 'warm-rest', share=(4, 4), options=options)
    rest.resume = f'{first.work_dir}/iter_4.pth'
    assert jobs.start(1, folder, jobs.train, rest) == [0], jobs.said(folder)
    expected, taken = steps(Path(whole.work_dir)), steps(Path(rest.work_dir))
    assert sorted(taken) == [3, 4, 5, 6]
    assert all(rate == pytest.approx(expected[i][0], rel=1e-12, abs=1e-18) for i, (rate, _) in taken.items())


@pytest.mark.slow
def test_training_by_iterations_goes_on_with_as_many_images(folder, drawn):
    options = {'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=12, val_interval=100), **EVERY_ITERATION}
    first = job(folder, drawn, 'iterations', options=options)
    assert jobs.start(1, folder, jobs.train, first) == [0], jobs.said(folder)
    rest = job(folder, drawn, 'iterations-rest', share=(4, 4), options=options)
    rest.resume = f'{first.work_dir}/iter_6.pth'
    assert jobs.start(1, folder, jobs.train, rest) == [0], jobs.said(folder)
    assert sorted(steps(Path(rest.work_dir))) == [4, 5, 6]
