"""Whether the data sets of validation and testing are fit, told before a run spends time on training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.datasets import BaseSegDataset

from mmsemi.registry import DATASETS

from .contents import Shown
from .pool import Pool, flatten
from .split import check_exist, check_masks, class_names


def check_evaluation_data(dataset: dict | Sequence, key: str) -> tuple[Shown | None, list[str]]:
    """Check the files of a data set that is evaluated, as ``SemiDataset`` checks those of training.

    All images must be there, and so must the masks if the pipeline loads masks, each of its image's size and with no id
    outside the classes; ``label_map`` and ``reduce_zero_label`` are respected. Each rank reads its share of the masks.
    Nothing is checked of a data set that is built already, or not one of mmseg's kind.

    Args:
        dataset (dict | Sequence): Config of a data set, of a ``ConcatDataset`` or ``RepeatDataset``, or a list of
            configs.
        key (str): What the user calls it, for the messages: ``'val_dataloader'``.

    Returns:
        tuple[Shown | None, list[str]]: What the masks show (this rank's share), if any was read, and sentences on files
        that are left out.

    Raises:
        FileNotFoundError: If a data root, list file, image or mask is missing.
        ValueError: If a list or the data set is empty, or a mask has another size than its image or an id outside the
            classes.
        RuntimeError: If a mask cannot be decoded.
    """
    shown, lost = None, []
    for config in flatten(dataset):
        if not _is_mmseg(config):
            continue
        pool = Pool(config)
        lost += pool.lost
        check_exist(pool.items, key, masks=False)
        loaders = _names(config.get('pipeline')) & {'LoadAnnotations', 'LoadSegAnnotations'}
        if not loaders:
            continue
        masked = pool.items
        if 'LoadAnnotations' not in loaders:
            # LoadSegAnnotations passes images without a mask, which an ImageFolder has.
            masked = [info for info in masked if info.get('seg_map_path')]
        check_exist(masked, key, masks=True)
        seen = check_masks(masked, class_names(pool.metainfo))
        shown = seen if shown is None else shown + seen
    return shown, lost


def _is_mmseg(config: Any) -> bool:
    kind = config.get('type') if isinstance(config, dict) else None
    cls = DATASETS.get(kind) if isinstance(kind, str) else kind
    return isinstance(cls, type) and issubclass(cls, BaseSegDataset)


def _names(pipeline: Any) -> set[str]:
    """Names of all transforms, those inside others included."""
    if isinstance(pipeline, dict):
        kind = pipeline.get('type', '')
        name = kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__
        return {name}.union(*map(_names, pipeline.values()))
    if isinstance(pipeline, (list, tuple)):
        return set().union(*map(_names, pipeline))
    return set()
