"""UniMatch (arXiv:2208.09910), its loss transcribed as published: loops over images, pixels and classes."""

from __future__ import annotations

import torch
from torch import Tensor


def mixed(images: Tensor, mask: Tensor) -> Tensor:
    """CutMix with the partner of the reversed batch, pixel by pixel; ``images`` (B, ...), ``mask`` (B, H, W)."""
    out = images.clone()
    B, H, W = mask.shape
    for b in range(B):
        for y in range(H):
            for x in range(W):
                if mask[b, y, x]:
                    out[b, ..., y, x] = images[B - 1 - b, ..., y, x]
    return out


def pseudo_labels(p: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """argmax of p (B, C, H, W), and whether max p >= tau."""
    B, _, H, W = p.shape
    label, kept = torch.zeros(B, H, W, dtype=torch.long), torch.zeros(B, H, W, dtype=torch.bool)
    for b in range(B):
        for y in range(H):
            for x in range(W):
                label[b, y, x] = p[b, :, y, x].argmax()
                kept[b, y, x] = p[b, :, y, x].max() >= tau
    return label, kept


def cross_entropy(h: Tensor, label: Tensor, kept: Tensor, valid: Tensor) -> Tensor:
    """Sum over kept and valid pixels, divided by the number of valid pixels; logits h (B, C, H, W)."""
    total, count = h.sum() * 0, 0
    B, _, H, W = h.shape
    for b in range(B):
        for y in range(H):
            for x in range(W):
                if not valid[b, y, x]:
                    continue
                count += 1
                if kept[b, y, x]:
                    q = h[b, :, y, x].exp() / h[b, :, y, x].exp().sum()
                    total = total - torch.log(q[label[b, y, x]])
    return total / max(count, 1)


def overall(L_x: Tensor, L_s1: Tensor, L_s2: Tensor, L_fp: Tensor) -> Tensor:
    """L."""
    return (L_x + 0.25 * L_s1 + 0.25 * L_s2 + 0.5 * L_fp) / 2


def overall_v2(L_x: Tensor, L_s1: Tensor, L_s2: Tensor) -> Tensor:
    """L of UniMatch V2 (arXiv:2410.10777)."""
    return (L_x + (L_s1 + L_s2) / 2) / 2


def complementary_dropout(first: Tensor, second: Tensor, coins: Tensor, whole: list[int]) -> tuple[Tensor, Tensor]:
    """Features of two views of N images (N, C, h, w); coins (N, C) of 0 and 1; images that keep all channels."""
    out = first.clone(), second.clone()
    for n in range(first.shape[0]):
        for c in range(first.shape[1]):
            if n not in whole:
                out[0][n, c] = 2 * first[n, c] if coins[n, c] else 0
                out[1][n, c] = 0 if coins[n, c] else 2 * second[n, c]
    return out
