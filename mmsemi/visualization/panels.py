"""Pictures of a training step: what the network was shown, what it was taught, what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.patches import Patch
from torch import Tensor

from mmsemi.structures import IGNORE_INDEX, Seen

from .paint import colored

_MOST_IMAGES = 4


def draw_step(
    seen: Seen,
    mean: Tensor,
    std: Tensor,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    path: str | Path,
    most: int = _MOST_IMAGES,
) -> np.ndarray:
    """Draw a row for each unlabeled image of a step: weak view, pseudo-label, strong view, prediction, and more.

    Pixels of the pseudo-label that no loss counts are white. Ground truth is drawn where it was loaded, and so is
    whatever the method showed of itself (``seen.maps``): class maps in the classes' colors, other maps in gray.

    Args:
        seen (Seen): The step.
        mean, std (Tensor): What images were normalised with, (3, 1, 1), in levels of 255.
        classes (Sequence[str]): Names.
        palette (Sequence[Sequence[int]]): Their colors.
        path (str | Path): PNG file to write.
        most (int): Images to draw at most. Defaults to 4.

    Returns:
        np.ndarray: The picture, RGB, (H, W, 3) uint8.
    """
    columns = _columns(seen, mean, std, palette, most)
    rows = len(next(iter(columns.values())))
    figure, axes = pyplot.subplots(
        rows, len(columns), figsize=(2.2 * len(columns), 2.2 * rows + 0.9), squeeze=False, layout='constrained'
    )
    for column, (title, images) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=9)
        for row, image in enumerate(images):
            gray = image.ndim == 2
            axes[row, column].imshow(image, **(dict(cmap='viridis') if gray else {}))
    for axis in axes.flat:
        axis.axis('off')
    patches = [
        Patch(facecolor=np.array(color) / 255, edgecolor='gray', label=name)
        for name, color in zip(classes, palette, strict=False)
    ][:24]
    patches.append(Patch(facecolor='white', edgecolor='gray', label='ignored'))
    figure.legend(handles=patches, loc='outside lower center', ncols=min(8, len(patches)), frameon=False, fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    pyplot.close(figure)
    return picture


def _columns(
    seen: Seen, mean: Tensor, std: Tensor, palette: Sequence[Sequence[int]], most: int
) -> dict[str, list[np.ndarray]]:
    streams, pseudo = seen.streams, seen.pseudo

    def images(batch: Tensor) -> list[np.ndarray]:
        levels = (batch[:most].float() * std + mean).clamp(0, 255).to(torch.uint8)
        levels = levels.expand(-1, 3, -1, -1) if levels.shape[1] == 1 else levels[:, :3]
        return list(levels.permute(0, 2, 3, 1).cpu().numpy())

    def maps(labels: Tensor) -> list[np.ndarray]:
        labels = labels[:most].clamp(max=IGNORE_INDEX).to(torch.uint8).cpu().numpy()
        return [colored(one, palette) for one in labels]

    columns = {'weak view': images(streams.weak)}
    if pseudo is not None:
        columns['pseudo-label'] = maps(torch.where(pseudo.weight > 0, pseudo.label, IGNORE_INDEX))
    for name, view in streams.strong_views().items():
        columns[f'strong view {name[-1]}' if len(streams.strong) > 1 else 'strong view'] = images(view)
    for name, labels in seen.predictions.items():
        columns[f'prediction: {name}'] = maps(labels)
    for name, values in seen.maps.items():
        whole = not values.is_floating_point() and values.dtype != torch.bool
        columns[name] = maps(values) if whole else list(values[:most].float().cpu().numpy())
    if streams.unlabeled_gt is not None:
        columns['ground truth'] = maps(streams.unlabeled_gt)
    return columns
