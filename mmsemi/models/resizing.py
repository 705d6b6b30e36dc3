"""Maps at another resolution: which way of resizing fits a crop, labels without mixing values, a transpose.

Feature i of a convolutional network of stride s looks at pixel s i, the first at the first pixel. Where the crop's
sides are multiples of 8 plus 1, the last looks at the last pixel (at strides 4 and 8, and 16 for 321, 513, 769, 801),
and bilinear resizing with ``align_corners=True`` puts each feature on its pixel; with False it is up to half a stride
off. At 512 or 800 the last feature looks at a pixel s - 1 before the last: there False is off by half a stride and True
by nearly a whole one. A token of a transformer, whose patches tile the crop, lies in the middle of its patch, where
False puts it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.precision import full_precision, no_autocast
from mmsemi.registry import MODELS


def aligns_corners(crop: Sequence[int]) -> bool:
    """Whether features of a crop (H, W) lie where ``align_corners=True`` puts them: both sides are 8 k + 1."""
    return all(side % 8 == 1 for side in crop)


def with_align_corners(segmentor: dict, crop: Sequence[int] | None) -> dict:
    """Say how heads resize where their configs do not: as the decode head does, and that one as the crop asks.

    Args:
        segmentor (dict): Config of an mmseg segmentor; it is changed.
        crop (Sequence[int], optional): Height and width of the training crops; None leaves mmseg's default, False.

    Returns:
        dict: The same.
    """
    decoders, auxiliaries = (_heads(segmentor, name) for name in ('decode_head', 'auxiliary_head'))
    aligned = crop is not None and aligns_corners(crop)
    for head in decoders:
        head.setdefault('align_corners', aligned)
    for head in auxiliaries:
        head.setdefault('align_corners', decoders[-1]['align_corners'] if decoders else aligned)
    return segmentor


def _heads(segmentor: dict, name: str) -> list[dict]:
    """Configs of those heads, one or several, that resize as mmseg's do."""
    heads = segmentor.get(name) or []
    heads = [heads] if isinstance(heads, dict) else heads
    kinds = [MODELS.get(head['type']) if isinstance(head['type'], str) else head['type'] for head in heads]
    return [
        head
        for head, kind in zip(heads, kinds, strict=True)
        if isinstance(kind, type) and issubclass(kind, BaseDecodeHead)
    ]


def resize_labels(maps: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Labels or masks at another size, each value taken from the pixel nearest to where bilinear resizing looks.

    On a coarser map, value i is that of the pixel where bilinear resizing of the coarse map puts feature i.

    Args:
        maps (Tensor): Any type, (B, H, W).
        size (Sequence[int]): The other height and width (h, w).
        align_corners (bool): Of the bilinear resizing. Defaults to False.

    Returns:
        Tensor: Of the same type, (B, h, w).
    """
    for axis, (before, after) in enumerate(zip(maps.shape[1:], size, strict=True), start=1):
        if before != after:
            maps = maps.index_select(axis, _nearest(before, after, align_corners, maps.device))
    return maps


def _nearest(before: int, after: int, align_corners: bool, device: torch.device) -> Tensor:
    """The pixel of ``before`` that lies nearest to each of ``after`` points, of two the later, long, (after,)."""
    points = torch.arange(after, device=device)
    if align_corners and after > 1:
        # The whole part of i (before - 1) / (after - 1) + 1/2, without rounding.
        return (2 * points * (before - 1) + after - 1) // (2 * (after - 1))
    return (2 * points + 1) * before // (2 * after)


def resize_transposed(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Apply the transpose of bilinear resizing from ``size`` to the maps' own size.

    A sum over pixels of ``resize(features) * maps`` equals the sum over the features' few pixels of
    ``features * resize_transposed(maps)``: features of many channels need not be enlarged.

    Args:
        maps (Tensor): Weights at the fine resolution, float, (B, N, H, W).
        size (tuple[int, int]): The coarse resolution (h, w).
        align_corners (bool): As of the resizing. Defaults to False.

    Returns:
        Tensor: (B, N, h, w).
    """
    with no_autocast(maps):
        maps = full_precision(maps)
        rows = _interpolation(size[0], maps.shape[2], maps, align_corners)
        columns = _interpolation(size[1], maps.shape[3], maps, align_corners)
        return rows @ maps @ columns.T


def _interpolation(coarse: int, fine: int, like: Tensor, align_corners: bool) -> Tensor:
    """What each of ``coarse`` points adds to each of ``fine`` points of a line, (coarse, fine)."""
    points = torch.eye(coarse, dtype=like.dtype, device=like.device)
    return F.interpolate(points[None], size=fine, mode='linear', align_corners=align_corners)[0]
