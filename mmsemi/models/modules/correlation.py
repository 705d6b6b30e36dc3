"""Correlation maps of CorrMatch: how alike the positions of an image are, and what that spreads.

A map has n x n entries, C = softmax(w_1^T w_2 / sqrt(D)), and each row sums to 1. Pixel propagation runs through it in
blocks of rows and keeps none of them; region propagation (regions.py) is given the sampled rows alone. All of it
computes in float32 (float64 if given float64) whatever autocast says.

Source: CorrMatch, Sun et al., 2024 (arXiv:2306.04300), section 3.2 and 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmsemi.models.precision import full_precision, no_autocast

SAMPLINGS = ('random', 'uniform')
_BLOCK_ENTRIES = {'cpu': 1 << 20, 'cuda': 1 << 24}
"""Entries of the map that exist at a time, over the batch: what stays in a CPU's cache, what fills a GPU."""


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
