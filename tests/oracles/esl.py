"""Enhanced Soft Label (Ma et al., 2023), its equations transcribed one by one: loops over pixels, classes and parts.

Names are the paper's symbols: p a pixel's probabilities, y the label, E the encoder's features, z the projections, P
the prototypes, mu the mean features of parts, v the anchors.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor
from torch.nn import functional as F


def eq3_to_eq5(p: Tensor, eta: float, top_n: int | None = None) -> Tensor:
    """y* (C,) of one pixel; all classes at eta = 1."""
    order = sorted(range(len(p)), key=lambda c: -p[c].item())
    if top_n is not None:
        delta = p[order[top_n - 1]]
    else:
        accumulated = 0.0
        for c in order:
            accumulated, delta = accumulated + p[c].item(), p[c]
            if accumulated >= eta and eta < 1:
                break
    h = torch.stack([(p[c] >= delta).to(p.dtype) for c in range(len(p))])
    return h * p / (h * p).abs().sum()


def eq6(logits: Tensor, y: Tensor, valid: Tensor) -> Tensor:
    """L_SCE over the valid pixels of (B, C, H, W)."""
    total, n = logits.sum() * 0, 0
    for b, i, j in valid.nonzero().tolist():
        log_p = torch.log(torch.exp(logits[b, :, i, j]) / torch.exp(logits[b, :, i, j]).sum())
        total, n = total - sum(y[b, c, i, j] * log_p[c] for c in range(len(log_p))), n + 1
    return total / max(n, 1)


def resized(E: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Features (B, L', h, w) at the resolution of the parts."""
    return F.interpolate(E, size=size, mode='bilinear', align_corners=align_corners)


def coarse(maps: Tensor, align_corners: bool = False, stride: int = 4) -> Tensor:
    """Labels (B, H, W) at a stride s: of s k pixels those in the middle of each s, of s k + 1 every s-th."""
    first = 0 if align_corners else stride // 2
    return maps[:, first::stride, first::stride]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def eq7(E_j: Tensor, P_c: Tensor) -> int:
    """k* of a pixel with features (L',) among the prototypes (K, L') of its class."""
    return max(range(len(P_c)), key=lambda k: cosine(E_j, P_c[k]).item())


def eq8(z: Tensor, part: Tensor, c: int, k: int, K: int) -> Tensor | None:
    """mu_{c, k} of one image: z (L, H, W), part (H, W) holds c K + k, -1 where there is none."""
    pixels = [z[:, i, j] for i in range(part.shape[0]) for j in range(part.shape[1]) if part[i, j] == c * K + k]
    return sum(pixels) / len(pixels) if pixels else None


def eq12(P: Tensor, E: Tensor, part: Tensor, K: int, theta: float) -> Tensor:
    """P (C, K, L') after a mini-batch of features (B, L', H, W), resized, and parts (B, H, W)."""
    P = P.clone()
    for c in range(P.shape[0]):
        for k in range(K):
            rows = [E[b, :, i, j] for b, i, j in (part == c * K + k).nonzero().tolist()]
            if rows:
                P[c, k] = theta * P[c, k] + (1 - theta) * sum(rows) / len(rows)
    return P


class Queues:
    """C K first-in-first-out queues."""

    def __init__(self, count: int, q: int) -> None:
        self.queues = [deque(maxlen=q) for _ in range(count)]

    def push(self, mu: list[Tensor | None]) -> None:
        """Push the mean features of one image."""
        for queue, feature in zip(self.queues, mu, strict=True):
            if feature is not None:
                queue.append(feature)


def eq10(anchors: list[Tensor], positive: list[Tensor], negatives: list[list[Tensor]], sigma: float) -> Tensor:
    """L_CTR of one class."""
    total = 0.0
    for v, v_plus, N in zip(anchors, positive, negatives, strict=True):
        phi = torch.exp(cosine(v, v_plus) / sigma)
        total = total - torch.log(phi / (phi + sum(torch.exp(cosine(v, v_minus) / sigma) for v_minus in N)))
    return total / len(anchors)
