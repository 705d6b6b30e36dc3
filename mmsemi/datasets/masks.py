"""What the masks of a data set hold, read before training: which classes, and whether any id is out of range."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import mmcv
import numpy as np
from PIL import Image

from mmsemi.structures import IGNORE_INDEX

_EXIF_ORIENTATION = 0x0112
# Decoding releases the interpreter's lock, so threads help; more of them than this only wait for the disk.
_THREADS = min(8, (os.cpu_count() or 1) + 2)


def is_decodable(path: str, backend: str = 'cv2') -> bool:
    """Whether the file at ``path`` decodes as an image, by the ``backend`` of mmcv that training reads it with."""
    try:
        with open(path, 'rb') as file:
            content = file.read()
        flag = 'unchanged' if backend == 'pillow' else 'color'
        return mmcv.imfrombytes(content, flag=flag, backend=backend) is not None
    except Exception:
        # Decoders raise errors of their own kinds for damaged files (cv2.error, OSError, SyntaxError, struct.error).
        return False


def read_mask(path: str) -> np.ndarray:
    """What a mask file holds: class ids, (H, W), or colors, (H, W, 3) uint8.

    Ids may have 1, 8, 16 or 32 bits, or be the indices of a palette; colors that are all gray are ids. An alpha channel
    is left out.

    Raises:
        RuntimeError: If the file cannot be decoded, or holds something else than ids or colors.
    """
    try:
        with open(path, 'rb') as file, Image.open(io.BytesIO(file.read())) as image:
            if image.mode in ('CMYK', 'YCbCr', 'LAB', 'HSV'):
                image = image.convert('RGB')
            array = np.array(image)
    except Exception as error:
        raise RuntimeError(f'The mask {path} cannot be read ({error}); replace the file.') from error
    if array.ndim == 3:
        array = array[..., :3] if array.shape[2] in (3, 4) else array[..., 0]
        if array.ndim == 3 and (array == array[..., :1]).all():
            array = array[..., 0]
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        whole = array.astype(np.int64)
        if (whole != array).any():
            raise RuntimeError(f'The mask {path} holds fractions; a mask holds one class id a pixel: round them.')
        array = whole
    return array


def color_ids(colors: np.ndarray) -> np.ndarray:
    """One number a color, 0xRRGGBB, for ``colors`` (..., 3) uint8: int32, (...)."""
    parts = colors.astype(np.int32)
    return parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2]


def count_labels(path: str) -> tuple[dict[int, int], bool]:
    """How many pixels each id of a mask has, and whether the ids stand for colors, 0xRRGGBB.

    Raises:
        RuntimeError: If the file cannot be decoded.
    """
    try:
        with open(path, 'rb') as file, Image.open(io.BytesIO(file.read())) as image:
            if image.mode in ('L', 'P'):
                # For one byte a pixel a histogram is many times faster than sorting the pixels.
                return {i: n for i, n in enumerate(image.histogram()) if n}, False
    except Exception as error:
        raise RuntimeError(f'The mask {path} cannot be read ({error}); replace the file.') from error
    mask = read_mask(path)
    colored = mask.ndim == 3
    ids, counts = np.unique(color_ids(mask) if colored else mask, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True)), colored


def to_class(label: int, info: dict) -> int:
    """Class that training makes of an id, by ``reduce_zero_label`` and ``label_map`` of ``info``."""
    if info.get('reduce_zero_label') and label != IGNORE_INDEX:
        label = IGNORE_INDEX if label == 0 else label - 1
    label_map = info.get('label_map') or {}
    return label_map.get(label, label)


def color_table(info: dict) -> dict[int, int] | None:
    """Class of each color, by its number 0xRRGGBB, where masks of this image are to be read by colors."""
    colors = info.get('color_map')
    if colors is None:
        return None
    return {int(color_ids(np.array(color, np.uint8))): label for label, color in enumerate(colors)}


def count_classes(info: dict, num_classes: int) -> tuple[np.ndarray, set[int]]:
    """Pixels of each class in the mask of one image, and the ids that its file holds.

    Args:
        info (dict): Information on the image, as mmseg's data sets give it; with ``color_map``, the color of each
            class, the mask holds colors.
        num_classes (int): Number of classes, C.

    Returns:
        tuple[np.ndarray, set[int]]: (C + 1,), the last for pixels that are ignored; ids, or colors 0xRRGGBB.

    Raises:
        ValueError: If an id is outside the classes, or a mask holds colors where ids are expected; the message names
            the file.
        RuntimeError: If the mask cannot be decoded.
    """
    path, table = info['seg_map_path'], color_table(info)
    counts, colored = count_labels(path)
    if colored and table is None:
        raise ValueError(
            f'The mask {path} holds colors; a mask holds one class id a pixel: convert it, or have its colors read by '
            'the palette (dataset type ListedDataset with color_masks=True, as `mmsemi init` writes it).'
        )
    pixels = np.zeros(num_classes + 1, dtype=np.int64)
    for label, number in sorted(counts.items()):
        # Colors outside of the table are nobody's: borders and void.
        mapped = table.get(label, IGNORE_INDEX) if colored else to_class(label, info)
        if mapped == IGNORE_INDEX:
            pixels[-1] += number
            continue
        if not 0 <= mapped < num_classes:
            raise ValueError(
                f'The mask {path} holds the label id {label}, outside the {num_classes} classes of the data set '
                f'(ids 0 to {num_classes - 1}; {IGNORE_INDEX} is ignored); correct the mask, metainfo.classes or '
                'reduce_zero_label.'
            )
        pixels[mapped] += number
    return pixels, set(counts)


def image_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image, turned as reading it for training turns it: as its EXIF tag says."""
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    return image.size[::-1] if turned else image.size


def check_size(info: dict) -> None:
    """Check that mask and image have one size; resizing would hide that they do not fit each other.

    Raises:
        ValueError: If they differ.
        RuntimeError: If the image cannot be identified.
    """
    path = info['img_path']
    try:
        with Image.open(path) as image:
            size = image_size(image)
    except Exception as error:
        raise RuntimeError(
            f'The image {path} cannot be read ({error}); replace the file or take it out of the list.'
        ) from error
    with Image.open(info['seg_map_path']) as mask:
        if mask.size != size:
            raise ValueError(
                f'The mask {info["seg_map_path"]} has {mask.size[0]} x {mask.size[1]} pixels, but its image {path} '
                f'has {size[0]} x {size[1]}; give the mask of that image.'
            )


def contents_of_masks(infos: Sequence[dict], num_classes: int) -> Iterator[tuple[np.ndarray, set[int]]]:
    """What :func:`count_classes` says of each image, read by several threads; errors are its own."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from pool.map(lambda info: count_classes(info, num_classes), infos)
    finally:
        pool.shutdown(cancel_futures=True)


def classes_of_masks(infos: Sequence[dict], num_classes: int) -> Iterator[set[int]]:
    """Classes in the mask of each image, read by several threads; errors are those of :func:`count_classes`."""
    for pixels, _ in contents_of_masks(infos, num_classes):
        yield set(np.flatnonzero(pixels[:-1]).tolist())
