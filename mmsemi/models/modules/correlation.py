"""Correlation maps of CorrMatch: how alike the positions of an image are, and what that spreads.

A map has n x n entries, C = softmax(w_1^T w_2 / sqrt(D)), and each row sums to 1. Pixel propagation runs through it in
blocks of rows and keeps none of them, region propagation computes the sampled rows alone. All of it computes in float32
(float64 if given float64) whatever autocast says.

Source: CorrMatch, Sun et al., 2024 (arXiv:2306.04300), section 3.2 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from mmseg.models.utils import resize
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmsemi.models.precision import full_precision, no_autocast
from mmsemi.structures import PseudoLabel

SAMPLINGS = ('random', 'uniform')
_BLOCK_ENTRIES = {'cpu': 1 << 20, 'cuda': 1 << 24}
"""Entries of the map that exist at a time, over the batch: what stays in a CPU's cache, what fills a GPU."""
_SHAPES_AT_ONCE = 8
"""Shapes whose pixels are counted together: a pixel lies in one of 2^8 combinations of them, the range of uint8."""


@dataclass
class Correlation:
    """The two features whose products make a correlation map, each (B, D, h, w).

    Args:
        rows (Tensor): w_1: what a row of the map belongs to.
        columns (Tensor): w_2: what a column belongs to.
    """

    rows: Tensor
    columns: Tensor

    def split(self, sizes: list[int]) -> list[Correlation]:
        """Take apart the images of a joint pass, ``sizes`` images each."""
        return [Correlation(*pair) for pair in zip(self.rows.split(sizes), self.columns.split(sizes), strict=True)]


