"""Boxes around connected regions, found on the device in shapes that do not depend on the data."""

from __future__ import annotations

import torch
from kornia.contrib import connected_components
from torch import Tensor


@torch.no_grad()
def region_boxes(mask: Tensor, least: int = 1) -> Tensor:
    """Draw one of each mask's 8-connected regions, each that is large enough equally likely, and give its bounding box.

    Regions are found by a fixed number of steps, the longer side of the mask; what is so winding that this does not
    reach its ends counts as several regions.

    Args:
        mask (Tensor): Bool, (B, h, w).
        least (int): Fewest pixels of a region that is large enough, >= 1. Defaults to 1.

    Returns:
        Tensor: The inside of the boxes, bool, (B, h, w); empty where no region is large enough.
    """
    region = connected_components(mask[:, None].float(), num_iterations=max(mask.shape[1:]))[:, 0].long()
    area = region.new_zeros(mask.numel() + 1).scatter_add_(0, region.flatten(), mask.flatten().long())
    large = mask & (area[region] >= least)
    # A lot for each region, not for each pixel: large ones are drawn no more often than small ones.
    lots = torch.rand(mask.numel() + 1, device=mask.device)[region]
    winner = lots.masked_fill(~large, -1).flatten(1).argmax(1, keepdim=True)
    drawn = large & (region == region.flatten(1).gather(1, winner)[:, :, None])
    return _span(drawn.any(2))[:, :, None] & _span(drawn.any(1))[:, None, :]


def _span(hit: Tensor) -> Tensor:
    """From the first to the last hit of each row (B, n)."""
    begun, to_come = hit.cumsum(1) > 0, hit.flip(1).cumsum(1).flip(1) > 0
    return begun & to_come
