"""Transforms that mmcv and mmseg lack. Workers only decode and move pixels; photometry is done on the device."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform, Resize
from mmseg.datasets.transforms import LoadAnnotations

from mmsemi.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadSegAnnotations(LoadAnnotations):
    """mmseg's ``LoadAnnotations``, which does nothing for an image without a mask: one pipeline serves both streams."""

    def transform(self, results: dict) -> dict:
        """Load the mask at ``results['seg_map_path']``, if there is one."""
        return super().transform(results) if results.get('seg_map_path') else results


@TRANSFORMS.register_module()
class RandomScale(BaseTransform):
    """Resize image and mask by a random factor of the image's own size.

    mmcv's ``RandomResize`` scales towards one size for all images; the weak view of the semi-supervised papers scales
    each image relative to its own.

    Args:
        ratio_range (tuple[float, float]): Lowest and highest factor, drawn uniformly.

    Raises:
        ValueError: If the range is not ordered or not positive.
    """

    def __init__(self, ratio_range: tuple[float, float] = (0.5, 2.0)) -> None:
        low, high = ratio_range
        if not 0 < low <= high:
            raise ValueError(
                f'RandomScale: ratio_range={ratio_range} must be two positive numbers, the lower one first.'
            )
        self.ratio_range = (low, high)

    def transform(self, results: dict) -> dict:
        """Resize ``results['img']`` and ``results['gt_seg_map']``."""
        height, width = results['img'].shape[:2]
        ratio = np.random.uniform(*self.ratio_range)
        scale = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        return Resize(scale=scale, keep_ratio=False).transform(results)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(ratio_range={self.ratio_range})'
