"""Dice of what is not background."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmseg.evaluation import IoUMetric

from mmsemi.registry import METRICS


@METRICS.register_module()
class ForegroundDice(IoUMetric):
    """``mDice``: mean Dice, in percent, over all classes but class 0, the background.

    Dice of a class is taken once, from its pixel counts summed over all images of the set: neither Dice of single
    slices nor Dice of scans is averaged, and a slice without the class does no harm. ``mAcc`` leaves the background out
    as well; its row in the table of classes is nan.

    Args:
        **kwargs: Those of mmseg's ``IoUMetric``, without ``iou_metrics``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(iou_metrics=['mDice'], **kwargs)

    @staticmethod
    def total_area_to_metrics(*args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Scores of each class, nan for the background, which the mean then leaves out."""
        metrics = IoUMetric.total_area_to_metrics(*args, **kwargs)
        for values in metrics.values():
            if values.ndim:
                values[0] = np.nan
        return metrics
