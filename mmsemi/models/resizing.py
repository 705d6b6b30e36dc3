"""Maps at another resolution: labels without mixing values, and the transpose of bilinear resizing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_labels(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Labels or masks (B, H, W) at another size, each value taken from the nearest pixel.

    Args:
        maps (Tensor): Of any type, (B, H, W).
        size (tuple[int, int]): Height and width.
        align_corners (bool): Which pixel is the nearest: as of the resizing of scores that go with the labels, so that
            a value comes from where the score of its place lies. Defaults to False.

    Returns:
        Tensor: (B, *size), of the same type.
    """
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    if not align_corners:
        return F.interpolate(maps[:, None].float(), size=tuple(size), mode='nearest-exact')[:, 0].to(maps.dtype)
    rows, columns = (_corner_places(*sides, maps.device) for sides in zip(size, maps.shape[1:], strict=True))
    return maps[:, rows[:, None], columns]


def _corner_places(places: int, pixels: int, device: torch.device) -> Tensor:
    """The pixels nearest to ``places`` points, the first and last of which lie on the first and last pixel, long."""
    step = (pixels - 1) / (places - 1) if places > 1 else 0.0
    return (torch.arange(places, dtype=torch.float64, device=device) * step).round().long()


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
