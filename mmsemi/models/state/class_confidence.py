"""How well each class is known, and what follows from it: which classes are shown and learned more often."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmsemi.models.precision import probabilities
from mmsemi.models.sampling import count_classes

from .step_state import StepState


class ClassConfidence(StepState):
    """The slowly moving mean probability of the true class, over labeled pixels of each class.

    ``observe`` adds up probabilities during the step, ``commit`` reduces sums and counts over ranks and moves the mean.
    A class that was never met counts as not known at all: its confidence is 0.

    Source: AEL, the confidence bank, eq. 7.

    Args:
        num_classes (int): Number of classes (C).
        momentum (float): Share of the old value that a commit keeps (tau). Defaults to 0.999.
        forget_absent (bool): A class that no pixel of the step shows has confidence 0 in it, as in the released code;
            else its entry stays. Defaults to False.

    Raises:
        ValueError: If ``momentum`` lies outside [0, 1).
    """

    def __init__(self, num_classes: int, momentum: float = 0.999, forget_absent: bool = False) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f'ClassConfidence: confidence_momentum must lie in [0, 1), not {momentum}.')
        self.num_classes = num_classes
        self.momentum = momentum
        self.forget_absent = forget_absent
        self.register_buffer('value', torch.zeros(num_classes))
        self.register_buffer('seen', torch.zeros(num_classes, dtype=torch.bool))
        # Sums and counts, so that ranks reduce them in one call.
        self.register_buffer('pending', torch.zeros(2, num_classes), persistent=False)

    @torch.no_grad()
    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """Note predictions of labeled pixels for the next commit.

        Args:
            logits (Tensor): Class scores, (B, C, H, W).
            labels (Tensor): Ground truth, (B, H, W); 255 is left out.
        """
        known = labels < self.num_classes
        prob = probabilities(logits.detach()).gather(1, torch.where(known, labels, 0)[:, None])[:, 0]
        index = torch.where(known, labels, self.num_classes).flatten(1)
        sums = prob.new_zeros(len(labels), self.num_classes + 1).scatter_add_(1, index, prob.flatten(1))
        self.pending[0] += sums[:, :-1].sum(0)
        self.pending[1] += count_classes(labels, self.num_classes).sum(0)

    @torch.no_grad()
    def commit(self) -> None:
        """Fold the observed means in; a class met for the first time takes its mean."""
        all_reduce(self.pending)
        total, count = self.pending
        mean = total / count.clamp(min=1)
        moved = torch.where(self.seen, torch.lerp(mean, self.value, self.momentum), mean)
        moves = count.sum() > 0 if self.forget_absent else count > 0
        self.value.copy_(torch.where(moves, moved, self.value))
        self.seen.logical_or_(count > 0)
        self.pending.zero_()

    def class_probabilities(self) -> Tensor:
        """By which classes are drawn, the less known ones more often: a softmax of 1 - confidence, (C,)."""
        return (1 - self.value).softmax(0)

    def sampling_rates(self, power: float) -> Tensor:
        """The share of a class's labeled pixels that is learned, (C,): 1 for the class that is known least.

        Args:
            power (float): Exponent of that share, >= 0; 0 lets every pixel be learned.
        """
        unknown = (1 - self.value).clamp(min=0)
        most = unknown.max()
        return torch.where(most > 0, unknown / most, 1.0) ** power
