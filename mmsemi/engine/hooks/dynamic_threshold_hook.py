"""Thresholds of confidence move after the step that observed the predictions."""

from __future__ import annotations

from mmsemi.models.state import DynamicThreshold
from mmsemi.registry import HOOKS

from .commit_hook import CommitHook


@HOOKS.register_module()
class DynamicThresholdHook(CommitHook):
    """Commit what the forward pass observed: reduced over ranks, folded into every threshold of the model.

    Raises:
        ValueError: Before training, if the model keeps no such threshold.
    """

    kind = DynamicThreshold
    name = 'a dynamic threshold'
