"""Losses to the class probabilities of another view instead of its label."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.precision import full_precision

from .pixel import masked_mean

SOFT_LOSSES = ('kl', 'cross_entropy', 'cosine')


def soft_consistency(
    logits: Tensor, target: Tensor, weight: Tensor, valid: Tensor | None = None, kind: str = 'kl'
) -> Tensor:
    """How far a view's class probabilities are from another's, summed over pixels and divided by the *valid* ones.

    With p of ``target`` and q of ``logits``: 'kl' is sum_c p_c (log p_c - log q_c), 'cross_entropy' -sum_c p_c log q_c,
    'cosine' 1 - cos(p, q).

    Source: CorrMatch, eq. 3 and table 10.

    Args:
        logits (Tensor): Class scores of the view that learns, (B, C, H, W).
        target (Tensor): Class scores of the view that teaches, (B, C, H, W); no gradient goes into them.
        weight (Tensor): What each pixel counts, (B, H, W).
        valid (Tensor, optional): False where the crop was padded, (B, H, W). Defaults to all pixels.
        kind (str): One of ``SOFT_LOSSES``. Defaults to 'kl'.

    Returns:
        Tensor: A scalar, >= 0.
    """
    log_q, log_p = (full_precision(x).log_softmax(1) for x in (logits, target.detach()))
    if kind == 'kl':
        loss = F.kl_div(log_q, log_p, reduction='none', log_target=True).sum(1)
    elif kind == 'cross_entropy':
        loss = -(log_p.exp() * log_q).sum(1)
    else:
        loss = 1 - F.cosine_similarity(log_q.exp(), log_p.exp(), dim=1)
    return masked_mean(loss * weight, valid)
