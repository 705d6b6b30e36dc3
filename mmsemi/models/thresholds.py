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


THRESHOLD_UPDATES = ('class_maxima', 'per_class', 'maximum', 'mean', 'per_pixel')
"""What a :class:`DynamicThreshold` can follow."""


class DynamicThreshold(StepState):
    """A threshold that moves towards the confidence of the predictions.

    ``observe`` notes the confidence of a step's pixels, ``commit`` reduces it over ranks and moves the threshold. What
    it moves towards is ``update``:

    - 'class_maxima': the mean, over the predicted classes, of the confidence of the surest pixel (eq. 11 and 13).
    - 'per_class': the same, and each class's own threshold towards its own maximum; :meth:`limits` scales the common
      one by them, the largest being 1 (eq. 14).
    - 'maximum', 'mean': the highest, or the average, confidence of all pixels (table 12).
    - 'per_pixel': at each place of the crop the average confidence there (table 12).

    Source: CorrMatch, eq. 11, 13 and 14 and table 12; the scaling of eq. 14's thresholds after FreeMatch (Wang et al.,
    2022, arXiv:2205.07246).

    Args:
        num_classes (int): Number of classes (C).
        size (tuple[int, int]): Height and width of the crop (H, W).
        start (float): The first threshold, in (0, 1], or [0, 1] if it is fixed. Defaults to 0.85.
        momentum (float): Share of the old value that a commit keeps. Defaults to 0.999.
        update (str): One of ``THRESHOLD_UPDATES``. Defaults to 'class_maxima'.
        dynamic (bool): Whether it moves. Defaults to True.

    Raises:
        ValueError: If a number is out of range, ``update`` is unknown, or one is asked for that does not move.
    """

    def __init__(
        self,
        num_classes: int,
        size: tuple[int, int],
        start: float = 0.85,
        momentum: float = 0.999,
        update: str = 'class_maxima',
        dynamic: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= start <= 1 or (dynamic and start == 0):
            raise ValueError(
                f'DynamicThreshold: threshold must lie in (0, 1], not {start}; 0 needs dynamic_threshold=False.'
            )
        if not 0 <= momentum < 1:
            raise ValueError(f'DynamicThreshold: threshold_momentum must lie in [0, 1), not {momentum}.')
        if update not in THRESHOLD_UPDATES:
            raise ValueError(
                f'DynamicThreshold: threshold_update must be one of {", ".join(THRESHOLD_UPDATES)}, not {update!r}.'
            )
        if update != 'class_maxima' and not dynamic:
            raise ValueError(f'DynamicThreshold: threshold_update={update!r} needs dynamic_threshold=True.')
        self.momentum = momentum
        self.update = update
        self.dynamic = dynamic
        # What does not move is the config's, not a checkpoint's.
        shape = tuple(size) if update == 'per_pixel' else ()
        self.register_buffer('value', torch.full(shape, float(start)), persistent=dynamic)
        if update == 'per_class':
            self.register_buffer('class_value', torch.full((num_classes,), float(start)))
        # Averages need a sum and a count, the others the maximum of each predicted class.
        noted = (2, *shape) if update in ('mean', 'per_pixel') else (num_classes,)
        self.register_buffer('pending', torch.zeros(noted), persistent=False)

    def limits(self) -> Tensor:
        """The threshold of a pixel: a scalar, one for each class, (C,), or one for each place, (H, W)."""
        if self.update == 'per_class':
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
        counted = torch.ones_like(confidence) if valid is None else valid.to(confidence.dtype)
        confidence = confidence * counted
        if self.update in ('mean', 'per_pixel'):
            noted = torch.stack([confidence, counted]).to(self.pending.dtype)
            self.pending += noted.sum(1) if self.update == 'per_pixel' else noted.flatten(1).sum(1)
        else:
            self.pending.scatter_reduce_(0, label.flatten(), confidence.flatten().to(self.pending.dtype), 'amax')

    @torch.no_grad()
    def commit(self) -> None:
        """Move towards what was observed; classes that no pixel was predicted as and padded places change nothing."""
        if not self.dynamic:
            return
        if self.update in ('mean', 'per_pixel'):
            all_reduce(self.pending)
            total, count = self.pending
            self._move(self.value, total / count.clamp(min=1), count > 0)
        else:
            all_reduce(self.pending, 'max')
            predicted = self.pending > 0
            mean = self.pending.sum() / predicted.sum().clamp(min=1)
            self._move(self.value, self.pending.max() if self.update == 'maximum' else mean, predicted.any())
            if self.update == 'per_class':
                self._move(self.class_value, self.pending, predicted)
        self.pending.zero_()

    def _move(self, value: Tensor, target: Tensor, known: Tensor) -> None:
        """Eq. 13 where the target is known."""
        value.copy_(torch.where(known, torch.lerp(target, value, self.momentum), value))
