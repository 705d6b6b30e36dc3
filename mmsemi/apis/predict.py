"""Masks for images that have none: ``mmsemi predict``."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from mmsemi.datasets.files import find_images
from mmsemi.datasets.masks import is_decodable
from mmsemi.datasets.partition import IMAGE_SUFFIXES, read_list
from mmsemi.registry import TRANSFORMS
from mmsemi.structures import IGNORE_INDEX
from mmsemi.visualization.paint import overlay, save_labels

from .launch import UsageError
from .network import Network, load_network

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
_LARGEST = 2048 * 2048
"""Pixels up to which an image is predicted in one piece."""
_WINDOW = 1024
_MARGIN = 128
"""Pixels of context around each window, whose predictions are not used."""


@dataclass
class Prediction:
    """What a network says of an image.

    Args:
        labels (np.ndarray): Class of each pixel, (H, W) uint8.
        confidence (np.ndarray): Its probability, of 255, (H, W) uint8.
    """

    labels: np.ndarray
    confidence: np.ndarray


def predict(
    checkpoint: str,
    images: str,
    out: str,
    overlays: bool = False,
    confidence: bool = False,
    threshold: float | None = None,
    branch: str | None = None,
    device: str | None = None,
) -> Path:
    """Write a mask for each image of a folder, of a list file, of a video, or for one image.

    ``out/masks`` gets PNG files of class ids that show the classes' colors, under the images' relative paths;
    ``out/images.csv`` names the images by their mean confidence, those that most need a person first.

    Args:
        checkpoint (str): Of mmsemi, or an exported one.
        images (str): A folder (with subfolders), a text file with one image a line, an image or a video.
        out (str): Folder to write.
        overlays (bool): Also write the masks painted over the images, to ``out/overlays``. Defaults to False.
        confidence (bool): Also write the probability of each pixel's class, of 255, to ``out/confidence``. Defaults to
            False.
        threshold (float, optional): Pixels that are less probable get 255, as annotators want it.
        branch (str, optional): 'student' or 'teacher'. Defaults to the teacher where there is one.
        device (str, optional): Defaults to the GPU where there is one.

    Returns:
        Path: The folder of masks.

    Raises:
        UsageError: If there is no image, or an argument is out of range.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f'--threshold must lie in [0, 1], not {threshold}.')
    source = _source(images)
    network = load_network(checkpoint, branch, device)
    predictor = Predictor(network)
    folder, rows = Path(out), []
    for name, image in track(source, description='predicting', total=len(source)):
        found = predictor(image)
        if found is None:
            rows.append((name, '', '', 'cannot be read'))
            continue
        labels, sure = found.labels, found.confidence
        kept = 1.0
        if threshold is not None:
            unsure = sure < threshold * 255
            labels, kept = np.where(unsure, np.uint8(IGNORE_INDEX), labels), 1 - unsure.mean()
        save_labels(folder / 'masks' / f'{name}.png', labels, network.palette)
        if overlays:
            path = folder / 'overlays' / f'{name}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(overlay(_shown(image), labels, network.palette)).save(path, quality=92)
        if confidence:
            path = folder / 'confidence' / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sure).save(path)
        rows.append((name, f'{sure.mean() / 255:.4f}', f'{kept:.4f}', ''))
    _write_table(folder / 'images.csv', rows)
    bad = [name for name, *_, problem in rows if problem]
    if len(bad) == len(rows):
        raise UsageError(f'None of the {len(rows)} images can be read, among them {bad[0]}.')
    done = (
        f'wrote {len(rows) - len(bad)} masks to {folder / "masks"}; {folder / "images.csv"} has the unsure ones first'
    )
    print(done + (f'; {len(bad)} images cannot be read, among them {bad[0]}' if bad else ''))
    return folder / 'masks'


