"""SemiDataset: which images are labeled, what bad input says, and how images are loaded."""

from __future__ import annotations

import os
import random
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from mmsemi.datasets import SemiDataset
from mmsemi.registry import TRANSFORMS
from tests.data import make_camvid, make_cityscapes, make_folder, make_voc

PIPELINE = [
    {'type': 'LoadImageFromFile'},
    {'type': 'LoadSegAnnotations'},
    {'type': 'RandomScale', 'ratio_range': (0.5, 2.0)},
    {'type': 'RandomCrop', 'crop_size': (24, 24)},
    {'type': 'RandomFlip', 'prob': 0.5},
    {'type': 'PackSegInputs'},
]


def voc(root, **kwargs) -> SemiDataset:
    config = {'labeled': 4, 'pipeline': PIPELINE, 'dataset': {'type': 'PascalVOCAugDataset', 'data_root': str(root)}}
    return SemiDataset(**{**config, **kwargs})


def cityscapes(root, **kwargs) -> SemiDataset:
    dataset = {
        'type': 'CityscapesDataset',
        'data_root': str(root),
        'data_prefix': {'img_path': 'leftImg8bit/train', 'seg_map_path': 'gtFine/train'},
    }
    return SemiDataset(dataset, **{'labeled': 2, 'pipeline': PIPELINE, **kwargs})


@pytest.fixture
def voc_root(tmp_path):
    return make_voc(tmp_path / 'VOC2012', n_train=6, n_aug=4)


def write(path, *lines):
    path.write_text(''.join(f'{line}\n' for line in lines))
    return str(path)


# ---------------------------------------------------------------------------------------------- which images are which


def test_labeled_come_first_and_the_rest_is_unlabeled(voc_root):
    data = voc(voc_root, labeled='1/4')
    assert (data.num_labeled, data.num_unlabeled, len(data)) == (3, 7, 10)
    assert set(data.labeled_ids) | set(data.unlabeled_ids) == {f'2007_{i:06d}' for i in range(10)}
    assert [data[i]['data_samples'].stream for i in range(10)] == ['labeled'] * 3 + ['unlabeled'] * 7
    assert data.metainfo['classes'][1] == 'aeroplane'


def test_draw_does_not_depend_on_the_order_of_files(voc_root, tmp_path):
    first = voc(voc_root, seed=5).labeled_ids
    lists = voc_root / 'ImageSets/Segmentation'
    ids = (lists / 'trainaug.txt').read_text().split()
    write(lists / 'trainaug.txt', *reversed(ids))
    candidates = write(tmp_path / 'candidates.txt', *reversed(ids))
    assert voc(voc_root, seed=5).labeled_ids == first
    assert voc(voc_root, seed=5, candidates=candidates).labeled_ids == first
    assert voc(voc_root, seed=6).labeled_ids != first


def test_fraction_counts_from_the_candidates(voc_root):
    data = voc(voc_root, labeled='1/2', candidates='ImageSets/Segmentation/train.txt')
    assert data.num_labeled == 3 and data.num_unlabeled == 7
    assert set(data.labeled_ids) <= {f'2007_{i:06d}' for i in range(6)}


def test_candidates_may_be_a_data_set_whose_images_are_some_of_the_others(tmp_path):
    root = make_camvid(tmp_path)
    drives = dict(type='CamVidDataset', data_root=str(root), folders=('train', 'val'))
    one = dict(drives, sequences=('0016E5',))
    data = SemiDataset(drives, labeled=5, candidates=one, pipeline=[])
    data.full_init()
    assert data.num_unlabeled == 10 and all('0016E5' in name for name in data.labeled_ids)
    outside = SemiDataset(dict(drives, sequences=('0001TP',)), labeled=1, candidates=one, pipeline=[])
    with pytest.raises(ValueError, match=r'candidates: .*0016E5_00000.png is no image of dataset'):
        outside.full_init()


def test_list_files_of_both_formats_name_the_same_images(voc_root, tmp_path, monkeypatch):
    write(tmp_path / 'ids.txt', '2007_000003', '2007_000007')
    pairs = ['2007_000003.png', '2007_000007.png']
    write(voc_root / 'pairs.txt', *(f'JPEGImages/{p[:-4]}.jpg SegmentationClass/{p}' for p in pairs))
    monkeypatch.chdir(tmp_path)
    by_id = voc(voc_root, labeled='ids.txt')  # relative to the working directory
    by_pair = voc(voc_root, labeled='pairs.txt')  # relative to the data root
    assert by_id.labeled_ids == by_pair.labeled_ids == ['2007_000003', '2007_000007']
    # 2007_000007 has no mask in SegmentationClass, so the pool's stands.
    assert 'SegmentationClassAug' in by_pair.get_data_info(1)['seg_map_path']


