"""Thresholds of confidence that a batch gives itself."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor


@torch.no_grad()
def class_thresholds(prob: Tensor, threshold: float, valid: Tensor | None = None) -> Tensor:
    """A threshold for each class, lower for classes that few pixels are confident of in this batch.

    With delta_c the number of confident pixels of class c, the threshold is ``delta_c / max(delta) * threshold``; where
    no pixel is confident, it is ``threshold`` for all classes. Ranks add their counts.

    Source: MLLC, eq. 9, after FlexMatch (Zhang et al., 2021, arXiv:2110.08263).

    Args:
        prob (Tensor): Class probabilities, (B, C, H, W).
        threshold (float): Probability above which a pixel is confident (sigma), in [0, 1].
        valid (Tensor, optional): False where the crop was padded, (B, H, W).

    Returns:
        Tensor: (C,).
    """
    confidence, label = prob.max(1)
    confident = confidence > threshold
    if valid is not None:
        confident = confident & valid
    counts = prob.new_zeros(prob.shape[1], dtype=torch.promote_types(prob.dtype, torch.float32))
    counts.scatter_add_(0, label.flatten(), confident.flatten().to(counts.dtype))
    all_reduce(counts)
    most = counts.max()
    return torch.where(most > 0, counts / most.clamp(min=1) * threshold, threshold).to(prob.dtype)


@torch.no_grad()
def image_class_thresholds(prob: Tensor, ratio: float, least: float, valid: Tensor | None = None) -> Tensor:
    """A threshold for each class in each image: a share of the probability at the pixel that is surest of the class.

    ``ratio`` times that maximum where the maximum exceeds ``least``, else the maximum itself, which no pixel of the
    image exceeds.

    Source: DSSN, eq. 20 and 21.

    Args:
        prob (Tensor): Class probabilities, (B, C, H, W).
        ratio (float): Share of the maximum (r), in (0, 1].
        least (float): What the maximum must exceed (tau_low), in (0, 1].
        valid (Tensor, optional): False where the crop was padded, (B, H, W).

    Returns:
        Tensor: (B, C).
    """
    if valid is not None:
        prob = prob.masked_fill(~valid[:, None], 0)
    most = prob.flatten(2).amax(2)
    return torch.where(most > least, ratio * most, most)


@torch.no_grad()
def quantiles(values: Tensor, counted: Tensor, shares: Tensor) -> Tensor:
    """Below which values lie which shares of the counted ones of all ranks, interpolated as by ``numpy.quantile``.

    Source: U2PL, where the threshold of the entropy is a percentile of the mini-batch.

    Args:
        values (Tensor): >= 0, float32 or float64, any shape.
        counted (Tensor): Which of them count, bool, the same shape.
        shares (Tensor): In [0, 1], (N,).

    Returns:
        Tensor: (N,), infinite if nothing is counted.
    """
    # What does not count comes last.
    ordered = values.masked_fill(~counted, torch.inf)
    count = counted.sum()
    all_reduce(count)
    place = shares.double() * (count - 1).clamp(min=0)
    low, high = order_statistics(ordered, torch.stack([place.floor(), place.ceil()]).long())
    return torch.where(high > low, torch.lerp(low, high, place.frac().to(low.dtype)), low)


@torch.no_grad()
def order_statistics(values: Tensor, places: Tensor) -> Tensor:
    """Which values stand at ``places`` once the values of all ranks are put in order.

    Numbers are ordered as their bits are. The bits are found byte by byte: each is the highest that leaves no more
    values below than the place, of which ranks add up their counts. No value travels, and one rank does as several do.

    Args:
        values (Tensor): Of this rank, >= 0, float32 or float64, any shape.
        places (Tensor): From 0, the lowest value's, to one less than there are values on all ranks, long, any shape.

    Returns:
        Tensor: As ``places``.
    """
    ordered = values.flatten().sort().values
    kind = torch.int32 if ordered.dtype == torch.float32 else torch.int64
    bits = torch.zeros_like(places, dtype=kind)[..., None]
    for byte in reversed(range(ordered.element_size())):
        # The highest bit of all is the sign.
        digits = torch.arange(128 if byte == ordered.element_size() - 1 else 256, dtype=kind, device=ordered.device)
        tried = bits + (digits << 8 * byte)
        below = torch.searchsorted(ordered, tried.view(ordered.dtype))
        all_reduce(below)
        bits = tried.gather(-1, (below <= places[..., None]).sum(-1, keepdim=True) - 1)
    return bits[..., 0].view(ordered.dtype)
