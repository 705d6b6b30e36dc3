"""Label maps as files and as colors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmsemi.structures import IGNORE_INDEX

_IGNORED = (255, 255, 255)


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


def overlay(image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]], share: float = 0.5) -> np.ndarray:
    """An RGB image (H, W, 3) with the colors of its labels (H, W) over it; ignored pixels show the image alone.

    Args:
        image (np.ndarray): uint8.
        labels (np.ndarray): Class of each pixel; 255 = ignored.
        palette (Sequence): RGB of each class.
        share (float): How much of what is seen is the labels' color, in [0, 1]. Defaults to 0.5.
    """
    mixed = (1 - share) * image + share * colored(labels, palette)
    return np.where((labels == IGNORE_INDEX)[..., None], image, mixed.round().astype(np.uint8))


def save_labels(path: str | Path, labels: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
    """Write a label map (H, W) as a PNG file of ids, which shows the colors of ``palette`` where it is opened."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8), mode='P')
    image.putpalette(color_table(palette).flatten().tolist())
    image.save(path)
