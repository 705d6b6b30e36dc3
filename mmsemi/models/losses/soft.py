"""Losses to the class probabilities of another view instead of its label."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.precision import full_precision

from .pixel import masked_mean

SOFT_LOSSES = ('kl', 'cross_entropy', 'cosine')


def soft_consistency(
    logits: Tensor, prob: Tensor, weight: Tensor, valid: Tensor | None = None, kind: str = 'kl'
) -> Tensor:
    """How far a view's class probabilities are from another's, summed over pixels and divided by the *valid* ones.

    With p = ``prob`` and q of ``logits``: 'kl' is sum_c p_c (log p_c - log q_c), 'cross_entropy' -sum_c p_c log q_c,
    'cosine' 1 - cos(p, q).

    Source: CorrMatch, eq. 3 and table 10.

    Args:
        logits (Tensor): Class scores of the view that learns, (B, C, H, W).
        prob (Tensor): Class probabilities of the view that teaches, (B, C, H, W); no gradient goes into them.
        weight (Tensor): What each pixel counts, (B, H, W).
        valid (Tensor, optional): False where the crop was padded, (B, H, W). Defaults to all pixels.
        kind (str): One of ``SOFT_LOSSES``. Defaults to 'kl'.

    Returns:
        Tensor: A scalar, >= 0.
    """
    prob, log_q = full_precision(prob.detach()), full_precision(logits).log_softmax(1)
    if kind == 'cosine':
        return masked_mean((1 - F.cosine_similarity(log_q.exp(), prob, dim=1)) * weight, valid)
    loss = -(prob * log_q).sum(1)
    if kind == 'kl':
        # Apart, since no gradient needs it: fewer maps of all classes at a time.
        loss = loss + torch.xlogy(prob, prob).sum(1)
    return masked_mean(loss * weight, valid)
