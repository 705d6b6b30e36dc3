"""Curves of runs, and features by class: ``mmsemi plot``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmseg.models.segmentors import BaseSegmentor
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mmsemi.registry import DATASETS
from mmsemi.visualization.curves import draw_features, draw_runs

from .export import read_checkpoint
from .launch import UsageError
from .network import load_network
from .waiting import Waiting

_IMAGES = 100
"""Validation images at most whose pixels are drawn."""
_OF_AN_IMAGE = 8
"""Pixels of a class at most that are taken of an image."""
_OF_A_CLASS = 150


def plot(runs: Sequence[str], features: str | None = None, out: str = 'plot.png', branch: str | None = None) -> Path:
    """Draw the losses, thresholds, quality of pseudo-labels and scores of runs; or a network's features by class.

    Args:
        runs (Sequence[str]): Work folders of runs.
        features (str, optional): A checkpoint, in place of runs: pixels of its validation images in two dimensions
            (t-SNE of what its classifier sees), in the colors of their true classes.
        out (str): PNG file to write. Defaults to 'plot.png'.
        branch (str, optional): Whose features, 'student' or 'teacher'. Defaults to the teacher where there is one.

    Returns:
        Path: The file.

    Raises:
        UsageError: If there is nothing to draw.
    """
    path = Path(out)
    path = path if path.suffix.lower() == '.png' else path / 'plot.png'
    if bool(runs) == bool(features):
        raise UsageError('Name the work folders of runs, or a checkpoint by --features.')
    if features:
        number = plot_features(features, path, branch)
        print(f'drew {number} pixels of validation images: {path}')
        return path
    try:
        draw_runs(runs, path)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error
    print(f'drew {len(runs)} {"run" if len(runs) == 1 else "runs"}: {path}')
    return path


def plot_features(checkpoint: str, path: str | Path, branch: str | None = None) -> int:
    """Draw features of validation pixels, and return their number.

    Raises:
        UsageError: If the checkpoint is none of a run of mmsemi, or its validation images are not there.
    """
    _, cfg = read_checkpoint(checkpoint)
    network = load_network(checkpoint, branch)
    if 'val_dataloader' not in cfg:
        raise UsageError(f'{checkpoint} names no validation images (val_dataloader), whose features could be drawn.')
    with DefaultScope.overwrite_default_scope('mmsemi'):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
    rows, labels = gather_features(network.model, dataset, len(network.classes))
    try:
        draw_features(rows, labels, network.classes, network.palette, path)
    except ValueError as error:
        raise UsageError(f'{checkpoint}: {error}') from error
    return len(labels)


@torch.no_grad()
def gather_features(
    model: BaseSegmentor, dataset: Dataset, num_classes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features of pixels, about as many of each class, and their true classes: (N, D) and (N,).

    Args:
        model (BaseSegmentor): A plain segmentor, in evaluation mode.
        dataset (Dataset): Images with ground truth.
        num_classes (int): Number of classes.
        seed (int): Draws images and pixels. Defaults to 0.
    """
    generator = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    labels: list[int] = []
    found = np.zeros(num_classes, int)
    order = generator.permutation(len(dataset))[:_IMAGES]
    with Waiting() as waiting:
        for number in waiting.track(order, len(order), 'looking'):
            data = model.data_preprocessor(pseudo_collate([dataset[int(number)]]), False)
            maps = _before_classifier(model, data['inputs'])[0]
            truth = data['data_samples'][0].gt_sem_seg.data[None].float()
            truth = F.interpolate(truth, size=maps.shape[1:], mode='nearest-exact')[0, 0].long().cpu().numpy()
            for label in range(num_classes):
                places = np.argwhere(truth == label)
                take = min(len(places), _OF_AN_IMAGE, _OF_A_CLASS - found[label])
                for y, x in places[generator.permutation(len(places))[:take]]:
                    rows.append(maps[:, y, x].float().cpu().numpy())
                    labels.append(label)
                found[label] += take
    return np.array(rows), np.array(labels)


def _before_classifier(model: BaseSegmentor, images: Tensor) -> Tensor:
    """What the last convolution of the decode head sees, (B, D, h, w); without one, the last level of the backbone."""
    classifier, caught = getattr(model.decode_head, 'conv_seg', None), []
    levels = model.extract_feat(images)
    if classifier is None:
        return levels[-1]
    handle = classifier.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    try:
        model.decode_head(levels)
    finally:
        handle.remove()
    return caught[0] if caught else levels[-1]
