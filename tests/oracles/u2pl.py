"""U2PL (Wang et al., 2022, section 3), transcribed one formula after the other: loops over pixels and classes.

Names are the paper's symbols: p a pixel's probabilities, H its entropy, gamma the threshold of it, y a label, z a
representation, O the classes of a pixel from the likeliest on, A anchors, N negatives.
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

IGNORE = 255


def entropy(p: Tensor) -> float:
    """H of one pixel, p (C,)."""
    return -sum(x * math.log(x) for x in p.tolist() if x > 0)


def percentile(values: list[float], q: float) -> float:
    """The q-th percentile, linear between the two nearest values in order."""
    ordered = sorted(values)
    place = q / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def alpha(alpha_0: float, t: float, total: float) -> float:
    """alpha_t, in percent: the share of unreliable pixels; t counts epochs."""
    return alpha_0 * (1 - math.floor(t) / total)


def entropies(p: Tensor) -> Tensor:
    """H of each pixel, p (B, C, H, W)."""
    B, _, height, width = p.shape
    H = torch.zeros(B, height, width, dtype=p.dtype)
    for b in range(B):
        for i in range(height):
            for j in range(width):
                H[b, i, j] = entropy(p[b, :, i, j])
    return H


def gamma(H: Tensor, valid: Tensor, q: float) -> float:
    """The q-th percentile of the entropies of the mini-batch's valid pixels."""
    return percentile([H[b, i, j].item() for b, i, j in valid.nonzero().tolist()], q)


def pseudo_label(p: Tensor, H: Tensor, valid: Tensor, gamma_t: float) -> Tensor:
    """y hat (B, H, W): the likeliest class where H < gamma_t, else ignore."""
    y = torch.full(H.shape, IGNORE)
    for b, i, j in valid.nonzero().tolist():
        if H[b, i, j] < gamma_t:
            y[b, i, j] = max(range(p.shape[1]), key=lambda c: p[b, c, i, j].item())
    return y


def unsupervised(logits: Tensor, y: Tensor, eta: float) -> Tensor:
    """lambda_u L_u: the mean cross-entropy over the pixels with a label, divided by their share of all pixels."""
    total, kept = logits.sum() * 0, 0
    for b, i, j in (y != IGNORE).nonzero().tolist():
        q = torch.exp(logits[b, :, i, j]) / torch.exp(logits[b, :, i, j]).sum()
        total, kept = total - torch.log(q[y[b, i, j]]), kept + 1
    lambda_u = eta / (kept / y.numel())
    return lambda_u * total / kept


def order(p: Tensor) -> list[int]:
    """O of one pixel: classes from the likeliest on."""
    return sorted(range(len(p)), key=lambda c: -p[c].item())


def anchors(p: Tensor, y: Tensor, c: int, delta_p: float) -> list[tuple[int, ...]]:
    """A_c: pixels of label c (B, H, W) whose p_c exceeds delta_p."""
    return [(b, i, j) for b, i, j in (y == c).nonzero().tolist() if p[b, c, i, j] > delta_p]


def labeled_negatives(p: Tensor, y: Tensor, c: int, r_l: int) -> list[tuple[int, ...]]:
    """Labeled pixels of another class that are easily taken for c: c is among the first r_l of O."""
    pixels = (y != IGNORE).nonzero().tolist()
    return [(b, i, j) for b, i, j in pixels if y[b, i, j] != c and order(p[b, :, i, j]).index(c) < r_l]


def unlabeled_negatives(
    p: Tensor, H: Tensor, valid: Tensor, c: int, gamma_t: float, r_l: int, r_h: int
) -> list[tuple[int, ...]]:
    """Unreliable pixels, of which c is an unlikely class: from place r_l on, before r_h."""
    pixels = [(b, i, j) for b, i, j in valid.nonzero().tolist() if H[b, i, j] >= gamma_t]
    return [(b, i, j) for b, i, j in pixels if r_l <= order(p[b, :, i, j]).index(c) < r_h]


def center(z: list[Tensor]) -> Tensor:
    """z_c^+, the mean of the representations of all possible anchors."""
    return sum(z) / len(z)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def contrast(z: list[Tensor], positive: Tensor, N: list[list[Tensor]], tau: float) -> Tensor:
    """The contrastive loss of one class, a mean over its anchors."""
    total = 0.0
    for z_ci, negatives in zip(z, N, strict=True):
        e = torch.exp(cosine(z_ci, positive) / tau)
        total = total - torch.log(e / (e + sum(torch.exp(cosine(z_ci, n) / tau) for n in negatives)))
    return total / len(z)


def queues(lengths: list[int]) -> list[deque]:
    """The category-wise memory bank."""
    return [deque(maxlen=length) for length in lengths]
