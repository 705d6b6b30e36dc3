"""Partitions of a data set: how many images are labeled, which ones, and the list files that say so.

Everything here is a pure function of its arguments. Drawing uses a generator of its own and never the global random
state.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_SUFFIX = r'\.(?:jpe?g|png|bmp|tiff?|webp)'
# Names may contain blanks, so a pair is told from one name by its two suffixes rather than by its number of words.
_PAIR = re.compile(rf'(?P<image>.+?{_SUFFIX})\s+(?P<mask>.+{_SUFFIX})', re.IGNORECASE)
_COUNT_OR_FRACTION = re.compile(r'\d+(\s*/\s*\d+)?|\d*\.\d+')
# Masks are read in chunks so that the reader can use threads, while a draw that is soon complete reads few.
_CHUNK = 64


@dataclass(frozen=True)
class ListEntry:
    """One line of a list file.

    Args:
        line (int): Number of the line, from 1.
        image (str): Id or path of the image.
        mask (str, optional): Path of its mask, where the line gives one.
    """

    line: int
    image: str
    mask: str | None = None


def is_amount(labeled: object) -> bool:
    """Whether ``labeled`` is a count or a fraction, and not the path of a list file."""
    if isinstance(labeled, str):
        return _COUNT_OR_FRACTION.fullmatch(labeled.strip()) is not None
    return isinstance(labeled, (int, float)) and not isinstance(labeled, bool)


def labeled_count(labeled: str | int | float, total: int) -> int:
    """Number of labeled images that a count or a fraction stands for.

    A fraction is rounded up, as in the published partitions: 1/8 of 10,582 is 1,323, 1/16 of 2,975 is 186, 1/16 of
    1,464 is 92. (One is rounded down: for PASCAL VOC's 1/20 with 529 images, give the count.)

    Args:
        labeled (str | int | float): A count (``92``, ``'92'``), or a fraction in (0, 1] (``'1/8'``, ``0.125``).
        total (int): Number of images to draw from.

    Raises:
        ValueError: If the amount is malformed, not positive, or more than ``total``.
    """
    if not is_amount(labeled):
        raise ValueError(f"labeled={labeled!r} is neither a count nor a fraction such as '1/8'.")
    if isinstance(labeled, str):
        text = labeled.replace(' ', '')
        labeled = text if '/' in text else (float(text) if '.' in text else int(text))
    if isinstance(labeled, int):
        count = labeled
    else:
        try:
            # 0.1 as a float is a little more than 1/10, and would round 10 images up to 2.
            fraction = Fraction(labeled).limit_denominator(10**6)
        except (ZeroDivisionError, ValueError, OverflowError):
            raise ValueError(f"labeled={labeled!r} is no fraction; write it like '1/8'.") from None
        if not 0 < fraction <= 1:
            raise ValueError(
                f'labeled={labeled!r} must be a fraction above 0 and at most 1, or a whole number of images.'
            )
        count = math.ceil(fraction * total)
    if count < 1:
        raise ValueError(f'labeled={labeled!r} asks for no labeled image; ask for at least one.')
    if count > total:
        raise ValueError(
            f'labeled={labeled!r} asks for {count} labeled images, but there are only {total} to draw from; '
            'lower it, or widen the data set or the candidates.'
        )
    return count


def draw_partition(
    total: int,
    count: int,
    seed: int = 0,
    classes_of: Callable[[Sequence[int]], Sequence[set[int]]] | None = None,
    class_names: Sequence[str] | None = None,
) -> list[int]:
    """Draw ``count`` of ``total`` images.

    The images are the first ``count`` of a seeded permutation, so that a smaller partition of the same seed is part of
    a larger one. With ``classes_of``, images that bring a class which none before them had go first, and the rest
    follows in the order of the permutation.

    Args:
        total (int): Number of images to draw from.
        count (int): Number of images to draw, at most ``total``.
        seed (int): Seed of the draw.
        classes_of (Callable, optional): Gives the set of class ids in each of the images whose numbers it gets. Where
            it is given, the draw covers every class.
        class_names (Sequence[str], optional): The classes to cover; required with ``classes_of``.

    Returns:
        list[int]: Numbers of the drawn images, ascending.

    Raises:
        ValueError: If a class is in no image, or the images that cover all classes are more than ``count``.
    """
    order = np.random.default_rng(seed).permutation(total).tolist()
    if classes_of is None:
        return sorted(order[:count])

    if class_names is None:
        raise ValueError('A draw that covers every class needs the names of the classes: give metainfo.classes.')
    uncovered = set(range(len(class_names)))
    first: list[int] = []
    left_out: list[str] = []
    for start in range(0, total, _CHUNK):
        if not uncovered:
            break
        chunk = order[start : start + _CHUNK]
        for index, classes in zip(chunk, classes_of(chunk), strict=True):
            new = uncovered & classes
            if new:
                uncovered -= new
                first.append(index)
                if len(first) > count:
                    left_out += [class_names[c] for c in sorted(new)]
    if uncovered:
        names = ', '.join(class_names[c] for c in sorted(uncovered))
        raise ValueError(
            f'require_all_classes: none of the {total} candidates has the classes {names}; '
            'widen the candidates or set require_all_classes=False.'
        )
    if left_out:
        raise ValueError(
            f'require_all_classes: with seed {seed}, covering all classes takes {len(first)} images, and '
            f'labeled={count} leaves out {", ".join(left_out)}; raise labeled or change the seed.'
        )
    taken = set(first)
    rest = [index for index in order if index not in taken]
    return sorted((first + rest)[:count])


def read_list(path: str | os.PathLike) -> list[ListEntry]:
    """Read a list file in either published format: one id a line, or ``image_path mask_path`` a line.

    A tabulator between the two tells them apart whatever their names are.

    Args:
        path (str | os.PathLike): The file; blank lines are skipped, line ends of Windows are fine.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no text, or names no image.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'The list file {path} does not exist; correct its path.')
    entries = []
    try:
        with open(path, encoding='utf-8-sig') as file:
            for number, line in enumerate(file, start=1):
                text = line.strip()
                pair = _PAIR.fullmatch(text)
                if '\t' in text:
                    image, mask = text.split('\t', 1)
                    entries.append(ListEntry(number, image.strip(), mask.strip() or None))
                elif pair:
                    entries.append(ListEntry(number, pair['image'], pair['mask']))
                elif text:
                    entries.append(ListEntry(number, text))
    except UnicodeDecodeError:
        raise ValueError(f'The list file {path} is not a text file; give a file with one image id a line.') from None
    if not entries:
        raise ValueError(f'The list file {path} is empty; write one image id a line into it.')
    return entries


def write_list(path: str | os.PathLike, ids: Iterable[str]) -> None:
    """Write a list file, one id (or image, tabulator, mask) a line; folders on the way are made."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, 'w', encoding='utf-8', newline='\n') as file:
        file.writelines(f'{name}\n' for name in ids)
