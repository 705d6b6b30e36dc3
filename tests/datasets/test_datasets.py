"""The data sets themselves, their configs, the transforms, and the tool that writes partitions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.runner import Runner
from PIL import Image

from mmsemi.apis.config import resolve
from mmsemi.datasets import (
    CamVidDataset,
    ImageFolder,
    PascalVOCAugDataset,
    RandomScale,
    SemiDataset,
    check_evaluation_data,
)
from mmsemi.registry import DATASETS, TRANSFORMS
from tests.data import make_acdc, make_ade20k, make_camvid, make_cityscapes, make_coco81, make_folder, make_voc
from tests.project import project_files

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs/_base_/datasets'


def masks_by_id(dataset):
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return {Path(i['img_path']).stem: Path(i['seg_map_path']).parent.name for i in infos}


@pytest.mark.parametrize('trainaug', [True, False])
def test_voc_takes_fine_masks_for_train_and_augmented_ones_for_the_rest(tmp_path, trainaug):
    root = make_voc(tmp_path, n_train=2, n_aug=2, n_val=0, trainaug=trainaug)
    folders = masks_by_id(PascalVOCAugDataset(data_root=str(root)))
    fine, augmented = 'SegmentationClass', 'SegmentationClassAug'
    assert folders == {f'2007_00000{i}': fine if i < 2 else augmented for i in range(4)}


def test_voc_with_all_masks_in_one_folder(tmp_path):
    for keep in ('SegmentationClass', 'SegmentationClassAug'):
        root = make_voc(tmp_path / keep, n_train=2, n_aug=2, n_val=0)
        other = root / ('SegmentationClassAug' if keep == 'SegmentationClass' else 'SegmentationClass')
        for path in list(other.iterdir()):
            path.rename(root / keep / path.name)
        other.rmdir()
        assert set(masks_by_id(PascalVOCAugDataset(data_root=str(root))).values()) == {keep}


def test_voc_repeated_and_missing_lists(tmp_path):
    root = make_voc(tmp_path, n_train=2, n_aug=2, n_val=0, trainaug=False)
    lists = root / 'ImageSets/Segmentation'
    with open(lists / 'aug.txt', 'a') as file:
        file.write('2007_000000\n')
    assert len(PascalVOCAugDataset(data_root=str(root))) == 4
    (lists / 'trainaug.txt').write_text('\n')
    assert len(PascalVOCAugDataset(data_root=str(root))) == 4
    (lists / 'aug.txt').unlink()
    with pytest.warns(UserWarning, match=r'the pool is the 2 images of train\.txt alone'):
        assert len(PascalVOCAugDataset(data_root=str(root))) == 2
    (lists / 'train.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r'neither trainaug\.txt nor train\.txt'):
        PascalVOCAugDataset(data_root=str(root))


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_camvid_reads_folders_sequences_and_lists(tmp_path, suffix):
    root = make_camvid(tmp_path, suffix=suffix)
    pool = CamVidDataset(data_root=str(root), folders=('train', 'val'), sequences=('0001TP', '0016E5'))
    names = [os.path.relpath(pool.get_data_info(i)['img_path'], root) for i in range(len(pool))]
    expected = [f'train/{s}_{i:05d}{suffix}' for s in ('0001TP', '0016E5') for i in range(4)]
    assert names == expected + [f'val/0016E5_{i:05d}{suffix}' for i in (10, 11, 12)]
    (root / 'list.txt').write_text('val/0016E5_00011\ntrain/0006R0_00000.png\n')
    assert len(CamVidDataset(data_root=str(root), ann_file='list.txt')) == 2
    (root / 'list.txt').write_text('val/0016E5_00099\n')
    with pytest.raises(FileNotFoundError, match=r"line 1: there is no image 'val/0016E5_00099'"):
        CamVidDataset(data_root=str(root), ann_file='list.txt')
    with pytest.raises(FileNotFoundError, match=r'CamVid folder .*test does not exist'):
        CamVidDataset(data_root=str(root), folders='test')


def test_camvid_keeps_frames_from_the_first_to_the_last(tmp_path):
    root = make_camvid(tmp_path, {'train': ['0001TP_006690', '0006R0_f00930', '0006R0_f00960', '0006R0_f00990']})
    kept = CamVidDataset(data_root=str(root), frames={'0006R0': (960, 975)})
    names = [os.path.basename(kept.get_data_info(i)['img_path']) for i in range(len(kept))]
    assert names == ['0001TP_006690.png', '0006R0_f00960.png']


def test_camvid_ignores_void_and_dropped_classes():
    assert CamVidDataset.get_label_map() == {11: 255}
    dataset = CamVidDataset(lazy_init=True, metainfo={'classes': ('road', 'sky')})
    assert dataset.label_map == {i: {3: 0, 0: 1}.get(i, 255) for i in range(12)}
    assert len(dataset.metainfo['palette']) == 2


def test_image_folder_lists_images_of_all_suffixes_in_order(tmp_path):
    root = make_folder(tmp_path, n_unlabeled=5)
    (root / 'unlabeled/notes.txt').write_text('no image')
    folder = ImageFolder(str(root / 'unlabeled'))
    paths = [folder.get_data_info(i)['img_path'] for i in range(len(folder))]
    assert len(paths) == 5 and paths == sorted(paths) and 'seg_map_path' not in folder.get_data_info(0)
    with pytest.raises(FileNotFoundError, match=r'image folder .*nowhere does not exist'):
        ImageFolder(str(root / 'nowhere'))


def test_random_scale_is_relative_to_the_image(monkeypatch):
    results = {'img': np.zeros((40, 50, 3), np.uint8), 'gt_seg_map': np.zeros((40, 50), np.uint8), 'seg_fields': []}
    monkeypatch.setattr(np.random, 'uniform', lambda low, high: high)
    scaled = RandomScale((0.5, 1.5)).transform(results)
    assert scaled['img'].shape == (60, 75, 3) and scaled['gt_seg_map'].shape == scaled['img_shape'] == (60, 75)
    monkeypatch.undo()
    image = {'img': np.zeros((100, 100, 3), np.uint8)}
    sides = [RandomScale().transform(dict(image))['img'].shape[0] for _ in range(200)]
    assert 50 <= min(sides) < 70 and 180 < max(sides) <= 200
    for wrong in ((0, 1), (2, 1)):
        with pytest.raises(ValueError, match='ratio_range'):
            RandomScale(wrong)


def scaled_by(factor: float, image: np.ndarray, mask: np.ndarray | None = None, **kwargs) -> dict:
    """What RandomScale makes of an image at one factor."""
    return RandomScale((factor, factor), **kwargs).transform(dict(img=image, gt_seg_map=mask, seg_fields=[]))


@pytest.mark.parametrize('factor', [0.5, 0.7, 1.0, 1.3, 2.0])
def test_a_scaled_image_is_pils_and_so_is_its_mask(factor):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (60, 77, 3), dtype=np.uint8)
    mask = generator.integers(0, 21, (60, 77), dtype=np.uint8)
    scaled = scaled_by(factor, image, mask)
    size = round(77 * factor), round(60 * factor)
    theirs = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    assert scaled['img'].dtype == np.uint8 and np.abs(scaled['img'].astype(int) - theirs).max() <= 1
    labels = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    assert np.array_equal(scaled['gt_seg_map'], labels)
    assert scaled['scale'] == size and scaled['img_shape'] == size[::-1]


def test_noise_at_half_the_size_is_that_of_pils_resize():
    image = np.random.default_rng(0).normal(128, 30, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    theirs = np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BILINEAR)).std()
    assert abs(scaled_by(0.5, image)['img'].std() / theirs - 1) < 0.01
    assert scaled_by(0.5, image, antialias=False)['img'].std() > 1.3 * theirs


def test_images_of_any_type_and_number_of_channels_are_scaled():
    ramp = np.linspace(0, 30_000, 40)
    for dtype in (np.uint16, np.float32, np.int16):
        image = np.broadcast_to(ramp, (20, 40)).astype(dtype)
        scaled = scaled_by(0.5, image)['img']
        assert scaled.shape == (10, 20) and scaled.dtype == dtype
        inside = image.reshape(20, 20, 2).astype(float).mean(2)[:10]
        assert np.abs(scaled.astype(float) - inside)[:, 1:-1].max() <= 1
    assert scaled_by(1.5, np.zeros((8, 8, 4), np.uint8))['img'].shape == (12, 12, 4)


@pytest.mark.parametrize('path', project_files('configs/_base_/datasets/*.py'), ids=lambda path: path.stem)
def test_every_resize_of_a_config_has_antialiasing(path):
    def resizes(value) -> list[dict]:
        if isinstance(value, dict):
            own = [value] if value.get('type') in ('Resize', 'RandomResize') else []
            return own + [each for item in value.values() for each in resizes(item)]
        return [each for item in value for each in resizes(item)] if isinstance(value, (list, tuple)) else []

    cfg = Config.fromfile(path)._cfg_dict
    # Nearest pixels on purpose have nothing to average.
    assert all(each.get('backend') == 'pillow' or each.get('interpolation') == 'nearest' for each in resizes(cfg))
    assert 'antialias' not in str(cfg)


def make_drives(root):
    """Frames of the drives that may be labeled, unlabeled and evaluated."""
    labeled = [f'0016E5_{frame:05}' for frame in range(390, 1200, 30)]
    unlabeled = ['0001TP_006690', '0006R0_f00930']
    return make_camvid(root, {'train': [*labeled, *unlabeled], 'val': ['0001TP_008010']})


EVERY = {
    '0001TP': (6690, 7590, 7740, 7890, 8520),
    '0006R0': (930, 2130, 2460, 3930),
    '0016E5': (390, 2190, 2220, 6840, 7140, 8640),
}
DAY = dict(
    pool={**EVERY, '0001TP': (6690, 7590)},
    evaluated={'0001TP': (7740, 7890, 8520)},
    candidates={'0016E5': (390, 2190)},
)
HALVES = dict(
    pool={'0001TP': (6690, 7590), '0006R0': (930, 2130), '0016E5': (390, 2190, 2220, 6840)},
    evaluated={'0001TP': (7890, 8520), '0006R0': (2460, 3930), '0016E5': (7140, 8640)},
)
DUSK = dict(
    pool={**EVERY, '0006R0': (930, 2130)},
    evaluated={'0006R0': (2460, 3930)},
    candidates={'0001TP': (6690, 7590, 7740, 7890)},
)


@pytest.mark.parametrize(
    ('name', 'labels', 'expected'),
    [('lite0_camvid', 23, DAY), ('lite0_camvid_halves', 4, HALVES), ('lite0_camvid_dusk', 23, DUSK)],
)
def test_a_protocol_keeps_apart_what_is_trained_on_and_what_is_evaluated(name, labels, expected, tmp_path):
    names = [f'{drive}_{"f" * (drive == "0006R0")}{frame:06}' for drive in EVERY for frame in EVERY[drive]]
    root = make_camvid(tmp_path, {'train': names[:-1], 'val': names[-1:]})
    config = Config.fromfile(CONFIGS.parent / f'{name}.py')
    assert config.test_dataloader == config.val_dataloader and config.train_dataloader.dataset.labeled == labels
    train = config.train_dataloader.dataset
    found = dict(pool=train.dataset, evaluated=config.val_dataloader.dataset, candidates=train.get('candidates'))
    for part, dataset in found.items():
        if part not in expected:
            assert dataset is None
            continue
        cut = expected[part]
        frames = masks_by_id(DATASETS.build({**dataset, 'data_root': str(root)}))
        assert frames.keys() == {n for n in names for drive in cut if n[:6] == drive and int(n[-6:]) in cut[drive]}, (
            part
        )


MAKERS = {
    'voc_blender': make_voc,
    'voc_blender_321': make_voc,
    'voc_blender_321_dmt': make_voc,
    'voc_blender_513': make_voc,
    'voc_classic': make_voc,
    'voc_classic_321': make_voc,
    'voc_classic_513': make_voc,
    'voc_classic_518': make_voc,
    'cityscapes': make_cityscapes,
    'cityscapes_768': make_cityscapes,
    'cityscapes_769': make_cityscapes,
    'cityscapes_798': make_cityscapes,
    'cityscapes_801': make_cityscapes,
    'cityscapes_half': make_cityscapes,
    'ade20k': make_ade20k,
    'coco81': make_coco81,
    'camvid': make_camvid,
    'camvid_drives': make_drives,
    'folder': make_folder,
    # A count draws slices, which may split a patient who has more than one.
    'acdc': lambda root: make_acdc(root, scans=1, slices=1),
    'acdc_unet': lambda root: make_acdc(root, scans=1, slices=1),
}


@pytest.mark.parametrize('path', [*CONFIGS.glob('camvid*.py')], ids=lambda path: path.stem)
def test_scales_of_several_views_are_those_of_the_images_that_are_tested(path, tmp_path):
    config = Config.fromfile(path)
    root = make_drives(tmp_path)
    steps = config.tta_pipeline[1].transforms[0]
    loaded = Compose(list(config.test_dataloader.dataset.pipeline)[:2])(dict(img_path=f'{root}/train/0016E5_00390.png'))
    assert loaded['img_shape'] == config.image_size[::-1]
    for step, factor in zip(steps, (0.75, 1.0, 1.25), strict=True):
        shape = TRANSFORMS.build(step)(dict(loaded))['img_shape']
        assert shape == tuple(round(factor * side) for side in loaded['img_shape'])


def test_every_dataset_config_is_tested():
    assert {path.stem for path in CONFIGS.glob('*.py')} - {'shapes', 'loaders', 'listed'} == set(MAKERS)


@pytest.mark.parametrize('name', MAKERS)
def test_dataset_config_loads_images(tmp_path, name):
    config = resolve(Config.fromfile(CONFIGS / f'{name}.py'))
    root = MAKERS[name](tmp_path / 'data')
    train, val = config.train_dataloader, config.val_dataloader
    assert train.batch_size == train.sampler.labeled + train.sampler.unlabeled
    assert config.test_dataloader == val and config.val_evaluator == config.test_evaluator
    train.dataset.dataset.data_root = val.dataset.data_root = str(root)
    if isinstance(train.dataset.get('candidates'), dict):
        train.dataset.candidates.data_root = str(root)
    for loader in (train, val):
        loader.update(num_workers=0, persistent_workers=False)
    train.batch_size, train.sampler.labeled, train.sampler.unlabeled, train.dataset.labeled = 3, 1, 2, 2
    loader = Runner.build_dataloader(train, seed=0)
    assert loader.dataset.lost == [] and check_evaluation_data(val.dataset, 'val_dataloader')[1] == []
    batch = next(iter(loader))
    assert [sample.stream for sample in batch['data_samples']] == ['labeled', 'unlabeled', 'unlabeled']
    for image in batch['inputs']:
        assert image.shape[1] <= config.crop_size[0] and image.shape[2] <= config.crop_size[1]
    sample = next(iter(Runner.build_dataloader(val, seed=0)))['data_samples'][0]
    assert sample.gt_sem_seg.shape == sample.ori_shape


def test_tool_writes_a_partition_that_is_read_back(tmp_path):
    root = make_cityscapes(tmp_path / 'data', n_train=8)
    out = tmp_path / 'splits'
    command = [sys.executable, 'tools/misc/make_partition.py', 'configs/_base_/datasets/cityscapes.py']
    command += ['--labeled', '1/4', '--seed', '3', '--out-dir', str(out)]
    command += ['--cfg-options', f'data_root={root}']
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert '2 labeled images' in result.stdout and '6 unlabeled images' in result.stdout and 'road' in result.stdout

    config = Config.fromfile(CONFIGS / 'cityscapes.py').train_dataloader.dataset
    config.pop('type')
    config.dataset.data_root = str(root)
    drawn = SemiDataset(**{**config, 'labeled': '1/4', 'seed': 3})
    read = SemiDataset(**{**config, 'labeled': str(out / 'labeled.txt'), 'unlabeled': str(out / 'unlabeled.txt')})
    assert read.labeled_ids == drawn.labeled_ids and read.unlabeled_ids == drawn.unlabeled_ids

    refused = subprocess.run(
        [*command, 'train_dataloader.dataset.labeled=1', '--labeled', '99'],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert (
        refused.returncode == 1 and 'asks for 99 labeled images' in refused.stderr and 'Traceback' not in refused.stderr
    )
