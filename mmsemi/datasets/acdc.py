"""ACDC, cardiac MR, as the 2D slices that ``tools/dataset_converters/acdc.py`` writes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from mmseg.datasets import BaseSegDataset

from mmsemi.registry import DATASETS

from .partition import read_list

_PATIENT = re.compile(r'patient\d+')


def patient_of(name: str) -> str | None:
    """The patient that a slice shows, by its file name or id; None where the name does not say it."""
    found = _PATIENT.match(os.path.basename(name))
    return found[0] if found else None


@DATASETS.register_module()
class ACDCDataset(BaseSegDataset):
    """Slices of cardiac MR scans: background and three parts of the heart.

    Slices of one patient resemble each other, so a patient is either for training or for validation, and either labeled
    or not. ``apart_from`` sees to the first; for the second, each image says its patient in ``info['group']``, and
    ``SemiDataset`` refuses to split a group.

    Source: Bernard et al., Deep learning techniques for automatic MRI cardiac multi-structures segmentation and
    diagnosis: is the problem solved?, 2018.

    Args:
        ann_file (str): List of the slices, one id (``patient001_frame01_00``) a line.
        apart_from (str | Sequence[str]): Lists under ``data_root`` whose patients this one must not have.
        data_prefix (dict, optional): Folders of the slices and the label maps below ``data_root``.
        img_suffix (str): Ending of the slices.
        **kwargs: Further arguments of mmseg's ``BaseSegDataset``.

    Raises:
        FileNotFoundError: If a list of ``apart_from`` is missing.
        ValueError: If a patient is in two lists.
    """

    METAINFO = {
        'classes': ('background', 'right ventricle', 'myocardium', 'left ventricle'),
        'palette': [[0, 0, 0], [70, 130, 220], [90, 190, 90], [220, 70, 70]],
    }

    def __init__(
        self,
        ann_file: str = '',
        apart_from: str | Sequence[str] = (),
        data_prefix: dict[str, str] | None = None,
        img_suffix: str = '.png',
        **kwargs: Any,
    ) -> None:
        self.apart_from = (apart_from,) if isinstance(apart_from, str) else tuple(apart_from)
        super().__init__(
            ann_file=ann_file,
            data_prefix=data_prefix or {'img_path': 'images', 'seg_map_path': 'masks'},
            img_suffix=img_suffix,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """List the slices, each with its patient."""
        infos = super().load_data_list()
        for info in infos:
            info['group'] = patient_of(info['img_path'])
        patients = {info['group'] for info in infos} - {None}
        for name in self.apart_from:
            path = os.path.join(self.data_root or '', name)
            shared = sorted(patients & {patient_of(entry.image) for entry in read_list(path)})
            if shared:
                raise ValueError(
                    f'{self.ann_file or self.data_prefix["img_path"]} and {path} both have slices of {shared[0]} '
                    f'({len(shared)} patients in all); leave each patient in one of them.'
                )
        return infos
