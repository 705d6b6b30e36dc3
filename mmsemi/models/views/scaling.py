"""Images at a scale of their own, in a batch of one size, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsemi.models.precision import full_precision, no_autocast
from mmsemi.structures import IGNORE_INDEX


@torch.no_grad()
def rescaled(images: Tensor, labels: Tensor, factor: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each image by its own factor about its own place; what it leaves free has the label 255.

    Images are resized with antialiasing (the triangle filter of PIL's bilinear resize, as two matrix products, so that
    no shape depends on a factor), labels are taken from the nearest pixel.

    Args:
        images (Tensor): (B, 3, H, W).
        labels (Tensor): Long, (B, H, W).
        factor (Tensor): What the sides of each image are multiplied by, > 0, (B,).
        place (Tensor): Share, in [0, 1], of the room above and left of a shrunk image, or of what is cut from a grown
            one there, (B, 2).

    Returns:
        tuple[Tensor, Tensor]: Images, float32 or float64, and labels, of the same shapes.
    """
    (rows, row, has_row), (columns, column, has_column) = (
        _resampling(factor, place[:, axis], size) for axis, size in enumerate(labels.shape[1:])
    )
    with no_autocast(images):
        images = full_precision(images)
        rows, columns = rows.to(images.dtype), columns.to(images.dtype)
        images = rows[:, None] @ images @ columns.transpose(1, 2)[:, None]
    labels = labels.gather(1, row[:, :, None].expand_as(labels)).gather(2, column[:, None].expand_as(labels))
    return images, torch.where(has_row[:, :, None] & has_column[:, None], labels, IGNORE_INDEX)


def _resampling(factor: Tensor, place: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis of ``size`` n: weights of old for new pixels, (B, n, n); the nearest old one, and if there is one,
    (B, n)."""
    pixel = torch.arange(size, device=factor.device)
    factor, before = factor[:, None], (place * size * (1 - factor))[:, None]
    centre = (pixel + 0.5 - before) / factor - 0.5
    weight = (1 - (pixel - centre[..., None]).abs() * factor.clamp(max=1)[..., None]).clamp(min=0)
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)
    inside = (centre >= -0.5) & (centre < size - 0.5)
    return weight, (centre + 0.5).floor().long().clamp(0, size - 1), inside
