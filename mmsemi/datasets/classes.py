"""Which classes masks show, whatever numbers or colors stand for them in the files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from mmsemi.structures import IGNORE_INDEX

_MOST_COLORS = 256
_VOID = ('void', 'ignore', 'ignored', 'unlabeled', 'unlabelled')
"""Names of what is no class: pixels that are ignored."""


class Labeled(Protocol):
    """An image of which it is known what its mask holds: pixels of each id, and whether the ids are colors."""

    mask: str | None
    counts: dict[int, int]
    colored: bool


@dataclass
class Classes:
    """What the ids (or colors) in masks mean.

    Args:
        names (list[str]): Classes, in the order of training.
        palette (list[list[int]]): Color of each, RGB.
        label_map (dict[int, int], optional): Class of each id, 255 where it is ignored; None: ids are the classes.
        colored (bool): Masks hold the colors of ``palette``.
        notes (list[str]): What was recognised, for the user.
    """

    names: list[str]
    palette: list[list[int]]
    label_map: dict[int, int] | None = None
    colored: bool = False
    notes: list[str] = field(default_factory=list)

    def class_of(self, label: int) -> int | None:
        """Class of an id (or color) in a mask; None where it is ignored."""
        if self.colored:
            colors = [(red << 16) | (green << 8) | blue for red, green, blue in self.palette]
            return colors.index(label) if label in colors else None
        mapped = (self.label_map or {}).get(label, label)
        return None if mapped == IGNORE_INDEX else mapped

    def count(self, labels: Mapping[int, int]) -> np.ndarray:
        """Pixels of each class, and last of those that are ignored, (C + 1,); ``labels``: pixels of each id."""
        counts = np.zeros(len(self.names) + 1, dtype=np.int64)
        for label, pixels in labels.items():
            mapped = self.class_of(label)
            counts[len(self.names) if mapped is None else mapped] += pixels
        return counts


def read_classes(given: str) -> tuple[list[str], list[list[int]] | None]:
    """Names of classes from ``a,b,c``, or from a file: one a line, by choice with its color: ``road 128 64 128``.

    Returns:
        tuple[list[str], list[list[int]] | None]: The names, and their colors, if the file has them.

    Raises:
        ValueError: If a name is there twice, some classes have colors and others not, or there are more than 255.
    """
    if os.path.isfile(given):
        lines = [line.strip() for line in Path(given).read_text(encoding='utf-8-sig').splitlines()]
        entries = [_class_of_line(line) for line in lines if line and not line.startswith('#')]
        source = given
    elif given.endswith(('.txt', '.csv')):
        raise FileNotFoundError(f'The file of classes {given} does not exist; correct --classes.')
    else:
        entries, source = [(name.strip(), None) for name in given.split(',') if name.strip()], '--classes'
    names, colors = [name for name, _ in entries], [color for _, color in entries if color]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise ValueError(f'{source}: the class {twice[0]} is there twice; name each class once.')
    if len(names) < 2:
        raise ValueError(f'{source}: at least two classes are needed, the background included; it names {len(names)}.')
    if len(names) > IGNORE_INDEX:
        raise ValueError(f'{source}: {len(names)} classes are more than the {IGNORE_INDEX} that a mask can tell apart.')
    if colors and len(colors) != len(names):
        raise ValueError(f'{source}: {len(colors)} of {len(names)} classes have a color; give it for all or for none.')
    return names, colors or None


def _class_of_line(line: str) -> tuple[str, list[int] | None]:
    parts = line.replace(',', ' ').replace(';', ' ').replace('\t', ' ').split()
    if len(parts) > 3 and all(part.isdigit() and int(part) < 256 for part in parts[-3:]):
        return ' '.join(parts[:-3]), [int(part) for part in parts[-3:]]
    return line.rstrip(',;').strip(), None


def recognise_classes(
    pictures: Sequence[Labeled], names: Sequence[str] | None = None, colors: Sequence[Sequence[int]] | None = None
) -> Classes:
    """Find out what masks hold.

    Args:
        pictures (Sequence[Labeled]): All labeled images, those of validation included.
        names (Sequence[str], optional): The classes, if they are known.
        colors (Sequence[Sequence[int]], optional): Their colors in the masks, RGB.

    Raises:
        ValueError: If masks and classes do not fit each other; the message says what was found.
    """
    kinds = {picture.colored for picture in pictures}
    if len(kinds) > 1:
        one = next(picture.mask for picture in pictures if picture.colored)
        other = next(picture.mask for picture in pictures if not picture.colored)
        raise ValueError(f'Some masks hold colors ({one}) and others ids ({other}); convert them to one kind.')
    totals: Counter[int] = Counter()
    for picture in pictures:
        totals.update(picture.counts)
    if kinds == {True}:
        return _colored_classes(totals, pictures, names, colors)
    return _indexed_classes(totals, pictures, names, colors)


def _colored_classes(
    totals: Counter, pictures: Sequence[Labeled], names: Sequence[str] | None, colors: Sequence | None
) -> Classes:
    if colors:
        table = {(red << 16) | (green << 8) | blue for red, green, blue in colors}
        if not table & set(totals):
            raise ValueError(
                f'None of the colors of the classes is in the masks; {pictures[0].mask} has '
                f'{", ".join(_hex(color) for color in list(pictures[0].counts)[:5])}: correct the colors in --classes.'
            )
        unknown = sum(pixels for color, pixels in totals.items() if color not in table)
        share = unknown / max(1, totals.total())
        notes = [f'{share:.1%} of the pixels have a color of no class and are ignored'] if unknown else []
        return Classes(list(names), [list(color) for color in colors], colored=True, notes=notes)
    if len(totals) > _MOST_COLORS:
        raise ValueError(
            f'The masks hold {len(totals):,} colors ({pictures[0].mask}): they were saved as JPEG or with smoothed '
            'edges; save them as PNG without smoothing, or name the classes with their colors in a file for --classes '
            '("road 128 64 128" a line); other colors are then ignored.'
        )
    ordered = [color for color, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))]
    if names and len(names) != len(ordered):
        raise ValueError(
            f'The masks hold {len(ordered)} colors and --classes names {len(names)}: '
            f'{", ".join(map(_hex, ordered[:8]))}; give each class its color in a file ("road 128 64 128" a line).'
        )
    if names:
        raise ValueError(
            'The masks hold colors, and which class has which is not said; give each class its color in a file for '
            f'--classes ("{names[0]} {" ".join(map(str, _rgb(ordered[0])))}" a line). The colors are '
            f'{", ".join(str(tuple(_rgb(color))) for color in ordered[:8])}.'
        )
    if len(ordered) < 2:
        raise ValueError('All masks have one color throughout: there is nothing to tell apart.')
    notes = [f'masks hold {len(ordered)} colors; each is a class, called by its color (--classes FILE names them)']
    return Classes([_hex(color) for color in ordered], [_rgb(color) for color in ordered], colored=True, notes=notes)


def _indexed_classes(
    totals: Counter, pictures: Sequence[Labeled], names: Sequence[str] | None, colors: Sequence | None
) -> Classes:
    ids = sorted(totals)
    kept = [label for label in ids if label != IGNORE_INDEX]
    listed = ', '.join(map(str, ids[:12])) + (', ...' if len(ids) > 12 else '')
    label_map, notes = None, []
    count = len(names) if names else None
    if len(kept) > IGNORE_INDEX:
        raise ValueError(
            f'The masks hold {len(kept):,} ids ({listed}), more than the {IGNORE_INDEX} classes that can be told '
            'apart: they may number objects instead of classes; convert them to one id a class.'
        )
    if not kept:
        raise ValueError(f'All pixels of all masks are {IGNORE_INDEX}, which is ignored: there is nothing to learn.')
    if kept == [0] and ids == [0, IGNORE_INDEX] and count in (None, 2):
        label_map = {0: 0, IGNORE_INDEX: 1}
        notes.append('masks hold 0 and 255: 255 is taken as the second class, not as void')
        count = 2
    elif count is None:
        if kept != list(range(len(kept))):
            label_map = {label: number for number, label in enumerate(kept)}
            notes.append(f'masks hold the ids {listed}; they become the classes 0 to {len(kept) - 1} in this order')
        names = [f'class {label}' for label in kept]
        count = len(kept)
        if count == 2 and kept == [0, 1]:
            names = None
    elif kept[-1] >= count:
        if len(kept) == count:
            label_map = {label: number for number, label in enumerate(kept)}
            notes.append(f'masks hold the ids {listed}; they become the classes in this order')
        elif len(ids) == count:
            label_map = {label: number for number, label in enumerate(ids)}
            notes.append(f'masks hold the ids {listed}; they become the classes in this order, 255 the last of them')
        else:
            where = next(picture.mask for picture in pictures if kept[-1] in picture.counts)
            raise ValueError(
                f'The masks hold the ids {listed}, and --classes names {count}: {where} has {kept[-1]}; correct '
                '--classes or the masks.'
            )
    if IGNORE_INDEX in ids and (label_map or {}).get(IGNORE_INDEX, IGNORE_INDEX) == IGNORE_INDEX:
        notes.append('255 is void: those pixels are ignored')
    if count < 2:
        raise ValueError(
            f'All labeled pixels have the id {kept[0]}: there is one class, and nothing to tell it from; masks need '
            'the background as a class of its own.'
        )
    names = list(names) if names else ['background', 'foreground']
    found = Classes(names, [list(color) for color in colors] if colors else palette(count), label_map, notes=notes)
    return _without_void(found)


def _without_void(classes: Classes) -> Classes:
    """Leave out what is no class by its name: its pixels are ignored."""
    void = [number for number, name in enumerate(classes.names) if name.lower() in _VOID]
    kept = [number for number in range(len(classes.names)) if number not in void]
    if not void or len(kept) < 2:
        return classes
    new = {old: kept.index(old) if old in kept else IGNORE_INDEX for old in range(len(classes.names))}
    label_map = {label: new.get(old, old) for label, old in (classes.label_map or {old: old for old in new}).items()}
    names, colors = ([values[number] for number in kept] for values in (classes.names, classes.palette))
    named = ', '.join(classes.names[number] for number in void)
    return Classes(names, colors, label_map, notes=[*classes.notes, f'{named}: no class by its name, ignored'])


def palette(count: int) -> list[list[int]]:
    """Colors that are told apart well, the first black: PASCAL VOC's."""
    colors = []
    for number in range(count):
        color, bits = [0, 0, 0], number
        for place in range(7, -1, -1):
            for channel in range(3):
                color[channel] |= (bits >> channel & 1) << place
            bits >>= 3
        colors.append(color)
    return colors


def _rgb(color: int) -> list[int]:
    return [color >> 16 & 255, color >> 8 & 255, color & 255]


def _hex(color: int) -> str:
    return f'#{color:06x}'
