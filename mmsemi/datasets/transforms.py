"""Transforms that mmcv and mmseg lack. Workers only decode and move pixels; photometry is done on the device."""

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmseg.datasets import transforms as mmseg
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmsemi.registry import TRANSFORMS
from mmsemi.structures import IGNORE_INDEX

from .limit_side import resize
from .masks import color_ids, color_table, read_mask


@TRANSFORMS.register_module()
class LoadSegAnnotations(LoadAnnotations):
    """mmseg's ``LoadAnnotations``, for more kinds of masks, and for images that have none.

    One pipeline serves both streams: an image without a mask passes as it is. Ids may have 1 to 32 bits where
    ``results['label_map']`` maps what is above 255, and a mask may hold colors where ``results['color_map']`` gives the
    color of each class; other colors are ignored.
    """

    def transform(self, results: dict) -> dict:
        """Load the mask at ``results['seg_map_path']``, if there is one."""
        return super().transform(results) if results.get('seg_map_path') else results

    def _load_seg_map(self, results: dict) -> None:
        if self.backend_args:
            super()._load_seg_map(results)
            return
        mask, table = read_mask(results['seg_map_path']), color_table(results)
        if mask.ndim == 3:
            ids = color_ids(mask)
            labels = np.full(ids.shape, IGNORE_INDEX, np.uint8)
            for color, label in (table or {}).items():
                labels[ids == color] = label
        else:
            ids = mask
            if results.get('reduce_zero_label'):
                ids = np.where((mask == 0) | (mask == IGNORE_INDEX), IGNORE_INDEX, mask.astype(np.int64) - 1)
            labels = ids.astype(np.uint8)
            for old, new in (results.get('label_map') or {}).items():
                labels[ids == old] = new
        results['gt_seg_map'] = labels
        results['seg_fields'].append('gt_seg_map')


_REDUCED = {
    'color': {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8},
    'grayscale': {
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    },
}
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""
_EXIF_ORIENTATION = 274


@TRANSFORMS.register_module()
class LoadReducedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, for an image that ``LimitSide`` shrinks next: of a large JPEG a half, a quarter or
    an eighth of each side is decoded.

    The decoder makes the reduced image from the frequencies that it needs for it, an average of the pixels. It is made
    where both sides can be divided and at least 1.5 times ``longest`` remains, which ``LimitSide`` then shrinks with
    antialiasing: of a photograph of 12 megapixels the result differed from that of the whole image by less than a level
    on average, by at most 6, and had the same contrast to 1 %. It is there in half the time.

    Args:
        longest (int, optional): What ``LimitSide`` shrinks the longer side to; None decodes whole images.
        draft (bool): Whether images are decoded like this at all. Defaults to True.
        **kwargs: Those of ``LoadImageFromFile``. Files that are not local, and images of a ``color_type`` other than
            'color' and 'grayscale', are decoded whole.
    """

    MARGIN = 1.5

    def __init__(self, longest: int | None = None, draft: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self.longest = longest
        self.draft = draft

    def transform(self, results: dict) -> dict:
        """Load ``results['img']``; a reduced one comes with ``full_shape``, the image's own height and width."""
        flags = _REDUCED.get(self.color_type)
        if not (self.draft and self.longest and flags) or self.backend_args or self.to_float32:
            return super().transform(results)
        shape, factor = self._reduction(results['img_path'])
        image = cv2.imread(results['img_path'], flags[factor]) if factor > 1 else None
        if image is None:
            return super().transform(results)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=shape, full_shape=shape)
        return results

    def _reduction(self, path: str) -> tuple[tuple[int, int], int]:
        """Height and width as the image is shown, and by what it can be divided; the file's head alone is read."""
        try:
            with Image.open(path) as image:
                (width, height), kind = image.size, image.format
                turned = kind == 'JPEG' and image.getexif().get(_EXIF_ORIENTATION) in _TURNED
        except OSError:
            return (0, 0), 1  # let mmcv say what is wrong with it
        least = self.MARGIN * self.longest
        # Where it does not divide both sides, what is decoded would be larger than the image, and all of it moved.
        fitting = (n for n in (8, 4, 2) if max(height, width) >= n * least and height % n == width % n == 0)
        return ((width, height) if turned else (height, width)), next(fitting, 1) if kind == 'JPEG' else 1

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, longest={self.longest}, draft={self.draft})'


@TRANSFORMS.register_module()
class RandomCrop(mmseg.RandomCrop):
    """mmseg's ``RandomCrop``, for images without a mask too: ``cat_max_ratio`` is of no effect on them.

    Args:
        *args, **kwargs: Those of mmseg's.
    """

    def crop_bbox(self, results: dict) -> tuple:
        """The crop, ``(top, bottom, left, right)``: the first that is drawn, where there is no mask to judge it by."""
        if 'gt_seg_map' in results:
            return super().crop_bbox(results)
        ratio, self.cat_max_ratio = self.cat_max_ratio, 1.0
        try:
            return super().crop_bbox(results)
        finally:
            self.cat_max_ratio = ratio


@TRANSFORMS.register_module()
class RandomScale(BaseTransform):
    """Resize image and mask by a random factor of the image's own size, as PIL does: the image bilinearly and with
    antialiasing, the mask to the nearest pixel.

    mmcv's ``RandomResize`` scales towards one size for all images; the weak view of the semi-supervised papers scales
    each image relative to its own. Without antialiasing a shrunk image keeps more noise than a photograph of its size
    would have, 1.6 times as much at a factor of 0.5. torch's resize is PIL's to a level, and at least twice as fast.

    Args:
        ratio_range (tuple[float, float]): Lowest and highest factor, drawn uniformly. Defaults to (0.5, 2.0).
        antialias (bool): Whether a shrunk pixel averages all those that it covers. Defaults to True.

    Raises:
        ValueError: If the range is not ordered or not positive.
    """

    def __init__(self, ratio_range: tuple[float, float] = (0.5, 2.0), antialias: bool = True) -> None:
        low, high = ratio_range
        if not 0 < low <= high:
            raise ValueError(
                f'RandomScale: ratio_range={ratio_range} must be two positive numbers, the lower one first.'
            )
        self.ratio_range = (low, high)
        self.antialias = antialias

    def transform(self, results: dict) -> dict:
        """Resize ``results['img']`` (H, W) or (H, W, C) and, if there is one, ``results['gt_seg_map']`` (H, W)."""
        return resize(results, np.random.uniform(*self.ratio_range), self.antialias)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(ratio_range={self.ratio_range}, antialias={self.antialias})'
