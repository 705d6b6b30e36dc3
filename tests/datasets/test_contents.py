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


LAYOUTS = {
    'two folders': ('images', 'masks', []),
    'one folder for both': ('both', 'both', []),
    'masks within the images': ('images', 'images/masks', []),
    'images within the masks': ('masks/images', 'masks', []),
    'masks of several splits': ('train', 'masks', []),
    'an image of another suffix': ('images', 'masks', ['1 images of']),
    'a mask of no image': ('images', 'masks', ['1 masks of']),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_files_are_lost_to_suffixes_and_not_because_of_where_masks_lie(layout, tmp_path):
    images, masks, expected = LAYOUTS[layout]
    (tmp_path / images).mkdir(parents=True)
    (tmp_path / masks).mkdir(exist_ok=True, parents=True)
    for stem in 'ab':
        write(tmp_path / images / f'{stem}.jpg', '')
        write(tmp_path / masks / f'{stem}.png', '')
    if layout == 'masks of several splits':
        write(tmp_path / 'val/c.jpg', '')
        write(tmp_path / 'masks/c.png', '')
    if expected:
        write(tmp_path / ('images/c.JPG' if layout.startswith('an image') else 'masks/c.png'), '')
    dataset = BaseSegDataset(
        data_root=str(tmp_path), data_prefix=dict(img_path=images, seg_map_path=masks), metainfo=dict(classes=('a',))
    )
    told = contents.lost_files(dataset)
    assert [sentence[: len(start)] for sentence, start in zip(told, expected, strict=True)] == expected


def test_nothing_is_said_of_a_dataset_that_finds_its_files_itself(tmp_path):
    """CamVid's root holds its masks, which are no images that were left out."""
    dataset = CamVidDataset(data_root=str(make_camvid(tmp_path, suffix='.jpg')))
    assert contents.lost_files(dataset) == []
