import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsemi.apis.launch import UsageError
from mmsemi.apis.plot import plot
from mmsemi.visualization import curves


def write(run: Path, records: list[dict], stamp: str = '20260101_000000') -> Path:
    file = run / stamp / 'vis_data/scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(json.dumps(record) for record in records) + '\n{"loss": 1.0, "it')
    return run


TRAINED = [
    {
        'loss': 2.0,
        'sup.loss_ce': 1.5,
        'unsup.confident': 0.1,
        'unsup.threshold': 0.9,
        'time': 1,
        'iter': 10,
        'step': 10,
    },
    {'pseudo/share_leaf': 0.25, 'pseudo/share_stone': 0.75, 'step': 20},
    {'loss': 1.0, 'sup.loss_ce': 0.5, 'unsup.confident': 0.5, 'pseudo/mIoU': 40.0, 'iter': 20, 'step': 20},
    {'student/mIoU': 30.0, 'teacher/mIoU': 35.0, 'data_time': 0.1, 'step': 1},
    {'student/IoU_leaf': 10.0, 'step': 20},
]


def test_curves_are_what_a_run_wrote_at_its_iterations_also_after_it_went_on(tmp_path):
    write(tmp_path, TRAINED)
    write(tmp_path, [{'loss': 0.9, 'iter': 20, 'step': 20}, {'loss': 0.5, 'iter': 30, 'step': 30}], '20260102_000000')
    found = curves.read_scalars(tmp_path)
    assert found['loss'] == [(10, 2.0), (20, 0.9), (30, 0.5)]
    assert found['student/mIoU'] == [(20, 30.0)] and found['pseudo/share_leaf'] == [(20, 0.25)]


def test_scores_thresholds_quality_and_losses_have_panels_and_nothing_else_has():
    names = sorted({name for record in TRAINED for name in record})
    assert list(curves._panels(names)) == [
        'mIoU: student —, teacher - -',
        'pseudo/mIoU of labels',
        'unsup.confident',
        'unsup.threshold',
        'loss',
        'sup.loss_ce',
    ]


def test_runs_are_told_apart_by_as_few_folders_as_do():
    assert curves._names(['work/mllc/seed0', 'work/esl/seed0']) == ['mllc/seed0', 'esl/seed0']
    assert curves._names(['a/x', 'b/y']) == ['x', 'y']
    assert curves._names(['a/x']) == ['x']


def test_several_runs_become_one_picture(tmp_path, capsys, monkeypatch):
    runs = [str(write(tmp_path / name, TRAINED)) for name in ('one', 'two')]
    figures = []
    monkeypatch.setattr(curves.pyplot, 'close', figures.append)
    path = plot([*runs, runs[0] + '/'], out=str(tmp_path / 'out.png'))
    with Image.open(path) as image:
        assert image.width > 800
    assert 'out.png' in capsys.readouterr().out
    shown = [axis for axis in figures[0].axes if axis.axison]
    assert len(shown) == 6 + 2  # and the classes of each run's labels
    assert all(axis.get_title() and (axis.lines or axis.collections) for axis in shown)
    assert [len(axis.lines) for axis in shown[:6]] == [4, 2, 2, 2, 2, 2]


def test_what_cannot_be_drawn_is_told(tmp_path):
    with pytest.raises(UsageError, match='is no folder of a run'):
        plot([str(tmp_path)])
    with pytest.raises(UsageError, match='has written no losses and no scores yet'):
        plot([str(write(tmp_path / 'run', [{'time': 1.0, 'iter': 1}]))])
    for arguments in ([], ['x']):
        with pytest.raises(UsageError, match='Name the work folders of runs, or a checkpoint'):
            plot(arguments, features='y' if arguments else None)


def test_features_of_few_pixels_are_refused_and_of_enough_drawn(tmp_path):
    with pytest.raises(ValueError, match='needs five features at least; there are 3'):
        curves.draw_features(np.zeros((3, 4)), np.zeros(3, int), ['a'], [[0, 0, 0]], tmp_path / 'x.png')
    labels = np.arange(12) % 2
    rows = np.random.default_rng(0).normal(size=(12, 4)) + 5 * labels[:, None]
    curves.draw_features(rows, labels, ['a', 'b'], [[0, 0, 0], [255, 0, 0]], tmp_path / 'deep/x.png')
    assert (tmp_path / 'deep/x.png').stat().st_size > 1000
