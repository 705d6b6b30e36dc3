"""Pictures of a training step: what the network was shown, what it was taught, what it says."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
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
_MOST_CLASSES = 31
_DPI = 90


def draw_step(
    seen: Seen,
    mean: Tensor | float,
    std: Tensor | float,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    path: str | Path,
    most: int = _MOST_IMAGES,
    bgr: bool = False,
) -> np.ndarray:
    """Draw a row for each unlabeled image of a step: weak view, pseudo-label, strong view, prediction, and more.

    Pixels of the pseudo-label that no loss counts are white. Ground truth is drawn where it was loaded, and so is
    whatever the method showed of itself (``seen.maps``): class maps in the classes' colors, other maps from dark (low)
    to bright, with their range in the title. Of a step without unlabeled images the labeled ones are drawn.

    Args:
        seen (Seen): The step.
        mean, std (Tensor | float): What images were normalised with, (C, 1, 1), in levels of 255.
        classes (Sequence[str]): Names.
        palette (Sequence[Sequence[int]]): Their colors.
        path (str | Path): PNG file to write.
        most (int): Images to draw at most. Defaults to 4.
        bgr (bool): Whether the network takes blue first. Defaults to False.

    Returns:
        np.ndarray: The picture, RGB, (H, W, 3) uint8.
    """
    columns = _columns(seen, palette, lambda batch: _levels(batch[:most], mean, std, bgr), most)
    rows = len(next(iter(columns.values())))
    height, width = next(iter(columns.values()))[0].shape[:2]
    side = 2.2
    figure, axes = pyplot.subplots(
        rows,
        len(columns),
        figsize=(
            side * len(columns),
            side * min(1.5, height / width) * rows + 0.5 + 0.2 * (len(classes) // (1.4 * len(columns)) + 1),
        ),
        squeeze=False,
        layout='constrained',
    )
    for column, (title, images) in enumerate(columns.items()):
        options = {}
        if images[0].ndim == 2:
            known = np.concatenate([image[np.isfinite(image)] for image in images])
            low, high = (known.min(), known.max()) if known.size else (0, 0)
            title = f'{title}\n' + (f'{low:.3g} to {high:.3g}' if known.size else 'none')
            options = dict(cmap='viridis', vmin=low, vmax=high)
        axes[0, column].set_title(textwrap.fill(title, 24) if '\n' not in title else title, fontsize=9)
        for row, image in enumerate(images):
            axes[row, column].imshow(image, interpolation='nearest', **options)
    for axis in axes.flat:
        axis.axis('off')
    patches = [
        Patch(facecolor=np.array(color) / 255, edgecolor='gray', label=name)
        for name, color in zip(classes, palette, strict=False)
    ][:_MOST_CLASSES]
    patches.append(Patch(facecolor='white', edgecolor='gray', label='ignored'))
    rows_of_legend = -(-len(patches) // max(2, int(1.4 * len(columns))))
    in_a_row = -(-len(patches) // rows_of_legend)
    figure.legend(handles=patches, loc='outside lower center', ncols=in_a_row, frameon=False, fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    figure.set_dpi(_DPI)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    pyplot.close(figure)
    return picture


def _levels(batch: Tensor, mean: Tensor | float, std: Tensor | float, bgr: bool) -> list[np.ndarray]:
    """Images as they were before normalisation, RGB, each (H, W, 3) uint8."""
    levels = (batch.float() * std + mean).clamp(0, 255).to(torch.uint8)
    levels = levels[:, :3] if levels.shape[1] >= 3 else levels[:, :1].expand(-1, 3, -1, -1)
    levels = levels.flip(1) if bgr else levels
    return list(levels.permute(0, 2, 3, 1).cpu().numpy())


def _columns(
    seen: Seen,
    palette: Sequence[Sequence[int]],
    images: Callable[[Tensor], list[np.ndarray]],
    most: int,
) -> dict[str, list[np.ndarray]]:
    streams, pseudo = seen.streams, seen.pseudo

    def maps(labels: Tensor) -> list[np.ndarray]:
        labels = labels[:most].clamp(max=IGNORE_INDEX).to(torch.uint8).cpu().numpy()
        return [colored(one, palette) for one in labels]

    predictions = {name: maps(labels) for name, labels in seen.predictions.items()}
    if not len(streams.weak):
        columns = {'labeled image': images(streams.labeled), 'ground truth': maps(streams.labels)}
        return {**columns, 'prediction': predictions['labeled']} if 'labeled' in predictions else columns

    columns = {'weak view': images(streams.weak)}
    if streams.unlabeled_gt is not None:
        columns['ground truth'] = maps(streams.unlabeled_gt)
    if 'guide' in predictions:
        columns["weak view's prediction"] = predictions['guide']
    if pseudo is not None:
        columns['pseudo-label'] = maps(torch.where(pseudo.weight > 0, pseudo.label, IGNORE_INDEX))
    for name, values in seen.maps.items():
        columns[name] = list(values[:most].float().cpu().numpy()) if values.is_floating_point() else maps(values)
    for name, view in streams.strong_views().items():
        columns[f'strong view {int(name[-1]) + 1}' if len(streams.strong) > 1 else 'strong view'] = images(view)
    if 'strong_0' in predictions:
        columns["strong view's prediction"] = predictions['strong_0']
    return columns
