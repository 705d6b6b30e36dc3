"""Many images in few arrays: the same dicts come out."""

from __future__ import annotations

import pickle

from mmsemi.datasets import SemiDataset
from mmsemi.datasets.files import missing_files
from mmsemi.datasets.image_table import ImageTable, StringList


def test_strings_come_back_whatever_their_letters():
    strings = ['a b.jpg', 'ä/图.png', '', 'no text \udcff']
    held = StringList(strings)
    assert list(held) == strings and held[-1] == strings[-1] and held[1:3] == strings[1:3] and len(held) == 4


def test_items_are_the_dicts_that_went_in_and_each_is_its_own():
    infos = [
        {'img_path': f'{i}.jpg', 'seg_map_path': f'{i}.png', 'label_map': {0: 1}, 'seg_fields': []} for i in range(3)
    ]
    table = ImageTable.of(infos)
    assert list(table) == infos
    table[0]['seg_fields'].append('x')
    assert table[0]['seg_fields'] == [] and table.without('seg_map_path')[1] == {
        'img_path': '1.jpg',
        'label_map': {0: 1},
        'seg_fields': [],
    }


def test_an_image_without_a_mask_has_no_such_key():
    table = ImageTable.of([{'img_path': 'a', 'seg_map_path': 'b'}, {'img_path': 'c'}])
    assert table[0]['seg_map_path'] == 'b' and 'seg_map_path' not in table[1]


def test_a_folder_of_unlabeled_images_takes_a_few_bytes_beside_their_names(tmp_path):
    labeled, unlabeled = tmp_path / 'labeled', tmp_path / 'unlabeled'
    for folder, count in ((labeled, 1), (unlabeled, 2000)):
        folder.mkdir()
        for number in range(count):
            (folder / f'{number:06d}.jpg').touch()
    pool = dict(type='ImageFolder', data_root=str(labeled), metainfo=dict(classes=('a', 'b')))
    data = SemiDataset(pool, labeled=1, unlabeled=str(unlabeled), check_files=False)
    data.full_init()
    assert data.num_unlabeled == 2000 and data.get_data_info(2000)['img_path'].endswith('001999.jpg')
    names = sum(len(data.get_data_info(index)['img_path']) for index in range(1, 2001))
    assert len(pickle.dumps(data._unlabeled)) < names + 2000 * 8 + 2000


def test_missing_files_are_found_one_by_one_and_by_listing(tmp_path):
    for number in range(100):
        (tmp_path / f'{number}.jpg').touch()
    many = [str(tmp_path / f'{number}.jpg') for number in range(101)]
    few = [str(tmp_path / 'x' / 'y.jpg'), many[0]]
    assert missing_files(many) == [many[100]] and missing_files(few) == [few[0]]
