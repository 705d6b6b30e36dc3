"""What images and masks hold: sizes, pixels of each id, what cannot be read, what is there twice."""

from __future__ import annotations

import hashlib
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import mmcv
import numpy as np
from PIL import Image

from .classes import Classes
from .files import LeftOut
from .masks import count_labels, image_size

LEAST_SIDE = 8
"""Images whose shorter side has fewer pixels are left out: no network sees anything in them."""

_THREADS = min(8, (os.cpu_count() or 1) + 2)
_SIZES_READ = 10_000
"""Of so many unlabeled images the size is read; of more an even sample."""
_ENDS = {b'\xff\xd8': b'\xff\xd9', b'\x89PNG': b'IEND'}
"""How files of these kinds begin, and what stands near the end of a whole one."""


@dataclass
class Picture:
    """One image and, if it is labeled, what its mask holds.

    Args:
        path (str): The image.
        size (tuple[int, int]): Width and height in pixels, turned as its EXIF tag says.
        channels (int): 1 (gray), 3 (color), 4, ...
        bits (int): Bits of a channel.
        mask (str, optional): Its mask.
        counts (dict[int, int]): Pixels of each id in the mask.
        colored (bool): The ids are colors, 0xRRGGBB.
    """

    path: str
    size: tuple[int, int]
    channels: int
    bits: int
    mask: str | None = None
    counts: dict[int, int] = field(default_factory=dict)
    colored: bool = False


def look_at(pairs: Sequence[tuple[str, str | None]]) -> tuple[list[Picture], list[LeftOut]]:
    """Read images and, where they have one, their masks.

    Returns:
        tuple[list[Picture], list[LeftOut]]: Those that can be trained on, in the order given, and the others.
    """
    pictures, left_out = [], []
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(_look, pairs):
            (pictures if isinstance(found, Picture) else left_out).append(found)
    return pictures, left_out


def _look(item: tuple[str, str | None]) -> Picture | LeftOut:
    path, mask = item
    found = look_at_image(path)
    if isinstance(found, LeftOut) or mask is None:
        return found
    try:
        found.counts, found.colored = count_labels(mask)
        with Image.open(mask) as image:
            size = image.size
    except (RuntimeError, OSError) as error:
        return LeftOut(mask, str(error))
    if size != found.size:
        return LeftOut(mask, f'has {size[0]} x {size[1]} pixels, but its image {found.size[0]} x {found.size[1]}')
    found.mask = mask
    return found


def look_at_image(path: str) -> Picture | LeftOut:
    """Size, channels and depth of one image, from its header where that is enough."""
    if not os.path.getsize(path):
        return LeftOut(path, 'is empty')
    if not _is_whole(path):
        return LeftOut(path, 'is cut off: its end is missing')
    try:
        with Image.open(path) as image:
            width, height = image_size(image)
            channels, bits = _kind(image.mode)
    except Exception:
        # Pillow does not know all that OpenCV reads, such as 16-bit color.
        try:
            array = mmcv.imfrombytes(Path(path).read_bytes(), flag='unchanged', backend='cv2')
        except cv2.error:
            array = None
        if array is None:
            return LeftOut(path, 'cannot be read as an image')
        height, width = array.shape[:2]
        channels, bits = (1 if array.ndim == 2 else array.shape[2]), 8 * array.dtype.itemsize
    if min(width, height) < LEAST_SIDE:
        return LeftOut(path, f'has {width} x {height} pixels, fewer than {LEAST_SIDE} to a side')
    return Picture(path, (width, height), channels, bits)


def _kind(mode: str) -> tuple[int, int]:
    """Channels and bits of Pillow's modes."""
    if mode.startswith('I;16'):
        return 1, 16
    bits = {'1': 1, 'I': 32, 'F': 32}.get(mode, 8)
    return {'LA': 2, 'RGB': 3, 'YCbCr': 3, 'LAB': 3, 'HSV': 3, 'RGBA': 4, 'CMYK': 4, 'P': 3}.get(mode, 1), bits


def _is_whole(path: str) -> bool:
    with open(path, 'rb') as file:
        begin = file.read(4)
        end = next((end for kind, end in _ENDS.items() if begin.startswith(kind)), None)
        if end is None:
            return True
        # Cameras and editors append some bytes of their own.
        file.seek(max(0, os.path.getsize(path) - 65536))
        return end in file.read()


def sample(paths: Sequence[str], most: int = _SIZES_READ) -> list[str]:
    """An even sample of at most ``most`` paths."""
    step = max(1, -(-len(paths) // most))
    return list(paths[::step])


def duplicates(parts: dict[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Pairs of files with the same content, within the parts of a data set and between them.

    Args:
        parts (dict[str, Sequence[str]]): Paths by the name of their part.

    Returns:
        list[tuple[str, str]]: Each file that repeats an earlier one, behind that one.
    """
    paths = list(dict.fromkeys(os.path.abspath(path) for part in parts.values() for path in part))
    by_size = defaultdict(list)
    for path in paths:
        by_size[os.path.getsize(path)].append(path)
    suspects = [path for group in by_size.values() if len(group) > 1 for path in group]
    first: dict[bytes, str] = {}
    found = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, digest in zip(suspects, pool.map(_digest, suspects), strict=True):
            if digest in first:
                found.append((first[digest], path))
            first.setdefault(digest, path)
    return found


def _digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def describe(pictures: Sequence[Picture], total: int | None = None) -> dict:
    """Numbers of a part of a data set: images, sizes, channels, bits.

    Args:
        pictures (Sequence[Picture]): Those that were looked at.
        total (int, optional): How many images there are, where only a sample was looked at.
    """

    def three(values: list[int]) -> dict[str, float]:
        return {'min': min(values), 'median': statistics.median(values), 'max': max(values)} if values else {}

    return {
        'images': len(pictures) if total is None else total,
        'looked at': len(pictures),
        'width': three([picture.size[0] for picture in pictures]),
        'height': three([picture.size[1] for picture in pictures]),
        'channels': dict(sorted(Counter(picture.channels for picture in pictures).items())),
        'bits': dict(sorted(Counter(picture.bits for picture in pictures).items())),
    }


def class_table(classes: Classes, parts: dict[str, Sequence[Picture]]) -> tuple[list[dict], dict[str, float]]:
    """Pixels and images of each class in each labeled part, and the share of ignored pixels of each part."""
    rows = [{'name': name, 'color': color} for name, color in zip(classes.names, classes.palette, strict=True)]
    void = {}
    for part, pictures in parts.items():
        nothing = np.zeros(len(classes.names) + 1, dtype=np.int64)
        counts = np.stack([nothing, *(classes.count(picture.counts) for picture in pictures)])
        for number, row in enumerate(rows):
            row[part] = {'pixels': int(counts[:, number].sum()), 'images': int((counts[:, number] > 0).sum())}
        void[part] = float(counts[:, -1].sum() / max(1, counts.sum()))
    return rows, void
