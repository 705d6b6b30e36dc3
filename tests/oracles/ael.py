"""AEL (arXiv:2110.05474, section 3.3), transcribed literally: loops over pixels, classes, regions.

``conf`` is the confidence bank, one number a class. An image's pixels are rows (n, C) or maps (H, W); 255 is no class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

IGNORE = 255


# The confidence bank


def class_confidence(prob: Tensor, y: Tensor) -> list[float | None]:
    """Mean probability of the true class over the labeled pixels of each class; None for a class without pixels."""
    means = []
    for c in range(prob.shape[1]):
        of_class = [float(prob[i, c]) for i in range(len(y)) if y[i] == c]
        means.append(sum(of_class) / len(of_class) if of_class else None)
    return means


def moved(conf: list[float | None], new: list[float | None], alpha: float) -> list[float | None]:
    """The bank after an iteration: a class met for the first time takes its mean, an absent one stays."""
    after = []
    for old, mean in zip(conf, new, strict=True):
        if mean is None:
            after.append(old)
        elif old is None:
            after.append(mean)
        else:
            after.append(alpha * old + (1 - alpha) * mean)
    return after


# What is drawn by it


def class_probability(conf: list[float]) -> list[float]:
    """The softmax of 1 - conf: by this a class is drawn, for CutMix and for copy-paste."""
    exponentials = [math.exp(1 - c) for c in conf]
    return [e / sum(exponentials) for e in exponentials]


def sampling_rate(conf: list[float], beta: float) -> list[float]:
    """With what probability a labeled pixel of each class is kept; if every class is perfect, all pixels are."""
    most = max(1 - c for c in conf)
    return [((1 - c) / most) ** beta if most > 0 else 1.0 for c in conf]


def copy_paste(image: Tensor, y: Tensor, source: Tensor, y_source: Tensor, classes: list[int]) -> tuple[Tensor, Tensor]:
    """The image (3, H, W) and labels (H, W) with the source's pixels of the drawn classes."""
    image, y = image.clone(), y.clone()
    for row in range(y.shape[0]):
        for column in range(y.shape[1]):
            if int(y_source[row, column]) in classes:
                image[:, row, column] = source[:, row, column]
                y[row, column] = y_source[row, column]
    return image, y


def regions(mask: Tensor) -> list[set[tuple[int, int]]]:
    """The 8-connected regions of a mask (h, w)."""
    left = {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]}
    found = []
    while left:
        region, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border += near
        found.append(region)
    return found


def bounding_box(region: set[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """The mask (h, w) of the smallest box around a region."""
    rows, columns = [y for y, _ in region], [x for _, x in region]
    mask = torch.zeros(size, dtype=torch.bool)
    for y in range(min(rows), max(rows) + 1):
        for x in range(min(columns), max(columns) + 1):
            mask[y, x] = True
    return mask


def boxes(labels: Tensor, c: int, least: float) -> list[Tensor]:
    """The boxes of all regions of class c in a label map (h, w) that have at least ``least`` pixels."""
    large = [region for region in regions(labels == c) if len(region) >= least]
    return [bounding_box(region, tuple(labels.shape)) for region in large]


# The consistency loss


def pseudo_labels(p: Tensor, gamma: float, exists: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel of the teacher's probabilities (n, C): its best class, what it counts, and what it counts in the
    sum that divides, confidence to the power."""
    label = torch.zeros(len(p), dtype=torch.long)
    weight, divides = p.new_zeros(len(p)), p.new_zeros(len(p))
    for i in range(len(p)):
        label[i] = max(range(p.shape[1]), key=lambda c: float(p[i, c]))
        if exists[i]:
            divides[i] = p[i].max() ** gamma
            weight[i] = divides[i] if p[i].max() >= threshold else 0
    return label, weight, divides


def eq12(prob: list[Tensor], label: list[Tensor], weight: list[Tensor], divides: list[Tensor]) -> Tensor:
    """L_u: the mean over images of the student's weighted cross-entropy over the sum of the weights."""
    total = prob[0].sum() * 0
    for image in zip(prob, label, weight, divides, strict=True):
        total = total + consistency(*image)
    return total / len(prob)


def consistency(prob: Tensor, label: Tensor, weight: Tensor, divides: Tensor) -> Tensor:
    """The weighted mean over pixels (n, C), of an image or of a batch."""
    total, norm = prob.sum() * 0, 0.0
    for i in range(len(prob)):
        total = total - weight[i] * torch.log(prob[i, label[i]])
        norm = norm + float(divides[i])
    return total / norm if norm > 0 else total
