"""Which files are said to be left out, for every way in which images and masks may lie."""

import os

import pytest
from mmseg.datasets import BaseSegDataset

from mmsemi.datasets import CamVidDataset
from mmsemi.datasets.files import walk
from mmsemi.datasets.lost_files import lost_files
from tests.data import make_camvid

LAYOUTS = {
    'two folders': ('images', 'masks', [], None),
    'a slash at the end': ('images/', 'masks/', [], None),
    'one folder for both': ('x', 'x', [], None),
    'one folder for both, an image left out': ('x', 'x', ['x/c.JPG'], '1 images of'),
    'one folder for both, a mask of no image': ('x', 'x', ['x/c.png'], '1 masks of'),
    'masks within the images': ('images', 'images/masks', [], None),
    'masks within the images, an image left out': ('images', 'images/masks', ['images/c.JPG'], '1 images of'),
    'masks within the images, a mask of no image': ('images', 'images/masks', ['images/masks/c.png'], '1 masks of'),
    'images within the masks': ('masks/images', 'masks', [], None),
    'images within the masks, an image left out': ('masks/images', 'masks', ['masks/images/c.png'], '1 images of'),
    'images within the masks, a mask of no image': ('masks/images', 'masks', ['masks/c.png'], '1 masks of'),
    'names that begin alike': ('images', 'images_masks', ['images_masks/c.png'], '1 masks of'),
    'an image of another suffix': ('images', 'masks', ['images/c.JPG'], '1 images of'),
    'a mask of no image': ('images', 'masks', ['masks/c.png'], '1 masks of'),
    'masks of two splits': ('train', 'masks', ['val/c.jpg', 'masks/c.png'], None),
    'masks of splits of images': ('train/images', 'masks', ['val/images/c.jpg', 'masks/c.png'], None),
    'splits of unlike size': (
        'train',
        'masks',
        ['val/v.jpg', 'masks/v.png', *(f'test/{i}.jpg' for i in range(300)), *(f'masks/{i}.png' for i in range(300))],
        None,
    ),
    'a split, one of whose images has no mask': (
        'train',
        'masks',
        ['val/bare.jpg', *(f'val/{i}.jpg' for i in range(20)), *(f'masks/{i}.png' for i in range(20))],
        None,
    ),
    'a mask of a split and one of none': ('train', 'masks', ['val/c.jpg', 'masks/c.png', 'masks/d.png'], '1 masks of'),
    'splits, a slash at the end': ('train/', 'masks/', ['val/c.jpg', 'masks/c.png'], None),
    'splits whose names begin alike': ('train', 'm', ['mval/c.jpg', 'm/c.png'], None),
    'a folder that has all images is no split': (
        'images', 'masks', [*(f'masks/{stem}.png' for stem in 'cd'), *(f'all/{stem}.jpg' for stem in 'abcd')],
        '2 masks of',
    ),
    'nor one of which a part is known': (
        'train', 'masks',
        [f'{where}/1/{i}{suffix}' for i in range(70) for where, suffix in (('masks', '.png'), ('other', '.jpg'))]
        + [f'other/2/{i}.jpg' for i in range(70)],
        '70 masks of',
    ),
}  # fmt: skip


def folders(root, images: str, masks: str, further: list[str] = (), ends: tuple[str, str] = ('.jpg', '.png')):
    """A data set of these folders, and of these files beside two images and their masks."""
    both = [f'{folder}/{stem}{end}' for folder, end in zip((images, masks), ends, strict=True) for stem in 'ab']
    for path in map(root.joinpath, [*both, *further]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('')
    return BaseSegDataset(
        data_root=str(root),
        data_prefix=dict(img_path=images, seg_map_path=masks),
        metainfo=dict(classes=('a',)),
        img_suffix=ends[0],
        seg_map_suffix=ends[1],
    )


@pytest.mark.parametrize('layout', LAYOUTS)
def test_files_are_lost_to_suffixes_and_not_because_of_where_masks_lie(layout, tmp_path):
    images, masks, further, expected = LAYOUTS[layout]
    told = lost_files(folders(tmp_path, images, masks, further))
    assert [sentence[: len(expected)] for sentence in told] == ([expected] if expected else [])


def test_masks_behind_a_link_in_the_folder_of_the_images_are_no_images(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'images/masks').symlink_to(tmp_path / 'elsewhere', target_is_directory=True)
    assert lost_files(folders(tmp_path, 'images', 'elsewhere')) == []


def test_masks_of_another_kind_beside_those_that_are_used_are_not_lost(tmp_path):
    """As in Cityscapes, which has colors, ids and instances of each image."""
    further = [f'masks/{stem}_{kind}.png' for stem in 'ab' for kind in ('color', 'instances')]
    assert lost_files(folders(tmp_path, 'images', 'masks', further, ends=('.jpg', '_ids.png'))) == []
    for mask in (tmp_path / 'masks').glob('*_ids.png'):
        mask.rename(mask.with_name(mask.name.replace('_ids', '_labels')))
    wrong = BaseSegDataset(
        data_root=str(tmp_path), data_prefix=dict(img_path='images', seg_map_path='masks'),
        metainfo=dict(classes=('a',)), img_suffix='.jpg', seg_map_suffix='_ids.png',
    )  # fmt: skip
    assert [sentence[:2] for sentence in lost_files(wrong)] == ['6 '], 'none is of this kind'


def test_suffixes_that_end_alike_tell_images_and_masks_apart(tmp_path):
    assert lost_files(folders(tmp_path / 'x', 'both', 'both', ends=('_rgb.png', '.png'))) == []
    lost = [f'masks/{i}.png' for i in range(30)]
    [told] = lost_files(folders(tmp_path / 'y', 'images', 'masks', lost, ends=('.png', '.png')))
    assert told.startswith('30 masks of'), 'the masks are no images of another split'


def test_folders_may_be_relative(tmp_path, monkeypatch):
    folders(tmp_path, 'train', 'masks', ['val/c.jpg', 'masks/c.png'])
    monkeypatch.chdir(tmp_path)
    prefix = dict(img_path='train', seg_map_path='masks')
    assert lost_files(BaseSegDataset(data_prefix=prefix, metainfo=dict(classes=('a',)))) == []


def test_a_folder_of_other_images_is_not_listed_to_its_end(tmp_path, monkeypatch):
    further = [f'unlabeled/{part}/{i}.jpg' for part in (1, 2) for i in range(70)]
    dataset = folders(tmp_path, 'images', 'masks', [*further, 'masks/c.png'])
    listed = []

    def watched(folder: str):
        for parent, names in walk(folder):
            listed.append(parent)
            yield parent, names

    monkeypatch.setattr('mmsemi.datasets.lost_files.walk', watched)
    assert lost_files(dataset)[0].startswith('1 masks of')
    assert str(tmp_path / 'unlabeled/1') in listed and str(tmp_path / 'unlabeled/2') not in listed


def test_a_folder_that_may_not_be_listed_is_no_split(tmp_path, monkeypatch):
    dataset = folders(tmp_path, 'train', 'masks', ['masks/c.png'])
    (tmp_path / 'round').symlink_to(tmp_path / 'round')
    assert lost_files(dataset)[0].startswith('1 masks of')

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(os, 'listdir', refuse)
    assert lost_files(dataset)[0].startswith('1 masks of')


def test_nothing_is_said_of_a_dataset_that_finds_its_files_itself(tmp_path):
    """CamVid's root holds its masks, which are no images that were left out."""
    dataset = CamVidDataset(data_root=str(make_camvid(tmp_path, suffix='.jpg')))
    assert lost_files(dataset) == []
