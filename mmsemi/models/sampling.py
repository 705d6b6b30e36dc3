"""Random pixels of each class, drawn on the device in shapes that do not depend on the data."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def draw_per_class(
    labels: Tensor, counted: Tensor, num_classes: int, ratio: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Draw a share of the pixels of each class, without replacement: at least one, at most ``limit``.

    A class's pixels are equally likely, so that the mean over those drawn estimates the mean over the class without
    bias, however few they are.

    Args:
        labels (Tensor): Class of each pixel, long, any shape; read where ``counted``.
        counted (Tensor): Which pixels may be drawn, bool, the same shape.
        num_classes (int): Number of classes (C).
        ratio (float): Share of a class's pixels, in (0, 1].
        limit (int): Most pixels of a class (M), >= 1.

    Returns:
        tuple[Tensor, Tensor]: Positions among the flattened pixels, long, (C, M), and which of them were drawn, bool,
        (C, M); the others hold any position.
    """
    label = torch.where(counted, labels, num_classes).flatten()
    # Shuffle, then sort by class and keep the shuffled order within each.
    shuffled = torch.rand(label.shape, device=label.device).argsort()
    order = shuffled[label[shuffled].argsort(stable=True)]
    count = label.new_zeros(num_classes + 1).scatter_add_(0, label, torch.ones_like(label))
    first, count = (count.cumsum(0) - count)[:num_classes], count[:num_classes]
    wanted = (count * ratio).round().long().clamp(min=1, max=limit).minimum(count)
    place = torch.arange(limit, device=label.device)
    index = order[(first[:, None] + place).clamp(max=len(order) - 1)]
    return index, place < wanted[:, None]
