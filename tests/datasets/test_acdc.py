"""ACDC: no patient on two sides, gray slices as color images, checkpoints chosen by Dice."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.runner import Runner

from mmsemi.apis.launch import prepare_config
from mmsemi.datasets import ACDCDataset, SemiDataset
from mmsemi.registry import MODELS
from tests import tiny
from tests.data import make_acdc

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('configs/[!_]*/*_acdc.py'))


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return make_acdc(tmp_path_factory.mktemp('acdc'), patients=7)


def semi(root: Path, **kwargs) -> SemiDataset:
    """The data set of the config over tiny data."""
    config = Config.fromfile(ROOT / 'configs/_base_/datasets/acdc.py').train_dataloader.dataset
    config.pop('type')
    config.dataset.data_root = str(root)
    dataset = SemiDataset(**{**config, **kwargs})
    dataset.full_init()
    return dataset


def patients(ids: list[str]) -> set[str]:
    return {name.partition('_')[0] for name in ids}


def test_the_rest_of_the_labeled_cases_are_the_other_patients_of_the_training_list(root):
    dataset = semi(root)
    assert patients(dataset.labeled_ids) == {f'patient00{p}' for p in (1, 2, 3)} and dataset.num_labeled == 12
    assert patients(dataset.unlabeled_ids) == {'patient004', 'patient005'} and dataset.num_unlabeled == 8
    assert semi(root, unlabeled='lists/unlabeled_3.txt').unlabeled_ids == dataset.unlabeled_ids


def test_a_labeled_list_with_one_scan_of_a_patient_is_refused_by_name(root, tmp_path):
    (tmp_path / 'ed.txt').write_text('patient002_frame01_00\npatient002_frame01_01\n')
    labeled = str(tmp_path / 'ed.txt')
    with pytest.raises(ValueError, match=r'^patient002 is split: .*_frame01_01 is labeled and .*_frame02_00 is not'):
        semi(root, labeled=labeled)
    assert semi(root, labeled=labeled, unlabeled='none').num_labeled == 2
    assert semi(root, labeled=labeled, unlabeled='lists/unlabeled_3.txt').num_unlabeled == 8
    assert semi(root, labeled=labeled, allow_overlap=True).num_unlabeled == 18


def test_a_drawn_slice_is_refused_because_it_splits_its_patient(root):
    with pytest.raises(ValueError, match=r'patient00\d is split: .* by a list file'):
        semi(root, labeled=1)


@pytest.mark.parametrize('apart_from', ['lists/both.txt', ['lists/val.txt', 'lists/both.txt']])
def test_training_and_validation_may_not_share_a_patient(root, apart_from):
    (root / 'lists/both.txt').write_text('patient001_frame02_00\npatient002_frame02_00\npatient007_frame01_00\n')
    with pytest.raises(ValueError, match=r'train\.txt and .*both\.txt both have slices of patient001 \(2 patients'):
        ACDCDataset(data_root=str(root), ann_file='lists/train.txt', apart_from=apart_from)
    assert len(ACDCDataset(data_root=str(root), ann_file='lists/train.txt', apart_from='lists/val.txt')) == 20


def test_the_whole_folder_is_no_training_list(root):
    with pytest.raises(ValueError, match=r'images and .*val\.txt both have slices of patient006'):
        ACDCDataset(data_root=str(root), apart_from='lists/val.txt')


def test_a_list_to_keep_apart_from_must_exist(root):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.txt does not exist'):
        ACDCDataset(data_root=str(root), ann_file='lists/train.txt', apart_from='lists/nowhere.txt')


def test_names_that_tell_no_patient_are_not_kept_apart(root, tmp_path):
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
        for z in (0, 1):
            source = root / folder / f'patient001_frame01_0{z}.png'
            (tmp_path / folder / f'scan_{z}.png').write_bytes(source.read_bytes())
    (tmp_path / 'val.txt').write_text('other_0\n')
    dataset = ACDCDataset(data_root=str(tmp_path), apart_from='val.txt')
    assert [dataset.get_data_info(i)['group'] for i in range(2)] == [None, None]
    assert SemiDataset(dict(type='ACDCDataset', data_root=str(tmp_path)), labeled=1).num_unlabeled == 1


def test_the_one_channel_of_a_slice_comes_three_times(root):
    config = Config.fromfile(ROOT / 'configs/_base_/datasets/acdc.py')
    info = ACDCDataset(data_root=str(root), ann_file='lists/val.txt').get_data_info(0)
    image = Compose(config.test_pipeline)(info)['inputs']
    assert image.shape == (3, 50, 60) and (image == image[:1]).all() and image.float().std() > 0


@pytest.mark.parametrize('path', CONFIGS)
def test_configs_choose_the_checkpoint_by_the_metric_that_is_reported(path):
    cfg = Config.fromfile(ROOT / path)
    assert cfg.val_evaluator == cfg.test_evaluator == dict(type='ForegroundDice')
    assert cfg.default_hooks.checkpoint.save_best in ('student/mDice', 'teacher/mDice')
    size = (256, 256) if 'unet' in path else (224, 224)
    assert (cfg.train_cfg.max_epochs, cfg.optim_wrapper.optimizer.lr, cfg.crop_size) == (300, 1e-2, size)
    assert cfg.train_dataloader.dataset.labeled == 'lists/cases_3.txt' and 'paramwise_cfg' not in cfg.optim_wrapper


# UniMatch's U-Net


@pytest.fixture(scope='module')
def unet():
    return Config.fromfile(ROOT / 'configs/unimatch/unimatch_unet_acdc.py')


def test_the_unet_trains_as_published(unet):
    optimizer, loader = unet.optim_wrapper.optimizer, unet.train_dataloader
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ('SGD', 1e-2, 0.9, 1e-4)
    [schedule] = unet.param_scheduler
    assert (schedule.type, schedule.power, schedule.convert_to_iter_based) == ('PolyLR', 0.9, True)
    assert (loader.batch_size, loader.sampler.labeled, loader.sampler.unlabeled) == (24, 12, 12)
    model = unet.model
    assert (model.type, model.threshold, model.unsup_loss, model.data_preprocessor.num_strong) == (
        'UniMatch', 0.95, 'dice', 2,
    )  # fmt: skip
    assert (model.data_preprocessor.mean, model.data_preprocessor.std) == ([0.0], [255.0])
    assert (model.strong_weight, model.feature_weight, model.feature_dropout) == (0.25, 0.5, 0.5)
    assert [(x.type, x.loss_weight) for x in model.student.decode_head.loss_decode] == [
        ('PixelCrossEntropyLoss', 0.5), ('PixelDiceLoss', 0.5),
    ]  # fmt: skip


def test_the_baseline_and_mpmc_share_the_unets_protocol(unet):
    baseline = Config.fromfile(ROOT / 'configs/supervised/supervised_unet_acdc.py')
    mpmc = Config.fromfile(ROOT / 'configs/mpmc/mpmc_unimatch_unet_acdc.py')
    assert mpmc.model.pop('plugins') == [dict(type='MPMC', position='stage3')]
    assert mpmc._cfg_dict == unet._cfg_dict
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'val_dataloader', 'val_evaluator', 'crop_size'):
        assert baseline[key] == unet[key]
    assert baseline.model.student == unet.model.student
    assert baseline.train_dataloader.dataset == unet.train_dataloader.dataset
    loader = baseline.train_dataloader
    assert (loader.batch_size, loader.sampler.labeled, loader.sampler.unlabeled) == (12, 12, 0)


def weak_view(image: np.ndarray, mask: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Draws of the published weak view of a slice and its label map, at 256 x 256."""
    config = Config.fromfile(ROOT / 'configs/_base_/datasets/acdc_unet.py')
    steps = Compose([step for step in config.train_pipeline if not step.type.startswith(('Load', 'Pack'))])

    def draw() -> tuple[np.ndarray, np.ndarray]:
        results = dict(img=image.copy(), gt_seg_map=mask.copy(), seg_fields=['gt_seg_map'], img_shape=image.shape)
        results = steps(results)
        return results['img'], results['gt_seg_map']

    return draw


