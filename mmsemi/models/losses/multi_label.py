"""Losses of classifiers that may answer with several classes at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.precision import full_precision


def asymmetric_loss(logits: Tensor, targets: Tensor, gamma_pos: float, gamma_neg: float) -> Tensor:
    """Focal binary cross-entropy whose focus differs for present and absent classes, averaged over the classes.

    ``-(1 - q)^gamma_pos log q`` where a class is present, ``-q^gamma_neg log(1 - q)`` where it is absent.

    Source: MPMC, eq. 3 (whose sign is missing in print), after Ridnik et al., 2021 (arXiv:2009.14119).

    Args:
        logits (Tensor): Scores, of which q is the sigmoid, (B, C, h, w).
        targets (Tensor): Which classes are present, bool, (B, C, h, w).
        gamma_pos, gamma_neg (float): Exponents, >= 0.

    Returns:
        Tensor: (B, h, w).
    """
    logits = full_precision(logits)
    # log q = -softplus(-x), log(1 - q) = -softplus(x): no logarithm of what rounds to 0.
    present = (gamma_pos * F.logsigmoid(-logits)).exp() * F.softplus(-logits)
    absent = (gamma_neg * F.logsigmoid(logits)).exp() * F.softplus(logits)
    return torch.where(targets, present, absent).mean(1)


def weighted_binary_cross_entropy(logits: Tensor, prob: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy to probabilities, weighted for each class and averaged over the classes.

    Source: MPMC, eq. 6.

    Args:
        logits (Tensor): Scores, (B, C, h, w).
        prob (Tensor): Probabilities to learn, (B, C, h, w).
        weight (Tensor): What each class counts, (B, C, h, w).

    Returns:
        Tensor: (B, h, w).
    """
    loss = F.binary_cross_entropy_with_logits(full_precision(logits), prob, reduction='none')
    return (loss * weight).mean(1)
