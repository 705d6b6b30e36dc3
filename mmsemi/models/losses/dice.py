"""Dice losses: the overlap of whole classes, so that a small one counts as much as a large one."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from mmsemi.models.precision import full_precision
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, PseudoLabel

_SMOOTH = 1e-5


def dice_loss(logits: Tensor, pseudo: PseudoLabel, valid: Tensor | None = None, smooth: float = _SMOOTH) -> Tensor:
    """1 - Dice of each class over the pixels that count, averaged over all classes, the background too.

    ``Dice_c = (2 sum_j w_j p_jc y_jc + smooth) / (sum_j w_j p_jc^2 + sum_j w_j y_jc^2 + smooth)`` with probabilities p,
    labels y and weights w of the pixels j of all images, over the batch and over the ranks. A class that is neither
    there nor predicted costs nothing.

    Source: UniMatch's released code for medical images (LiheYoung/UniMatch, more-scenarios/medical), in which w is 0 or
    1 and one process has the whole batch.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        pseudo (PseudoLabel): Labels and weights, (B, H, W); the label 255 counts nowhere.
        valid (Tensor, optional): False where the crop was padded, (B, H, W). Defaults to all pixels.
        smooth (float): What is added above and below, > 0. Defaults to 1e-5.

    Returns:
        Tensor: A scalar in [0, 1]; 0 where no pixel counts.
    """
    prob = full_precision(logits).softmax(1)
    counted = pseudo.label != IGNORE_INDEX
    if valid is not None:
        counted = counted & valid
    weight = torch.where(counted, pseudo.weight, 0).to(prob.dtype)[:, None]
    # `where`, not a product: what stands at a pixel that does not count may be no number.
    prob = torch.where(counted[:, None], prob, 0)
    classes = torch.arange(prob.shape[1], device=prob.device)[:, None, None]
    member = (pseudo.label[:, None] == classes) * weight
    sums = torch.stack([(prob * member).sum((0, 2, 3)), (prob.square() * weight + member).sum((0, 2, 3))])
    overlap, total = _over_ranks(sums)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def _over_ranks(sums: Tensor) -> Tensor:
    """The sums over all ranks. Of their gradient each rank passes its own part on, times the number of ranks, by which
    the mean over ranks divides it again.
    """
    total = sums.detach().clone()
    all_reduce(total)
    return total + get_world_size() * (sums - sums.detach())


@MODELS.register_module()
class PixelDiceLoss(nn.Module):
    """:func:`dice_loss` to the ground truth, for a decode head's ``loss_decode``.

    mmseg's ``DiceLoss`` takes the overlap of all classes of an image in one; here each class has its own in the batch.

    Args:
        loss_weight (float): Factor of the loss. Defaults to 1.0.
        smooth (float): What is added above and below, > 0. Defaults to 1e-5.
        loss_name (str): Name in the log. Defaults to 'loss_dice'.

    Raises:
        ValueError: If ``smooth`` is not above 0.
    """

    def __init__(self, loss_weight: float = 1.0, smooth: float = _SMOOTH, loss_name: str = 'loss_dice') -> None:
        super().__init__()
        if smooth <= 0:
            raise ValueError(f'PixelDiceLoss: smooth must lie above 0, not {smooth}.')
        self.loss_weight = loss_weight
        self.smooth = smooth
        self.loss_name = loss_name

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE_INDEX
    ) -> Tensor:
        """Compare ``logits`` (B, C, H, W) with ``labels`` (B, H, W); ``weight`` (B, H, W) is each pixel's."""
        if weight is None:
            weight = torch.ones_like(labels, dtype=logits.dtype)
        return self.loss_weight * dice_loss(logits, PseudoLabel(labels, weight), labels != ignore_index, self.smooth)
