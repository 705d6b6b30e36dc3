"""What a method remembers of the features it saw."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from mmengine.dist import all_gather, all_reduce
from torch import Tensor

from mmsemi.models.precision import no_autocast
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
        # Not F.one_hot, which looks at the labels' range on the host.
        one_hot = (labels[..., None] == torch.arange(self.num_classes, device=labels.device)) & counted[..., None]
        one_hot = one_hot.flatten(0, 2).to(self.pending.dtype)
        pixels = features.detach().to(self.pending.dtype).permute(0, 2, 3, 1).flatten(0, 2)
        # The sum over a batch's pixels is beyond what half precision holds.
        with no_autocast(pixels):
            self.pending[:, :-1] += one_hot.T @ pixels
        self.pending[:, -1] += one_hot.sum(0)

    @torch.no_grad()
    def upcoming(self) -> tuple[Tensor, Tensor]:
        """What a commit would now leave: the prototypes, (C, D), and which of them moved, bool, (C,)."""
        total = self.pending.clone()
        all_reduce(total)
        count = total[:, -1:]
        mean = total[:, :-1] / count.clamp(min=1)
        moved = torch.where(self.seen[:, None], torch.lerp(mean, self.value, self.momentum), mean)
        return torch.where(count > 0, moved, self.value), count[:, 0] > 0

    @torch.no_grad()
    def commit(self) -> None:
        """Fold the observed means in; a class met for the first time takes its mean, an absent one stays."""
        value, moved = self.upcoming()
        self.value.copy_(value)
        self.seen.logical_or_(moved)
        self.pending.zero_()


class _Queues(StepState):
    """What queues were asked to take, until the commit: a step's calls, each with the images of all its passes."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: list[Tensor] = []
        self._ends: list[int] = []

    def end_pass(self) -> None:
        """The next call is the first one of another pass of the same step."""
        self._ends.append(len(self._pending))

    def _take(self, dim: int) -> list[Tensor]:
        """What was noted, call by call, in each the passes one after another along ``dim``; it is forgotten."""
        bounds = [0, *self._ends, len(self._pending)]
        passes = [self._pending[start:end] for start, end in pairwise(bounds) if end > start]
        self._pending, self._ends = [], []
        return [torch.cat(call, dim) if len(call) > 1 else call[0] for call in zip(*passes, strict=True)]


