"""InfoNCE on cosine similarities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.precision import full_precision, no_autocast


def info_nce(
    anchors: Tensor, positives: Tensor, bank: Tensor, negatives: Tensor, temperature: float, weight: Tensor
) -> Tensor:
    """Pull each anchor to a sample of its own and away from some of a bank.

    The weighted sum over anchors of ``-log(phi(v, v+) / (phi(v, v+) + sum over v- of phi(v, v-)))`` with
    ``phi(a, b) = exp(cos(a, b) / temperature)``; a sample drawn several times counts as often.

    Source: ESL, eq. 10; U2PL, Wang et al., 2022 (arXiv:2203.03884), the contrastive loss.

    Args:
        anchors (Tensor): (A, D), any length.
        positives (Tensor): Each anchor's positive sample, which learns nothing, (A, D), any length.
        bank (Tensor): Samples, which learn nothing, (M, D), any length; they may not change before the backward pass.
        negatives (Tensor): Rows of each anchor's negative samples, long, (A, N).
        temperature (float): What similarities are divided by (sigma), > 0.
        weight (Tensor): What each anchor counts, >= 0, (A,); 0 leaves it out.

    Returns:
        Tensor: A scalar, >= 0.
    """
    with no_autocast(anchors):
        anchors = F.normalize(full_precision(anchors))
        positives, bank = (full_precision(x.detach()).to(anchors.dtype) for x in (positives, bank))
        positive = (anchors * F.normalize(positives)).sum(1, keepdim=True)
        # Lengths of all, since a bank is read faster than rows are picked from it.
        negative = _SampledProducts.apply(anchors, bank, negatives) / bank.norm(dim=1).clamp(min=1e-12)[negatives]
        similarity = torch.cat([positive, negative], 1) / temperature
        return ((similarity.logsumexp(1) - similarity[:, 0]) * weight).sum()


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
