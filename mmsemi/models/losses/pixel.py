"""Losses a pixel, without a host round trip, each normalised as the papers of this field do."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn import functional as F

from mmsemi.models.precision import full_precision, probabilities
from mmsemi.models.thresholds import order_statistics
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, PseudoLabel

_SMALLEST_TOTAL = 1e-6
"""Weights whose sum is below this count as none: they are divided by this, lest a gradient overflow."""


def pixel_cross_entropy(logits: Tensor, pseudo: PseudoLabel, valid: Tensor | None = None) -> Tensor:
    """Weighted cross-entropy to a pseudo-label, summed over pixels and divided by the number of *valid* pixels.

    Pixels that the threshold left out count in the denominator, as in all released code of this field: a batch with few
    confident pixels teaches little.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        pseudo (PseudoLabel): Labels and weights, (B, H, W).
        valid (Tensor, optional): False where the crop was padded, (B, H, W). Defaults to all pixels.

    Returns:
        Tensor: A scalar.
    """
    return masked_mean(_pixel_losses(logits, pseudo.label) * pseudo.weight, valid)


def soft_cross_entropy(logits: Tensor, pseudo: PseudoLabel, valid: Tensor | None = None) -> Tensor:
    """Weighted cross-entropy to class probabilities, normalised as :func:`pixel_cross_entropy`.

    Source: ESL, eq. 6.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        pseudo (PseudoLabel): With ``prob`` (B, C, H, W); and weights, (B, H, W).
        valid (Tensor, optional): False where the crop was padded, (B, H, W). Defaults to all pixels.

    Returns:
        Tensor: A scalar.
    """
    log_prob = full_precision(logits).log_softmax(1)
    return masked_mean(-(pseudo.prob * log_prob).sum(1) * pseudo.weight, valid)


def normalised_cross_entropy(logits: Tensor, pseudo: PseudoLabel, total: Tensor) -> Tensor:
    """Weighted cross-entropy to a pseudo-label, summed over pixels and divided by ``total``.

    With the sum of the weights as ``total`` it is a weighted mean: a batch with few sure pixels teaches as much as any
    other. With the sums of each image it is the mean of such means.

    Source: AEL, dynamic re-weighting, eq. 12.

    Args:
        logits (Tensor): Class scores, (B, C, H, W).
        pseudo (PseudoLabel): Labels and weights, (B, H, W).
        total (Tensor): What the weights sum to, >= 0: a scalar, or one sum an image, (B,).

    Returns:
        Tensor: A scalar; where a sum is 0 its pixels add 0.
    """
    loss = _pixel_losses(logits, pseudo.label) * pseudo.weight
    loss = loss.sum((1, 2)) if total.ndim else loss.sum()
    return (loss / total.clamp(min=_SMALLEST_TOTAL)).mean()


def _pixel_losses(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of each pixel, in full precision, (B, H, W)."""
    return F.cross_entropy(full_precision(logits), label, reduction='none', ignore_index=IGNORE_INDEX)


