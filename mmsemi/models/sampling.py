"""Random pixels, classes and partners, drawn on the device in shapes that do not depend on the data."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsemi.structures import IGNORE_INDEX


@torch.no_grad()
def draw_per_class(
    labels: Tensor, counted: Tensor, num_classes: int, ratio: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Draw a share of the pixels of each class, without replacement: at least one, at most ``limit``.

    A class's pixels are equally likely, so that the mean over those drawn estimates the mean over the class without
    bias, however few they are.

    Args:
        labels (Tensor): Class of each pixel, long, any shape; read where ``counted``.
        counted (Tensor): Which pixels may be drawn, bool, the same shape.
        num_classes (int): Number of classes (C).
        ratio (float): Share of a class's pixels, in (0, 1].
        limit (int): Most pixels of a class (M), >= 1.

    Returns:
        tuple[Tensor, Tensor]: Positions among the flattened pixels, long, (C, M), and which of them were drawn, bool,
        (C, M); the others hold any position.
    """
    label = torch.where(counted, labels, num_classes).flatten()
    # Shuffle, then sort by class and keep the shuffled order within each.
    shuffled = torch.rand(label.shape, device=label.device).argsort()
    order = shuffled[label[shuffled].argsort(stable=True)]
    count = label.new_zeros(num_classes + 1).scatter_add_(0, label, torch.ones_like(label))
    first, count = (count.cumsum(0) - count)[:num_classes], count[:num_classes]
    wanted = (count * ratio).round().long().clamp(min=1, max=limit).minimum(count)
    place = torch.arange(limit, device=label.device)
    index = order[(first[:, None] + place).clamp(max=len(order) - 1)]
    return index, place < wanted[:, None]


@torch.no_grad()
def thin_out(labels: Tensor, rates: Tensor) -> Tensor:
    """Keep the label of a pixel with its class's probability, else set it to 255, which no loss counts.

    Source: AEL, adaptive equalization sampling.

    Args:
        labels (Tensor): Class of each pixel, long, (B, H, W); 255 stays.
        rates (Tensor): Probability of each class, in [0, 1], (C,).

    Returns:
        Tensor: Labels, long, (B, H, W).
    """
    rate = rates[labels.clamp(max=len(rates) - 1)]
    kept = torch.rand(labels.shape, dtype=rates.dtype, device=labels.device) < rate
    return torch.where(kept, labels, IGNORE_INDEX)


@torch.no_grad()
def count_classes(labels: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each class each image of ``labels`` (B, H, W) shows, long, (B, C); 255 counts nowhere."""
    index = torch.where(labels < num_classes, labels, num_classes).flatten(1)
    counts = labels.new_zeros(len(labels), num_classes + 1)
    return counts.scatter_add_(1, index, torch.ones_like(index))[:, :-1]


@torch.no_grad()
def draw_classes(prob: Tensor, count: int) -> Tensor:
    """Draw ``count`` classes by their probabilities (C,), with replacement, long, (count,).

    ``torch.multinomial`` would look at the probabilities on the host.
    """
    end = prob.cumsum(0)
    draw = torch.rand(count, dtype=prob.dtype, device=prob.device) * end[-1]
    return torch.searchsorted(end, draw, right=True).clamp(max=len(prob) - 1)


@torch.no_grad()
def draw_others(count: int, device: torch.device | str) -> Tensor:
    """Draw for each of ``count`` >= 2 images another one, each as likely, long, (count,)."""
    step = 1 + (torch.rand(count, device=device) * (count - 1)).long().clamp(max=count - 2)
    return (torch.arange(count, device=device) + step) % count


@torch.no_grad()
def draw_partners(counts: Tensor, classes: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Draw for each image another one that shows the image's class, each such image equally likely.

    Args:
        counts (Tensor): Pixels of each class that each image shows, (B, C).
        classes (Tensor): A class for each image, long, (B,).
        least (int): Pixels from which on an image shows a class. Defaults to 1.

    Returns:
        tuple[Tensor, Tensor]: Index of each image's partner, long, (B,), and whether there is one, bool, (B,); where
        there is none the index is any.
    """
    itself = torch.eye(len(counts), dtype=torch.bool, device=counts.device)
    fits = (counts[:, classes] >= least).T & ~itself
    lots = torch.rand(fits.shape, device=counts.device).masked_fill(~fits, -1)
    return lots.argmax(1), fits.any(1)
