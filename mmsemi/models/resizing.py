"""Maps at another resolution: labels without mixing values, and the transpose of bilinear resizing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.precision import full_precision, no_autocast


def resize_labels(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels or masks (B, H, W) at another size, each value taken from the nearest pixel."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None].float(), size=tuple(size), mode='nearest-exact')[:, 0].to(maps.dtype)


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
