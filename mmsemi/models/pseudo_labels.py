"""From logits to pseudo-labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmsemi.models.precision import full_precision, probabilities
from mmsemi.structures import PseudoLabel

from .thresholds import image_class_thresholds


def confident_labels(logits: Tensor, threshold: float | Tensor, valid: Tensor | None = None) -> PseudoLabel:
    """The most probable class of each pixel, kept where its probability reaches ``threshold``.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        threshold (float | Tensor): Least probability, in [0, 1]; a scalar, one for each class, (C,), or one for each
            place, (H, W).
        valid (Tensor, optional): False where the crop was padded, (B, H, W).

    Returns:
        PseudoLabel: Weight 1 for confident pixels, 0 for the others.
    """
    confidence, label = probabilities(logits.detach()).max(1)
    if isinstance(threshold, Tensor) and threshold.ndim == 1:
        threshold = threshold[label]
    kept = confidence >= threshold
    if valid is not None:
        kept = kept & valid
    return PseudoLabel(label, kept.to(confidence.dtype))


def confidence_weighted_labels(
    logits: Tensor, power: float, threshold: float = 0.0, valid: Tensor | None = None
) -> tuple[PseudoLabel, Tensor]:
    """The most probable class of each pixel, weighted by a power of its probability.

    Source: AEL, dynamic re-weighting, eq. 13; the threshold is that of its released code.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        power (float): Exponent of the probability (gamma), >= 0; 0 weighs all pixels alike.
        threshold (float): Least probability, in [0, 1]. Defaults to 0.
        valid (Tensor, optional): False where the crop was padded, (B, H, W).

    Returns:
        tuple[PseudoLabel, Tensor]: Labels, weight 0 for pixels below the threshold or not valid; and the weights before
        the threshold, (B, H, W).
    """
    confidence, label = probabilities(logits.detach()).max(1)
    weight = confidence**power
    if valid is not None:
        weight = torch.where(valid, weight, 0)
    return PseudoLabel(label, torch.where(confidence >= threshold, weight, 0)), weight


def class_aware_labels(logits: Tensor, ratio: float, least: float, valid: Tensor | None = None) -> PseudoLabel:
    """The most probable class of each pixel, kept where it is nearly as probable as anywhere in the image.

    Source: DSSN, class-aware pseudo-label generation, eq. 2, 3 and 20 to 22.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        ratio (float): Share of the class's maximum over the image that a pixel must exceed (r), in (0, 1].
        least (float): Classes whose maximum does not exceed it (tau_low), in (0, 1], are not kept at all.
        valid (Tensor, optional): False where the crop was padded, (B, H, W): no pixel of the maxima.

    Returns:
        PseudoLabel: Weight 1 for kept pixels, 0 for the others.
    """
    prob = probabilities(logits.detach())
    confidence, label = prob.max(1)
    threshold = image_class_thresholds(prob, ratio, least, valid)
    kept = confidence > threshold.gather(1, label.flatten(1)).view_as(label)
    if valid is not None:
        kept = kept & valid
    return PseudoLabel(label, kept.to(confidence.dtype))


def dynamic_soft_labels(
    logits: Tensor, mass: float, top_n: int | None = None, valid: Tensor | None = None
) -> PseudoLabel:
    """The probabilities of each pixel's dominant classes, scaled to the sum 1; the other classes get 0.

    Dominant are the fewest of the most probable classes that together hold ``mass``, and whichever class is as probable
    as the last of them. A small ``mass`` leaves the best class alone, 1 leaves the probabilities as they are.

    Source: ESL, eq. 3 to 5; ``top_n`` is the "Top-5" of its table 3.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        mass (float): Probability that the dominant classes must reach (eta), in (0, 1].
        top_n (int, optional): A fixed number of dominant classes instead, from 1 to C.
        valid (Tensor, optional): False where the crop was padded, (B, H, W).

    Returns:
        PseudoLabel: With ``prob``; weight 1 for all pixels that are valid.
    """
    prob = probabilities(logits.detach())
    ordered = prob.sort(1, descending=True).values
    if top_n is not None:
        least = ordered[:, top_n - 1 : top_n]
    elif mass < 1:
        last = (ordered.cumsum(1) < mass).sum(1, keepdim=True)
        # Where rounding keeps the sum of all classes below the mass, all are dominant.
        least = ordered.gather(1, last.clamp(max=prob.shape[1] - 1))
    else:
        # Rounding lets the sum reach 1 before all classes are counted.
        least = ordered[:, -1:]
    dominant = torch.where(prob >= least, prob, 0)
    soft = dominant / dominant.sum(1, keepdim=True)
    weight = torch.ones_like(prob[:, 0]) if valid is None else valid.to(prob.dtype)
    return PseudoLabel(prob.argmax(1), weight, soft)


def image_confidence(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """How sure a network is of each image: the mean over its pixels of ``max p (1 - H(p) / log C)``.

    1 where every pixel has one class without doubt, 0 where every class is equally probable everywhere, or no pixel is
    valid.

    Source: AugSeg, Zhao et al., 2023 (arXiv:2212.04976), adaptive label-aided CutMix.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        valid (Tensor, optional): False where the crop was padded, (B, H, W): no pixel of the mean.

    Returns:
        Tensor: In [0, 1], (B,).
    """
    log_prob = full_precision(logits.detach()).log_softmax(1)
    prob = log_prob.exp()
    certainty = 1 + (prob * log_prob).sum(1) / math.log(logits.shape[1])
    confidence = prob.amax(1) * certainty
    if valid is None:
        return confidence.mean((1, 2))
    return torch.where(valid, confidence, 0).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


def label_accuracy(label: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """Share of the ``counted`` pixels whose label is the ``truth``, all (B, H, W); 0 where none is counted."""
    return ((label == truth) & counted).sum() / counted.sum().clamp(min=1)
