"""Every config builds its model and its data; every component is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mmsemi.datasets
import mmsemi.engine
import mmsemi.models  # noqa: F401
from mmsemi import registry
from mmsemi.apis.launch import prepare_config
from mmsemi.models.checkpointing import recompute_blocks
from mmsemi.registry import HOOKS, LOOPS, MODELS
from tests import data
from tests.project import ROOT, project_files, without_weights

CONFIGS = [path.relative_to(ROOT).as_posix() for path in project_files('configs/[!_]*/*.py')]


@pytest.fixture(scope='module')
def roots(tmp_path_factory) -> dict[str, str]:
    """Tiny data in each layout, under the name of its folder in the configs."""
    root = tmp_path_factory.mktemp('data')
    data.make_voc(root / 'voc', n_train=12, n_aug=12, n_val=1, size=(64, 48))
    data.make_cityscapes(root / 'cityscapes', n_train=20, n_val=1, size=(64, 32))
    starts = {'0001TP_{:06}': 6690, '0006R0_f{:05}': 930, '0016E5_{:06}': 390}
    drives = [name.format(start + 30 * i) for name, start in starts.items() for i in range(30)]
    data.make_camvid(root / 'camvid', {'train': [*drives, '0006R0_f02460'], 'val': ['0016E5_007959', '0001TP_008010']})
    shapes = data.make_voc(root / 'shapes', n_train=60, n_aug=0, n_val=1, size=(48, 48), num_classes=8, trainaug=False)
    for mask in (shapes / 'SegmentationClassAug').glob('*.png'):
        mask.rename(shapes / 'SegmentationClass' / mask.name)
    data.make_acdc(root / 'acdc')
    data.make_ade20k(root / 'ADEChallengeData2016', n_train=2600)
    data.make_coco81(root / 'coco', n_train=40)
    names = ('voc', 'cityscapes', 'camvid', 'shapes', 'acdc', 'ADEChallengeData2016', 'coco')
    return {name: str(root / name) for name in names}


@pytest.fixture
def uninitialised(monkeypatch) -> None:
    """Large networks are built in a moment where nobody draws their weights."""
    for name in dir(torch.nn.init):
        if name.endswith('_') and not name.startswith('_'):
            monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


def redirect(node, roots: dict[str, str]) -> None:
    """Point every data_root of a config at the tiny data."""
    if isinstance(node, dict):
        if 'data_root' in node:
            name = 'voc' if 'VOC' in node['data_root'] else Path(node['data_root']).name
            node['data_root'] = roots[name]
        for value in node.values():
            redirect(value, roots)


@pytest.mark.parametrize('path', CONFIGS)
def test_config_builds_its_model_and_its_data(path, roots, uninitialised):
    cfg = Config.fromfile(ROOT / path)
    assert len((ROOT / path).read_text().splitlines()) < 40, 'a config is a few lines over its bases'
    without_weights(cfg)
    redirect(cfg._cfg_dict, roots)
    prepare_config(cfg, launcher='none')
    model = MODELS.build(cfg.model).train()
    assert torch.cuda.is_available() or not any(isinstance(m, torch.nn.SyncBatchNorm) for m in model.modules())
    if cfg.model.student.backbone.type != 'UNetEncoder':  # whose stages are no repeated blocks
        assert recompute_blocks(model.student.segmentor.backbone), 'with_cp works for every other network'
    for name, hook in cfg.default_hooks.items():
        assert name == 'visualization' or HOOKS.build(hook), 'mmseg builds its own once there is a visualizer'
    assert LOOPS.get(cfg.val_cfg.type) and LOOPS.get(cfg.test_cfg.type)

    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    streams = model.data_preprocessor(next(iter(loader)), training=True)['inputs']
    sampler = cfg.train_dataloader.sampler
    size = tuple(cfg.crop_size)
    assert streams.labeled.shape == (sampler.labeled, model.student.in_channels, *size)
    assert streams.weak.shape[0] == sampler.unlabeled and len(streams.strong) == model.data_preprocessor.num_strong
    counted = streams.labels[streams.labels != 255]
    assert counted.numel() and counted.max() < model.num_classes
    assert model.num_classes == len(loader.dataset.metainfo['classes'])

    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    batch = next(iter(Runner.build_dataloader(cfg.val_dataloader, seed=0)))
    assert model.data_preprocessor(batch, training=False)['inputs'].dim() == 4


def test_the_papers_main_config_trains_as_documented():
    cfg = Config.fromfile(ROOT / 'configs/mllc/mllc_r101_voc.py')
    assert cfg.train_cfg.max_epochs == 150 and cfg.crop_size == (512, 512)
    assert cfg.train_dataloader.sampler.labeled == cfg.train_dataloader.sampler.unlabeled == 2
    assert cfg.optim_wrapper.optimizer.lr == 1e-3
    graph = cfg.model.heads.graph
    assert (graph.num_layers, graph.num_neighbors, graph.gamma, graph.alpha) == (2, 20, 1.0, 0.2)
    assert (cfg.model.threshold, cfg.model.slg_weight, cfg.model.clg_weight) == (0.95, 0.1, 1.0)


def test_the_heads_learn_ten_times_faster_and_the_teacher_not_at_all():
    cfg = Config.fromfile(ROOT / 'configs/mllc/mllc_r50_voc.py')
    cfg.model.student.pretrained = None
    model = MODELS.build(cfg.model)
    constructor = registry.OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type=cfg.optim_wrapper.constructor,
            optim_wrapper_cfg=dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer),
            paramwise_cfg=cfg.optim_wrapper.paramwise_cfg,
        )
    )
    groups = {round(group['lr'], 6): group['params'] for group in constructor(model).optimizer.param_groups}
    backbone = {id(p) for p in model.student.segmentor.backbone.parameters()}
    assert {id(p) for p in groups[1e-3]} == backbone
    others = {id(p) for p in model.student.parameters()} - backbone
    assert {id(p) for p in groups[1e-2]} == others and len(groups) == 2


def test_every_registered_component_is_in_a_config_or_a_test():
    texts = [path.read_text() for folder in ('configs', 'tests') for path in project_files(f'{folder}/**/*.py')]
    words = set(re.findall(r'\w+', '\n'.join(texts)))
    registries = [value for value in vars(registry).values() if getattr(value, 'scope', None) == 'mmsemi']
    # Tools may register helpers of their own while their tests run.
    components = [item for each in registries for item in each.module_dict.items()]
    names = {name for name, component in components if component.__module__.startswith('mmsemi.')}
    assert names and not names - words


def test_the_embedded_network_is_small_enough_for_a_cpu():
    cfg = Config.fromfile(ROOT / 'configs/mllc/mllc_r18_shapes.py')
    model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.student.parameters()) < 5e6
    assert torch.tensor(cfg.crop_size).max() <= 128
