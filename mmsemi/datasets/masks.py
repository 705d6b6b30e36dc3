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


def raw_labels(path: str) -> set[int]:
    """Ids that a mask holds, as they are in the file.

    Raises:
        ValueError: If the mask has several channels, that is, holds colors instead of class ids.
        RuntimeError: If the file cannot be decoded.
    """
    try:
        with open(path, 'rb') as file, Image.open(io.BytesIO(file.read())) as image:
            if image.mode in ('L', 'P'):
                # For one byte a pixel a histogram is many times faster than sorting the pixels.
                return {i for i, n in enumerate(image.histogram()) if n}
            array = np.array(image).squeeze()
    except Exception as error:
        raise RuntimeError(f'The mask {path} cannot be read ({error}); replace the file.') from error
    if array.ndim != 2:
        raise ValueError(
            f'The mask {path} has {array.shape[-1]} channels; a mask holds one class id a pixel: convert its colors.'
        )
    return {int(i) for i in np.unique(array)}


def to_class(label: int, info: dict) -> int:
    """Class that mmseg's ``LoadAnnotations`` makes of an id, by ``reduce_zero_label`` and ``label_map`` of ``info``."""
    if info.get('reduce_zero_label') and label != IGNORE_INDEX:
        label = IGNORE_INDEX if label == 0 else label - 1
    label_map = info.get('label_map') or {}
    return label_map.get(label, label)


def check_labels(info: dict, num_classes: int) -> set[int]:
    """Classes in the mask of one image.

    Args:
        info (dict): Information on the image, as mmseg's data sets give it.
        num_classes (int): Number of classes.

    Raises:
        ValueError: If an id is outside the classes; the message names file and id.
        RuntimeError: If the mask cannot be decoded.
    """
    path = info['seg_map_path']
    classes = set()
    for label in sorted(raw_labels(path)):
        mapped = to_class(label, info)
        if mapped == IGNORE_INDEX:
            continue
        if not 0 <= mapped < num_classes:
            raise ValueError(
                f'The mask {path} holds the label id {label}, outside the {num_classes} classes of the data set '
                f'(ids 0 to {num_classes - 1}; {IGNORE_INDEX} is ignored); correct the mask, metainfo.classes or '
                'reduce_zero_label.'
            )
        classes.add(mapped)
    return classes


def check_size(info: dict) -> None:
    """Check that mask and image have one size; resizing would hide that they do not fit each other.

    Raises:
        ValueError: If they differ.
        RuntimeError: If the image cannot be identified.
    """
    path = info['img_path']
    try:
        with Image.open(path) as image:
            # Reading the image for training turns it as its EXIF tag says.
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            size = image.size[::-1] if turned else image.size
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


def classes_of_masks(infos: Sequence[dict], num_classes: int) -> Iterator[set[int]]:
    """Classes in the mask of each image, read by several threads; errors are those of :func:`check_labels`."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from pool.map(lambda info: check_labels(info, num_classes), infos)
    finally:
        pool.shutdown(cancel_futures=True)
