"""PASCAL VOC 2012 with the augmented masks of SBD."""

from __future__ import annotations

import os
import warnings

from mmseg.datasets import BaseSegDataset, PascalVOCDataset

from mmsemi.registry import DATASETS

from .partition import read_list


@DATASETS.register_module()
class PascalVOCAugDataset(BaseSegDataset):
    """The 10,582 training images of PASCAL VOC 2012 and SBD, in either of the two layouts that users have.

    Ids come from ``trainaug.txt``, or from ``train.txt`` and ``aug.txt`` where that does not exist. The finely
    annotated images, those of ``train.txt``, take their mask from ``SegmentationClass``, all others from
    ``SegmentationClassAug``; where a mask is not in its folder, the other folder is used (some copies keep all of them
    in one).

    Args:
        ann_file (str): Another list of ids, instead of the above.
        data_prefix (dict): Folders under ``data_root``: ``img_path``, ``seg_map_path``, ``aug_seg_map_path``,
            ``list_path``.
        **kwargs: Further arguments of mmseg's ``BaseSegDataset``.

    Raises:
        FileNotFoundError: If no list of training images is found.
    """

    METAINFO = PascalVOCDataset.METAINFO
    DEFAULT_PREFIX = {
        'img_path': 'JPEGImages',
        'seg_map_path': 'SegmentationClass',
        'aug_seg_map_path': 'SegmentationClassAug',
        'list_path': 'ImageSets/Segmentation',
    }

    def __init__(self, ann_file: str = '', data_prefix: dict | None = None, **kwargs) -> None:
        super().__init__(ann_file=ann_file, data_prefix={**self.DEFAULT_PREFIX, **(data_prefix or {})}, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images with the masks that exist for them."""
        fine = self.data_prefix['seg_map_path']
        augmented = self.data_prefix['aug_seg_map_path']
        files = {folder: set(os.listdir(folder)) if os.path.isdir(folder) else set() for folder in (fine, augmented)}
        train = set(self._read_ids('train.txt'))
        data_list = []
        for name in self._training_ids():
            mask = name + self.seg_map_suffix
            order = (fine, augmented) if name in train else (augmented, fine)
            folder = next((f for f in order if mask in files[f]), order[0])
            data_list.append(
                {
                    'img_path': os.path.join(self.data_prefix['img_path'], name + self.img_suffix),
                    'seg_map_path': os.path.join(folder, mask),
                    'label_map': self.label_map,
                    'reduce_zero_label': self.reduce_zero_label,
                    'seg_fields': [],
                }
            )
        return data_list

    def _training_ids(self) -> list[str]:
        if self.ann_file:
            return [entry.image for entry in read_list(self.ann_file)]
        ids = self._read_ids('trainaug.txt')
        if not ids:
            augmented = self._read_ids('aug.txt')
            ids = self._read_ids('train.txt') + augmented
            if not ids:
                raise FileNotFoundError(
                    f'{self.data_prefix["list_path"]} has neither trainaug.txt nor train.txt; '
                    'put the lists of PASCAL VOC 2012 there or set data_root.'
                )
            if not augmented:
                warnings.warn(
                    f'{self.data_prefix["list_path"]} has neither trainaug.txt nor aug.txt: the pool is the {len(ids)} '
                    'images of train.txt alone, not the 10,582 of the benchmarks.',
                    stacklevel=2,
                )
        # Some copies of aug.txt repeat the ids of train.txt.
        return list(dict.fromkeys(ids))

    def _read_ids(self, name: str) -> list[str]:
        path = os.path.join(self.data_prefix['list_path'], name)
        if not os.path.isfile(path):
            return []
        # Unlike a list that a user names, one of several may be empty.
        with open(path, encoding='utf-8') as file:
            return [line.strip() for line in file if line.strip()]
