"""Which images of a pool are labeled and which are not, and whether their files are fit for training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from mmengine.dist import get_rank, get_world_size

from .contents import Shown
from .files import find_images, missing_files
from .image_table import ImageTable
from .masks import check_size, classes_of_masks, contents_of_masks
from .partition import IMAGE_SUFFIXES, ListEntry, draw_partition, is_amount, labeled_count, read_list
from .pool import Pool

LABELED = 'labeled'
UNLABELED = 'unlabeled'
CANDIDATES = 'candidates'


def list_labeled(
    pool: Pool,
    labeled: str | int | float,
    candidates: str | dict | None = None,
    require_all_classes: bool = False,
    seed: int = 0,
) -> list[dict]:
    """Labeled images: those of a list file, or drawn from the candidates; arguments as of ``SemiDataset``.

    Raises:
        FileNotFoundError: If a list file is missing, or a mask that has to be looked into.
        ValueError: If there are too few candidates, or a class is in none of the images.
    """
    if not is_amount(labeled):
        if not isinstance(labeled, str):
            raise ValueError(f"labeled={labeled!r} must be a fraction ('1/8'), a count (92) or a list file.")
        infos = _read_infos(pool, labeled, LABELED)
        if require_all_classes:
            _check_coverage(infos, labeled, class_names(pool.metainfo))
        return infos
    drawn_from = pool.items
    if candidates is not None:
        # Drawing must not depend on the order of the lines.
        found = {pool.position(info['img_path']): info for info in _candidates(pool, candidates)}
        drawn_from = [found[position] for position in sorted(found)]
    count = labeled_count(labeled, len(drawn_from))
    if not require_all_classes:
        return [drawn_from[i] for i in draw_partition(len(drawn_from), count, seed)]

    names = class_names(pool.metainfo)
    check_exist(drawn_from, CANDIDATES, masks=True)

    def classes_of(numbers: Sequence[int]) -> list[set[int]]:
        return list(classes_of_masks([drawn_from[i] for i in numbers], len(names)))

    return [drawn_from[i] for i in draw_partition(len(drawn_from), count, seed, classes_of, names)]


def _candidates(pool: Pool, candidates: str | dict) -> list[dict]:
    if isinstance(candidates, str):
        return _read_infos(pool, candidates, CANDIDATES)
    infos = Pool(candidates).items
    for info in infos:
        if pool.position(info['img_path']) is None:
            raise ValueError(f'candidates: {info["img_path"]} is no image of dataset; they must be some of its images.')
    return infos


def list_unlabeled(pool: Pool, unlabeled: str | dict | None, labeled: list[dict]) -> ImageTable:
    """Unlabeled images; ``unlabeled`` as in ``SemiDataset``.

    Raises:
        FileNotFoundError: If a list file or folder is missing.
        ValueError: If a list is empty or names an unknown image.
    """
    if unlabeled is None or unlabeled == 'none':
        return ImageTable.of([])
    if unlabeled == 'rest':
        taken = {os.path.abspath(info['img_path']) for info in labeled}
        return ImageTable.of([info for info in pool.items if os.path.abspath(info['img_path']) not in taken])
    if not isinstance(unlabeled, str):
        return ImageTable.of(Pool(unlabeled).items)
    path = pool.locate(unlabeled, UNLABELED)
    if not os.path.isdir(path):
        return ImageTable.of(_read_infos(pool, unlabeled, UNLABELED))
    found = find_images(path)
    if not found:
        raise ValueError(f'unlabeled: the folder {path} holds no image ({", ".join(IMAGE_SUFFIXES)}).')
    return ImageTable.of_paths(found, label_map=None, reduce_zero_label=False)


def class_names(metainfo: dict) -> Sequence[str]:
    """Names of the classes.

    Raises:
        ValueError: If the data set does not give them.
    """
    classes = metainfo.get('classes')
    if not classes:
        raise ValueError('The data set does not name its classes; set metainfo=dict(classes=(...)) in its config.')
    return classes


def check_overlap(pool: Pool, labeled: list[dict], unlabeled: ImageTable) -> None:
    """Raise ValueError if an image, or a group of images by their ``info['group']``, is both labeled and unlabeled."""
    known = {os.path.abspath(info['img_path']) for info in labeled}
    paths = unlabeled.column('img_path')
    both = [path for path in paths if os.path.abspath(path) in known]
    if both:
        raise ValueError(
            f'{len(both)} images are both labeled and unlabeled, the first is {pool.name(both[0])}; '
            'take them out of one list or set allow_overlap=True.'
        )
    groups = {info['group']: info['img_path'] for info in labeled if info.get('group')}
    for group, path in zip(unlabeled.column('group') or (), paths, strict=False):
        if group in groups:
            raise ValueError(
                f'{group} is split: {pool.name(groups[group])} is labeled and {pool.name(path)} is not; label all '
                f'images of {group} or none, by a list file, or set allow_overlap=True.'
            )


def check_exist(infos: Sequence[dict], stream: str, masks: bool) -> None:
    """Raise FileNotFoundError if an image, or by choice a mask, is missing, and ValueError if an image has no mask."""
    table = isinstance(infos, ImageTable)
    for key, kind in (('img_path', 'images'), ('seg_map_path', 'masks'))[: 1 + masks]:
        if key == 'img_path' and table and infos.listed:
            continue
        paths = (infos.column(key) or [None] * len(infos)) if table else [info.get(key) for info in infos]
        if None in paths:
            first = infos[list(paths).index(None)]['img_path']
            raise ValueError(f'{stream}: {first} has no mask; set data_prefix.seg_map_path of the data set.')
        missing = missing_files(paths)
        if missing:
            raise FileNotFoundError(
                f'{stream}: {len(missing)} of {len(paths)} {kind} are missing, the first is {missing[0]}; '
                'complete the data set or correct data_root.'
            )


def check_masks(infos: list[dict], classes: Sequence[str]) -> Shown:
    """Read every mask, each rank its share; errors are those of ``count_classes`` and ``check_size``.

    Returns:
        Shown: What this rank's masks show.
    """
    share = infos[get_rank() :: get_world_size()]
    shown = Shown(classes)
    for info, (pixels, ids) in zip(share, contents_of_masks(share, len(classes)), strict=True):
        check_size(info)
        shown.take(info['seg_map_path'], pixels, ids)
    return shown


def _check_coverage(infos: list[dict], source: str, names: Sequence[str]) -> None:
    check_exist(infos, LABELED, masks=True)
    shown = set().union(*classes_of_masks(infos, len(names)))
    missing = [name for i, name in enumerate(names) if i not in shown]
    if missing:
        raise ValueError(
            f'require_all_classes: no image of {source} shows {", ".join(missing)}; '
            'add one or set require_all_classes=False.'
        )


def _read_infos(pool: Pool, source: str, stream: str) -> list[dict]:
    """Images that a list file names."""
    path = pool.locate(source, stream)
    infos: dict[str, dict] = {}
    for entry in read_list(path):
        info = _info_of(pool, entry, path, stream)
        key = os.path.abspath(info['img_path'])
        if key in infos:
            warnings.warn(f'{path}, line {entry.line}: {entry.image} is listed twice, and counts once.', stacklevel=2)
        infos[key] = info
    return list(infos.values())


def _info_of(pool: Pool, entry: ListEntry, path: str, stream: str) -> dict:
    """The image that one line of the list file ``path`` names."""
    found = pool.find(entry.image)
    if len(found) > 1:
        examples = ' and '.join(pool.name(pool.items[p]['img_path']) for p in found[:2])
        raise ValueError(
            f"{path}, line {entry.line}: '{entry.image}' may be {examples}; write more of the path to tell them apart."
        )
    if found:
        info = dict(pool.items[found[0]])
    else:
        # An image that is not in the pool needs a mask of its own to be labeled.
        allowed = stream == UNLABELED or (stream == LABELED and entry.mask)
        image = pool.under_root(entry.image) if allowed else None
        if image is None:
            raise ValueError(
                f"{path}, line {entry.line}: '{entry.image}' is none of the {len(pool)} images under "
                f'{", ".join(pool.roots)}; correct the line or data_root.'
            )
        keys = ('label_map', 'reduce_zero_label')
        info = {'img_path': image, 'seg_fields': [], **{key: pool.items[0].get(key) for key in keys}}
    if entry.mask:
        mask = pool.under_root(entry.mask)
        if mask is not None:
            info['seg_map_path'] = mask
        elif not found:
            info['seg_map_path'] = os.path.join(pool.roots[0], entry.mask)
    return info
