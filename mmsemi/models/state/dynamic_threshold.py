"""A threshold of confidence that follows training."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmsemi.models.precision import probabilities

from .step_state import StepState

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
