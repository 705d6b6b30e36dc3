"""CamVid in the SegNet layout."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mmseg.datasets import BaseSegDataset

from mmsemi.registry import DATASETS

from .partition import IMAGE_SUFFIXES, read_list

VOID = 11


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid, 11 classes, in the SegNet layout: ``train/`` and ``trainannot/``, ``val/`` and ``valannot/``, and so on.

    Label 11, void, is ignored. Images may be PNG or JPEG. The official split puts frames of one video sequence into
    both ``train`` and ``val``; ``sequences`` keeps sequences apart.

    Source: Brostow, Fauqueur and Cipolla, Semantic object classes in video, 2009; layout of Badrinarayanan et al.,
    SegNet.

    Args:
        folders (Sequence[str]): Folders of images under ``data_root``.
        sequences (Sequence[str], optional): Keep the images of these video sequences, by the part of their name before
            '_'.
        frames (dict[str, tuple[int, int]], optional): Of these sequences, keep frames from the first number to the
            last, both included; frames are 30 a second, and mostly every thirtieth has a mask.
        ann_file (str): A list with one ``folder/stem`` a line, instead of ``folders``.
        **kwargs: Further arguments of mmseg's ``BaseSegDataset``.

    Raises:
        FileNotFoundError: If a folder or a listed image is missing.
    """

    METAINFO = {
        'classes': (
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        'palette': [
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    }

    def __init__(
        self,
        folders: Sequence[str] = ('train',),
        sequences: Sequence[str] | None = None,
        frames: dict[str, tuple[int, int]] | None = None,
        ann_file: str = '',
        **kwargs,
    ) -> None:
        self.folders = (folders,) if isinstance(folders, str) else tuple(folders)
        self.sequences = (sequences,) if isinstance(sequences, str) else sequences
        self.frames = frames or {}
        super().__init__(ann_file=ann_file, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """Map of label ids: void is ignored, and so are classes that are not in ``new_classes``."""
        return {**(super().get_label_map(new_classes) or {}), VOID: 255}

    def load_data_list(self) -> list[dict]:
        """List the images, sorted by folder and name."""
        if self.ann_file:
            entries = read_list(self.ann_file)
            names = [(os.path.dirname(e.image), os.path.splitext(os.path.basename(e.image))[0]) for e in entries]
            files = {folder: self._images(folder) for folder in {folder for folder, _ in names}}
            for entry, (folder, stem) in zip(entries, names, strict=True):
                if stem not in files[folder]:
                    raise FileNotFoundError(
                        f"{self.ann_file}, line {entry.line}: there is no image '{entry.image}' under {self._root}; "
                        'correct the line or data_root.'
                    )
        else:
            files = {folder: self._images(folder) for folder in self.folders}
            names = [(folder, stem) for folder in self.folders for stem in sorted(files[folder])]
        return [
            {
                'img_path': os.path.join(self._root, folder, files[folder][stem]),
                'seg_map_path': os.path.join(self._root, f'{folder}annot', stem + self.seg_map_suffix),
                'label_map': self.label_map,
                'reduce_zero_label': self.reduce_zero_label,
                'seg_fields': [],
            }
            for folder, stem in names
            if self._is_kept(stem)
        ]

    def _is_kept(self, stem: str) -> bool:
        sequence, _, frame = stem.partition('_')
        if self.sequences is not None and sequence not in self.sequences:
            return False
        if sequence not in self.frames:
            return True
        first, last = self.frames[sequence]
        return first <= int(frame.lstrip('f')) <= last

    @property
    def _root(self) -> str:
        return self.data_prefix['img_path']

    def _images(self, folder: str) -> dict[str, str]:
        """File name of each image in a folder, by its stem."""
        path = os.path.join(self._root, folder)
        if not os.path.isdir(path):
            raise FileNotFoundError(f'The CamVid folder {path} does not exist; correct data_root or folders.')
        return {
            os.path.splitext(name)[0]: name
            for name in sorted(os.listdir(path))
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
        }
