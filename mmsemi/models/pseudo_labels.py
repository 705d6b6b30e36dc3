"""From logits to pseudo-labels."""

from __future__ import annotations

from torch import Tensor

from mmsemi.models.precision import probabilities
from mmsemi.structures import PseudoLabel


def confident_labels(logits: Tensor, threshold: float | Tensor, valid: Tensor | None = None) -> PseudoLabel:
    """The most probable class of each pixel, kept where its probability reaches ``threshold``.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        threshold (float | Tensor): Least probability, in [0, 1]; a scalar, or one for each class, (C,).
        valid (Tensor, optional): False where the crop was padded, (B, H, W).

    Returns:
        PseudoLabel: Weight 1 for confident pixels, 0 for the others.
    """
    confidence, label = probabilities(logits.detach()).max(1)
    if isinstance(threshold, Tensor) and threshold.ndim:
        threshold = threshold[label]
    kept = confidence >= threshold
    if valid is not None:
        kept = kept & valid
    return PseudoLabel(label, kept.to(confidence.dtype))


def label_accuracy(label: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """Share of the ``counted`` pixels whose label is the ``truth``, all (B, H, W); 0 where none is counted."""
    return ((label == truth) & counted).sum() / counted.sum().clamp(min=1)
