"""What files say of a data set: images that are both trained on and judged."""

import pytest
from mmseg.datasets import BaseSegDataset

from mmsemi.datasets import CamVidDataset, contents
from tests.data import make_camvid


def write(path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_images_that_are_trained_on_and_judged_are_found_by_path_also_behind_a_linked_folder(tmp_path, monkeypatch):
    train = [write(tmp_path / 'train' / f'{i}.png', f'{i}') for i in range(6)]
    (tmp_path / 'link').symlink_to(tmp_path / 'train', target_is_directory=True)
    judged = [write(tmp_path / 'val/x.png', 'x'), str(tmp_path / 'link/3.png')]
    parts = {'labeled': train[:2], 'unlabeled': train[2:], 'validation': judged}
    [told] = contents.leaks(parts)
    assert told.startswith(f'1 of 2 validation images are unlabeled images of training, too (first: {train[3]})')

    # Of many files, links of folders are followed once a folder, and no file is asked for.
    monkeypatch.setattr(contents, '_MOST_COMPARED', 3)
    asked, realpath = [], contents.os.path.realpath
    monkeypatch.setattr(contents.os.path, 'realpath', lambda path: asked.append(path) or realpath(path))
    assert contents.leaks(parts) == [told]
    assert sorted(asked) == sorted(str(tmp_path / name) for name in ('link', 'train', 'val'))


def test_copies_under_another_name_are_found_where_files_are_few_or_all_are_asked_for(tmp_path, monkeypatch):
    parts = {
        'labeled': [write(tmp_path / 'train/a.png', 'same')],
        'unlabeled': [write(tmp_path / 'train/b.png', 'other')],
        'validation': [write(tmp_path / 'val/c.png', 'same')],
    }
    [told] = contents.leaks(parts)
    assert told.startswith('1 validation images have the content of labeled images of training')
    monkeypatch.setattr(contents, '_MOST_COMPARED', 2)
    assert contents.leaks(parts) == []
    assert contents.leaks(parts, thorough=True) == [told]


BOTH = ['a.jpg', 'b.jpg'], ['a.png', 'b.png']
"""Two images and their masks."""
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
    'a folder that has all images is no split': (
        'images', 'masks', ['masks/c.png', *(f'all/{stem}.jpg' for stem in 'abcdefghijk')], '1 masks of',
    ),
}  # fmt: skip


def folders(root, images: str, masks: str, further: list[str] = (), **suffixes) -> BaseSegDataset:
    for path in [*(f'{images}/{name}' for name in BOTH[0]), *(f'{masks}/{name}' for name in BOTH[1]), *further]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text('')
    prefix = dict(img_path=images, seg_map_path=masks)
    return BaseSegDataset(data_root=str(root), data_prefix=prefix, metainfo=dict(classes=('a',)), **suffixes)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_files_are_lost_to_suffixes_and_not_because_of_where_masks_lie(layout, tmp_path):
    images, masks, further, expected = LAYOUTS[layout]
    told = contents.lost_files(folders(tmp_path, images, masks, further))
    assert [sentence[: len(expected)] for sentence in told] == ([expected] if expected else [])


def test_masks_behind_a_link_in_the_folder_of_the_images_are_no_images(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'images/masks').symlink_to(tmp_path / 'elsewhere', target_is_directory=True)
    assert contents.lost_files(folders(tmp_path, 'images', 'elsewhere')) == []


def test_masks_of_another_kind_beside_those_that_are_used_are_not_lost(tmp_path):
    """As in Cityscapes, which has colors, ids and instances of each image."""
    further = [f'masks/{stem}_{kind}.png' for stem in 'ab' for kind in ('ids', 'color', 'instances')]
    dataset = folders(tmp_path, 'images', 'masks', further, seg_map_suffix='_ids.png')
    assert contents.lost_files(dataset) == []
    none_fits = folders(tmp_path, 'images', 'masks', seg_map_suffix='_labels.png')
    assert [sentence[:2] for sentence in contents.lost_files(none_fits)] == ['6 ']


def test_a_folder_that_may_not_be_listed_is_no_split(tmp_path, monkeypatch):
    dataset = folders(tmp_path, 'train', 'masks', ['masks/c.png'])
    (tmp_path / 'round').symlink_to(tmp_path / 'round')
    assert contents.lost_files(dataset)[0].startswith('1 masks of')

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(contents.os, 'listdir', refuse)
    assert contents.lost_files(dataset)[0].startswith('1 masks of')


def test_nothing_is_said_of_a_dataset_that_finds_its_files_itself(tmp_path):
    """CamVid's root holds its masks, which are no images that were left out."""
    dataset = CamVidDataset(data_root=str(make_camvid(tmp_path, suffix='.jpg')))
    assert contents.lost_files(dataset) == []
