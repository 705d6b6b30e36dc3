"""What the masks of a data set show as a whole, and what its files say that a training should not overlook."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmseg.datasets import BaseSegDataset

from mmsemi.structures import IGNORE_INDEX

from .files import find_images, walk
from .inspect import duplicates

_MOST_COMPARED = 4000
"""Files up to which a training compares contents; `mmsemi check` compares all."""
_LISTED = 5
_ASKED = 64
"""Images by which a folder is known to be another split."""


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
    real = _real_in_its_folder()
    images = {real(path): path for path in find_images(folder)}
    labels = {real(path): path for path in find_images(masks)}
    both = images.keys() & labels.keys()
    used = {path for path in images.values() if path.endswith(image_suffix)}
    if images.keys() == labels.keys():
        # One folder, in which suffixes alone tell them apart.
        other = [path for path in images.values() if not path.endswith((image_suffix, mask_suffix))]
        labels = [path for path in labels.values() if path not in used and path.endswith(mask_suffix)]
    elif both == labels.keys():
        # Two folders, or masks in a folder within that of the images.
        other = [path for file, path in images.items() if path not in used and file not in both]
        labels = list(labels.values())
    else:
        other = [path for path in images.values() if path not in used]
        labels = [path for file, path in labels.items() if file not in both]
    found = []
    if other:
        found.append(
            f'{len(other)} images of {folder} do not end in {image_suffix} and are left out (first: '
            f'{os.path.basename(other[0])}); rename them, set img_suffix, or let `mmsemi init` pair them.'
        )
    stems = {os.path.relpath(path, folder)[: -len(image_suffix)] for path in used}
    # Cityscapes has masks of several kinds in one folder; if none is of this kind, all are lost.
    named = [path for path in labels if path.endswith(mask_suffix)] or labels
    lost = {stem: path for path in named if (stem := _stem(os.path.relpath(path, masks), mask_suffix)) not in stems}
    for split in _other_splits(folder, masks, image_suffix, lost) if lost else ():
        lost = {stem: path for stem, path in lost.items() if stem not in split}
    if lost:
        first = os.path.basename(next(iter(lost.values())))
        found.append(
            f'{len(lost)} masks of {masks} belong to no image that is used (first: {first}); '
            f'images end in {image_suffix} and masks in {mask_suffix} (img_suffix, seg_map_suffix).'
        )
    return found


def _other_splits(folder: str, masks: str, image_suffix: str, lost: Collection[str]) -> Iterator[set[str]]:
    """Images of the other splits that share ``masks``, their paths without suffix.

    Splits are ``train`` and ``val`` or ``train/images`` and ``val/images``. A folder is one where nearly all images
    have their mask among those that are ``lost``.
    """
    parent, name = os.path.split(os.path.abspath(folder))
    beside = [*_folders(parent), *(os.path.join(other, name) for other in _folders(os.path.dirname(parent)))]
    for other in beside:
        if os.path.isdir(other) and not _overlap(other, masks) and not _overlap(other, folder):
            # A folder of a million images that are none of these is not listed to its end.
            some = itertools.islice(_stems(other, image_suffix), _ASKED)
            if _most(some, lost) and _most(images := set(_stems(other, image_suffix)), lost):
                yield images


def _stems(folder: str, suffix: str) -> Iterator[str]:
    for parent, names in walk(folder):
        for name in names:
            if name.endswith(suffix):
                yield os.path.relpath(os.path.join(parent, name), folder)[: -len(suffix)]


def _most(stems: Iterable[str], known: Collection[str]) -> bool:
    are_known = [stem in known for stem in stems]
    return sum(are_known) > 0.9 * len(are_known)


def _folders(folder: str) -> list[str]:
    """Folders in a folder; none where it may not be listed."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [path for path in (os.path.join(folder, name) for name in names) if os.path.isdir(path)]


def _overlap(folder: str, other: str) -> bool:
    """Is one of them the other, or within it?"""
    real = [os.path.join(os.path.realpath(path), '') for path in (folder, other)]
    return real[0].startswith(real[1]) or real[1].startswith(real[0])


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