def test_half_of_the_slices_are_mirrored_some_way_and_half_of_the_others_rotated():
    # Every symmetry of the square gives another image; labels are the image, so that the two must move alike.
    image = np.arange(1, 17, dtype=np.uint8).reshape(4, 4).repeat(64, 0).repeat(64, 1) * 10
    symmetries = [np.rot90(flipped, k) for flipped in (image, image[::-1]) for k in range(4)]
    draw, counts = weak_view(image, image), np.zeros(9)
    np.random.seed(0)
    random.seed(0)
    for _ in range(1200):
        changed, labels = draw()
        assert changed.shape == labels.shape == (256, 256)
        kind = next((i for i, symmetry in enumerate(symmetries) if (changed == symmetry).all()), 8)
        assert kind == 8 or (labels == changed).all()
        counts[kind] += 1
    # The plain slice, the rotations by quarters alone (never), the four mirror images, and other rotations.
    law = np.array([0.25, 0, 0, 0, 0.125, 0.125, 0.125, 0.125, 0.25])
    assert (np.abs(counts / 1200 - law) < 0.04).all() and (counts[1:4] == 0).all()


def test_a_rotation_is_by_up_to_20_degrees_and_brings_in_black_background():
    image = np.full((256, 256), 200, np.uint8)
    image[:, 126:130] = 50
    mask = np.full((256, 256), 3, np.uint8)
    mask[:, 126:130] = 1
    draw, angles = weak_view(image, mask), []
    np.random.seed(0)
    random.seed(0)
    for _ in range(600):
        changed, labels = draw()
        if not (labels == 0).any():
            continue
        assert set(np.unique(labels)) <= {0, 1, 3}, 'labels are not interpolated'
        # Away from the edge, over which the image is interpolated.
        inside = np.stack([np.roll(labels, (y, x), (0, 1)) for y in (-2, 0, 2) for x in (-2, 0, 2)]).any(0)
        assert (changed[~inside] == 0).all() and (changed[3:-3, 3:-3][labels[3:-3, 3:-3] > 0] > 0).all()
        rows, columns = np.nonzero(labels[64:192] == 1)
        angles.append(np.degrees(np.arctan(np.polyfit(rows, columns, 1)[0])))
    angles = np.array(angles)
    assert 100 < len(angles) < 200 and np.abs(angles).max() < 20.5
    assert np.abs(angles).max() > 18 and abs(angles.mean()) < 3 and angles.std() > 9


