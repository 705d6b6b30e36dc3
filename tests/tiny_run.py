"""A small training run: a config of the embedded data set over a few drawn images."""

from __future__ import annotations

import gc
import math
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook

from mmsemi.apis.config import import_formatter
from mmsemi.engine import choose_train_loop

ROOT = Path(__file__).resolve().parents[1]
METHOD_FILES = {
    'Supervised': 'supervised',
    'FixMatch': 'fixmatch',
    'MeanTeacher': 'mean_teacher',
    'MLLC': 'mllc',
    'AEL': 'ael',
    'AugSeg': 'augseg',
    'UniMatch': 'unimatch',
    'UniMatchV2': 'unimatch_v2',
    'PrevMatch': 'prevmatch',
    'DSSN': 'dssn',
    'ESL': 'esl',
    'U2PL': 'u2pl',
    'CorrMatch': 'corrmatch',
}
LABELED, UNLABELED = 8, 4
"""Images to train on: every class is among the labeled ones, and the others make two batches."""


class Losses(Hook):
    """Notes the terms of each step's loss by name."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.steps.append({name: float(value) for name, value in outputs.items() if 'loss' in name})


def are_finite(steps: list[dict[str, float]]) -> bool:
    """Whether all terms of all steps are numbers."""
    return all(math.isfinite(value) for step in steps for value in step.values())


def shorten_runs(patch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than a small training: each run of mmengine asks the compilers for their versions,
    formats its config many times and collects garbage among all that was imported.
    """
    import_formatter()
    patch.setattr('mmengine.runner.runner.collect_env', dict)
    patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **kwargs: (text, False))
    gc.freeze()


def draw(root: Path) -> Path:
    """Folder of a small version of the embedded data set below ``root``, drawn where it is not there yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'tools/dataset_converters')  # the tool finds its neighbour there
        from make_shapes import make_shapes
    make_shapes(root / 'shapes', train=LABELED + UNLABELED, val=2)
    return root / 'shapes'


def config(method: str, root: Path, work_dir: Path, epochs: int = 2, workers: int = 0, mpmc: bool = False) -> Config:
    """The config that the method, alone or with MPMC, has for the embedded data set; an epoch of it takes two steps.

    It is the user's but for the size of the data and of a batch, the length of training, and a threshold that an
    untrained network passes.
    """
    name = METHOD_FILES[method]
    path = f'mpmc/mpmc_{name}_r18_shapes.py' if mpmc else f'{name}/{name}_r18_shapes.py'
    cfg = Config.fromfile(ROOT / 'configs' / path)
    train = cfg.train_dataloader
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[key].update(num_workers=workers, persistent_workers=False)
    for dataset in (train.dataset.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        dataset.data_root = str(draw(root))
    train.dataset.labeled = LABELED
    unlabeled = min(train.sampler.unlabeled, UNLABELED // 2)
    train.sampler.update(labeled=2, unlabeled=unlabeled)
    train.batch_size = 2 + unlabeled
    if 'threshold' in cfg.model:
        cfg.model.threshold = 0.1
    cfg.train_cfg.max_epochs = epochs
    cfg.param_scheduler = [dict(type='PolyLR', power=0.9, by_epoch=True, convert_to_iter_based=True, end=2)]
    cfg.default_hooks.logger.interval = 1
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    choose_train_loop(cfg)
    cfg.work_dir = str(work_dir)
    # Instances of mmengine are known by name in the whole process; each run of the tests wants its own.
    cfg.experiment_name = cfg.visualizer.name = f'{path}-{work_dir}'.replace('/', '-')
    return cfg


def only_steps(cfg: Config, loop: str, interval: int) -> None:
    """Let a config train by a loop of that name, and neither validate nor save; the log tells every so many steps."""
    cfg.train_cfg = dict(type=loop, max_epochs=cfg.train_cfg.max_epochs)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        cfg[key] = None
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.pop('visualization', None)
    cfg.default_hooks.logger.interval = interval
    cfg.visualizer.vis_backends = []
    cfg.log_level = 'WARNING'
