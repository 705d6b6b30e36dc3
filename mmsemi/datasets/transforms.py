"""Transforms that mmcv and mmseg lack. Workers only decode and move pixels; photometry is done on the device."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import transforms as mmseg
from mmseg.datasets.transforms import LoadAnnotations

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
