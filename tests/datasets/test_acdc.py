"""ACDC: no patient on two sides, gray slices as color images, checkpoints chosen by Dice."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.runner import Runner

from mmsemi.datasets import ACDCDataset, SemiDataset
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
    assert (cfg.train_cfg.max_epochs, cfg.optim_wrapper.optimizer.lr, cfg.crop_size) == (300, 1e-2, (224, 224))
    assert cfg.train_dataloader.dataset.labeled == 'lists/cases_3.txt' and 'paramwise_cfg' not in cfg.optim_wrapper


def test_a_run_reports_dice_and_keeps_the_best_checkpoint_by_it(tmp_path):
    data = make_acdc(tmp_path / 'acdc', patients=6, slices=1)
    cfg = Config.fromfile(ROOT / 'configs/unimatch/unimatch_r101_acdc.py')
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.sampler.update(labeled=2, unlabeled=2)
    cfg.train_dataloader.dataset.dataset.data_root = str(data)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.val_dataloader.dataset.data_root = str(data)
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'RandomCrop':
            transform.crop_size = (tiny.SIZE, tiny.SIZE)
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