def test_mask_of_a_pair_replaces_that_of_the_pool(voc_root):
    (voc_root / 'Other').mkdir()
    shutil.copy(voc_root / 'SegmentationClass/2007_000003.png', voc_root / 'Other/mask.png')
    listed = write(voc_root / 'pairs.txt', 'JPEGImages/2007_000003.jpg Other/mask.png')
    assert voc(voc_root, labeled=listed).get_data_info(0)['seg_map_path'].endswith('Other/mask.png')


def test_pair_may_name_an_image_outside_the_pool(voc_root):
    listed = write(voc_root / 'pairs.txt', 'JPEGImages/2007_000010.jpg SegmentationClass/2007_000010.png')
    data = voc(voc_root, labeled=listed)
    assert data.num_labeled == 1 and data.num_unlabeled == 10
    assert data[0]['data_samples'].gt_sem_seg.data.shape[0] == 1


@pytest.mark.parametrize(
    'name',
    [
        'aachen/aachen_000000_000002',
        'aachen/aachen_000000_000002_leftImg8bit.png',
        'aachen_000000_000002',
        'aachen_000000_000002_leftImg8bit',
        'train/aachen/aachen_000000_000002',
        'leftImg8bit/train/aachen/aachen_000000_000002_leftImg8bit.png',
        './leftImg8bit/train/aachen/aachen_000000_000002_leftImg8bit.png',
        'leftImg8bit/train/aachen/aachen_000000_000002_leftImg8bit.png '
        'gtFine/train/aachen/aachen_000000_000002_gtFine_labelTrainIds.png',
    ],
)
def test_ids_of_cityscapes_are_understood(tmp_path, name):
    root = make_cityscapes(tmp_path / 'cityscapes')
    data = cityscapes(root, labeled=write(tmp_path / 'list.txt', name))
    assert data.labeled_ids == ['aachen/aachen_000000_000002']


def test_suffix_in_the_list_may_differ_from_the_file(voc_root, tmp_path):
    assert voc(voc_root, labeled=write(tmp_path / 'list.txt', '2007_000003.png')).labeled_ids == ['2007_000003']


def test_ambiguous_id_is_named_with_its_line(tmp_path):
    names = {'train': ['0001TP_1', 'x_1'], 'val': ['x_1']}
    root = make_camvid(tmp_path / 'camvid', names)
    dataset = {'type': 'CamVidDataset', 'data_root': str(root), 'folders': ('train', 'val')}
    listed = write(tmp_path / 'list.txt', 'train/x_1', '', 'x_1')
    with pytest.raises(ValueError, match=r"list\.txt, line 3: 'x_1' may be train/x_1 and val/x_1;"):
        SemiDataset(dataset, labeled=listed).full_init()


def test_unknown_id_is_named_with_its_line(voc_root, tmp_path):
    listed = write(tmp_path / 'list.txt', '2007_000001', '2007_999999')
    with pytest.raises(ValueError, match=r"list\.txt, line 2: '2007_999999' is none of the 10 images"):
        voc(voc_root, labeled=listed).full_init()
    with pytest.raises(ValueError, match=r"line 2: '2007_999999'"):
        voc(voc_root, unlabeled=listed).full_init()


def test_every_class_is_drawn_where_it_is_required(voc_root):
    for i in range(10):
        folder = 'SegmentationClass' if i < 6 else 'SegmentationClassAug'
        Image.fromarray(np.full((40, 50), 1 if i == 8 else 0, np.uint8)).save(voc_root / folder / f'2007_{i:06d}.png')
    two = {'classes': ('background', 'aeroplane'), 'palette': [[0, 0, 0], [1, 1, 1]]}
    dataset = {'type': 'PascalVOCAugDataset', 'data_root': str(voc_root), 'metainfo': two}
    for seed in range(5):
        data = voc(voc_root, dataset=dataset, labeled=2, seed=seed, require_all_classes=True)
        assert '2007_000008' in data.labeled_ids
        assert data.class_coverage() == {'background': 1, 'aeroplane': 1}
    with pytest.raises(ValueError, match='has the classes bicycle, bird'):
        voc(voc_root, require_all_classes=True).full_init()
    listed = write(voc_root / 'list.txt', '2007_000000')
    with pytest.raises(ValueError, match=r'no image of .*list\.txt shows aeroplane'):
        voc(voc_root, dataset=dataset, labeled=listed, require_all_classes=True).full_init()


