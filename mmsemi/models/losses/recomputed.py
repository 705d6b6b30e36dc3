"""Losses at the resolution of the crop that keep nothing of that size for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmseg.models.utils import resize
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmsemi.models.branch import BranchOutput
from mmsemi.models.precision import full_precision, no_autocast


def at_full_resolution(loss: Callable, out: BranchOutput, *args: Any) -> Any:
    """``loss(out.logits, *args)``, whose maps of (B, C, H, W) are computed again in the backward pass.

    The scores that a network hands out have a sixteenth of these pixels. What is kept for the gradient of one loss
    would be a map of log-probabilities at least, 93 MiB for two crops of 801 and 19 classes. It computes in full
    precision, whatever autocast says.

    Args:
        loss (Callable): Takes class scores, (B, C, H, W), and ``args``.
        out (BranchOutput): Whose coarse scores are resized and learn.
        *args (Any): What else the loss takes; no gradient goes into it.

    Returns:
        Any: What the loss returns.
    """

    def resized(coarse: Tensor) -> Any:
        how = dict(size=out.size, mode='bilinear', align_corners=out.align_corners)
        with no_autocast(coarse):
            return loss(resize(full_precision(coarse), **how), *args)

    return checkpoint(resized, out.coarse_logits, use_reentrant=False, preserve_rng_state=False)
