"""Images, and their masks, at another size."""

from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from PIL import Image
from torch.nn import functional as F

from mmsemi.registry import TRANSFORMS

# An exported network takes the text of this file along: it needs nothing else of mmsemi.


@TRANSFORMS.register_module()
class LimitSide(BaseTransform):
    """Shrink an image, and its mask if there is one, so that its longer side is at most ``longest``.

    Args:
        longest (int, optional): In pixels; None leaves all images as they are.

    Raises:
        ValueError: If it is below 1.
    """

    def __init__(self, longest: int | None = None) -> None:
        if longest is not None and longest < 1:
            raise ValueError(f'LimitSide: longest (longest_side of the config) must be 1 or more, not {longest}.')
        self.longest = longest

    def transform(self, results: dict) -> dict:
        """Resize ``results['img']`` and ``results['gt_seg_map']``."""
        shape = results.pop('full_shape', None) or results['img'].shape[:2]
        if self.longest is None or max(shape) <= self.longest:
            return results
        return resize(results, self.longest / max(shape), shape=shape)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(longest={self.longest})'


def resize(results: dict, ratio: float, antialias: bool = True, shape: tuple[int, int] | None = None) -> dict:
    """Resize ``results['img']`` (H, W) or (H, W, C), and ``results['gt_seg_map']`` (H, W) if there is one, to ``ratio``
    times their height and width, or times ``shape`` where the image was decoded smaller.
    """
    height, width = shape or results['img'].shape[:2]
    size = max(1, round(height * ratio)), max(1, round(width * ratio))
    results['img'] = resize_image(results['img'], size, antialias)
    if results.get('gt_seg_map') is not None:
        results['gt_seg_map'] = resize_mask(results['gt_seg_map'], size)
    results.update(
        scale=size[::-1],
        img_shape=size,
        scale_factor=(size[1] / width, size[0] / height),
        keep_ratio=False,
    )
    return results


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
