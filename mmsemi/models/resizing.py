"""Maps at another resolution: labels without mixing values, and the transpose of bilinear resizing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_labels(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Labels or masks (B, H, W) at another size, each value taken from the nearest pixel.

    Args:
        maps (Tensor): Labels or masks, (B, H, W).
        size (tuple[int, int]): Height and width of the result (h, w).
        align_corners (bool): Where the result's points lie among the pixels, as of the resizing of the features beside
            which the labels are read: the outermost ones on the outermost pixels, or in the middle of equal shares.
            Defaults to False.

    Returns:
        Tensor: (B, h, w).
    """
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    if align_corners:
        rows, columns = (_on_corners(*sides, maps.device) for sides in zip(size, maps.shape[1:], strict=True))
        return maps[:, rows[:, None], columns]
    return F.interpolate(maps[:, None].float(), size=tuple(size), mode='nearest-exact')[:, 0].to(maps.dtype)


def _on_corners(points: int, pixels: int, device: torch.device) -> Tensor:
    """The pixels nearest to ``points`` spread evenly from the first to the last of ``pixels``, long, (points,)."""
    # Whole numbers, so that a point halfway between two pixels takes the later one on every device.
    gaps = max(points - 1, 1)
    return (torch.arange(points, device=device) * (2 * (pixels - 1)) + gaps) // (2 * gaps)


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
    rows = _interpolation(size[0], maps.shape[2], maps, align_corners)
    columns = _interpolation(size[1], maps.shape[3], maps, align_corners)
    return rows @ maps @ columns.T


def _interpolation(coarse: int, fine: int, like: Tensor, align_corners: bool) -> Tensor:
    """What each of ``coarse`` points adds to each of ``fine`` points of a line, (coarse, fine)."""
    points = torch.eye(coarse, dtype=like.dtype, device=like.device)
    return F.interpolate(points[None], size=fine, mode='linear', align_corners=align_corners)[0]
