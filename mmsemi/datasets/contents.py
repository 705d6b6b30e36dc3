"""What the masks of a data set show as a whole, and which of its images are in more than one part of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmsemi.structures import IGNORE_INDEX

from .files import real_in_its_folder
from .inspect import duplicates

_MOST_COMPARED = 4000
"""Files up to which a training compares contents; `mmsemi check` compares all."""
_LISTED = 5


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


def leaks(parts: dict[str, Sequence[str]], thorough: bool = False) -> list[str]:
    """Images of 'validation' that are trained on as well, by path and, where they are few, by content.

    Args:
        parts (dict[str, Sequence[str]]): Paths of 'labeled', 'unlabeled' and 'validation'.
        thorough (bool): Whether contents are compared however many files there are. Defaults to False.
    """
    few = thorough or sum(map(len, parts.values())) <= _MOST_COMPARED
    real = os.path.realpath if few else real_in_its_folder()
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
