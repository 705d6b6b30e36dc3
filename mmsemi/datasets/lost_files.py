"""Files of a data set that its suffixes leave out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from mmseg.datasets import BaseSegDataset

from .files import find_images, real_in_its_folder, walk

_ASKED = 64
"""Images by which a folder is known to be another split."""


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
    images, labels = _tell_apart(folder, masks, image_suffix, mask_suffix)
    used = {os.path.relpath(path, folder)[: -len(image_suffix)] for path in images if path.endswith(image_suffix)}
    found = []
    other = [path for path in images if not path.endswith(image_suffix)]
    if other:
        found.append(
            f'{len(other)} images of {folder} do not end in {image_suffix} and are left out (first: '
            f'{os.path.basename(other[0])}); rename them, set img_suffix, or let `mmsemi init` pair them.'
        )
    # Cityscapes has masks of several kinds in one folder; if none is of this kind, all are lost.
    named = [path for path in labels if path.endswith(mask_suffix)] or labels
    lost = {stem: path for path in named if (stem := _stem(os.path.relpath(path, masks), mask_suffix)) not in used}
    for split in _other_splits(folder, masks, image_suffix, lost) if lost else ():
        lost = {stem: path for stem, path in lost.items() if stem not in split}
    if lost:
        first = os.path.basename(next(iter(lost.values())))
        found.append(
            f'{len(lost)} masks of {masks} belong to no image that is used (first: {first}); '
            f'images end in {image_suffix} and masks in {mask_suffix} (img_suffix, seg_map_suffix).'
        )
    return found


def _tell_apart(folder: str, masks: str, image_suffix: str, mask_suffix: str) -> tuple[list[str], list[str]]:
    """Paths of images and of masks, of which one folder may hold both, or one lie within the other."""
    real = real_in_its_folder()
    images, labels = ({real(path): path for path in find_images(where)} for where in (folder, masks))
    both = images.keys() & labels.keys()
    if images.keys() == labels.keys():
        # One folder, in which suffixes alone tell them apart.
        are_masks = {file for file in both if file.endswith(mask_suffix) and not file.endswith(image_suffix)}
    else:
        # What lies in the inner of two folders is what that one is for.
        are_masks = both if both == labels.keys() else set()
    return (
        [path for file, path in images.items() if file not in are_masks],
        [path for file, path in labels.items() if file in are_masks or file not in both],
    )


def _other_splits(folder: str, masks: str, image_suffix: str, lost: Collection[str]) -> Iterator[set[str]]:
    """Images of the other splits that share ``masks``, their paths without suffix.

    Splits are ``train`` and ``val`` or ``train/images`` and ``val/images``. A folder is one where nearly all images
    have their mask among those that are ``lost``.
    """
    parent, name = os.path.split(os.path.abspath(folder))
    beside = [*_folders(parent), *(os.path.join(other, name) for other in _folders(os.path.dirname(parent)))]
    for other in beside:
        if os.path.isdir(other) and not _overlap(other, masks):
            # A folder of a million images that are none of these is not listed to its end.
            some = itertools.islice(_stems(other, image_suffix), _ASKED)
            if _most(some, lost) and _most(images := set(_stems(other, image_suffix)), lost):
                yield images


def _stems(folder: str, suffix: str) -> Iterator[str]:
    """Paths of the images below a folder, without suffix."""
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