def masked_mean(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of ``values`` where ``valid`` is True, 0 where nothing is."""
    if valid is None:
        return values.mean()
    # `where`, not a product: what stands at an invalid pixel may be infinite.
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def logit_distance(first: Tensor, second: Tensor, valid: Tensor | None = None, normalize: bool = True) -> Tensor:
    """Squared distance of the class scores that two views give a pixel, averaged over pixels.

    Contrast with positive pairs alone; both views learn. ``normalize``: scores are standardised over the classes (mean
    0, sample variance 1) and the squares are averaged over them, which lies in [0, 4] however confident the scores are;
    else the squares of the plain scores are summed.

    Source: DSSN, eq. 10 and 14 (without ``normalize``), and its released code, which divides by 0 where all scores of a
    pixel are equal.

    Args:
        first, second (Tensor): Class scores, (B, C, H, W).
        valid (Tensor, optional): Where the pixels show the same thing, (B, H, W). Defaults to all pixels.
        normalize (bool): Compare standardised scores. Defaults to True.

    Returns:
        Tensor: A scalar, 0 where no pixel counts.
    """
    first, second = full_precision(first), full_precision(second)
    if not normalize:
        return masked_mean((first - second).square().sum(1), valid)
    # Standardised as layers are, but for the sample variance; scores that are all equal become 0.
    classes = first.shape[1]
    share = (classes - 1) / classes
    first, second = (F.layer_norm(x.movedim(1, -1), (classes,), eps=1e-5 * share) for x in (first, second))
    return share * masked_mean(F.mse_loss(first, second, reduction='none').mean(-1), valid)


@MODELS.register_module()
class PixelCrossEntropyLoss(nn.Module):
    """Cross-entropy averaged over the pixels that are not ignored, for a decode head's ``loss_decode``.

    mmseg's ``CrossEntropyLoss`` divides by all pixels, or, with ``avg_non_ignore``, counts the others on the host.

    Args:
        loss_weight (float): Factor of the loss. Defaults to 1.0.
        class_weight (list[float], optional): Factor of each class.
        loss_name (str): Name in the log. Defaults to 'loss_ce'.
    """

    def __init__(
        self, loss_weight: float = 1.0, class_weight: list[float] | None = None, loss_name: str = 'loss_ce'
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        weight = None if class_weight is None else torch.tensor(class_weight)
        self.register_buffer('class_weight', weight, persistent=False)

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE_INDEX
    ) -> Tensor:
        """Compare ``logits`` (B, C, H, W) with ``labels`` (B, H, W); ``weight`` (B, H, W) multiplies each pixel."""
        logits = full_precision(logits)
        loss = F.cross_entropy(logits, labels, self.class_weight, reduction='none', ignore_index=ignore_index)
        if weight is not None:
            loss = loss * weight
        return self.loss_weight * masked_mean(loss, labels != ignore_index)


@MODELS.register_module()
class OhemCrossEntropyLoss(PixelCrossEntropyLoss):
    """Cross-entropy of hard pixels alone: probability of the true class at most ``threshold``, or among the lowest.

    It is the mean over the hard pixels of *all* ranks: the average over ranks, which is what gradients are averaged to,
    is the loss of one process with all images, however they are spread.

    Source: Shrivastava et al., 2016 (arXiv:1604.03540), in the form that all Cityscapes protocols here use. Released
    code counts ``min_kept`` in pixels of one GPU: divide by the pixels, ignored ones too, of one GPU's labeled crops.

    Args:
        threshold (float): Probability of the true class up to which a pixel is hard, in (0, 1). Defaults to 0.7.
        min_kept (float): So large a share of the labeled images' pixels, those of the lowest probability, is kept at
            least, in (0, 1]. Ignored pixels count among the images' pixels and are never kept. Defaults to CorrMatch's,
            100,000 pixels of two crops of 801.
        **kwargs: Those of :class:`PixelCrossEntropyLoss`.

    Raises:
        ValueError: If ``threshold`` lies outside (0, 1), ``min_kept`` outside (0, 1], or if it is a whole number.
    """

    def __init__(self, threshold: float = 0.7, min_kept: float = 100_000 / (2 * 801 * 801), **kwargs) -> None:
        super().__init__(**kwargs)
        if isinstance(min_kept, int):
            raise ValueError(
                'OhemCrossEntropyLoss: min_kept is the share of the pixels that is kept at least, a float in (0, 1], '
                f'not a number of pixels; in place of {min_kept} write {min_kept} / (images * height * width), with '
                'the labeled images of one process and the crop that the number was meant for.'
            )
        if not 0 < threshold < 1 or not 0 < min_kept <= 1:
            raise ValueError(
                'OhemCrossEntropyLoss: threshold in (0, 1) and min_kept, the share of the pixels kept at least, in '
                f'(0, 1] are needed, not {threshold}, {min_kept}.'
            )
        self.threshold = threshold
        self.min_kept = min_kept

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE_INDEX
    ) -> Tensor:
        """Compare ``logits`` (B, C, H, W) with ``labels`` (B, H, W); ``weight`` (B, H, W) multiplies each pixel."""
        kept = self.hard_pixels(logits, labels, ignore_index)
        logits, labels = full_precision(logits), torch.where(kept, labels, ignore_index)
        loss = F.cross_entropy(logits, labels, self.class_weight, reduction='none', ignore_index=ignore_index)
        if weight is not None:
            loss = loss * weight
        count = kept.sum().to(loss.dtype)
        all_reduce(count, 'mean')
        return self.loss_weight * loss.sum() / count.clamp(min=_SMALLEST_TOTAL)

    @torch.no_grad()
    def hard_pixels(self, logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
        """Which pixels of ``logits`` (B, C, H, W) and ``labels`` (B, H, W) are kept, bool, (B, H, W)."""
        valid = labels != ignore_index
        prob = probabilities(logits).gather(1, torch.where(valid, labels, 0)[:, None])[:, 0]
        # Ignored pixels come last.
        prob = prob.masked_fill(~valid, 2.0)
        pixels = prob.new_full((), prob.numel(), dtype=torch.float64)
        all_reduce(pixels)
        place = (self.min_kept * pixels).round().long().clamp(min=1) - 1
        return valid & (prob <= order_statistics(prob, place).clamp(min=self.threshold))
