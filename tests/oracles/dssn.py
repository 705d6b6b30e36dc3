"""DSSN (doi:10.1145/3581783.3611816), its equations transcribed one by one: loops over pixels and classes.

Names are the paper's symbols. A function takes the pixels of one image or batch as rows: logits h and probabilities y
(n, C), masks m and one-hot labels t (n, C); ``valid`` (n,) marks the pixels that exist.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rows(maps: Tensor) -> Tensor:
    """(C, H, W) or (B, C, H, W) as rows of pixels."""
    return maps.movedim(-3, -1).reshape(-1, maps.shape[-3])


def eq2_eq3(y: Tensor) -> Tensor:
    """One-hot pseudo-labels t."""
    t = torch.zeros_like(y)
    for i in range(len(y)):
        c = max(range(y.shape[1]), key=lambda j: float(y[i, j]))
        t[i, c] = 1
    return t


def eq10(h1: Tensor, h2: Tensor, valid: Tensor) -> Tensor:
    """Contrast of two views, over the pixels that are positive pairs; eq. 14 is the same for features."""
    total, count = h1.sum() * 0, 0
    for i in range(len(h1)):
        if valid[i]:
            count += 1
            total = total + sum((h1[i, j] - h2[i, j]) ** 2 for j in range(h1.shape[1]))
    return total / max(count, 1)


def standardised(h: Tensor, eps: float = 1e-5) -> Tensor:
    """Each pixel's logits with mean 0 and sample variance 1 over the classes."""
    out = []
    for i in range(len(h)):
        C = h.shape[1]
        mean = sum(h[i, j] for j in range(C)) / C
        variance = sum((h[i, j] - mean) ** 2 for j in range(C)) / (C - 1)
        out.append(torch.stack([(h[i, j] - mean) / (variance + eps) ** 0.5 for j in range(C)]))
    return torch.stack(out)


def released_contrast(h1: Tensor, h2: Tensor, valid: Tensor) -> Tensor:
    """The released code's variant of eq. 10: standardised logits, mean squared error."""
    return eq10(standardised(h1), standardised(h2), valid) / h1.shape[1]


def eq20(y: Tensor, valid: Tensor) -> list[float]:
    """y_j^max of each class over the pixels of one image."""
    return [max((float(y[i, j]) for i in range(len(y)) if valid[i]), default=0.0) for j in range(y.shape[1])]


def eq21(y_max: list[float], r: float, tau_low: float) -> list[float]:
    """tau_j; a class that is nowhere surer than tau_low gets its maximum, so that eq. 22 keeps no pixel of it."""
    return [r * most if most > tau_low else most for most in y_max]


def eq22(y: Tensor, tau: list[float]) -> Tensor:
    """Mask m (n, C)."""
    m = torch.zeros_like(y)
    for i in range(len(y)):
        for j in range(y.shape[1]):
            if float(y[i, j]) > tau[j]:
                m[i, j] = 1
    return m


def cplg(y: Tensor, r: float, tau_low: float, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Section 3.4 for one image: m and t."""
    return eq22(y, eq21(eq20(y, valid), r, tau_low)), eq2_eq3(y)


def eq18(m: Tensor, t: Tensor, y_s: Tensor, valid: Tensor) -> Tensor:
    """One view's half of eq. 18 or 19, divided by the number of valid pixels."""
    total, count = y_s.sum() * 0, 0
    for i in range(len(y_s)):
        if valid[i]:
            count += 1
            for j in range(y_s.shape[1]):
                if m[i, j] * t[i, j]:
                    total = total - torch.log(y_s[i, j])
    return total / max(count, 1)


def eq23(L_sup, L_cl_ls, L_cl_hs, L_w2s_l, L_w2s_h, gamma_1: float = 0.01, gamma_2: float = 0.25):
    """L."""
    return L_sup + gamma_1 * (L_cl_ls + L_cl_hs) + gamma_2 * (L_w2s_l + L_w2s_h)
