"""InfoNCE on cosine similarities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.precision import full_precision, no_autocast


def info_nce(
    anchors: Tensor, bank: Tensor, positives: Tensor, negatives: Tensor, temperature: float, weight: Tensor
) -> Tensor:
    """Pull each anchor to one sample of a bank and away from others.

    The weighted sum over anchors of ``-log(phi(v, v+) / (phi(v, v+) + sum over v- of phi(v, v-)))`` with
    ``phi(a, b) = exp(cos(a, b) / temperature)``; a sample drawn several times counts as often.

    Source: ESL, eq. 10.

    Args:
        anchors (Tensor): (A, D), any length.
        bank (Tensor): Samples, which learn nothing, (M, D), any length.
        positives (Tensor): Row of the bank of each anchor's positive sample, long, (A,).
        negatives (Tensor): Rows of its negative samples, long, (A, N).
        temperature (float): What similarities are divided by (sigma), > 0.
        weight (Tensor): What each anchor counts, >= 0, (A,); 0 leaves it out.

    Returns:
        Tensor: A scalar, >= 0.
    """
    with no_autocast(anchors):
        anchors, bank = full_precision(anchors), full_precision(bank.detach())
        drawn = torch.cat([positives[:, None], negatives], 1)
        products = _SampledProducts.apply(F.normalize(anchors) / temperature, bank.to(anchors.dtype), drawn)
        samples = products / bank.norm(dim=1).clamp(min=1e-12)[drawn]
        return ((samples.logsumexp(1) - samples[:, 0]) * weight).sum()


class _SampledProducts(torch.autograd.Function):
    """Products of each row of ``left`` (A, D) with its own rows of ``bank`` (M, D), ``drawn`` (A, N): (A, N).

    Nothing is gathered: the weighted sums of ``drawn`` rows are what ``embedding_bag`` computes, their derivative by
    the weights are the products, and the derivative of these by ``left`` are such sums again.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, bank: Tensor, drawn: Tensor) -> Tensor:
        ctx.save_for_backward(bank, drawn)
        bags = torch.arange(len(drawn), device=drawn.device)
        bag_of = bags.repeat_interleave(drawn.shape[1], output_size=drawn.numel())
        flat = drawn.flatten()
        products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            left, bank, flat, bags * drawn.shape[1], bag_of, mode=0
        )
        return products.view(drawn.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        bank, drawn = ctx.saved_tensors
        return F.embedding_bag(drawn, bank, per_sample_weights=gradient.contiguous(), mode='sum'), None, None


def sampled_info_nce(
    anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float, weight: Tensor
) -> Tensor:
    """:func:`info_nce` of samples that are at hand.

    Source: U2PL, Wang et al., 2022 (arXiv:2203.03884), the contrastive loss.

    Args:
        anchors (Tensor): (..., D), any length.
        positives (Tensor): One sample of each anchor, which learns nothing, (..., D) or a shape that expands to it.
        negatives (Tensor): Its other samples, which learn nothing, (..., N, D), any length.
        temperature (float): What similarities are divided by, > 0.
        weight (Tensor): What each anchor counts, >= 0, (...); 0 leaves it out.

    Returns:
        Tensor: A scalar, >= 0.
    """
    with no_autocast(anchors):
        anchors = F.normalize(full_precision(anchors), dim=-1)
        positives, negatives = (full_precision(x.detach()).to(anchors.dtype) for x in (positives, negatives))
        positive = (anchors * F.normalize(positives, dim=-1)).sum(-1, keepdim=True)
        # Divided afterwards: the samples are many, and a normalised copy of them would be as large.
        length = negatives.norm(dim=-1).clamp(min=1e-12)
        negative = (negatives @ anchors[..., None])[..., 0] / length
        similarity = torch.cat([positive, negative], -1) / temperature
        return ((similarity.logsumexp(-1) - similarity[..., 0]) * weight).sum()
