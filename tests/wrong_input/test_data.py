"""Folders, masks and images that cannot be trained on are refused, and doubtful ones told, before training."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample
from PIL import Image

from mmsemi.apis.launch import build_runner, load_config
from mmsemi.apis.training import train_parser
from mmsemi.engine import RehearsalHook
from mmsemi.models.segmentors.semi_segmentor import Supervised
from mmsemi.registry import MODELS
from tests.wrong_input.project import refused, warned

# Masks


def only(label: int):
    return lambda mask: np.full_like(mask, label)


MASKS = {
    'void alone': (only(255), 'All pixels of the 3 labeled masks are 255'),
    'one class': (only(1), 'All labeled pixels are road'),
    'id outside': (lambda mask: mask + 1, 'label id 3', 'outside the 3 classes'),
    '0 and 255 alone': (lambda mask: ((mask > 0) * 255).astype(np.uint8), '0 and 255 alone', 'mmsemi init'),
    '0 and 128': (lambda mask: ((mask > 0) * 128).astype(np.uint8), 'label id 128'),
    '16 bits outside': (lambda mask: mask.astype(np.uint16) * 1000, 'label id 1000'),
    'colors': (lambda mask: np.stack([mask * 80, mask, mask], -1), 'holds colors', 'color_masks=True'),
    'fractions': (lambda mask: mask.astype(np.float32) / 2, 'mask'),
    'another size': (lambda mask: mask[:-4], 'has 40 x 32 pixels, but its image'),
}


@pytest.mark.parametrize(
    ('case', 'part'),
    [
        *((case, 'labeled') for case in MASKS),
        # A validation of one class can be judged.
        *((case, 'validation') for case in MASKS if case != 'one class'),
    ],
)
def test_masks_that_teach_nothing_are_refused(case, part, project):
    change, *says = MASKS[case]
    if case == 'fractions':
        for path in (project.root / ('val' if part == 'validation' else '') / 'masks').glob('*.png'):
            Image.fromarray(change(np.array(Image.open(path)))).save(path.with_suffix('.tif'))
            path.unlink()
        refused(
            project.train('seg_map_suffix=.tif' if part == 'labeled' else 'val_dataloader.dataset.seg_map_suffix=.tif'),
            *says,
        )
        return
    project.change_mask(change, 'val' if part == 'validation' else '')
    refused(project.train(), *(word.replace('labeled', part).replace('3 val', '2 val') for word in says))


def test_two_classes_in_0_and_255_do_not_train_in_silence(project):
    for part in ('', 'val'):
        project.change_mask(lambda mask: ((mask > 0) * 255).astype(np.uint8), part)
    result = project.train("classes=('background','object')")
    refused(result, 'object has no pixel', 'Write 1 in place of 255', 'mmsemi init')


def test_a_class_without_a_pixel_is_told(project):
    project.change_mask(lambda mask: np.where(mask == 2, 1, mask).astype(np.uint8))
    project.change_mask(lambda mask: np.where(mask == 0, 1, mask).astype(np.uint8), 'val')
    told = ('No labeled pixel shows tree', 'No validation pixel shows sky', 'counts as 0 in the mean where')
    warned(project.train(), *told)


def test_masks_that_are_mostly_void_are_told(project):
    def void(mask):
        mask[4:] = 255
        return mask

    project.change_mask(void)
    warned(project.train(), 'of the labeled pixels are void')


def test_one_mask_of_another_kind_is_told(project):
    project.change_mask(lambda mask: ((mask > 0) * 255).astype(np.uint8), only=1)
    warned(project.train(), '1 of 3 labeled masks hold 0 and 255 alone', '1.png')


# Files


def remove(name: str):
    return lambda root: (root / name).unlink()


def rename(old: str, new: str):
    return lambda root: (root / old).rename(root / new)


def cut(name: str):
    def change(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 3])

    return change


def empty(name: str):
    return lambda root: (root / name).write_bytes(b'')


FILES = {
    'mask is missing': (remove('masks/1.png'), 'masks are missing', 'masks/1.png'),
    'validation mask is missing': (remove('val/masks/1.png'), 'val/masks/1.png'),
    'image of another suffix': (rename('images/1.png', 'images/1.JPG'), None, '1 images of', '1.JPG', 'img_suffix'),
    'mask of no image': (rename('images/1.png', 'images/one.png'), 'one.png'),
    'mask too many': (remove('images/1.png'), None, '1 masks of', 'belong to no image', '1.png'),
    'mask is cut off': (cut('masks/1.png'), 'masks/1.png', 'cannot be read'),
    'mask is empty': (empty('masks/1.png'), 'masks/1.png', 'cannot be read'),
    'mask is text': (lambda root: (root / 'masks/1.png').write_text('x'), 'masks/1.png', 'cannot be read'),
    'image is empty': (empty('images/1.png'), 'images/1.png', 'cannot be read'),
    'image is text': (lambda root: (root / 'images/1.png').write_text('x'), 'images/1.png', 'cannot be read'),
    'first image is cut off': (cut('images/0.png'), 'images/0.png', 'cannot be read'),
    'no unlabeled image can be read': (
        lambda root: [path.write_bytes(b'') for path in (root / 'unlabeled').iterdir()],
        'None of the 3 unlabeled images can be read',
    ),
    'no image': (lambda root: shutil.rmtree(root / 'images') or (root / 'images').mkdir(), 'no images'),
    'no unlabeled image': (
        lambda root: shutil.rmtree(root / 'unlabeled') or (root / 'unlabeled').mkdir(),
        'unlabeled: the folder',
        'holds no image',
    ),
    'no masks at all': (lambda root: shutil.rmtree(root / 'masks'), 'masks are missing'),
    'validation is training': (
        lambda root: [shutil.copy(root / f'{kind}/0.png', root / f'val/{kind}/0.png') for kind in ('images', 'masks')],
        None,
        'validation images have the content of labeled images',
    ),
    'validation is unlabeled': (
        lambda root: shutil.copy(root / 'val/images/0.png', root / 'unlabeled/9.png'),
        None,
        'validation images have the content of unlabeled images',
    ),
    'one unlabeled image cannot be read': (empty('unlabeled/1.png'), None),
}  # fmt: skip


@pytest.mark.parametrize('case', FILES)
def test_files_that_cannot_be_used_are_named(case, project):
    change, *says = FILES[case]
    change(project.root)
    result = project.train()
    if says[0] is None:
        warned(result, *says[1:])
    else:
        refused(result, *says)


def test_validation_that_is_the_labeled_folder_is_told(project):
    options = [
        'val_dataloader.dataset.data_prefix.img_path=images',
        'val_dataloader.dataset.data_prefix.seg_map_path=masks',
    ]
    warned(project.train(*options), '3 of 3 validation images are labeled images of training')


def test_a_batch_of_validation_images_of_several_sizes_is_refused(project):
    image, mask = np.zeros((30, 44, 3), np.uint8), np.zeros((30, 44), np.uint8)
    project.save(project.root / 'val/images/0.png', image)
    project.save(project.root / 'val/masks/0.png', mask)
    refused(project.train('val_dataloader.batch_size=2'), 'val_dataloader.batch_size=2', 'set it to 1')
    assert project.train()[0] is None


# Images that are not 8-bit color

PARTS = ('images', 'unlabeled', 'val/images')
AS_THEY_ARE = [f'{part}_dataloader.dataset.pipeline.0.color_type=unchanged' for part in ('train', 'val')]


def repaint(
    project, channels: int, dtype: type = np.uint8, parts: tuple[str, ...] = ('images', 'unlabeled', 'val/images')
):
    rng = np.random.default_rng(1)
    for part in parts:
        for path in (project.root / part).glob('*.png'):
            high = np.iinfo(dtype).max + 1
            cv2.imwrite(str(path), rng.integers(0, high, (36, 40, channels), dtype=dtype).squeeze())


AS_THEY_ARE = [
    'train_dataloader.dataset.pipeline.0.color_type=unchanged',
    'val_dataloader.dataset.pipeline.0.color_type=unchanged',
]


@pytest.mark.parametrize(
    ('channels', 'dtype'), [(1, np.uint8), (4, np.uint8), (1, np.uint16), (3, np.uint16), (4, np.uint16)]
)
def test_images_of_other_channels_and_depth_train_as_they_are(channels, dtype, project):
    repaint(project, channels, dtype)
    status, text = project.train(*AS_THEY_ARE)
    assert status is None, text[-1000:]


def test_gray_images_train_with_one_channel(project):
    options = [option.replace('unchanged', 'grayscale') for option in AS_THEY_ARE]
    assert project.train(*options)[0] is None


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (AS_THEY_ARE[:1], ('val_dataloader have 3 channels', 'reads 4')),
        ([*AS_THEY_ARE, 'network.backbone.in_channels=3'], ('have 4 channels', 'reads 3', 'color_type')),
        ([*AS_THEY_ARE, 'model.data_preprocessor.mean=[1.0,2.0,3.0]'], ('mean has 3 values', '4 channels')),
    ],
)
def test_channels_that_do_not_fit_are_refused(options, says, project):
    repaint(project, 4)
    if len(options) == 1:
        repaint(project, 3, parts=('val/images',))
    refused(project.train(*options), *says)


def test_images_of_two_depths_are_refused(project):
    repaint(project, 3, np.uint16, parts=('unlabeled',))
    refused(project.train(*AS_THEY_ARE), 'uint8', 'uint16', 'make them alike')


@pytest.mark.parametrize('top', [None, 1.0])
def test_a_preprocessor_names_what_it_needs_for_images_of_fractions(top):
    preprocessor = MODELS.build(dict(type='SemiDataPreprocessor', size=(8, 8), num_strong=0, max_value=top))
    sample = SegDataSample(metainfo=dict(stream='unlabeled'))
    data = dict(inputs=[torch.rand(3, 8, 8)], data_samples=[sample])
    if top:
        assert torch.equal(preprocessor(data, True)['inputs'].weak[0], data['inputs'][0])
    else:
        with pytest.raises(ValueError, match=r'float32, whose largest value is not known; set .*max_value'):
            preprocessor(data, True)


def test_strong_views_of_16_bit_images_vary(project):
    preprocessor = MODELS.build(
        dict(
            type='SemiDataPreprocessor',
            size=(16, 16),
            mean=[30000.0] * 3,
            std=[10000.0] * 3,
            strong=dict(type='StrongView'),
        )
    )

    images = [torch.randint(0, 50000, (3, 16, 16)).to(torch.uint16) for _ in range(6)]
    samples = [SegDataSample(metainfo=dict(stream='unlabeled')) for _ in images]
    strong = preprocessor(dict(inputs=images, data_samples=samples), True)['inputs'].strong[0]
    assert (strong.flatten(1).std(1) > 0.05).all()


# Transforms that need a mask


def test_cat_max_ratio_is_of_no_effect_without_a_mask(project):
    assert project.train('train_dataloader.dataset.pipeline.3.cat_max_ratio=0.75')[0] is None


# Names


def test_names_with_blanks_umlauts_and_chinese_letters_train(project):
    for folder in ('images', 'masks', 'val/images', 'val/masks', 'unlabeled'):
        for path, name in zip(sorted((project.root / folder).iterdir()), ('ein Bild', 'Äpfel ö', '图像'), strict=False):
            path.rename(path.with_name(f'{name}.png'))
    assert project.train()[0] is None
    moved = project.root.with_name(project.root.name + ' ä 图')
    os.rename(project.root, moved)
    project.config = moved / 'config.py'
    project.root = moved
    project.write()
    assert project.train()[0] is None


# Checkpoints to start from


def test_a_file_that_is_no_network_is_refused(project):
    torch.save(dict(state_dict={'conv1.weight': torch.zeros(1)}), project.root / 'x.pth')
    refused(project.train(f'load_from={project.root}/x.pth'), 'neither a network of mmsemi', 'pretrained')
    (project.root / 'y.pth').write_text('nothing')
    refused(project.train(f'load_from={project.root}/y.pth'), 'y.pth')


@pytest.mark.parametrize('plain', [False, True], ids=['ours', 'mmseg'])
def test_a_supervised_checkpoint_starts_student_and_teacher_and_lacking_heads_are_named(plain, project):

    kept = {}

    def built(*options):
        arguments = [str(project.config), '--cfg-options', 'visualizer.vis_backends=[]', *options]
        return build_runner(load_config(train_parser().parse_args(arguments)))

    project.write(method='supervised')
    runner = built('experiment_name=a1', 'visualizer.name=a1')
    torch.manual_seed(1)
    runner.model.init_weights()
    state = runner.model.student.segmentor.state_dict() if plain else runner.model.state_dict()
    torch.save(dict(state_dict=state), project.root / 'x.pth')
    weight = runner.model.student.segmentor.decode_head.conv_seg.weight.clone()
    project.write(method='mllc')

    def look(hook, runner):
        kept.update(student=runner.model.student.segmentor.decode_head.conv_seg.weight.clone())
        kept.update(teacher=runner.model.teacher.segmentor.decode_head.conv_seg.weight.clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RehearsalHook, 'before_train', look)
        warned(project.train(f'load_from={project.root}/x.pth'), 'has no head embedding, graph')
    assert torch.equal(kept['student'], weight) and torch.equal(kept['teacher'], weight)


def test_a_network_of_other_classes_is_refused(project):
    project.write(method='supervised')
    states = {}

    def keep(model):
        states.update(model.state_dict())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervised, 'init_weights', keep)
        project.train()
    for key in list(states):
        if 'conv_seg' in key:
            states[key] = torch.cat([states[key], states[key]])
    torch.save(dict(state_dict=states), project.root / 'x.pth')
    refused(project.train(f'load_from={project.root}/x.pth'), 'of another shape', 'conv_seg')
