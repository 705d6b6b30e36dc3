"""Faults in the images that are evaluated are told before training."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from mmengine.runner import Runner
from PIL import Image

from mmsemi.datasets import check_evaluation_data
from tests import tiny_run
from tests.data import make_folder

CLASSES = {'classes': ('a', 'b')}
LOADERS = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}]


def folder(root: Path, pipeline=LOADERS, metainfo=CLASSES, **kwargs) -> dict:
    """Config of the validation images of a user's own folder."""
    prefix = {'img_path': 'val/images', 'seg_map_path': 'val/masks'}
    base = dict(type='BaseSegDataset', data_root=str(root), data_prefix=prefix, metainfo=metainfo, pipeline=pipeline)
    return {**base, **kwargs}


def fill(mask: Path, label: int, size: tuple[int, int] = (40, 30)) -> None:
    Image.new('L', size, label).save(mask)


LIST = 'ImageSets/Segmentation/val.txt'


def first(root: Path, folder: str) -> Path:
    """The file in ``folder`` that belongs to the first validation image of PASCAL VOC's layout."""
    (path,) = (root / folder).glob(f'{(root / LIST).read_text().split()[0]}.*')
    return path


def relabel(mask: Path, label: int) -> None:
    fill(mask, label, Image.open(mask).size)


FAULTS = {
    'list missing': (
        lambda root: (root / LIST).unlink(),
        FileNotFoundError,
        r'The list file .*val\.txt does not exist',
    ),
    'root missing': (shutil.rmtree, FileNotFoundError, r'The data root .*validation does not exist'),
    'list empty': (lambda root: (root / LIST).write_text('\n'), ValueError, r'The list file .*val\.txt is empty'),
    'image missing': (
        lambda root: first(root, 'JPEGImages').unlink(),
        FileNotFoundError,
        r'val_dataloader: 1 of 2 images are missing, the first is .*{name}\.jpg',
    ),
    'mask missing': (
        lambda root: first(root, 'SegmentationClass').unlink(),
        FileNotFoundError,
        r'val_dataloader: 1 of 2 masks are missing, the first is .*{name}\.png',
    ),
    'label outside the classes': (
        lambda root: relabel(first(root, 'SegmentationClass'), 77),
        ValueError,
        r'The mask .*{name}\.png holds the label id 77, outside the \d classes',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_fault_in_the_validation_data_is_told_before_training(fault, tmp_path):
    cfg = tiny_run.config('Supervised', tmp_path, tmp_path / 'work')
    root = shutil.copytree(cfg.val_dataloader.dataset.data_root, tmp_path / 'validation')
    cfg.val_dataloader.dataset.data_root = str(root)
    break_data, error, message = FAULTS[fault]
    name = first(root, 'JPEGImages').stem
    break_data(root)
    runner = Runner.from_cfg(cfg)
    with pytest.raises(error, match=message.format(name=name)):
        runner.train()
    assert runner.iter == 0 and not list((tmp_path / 'work').glob('*.pth'))


def test_ids_are_checked_as_the_data_set_maps_them(tmp_path):
    root = make_folder(tmp_path)
    mask = root / 'val/masks/val0.png'
    fill(mask, 2)
    with pytest.raises(ValueError, match=r'val0\.png holds the label id 2, outside the 2 classes'):
        check_evaluation_data(folder(root), 'val_dataloader')
    check_evaluation_data(folder(root, reduce_zero_label=True), 'val_dataloader')

    camvid = folder(root, type='CamVidDataset', data_prefix={'img_path': ''}, metainfo={'classes': ('sky', 'building')})
    for name in ('images', 'masks'):
        (root / 'val' / name).rename(root / {'images': 'val_', 'masks': 'val_annot'}[name])
    mask, camvid['folders'] = root / 'val_annot/val0.png', 'val_'
    for label in (11, 3):  # void, and a class that is not among these
        fill(mask, label)
        check_evaluation_data(camvid, 'val_dataloader')
    fill(mask, 12)
    with pytest.raises(ValueError, match='label id 12'):
        check_evaluation_data(camvid, 'val_dataloader')


@pytest.mark.parametrize(
    'wrap',
    [
        lambda part: [part],
        lambda part: dict(type='ConcatDataset', datasets=[part, part]),
        lambda part: dict(type='mmengine.RepeatDataset', times=2, dataset=part),
        lambda part: dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=part)]),
    ],
)
def test_wrapped_data_sets_are_checked(wrap, tmp_path):
    root = make_folder(tmp_path)
    check_evaluation_data(wrap(folder(root)), 'val_dataloader')
    (root / 'val/masks/val1.png').unlink()
    with pytest.raises(FileNotFoundError, match='val_dataloader: 1 of 2 masks'):
        check_evaluation_data(wrap(folder(root)), 'val_dataloader')


def test_mask_of_another_size_than_its_image_is_named(tmp_path):
    root = make_folder(tmp_path)
    fill(root / 'val/masks/val0.png', 0, (41, 30))
    with pytest.raises(ValueError, match=re.escape('val0.png has 41 x 30 pixels')):
        check_evaluation_data(folder(root), 'val_dataloader')


def test_masks_are_needed_only_where_the_pipeline_loads_them(tmp_path):
    root = make_folder(tmp_path)
    shutil.rmtree(root / 'val/masks')
    check_evaluation_data(folder(root, pipeline=LOADERS[:1]), 'test_dataloader')
    several = [LOADERS[0], dict(type='TestTimeAug', transforms=[[dict(type='RandomFlip', prob=1.0)], [LOADERS[1]]])]
    for pipeline in (LOADERS, several):
        with pytest.raises(FileNotFoundError, match='test_dataloader: 2 of 2 masks'):
            check_evaluation_data(folder(root, pipeline=pipeline), 'test_dataloader')

    images = dict(type='ImageFolder', data_root=str(root / 'val/images'), metainfo=CLASSES)
    check_evaluation_data({**images, 'pipeline': [LOADERS[0], {'type': 'LoadSegAnnotations'}]}, 'test_dataloader')
    with pytest.raises(ValueError, match=r'test_dataloader: .*val0\.jpg has no mask'):
        check_evaluation_data({**images, 'pipeline': LOADERS}, 'test_dataloader')


def test_the_check_can_be_turned_off_and_leaves_foreign_data_sets_alone(tmp_path):
    cfg = tiny_run.config('Supervised', tmp_path, tmp_path / 'work')
    relabel(first(Path(cfg.val_dataloader.dataset.data_root), 'SegmentationClass'), 77)
    cfg.val_cfg.check_files = False
    Runner.from_cfg(cfg).build_val_loop(cfg.val_cfg)
    check_evaluation_data(dict(type='SemiDataset', dataset=folder(tmp_path / 'nowhere'), labeled=1), 'val_dataloader')
