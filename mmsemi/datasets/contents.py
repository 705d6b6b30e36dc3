"""What the masks of a data set show as a whole, and what its files say that a training should not overlook."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmseg.datasets import BaseSegDataset

from mmsemi.structures import IGNORE_INDEX

from .files import find_images
from .inspect import duplicates

_MOST_COMPARED = 4000
"""Files up to which a training compares contents; `mmsemi check` compares all."""
_LISTED = 5
_ASKED = 64
"""Masks by which a folder is looked for that has their images."""


@dataclass
class Shown:
    """What masks show.

    Args:
        classes (Sequence[str]): Names of the classes.
        pixels (np.ndarray): Pixels of each class, and last of those that are ignored, (C + 1,).
        images (np.ndarray): Masks that show each, (C + 1,).
        masks (int): How many there are.
        black_white (list[str]): Masks in whose files are 0 and 255 alone.
    """

    classes: Sequence[str]
    pixels: np.ndarray = None
    images: np.ndarray = None
    masks: int = 0
    black_white: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ('pixels', 'images'):
            if getattr(self, name) is None:
                setattr(self, name, np.zeros(len(self.classes) + 1, dtype=np.int64))

    def take(self, path: str, counts: np.ndarray, ids: set[int]) -> None:
        """Take in what a mask shows: pixels of each class (C + 1,), and which ids stand in its file."""
        self.pixels += counts
        self.images += counts > 0
        self.masks += 1
        if ids == {0, IGNORE_INDEX} and counts[-1]:
            self.black_white.append(path)

    def __add__(self, other: Shown) -> Shown:
        return Shown(
            self.classes,
            self.pixels + other.pixels,
            self.images + other.images,
            self.masks + other.masks,
            [*self.black_white, *other.black_white],
        )

    @property
    def absent(self) -> list[str]:
        """Classes without a pixel."""
        return [name for name, pixels in zip(self.classes, self.pixels, strict=False) if not pixels]

    def judge(self, part: str) -> tuple[list[str], list[str]]:
        """What makes a run meaningless, and what its user should know; ``part``: 'labeled' or 'validation'."""
        total = int(self.pixels[:-1].sum())
        if not self.masks:
            return [], []
        if not total:
            return [
                f'All pixels of the {self.masks} {part} masks are {IGNORE_INDEX}, which is ignored: there is nothing '
                f'to {"learn" if part == "labeled" else "judge"}. Correct the masks; if {IGNORE_INDEX} stands for a '
                'class, write its id, or let `mmsemi init` map it.'
            ], []
        shown = len(self.classes) - len(self.absent)
        if shown == 1 and len(self.classes) > 1:
            only = next(name for name in self.classes if name not in self.absent)
            if self.black_white:
                return [
                    f'The {part} masks hold 0 and {IGNORE_INDEX} alone ({self.black_white[0]}), and {IGNORE_INDEX} is '
                    f'ignored: {", ".join(self.absent)} has no pixel. Write 1 in place of {IGNORE_INDEX}, or let '
                    f'`mmsemi init` write a config that maps it (dataset type ListedDataset, label_map={{255: 1}}).'
                ], []
            if part == 'labeled':
                return [
                    f'All {part} pixels are {only}: there is nothing to tell it from. Correct the masks or '
                    'metainfo.classes, or label images that show other classes.'
                ], []
        warnings = []
        if self.absent:
            names = ', '.join(self.absent[:_LISTED]) + (', ...' if len(self.absent) > _LISTED else '')
            meant = {
                'labeled': 'a class without one cannot be learned',
                # mmseg's means are over the classes that the masks or the predictions show.
                'validation': 'a class without one counts as 0 in the mean where a network predicts it anywhere, and '
                'not at all where it does not, so that means of two networks, or of two epochs, are not over the same '
                'classes',
            }[part]
            warnings.append(f'No {part} pixel shows {names}: {meant}.')
        if self.black_white and self.masks > len(self.black_white):
            warnings.append(
                f'{len(self.black_white)} of {self.masks} {part} masks hold 0 and {IGNORE_INDEX} alone (first: '
                f'{self.black_white[0]}), and {IGNORE_INDEX} is ignored; if it is a class there, write its id.'
            )
        share = self.pixels[-1] / self.pixels.sum()
        if share > 0.5:
            warnings.append(f'{share:.0%} of the {part} pixels are void.')
        return [], warnings

    def table(self) -> list[tuple[str, str, str]]:
        """Of each class its name, its share of the pixels that count, and in how many masks it is."""
        total = max(1, int(self.pixels[:-1].sum()))
        return [
            (name, f'{pixels / total:.2%}', str(images))
            for name, pixels, images in zip(self.classes, self.pixels, self.images, strict=False)
        ]


def lost_files(dataset: Any) -> list[str]:
    """Files of an mmseg data set of folders that its suffixes leave out: a sentence for images, one for masks.

    Args:
        dataset (Any): A data set, built; nothing is said of one that reads a list, has no folders, or finds its files
            in a way of its own.
    """
    if getattr(type(dataset), 'load_data_list', None) is not BaseSegDataset.load_data_list:
        return []
    folder, masks = ((dataset.data_prefix or {}).get(key) for key in ('img_path', 'seg_map_path'))
    if getattr(dataset, 'ann_file', None) and os.path.isfile(dataset.ann_file):
        return []
    if not (folder and masks and os.path.isdir(folder) and os.path.isdir(masks)):
        return []
    image_suffix, mask_suffix = getattr(dataset, 'img_suffix', None), getattr(dataset, 'seg_map_suffix', None)
    if not (image_suffix and mask_suffix):
        return []
    found, images, labels = [], find_images(folder), find_images(masks)
    used = {path for path in images if path.endswith(image_suffix)}
    other = [path for path in images if path not in used]
    mixed = _overlap(folder, masks)
    if mixed:
        # One folder holds both, or lies within the other: what may be a mask was not left out.
        may_be = {os.path.realpath(path) for path in labels if path.endswith(mask_suffix)}
        other = [path for path in other if os.path.realpath(path) not in may_be]
    if other:
        found.append(
            f'{len(other)} images of {folder} do not end in {image_suffix} and are left out (first: '
            f'{os.path.basename(other[0])}); rename them, set img_suffix, or let `mmsemi init` pair them.'
        )
    stems = {os.path.relpath(path, folder)[: -len(image_suffix)] for path in used}
    lost = [path for path in labels if _stem(os.path.relpath(path, masks), mask_suffix) not in stems]
    lost = [] if mixed or not lost else _of_no_image(lost, folder, masks, (image_suffix, mask_suffix))
    if lost:
        found.append(
            f'{len(lost)} masks of {masks} belong to no image that is used (first: {os.path.basename(lost[0])}); '
            f'images end in {image_suffix} and masks in {mask_suffix} (img_suffix, seg_map_suffix).'
        )
    return found


def _of_no_image(lost: list[str], folder: str, masks: str, suffixes: tuple[str, str]) -> list[str]:
    """Which of these masks are of no other split: a folder beside ``folder`` whose images all have one of them."""
    image_suffix, mask_suffix = suffixes
    stems = {path: _stem(os.path.relpath(path, masks), mask_suffix) for path in lost}
    some = list(stems.values())[:: max(1, len(lost) // _ASKED)]
    known, elsewhere = set(stems.values()), set()
    with os.scandir(os.path.dirname(os.path.normpath(folder)) or '.') as beside:
        splits = [entry.path for entry in beside if entry.is_dir() and not _overlap(entry.path, masks)]
    for split in splits:
        if any(os.path.isfile(os.path.join(split, stem + image_suffix)) for stem in some):
            images = {os.path.relpath(path, split)[: -len(image_suffix)] for path in find_images(split)}
            elsewhere |= images if images <= known else set()
    return [path for path in lost if stems[path] not in elsewhere]


def _overlap(folder: str, other: str) -> bool:
    """Is one of them the other, or within it?"""
    real = [os.path.realpath(path) for path in (folder, other)]
    return os.path.commonpath(real) in real


def _stem(name: str, suffix: str) -> str:
    return name[: -len(suffix)] if name.endswith(suffix) else os.path.splitext(name)[0]


def _real_in_its_folder() -> Callable[[str], str]:
    """Paths with their folders' links followed, each folder once: a million files are not asked one by one."""
    folder_of = functools.cache(os.path.realpath)
    return lambda path: os.path.join(folder_of(os.path.dirname(path)), os.path.basename(path))


