"""Masks for images that have none: ``mmsemi predict``."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmsemi.datasets.files import find_images, output_names
from mmsemi.datasets.partition import IMAGE_SUFFIXES, read_list
from mmsemi.visualization.paint import overlay, save_labels, shown

from .launch import UsageError
from .network import load_network
from .predictor import Predictor, UnusableImage
from .waiting import Waiting

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
_FOLDERS = ('masks', 'overlays', 'confidence')
_TABLE = 'images.csv'


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
    ``out/images.csv`` names the images by their mean confidence, those that most need a person first, and last those
    that cannot be used.

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
        UsageError: If there is no image, or none can be used, or an argument is out of range.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f'--threshold must lie in [0, 1], not {threshold}.')
    if not os.path.exists(images):
        raise UsageError(f'{images} does not exist; name a folder, a list file, an image or a video.')
    network, folder = load_network(checkpoint, branch, device), Path(out)
    source = _source(images, folder, network.data_root)
    predictor, palette, rows = Predictor(network, threshold or 0.0), network.palette, []
    with Waiting() as waiting:
        for name, image in waiting.track(source, len(source) or None, 'predicting'):
            try:
                results = predictor.read(image)
            except UnusableImage as reason:
                rows.append((name, '', '', str(reason)))
                continue
            pixels = results['img'] if overlays else None
            found = predictor(results, lambda items, total, name=name: waiting.track(items, total, name, inner=True))
            save_labels(folder / 'masks' / f'{name}.png', found.labels, palette)
            if overlays:
                picture = overlay(shown(pixels, found.labels.shape), found.labels, palette)
                Image.fromarray(picture).save(_place(folder / 'overlays' / f'{name}.jpg'), quality=92)
            if confidence:
                Image.fromarray(found.confidence).save(_place(folder / 'confidence' / f'{name}.png'))
            kept = 1.0 if threshold is None else 1 - np.count_nonzero(found.labels == 255) / found.labels.size
            rows.append((name, f'{found.confidence.mean() / 255:.4f}', f'{kept:.4f}', ''))
    _write_table(_place(folder / _TABLE), rows)
    bad = [f'{name} {reason}' for name, *_, reason in rows if reason]
    if len(bad) == len(rows):
        raise UsageError(f'None of the {len(rows)} images can be used, the first: {bad[0]}.')
    print(f'wrote {len(rows) - len(bad)} masks to {folder / "masks"}; {folder / _TABLE} names the unsure images first')
    for text in bad[:5]:
        print(f'left out: {text}')
    if len(bad) > 5:
        print(f'left out: {len(bad) - 5} more, see {folder / _TABLE}')
    return folder / 'masks'


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_table(path: Path, rows: list[tuple[str, str, str, str]]) -> None:
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('image', 'mean confidence', 'kept', 'problem'))
        writer.writerows(sorted(rows, key=lambda row: (row[3] != '', row[1], row[0])))


# Where images come from


class _Files:
    """Images by name, read when they are asked for."""

    def __init__(self, paths: list[str], root: str) -> None:
        self.paths = paths
        self.names = output_names(paths, root)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from zip(self.names, self.paths, strict=True)


class _Video:
    """Frames of a video by number."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stem = Path(path).stem
        video = cv2.VideoCapture(path)
        # What the file says; some say nothing.
        self.count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))) if video.isOpened() else 0
        if not video.isOpened() or not video.read()[0]:
            raise UsageError(f'The video {path} cannot be read: OpenCV finds no frame in it.')

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        video, number = cv2.VideoCapture(self.path), 0
        while (read := video.read())[0]:
            yield f'{self.stem}/{number:06d}', read[1]
            number += 1


def _source(images: str, out: Path, data_root: str | None) -> _Files | _Video:
    if os.path.isdir(images):
        # What an earlier prediction wrote into this folder is none of its images.
        written = tuple(os.path.join(os.path.realpath(out / name), '') for name in _FOLDERS)
        paths = [path for path in find_images(images) if not os.path.realpath(path).startswith(written)]
        if not paths:
            raise UsageError(f'The folder {images} holds no image; suffixes are {", ".join(IMAGE_SUFFIXES)}.')
        return _Files(paths, images)
    if images.lower().endswith(VIDEO_SUFFIXES):
        return _Video(images)
    if images.lower().endswith(IMAGE_SUFFIXES):
        return _Files([images], os.path.dirname(images) or '.')
    return _listed(images, data_root)


def _listed(list_file: str, data_root: str | None) -> _Files:
    """The images of a list, whose paths are relative to this folder, to the list's or to the training's data."""
    roots = ['.', os.path.dirname(os.path.abspath(list_file)), *([data_root] if data_root else [])]
    found, names = [], []
    for entry in read_list(list_file):
        root = next((root for root in roots if os.path.isfile(os.path.join(root, entry.image))), None)
        if root is None:
            raise UsageError(f'{list_file}, line {entry.line}: there is no image {entry.image}; correct the line.')
        found.append(os.path.abspath(os.path.join(root, entry.image)))
        names.append(os.path.normpath(entry.image))
    found = list(dict.fromkeys(found))
    if not any(os.path.isabs(name) or name.startswith(os.pardir) for name in names):
        listed = _Files(list(dict.fromkeys(names)), '.')
        if len(listed) == len(found):
            listed.paths = found
            return listed
    return _Files(found, os.path.commonpath([os.path.dirname(path) for path in found]))