class FeatureQueues(_Queues):
    """First-in-first-out queues of features on the device, all of one length.

    ``observe`` notes at most one feature an image and queue. ``commit`` enqueues them call by call, in each the images
    of the first rank, pass by pass, then those of the next: the order of one process with all their batches.

    Source: ESL, the memory bank below eq. 8.

    Args:
        num_queues (int): Number of queues (P).
        length (int): Features that a queue holds (q), >= 1.
        channels (int): Dimension of the features (D).
    """

    def __init__(self, num_queues: int, length: int, channels: int) -> None:
        super().__init__()
        self.length = length
        self.register_buffer('value', torch.zeros(num_queues, length, channels))
        # How many a queue was ever given: the next goes to the slot ``pushed % length``.
        self.register_buffer('pushed', torch.zeros(num_queues, dtype=torch.long))

    @property
    def filled(self) -> Tensor:
        """Features in each queue, long, (P,)."""
        return self.pushed.clamp(max=self.length)

    @torch.no_grad()
    def observe(self, features: Tensor, present: Tensor) -> None:
        """Note what the next commit enqueues.

        Args:
            features (Tensor): One feature an image and queue, (B, P, D).
            present (Tensor): Which of them there are, bool, (B, P).
        """
        # Side by side, so that ranks gather them in one call.
        noted = torch.cat([features.detach(), present[..., None].to(features.dtype)], -1)
        self._pending.append(noted.to(self.value.dtype))

    @torch.no_grad()
    def commit(self) -> None:
        """Enqueue what was noted; a feature too many takes the place of the oldest."""
        for noted in self._take(0):
            images = torch.cat(all_gather(noted))
            self._push(images[..., :-1], images[..., -1] > 0)

    def _push(self, features: Tensor, present: Tensor) -> None:
        first = torch.arange(0, self.value.shape[0] * self.length, self.length, device=present.device)
        _enqueue(self.value.flatten(0, 1), first, self.length, self.pushed, features, present, most=self.length)

    @torch.no_grad()
    def draw(self, own: Tensor, others: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw features uniformly from what queues hold, with replacement.

        Args:
            own (Tensor): A queue of each anchor, long, (A,).
            others (int): Features to draw from all queues but the anchor's own (N).

        Returns:
            tuple[Tensor, Tensor, Tensor]: One feature of its own queue, (A,), and those of the others, (A, N), as rows
            of ``value.flatten(0, 1)``; and whether there were any to draw from in both, bool, (A,).
        """
        filled = self.filled
        end = filled.cumsum(0)
        count, before = filled[own], end[own] - filled[own]
        available = end[-1] - count
        positive = own * self.length + _draw_below(count)
        # Number the features that the queues hold in a row, and step over the own queue's.
        drawn = _draw_below(available[:, None].expand(-1, others))
        drawn = drawn + torch.where(drawn >= before[:, None], count[:, None], 0)
        queue = torch.searchsorted(end, drawn, right=True).clamp(max=len(end) - 1)
        negative = queue * self.length + drawn - (end - filled)[queue]
        return positive, negative.clamp(max=self.value.shape[0] * self.length - 1), (count > 0) & (available > 0)


class ClassQueues(_Queues):
    """First-in-first-out queues of features on the device, one a class, each of its own length.

    ``observe`` notes candidates, ``commit`` enqueues at most ``per_step`` of each class, drawn uniformly from those of
    all calls, passes and ranks: two ranks draw from what one process with both batches would.

    Source: U2PL, Wang et al., 2022 (arXiv:2203.03884), the category-wise memory bank. Its released code enqueues all
    candidates of a step, which are many more than a queue holds.

    Args:
        lengths (Sequence[int]): Features that each queue holds, (C,).
        channels (int): Dimension of the features (D).
        per_step (int): Features that a class's queue takes a step, from 1 to its length.
    """

    def __init__(self, lengths: Sequence[int], channels: int, per_step: int) -> None:
        super().__init__()
        self.per_step = per_step
        length = torch.tensor(lengths)
        # The queues lie one after another, since one of them may be much longer.
        self.register_buffer('value', torch.zeros(sum(lengths), channels))
        self.register_buffer('pushed', torch.zeros(len(lengths), dtype=torch.long))
        self.register_buffer('length', length, persistent=False)
        self.register_buffer('first', length.cumsum(0) - length, persistent=False)

    @property
    def filled(self) -> Tensor:
        """Features in each queue, long, (C,)."""
        return self.pushed.minimum(self.length)

    @torch.no_grad()
    def observe(self, features: Tensor, members: Tensor) -> None:
        """Note candidates for the next commit.

        Args:
            features (Tensor): (B, D, h, w).
            members (Tensor): Which pixels may enter the queue of each class, bool, (B, C, h, w).
        """
        candidates = members.transpose(0, 1).flatten(1)
        # One lot a pixel: the highest of a class are drawn, here and then among all calls and ranks.
        lots = torch.rand(candidates.shape[1], device=candidates.device)
        lots = torch.where(candidates, lots, -1)
        # In the order of the pixels, so that what a queue holds does not hang on the lots where all are taken.
        drawn = lots.topk(min(self.per_step, lots.shape[1]), 1).indices.sort(1).values
        pixels = members[0, 0].numel()
        rows = features.detach().flatten(2)[drawn // pixels, :, drawn % pixels]
        # Side by side, so that ranks gather them in one call.
        noted = torch.cat([rows.to(self.value.dtype), lots.gather(1, drawn)[..., None].to(self.value.dtype)], -1)
        self._pending.append(noted)

    @torch.no_grad()
    def commit(self) -> None:
        """Enqueue a draw from what was noted; a feature too many takes the place of the oldest."""
        if not self._pending:
            return
        noted = torch.cat([rows for call in self._take(1) for rows in all_gather(call)], 1)
        drawn = noted[..., -1].topk(min(self.per_step, noted.shape[1]), 1).indices.sort(1).values
        rows = noted.gather(1, drawn[..., None].expand(-1, -1, noted.shape[2])).transpose(0, 1)
        present = rows[..., -1] >= 0
        _enqueue(self.value, self.first, self.length, self.pushed, rows[..., :-1], present, most=self.per_step)

    @torch.no_grad()
    def draw(self, count: int) -> Tensor:
        """Draw ``count`` features of each class uniformly from what its queue holds, with replacement.

        Returns:
            Tensor: Rows of ``value``, long, (C, count); any row where the queue is empty.
        """
        return self.first[:, None] + _draw_below(self.filled[:, None].expand(-1, count))


def _enqueue(
    bank: Tensor, first: Tensor, length: Tensor | int, pushed: Tensor, features: Tensor, present: Tensor, most: int
) -> None:
    """Write to rings that lie in ``bank`` one after another, and count what was written in ``pushed``.

    Args:
        bank (Tensor): (M, D).
        first (Tensor): Row of the bank where each ring begins, long, (P,).
        length (Tensor | int): Rows of each ring, (P,).
        pushed (Tensor): How many each ring was ever given, long, (P,).
        features (Tensor): In the order of writing, (n, P, D).
        present (Tensor): Which of them there are, bool, (n, P).
        most (int): Rows of the shortest ring, at most.
    """
    # In each ring the features there are come last, and no more than fit are written: to slots that all differ, so that
    # the order of writing does not matter. What is not there writes back what its slot holds.
    last = present.to(torch.uint8).argsort(dim=0, stable=True)[-most:]
    rows, rings = len(last), torch.arange(present.shape[1], device=present.device)
    count = present.sum(0)
    slots = (pushed + count - rows + torch.arange(rows, device=present.device)[:, None]) % length
    written = (first + slots).flatten()
    new = torch.where(present[last, rings].flatten()[:, None], features[last, rings].flatten(0, 1), bank[written])
    bank.index_copy_(0, written, new)
    pushed += count


def _draw_below(limit: Tensor) -> Tensor:
    """Integers from 0 to ``limit`` - 1, equally likely; 0 where ``limit`` is 0."""
    draw = (torch.rand(limit.shape, device=limit.device) * limit).long()
    return draw.minimum(limit - 1).clamp(min=0)
