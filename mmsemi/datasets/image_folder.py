"""A folder of plain images, without masks."""

from __future__ import annotations

import os

from mmseg.datasets import BaseSegDataset

from mmsemi.registry import DATASETS

from .files import find_images
from .partition import IMAGE_SUFFIXES


@DATASETS.register_module()
class ImageFolder(BaseSegDataset):
    """All images in a folder and its subfolders, without masks: unlabeled images for training, or images to predict.

    Args:
        data_root (str): The folder.
        suffixes (tuple[str]): Suffixes of images, in lower case; those of files may be in either.
        **kwargs: Further arguments of mmseg's ``BaseSegDataset`` (``metainfo``, ``pipeline``, ...).

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no image.
    """

    def __init__(self, data_root: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, **kwargs) -> None:
        self.suffixes = tuple(suffixes)
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images, sorted by path."""
        folder = os.path.normpath(self.data_prefix['img_path'])
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'The image folder {folder} does not exist; correct its path.')
        paths = find_images(folder, self.suffixes)
        if not paths:
            raise ValueError(f'The folder {folder} holds no image with a suffix among {", ".join(self.suffixes)}.')
        return [
            {'img_path': path, 'label_map': None, 'reduce_zero_label': self.reduce_zero_label, 'seg_fields': []}
            for path in paths
        ]
