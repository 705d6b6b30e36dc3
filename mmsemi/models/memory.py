"""What a method remembers of the features it saw."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor
from torch.nn import functional as F

from mmsemi.structures import IGNORE_INDEX

from .step_state import StepState


class Prototypes(StepState):
    """The slowly moving mean feature of each class.

    ``observe`` adds up features during the step, ``commit`` reduces the sums over ranks and moves the prototypes:
    several observations of one step (labeled and unlabeled pixels, ranks) weigh by their pixels, and two ranks hold
    what one process with both batches would.

    Source: MLLC, eq. 13 and 14, with the momentum on the old value ("slow-moving prototypes").

    Args:
        num_classes (int): Number of classes (C).
        channels (int): Dimension of the features (D).
        momentum (float): Share of the old value that a commit keeps. Defaults to 0.99.

    Raises:
        ValueError: If ``momentum`` lies outside [0, 1).
    """

    def __init__(self, num_classes: int, channels: int, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f'Prototypes: momentum must lie in [0, 1), not {momentum}.')
        self.num_classes = num_classes
        self.momentum = momentum
        self.register_buffer('value', torch.zeros(num_classes, channels))
        self.register_buffer('seen', torch.zeros(num_classes, dtype=torch.bool))
        # Sums and counts side by side, so that ranks reduce them in one call.
        self.register_buffer('pending', torch.zeros(num_classes, channels + 1), persistent=False)

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor, valid: Tensor | None = None) -> None:
        """Add pixels to what the next commit folds in.

        Args:
            features (Tensor): (B, D, h, w).
            labels (Tensor): Class of each pixel, (B, h, w); 255 is left out.
            valid (Tensor, optional): False where the crop was padded, (B, h, w).
        """
        counted = labels != IGNORE_INDEX
        if valid is not None:
            counted = counted & valid
        one_hot = F.one_hot(torch.where(counted, labels, 0), self.num_classes) * counted[..., None]
        one_hot = one_hot.flatten(0, 2).to(self.pending.dtype)
        pixels = features.detach().to(self.pending.dtype).permute(0, 2, 3, 1).flatten(0, 2)
        self.pending[:, :-1] += one_hot.T @ pixels
        self.pending[:, -1] += one_hot.sum(0)

    @torch.no_grad()
    def commit(self) -> None:
        """Fold the observed means in; a class met for the first time takes its mean, an absent one stays."""
        all_reduce(self.pending)
        count = self.pending[:, -1:]
        mean = self.pending[:, :-1] / count.clamp(min=1)
        moved = torch.where(self.seen[:, None], torch.lerp(mean, self.value, self.momentum), mean)
        self.value.copy_(torch.where(count > 0, moved, self.value))
        self.seen.logical_or_(count[:, 0] > 0)
        self.pending.zero_()