def test_slices_are_gray_resized_whole_and_scored_at_their_own_size(root, unet):
    dataset = semi(root, pipeline=unet.train_dataloader.dataset.pipeline)
    item = dataset[0, 7]
    assert item['inputs'].shape == (1, 256, 256) and item['data_samples'].gt_sem_seg.data.shape == (1, 256, 256)
    info = ACDCDataset(data_root=str(root), ann_file='lists/val.txt').get_data_info(0)
    tested = Compose(unet.test_dataloader.dataset.pipeline)(info)
    assert tested['inputs'].shape == (1, 256, 256) and tested['data_samples'].ori_shape == (50, 60)
    assert tested['data_samples'].gt_sem_seg.data.shape == (1, 50, 60)
    model = MODELS.build(unet.model).eval()
    batch = dict(inputs=[tested['inputs']], data_samples=[tested['data_samples']])
    [predicted] = model.test_step(batch)
    assert predicted.pred_sem_seg.data.shape == (1, 50, 60)


@pytest.mark.parametrize(
    'name', ['unimatch/unimatch_r101_acdc.py', 'unimatch/unimatch_unet_acdc.py', 'mpmc/mpmc_unimatch_unet_acdc.py']
)
def test_a_run_reports_dice_and_keeps_the_best_checkpoint_by_it(tmp_path, name):
    data = make_acdc(tmp_path / 'acdc', patients=6, slices=1)
    cfg = Config.fromfile(ROOT / 'configs' / name)
    prepare_config(cfg, launcher='none')
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.sampler.update(labeled=2, unlabeled=2)
    cfg.train_dataloader.dataset.dataset.data_root = str(data)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.val_dataloader.dataset.data_root = str(data)
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'RandomCrop':
            transform.crop_size = (tiny.SIZE, tiny.SIZE)
    if 'unet' in name:
        for step in (*cfg.train_dataloader.dataset.pipeline, *cfg.val_dataloader.dataset.pipeline):
            if step.type == 'Resize':
                step.scale = (tiny.SIZE, tiny.SIZE)
        for plugin in cfg.model.get('plugins', []):
            plugin.pools = (3, 7)
    else:
        cfg.model.student = ConfigDict(tiny.segmentor())
    cfg.model.data_preprocessor.size = (tiny.SIZE, tiny.SIZE)
    cfg.train_cfg.max_epochs = 1
    cfg.work_dir = str(tmp_path / 'run')
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.experiment_name = cfg.visualizer.name = f'acdc-{tmp_path}'.replace('/', '-')
    # A config without a test: Runner wants all of its three parts or none.
    for key in ('test_dataloader', 'test_evaluator', 'test_cfg'):
        cfg.pop(key)
    Runner.from_cfg(cfg).train()
    assert list((tmp_path / 'run').glob('best_student_mDice_epoch_1.pth'))
    [log] = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert 0 <= told[-1]['student/mDice'] <= 100
