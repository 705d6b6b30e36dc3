"""What a test predicts as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from mmsemi.datasets.files import output_names
from mmsemi.registry import HOOKS


@HOOKS.register_module()
class SaveMasksHook(Hook):
    """Write each prediction of a test as a PNG file of class ids, under the relative path of its image: two images of
    one name in two folders are two masks. mmseg's metrics write by name alone.

    Where the data set counts its ids from 1 (``reduce_zero_label``), so do the files, as mmseg's do.

    Args:
        out (str): Folder to write.
    """

    def __init__(self, out: str) -> None:
        self.out = Path(out)

    def before_test_epoch(self, runner: Runner) -> None:
        """Name the file of each image."""
        dataset = runner.test_dataloader.dataset
        paths = [dataset.get_data_info(number)['img_path'] for number in range(len(dataset))]
        root = (getattr(dataset, 'data_prefix', None) or {}).get('img_path') or getattr(dataset, 'data_root', None)
        inside = os.path.join(os.path.abspath(root), '') if root else None
        if not inside or not all(os.path.abspath(path).startswith(inside) for path in paths):
            root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
        self._names = dict(zip(paths, output_names(paths, root), strict=True))

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Write those of a batch."""
        for sample in outputs or ():
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(np.uint8)
            path = self.out / f'{self._names[sample.img_path]}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels + np.uint8(bool(sample.get('reduce_zero_label')))).save(path)
