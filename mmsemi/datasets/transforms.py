"""Transforms that mmcv and mmseg lack. Workers only decode and move pixels; photometry is done on the device."""

from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image
from torch.nn import functional as F

from mmsemi.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadSegAnnotations(LoadAnnotations):
    """mmseg's ``LoadAnnotations``, which does nothing for an image without a mask: one pipeline serves both streams."""

    def transform(self, results: dict) -> dict:
        """Load the mask at ``results['seg_map_path']``, if there is one."""
        return super().transform(results) if results.get('seg_map_path') else results


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
        height, width = results['img'].shape[:2]
        ratio = np.random.uniform(*self.ratio_range)
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        results['img'] = resize_image(results['img'], size, self.antialias)
        if results.get('gt_seg_map') is not None:
            results['gt_seg_map'] = resize_mask(results['gt_seg_map'], size)
        results.update(
            scale=size[::-1],
            img_shape=size,
            scale_factor=(size[1] / width, size[0] / height),
            keep_ratio=False,
        )
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(ratio_range={self.ratio_range}, antialias={self.antialias})'


def resize_image(image: np.ndarray, size: tuple[int, int], antialias: bool = True) -> np.ndarray:
    """Resize an image (H, W) or (H, W, C) bilinearly to ``size``, height and width; its type stays."""
    pixels = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image))).permute(2, 0, 1)[None]
    whole = not pixels.is_floating_point()
    # Of whole numbers, torch resizes bytes alone.
    pixels = pixels if pixels.dtype == torch.uint8 or not whole else pixels.double()
    resized = F.interpolate(pixels, size, mode='bilinear', align_corners=False, antialias=antialias)
    resized = resized[0].permute(1, 2, 0).contiguous().numpy()
    resized = (resized.round() if whole else resized).astype(image.dtype, copy=False)
    return resized[..., 0] if image.ndim == 2 else resized


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) of whole numbers at ``size``, height and width: each pixel is the one that its middle lies in."""
    return np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
