"""Images and masks as a list file pairs them, wherever they lie and whatever they are called."""

from __future__ import annotations

import os
from typing import Any

from mmseg.datasets import BaseSegDataset

from mmsemi.registry import DATASETS

from .partition import read_list


@DATASETS.register_module()
class ListedDataset(BaseSegDataset):
    """The images of a list file, each with its mask, as ``mmsemi init`` writes it.

    A line is an image and, behind a tabulator, its mask; both relative to ``data_root`` or absolute.

    Args:
        ann_file (str): The list file.
        label_map (dict[int, int], optional): Class of each id in the masks, 255 for those that are ignored. Ids that
            it lacks are classes already.
        color_masks (bool): The masks hold colors, those of ``metainfo.palette``; others are ignored. Defaults to False.
        **kwargs: Further arguments of mmseg's ``BaseSegDataset`` (``data_root``, ``metainfo``, ``pipeline``, ...).

    Raises:
        FileNotFoundError: If there is no such list.
        ValueError: If it names no image, or color masks come without a palette.
    """

    def __init__(
        self, ann_file: str, label_map: dict[int, int] | None = None, color_masks: bool = False, **kwargs: Any
    ) -> None:
        self._own_label_map = {int(old): int(new) for old, new in (label_map or {}).items()} or None
        self._color_masks = color_masks
        if color_masks and not (kwargs.get('metainfo') or {}).get('palette'):
            raise ValueError('ListedDataset: color_masks=True needs metainfo.palette, the color of each class.')
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images, in the order of the file."""
        root = self.data_root or ''
        colors = [list(color) for color in self.metainfo['palette']] if self._color_masks else None
        infos = []
        for entry in read_list(self.ann_file):
            info = {
                'img_path': os.path.join(root, entry.image),
                'label_map': self._own_label_map,
                'color_map': colors,
                'reduce_zero_label': self.reduce_zero_label,
                'seg_fields': [],
            }
            if entry.mask:
                info['seg_map_path'] = os.path.join(root, entry.mask)
            infos.append(info)
        return infos