def test_unlabeled_may_be_a_folder_a_list_a_dataset_or_none(tmp_path, voc_root):
    root = make_folder(tmp_path / 'own', n_unlabeled=5)
    folder = voc(voc_root, unlabeled=str(root / 'unlabeled'))
    assert folder.num_unlabeled == 5
    assert not hasattr(folder[len(folder) - 1]['data_samples'], 'gt_sem_seg')
    config = voc(voc_root, unlabeled={'type': 'ImageFolder', 'data_root': str(root / 'unlabeled')})
    assert config.num_unlabeled == 5
    images = sorted(str(p) for p in (root / 'unlabeled').rglob('*.*'))
    listed = voc(voc_root, unlabeled=write(tmp_path / 'list.txt', *images))
    assert listed.num_unlabeled == 5 and sorted(listed.unlabeled_ids) == images
    for nothing in (None, 'none'):
        assert voc(voc_root, unlabeled=nothing).num_unlabeled == 0
    assert voc(voc_root, labeled=1.0).num_unlabeled == 0


def test_own_folder_is_relative_to_its_data_root(tmp_path):
    root = make_folder(tmp_path / 'own')
    dataset = {
        'type': 'BaseSegDataset',
        'data_root': str(root),
        'data_prefix': {'img_path': 'images', 'seg_map_path': 'masks'},
        'metainfo': {'classes': ('a', 'b')},
    }
    data = SemiDataset(dataset, labeled='1/1', unlabeled='unlabeled', pipeline=PIPELINE)
    assert (data.num_labeled, data.num_unlabeled) == (4, 6)
    assert data.labeled_ids == ['img0', 'img1', 'img2', 'img3']


def test_concatenated_datasets_are_one_pool_and_count_an_image_once(voc_root):
    def part(split, folder):
        return {
            'type': 'PascalVOCDataset',
            'data_root': str(voc_root),
            'data_prefix': {'img_path': 'JPEGImages', 'seg_map_path': folder},
            'ann_file': f'ImageSets/Segmentation/{split}.txt',
        }

    parts = [
        part('train', 'SegmentationClass'),
        part('aug', 'SegmentationClassAug'),
        part('train', 'SegmentationClass'),
    ]
    as_list = voc(voc_root, dataset=parts)
    concat = voc(voc_root, dataset={'type': 'ConcatDataset', 'datasets': parts})
    assert len(as_list) == len(concat) == len(voc(voc_root)) == 10
    assert as_list.labeled_ids == concat.labeled_ids == voc(voc_root).labeled_ids


# ------------------------------------------------------------------------------------------------------------ bad input


def test_missing_data_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'data root .*nowhere does not exist'):
        voc(tmp_path / 'nowhere').full_init()


def test_missing_list_files_and_folders_are_named(voc_root):
    with pytest.raises(FileNotFoundError, match=r"labeled='splits/no\.txt' does not exist"):
        voc(voc_root, labeled='splits/no.txt').full_init()
    with pytest.raises(FileNotFoundError, match=r"candidates='no\.txt' does not exist"):
        voc(voc_root, candidates='no.txt').full_init()
    with pytest.raises(FileNotFoundError, match="unlabeled='nothing' does not exist"):
        voc(voc_root, unlabeled='nothing').full_init()
    base = {'type': 'PascalVOCDataset', 'data_root': str(voc_root), 'ann_file': 'no.txt'}
    with pytest.raises(FileNotFoundError, match=r'no\.txt does not exist; correct ann_file'):
        voc(voc_root, dataset=base).full_init()


def test_missing_images_and_masks_are_named_with_their_number(voc_root):
    data = {'labeled': 1.0}
    for i in (2, 3):
        os.remove(voc_root / f'SegmentationClass/2007_00000{i}.png')
    with pytest.raises(FileNotFoundError, match=r'labeled: 2 of 10 masks are missing, the first is .*2007_000002\.png'):
        voc(voc_root, **data).full_init()
    os.remove(voc_root / 'JPEGImages/2007_000004.jpg')
    with pytest.raises(
        FileNotFoundError, match=r'labeled: 1 of 10 images are missing, the first is .*2007_000004\.jpg'
    ):
        voc(voc_root, **data).full_init()
    rest = write(voc_root / 'list.txt', '2007_000001')
    with pytest.raises(FileNotFoundError, match=r'unlabeled: 1 of 9 images are missing'):
        voc(voc_root, labeled=rest).full_init()
    voc(voc_root, check_files=False, **data).full_init()


