"""Folders of images and masks are looked at as they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsemi.datasets.classes import Classes, read_classes, recognise_classes
from mmsemi.datasets.files import find_images, pair
from mmsemi.datasets.inspect import Picture, class_table, duplicates, look_at, look_at_image


def save(path, array, **kwargs) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **kwargs)
    return str(path)


def image(path, size=(20, 16), seed=0) -> str:
    return save(path, np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def labeled(counts, colored=False) -> Picture:
    return Picture('x.jpg', (4, 4), 3, 8, 'x.png', counts, colored)


# Files


def test_images_are_found_whatever_their_suffix_and_links_that_form_a_circle_are_followed_once(tmp_path):
    for name in ('a.jpg', 'b.JPG', 'c.jpeg', 'd.png', 'e.TIFF', 'f.bmp', 'g.webp', 'ä b.png', '图.png'):
        image(tmp_path / 'in' / 'sub' / name)
    (tmp_path / 'in' / 'notes.txt').write_text('x')
    os.symlink(tmp_path / 'in', tmp_path / 'in' / 'sub' / 'again')
    assert len(find_images(str(tmp_path / 'in'))) == 9


def test_masks_are_paired_by_name_whatever_the_suffix(tmp_path):
    for name in ('a.jpg', 'sub/b.JPG', 'c.tif', 'alone.png'):
        image(tmp_path / 'images' / name)
    for name in ('a.png', 'sub/b.png', 'c.bmp', 'orphan.png'):
        save(tmp_path / 'masks' / name, np.zeros((16, 20), np.uint8))
    pairs, without, left_out = pair(str(tmp_path / 'images'), str(tmp_path / 'masks'))
    names = [(os.path.basename(i), os.path.basename(m)) for i, m in pairs]
    assert names == [('a.jpg', 'a.png'), ('c.tif', 'c.bmp'), ('b.JPG', 'b.png')]
    assert [os.path.basename(path) for path in without] == ['alone.png']
    assert [(os.path.basename(item.path), item.reason) for item in left_out] == [
        ('orphan.png', 'no image has its name')
    ]


@pytest.mark.parametrize(('of_image', 'of_mask'), [('{}', '{}_mask'), ('{}_leftImg8bit', '{}')])
def test_one_ending_that_all_share_is_looked_through(of_image, of_mask, tmp_path):
    for stem in ('x_1', 'x_2', 'y'):
        image(tmp_path / 'images' / f'{of_image.format(stem)}.jpg')
        save(tmp_path / 'masks' / f'{of_mask.format(stem)}.png', np.zeros((16, 20), np.uint8))
    pairs, without, left_out = pair(str(tmp_path / 'images'), str(tmp_path / 'masks'))
    assert len(pairs) == 3 and not without and not left_out


def test_names_that_fit_nothing_are_told(tmp_path):
    image(tmp_path / 'images' / 'a.jpg')
    save(tmp_path / 'masks' / 'q.png', np.zeros((16, 20), np.uint8))
    with pytest.raises(ValueError, match=r'No mask in .* the first image is a, the first mask q; rename'):
        pair(str(tmp_path / 'images'), str(tmp_path / 'masks'))


# Images


def test_what_cannot_be_trained_on_is_left_out_with_the_reason(tmp_path):
    whole = image(tmp_path / 'whole.jpg', (64, 64))
    (tmp_path / 'empty.jpg').write_bytes(b'')
    content = Path(whole).read_bytes()
    (tmp_path / 'half.jpg').write_bytes(content[: len(content) // 2])
    (tmp_path / 'text.png').write_text('no image')
    image(tmp_path / 'dot.png', (1, 1))
    reasons = {name: look_at_image(str(tmp_path / name)) for name in ('empty.jpg', 'half.jpg', 'text.png', 'dot.png')}
    assert [item.reason for item in reasons.values()] == [
        'is empty',
        'is cut off: its end is missing',
        'cannot be read as an image',
        'has 1 x 1 pixels, fewer than 8 to a side',
    ]
    assert look_at_image(whole) == Picture(whole, (64, 64), 3, 8)


@pytest.mark.parametrize(
    ('array', 'channels', 'bits'),
    [
        (np.zeros((16, 20), np.uint8), 1, 8),
        (np.zeros((16, 20, 4), np.uint8), 4, 8),
        (np.zeros((16, 20), np.uint16), 1, 16),
        (np.zeros((16, 20), bool), 1, 1),
    ],
)
def test_channels_and_bits_are_told(array, channels, bits, tmp_path):
    found = look_at_image(save(tmp_path / 'x.png', array))
    assert (found.channels, found.bits, found.size) == (channels, bits, (20, 16))


def test_an_image_that_exif_turns_has_the_size_it_is_read_with(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / 'x.jpg', np.zeros((16, 20, 3), np.uint8), exif=exif)
    assert look_at_image(path).size == (16, 20)


def test_masks_of_another_size_are_left_out(tmp_path):
    path, mask = image(tmp_path / 'x.jpg'), save(tmp_path / 'x.png', np.zeros((16, 21), np.uint8))
    pictures, left_out = look_at([(path, mask)])
    assert not pictures and left_out[0].reason == 'has 21 x 16 pixels, but its image 20 x 16'


def test_files_of_one_content_are_found_across_parts(tmp_path):
    first, other = image(tmp_path / 'a.png'), image(tmp_path / 'b.png', seed=1)
    again = shutil.copy(first, tmp_path / 'c.png')
    assert duplicates({'labeled': [first, other], 'unlabeled': [again]}) == [(first, str(again))]


# Classes


def test_masks_of_0_and_255_are_two_classes(tmp_path):
    found = recognise_classes([labeled({0: 9, 255: 7})])
    assert found.names == ['background', 'foreground'] and found.label_map == {0: 0, 255: 1}
    assert found.count({0: 9, 255: 7}).tolist() == [9, 7, 0]
    assert 'not as void' in found.notes[0]


def test_255_beside_more_classes_is_void():
    found = recognise_classes([labeled({0: 9, 1: 3, 255: 7})])
    assert found.label_map is None and found.count({0: 9, 1: 3, 255: 7}).tolist() == [9, 3, 7]


def test_ids_with_gaps_become_classes_in_their_order():
    found = recognise_classes([labeled({7: 4, 11: 4, 1000: 1, 255: 2})])
    assert found.names == ['class 7', 'class 11', 'class 1000'] and found.label_map == {7: 0, 11: 1, 1000: 2}
    assert found.count({7: 4, 1000: 1, 255: 2}).tolist() == [4, 0, 1, 2]


def test_a_class_called_void_is_ignored_and_the_others_move_up():
    found = recognise_classes([labeled({0: 1, 1: 2, 2: 3})], ['road', 'void', 'sky'])
    assert found.names == ['road', 'sky'] and found.count({0: 1, 1: 2, 2: 3}).tolist() == [1, 3, 2]


def test_named_classes_that_do_not_fit_the_ids_are_refused():
    with pytest.raises(ValueError, match=r'ids 0, 1, 5, and --classes names 2: x.png has 5'):
        recognise_classes([labeled({0: 1, 1: 1, 5: 1})], ['a', 'b'])


def test_masks_with_one_class_or_with_void_alone_are_refused():
    with pytest.raises(ValueError, match='there is one class'):
        recognise_classes([labeled({0: 16})])
    with pytest.raises(ValueError, match='All pixels of all masks are 255'):
        recognise_classes([labeled({255: 16})])


def test_colors_are_classes_by_a_table_and_others_are_ignored():
    road, border = 0x804080, 0xE0E0C0
    pictures = [labeled({0: 5, road: 3, border: 2}, colored=True)]
    found = recognise_classes(pictures, ['sky', 'road'], [[0, 0, 0], [128, 64, 128]])
    assert found.colored and found.count(pictures[0].counts).tolist() == [5, 3, 2]
    assert found.notes == ['20.0% of the pixels have a color of no class and are ignored']
    assert recognise_classes(pictures).names == ['#000000', '#804080', '#e0e0c0']


def test_masks_with_smoothed_colors_are_refused():
    with pytest.raises(ValueError, match='saved as JPEG or with smoothed edges'):
        recognise_classes([labeled(dict.fromkeys(range(300), 1), colored=True)])


def test_classes_come_from_a_line_or_a_file(tmp_path):
    assert read_classes('road, sky') == (['road', 'sky'], None)
    file = tmp_path / 'classes.txt'
    file.write_text('# id by line\nroad surface 128 64 128\nsky,70,130,180\n')
    assert read_classes(str(file)) == (['road surface', 'sky'], [[128, 64, 128], [70, 130, 180]])
    with pytest.raises(ValueError, match='is there twice'):
        read_classes('a,b,a')
    with pytest.raises(FileNotFoundError, match=r'classes\.csv does not exist'):
        read_classes('classes.csv')


def test_the_table_of_classes_counts_pixels_and_images():
    classes = Classes(['a', 'b'], [[0, 0, 0], [1, 1, 1]])
    parts = {'labeled': [labeled({0: 6, 1: 2}), labeled({0: 7, 255: 1})], 'validation': []}
    rows, void = class_table(classes, parts)
    assert rows[1]['labeled'] == {'pixels': 2, 'images': 1} and rows[1]['validation'] == {'pixels': 0, 'images': 0}
    assert void == {'labeled': 1 / 16, 'validation': 0.0}
