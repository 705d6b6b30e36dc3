"""Tiny data sets in the layouts of the real ones; the content is a function of the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def scene(rng: np.random.Generator, size: tuple[int, int], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image (H, W, 3) and its mask (H, W): each class has its color, so that the labels can be learned.

    Args:
        rng (np.random.Generator): Source of the content.
        size (tuple[int, int]): Width and height.
        num_classes (int): Number of classes.
    """
    width, height = size
    mask = np.full((height, width), rng.integers(num_classes), np.uint8)
    for _ in range(4):
        y, x = rng.integers(height), rng.integers(width)
        mask[y : y + height // 2, x : x + width // 2] = rng.integers(num_classes)
    colors = np.random.default_rng(0).integers(0, 256, (256, 3))
    image = np.clip(colors[mask] + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)
    return image, mask


def write_scene(
    rng: np.random.Generator, image_path: Path, mask_path: Path | None, size: tuple[int, int], num_classes: int
) -> None:
    """Write a scene; without ``mask_path``, its image alone."""
    image, mask = scene(rng, size, num_classes)
    image_path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(image_path)
    if mask_path is not None:
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(mask_path)


def make_voc(
    root: Path | str,
    n_train: int = 6,
    n_aug: int = 4,
    n_val: int = 2,
    size: tuple[int, int] = (50, 40),
    num_classes: int = 21,
    trainaug: bool = True,
    seed: int = 0,
) -> Path:
    """PASCAL VOC 2012 with augmented masks: ``root`` is the folder VOC2012; ids are 2007_000000 and so on.

    Args:
        root (Path | str): Where to write.
        n_train (int): Images of train.txt, masks in SegmentationClass.
        n_aug (int): Images of aug.txt, masks in SegmentationClassAug.
        n_val (int): Images of val.txt.
        size (tuple[int, int]): Width and height.
        num_classes (int): Ids in the masks are below this.
        trainaug (bool): Whether trainaug.txt is written.
        seed (int): Seed of the content.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    lists = {'train': [], 'aug': [], 'val': []}
    for split, count in (('train', n_train), ('aug', n_aug), ('val', n_val)):
        folder = 'SegmentationClassAug' if split == 'aug' else 'SegmentationClass'
        for _ in range(count):
            name = f'2007_{sum(map(len, lists.values())):06d}'
            lists[split].append(name)
            write_scene(rng, root / f'JPEGImages/{name}.jpg', root / f'{folder}/{name}.png', size, num_classes)
    if trainaug:
        lists['trainaug'] = lists['train'] + lists['aug']
    for split, names in lists.items():
        path = root / f'ImageSets/Segmentation/{split}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(f'{name}\n' for name in names))
    return root


def make_camvid(root: Path | str, images: dict[str, list[str]] | None = None, suffix: str = '.png') -> Path:
    """CamVid in the SegNet layout.

    Args:
        root (Path | str): Where to write.
        images (dict[str, list[str]], optional): Names of the images of each folder.
        suffix (str): Suffix of the images.
    """
    root, rng = Path(root), np.random.default_rng(0)
    if images is None:
        images = {
            'train': [f'{s}_{i:05d}' for s in ('0001TP', '0006R0', '0016E5') for i in range(4)],
            'val': [f'0016E5_{i:05d}' for i in range(10, 13)],
        }
    for folder, names in images.items():
        for name in names:
            # Id 11 is void.
            write_scene(rng, root / folder / f'{name}{suffix}', root / f'{folder}annot' / f'{name}.png', (48, 36), 12)
    return root


def make_cityscapes(root: Path | str, n_train: int = 6, n_val: int = 2, size: tuple[int, int] = (64, 32)) -> Path:
    """Cityscapes with masks of training ids: two cities for training, one for validation."""
    root, rng = Path(root), np.random.default_rng(0)
    for split, cities, count in (('train', ('aachen', 'bochum'), n_train), ('val', ('lindau',), n_val)):
        for i in range(count):
            city = cities[i % len(cities)]
            name = f'{split}/{city}/{city}_000000_{i:06d}'
            image = root / f'leftImg8bit/{name}_leftImg8bit.png'
            write_scene(rng, image, root / f'gtFine/{name}_gtFine_labelTrainIds.png', size, 19)
    return root


_ADE20K = (('images', '.jpg'), ('annotations', '.png'))


def make_ade20k(root: Path | str, n_train: int = 6, n_val: int = 2, size: tuple[int, int] = (24, 16)) -> Path:
    """ADE20K as it is distributed: id 0 is ignored, 1 to 150 are the classes."""
    root, rng = Path(root), np.random.default_rng(0)
    for split, short, count in (('training', 'train', n_train), ('validation', 'val', n_val)):
        for i in range(1, count + 1):
            files = [root / f'{folder}/{split}/ADE_{short}_{{:08d}}{suffix}' for folder, suffix in _ADE20K]
            image, mask = (Path(str(file).format(i)) for file in files)
            if i <= 8:
                write_scene(rng, image, mask, size, 151)
            else:
                # Thousands of files, as one of the published partitions wants, and few of them drawn.
                for file in files:
                    Path(str(file).format(i)).hardlink_to(str(file).format(i % 8 + 1))
    return root


def make_coco81(root: Path | str, n_train: int = 6, n_val: int = 2, size: tuple[int, int] = (24, 16)) -> Path:
    """COCO 2017 with the masks of 81 classes that the converter writes."""
    root, rng = Path(root), np.random.default_rng(0)
    for split, count in (('train2017', n_train), ('val2017', n_val)):
        for _ in range(count):
            name = f'{rng.integers(10**6):012d}'
            write_scene(rng, root / f'{split}/{name}.jpg', root / f'masks/{name}.png', size, 81)
    return root


def make_acdc(
    root: Path | str, patients: int = 12, scans: int = 2, slices: int = 2, size: tuple[int, int] = (60, 50)
) -> Path:
    """ACDC as its converter writes it: patients 1, 2 and 3 are labeled, the last two are for validation.

    Args:
        root (Path | str): Where to write.
        patients (int): Patients in all.
        scans (int): Scans of each patient.
        slices (int): Slices of each scan.
        size (tuple[int, int]): Width and height.
    """
    root, rng = Path(root), np.random.default_rng(0)
    slices_of = {
        p: [f'patient{p:03d}_frame{f:02d}_{z:02d}' for f in range(1, scans + 1) for z in range(slices)]
        for p in range(1, patients + 1)
    }
    for name in (name for names in slices_of.values() for name in names):
        image, mask = scene(rng, size, 4)
        for folder, pixels in (('images', image[..., 0]), ('masks', mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels)).save(root / folder / f'{name}.png')
    last = patients - 2
    lists = {'train': (1, last), 'val': (last + 1, patients), 'cases_3': (1, 3), 'unlabeled_3': (4, last)}
    for key, (first, final) in lists.items():
        (root / 'lists').mkdir(exist_ok=True)
        names = [name for p in range(first, final + 1) for name in slices_of[p]]
        (root / f'lists/{key}.txt').write_text(''.join(f'{name}\n' for name in names))
    return root


def make_folder(
    root: Path | str, n_labeled: int = 4, n_unlabeled: int = 6, n_val: int = 2, num_classes: int = 2
) -> Path:
    """A user's own folder: images/, masks/, unlabeled/ (a subfolder, mixed suffixes), val/images/, val/masks/."""
    root, rng = Path(root), np.random.default_rng(0)
    size = (40, 30)
    for i in range(n_labeled):
        write_scene(rng, root / f'images/img{i}.jpg', root / f'masks/img{i}.png', size, num_classes)
    for i in range(n_val):
        write_scene(rng, root / f'val/images/val{i}.jpg', root / f'val/masks/val{i}.png', size, num_classes)
    for i in range(n_unlabeled):
        name = f'unlabeled/deep/{i}.JPG' if i % 2 else f'unlabeled/{i}.png'
        write_scene(rng, root / name, None, size, num_classes)
    return root
