"""Label maps as files and as colors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmsemi.structures import IGNORE_INDEX

_IGNORED = (255, 255, 255)
_ROWS = 256


def color_table(palette: Sequence[Sequence[int]]) -> np.ndarray:
    """RGB of each of 256 ids, (256, 3) uint8; white for what is no class."""
    table = np.full((256, 3), 0, np.uint8)
    table[:] = _IGNORED
    table[: len(palette)] = np.array(palette, np.uint8)
    table[IGNORE_INDEX] = _IGNORED
    return table


def colored(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Colors of a label map (H, W): (H, W, 3) uint8; ignored pixels are white."""
    return color_table(palette)[labels]


def shown(image: np.ndarray, size: Sequence[int] | None = None) -> np.ndarray:
    """RGB of an image as it was read, (H, W, 3) uint8.

    Args:
        image (np.ndarray): Gray (H, W[, 1]), BGR or BGR with more bands (H, W, C), of any type; what is not uint8 is
            scaled so that its largest value is 255.
        size (Sequence[int], optional): Height and width, where a reduced image was read.
    """
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., 2::-1] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    if image.dtype != np.uint8:
        image = image * (255 / max(float(image.max()), 1e-12))
        image = image.clip(0, 255).astype(np.uint8)
    if size is not None and tuple(size) != image.shape[:2]:
        return np.array(Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1]))
    return np.ascontiguousarray(image)


def overlay(image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]], share: float = 0.5) -> np.ndarray:
    """An RGB image (H, W, 3) with the colors of its labels (H, W) over it; ignored pixels show the image alone.

    Args:
        image (np.ndarray): uint8.
        labels (np.ndarray): Class of each pixel; 255 = ignored.
        palette (Sequence): RGB of each class.
        share (float): How much of what is seen is the labels' color, in [0, 1]. Defaults to 0.5.
    """
    painted = image.copy()
    # A band of rows at a time: large images have no room for fractions of all pixels.
    for top in range(0, len(image), _ROWS):
        rows = slice(top, top + _ROWS)
        mixed = (1 - share) * image[rows] + share * colored(labels[rows], palette)
        known = (labels[rows] != IGNORE_INDEX)[..., None]
        np.copyto(painted[rows], mixed.round().astype(np.uint8), where=known)
    return painted


def save_labels(path: str | Path, labels: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
    """Write a label map (H, W) as a PNG file of ids, which shows the colors of ``palette`` where it is opened."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8), mode='P')
    image.putpalette(color_table(palette).flatten().tolist())
    image.save(path)