def test_label_id_outside_the_classes_is_named_with_its_file(voc_root):
    mask = np.zeros((40, 50), np.uint8)
    mask[0, 0], mask[0, 1] = 255, 21
    Image.fromarray(mask).save(voc_root / 'SegmentationClass/2007_000005.png')
    with pytest.raises(ValueError, match=r'2007_000005\.png holds the label id 21, outside the 21 classes'):
        voc(voc_root, labeled=1.0).full_init()
    voc(voc_root, labeled=write(voc_root / 'list.txt', '2007_000001')).full_init()  # nobody reads that mask
    with pytest.raises(ValueError, match='label id 21'):
        voc(voc_root, labeled=write(voc_root / 'list.txt', '2007_000001'), unlabeled_gt=True).full_init()


def test_ids_are_checked_after_reduce_zero_label(tmp_path):
    root = make_folder(tmp_path, num_classes=2)
    for i, path in enumerate(sorted((root / 'masks').iterdir())):
        Image.fromarray(np.full((30, 40), [0, 1, 2, 255][i], np.uint8)).save(path)
    dataset = {
        'type': 'BaseSegDataset',
        'data_root': str(root),
        'data_prefix': {'img_path': 'images', 'seg_map_path': 'masks'},
        'metainfo': {'classes': ('a', 'b')},
    }
    with pytest.raises(ValueError, match='label id 2, outside the 2 classes'):
        SemiDataset(dataset, labeled=1.0).full_init()
    data = SemiDataset({**dataset, 'reduce_zero_label': True}, labeled=1.0, pipeline=PIPELINE)
    assert data.class_coverage() == {'a': 1, 'b': 1}
    shown = [set(np.unique(data[i]['data_samples'].gt_sem_seg.data)) for i in range(4)]
    assert shown == [{255}, {0}, {1}, {255}]


