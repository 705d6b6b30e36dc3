"""DINOv2's position embedding on another grid, point by point (arXiv:2304.07193, as released)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cubic(t: float) -> float:
    """Weight of a point at distance t, with the coefficient -0.75 that PyTorch takes."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def position_embedding(native: Tensor, height: int, width: int) -> Tensor:
    """native (h, w, D) at height x width points; the factor is that of 0.1 patches more."""
    h, w, D = native.shape
    out = torch.zeros(height, width, D, dtype=native.dtype)
    for y in range(height):
        for x in range(width):
            v = (y + 0.5) * h / (height + 0.1) - 0.5
            u = (x + 0.5) * w / (width + 0.1) - 0.5
            for j in range(math.floor(v) - 1, math.floor(v) + 3):
                for i in range(math.floor(u) - 1, math.floor(u) + 3):
                    point = native[min(max(j, 0), h - 1), min(max(i, 0), w - 1)]
                    out[y, x] += cubic(v - j) * cubic(u - i) * point
    return out
