"""Thresholds of confidence that follow training."""

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
    counts = prob.new_zeros(prob.shape[1], dtype=torch.float32)
    counts.scatter_add_(0, label.flatten(), confident.flatten().float())
    all_reduce(counts)
    most = counts.max()
    return torch.where(most > 0, counts / most.clamp(min=1) * threshold, threshold).to(prob.dtype)
