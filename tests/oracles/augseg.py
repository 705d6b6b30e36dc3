"""AugSeg (arXiv:2212.04976), transcribed as published: loops over images, pixels and classes.

The boxes and the draws are given: ``label_box`` (B, H, W) is True inside of the labeled box in the copy of each image
that gets one, ``box`` (B, H, W) inside of the box that an image takes from its partner's copy; ``partner`` (B,) is one
permutation for both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

IGNORE = 255


def confidence(p: Tensor, valid: Tensor) -> float:
    """Of one image: the mean over its pixels of max p times (1 - entropy / log C); p (C, H, W), valid (H, W)."""
    C, H, W = p.shape
    total, count = 0.0, 0
    for y in range(H):
        for x in range(W):
            if valid[y, x]:
                entropy = -sum(float(p[c, y, x]) * math.log(float(p[c, y, x])) for c in range(C))
                total += max(float(p[c, y, x]) for c in range(C)) * (1 - entropy / math.log(C))
                count += 1
    return total / max(count, 1)


def source(
    b: int, y: int, x: int, label_box: Tensor, box: Tensor, partner: Tensor, num_labeled: int
) -> tuple[str, int]:
    """What pixel (y, x) of mixed image b shows: the stream and the number of an image."""
    if not box[b, y, x]:
        return 'unlabeled', b
    copy = int(partner[b])
    if label_box[copy, y, x]:
        return 'labeled', int(partner[copy]) % num_labeled
    return 'unlabeled', copy


def strong_view(strong: Tensor, labeled: Tensor, label_box: Tensor, box: Tensor, partner: Tensor) -> Tensor:
    """The student's view, (B, 3, H, W)."""
    images = {'labeled': labeled, 'unlabeled': strong}
    out = torch.empty_like(strong)
    B, _, H, W = strong.shape
    for b in range(B):
        for y in range(H):
            for x in range(W):
                stream, i = source(b, y, x, label_box, box, partner, len(labeled))
                out[b, :, y, x] = images[stream][i, :, y, x]
    return out


def unsupervised(
    h: Tensor,
    p: Tensor,
    labels: Tensor,
    label_box: Tensor,
    box: Tensor,
    partner: Tensor,
    valid: Tensor,
    tau: float,
) -> Tensor:
    """L_u of the student's logits h on the mixed view, given the teacher's p on the weak view, both (B, C, H, W)."""
    total, count = h.sum() * 0, 0
    B, _, H, W = h.shape
    for b in range(B):
        for y in range(H):
            for x in range(W):
                stream, i = source(b, y, x, label_box, box, partner, len(labels))
                if stream == 'labeled':
                    exists = kept = labels[i, y, x] != IGNORE
                    label = labels[i, y, x]
                else:
                    exists, kept = valid[i, y, x], p[i, :, y, x].max() >= tau
                    label = p[i, :, y, x].argmax()
                if exists:
                    count += 1
                    if kept:
                        q = h[b, :, y, x].exp() / h[b, :, y, x].exp().sum()
                        total = total - torch.log(q[label])
    return total / max(count, 1)
