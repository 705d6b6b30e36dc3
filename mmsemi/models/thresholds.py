"""Thresholds of confidence that follow training."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmsemi.models.precision import probabilities

from .step_state import StepState


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
    ordered = values.masked_fill(~counted, torch.inf).flatten().sort().values
    count = counted.sum()
    all_reduce(count)
    place = shares.double() * (count - 1).clamp(min=0)
    low, high = _order_statistics(ordered, torch.stack([place.floor(), place.ceil()]).long())
    return torch.where(high > low, torch.lerp(low, high, place.frac().to(low.dtype)), low)


def _order_statistics(ordered: Tensor, places: Tensor) -> Tensor:
    """Which values stand at ``places`` once the values >= 0 of all ranks are put in order; ``ordered`` are this rank's.

    Numbers are ordered as their bits are. The bits are found byte by byte: each is the highest that leaves no more
    values below than the place, of which ranks add up their counts. No value travels, and one rank does as several do.
    """
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


class DynamicThreshold(StepState):
    """A threshold that moves towards the confidence of the class predictions.

    ``observe`` keeps the highest confidence of each predicted class of the step, ``commit`` takes the maximum over
    ranks and moves the threshold towards the mean over the predicted classes. With ``per_class``, each class's own
    threshold moves towards its own maximum, and :meth:`limits` scales the common one by them, the largest being 1.

    Source: CorrMatch, eq. 11, 13 and 14; the scaling of eq. 14's thresholds after FreeMatch (Wang et al., 2022,
    arXiv:2205.07246).

    Args:
        num_classes (int): Number of classes (C).
        start (float): The first threshold, in (0, 1], or [0, 1] if it is fixed. Defaults to 0.85.
        momentum (float): Share of the old value that a commit keeps. Defaults to 0.999.
        per_class (bool): One threshold a class. Defaults to False.
        dynamic (bool): Whether it moves. Defaults to True.

    Raises:
        ValueError: If a number is out of range, or thresholds of classes are asked for that do not move.
    """

    def __init__(
        self,
        num_classes: int,
        start: float = 0.85,
        momentum: float = 0.999,
        per_class: bool = False,
        dynamic: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= start <= 1 or (dynamic and start == 0):
            raise ValueError(
                f'DynamicThreshold: threshold must lie in (0, 1], not {start}; 0 needs dynamic_threshold=False.'
            )
        if not 0 <= momentum < 1:
            raise ValueError(f'DynamicThreshold: threshold_momentum must lie in [0, 1), not {momentum}.')
        if per_class and not dynamic:
            raise ValueError('DynamicThreshold: per_class_threshold=True needs dynamic_threshold=True.')
        self.momentum = momentum
        self.per_class = per_class
        self.dynamic = dynamic
        # What does not move is the config's, not a checkpoint's.
        self.register_buffer('value', torch.tensor(float(start)), persistent=dynamic)
        if per_class:
            self.register_buffer('class_value', torch.full((num_classes,), float(start)))
        self.register_buffer('pending', torch.zeros(num_classes), persistent=False)

    def limits(self) -> Tensor:
        """The threshold of a pixel: a scalar, or one for each class, (C,)."""
        if self.per_class:
            return self.value * self.class_value / self.class_value.max()
        return self.value.clone()

    @torch.no_grad()
    def observe(self, logits: Tensor, valid: Tensor | None = None) -> None:
        """Note predictions for the next commit.

        Args:
            logits (Tensor): Class scores, (B, C, H, W).
            valid (Tensor, optional): False where the crop was padded, (B, H, W).
        """
        if not self.dynamic:
            return
        confidence, label = probabilities(logits.detach()).max(1)
        if valid is not None:
            confidence = confidence * valid
        self.pending.scatter_reduce_(0, label.flatten(), confidence.flatten().to(self.pending.dtype), 'amax')

    @torch.no_grad()
    def commit(self) -> None:
        """Move towards the observed maxima; classes that no pixel was predicted as change nothing."""
        if not self.dynamic:
            return
        all_reduce(self.pending, 'max')
        predicted = self.pending > 0
        mean = self.pending.sum() / predicted.sum().clamp(min=1)
        self.value.copy_(torch.where(predicted.any(), torch.lerp(mean, self.value, self.momentum), self.value))
        if self.per_class:
            moved = torch.lerp(self.pending, self.class_value, self.momentum)
            self.class_value.copy_(torch.where(predicted, moved, self.class_value))
        self.pending.zero_()