def leaks(parts: dict[str, Sequence[str]], thorough: bool = False) -> list[str]:
    """Images of 'validation' that are trained on as well, by path and, where they are few, by content.

    Args:
        parts (dict[str, Sequence[str]]): Paths of 'labeled', 'unlabeled' and 'validation'.
        thorough (bool): Whether contents are compared however many files there are. Defaults to False.
    """
    few = thorough or sum(map(len, parts.values())) <= _MOST_COMPARED
    real = os.path.realpath if few else _real_in_its_folder()
    judged = {real(path) for path in parts.get('validation', ())}
    found = []
    for part in ('labeled', 'unlabeled'):
        both = [path for path in parts.get(part, ()) if real(path) in judged]
        if both:
            found.append(
                f'{len(both)} of {len(judged)} validation images are {part} images of training, too (first: '
                f'{both[0]}): scores of images that were trained on say little; take them out of one part.'
            )
    if found or not few:
        return found
    part_of = {os.path.abspath(path): part for part, paths in parts.items() for path in paths}
    twins = [pair for pair in duplicates(parts) if len({part_of[path] for path in pair}) > 1]
    for part in ('labeled', 'unlabeled'):
        both = [pair for pair in twins if {part_of[path] for path in pair} == {part, 'validation'}]
        if both:
            found.append(
                f'{len(both)} validation images have the content of {part} images of training (first: '
                f'{" and ".join(both[0])}): scores of images that were trained on say little; take them out of one.'
            )
    return found
