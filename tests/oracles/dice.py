"""Dice, pixel by pixel and class by class."""

from __future__ import annotations

import torch
from torch import Tensor


def dice_loss(prob: Tensor, label: Tensor, weight: Tensor, smooth: float) -> Tensor:
    """1 - Dice averaged over the classes, of probabilities (B, C, H, W), labels and weights (B, H, W)."""
    loss = prob.sum() * 0
    for c in range(prob.shape[1]):
        overlap = total = torch.zeros((), dtype=prob.dtype)
        for b, i, j in (weight > 0).nonzero().tolist():
            p, y, w = prob[b, c, i, j], float(label[b, i, j] == c), weight[b, i, j]
            overlap, total = overlap + w * p * y, total + w * p**2 + w * y**2
        loss = loss + 1 - (2 * overlap + smooth) / (total + smooth)
    return loss / prob.shape[1]
