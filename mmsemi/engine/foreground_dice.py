"""Dice of what is not background."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmsemi.registry import METRICS

from .iou_metric import IoUMetric


@METRICS.register_module()
class ForegroundDice(IoUMetric):
    """``mDice``: mean Dice, in percent, over all classes but class 0, the background.

    Dice of a class is taken in each scan, from all its slices together, and averaged over the scans that show the class
    or are predicted to; then over the classes. ``per_scan=False`` takes it once, from the pixels of all images of the
    set: a large heart then weighs more than a small one. ``aAcc`` and ``mAcc`` are of all pixels in either case; the
    background's row in the table of classes is nan, and ``mAcc`` leaves it out.

    Slices may come in any order and on any rank.

    Source: UniMatch's released code for medical images averages over scans. It divides by zero where a class is neither
    in a scan nor predicted there, which does not happen on ACDC.

    Args:
        per_scan (bool): Average over scans. Defaults to True.
        scan (str): Regular expression that finds the scan in the name of a slice's file, without its suffix; its first
            group is the scan. Defaults to ``'(.+)_[0-9]+'``, which is all before the number of the slice.
        **kwargs: Those of ``IoUMetric``, without ``iou_metrics``.

    Raises:
        ValueError: If ``scan`` is no regular expression with a group; in the evaluation, if a name does not match it.
    """

    def __init__(self, per_scan: bool = True, scan: str = '(.+)_[0-9]+', **kwargs: Any) -> None:
        super().__init__(iou_metrics=['mDice'], **kwargs)
        self.per_scan = per_scan
        try:
            self.scan = re.compile(scan)
        except re.error as error:
            raise ValueError(f'ForegroundDice: scan={scan!r} is no regular expression: {error}.') from error
        if not self.scan.groups:
            raise ValueError(f"ForegroundDice: scan={scan!r} needs a group, the name of the scan, as in '(.+)_[0-9]+'.")

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of each slice, and note its scan."""
        known = len(self.results)
        super().process(data_batch, data_samples)
        # None are added where predictions are only written to files.
        added = zip(self.results[known:], data_samples, strict=False)
        self.results[known:] = [(self._scan_of(sample) if self.per_scan else '', areas) for areas, sample in added]

    def _scan_of(self, sample: dict) -> str:
        name = Path(sample['img_path']).name
        found = self.scan.fullmatch(name.rpartition('.')[0] or name)
        if found is None:
            raise ValueError(
                f'The name of {sample["img_path"]} does not tell its scan: ForegroundDice looks for '
                f"scan='{self.scan.pattern}'; set val_evaluator.scan, or val_evaluator.per_scan=False to count the "
                'pixels of all images together.'
            )
        return found[1]

    def compute_metrics(self, results: list[tuple[str, tuple[torch.Tensor, ...]]]) -> dict[str, float]:
        """Scores of the whole set, from each slice's scan and pixel counts, of all ranks."""
        # Whole numbers that float32 does not hold in sums over a set.
        counts = [tuple(area.double() for area in areas) for _, areas in results]
        of_scan: dict[str, torch.Tensor] = {}
        for (scan, _), areas in zip(results, counts, strict=True):
            of_scan[scan] = of_scan.get(scan, 0) + torch.stack(areas)
        # Slices come in the order of the ranks, and a sum depends on its order.
        totals = [of_scan[scan] for scan in sorted(of_scan)]
        self._dice = np.stack([_dice(*total) for total in totals]) if totals else None
        return super().compute_metrics(counts)

    def total_area_to_metrics(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Scores of each class, nan for the background, which the mean then leaves out."""
        metrics = IoUMetric.total_area_to_metrics(*args, **kwargs)
        metrics['Dice'] = _mean_of_numbers(self._dice)
        if self.nan_to_num is not None:
            metrics['Dice'] = np.nan_to_num(metrics['Dice'], nan=self.nan_to_num)
        for values in metrics.values():
            if values.ndim:
                values[0] = np.nan
        return metrics


def _dice(intersect: torch.Tensor, union: torch.Tensor, predicted: torch.Tensor, label: torch.Tensor) -> np.ndarray:
    """Dice of each class from pixel counts, (C,); nan where a class is neither there nor predicted."""
    return (2 * intersect / (predicted + label)).numpy()


def _mean_of_numbers(scores: np.ndarray) -> np.ndarray:
    """Mean of each column over the rows that are numbers, nan where none is, (S, C) to (C,)."""
    known = ~np.isnan(scores)
    with np.errstate(invalid='ignore'):
        return np.where(known, scores, 0).sum(0) / known.sum(0)