def _row_blocks(scores: Tensor) -> list[slice]:
    batch, _, positions = scores.shape
    step = max(1, _BLOCK_ENTRIES.get(scores.device.type, 1 << 24) // (batch * positions))
    return [slice(start, start + step) for start in range(0, positions, step)]


def _map_rows(rows: Tensor, columns: Tensor) -> Tensor:
    """Rows of the map, eq. 4, for some w_1 (B, D, m) and all w_2 (B, D, n): (B, m, n)."""
    return (rows.transpose(1, 2) @ columns / math.sqrt(rows.shape[1])).softmax(2)


class _PixelPropagation(torch.autograd.Function):
    """Eq. 5 in blocks of rows; the backward pass computes each block again."""

    @staticmethod
    def forward(ctx, scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(scores, rows, columns)
        result = torch.zeros_like(scores)
        for block in _row_blocks(scores):
            result += scores[:, :, block] @ _map_rows(rows[:, :, block], columns)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        scores, rows, columns = ctx.saved_tensors
        scale = 1 / math.sqrt(rows.shape[1])
        grad_rows, grad_columns = torch.empty_like(rows), torch.zeros_like(columns)
        for block in _row_blocks(scores):
            weight = _map_rows(rows[:, :, block], columns)
            slope = scores[:, :, block].transpose(1, 2) @ grad
            # Through the softmax of each row, and the scale.
            slope = (slope - (slope * weight).sum(2, keepdim=True)) * weight * scale
            grad_rows[:, :, block] = columns @ slope.transpose(1, 2)
            grad_columns += rows[:, :, block] @ slope
        return None, grad_rows, grad_columns


def pixel_propagation(scores: Tensor, correlation: Correlation) -> Tensor:
    """Spread class scores along the correlation map: z = scores C.

    The sum runs over the rows i of C, while the softmax of eq. 4 normalises over the columns j, so this is no attention
    over j. Time O(n^2 (C + D)), memory O(n (C + D)).

    Source: eq. 4 and 5.

    Args:
        scores (Tensor): Class scores at the map's resolution, (B, C, h, w); no gradient goes into them.
        correlation (Correlation): Features, (B, D, h, w).

    Returns:
        Tensor: z, (B, C, h, w).
    """
    with no_autocast(scores):
        features = (full_precision(x).flatten(2) for x in (correlation.rows, correlation.columns))
        return _PixelPropagation.apply(full_precision(scores.detach()).flatten(2), *features).view(scores.shape)


def sampled_rows(correlation: Correlation, index: Tensor) -> Tensor:
    """Some rows of each image's correlation map, eq. 4, as maps: (B, m, h, w) for ``index`` (m,)."""
    with no_autocast(correlation.rows):
        rows, columns = (full_precision(x.detach()).flatten(2) for x in (correlation.rows, correlation.columns))
        size = correlation.rows.shape[2:]
        return _map_rows(rows.index_select(2, index), columns).unflatten(2, size)


def sample_positions(count: int, total: int, sampling: str, device: torch.device | str) -> Tensor:
    """Which ``count`` of ``total`` positions to take, (count,): 'random', in random order, or 'uniform', evenly spaced.

    Source: CorrMatch, table 8.
    """
    if sampling == 'random':
        return torch.rand(total, device=device).topk(count).indices
    return (2 * torch.arange(count, device=device) + 1) * total // (2 * count)


def binary_shapes(rows: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """The shape in each row of a correlation map: resized to the crop, scaled to [0, 1], above one half.

    Source: eq. 7.

    Args:
        rows (Tensor): (B, m, h, w).
        size (tuple[int, int]): H, W.
        align_corners (bool): How to resize.

    Returns:
        Tensor: bool, (B, m, H, W).
    """
    rows = resize(rows, size=size, mode='bilinear', align_corners=align_corners)
    low, high = rows.amin((2, 3), keepdim=True), rows.amax((2, 3), keepdim=True)
    return rows > 0.5 * (low + high)


def region_propagation(
    pseudo: PseudoLabel,
    rows: Tensor,
    allowed: Tensor,
    threshold: Tensor | float,
    num_classes: int,
    align_corners: bool = False,
) -> PseudoLabel:
    """Give the leading class of a shape's confident pixels to the whole shape.

    Shapes act one after another. One is accepted if at least ``threshold`` of it is confident and its leading class has
    more than ``threshold`` of those pixels; it then writes the label, and all of it is confident for later shapes.

    Decisions depend on pixels only through counts. So pixels are counted once for several shapes, by the combination of
    shapes that they lie in and by their label; the shapes then act on that small table, and what they wrote goes back
    to the pixels.

    Source: eq. 8 to 10, algorithm 1.

    Args:
        pseudo (PseudoLabel): Labels, confident where the weight is above 0, (B, H, W).
        rows (Tensor): Sampled rows of the correlation maps, (B, m, h, w).
        allowed (Tensor): Where shapes may lie, bool, (B, H, W).
        threshold (Tensor | float): tau, in [0, 1].
        num_classes (int): Number of classes.
        align_corners (bool): How to resize rows.

    Returns:
        PseudoLabel: The new labels, with weight 1 where a shape was written.
    """
    batch, *size = pseudo.label.shape
    # Classes, and one more for pixels that are not confident.
    state = torch.where(pseudo.weight > 0, pseudo.label, num_classes)
    label, weight = pseudo.label, pseudo.weight
    for combination, member in _combinations(rows, allowed, tuple(size), align_corners):
        code = (combination * (num_classes + 1) + state).flatten(1)
        counts = rows.new_zeros(batch, len(member) * (num_classes + 1))
        counts.scatter_add_(1, code, counts.new_ones(()).expand_as(code))
        counts = counts.view(batch, len(member), num_classes + 1)
        written = _act(counts, member, threshold)
        new = written.gather(1, combination.flatten(1)).view_as(label)
        changed = new >= 0
        label, state = torch.where(changed, new, label), torch.where(changed, new, state)
        weight = torch.where(changed, 1, weight)
    return PseudoLabel(label, weight, pseudo.prob)


def _combinations(
    rows: Tensor, allowed: Tensor, size: tuple[int, int], align_corners: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """For every few shapes: the number of each pixel's combination of them, (B, H, W), and whether a combination holds
    a shape, (combinations, shapes).
    """
    for some in rows.split(_SHAPES_AT_ONCE, 1):
        shapes = binary_shapes(some, size, align_corners).to(torch.uint8)
        place = torch.arange(some.shape[1], device=rows.device)
        combination = (sum(shapes[:, i] << i for i in range(some.shape[1])) * allowed).long()
        member = (torch.arange(2 ** some.shape[1], device=rows.device)[:, None] >> place) & 1
        yield combination, member.bool()


def _act(counts: Tensor, member: Tensor, threshold: Tensor | float) -> Tensor:
    """Let shapes act in order on pixels that are counted by combination and label.

    Args:
        counts (Tensor): Pixels by combination and label, the last being "not confident", (B, combinations, C + 1).
        member (Tensor): Whether a combination holds a shape, bool, (combinations, shapes).
        threshold (Tensor | float): tau.

    Returns:
        Tensor: The class written to a combination's pixels, -1 where none was, long, (B, combinations).
    """
    pixels, counts = counts.sum(2, keepdim=True), counts[..., :-1]
    sizes = (pixels * member).sum(1)
    classes = torch.arange(counts.shape[2], device=counts.device)
    written = torch.full_like(pixels[..., 0], -1, dtype=torch.long)
    for i in range(member.shape[1]):
        # No matrix product, which on a GPU may round counts (TF32).
        here = (counts * member[:, i, None]).sum(1)
        overlap = here.sum(1)
        leader = here.argmax(1, keepdim=True)
        # Without an overlap the second ratio is no number, and accepts nothing.
        accepted = (overlap / sizes[:, i] >= threshold) & (here.amax(1) / overlap > threshold)
        moved = accepted[:, None] & member[:, i]
        written = torch.where(moved, leader, written)
        counts = torch.where(moved[..., None], pixels * (classes == leader)[:, None], counts)
    return written
