"""A tiny training run: a small network on a few drawn images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from tests import tiny
from tests.data import make_voc

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
CLASSES = ('background', 'aeroplane', 'bicycle', 'bird')
METHOD_FILES = {
    'Supervised': 'supervised',
    'FixMatch': 'fixmatch',
    'MeanTeacher': 'mean_teacher',
    'MLLC': 'mllc',
    'AEL': 'ael',
    'AugSeg': 'augseg',
    'UniMatch': 'unimatch',
    'DSSN': 'dssn',
    'ESL': 'esl',
    'U2PL': 'u2pl',
    'CorrMatch': 'corrmatch',
}


def config(
    method: str, root: Path, work_dir: Path, epochs: int = 2, workers: int = 0, plugins: Sequence[dict] = ()
) -> Config:
    """The method's own config over the tiny network and a tiny PASCAL VOC with four classes."""
    data = root / 'VOC2012'
    if not data.exists():
        make_voc(data, n_train=4, n_aug=4, n_val=2, num_classes=tiny.NUM_CLASSES)
    cfg = Config.fromfile(CONFIGS / METHOD_FILES[method] / f'{METHOD_FILES[method]}_r18_shapes.py')
    voc = Config.fromfile(CONFIGS / '_base_/datasets/voc_blender.py')
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = voc[key]
        loader.update(num_workers=workers, persistent_workers=False)
        loader.dataset['metainfo'] = dict(classes=CLASSES)
    train = voc.train_dataloader
    voc.val_dataloader.dataset.data_root = voc.test_dataloader.dataset.data_root = str(data)
    train.dataset.pop('metainfo')
    train.dataset.dataset.update(data_root=str(data), metainfo=dict(classes=CLASSES))
    train.dataset.update(labeled=4, seed=0)
    for transform in train.dataset.pipeline:
        if transform.type == 'RandomCrop':
            transform.crop_size = (tiny.SIZE, tiny.SIZE)
    unlabeled = 0 if method == 'Supervised' else 2
    train.update(batch_size=2 + unlabeled)
    train.sampler.update(labeled=2, unlabeled=unlabeled)
    cfg.merge_from_dict({key: voc[key] for key in ('train_dataloader', 'val_dataloader', 'test_dataloader')})
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[key] = voc[key]
    cfg.model.student = ConfigDict(tiny.segmentor())
    cfg.model.data_preprocessor.size = (tiny.SIZE, tiny.SIZE)
    if 'heads' in tiny.METHODS[method]:
        cfg.model.heads = ConfigDict(tiny.METHODS[method]['heads'])
    if 'num_shapes' in cfg.model:
        cfg.model.num_shapes = tiny.METHODS[method]['num_shapes']
    if 'threshold' in cfg.model:
        cfg.model.threshold = 0.2
    cfg.model.plugins = [ConfigDict(plugin) for plugin in plugins]
    cfg.train_cfg.max_epochs = epochs
    cfg.param_scheduler = [dict(type='PolyLR', power=0.9, by_epoch=True, convert_to_iter_based=True, end=2)]
    cfg.default_hooks.logger.interval = 1
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.work_dir = str(work_dir)
    # Instances of mmengine are known by name in the whole process; each run of the tests wants its own.
    cfg.experiment_name = cfg.visualizer.name = f'{method}-{work_dir}'.replace('/', '-')
    return cfg
