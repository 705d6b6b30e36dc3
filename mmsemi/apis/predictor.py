"""A network at work: classes and confidences of images of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope
from torch import Tensor
from torch.nn import functional as F

from mmsemi.datasets.masks import is_decodable
from mmsemi.models.branch import image_channels
from mmsemi.registry import TRANSFORMS
from mmsemi.structures import IGNORE_INDEX

from .launch import UsageError
from .network import Network

LARGEST = 2048 * 2048
"""Pixels up to which an image is predicted in one piece."""
WINDOW = 1024
MARGIN = 128
"""Pixels of context around the inside of each window, whose predictions are not used."""
_BAND = 2**18
"""Pixels whose class probabilities exist at a time."""

Track = Callable[[Iterable, int], Iterable]


class UnusableImage(ValueError):
    """An image that cannot be predicted; the message says why, as the end of a sentence that its name begins."""


@dataclass
class Prediction:
    """What a network says of an image.

    Args:
        labels (np.ndarray): Class of each pixel, (H, W) uint8; 255 where it is less probable than asked for.
        confidence (np.ndarray): Its probability, of 255, (H, W) uint8.
    """

    labels: np.ndarray
    confidence: np.ndarray


class Predictor:
    """Predicts images as the network's test pipeline and ``test_cfg`` say, large ones window by window.

    Images are read as the pipeline reads them, which is as training did: turned by EXIF, with as many channels and
    bits as it says. What an image takes beside its own pixels and its two maps is bounded by the window: scores exist
    for one window at a time.

    Args:
        network (Network): It, on its device.
        threshold (float): Pixels whose class is less probable get 255. Defaults to 0.

    Raises:
        UsageError: If the network has more classes than a mask of one byte a pixel can name.
    """

    def __init__(self, network: Network, threshold: float = 0.0) -> None:
        self.network = network
        self.threshold = threshold
        self.device = next(network.model.parameters()).device
        if len(network.classes) > IGNORE_INDEX:
            raise UsageError(f'The network has {len(network.classes)} classes; masks of a byte hold {IGNORE_INDEX}.')
        # Without what needs ground truth. Loading is the first step, packing the last.
        steps = [step for step in network.pipeline if 'Annotations' not in str(step['type'])]
        self.color_type = steps[0].get('color_type', 'color')
        with DefaultScope.overwrite_default_scope('mmsemi'):
            built = [TRANSFORMS.build(step) for step in steps]
        self._load, self._transform, self._pack = built[0], Compose(built[1:-1]), built[-1]
        self.channels = image_channels(network.model)

    def read(self, image: str | np.ndarray) -> dict:
        """An image, by its path or as BGR (H, W, 3) uint8, as the pipeline reads it: ``img``, (H, W[, C]),
        ``ori_shape``, and more.

        Raises:
            UnusableImage: If it cannot be read, or has other channels than the network takes.
        """
        if isinstance(image, np.ndarray):
            frame = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if self.color_type == 'grayscale' else image
            results = {'img': frame, 'img_shape': frame.shape[:2], 'ori_shape': frame.shape[:2], 'img_path': ''}
        else:
            try:
                results = self._load({'img_path': image})
            except Exception as error:
                if is_decodable(image):
                    raise
                raise UnusableImage('cannot be read') from error
            if results is None:
                raise UnusableImage('cannot be read')
        channels = 1 if results['img'].ndim == 2 else results['img'].shape[2]
        if channels != self.channels:
            raise UnusableImage(f'has {channels} channels, and the network takes {self.channels}')
        return {'seg_fields': [], **results}

    @torch.no_grad()
    def __call__(self, results: dict, track: Track | None = None) -> Prediction:
        """Predict an image.

        Args:
            results (dict): What :meth:`read` gave.
            track (Callable, optional): Goes through the windows of a large image, given them and their number.
        """
        size = tuple(results['ori_shape'])  # what is read may be a reduced image
        results = self._transform(results)
        height, width = results['img'].shape[:2]
        if height * width <= LARGEST:
            return self._to_size(self._scores(results), size)
        return self._by_windows(results, size, track or (lambda windows, number: windows))

    def _scores(self, results: dict) -> Tensor:
        """Class scores of a piece of an image, (C, h, w)."""
        packed = self._pack(results)
        pixels, sample = packed['inputs'], packed['data_samples']
        model, shape = self.network.model, tuple(pixels.shape[1:])
        sample.set_metainfo({'img_shape': shape, 'ori_shape': shape})
        batch = model.data_preprocessor({'inputs': [pixels], 'data_samples': [sample]}, False)
        meta = {**sample.metainfo, 'pad_shape': tuple(batch['inputs'].shape[2:]), 'padding_size': [0] * 4}
        scores = model.inference(batch['inputs'], [meta])
        return scores[0, :, : shape[0], : shape[1]].float()

    def _by_windows(self, results: dict, size: tuple[int, int], track: Track) -> Prediction:
        """Predict windows with a margin of context; of each its inside counts."""
        pixels = results['img']
        height, width = pixels.shape[:2]
        found = Prediction(*(np.empty((height, width), np.uint8) for _ in range(2)))
        pieces = [(rows, columns) for rows in cut(height) for columns in cut(width)]
        for (top, bottom, first, last), (left, right, start, end) in track(pieces, len(pieces)):
            scores = self._scores({**results, 'img': pixels[first:last, start:end]})
            self._decide(
                scores[:, top - first : bottom - first, left - start : right - start],
                found.labels[top:bottom, left:right],
                found.confidence[top:bottom, left:right],
            )
        if (height, width) == size:
            return found
        maps = [torch.from_numpy(values)[None, None] for values in (found.labels, found.confidence)]
        return Prediction(*(F.interpolate(values, size=size, mode='nearest-exact')[0, 0].numpy() for values in maps))

    def _to_size(self, scores: Tensor, size: tuple[int, int]) -> Prediction:
        """Decide at the image's own size, from scores that are resized a band of rows at a time."""
        align, (height, width) = self.network.model.align_corners, size
        found = Prediction(*(np.empty(size, np.uint8) for _ in range(2)))
        rows = max(1, _BAND // width)
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            band = resize_band(scores, size, top, bottom, align)
            self._decide(band, found.labels[top:bottom], found.confidence[top:bottom])
        return found

    def _decide(self, scores: Tensor, labels: np.ndarray, confidence: np.ndarray) -> None:
        """Write class and probability, of 255, of each pixel of scores (C, h, w), a band of rows at a time."""
        rows = max(1, _BAND // max(1, scores.shape[2]))
        for top in range(0, scores.shape[1], rows):
            band = scores[:, top : top + rows]
            if len(band) == 1:  # a sigmoid's, and the network says from where on it is the class
                prob = band[0].sigmoid()
                label = prob > self.network.model.decode_head.threshold
                sure = torch.where(label, prob, 1 - prob)
            else:
                sure, label = band.softmax(0).max(0)
            label = label.to(torch.uint8).masked_fill(sure < self.threshold, IGNORE_INDEX)
            labels[top : top + rows] = label.cpu().numpy()
            confidence[top : top + rows] = (sure * 255).round().to(torch.uint8).cpu().numpy()


def cut(length: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut a side into insides of windows, each with where its context begins and ends."""
    step = WINDOW - 2 * MARGIN
    for begin in range(0, length, step):
        end = min(length, begin + step)
        yield begin, end, max(0, begin - MARGIN), min(length, end + MARGIN)


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
