"""CorrMatch (arXiv:2306.04300), its equations and algorithms transcribed one by one: loops and dense matrices.

Names are the paper's symbols: w_1, w_2 features (D, n), C_map the correlation map (n, n), M the high-confidence region.
Functions take one image, :func:`eq11` a batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def eq4(w_1: Tensor, w_2: Tensor) -> Tensor:
    """C_map (n, n); each row sums to 1. The root of D divides what the softmax sees."""
    D, n = w_1.shape
    rows = []
    for i in range(n):
        similarity = torch.stack([(w_1[:, i] * w_2[:, j]).sum() / math.sqrt(D) for j in range(n)])
        rows.append(similarity.exp() / similarity.exp().sum())
    return torch.stack(rows)


def eq5(logits: Tensor, C_map: Tensor) -> Tensor:
    """z (K, n) from logits (K, n): column j of the map weighs the positions i."""
    n = len(C_map)
    return torch.stack([sum(logits[:, i] * C_map[i, j] for i in range(n)) for j in range(n)], dim=1)


def eq7(c: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Shape (H, W), bool, of a row (h, w): resized, normalised, above one half."""
    c = F.interpolate(c[None, None], size=size, mode='bilinear', align_corners=align_corners)[0, 0]
    lines = c.tolist()
    low, high = min(map(min, lines)), max(map(max, lines))
    return torch.tensor([[(value - low) / (high - low) > 0.5 for value in line] for line in lines])


def algorithm1(
    shapes: list[Tensor], t: float, hc_region: Tensor, pseudo_label: Tensor, cascade: bool = False
) -> tuple[Tensor, Tensor, list[int]]:
    """Pseudo-label and high-confidence region after all shapes, and which shapes acted.

    The high-confidence shapes are found before any shape acts, in the algorithm's first line. With ``cascade`` each is
    found when its turn comes, in the region that the shapes before it have made. Shares are float32, as torch has them.
    """
    pseudo_label, hc_region, acted = pseudo_label.clone(), hc_region.clone(), []
    hc_shapes = [shape & hc_region for shape in shapes]
    t = torch.tensor(t, dtype=torch.float32)
    for j, (shape, hc_shape) in enumerate(zip(shapes, hc_shapes, strict=True)):
        if cascade:
            hc_shape = shape & hc_region
        if hc_shape.sum() == 0 or hc_shape.sum() / shape.sum() < t:
            continue
        unique_cls, cnt = torch.unique(pseudo_label[hc_shape], return_counts=True)
        if cnt.max() / cnt.sum() <= t:
            continue
        pseudo_label[shape] = unique_cls[cnt.argmax()]
        hc_region |= shape
        acted.append(j)
    return pseudo_label, hc_region, acted


def maximum_by_class(prob: Tensor, valid: Tensor) -> dict[int, float]:
    """Eq. 14 for each predicted class of a batch (B, K, H, W): its highest confidence."""
    B, _, H, W = prob.shape
    maxima: dict[int, float] = {}
    for b in range(B):
        for y in range(H):
            for x in range(W):
                if valid[b, y, x]:
                    p = prob[b, :, y, x]
                    label = int(p.argmax())
                    maxima[label] = max(maxima.get(label, 0.0), p.max().item())
    return maxima


def eq11(prob: Tensor, valid: Tensor) -> float:
    """Delta tau: the mean over the predicted classes."""
    maxima = maximum_by_class(prob, valid)
    return sum(maxima.values()) / len(maxima)


def eq13(tau: float, delta: float, momentum: float) -> float:
    """tau of the next iteration."""
    return momentum * tau + (1 - momentum) * delta


def eq1(nll: Tensor, M: Tensor, valid: Tensor) -> Tensor:
    """A loss of each pixel (B, H, W) in the region M, divided by the number of valid pixels."""
    total = nll.new_zeros(())
    for value, kept in zip(nll.flatten(), (M & valid).flatten(), strict=True):
        total = total + value * float(kept)
    return total / valid.sum()


def eq3(strong: Tensor, weak: Tensor, kind: str) -> Tensor:
    """The soft loss of each pixel, (B, H, W), for logits (B, K, H, W)."""
    p_s, p_w = strong.softmax(1), weak.softmax(1)
    if kind == 'kl':
        return sum(p_w[:, k] * (p_w[:, k].log() - p_s[:, k].log()) for k in range(p_w.shape[1]))
    if kind == 'cross_entropy':
        return sum(-p_w[:, k] * p_s[:, k].log() for k in range(p_w.shape[1]))
    product = sum(p_s[:, k] * p_w[:, k] for k in range(p_w.shape[1]))
    return 1 - product / (p_s.square().sum(1).sqrt() * p_w.square().sum(1).sqrt())
