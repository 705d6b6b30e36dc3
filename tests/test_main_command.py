"""The README's command of several processes, as a user without a GPU types it: train, evaluate, resume."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.data import make_voc

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/mllc/mllc_r101_voc.py'
KEYS = [
    'train_dataloader.dataset.labeled=4',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
    'model.student.pretrained=None',
]
SMALL = [
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    'model.data_preprocessor.size=(64,64)',
    'model.student.backbone.depth=18',
    'model.student.backbone.base_channels=8',
    'model.student.backbone.stem_channels=8',
    'model.student.decode_head.in_channels=64',
    'model.student.decode_head.low_level_in_channels=8',
    'model.student.decode_head.channels=32',
    'model.heads.embedding.in_channels=32',
    'model.heads.embedding.out_channels=32',
    'model.heads.graph.feature_channels=32',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='two processes want two GPUs where there is one')


def tool(folder: Path, *command: str) -> str:
    """Run a tool from ``folder``, which holds the user's ``data``; returns what it printed."""
    env = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT)}
    env.pop('PORT', None)
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def scores(work_dir: Path) -> list[dict]:
    """What every validation in ``work_dir`` found, the oldest first."""
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [line for line in lines if 'teacher/mIoU' in line]


@pytest.mark.parametrize(
    'extra',
    # The full network takes 13 GB of memory and some minutes.
    [pytest.param(SMALL, id='small'), pytest.param([], id='full', marks=pytest.mark.slow)],
)
def test_two_ranks_without_gpu_train_an_epoch_that_is_evaluated_and_resumed(extra, tmp_path):
    make_voc(tmp_path / 'data/VOCdevkit/VOC2012', n_train=4, n_aug=4, n_val=2, size=(80, 60))
    work_dir = tmp_path / 'W'
    train = ['bash', str(ROOT / 'tools/dist_train.sh'), CONFIG, '2', '--work-dir', 'W']
    options = ['--cfg-options', *KEYS, *extra]

    printed = tool(tmp_path, *train, *options)
    assert 'Epoch(train) [1][1/1]' in printed
    assert 'takes 8 images in all (2 labeled + 2 unlabeled on 2 processes)' in printed
    assert 'is meant for 16. Start with --batch 8 8' in printed
    (score,) = scores(work_dir)
    assert torch.load(work_dir / 'epoch_1.pth', weights_only=True)['meta']['iter'] == 1

    test = [sys.executable, str(ROOT / 'tools/test.py'), CONFIG, 'W/epoch_1.pth', '--work-dir', 'T']
    tool(tmp_path, *test, *options)
    (found,) = (json.loads(path.read_text()) for path in (tmp_path / 'T').glob('*/*.json'))
    for name in ('aAcc', 'mIoU', 'mAcc'):
        assert found[name] == pytest.approx(score[f'teacher/{name}'], abs=0.02)

    printed = tool(tmp_path, *train, '--resume', *options, 'train_cfg.max_epochs=2')
    assert 'Epoch(train) [2][1/1]' in printed and 'Epoch(train) [1][1/1]' not in printed
    assert torch.load(work_dir / 'epoch_2.pth', weights_only=True)['meta']['iter'] == 2
    assert len(scores(work_dir)) == 2
    shutil.rmtree(tmp_path)  # checkpoints of the full network are gigabytes