def _write_table(path: Path, rows: list[tuple[str, str, str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('image', 'mean confidence', 'kept', 'problem'))
        writer.writerows(sorted(rows, key=lambda row: (row[1], row[0])))


# Where images come from


class _Files:
    """Images by name, read when they are asked for."""

    def __init__(self, paths: list[str], root: str) -> None:
        self.paths = paths
        stems = [os.path.splitext(os.path.relpath(path, root))[0] for path in paths]
        twice = {stem for stem, number in Counter(stems).items() if number > 1}
        whole = [os.path.relpath(path, root) for path in paths]
        self.names = [name if stem in twice else stem for stem, name in zip(stems, whole, strict=True)]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, path in zip(self.names, self.paths, strict=True):
            yield name.replace(os.sep, '/'), path


class _Video:
    """Frames of a video by number."""

    def __init__(self, path: str) -> None:
        self.video = mmcv.VideoReader(path)
        if not len(self.video):
            raise UsageError(f'The video {path} cannot be read: OpenCV finds no frame in it.')
        self.stem = Path(path).stem

    def __len__(self) -> int:
        return len(self.video)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for number, frame in enumerate(self.video):
            yield f'{self.stem}/{number:06d}', frame


def _source(images: str) -> _Files | _Video:
    if os.path.isdir(images):
        paths = find_images(images)
        if not paths:
            raise UsageError(f'The folder {images} holds no image; suffixes are {", ".join(IMAGE_SUFFIXES)}.')
        return _Files(paths, images)
    if not os.path.isfile(images):
        raise UsageError(f'{images} does not exist; name a folder, a list file, an image or a video.')
    if images.lower().endswith(VIDEO_SUFFIXES):
        return _Video(images)
    if images.lower().endswith(IMAGE_SUFFIXES):
        return _Files([images], os.path.dirname(images) or '.')
    folder = os.path.dirname(os.path.abspath(images))
    found = []
    for entry in read_list(images):
        path = next((p for p in (entry.image, os.path.join(folder, entry.image)) if os.path.isfile(p)), None)
        if path is None:
            raise UsageError(f'{images}, line {entry.line}: there is no image {entry.image}; correct the line.')
        found.append(os.path.abspath(path))
    root = os.path.commonpath([os.path.dirname(path) for path in found])
    return _Files(found, root)


def _shown(image: str | np.ndarray) -> np.ndarray:
    """RGB of an image, (H, W, 3) uint8."""
    array = image if isinstance(image, np.ndarray) else mmcv.imread(image, flag='color')
    return np.ascontiguousarray(array[..., ::-1])


# Predicting


class Predictor:
    """Predicts images as the network's test pipeline and ``test_cfg`` say, large ones window by window.

    What an image takes beside itself is bounded by the window: scores exist for one window at a time.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.device = next(network.model.parameters()).device
        # Without what needs ground truth; loading is the first step.
        steps = [step for step in network.pipeline if 'Annotations' not in str(step['type'])]
        with DefaultScope.overwrite_default_scope('mmsemi'):
            built = [TRANSFORMS.build(step) for step in steps]
        self.load, self.transform = built[0], Compose(built[1:])

    @torch.no_grad()
    def __call__(self, image: str | np.ndarray) -> Prediction | None:
        """Predict an image, given by its path or as BGR (H, W, 3); None if it cannot be read."""
        if isinstance(image, np.ndarray):
            results = {'img': image, 'img_shape': image.shape[:2], 'ori_shape': image.shape[:2], 'img_path': ''}
        elif is_decodable(image):
            results = self.load({'img_path': image, 'seg_fields': []})
        else:
            return None
        size = tuple(results['img'].shape[:2])
        packed = self.transform({'seg_fields': [], **results})
        height, width = packed['inputs'].shape[1:]
        if height * width <= _LARGEST:
            return self._to_size(self._scores(packed['inputs'], packed['data_samples']), size)
        return self._by_windows(packed, size)

    def _scores(self, pixels: Tensor, sample) -> Tensor:
        """Class scores of a piece of an image, (C, h, w)."""
        model = self.network.model
        sample = sample.clone()
        shape = tuple(pixels.shape[1:])
        sample.set_metainfo({'img_shape': shape, 'ori_shape': shape})
        batch = model.data_preprocessor({'inputs': [pixels], 'data_samples': [sample]}, False)
        meta = {**sample.metainfo, 'pad_shape': tuple(batch['inputs'].shape[2:]), 'padding_size': [0] * 4}
        scores = model.inference(batch['inputs'], [meta])
        return scores[0, :, : shape[0], : shape[1]].float()

    def _by_windows(self, packed: dict, size: tuple[int, int]) -> Prediction:
        """Predict windows with a margin of context; of each its inside counts."""
        pixels = packed['inputs']
        height, width = pixels.shape[1:]
        labels = torch.empty(height, width, dtype=torch.uint8)
        sure = torch.empty(height, width, dtype=torch.uint8)
        for top, bottom, first, last in _windows(height):
            for left, right, start, end in _windows(width):
                scores = self._scores(pixels[:, first:last, start:end], packed['data_samples'])
                inside = scores[:, top - first : bottom - first, left - start : right - start]
                labels[top:bottom, left:right], sure[top:bottom, left:right] = _labels(inside)
        if (height, width) != size:
            labels, sure = (
                F.interpolate(maps[None, None], size=size, mode='nearest-exact')[0, 0] for maps in (labels, sure)
            )
        return Prediction(labels.numpy(), sure.numpy())

    def _to_size(self, scores: Tensor, size: tuple[int, int]) -> Prediction:
        """Labels at the image's own size, from scores that are resized a band of rows at a time."""
        align = self.network.model.align_corners
        height, width = size
        labels, sure = (np.empty(size, np.uint8) for _ in range(2))
        rows = max(1, _LARGEST // width)
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            band = resize_band(scores, size, top, bottom, align)
            found = _labels(band)
            labels[top:bottom], sure[top:bottom] = (maps.numpy() for maps in found)
        return Prediction(labels, sure)


def _windows(length: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut a side into insides of windows, each with where its context begins and ends."""
    step = _WINDOW - 2 * _MARGIN
    for begin in range(0, length, step):
        end = min(length, begin + step)
        yield begin, end, max(0, begin - _MARGIN), min(length, end + _MARGIN)


def _labels(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Class and probability, of 255, of each pixel of scores (C, h, w) (one score map: a sigmoid's), on the host."""
    if len(scores) == 1:
        prob = scores[0].sigmoid()
        label = (prob > 0.5).to(torch.uint8)
        sure = torch.maximum(prob, 1 - prob)
    else:
        sure, label = scores.softmax(0).max(0)
    return label.to(torch.uint8).cpu(), (sure * 255).round().to(torch.uint8).cpu()


def resize_band(scores: Tensor, size: tuple[int, int], top: int, bottom: int, align_corners: bool) -> Tensor:
    """Rows ``top`` to ``bottom`` of what bilinear resizing of ``scores`` (C, h, w) to ``size`` gives, (C, rows, W)."""
    if tuple(scores.shape[1:]) == tuple(size):
        return scores[:, top:bottom]
    height = scores.shape[1]
    row = torch.arange(top, bottom, dtype=torch.float64)
    if align_corners:
        place = row * ((height - 1) / (size[0] - 1) if size[0] > 1 else 0)
    else:
        place = ((row + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
    low = place.floor().long().clamp(max=height - 1)
    high = (low + 1).clamp(max=height - 1)
    share = (place - low).to(scores).view(1, -1, 1)
    rows = scores[:, low.to(scores.device)] * (1 - share) + scores[:, high.to(scores.device)] * share
    return F.interpolate(rows, size=size[1], mode='linear', align_corners=align_corners)
