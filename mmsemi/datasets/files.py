"""Which files a folder holds, and which mask belongs to which image."""

from __future__ import annotations

import functools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .partition import IMAGE_SUFFIXES

_MANY = 64
"""Files of a folder from which on it is faster to list it than to ask for each."""


@dataclass
class LeftOut:
    """A file that is not used, and why."""

    path: str
    reason: str


def find_images(folder: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Paths of all images in a folder and its subfolders, sorted; links that form a circle are followed once.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'The folder {folder} does not exist; correct its path.')
    return sorted(
        os.path.join(parent, name)
        for parent, names in walk(folder)
        for name in names
        if name.lower().endswith(suffixes) and not name.startswith('.')
    )


def walk(folder: str) -> Iterable[tuple[str, list[str]]]:
    """Folders below ``folder``, itself included, and the names of their files; every real folder once."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith('.')]
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield parent, names


def real_in_its_folder() -> Callable[[str], str]:
    """A path with its folder's links followed, each folder once: a million files are not asked one by one."""
    folder_of = functools.cache(os.path.realpath)
    return lambda path: os.path.join(folder_of(os.path.dirname(path)), os.path.basename(path))


def pair(images: str, masks: str) -> tuple[list[tuple[str, str]], list[str], list[LeftOut]]:
    """Pair images and masks by their path below the folders without suffix, or, where that fits nothing, by name.

    Suffixes of masks such as ``x_mask.png`` or ``x_gtFine_labelIds.png`` are found where all masks share one.

    Returns:
        tuple[list[tuple[str, str]], list[str], list[LeftOut]]: Pairs; images without a mask; what cannot be paired.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If nothing pairs.
    """
    image_of, mask_of = _by_stem(find_images(images), images), _by_stem(find_images(masks), masks)
    for name, found in (('images', image_of), ('masks', mask_of)):
        if not found:
            raise ValueError(
                f'The folder {images if name == "images" else masks} holds no {name}; they have one of the suffixes '
                f'{", ".join(IMAGE_SUFFIXES)}.'
            )
    left_out = [
        LeftOut(path, f'has the name of {paths[0]} but for its suffix')
        for found in (image_of, mask_of)
        for paths in found.values()
        for path in paths[1:]
    ]
    keys = _match(set(image_of), set(mask_of))
    if not keys:
        raise ValueError(
            f'No mask in {masks} has the name of an image in {images} (without suffix): the first image is '
            f'{Path(min(image_of)).name}, the first mask {Path(min(mask_of)).name}; rename them alike.'
        )
    pairs = [(image_of[image][0], mask_of[mask][0]) for image, mask in sorted(keys.items())]
    used = set(keys.values())
    left_out += [LeftOut(mask_of[key][0], 'no image has its name') for key in sorted(set(mask_of) - used)]
    return pairs, [image_of[key][0] for key in sorted(set(image_of) - set(keys))], left_out


def _by_stem(paths: Sequence[str], folder: str) -> dict[str, list[str]]:
    found = defaultdict(list)
    for path in paths:
        found[os.path.splitext(os.path.relpath(path, folder))[0].replace(os.sep, '/')].append(path)
    return found


def _match(images: set[str], masks: set[str]) -> dict[str, str]:
    """Which mask belongs to which image, by the names that they have below their folders without suffix."""
    same = images & masks
    if same:
        return {key: key for key in same}
    # One ending that all masks have and the images do not, or the other way round ('x_leftImg8bit', 'x_labelIds').
    for start, longer in ((images, masks), (masks, images)):
        by_length = sorted(start, key=len, reverse=True)
        endings = Counter(
            name[len(stem) :] for name in longer for stem in by_length[:2000] if name.startswith(stem) and name != stem
        )
        for ending, _ in endings.most_common(1):
            found = {stem: stem + ending for stem in start if stem + ending in longer}
            return found if start is images else {mask: image for image, mask in found.items()}
    by_name = {}
    for key in masks:
        by_name.setdefault(key.rpartition('/')[2], []).append(key)
    matched = {key: by_name.get(key.rpartition('/')[2], ()) for key in images}
    found = {key: candidates[0] for key, candidates in matched.items() if len(candidates) == 1}
    return found if len(set(found.values())) == len(found) else {}


def output_names(paths: Sequence[str], root: str) -> list[str]:
    """A name for what is written for each file: its path below ``root`` without suffix, or with it where two files
    would share a name; parts are divided by '/'.
    """
    whole = [os.path.relpath(path, root).replace(os.sep, '/') for path in paths]
    stems = [os.path.splitext(name)[0] for name in whole]
    number = Counter(stems)
    names = [stem if number[stem] == 1 else name for stem, name in zip(stems, whole, strict=True)]
    return names if len(set(names)) == len(set(whole)) else whole


def missing_files(paths: Sequence[str]) -> list[str]:
    """Which of ``paths`` are no files. Folders of which many are asked for are listed once, instead of file by file."""
    by_folder: dict[str, int] = Counter(os.path.dirname(path) for path in paths)
    listings = {
        folder: {entry.name for entry in os.scandir(folder or '.') if entry.is_file()}
        for folder, asked in by_folder.items()
        if asked > _MANY and os.path.isdir(folder or '.')
    }
    return [path for path in paths if not _is_there(path, listings)]


def _is_there(path: str, listings: dict[str, set[str]]) -> bool:
    folder, name = os.path.split(path)
    return name in listings[folder] if folder in listings else os.path.isfile(path)