def test_masks_of_colors_or_of_another_size_are_named(voc_root):
    path = voc_root / 'SegmentationClass/2007_000005.png'
    Image.fromarray(np.full((40, 50, 3), (128, 64, 128), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r'2007_000005\.png holds colors'):
        voc(voc_root, labeled=1.0).full_init()
    Image.fromarray(np.zeros((41, 50), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r'2007_000005\.png has 50 x 41 pixels, but its image .* has 50 x 40'):
        voc(voc_root, labeled=1.0).full_init()
    path.write_bytes(b'')
    with pytest.raises(RuntimeError, match=r'2007_000005\.png cannot be read'):
        voc(voc_root, labeled=1.0).full_init()


def test_overlap_is_named_unless_allowed(voc_root, tmp_path):
    labeled = write(tmp_path / 'labeled.txt', '2007_000001', '2007_000002')
    unlabeled = write(tmp_path / 'unlabeled.txt', '2007_000000', '2007_000002', '2007_000001')
    with pytest.raises(ValueError, match='2 images are both labeled and unlabeled, the first is 2007_000002'):
        voc(voc_root, labeled=labeled, unlabeled=unlabeled).full_init()
    data = voc(voc_root, labeled=labeled, unlabeled=unlabeled, allow_overlap=True)
    assert (data.num_labeled, data.num_unlabeled) == (2, 3)


def test_empty_lists_and_too_many_labeled_are_refused(voc_root, tmp_path):
    empty = write(tmp_path / 'empty.txt')
    (tmp_path / 'folder').mkdir()
    for kwargs in ({'labeled': empty}, {'unlabeled': empty}):
        with pytest.raises(ValueError, match=r'empty\.txt is empty'):
            voc(voc_root, **kwargs).full_init()
    with pytest.raises(ValueError, match=r'folder .*folder holds no image'):
        voc(voc_root, unlabeled=str(tmp_path / 'folder')).full_init()
    with pytest.raises(ValueError, match='asks for 11 labeled images, but there are only 10'):
        voc(voc_root, labeled=11).full_init()
    with pytest.raises(ValueError, match='asks for 7 labeled images, but there are only 6'):
        voc(voc_root, labeled=7, candidates='ImageSets/Segmentation/train.txt').full_init()


# -------------------------------------------------------------------------------------------------------------- loading


def test_no_label_map_is_read_for_unlabeled_images(voc_root):
    data = voc(voc_root)
    data.full_init()
    for name in data.unlabeled_ids:
        for folder in ('SegmentationClass', 'SegmentationClassAug'):
            (voc_root / folder / f'{name}.png').unlink(missing_ok=True)
    for i in range(len(data)):
        assert hasattr(data[i]['data_samples'], 'gt_sem_seg') == (i < 4)
        assert data[i]['inputs'].dtype == torch.uint8


def test_unlabeled_ground_truth_is_there_for_diagnostics(voc_root):
    data = voc(voc_root, unlabeled_gt=True)
    assert all(hasattr(data[i]['data_samples'], 'gt_sem_seg') for i in range(10))


def test_unlabeled_pipeline_overrides(voc_root):
    data = voc(voc_root, unlabeled_pipeline=[PIPELINE[0], PIPELINE[-1]])
    assert data[9]['inputs'].shape == (3, 40, 50) and data[0]['inputs'].shape[1] <= 24


def batches(data, workers):
    keys = [(i, 2**62 + 7 * i) for i in range(len(data))] + [(0, 1), (0, 2)]
    loader = DataLoader(data, batch_size=4, sampler=keys, num_workers=workers, collate_fn=pseudo_collate)
    return [image for batch in loader for image in batch['inputs']]


def test_augmentation_depends_on_the_seed_alone(voc_root):
    data = voc(voc_root)
    first = batches(data, 0)
    np.random.seed(3)
    random.seed(3)
    torch.manual_seed(3)
    for again in (batches(data, 0), batches(data, 2)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[-2].shape != first[-1].shape or not torch.equal(first[-2], first[-1])


def test_global_random_state_is_left_as_it_was(voc_root):
    data = voc(voc_root)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    data[(0, 5)]
    assert (np.random.get_state()[1] == before[0]).all()
    assert random.getstate() == before[1] and torch.equal(torch.get_rng_state(), before[2])


DAMAGE = {
    'zero bytes': lambda path: path.write_bytes(b''),
    'text': lambda path: path.write_text('not an image'),
    'gone': lambda path: path.unlink(),
    'cut off': lambda path: path.write_bytes(path.read_bytes()[:20]),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_unreadable_unlabeled_image_is_replaced_by_the_next_and_named(voc_root, damage):
    data = voc(voc_root)
    expected = data[(4, 1)]['inputs']
    paths = [voc_root / f'JPEGImages/{name}.jpg' for name in data.unlabeled_ids[-2:]]
    for path in paths:
        DAMAGE[damage](path)
    sample = data[(8, 1)]
    assert sample['data_samples'].unreadable == [str(path) for path in paths]
    assert sample['data_samples'].stream == 'unlabeled'
    # The next after the last is the first unlabeled image, in the view that the seed gives it.
    assert torch.equal(sample['inputs'], expected)
    assert 'unreadable' not in data[(4, 1)]['data_samples'].metainfo_keys()


def test_all_unlabeled_images_unreadable_is_an_error(voc_root):
    data = voc(voc_root)
    for name in data.unlabeled_ids:
        (voc_root / f'JPEGImages/{name}.jpg').write_bytes(b'')
    with pytest.raises(RuntimeError, match='None of the 6 unlabeled images can be read'):
        data[5]


@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('kind', ['image', 'mask'])
def test_unreadable_labeled_file_stops_with_its_name(voc_root, damage, kind):
    data = voc(voc_root)
    info = data.get_data_info(1)
    path = info['img_path' if kind == 'image' else 'seg_map_path']
    DAMAGE[damage](type(voc_root)(path))
    with pytest.raises(RuntimeError, match=f'The labeled {kind} .*{os.path.basename(path)} cannot be read'):
        data[(1, 0)]


@pytest.mark.parametrize('index', [0, 9])
def test_error_in_a_transform_is_not_hidden(voc_root, index):
    @TRANSFORMS.register_module(name='Broken', force=True)
    class Broken:
        def __call__(self, results):
            raise KeyError('a bug')

    with pytest.raises(KeyError, match='a bug'):
        voc(voc_root, pipeline=[PIPELINE[0], {'type': 'Broken'}])[index]


def test_turned_photographs_fit_their_masks(tmp_path):
    """The EXIF tag turns the image when it is read, so a mask of the turned size is right."""
    root = make_folder(tmp_path)
    photo = Image.new('RGB', (30, 40))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(root / 'images/img0.jpg', exif=exif)
    assert cv2.imread(str(root / 'images/img0.jpg')).shape == (30, 40, 3)
    dataset = {
        'type': 'BaseSegDataset',
        'data_root': str(root),
        'data_prefix': {'img_path': 'images', 'seg_map_path': 'masks'},
        'metainfo': {'classes': ('a', 'b')},
    }
    SemiDataset(dataset, labeled=1.0).full_init()


def test_no_default_scope_is_needed(voc_root):
    DefaultScope._instance_dict.clear()
    assert voc(voc_root)[(0, 1)]['data_samples'].stream == 'labeled'
