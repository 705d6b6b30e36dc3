"""Partitions: their sizes, their draw, and the list files."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mmsemi.datasets.partition import draw_partition, labeled_count, read_list, write_list


@pytest.mark.parametrize(
    ('labeled', 'total', 'count'),
    [
        ('1/16', 10582, 662),
        ('1/8', 10582, 1323),
        ('1/4', 10582, 2646),
        ('1/2', 10582, 5291),
        ('1/16', 1464, 92),
        ('1/8', 1464, 183),
        ('1/1', 1464, 1464),
        ('1/30', 2975, 100),
        ('1/16', 2975, 186),
        ('1/8', 2975, 372),
        ('1/4', 2975, 744),
        ('1/2', 2975, 1488),
        (0.125, 10582, 1323),
        (0.1, 10, 1),
        (2 / 3, 9, 6),
        (1.0, 7, 7),
        (92, 1464, 92),
        ('92', 1464, 92),
        ('0.125', 2975, 372),
    ],
)
def test_amounts_give_the_published_counts(labeled, total, count):
    assert labeled_count(labeled, total) == count


@pytest.mark.parametrize('labeled', [0, -3, '0', '0/8', '9/8', '1/0', 1.5, -0.5, 0.0, float('nan'), True, None])
def test_amounts_that_make_no_sense_are_refused(labeled):
    with pytest.raises(ValueError, match='labeled='):
        labeled_count(labeled, 100)


def test_more_labeled_than_there_are_names_both_numbers():
    with pytest.raises(ValueError, match='asks for 12 labeled images, but there are only 10'):
        labeled_count(12, 10)


def test_draw_depends_on_its_seed_alone_and_leaves_global_state():
    random.seed(1)
    np.random.seed(1)
    state = np.random.get_state()[1].copy(), random.getstate()
    first = draw_partition(100, 10, seed=3)
    assert (np.random.get_state()[1] == state[0]).all() and random.getstate() == state[1]
    np.random.seed(99)
    assert draw_partition(100, 10, seed=3) == first
    assert draw_partition(100, 10, seed=4) != first
    assert len(set(first)) == 10 and first == sorted(first)


def test_smaller_partition_is_part_of_the_larger_one():
    assert set(draw_partition(100, 10, seed=3)) < set(draw_partition(100, 20, seed=3))


def test_draw_covers_every_class_where_a_plain_draw_does_not():
    classes = [{0}] * 300
    classes[7], classes[250] = {0, 1}, {2}

    def classes_of(numbers):
        return [classes[i] for i in numbers]

    assert not {7, 250} <= set(draw_partition(300, 5, seed=0))
    drawn = draw_partition(300, 5, 0, classes_of, ['a', 'b', 'c'])
    assert {7, 250} <= set(drawn) and len(drawn) == 5
    assert drawn == draw_partition(300, 5, 0, classes_of, ['a', 'b', 'c'])


def test_class_that_no_candidate_shows_is_named():
    with pytest.raises(ValueError, match=r'none of the 20 candidates has the classes bird, cat;'):
        draw_partition(20, 5, 0, lambda numbers: [{0} for _ in numbers], ['sky', 'bird', 'cat'])


def test_classes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r'takes 3 images, and labeled=2 leaves out (a|b|c);'):
        draw_partition(3, 2, 0, lambda numbers: [{i} for i in numbers], ['a', 'b', 'c'])


def test_both_list_formats_are_read(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_bytes(
        b'\xef\xbb\xbf2007_000032\r\n\r\n  train/0001TP_006690 \r\nJPEGImages/x.jpg SegmentationClass/x.png\n'
        b'a b/my image.JPG\ta b/my mask.png\nmy image.jpg\n'
    )
    entries = [(e.line, e.image, e.mask) for e in read_list(path)]
    assert entries == [
        (1, '2007_000032', None),
        (3, 'train/0001TP_006690', None),
        (4, 'JPEGImages/x.jpg', 'SegmentationClass/x.png'),
        (5, 'a b/my image.JPG', 'a b/my mask.png'),
        (6, 'my image.jpg', None),
    ]


def test_written_list_is_read_back(tmp_path):
    path = tmp_path / 'new' / 'list.txt'
    write_list(path, ['a/b', 'c'])
    assert [e.image for e in read_list(path)] == ['a/b', 'c']


def test_missing_empty_and_binary_lists_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nothing\.txt does not exist'):
        read_list(tmp_path / 'nothing.txt')
    (tmp_path / 'empty.txt').write_text('\n \n')
    with pytest.raises(ValueError, match=r'empty\.txt is empty'):
        read_list(tmp_path / 'empty.txt')
    (tmp_path / 'image.txt').write_bytes(b'\x89PNG\xff\xfe\x00')
    with pytest.raises(ValueError, match=r'image\.txt is not a text file'):
        read_list(tmp_path / 'image.txt')
